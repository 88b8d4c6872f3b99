//! Programs run by hand (BPF_PROG_TEST_RUN): one frame in, an action and a frame out.
//!
//! Each test has a thread of its own in a network namespace of its own, and its maps under a
//! folder of its own on the bpffs. Redirects are not carried out: what is seen is the action
//! and the frame as the program left it.

mod addresses;
mod outcome;

use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use aya::maps::{HashMap as BpfHashMap, Map, MapData};
use aya::{TestRun as _, TestRunOptions};
use netpath::datapath::rows::FlowRow;
use netpath::datapath::{
    Datapath, DatapathOptions, EndpointSpec, NetworkSpec, OpenPortSpec, PortSpec, SweepReport,
};
use netpath_common::config::Timeouts;
use netpath_common::endpoint::Veth;
use netpath_common::policy::Policy;
use netpath_common::tuple::Proto;
use nix::sched::{CloneFlags, unshare};

use crate::packets::{Sample, ip};
use crate::verify;
pub use addresses::{
    FAMILIES, Family, MAC_A, MAC_B, MAC_GATEWAY, MAC_GATEWAY_RED, MAC_RED, V4, V6,
};
pub use outcome::{Action, At, Run};

/// Ports for masquerading.
pub const SNAT_PORTS: (u16, u16) = (30_000, 31_999);

/// How the test's host is to be.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Connections that the flow table can hold.
    pub max_flows: u32,
    /// Ports for masquerading.
    pub snat_ports: (u16, u16),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_flows: 1024,
            snat_ports: SNAT_PORTS,
        }
    }
}

/// A host with an uplink, two networks and three containers.
pub struct Host {
    /// The datapath.
    pub datapath: Datapath,
    /// Ifindex of the uplink.
    pub uplink: u32,
    /// Ifindexes of the gateway devices.
    pub gateways: [u32; 2],
    /// Ifindexes of the host-side veths.
    pub veths: [u32; 3],
    /// Number of the network namespace of each container.
    pub netns: [u32; 3],
    policies: [Policy; 2],
    folder: Folder,
    options: Options,
}

/// A folder on the bpffs that goes when the test ends, however it ends.
pub struct Folder(PathBuf);

/// A name for another folder; nothing is there yet.
pub fn spare_folder() -> Folder {
    Folder::new()
}

const BPFFS: &str = "/sys/fs/bpf";
const PREFIX: &str = "netpath-test-";

impl Folder {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        remove_leftovers();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self(Path::new(BPFFS).join(format!("{PREFIX}{}-{number}", std::process::id())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = Datapath::purge(&self.0) {
            eprintln!("cannot remove {}: {error:#}", self.0.display());
        }
    }
}

/// Removes what killed test runs have left.
fn remove_leftovers() {
    let Ok(entries) = fs::read_dir(BPFFS) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(PREFIX) else {
            continue;
        };
        let alive = rest
            .split('-')
            .next()
            .is_some_and(|pid| Path::new("/proc").join(pid).exists());
        if !alive {
            // Another test may be faster.
            let _ = Datapath::purge(&entry.path());
        }
    }
}

/// Runs a command, which must succeed.
pub fn sh(command: &str) -> String {
    let output = Command::new("sh")
        .args(["-ec", command])
        .output()
        .expect("sh runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// The number of a device.
pub fn ifindex(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Runs a test on a host of its own; see [`Host`].
pub fn on_host(test: impl FnOnce(&mut Host) + Send) {
    on_host_with(Options::default(), test);
}

/// As [`on_host`].
pub fn on_host_with(options: Options, test: impl FnOnce(&mut Host) + Send) {
    let result = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace, which needs root");
                test(&mut Host::new(options));
            })
            .join()
    });
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// Makes the devices. Without IPv6 on most of them, or else the kernel's own questions and
/// reports would be counted by the programs.
fn make_devices() {
    sh("echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6
        ip link set lo up
        ip link add up0 type veth peer name up0-far
        ip link add gw1 address 02:00:00:00:01:01 type veth peer name gw1-far
        ip link add gw2 address 02:00:00:00:01:02 type veth peer name gw2-far
        for i in 1 2 3; do ip link add veth$i type veth peer name cont$i; done
        for d in up0 gw1 gw2; do
            ip link set $d addrgenmode none
            echo 0 > /proc/sys/net/ipv6/conf/$d/disable_ipv6
        done
        for d in up0 gw1 gw2; do ip link set $d-far up; done
        for d in up0 gw1 gw2 veth1 veth2 veth3 cont1 cont2 cont3; do ip link set $d up; done
        for d in gw1 gw2; do
            echo 1 > /proc/sys/net/ipv4/conf/$d/forwarding
            echo 1 > /proc/sys/net/ipv6/conf/$d/forwarding
        done
        ip addr add 192.0.2.1/24 dev up0
        ip addr add 2001:db8::1/64 dev up0 nodad
        ip addr add 10.1.0.1/24 dev gw1
        ip addr add fd01::1/64 dev gw1 nodad
        ip addr add 10.2.0.1/24 dev gw2
        ip addr add fd02::1/64 dev gw2 nodad
        ip route add default via 192.0.2.254
        ip route add default via 2001:db8::fe
        ip route add unreachable 198.18.0.0/15
        ip route add unreachable 2001:db8:dead::/48");
}

impl Host {
    fn new(options: Options) -> Self {
        make_devices();
        let folder = Folder::new();
        let mut host = Self {
            datapath: open(&folder.0, options),
            uplink: ifindex("up0"),
            gateways: ["gw1", "gw2"].map(ifindex),
            veths: ["veth1", "veth2", "veth3"].map(ifindex),
            netns: [1, 2, 3],
            policies: [Policy::default(); 2],
            folder,
            options,
        };
        host.fill().expect("the maps are filled");
        host
    }

    fn fill(&mut self) -> anyhow::Result<()> {
        let v4 = |text: &str| text.parse().expect("an IPv4 address");
        let v6 = |text: &str| text.parse().expect("an IPv6 address");
        let uplink = self.uplink;
        self.datapath.attach_uplink(uplink)?;
        self.datapath
            .set_uplink_addrs(uplink, Some(v4(V4.uplink)), Some(v6(V6.uplink)))?;
        let own = [
            V4.uplink, V6.uplink, V4.gateway, V6.gateway, "10.2.0.1", "fd02::1",
        ];
        let own: Vec<(IpAddr, u32)> = own.iter().map(|text| (ip(text), uplink)).collect();
        self.datapath.set_host_addrs(&own)?;
        for network in self.networks() {
            self.datapath.add_network(&network)?;
        }
        for spec in self.endpoints() {
            self.datapath.add_endpoint(&spec)?;
        }
        Ok(())
    }

    /// The networks.
    pub fn networks(&self) -> [NetworkSpec; 2] {
        let net = |text: &str| text.parse().expect("a subnet");
        [(1, MAC_GATEWAY), (2, MAC_GATEWAY_RED)].map(|(id, gateway_mac)| NetworkSpec {
            id,
            gateway_ifindex: self.gateways[usize::from(id) - 1],
            gateway_mac,
            subnets: vec![
                net(&format!("10.{id}.0.0/24")),
                net(&format!("fd0{id}::/64")),
            ],
            policy: self.policies[usize::from(id) - 1],
        })
    }

    /// The containers.
    pub fn endpoints(&self) -> [EndpointSpec; 3] {
        let macs = [MAC_A, MAC_B, MAC_RED];
        let addrs = [(1, 2, 2), (1, 3, 3), (2, 2, 2)];
        [0, 1, 2].map(|i| {
            let (network, host, link_local) = addrs[i];
            let text = |text: String| text.parse().expect("an address");
            let text6 = |text: String| text.parse().expect("an address");
            EndpointSpec {
                network,
                ifindex: self.veths[i],
                mac: macs[i],
                addr4: Some(text(format!("10.{network}.0.{host}"))),
                addr6: Some(text6(format!("fd0{network}::{host}"))),
                link_local: Some(text6(format!("fe80::{link_local}"))),
                prefix4: 24,
                prefix6: 64,
                gateway4: Some(text(format!("10.{network}.0.1"))),
                gateway6: Some(text6(format!("fd0{network}::1"))),
                gateway_ifindex: self.gateways[usize::from(network) - 1],
                gateway_mac: if network == 1 {
                    MAC_GATEWAY
                } else {
                    MAC_GATEWAY_RED
                },
                flags: self.policies[usize::from(network) - 1].flags,
                netns: self.netns[i],
            }
        })
    }

    /// Has the first container's interface and the one in the second network be one container's.
    pub fn share_namespace(&mut self) {
        self.netns = [7, 2, 7];
        for spec in self.endpoints() {
            self.datapath.add_endpoint(&spec).expect("an endpoint");
        }
    }

    /// Empties the map `veths`, which the short way does without.
    pub fn forget_endpoints(&mut self) {
        let map = MapData::from_pin(self.folder().join("veths")).expect("the map");
        let mut veths: BpfHashMap<_, u32, Veth> = Map::HashMap(map).try_into().expect("a hash map");
        for ifindex in self.veths {
            veths.remove(&ifindex).expect("an endpoint");
        }
    }

    /// Gives the first (0) or second (1) network another policy.
    pub fn set_policy(&mut self, network: usize, policy: Policy) {
        self.policies[network] = policy;
        for network in self.networks() {
            self.datapath.add_network(&network).expect("a network");
        }
        for spec in self.endpoints() {
            self.datapath.add_endpoint(&spec).expect("an endpoint");
        }
    }

    /// Publishes a port of a container (0 is A, 1 is B, 2 is the other network's) at its own
    /// address.
    pub fn open_port(&mut self, proto: Proto, container: usize, addr: &str, port: u16) {
        let spec = OpenPortSpec {
            endpoint_ifindex: self.veths[container],
            network: if container < 2 { 1 } else { 2 },
            addr: ip(addr),
            proto,
            port,
        };
        self.datapath.open_port(&spec).expect("opened");
    }

    /// The folder of the pins.
    pub fn folder(&self) -> &Path {
        &self.folder.0
    }

    /// The agent starts again: the datapath is opened anew on the same folder.
    pub fn reopen(&mut self) {
        self.datapath = open(&self.folder.0, self.options);
    }

    /// Publishes a port of container A (0) or B (1).
    pub fn publish(&mut self, proto: Proto, host: &str, port: u16, container: usize, to: u16) {
        let host_ip = ip(host);
        let family = if host_ip.is_ipv4() { V4 } else { V6 };
        let spec = PortSpec {
            host_ip,
            proto,
            host_port: port,
            endpoint_ifindex: self.veths[container],
            container_ip: ip([family.a, family.b][container]),
            container_port: to,
        };
        self.datapath.publish(&[spec]).expect("published");
    }

    /// Runs a hook's program on a frame. If the frame's checksums were right, they are right
    /// in the outcome, whatever it is.
    pub fn run(&mut self, at: At, frame: &[u8]) -> Run {
        let (hook, _) = at.names();
        let before = self.drops(hook);
        let (action, out) = self.run_raw(at, frame);
        let after = self.drops(hook);
        let mut counted: Vec<_> = after
            .into_iter()
            .filter(|(reason, count)| before.get(reason) != Some(count))
            .collect();
        if hook == "gateway" && counted.len() > usize::from(action == Action::Drop) {
            // The kernel's own multicast listener reports (RFC 3810) pass there, too.
            counted.retain(|(reason, _)| reason != "multicast");
        }
        assert_eq!(
            counted.len(),
            usize::from(action == Action::Drop),
            "{action:?} {counted:?}"
        );
        let reason = counted.into_iter().next().map(|(reason, _)| reason);
        if action != Action::Drop && verify::checksums(frame).is_ok() {
            verify::checksums(&out).unwrap_or_else(|e| panic!("{e}\nfrom {frame:02x?}"));
        }
        if matches!(action, Action::Pass | Action::Accept) {
            assert_eq!(out, frame, "changed, but left to the stack");
        }
        Run {
            action,
            reason,
            frame: out,
        }
    }

    /// Runs a hook's program on a frame and checks nothing.
    pub fn run_raw(&mut self, at: At, frame: &[u8]) -> (Action, Vec<u8>) {
        self.run_aggregate(at, frame, 0)
    }

    /// As [`Self::run_raw`], of a frame that is to be cut into segments with that many bytes each
    /// if it is not 0.
    pub fn run_aggregate(&mut self, at: At, frame: &[u8], segment: u32) -> (Action, Vec<u8>) {
        let (ifindex, ingress) = match at {
            At::Xdp => return self.run_xdp(frame),
            At::Container(i) | At::Beyond(i) => (self.veths[i], self.veths[i]),
            At::Uplink => (self.uplink, self.uplink),
            At::Gateway(true) => (self.gateways[0], self.uplink),
            At::Gateway(false) => (self.gateways[0], 0),
            At::Wire(true) => (self.uplink, self.uplink),
            At::Wire(false) => (self.uplink, 0),
            At::Card(ifindex) => (ifindex, ifindex),
            At::Guard(ifindex) => (ifindex, 0),
        };
        let mut context = [0u8; 192];
        // `ingress_ifindex`, `ifindex` and `gso_size` of struct __sk_buff
        // (include/uapi/linux/bpf.h).
        context[36..40].copy_from_slice(&ingress.to_ne_bytes());
        context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
        context[176..180].copy_from_slice(&segment.to_ne_bytes());
        let mut out = vec![0; frame.len() + 64];
        let program = self
            .datapath
            .programs()
            .classifier(at.names().1)
            .expect("the program");
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::new()
        };
        let result = program.test_run(options).expect("the program runs");
        out.truncate(result.data_size_out as usize);
        (Action::of(result.return_value), out)
    }

    /// As [`Self::run_raw`], for a program that takes another context. Ours needs nothing of it.
    fn run_xdp(&mut self, frame: &[u8]) -> (Action, Vec<u8>) {
        let mut out = vec![0; frame.len() + 64];
        let program = self.datapath.programs().xdp().expect("the program");
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        };
        let result = program.test_run(options).expect("the program runs");
        out.truncate(result.data_size_out as usize);
        // XDP_DROP and XDP_PASS.
        let action = match result.return_value {
            1 => Action::Drop,
            2 => Action::Pass,
            other => panic!("the program returned {other}"),
        };
        (action, out)
    }

    /// Drops at a hook so far, by reason.
    pub fn drops(&self, hook: &str) -> HashMap<String, u64> {
        let rows = self.datapath.drops(false).expect("the drops");
        let rows = rows.into_iter().filter(|row| row.hook == hook);
        rows.map(|row| (row.reason, row.packets)).collect()
    }

    /// A counter of a hook.
    pub fn counter(&self, hook: &str, counter: &str) -> u64 {
        let rows = self.datapath.counters().expect("the counters");
        let row = rows
            .into_iter()
            .find(|row| row.hook == hook && row.counter == counter);
        row.unwrap_or_else(|| panic!("no counter {counter} of {hook}"))
            .packets
    }

    /// The MAC address of a device of the test's host.
    pub fn mac(&self, device: &str) -> [u8; 6] {
        // Sysfs shows the devices of the namespace it was mounted in, not ours.
        let text = sh(&format!("ip -o link show {device}"));
        let (_, rest) = text.split_once("link/ether ").expect("an Ethernet device");
        let octets = rest[..17]
            .split(':')
            .map(|hex| u8::from_str_radix(hex, 16).expect("hex"));
        octets.collect::<Vec<_>>().try_into().expect("six octets")
    }

    /// Runs the container program on a packet of container A, which must be redirected.
    pub fn out(&mut self, sample: &Sample) -> Sample {
        self.run(At::Container(0), &from_a(sample).bytes()).sent()
    }

    /// Runs the uplink program on a packet, which must be redirected.
    pub fn inward(&mut self, sample: &Sample) -> Sample {
        self.run(At::Uplink, &sample.bytes()).sent()
    }

    /// The connections in the flow table.
    pub fn flows(&self) -> Vec<FlowRow> {
        self.datapath.flows().expect("the flows")
    }

    /// Removes idle flows.
    pub fn sweep(&mut self) -> SweepReport {
        self.datapath.sweep().expect("swept")
    }
}

fn open(folder: &Path, options: Options) -> Datapath {
    let Options {
        max_flows,
        snat_ports,
    } = options;
    let options = DatapathOptions {
        bpffs: folder.to_path_buf(),
        max_flows,
        max_flows_per_endpoint: Some(u32::MAX),
        timeouts: Timeouts::DEFAULT,
        snat_ports,
        log: None,
    };
    Datapath::open(&options).expect("the datapath opens, which needs root")
}

/// The same packet with container A's MAC address, to its gateway.
pub fn from_a(sample: &Sample) -> Sample {
    sample.clone().macs(MAC_A, MAC_GATEWAY)
}
