//! What the programs themselves cost: nanoseconds a packet, by running them on a frame over and
//! over (BPF_PROG_TEST_RUN), and instructions.
//!
//! The frame is always the same and everything is in the caches, so this is a lower bound, good
//! for comparing two versions of a program. A frame that a program rewrites is another frame
//! afterwards, so it is run once at a time, and what the clock itself takes is subtracted.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use aya::{TestRun as _, TestRunOptions};
use netpath_common::config::Timeouts;
use netpath_common::policy::Policy;
use netpath_common::tuple::Proto;
use nix::net::if_::if_nametoindex;
use serde::{Deserialize, Serialize};

use super::site::Site;
use super::statistics::median;
use crate::datapath::{Datapath, DatapathOptions, EndpointSpec, NetworkSpec, PortSpec};

/// What a program costs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProgramCost {
    /// Its name.
    pub program: String,
    /// Instructions after the verifier's rewriting.
    pub instructions: Option<u32>,
    /// Instructions that the verifier has looked at.
    pub verified: Option<u32>,
    /// Nanoseconds a packet, by kind of packet.
    pub packets: Vec<PacketCost>,
}

/// What a packet costs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PacketCost {
    /// Which packet.
    pub packet: String,
    /// Nanoseconds.
    pub ns: f64,
    /// Run one at a time, because the program changes the frame.
    pub single: bool,
}

const CONTAINER: &str = "np_container";
const UPLINK: &str = "np_uplink";
const GATEWAY: &str = "np_gateway";

/// TC_ACT_UNSPEC and TC_ACT_REDIRECT (include/uapi/linux/pkt_cls.h).
const PASS: u32 = u32::MAX;
const REDIRECT: u32 = 7;

const A: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const B: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 3);
const GATE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const MAC_A: [u8; 6] = [2, 0, 0, 0, 0, 2];
const MAC_B: [u8; 6] = [2, 0, 0, 0, 0, 3];
const MAC_GATE: [u8; 6] = [2, 0, 0, 0, 1, 1];
const MAC_FAR: [u8; 6] = [2, 0, 0, 0, 9, 9];
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const SYN_ACK: u8 = SYN | ACK;

/// Times that a frame is run, in one go and one at a time.
const REPEAT: u32 = 200_000;
const SINGLES: usize = 3_000;
const TRIALS: usize = 7;

const DEVICES: &str = "link add up0 type veth peer name up0-far
    link add gw1 address 02:00:00:00:01:01 type veth peer name gw1-far
    link add veth1 type veth peer name cont1
    link add veth2 type veth peer name cont2
    link set up0-far up
    link set gw1-far up
    link set cont1 up
    link set cont2 up
    link set up0 up
    link set gw1 up
    link set veth1 up
    link set veth2 up
    addr add 192.0.2.1/24 dev up0
    addr add 10.1.0.1/24 dev gw1
    route add default via 192.0.2.254";

/// Measures all programs on a host of their own.
///
/// # Errors
/// The kernel's, or a program did something else than it should.
pub fn measure(site: &Site) -> Result<Vec<ProgramCost>> {
    let namespace = site.namespace("cost")?;
    // Or else the kernel's own questions about IPv6 pass through the programs.
    namespace.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
    namespace.ip(DEVICES)?;
    namespace.sysctl("ipv4/conf/gw1/forwarding", "1")?;
    let pins = site.pins("cost");
    let costs = namespace.enter(|| {
        let mut host = Host::new(&pins)?;
        host.measure()
    });
    Datapath::purge(&pins)?;
    costs
}

struct Host {
    datapath: Datapath,
    uplink: u32,
    gateway: u32,
    veths: [u32; 2],
    /// What one run takes longer in itself than one of many, in ns.
    clock: f64,
}

impl Host {
    fn new(pins: &Path) -> Result<Self> {
        let index = |name: &str| if_nametoindex(name).with_context(|| format!("no device {name}"));
        let options = DatapathOptions {
            bpffs: pins.to_owned(),
            max_flows: 16_384,
            max_flows_per_endpoint: Some(u32::MAX),
            snat_ports: (16_384, 32_767),
            timeouts: Timeouts::DEFAULT,
            log: None,
        };
        let mut host = Self {
            datapath: Datapath::open(&options)?,
            uplink: index("up0")?,
            gateway: index("gw1")?,
            veths: [index("veth1")?, index("veth2")?],
            clock: 0.0,
        };
        host.fill()?;
        Ok(host)
    }

    fn fill(&mut self) -> Result<()> {
        let datapath = &mut self.datapath;
        datapath.attach_uplink(self.uplink)?;
        datapath.set_uplink_addrs(self.uplink, Some(OWN), None)?;
        datapath.set_host_addrs(&[(OWN.into(), self.uplink), (GATE.into(), self.gateway)])?;
        datapath.add_network(&NetworkSpec {
            id: 1,
            gateway_ifindex: self.gateway,
            gateway_mac: MAC_GATE,
            subnets: vec!["10.1.0.0/24".parse()?],
            policy: Policy::default(),
        })?;
        for (ifindex, mac, addr) in [(self.veths[0], MAC_A, A), (self.veths[1], MAC_B, B)] {
            datapath.add_endpoint(&EndpointSpec {
                network: 1,
                ifindex,
                mac,
                addr4: Some(addr),
                addr6: None,
                link_local: None,
                prefix4: 24,
                prefix6: 0,
                gateway4: Some(GATE),
                gateway6: None,
                gateway_ifindex: self.gateway,
                gateway_mac: MAC_GATE,
                flags: 0,
                netns: 0,
            })?;
        }
        datapath.publish(&[PortSpec {
            host_ip: Ipv4Addr::UNSPECIFIED.into(),
            proto: Proto::Tcp,
            host_port: 8080,
            endpoint_ifindex: self.veths[0],
            container_ip: A.into(),
            container_port: 80,
        }])
    }

    fn measure(&mut self) -> Result<Vec<ProgramCost>> {
        let neighbour = frame((MAC_A, A, 4000), (MAC_B, B, 80), ACK);
        let many = self.many(CONTAINER, &neighbour, REDIRECT)?;
        let one_by_one = self.singles(CONTAINER, &mut |_| neighbour.clone(), REDIRECT)?;
        self.clock = (one_by_one - many).max(0.0);
        let first = frame((MAC_A, A, 4001), (MAC_GATE, FAR, 443), SYN);
        self.run(CONTAINER, &first, 1, REDIRECT)?;
        let next = frame((MAC_A, A, 4001), (MAC_GATE, FAR, 443), ACK);
        let container = vec![
            cost("to a container of its network", many, false),
            self.single("to the outside, known flow", CONTAINER, &next)?,
            {
                let mut new = |i: usize| {
                    let port = 10_000 + i as u16;
                    frame((MAC_A, A, port), (MAC_GATE, FAR, 444), SYN)
                };
                let ns = self.singles(CONTAINER, &mut new, REDIRECT)? - self.clock;
                cost("to the outside, new flow", ns.max(0.0), true)
            },
        ];
        let outgoing = frame((MAC_A, A, 4002), (MAC_GATE, FAR, 443), SYN);
        let (_, sent) = self.run(CONTAINER, &outgoing, 1, REDIRECT)?;
        // The source port that it left with, behind 14 bytes of Ethernet and 20 of IPv4.
        let port = u16::from_be_bytes([sent[34], sent[35]]);
        let syn_ack = frame((MAC_FAR, FAR, 443), (MAC_GATE, OWN, port), SYN_ACK);
        self.run(UPLINK, &syn_ack, 1, REDIRECT)?;
        let answer = frame((MAC_FAR, FAR, 443), (MAC_GATE, OWN, port), ACK);
        let knock = frame((MAC_FAR, FAR, 5001), (MAC_GATE, OWN, 8080), SYN);
        self.run(UPLINK, &knock, 1, REDIRECT)?;
        let visit = frame((MAC_FAR, FAR, 5001), (MAC_GATE, OWN, 8080), ACK);
        let others = frame((MAC_FAR, FAR, 5002), (MAC_GATE, OWN, 22), ACK);
        let uplink = vec![
            self.single("answer to a container, known flow", UPLINK, &answer)?,
            self.single("to a published port, known flow", UPLINK, &visit)?,
            cost("the host's own", self.many(UPLINK, &others, PASS)?, false),
        ];
        let inward = frame((MAC_GATE, GATE, 5003), (MAC_A, A, 80), ACK);
        let gateway = vec![cost(
            "from the host to a container",
            self.many(GATEWAY, &inward, REDIRECT)?,
            false,
        )];
        [
            (CONTAINER, container),
            // What np_container goes on in; its time is in that of those packets.
            ("np_beyond", Vec::new()),
            (UPLINK, uplink),
            (GATEWAY, gateway),
            ("np_sweep", Vec::new()),
        ]
        .into_iter()
        .map(|(name, packets)| {
            let info = self.datapath.programs().classifier(name)?.info()?;
            Ok(ProgramCost {
                program: name.to_owned(),
                // An instruction has eight bytes.
                instructions: info.size_translated().map(|bytes| bytes / 8),
                verified: info.verified_instruction_count(),
                packets,
            })
        })
        .collect()
    }

    /// Median of the time that a program takes for a frame that it leaves as it is.
    fn many(&mut self, program: &str, frame: &[u8], action: u32) -> Result<f64> {
        let trials: Vec<f64> = (0..TRIALS)
            .map(|_| Ok(self.run(program, frame, REPEAT, action)?.0))
            .collect::<Result<_>>()?;
        median(&trials).context("no trials")
    }

    /// Median of the time that a program takes for one frame, the clock's own time included.
    fn singles(
        &mut self,
        program: &str,
        frame: &mut dyn FnMut(usize) -> Vec<u8>,
        action: u32,
    ) -> Result<f64> {
        let times: Vec<f64> = (0..SINGLES)
            .map(|i| Ok(self.run(program, &frame(i), 1, action)?.0))
            .collect::<Result<_>>()?;
        median(&times).context("no trials")
    }

    fn single(&mut self, packet: &str, program: &str, frame: &[u8]) -> Result<PacketCost> {
        let ns = self.singles(program, &mut |_| frame.to_vec(), REDIRECT)? - self.clock;
        Ok(cost(packet, ns.max(0.0), true))
    }

    /// Nanoseconds a run, and the frame that came out.
    fn run(
        &mut self,
        program: &str,
        frame: &[u8],
        repeat: u32,
        action: u32,
    ) -> Result<(f64, Vec<u8>)> {
        let device = match program {
            CONTAINER => self.veths[0],
            UPLINK => self.uplink,
            _ => self.gateway,
        };
        let ingress = if program == GATEWAY { 0 } else { device };
        let mut context = [0u8; 192];
        // `ingress_ifindex` and `ifindex` of struct __sk_buff (include/uapi/linux/bpf.h).
        context[36..40].copy_from_slice(&ingress.to_ne_bytes());
        context[40..44].copy_from_slice(&device.to_ne_bytes());
        let mut out = vec![0; frame.len() + 64];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            repeat,
            ..TestRunOptions::new()
        };
        let result = self
            .datapath
            .programs()
            .classifier(program)?
            .test_run(options)?;
        ensure!(
            result.return_value == action,
            "{program} returned {} for a frame that should give {}",
            result.return_value.cast_signed(),
            action.cast_signed()
        );
        out.truncate(result.data_size_out as usize);
        Ok((result.duration.as_nanos() as f64, out))
    }
}

fn cost(packet: &str, ns: f64, single: bool) -> PacketCost {
    PacketCost {
        packet: packet.to_owned(),
        ns,
        single,
    }
}

type End = ([u8; 6], Ipv4Addr, u16);

/// A TCP segment over IPv4 over Ethernet, with one byte of data unless it is a SYN.
fn frame(from: End, to: End, flags: u8) -> Vec<u8> {
    let payload = usize::from(flags & SYN == 0);
    let mut frame = Vec::with_capacity(64);
    frame.extend_from_slice(&to.0);
    frame.extend_from_slice(&from.0);
    frame.extend_from_slice(&[0x08, 0x00]);
    let length = (40 + payload) as u16;
    let mut ip = vec![0x45, 0];
    ip.extend_from_slice(&length.to_be_bytes());
    // No identification, may not be fragmented, TTL 64, TCP, checksum to come.
    ip.extend_from_slice(&[0, 0, 0x40, 0, 64, 6, 0, 0]);
    ip.extend_from_slice(&from.1.octets());
    ip.extend_from_slice(&to.1.octets());
    let sum = checksum(&ip, 0);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut tcp = Vec::new();
    tcp.extend_from_slice(&from.2.to_be_bytes());
    tcp.extend_from_slice(&to.2.to_be_bytes());
    tcp.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    tcp.resize(20 + payload, b'x');
    // The pseudo header (RFC 9293, section 3.1).
    let pseudo = from.1.octets().into_iter().chain(to.1.octets());
    let pseudo: Vec<u8> = pseudo.collect();
    let start = words(&pseudo) + 6 + 20 + payload as u32;
    let sum = checksum(&tcp, start);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    frame.extend(ip);
    frame.extend(tcp);
    frame
}

fn words(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum()
}

fn checksum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = words(bytes) + start;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
