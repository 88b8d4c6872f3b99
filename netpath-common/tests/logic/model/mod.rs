//! A host in memory: two networks, three containers, one uplink.

mod env;
mod map;
mod rewrite;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use netpath_common::addr::{Addr, Mac};
use netpath_common::config::Config;
use netpath_common::endpoint::{Endpoint, EndpointKey, Veth};
use netpath_common::env::{Scratch, Table as _, Verdict};
use netpath_common::flow::{Flow, Toward};
use netpath_common::fragment::{self, FragmentKey, FragmentPorts};
use netpath_common::link::NOBODY;
use netpath_common::network::{HostAddr, Uplink};
use netpath_common::packet::{Fragment, Packet};
use netpath_common::policy::{OpenPort, Policy, Trusted};
use netpath_common::port::{PortKey, PortTarget};
use netpath_common::reason::DropReason;
use netpath_common::search::Searches;
use netpath_common::tunnel::Tunnel;
use netpath_common::tuple::{OUTSIDE, Proto, Tuple};
use netpath_common::{container, gateway, uplink};

pub use self::map::{Bytes, Map};
use crate::packets::{Sample, ip};
use crate::verify;

/// A packet that a flow has sent on its way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sent {
    pub to: Toward,
    pub ifindex: u32,
    pub next_hop: Addr,
    pub dst_mac: Mac,
    pub frame: Vec<u8>,
}

impl Sent {
    /// What it says.
    pub fn sample(&self) -> Sample {
        Sample::read(&self.frame).expect("a frame that can be read")
    }
}

/// What became of a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    Delivered(u32),
    Host,
    Sent(Box<Sent>),
}

impl Outcome {
    pub fn sent(self) -> Sent {
        match self {
            Self::Sent(sent) => *sent,
            other => panic!("not sent by a flow: {other:?}"),
        }
    }
}

/// Parses a frame as the programs do.
pub fn parse(frame: &[u8], network: u16) -> Result<Packet, DropReason> {
    let mut packet = Packet::of_network(network);
    match frame.get(12..14) {
        Some([0x08, 0x00]) => packet.parse_v4(&Bytes(frame))?,
        Some([0x86, 0xdd]) => packet.parse_v6(&Bytes(frame))?,
        _ => return Err(DropReason::UnknownEtherType),
    }
    Ok(packet)
}

/// Ifindexes of the model's devices.
pub const UPLINK: u32 = 5;
pub const OTHER_DEVICE: u32 = 6;
pub const GATEWAY: u32 = 10;
pub const VETH_A: u32 = 100;
pub const VETH_B: u32 = 101;
pub const VETH_RED: u32 = 102;

/// Addresses of the model, by family.
pub struct Family {
    pub a: &'static str,
    pub b: &'static str,
    pub red: &'static str,
    pub gateway: &'static str,
    pub uplink: &'static str,
    pub next_hop: &'static str,
    pub remote: &'static str,
    pub nobody: &'static str,
    pub any: &'static str,
}

pub const V4: Family = Family {
    a: "10.1.0.2",
    b: "10.1.0.3",
    red: "10.2.0.2",
    gateway: "10.1.0.1",
    uplink: "192.0.2.1",
    next_hop: "192.0.2.254",
    remote: "203.0.113.9",
    nobody: "10.1.0.77",
    any: "0.0.0.0",
};

pub const V6: Family = Family {
    a: "fd01::2",
    b: "fd01::3",
    red: "fd02::2",
    gateway: "fd01::1",
    uplink: "2001:db8::1",
    next_hop: "fe80::fe",
    remote: "2001:db8:ffff::9",
    nobody: "fd01::77",
    any: "::",
};

pub const FAMILIES: [Family; 2] = [V4, V6];

/// What happens on another CPU.
type OtherCpu = Box<dyn FnOnce(&Model)>;

/// The host.
pub struct Model {
    pub flows: Map<Tuple, Flow>,
    pub endpoints: Map<EndpointKey, Endpoint>,
    pub ports: Map<PortKey, PortTarget>,
    pub policies: Map<u32, Policy>,
    pub open_ports: Map<OpenPort, u32>,
    pub trusted: Map<Trusted, u32>,
    pub kernel_flows: Map<Tuple, u32>,
    pub uplinks: Map<u32, Uplink>,
    pub host_addrs: Map<Addr, HostAddr>,
    pub fragments: Map<FragmentKey, FragmentPorts>,
    pub veths: HashMap<u32, Veth>,
    pub subnets: Vec<(Addr, u8, u16)>,
    /// By network and prefix.
    pub tunnels: Vec<(u16, Addr, u8, Tunnel)>,
    pub generations: RefCell<HashMap<u32, u32>>,
    /// Connections on the account of each slot.
    pub accounts: RefCell<HashMap<u32, u32>>,
    pub config: Config,
    pub now: Cell<u32>,
    pub seed: Cell<u64>,
    pub route: Cell<Result<(u32, Option<Addr>), DropReason>>,
    pub routes_asked: Cell<u32>,
    pub new_flows: Cell<u32>,
    pub ended_flows: Cell<u32>,
    /// Ports of the host's own sockets, whatever their address.
    pub host_sockets: RefCell<Vec<u16>>,
    scratch: RefCell<Box<Scratch>>,
    pub searches: RefCell<Searches>,
    /// What another CPU does before the n-th insertion of a flow from now on.
    other_cpu: RefCell<Option<(u32, OtherCpu)>>,
    frame: RefCell<Vec<u8>>,
    sent: RefCell<Option<Sent>>,
    /// ICMP errors that were sent: the quoted packet's key, and the flow they went by.
    pub errors: RefCell<Vec<(Tuple, Flow)>>,
}

/// Memory of a CPU that has not made any flow.
fn no_scratch() -> Box<Scratch> {
    // SAFETY: all bytes zero are a valid value, says its documentation.
    Box::new(unsafe { core::mem::zeroed() })
}

fn addr(text: &str) -> Addr {
    ip(text).into()
}

impl Model {
    pub fn new() -> Self {
        let mut model = Self {
            flows: Map::default(),
            endpoints: Map::default(),
            ports: Map::default(),
            policies: Map::default(),
            open_ports: Map::default(),
            trusted: Map::default(),
            kernel_flows: Map::default(),
            uplinks: Map::default(),
            host_addrs: Map::default(),
            fragments: Map::default(),
            veths: HashMap::new(),
            subnets: vec![
                (addr("10.1.0.0"), 120, 1),
                (addr("10.2.0.0"), 120, 2),
                (addr("fd01::"), 64, 1),
                (addr("fd02::"), 64, 2),
            ],
            tunnels: Vec::new(),
            generations: RefCell::default(),
            accounts: RefCell::default(),
            config: Config::default(),
            now: Cell::new(1000),
            seed: Cell::new(42),
            route: Cell::new(Ok((UPLINK, None))),
            routes_asked: Cell::new(0),
            new_flows: Cell::new(0),
            ended_flows: Cell::new(0),
            host_sockets: RefCell::default(),
            scratch: RefCell::new(no_scratch()),
            searches: RefCell::default(),
            other_cpu: RefCell::default(),
            frame: RefCell::default(),
            sent: RefCell::default(),
            errors: RefCell::default(),
        };
        model.uplinks.put(
            UPLINK,
            Uplink {
                addr4: addr(V4.uplink),
                addr6: addr(V6.uplink),
            },
        );
        for own in [
            V4.uplink, V6.uplink, V4.gateway, V6.gateway, "10.2.0.1", "fd02::1",
        ] {
            model
                .host_addrs
                .put(addr(own), HostAddr { ifindex: UPLINK });
        }
        model.add_container(VETH_A, 0, 1, [V4.a, V6.a, "fe80::2"]);
        model.add_container(VETH_B, 1, 1, [V4.b, V6.b, "fe80::3"]);
        model.add_container(VETH_RED, 2, 2, [V4.red, V6.red, "fe80::2"]);
        model
    }

    /// Adds a container with an IPv4, an IPv6 and a link-local address.
    pub fn add_container(&mut self, ifindex: u32, slot: u32, network: u16, addrs: [&str; 3]) {
        let [addr4, addr6, link_local] = addrs.map(addr);
        let mac = Mac::new([2, 0, 0, 0, 0, ifindex as u8]);
        let gateway_mac = Mac::new([2, 0, 0, 0, 1, network as u8]);
        let gateway_ifindex = GATEWAY + u32::from(network) - 1;
        let endpoint = Endpoint {
            ifindex,
            slot,
            gateway_ifindex,
            mac,
            gateway_mac,
        };
        for own in [addr4, addr6, link_local] {
            self.endpoints.put(EndpointKey::new(network, own), endpoint);
        }
        let veth = Veth {
            addr4,
            addr6,
            link_local,
            gateway4: addr(&format!("10.{network}.0.1")),
            gateway6: addr(&format!("fd0{network}::1")),
            slot,
            gateway_ifindex,
            network,
            prefix4: 120,
            prefix6: 64,
            mac,
            gateway_mac,
            flags: 0,
            reserved: [0; 3],
            // Each is one container's, unless a test says otherwise.
            netns: ifindex,
        };
        self.veths.insert(ifindex, veth);
    }

    /// As the agent does when a container goes: its slot may have a new owner from now on.
    pub fn end_container(&self, slot: u32) {
        *self.generations.borrow_mut().entry(slot).or_default() += 1;
        self.accounts.borrow_mut().insert(slot, 0);
    }

    /// Publishes a port of container A or B.
    pub fn publish(&self, proto: Proto, host: &str, port: u16, to: &str, to_port: u16) {
        let key = EndpointKey::new(1, addr(to));
        let slot = self.endpoints.get(&key).expect("a container").slot;
        let target = PortTarget {
            addr: addr(to),
            port: to_port,
            network: 1,
            slot,
        };
        self.ports
            .put(PortKey::new(proto, addr(host), port), target);
    }

    /// Sets the policy of a network.
    pub fn set_policy(&mut self, network: u16, policy: Policy) {
        self.policies.put(u32::from(network), policy);
        for veth in self.veths.values_mut().filter(|v| v.network == network) {
            veth.flags = policy.flags;
        }
    }

    /// Publishes a port of a container at its own address.
    pub fn open_port(&self, network: u16, proto: Proto, to: &str, port: u16) {
        let key = EndpointKey::new(network, addr(to));
        let slot = self.endpoints.get(&key).expect("a container").slot;
        self.open_ports
            .put(OpenPort::new(network, proto, addr(to), port), slot);
    }

    /// Has another CPU do something just before the n-th insertion (from 0) of a flow.
    pub fn before_insertion(&self, n: u32, f: impl FnOnce(&Self) + 'static) {
        *self.other_cpu.borrow_mut() = Some((n, Box::new(f)));
    }

    /// Another CPU's turn, if it has come. The packet at hand stays at hand.
    fn meanwhile(&self) {
        let due = match self.other_cpu.borrow_mut().as_mut() {
            Some((0, _)) => true,
            Some((left, _)) => {
                *left -= 1;
                false
            }
            None => false,
        };
        if !due {
            return;
        }
        let Some((_, f)) = self.other_cpu.borrow_mut().take() else {
            return;
        };
        let frame = self.frame.borrow().clone();
        let sent = self.sent.borrow_mut().take();
        f(self);
        *self.frame.borrow_mut() = frame;
        *self.sent.borrow_mut() = sent;
    }

    /// Limits the ports of masqueraded flows.
    pub fn snat_ports(&mut self, min: u16, max: u16) {
        (self.config.snat_port_min, self.config.snat_port_max) = (min, max);
    }

    pub fn pass_seconds(&self, seconds: u32) {
        self.now.set(self.now.get() + seconds);
    }

    /// A frame at the container hook, but for what needs the kernel (ARP and the like).
    pub fn container_sends(&self, veth: u32, frame: &[u8]) -> Result<Outcome, DropReason> {
        let mut sender = veth;
        let mut packet = parse(frame, self.veths[&veth].network)?;
        if !self.veths[&veth].owns(&packet.tuple.src) {
            let other = container::sibling(self, &self.veths[&veth], &packet.tuple.src);
            if other != NOBODY {
                sender = other;
                packet.tuple.network = self.veths[&other].network;
            }
        }
        let record = self.veths[&sender];
        self.run(frame, || {
            if let Some(verdict) = container::within_network(self, &packet, &record)? {
                return Ok(verdict);
            }
            packet.parse_transport(&Bytes(frame))?;
            self.borrow_ports(&mut packet);
            container::out_of_network(self, &packet, &record, sender)
        })
    }

    /// A frame at the uplink hook, where what cannot be parsed is the stack's business.
    pub fn outside_sends(&self, frame: &[u8]) -> Result<Outcome, DropReason> {
        let Ok(mut packet) = parse(frame, OUTSIDE) else {
            return Ok(Outcome::Host);
        };
        if packet.parse_transport(&Bytes(frame)).is_err() {
            return Ok(Outcome::Host);
        }
        self.borrow_ports(&mut packet);
        self.run(frame, || uplink::inward(self, &packet, UPLINK))
    }

    /// A frame at the egress of a network's gateway device, forwarded from `ingress`.
    pub fn forwards(
        &self,
        frame: &[u8],
        network: u16,
        ingress: u32,
    ) -> Result<Outcome, DropReason> {
        let mut packet = parse(frame, OUTSIDE)?;
        packet.parse_transport(&Bytes(frame))?;
        self.borrow_ports(&mut packet);
        self.run(frame, || gateway::forward(self, &packet, network, ingress))
    }

    fn borrow_ports(&self, packet: &mut Packet) {
        if packet.fragment != Fragment::Whole {
            fragment::resolve(self, packet);
        }
    }

    /// A packet of container A (network 1), which must be sent by a flow.
    pub fn out(&self, sample: &Sample) -> Sent {
        self.container_sends(VETH_A, &sample.bytes())
            .expect("not dropped")
            .sent()
    }

    /// A packet from outside, which must be sent by a flow.
    pub fn inward(&self, sample: &Sample) -> Sent {
        self.outside_sends(&sample.bytes())
            .expect("not dropped")
            .sent()
    }

    fn run(
        &self,
        frame: &[u8],
        stages: impl FnOnce() -> Result<Verdict, DropReason>,
    ) -> Result<Outcome, DropReason> {
        *self.frame.borrow_mut() = frame.to_vec();
        *self.sent.borrow_mut() = None;
        let verdict = stages();
        let sent = self.sent.borrow_mut().take();
        assert_eq!(
            sent.is_some(),
            verdict == Ok(Verdict::Sent),
            "{verdict:?} but {sent:?}"
        );
        Ok(match verdict? {
            Verdict::Deliver { ifindex } => Outcome::Delivered(ifindex),
            Verdict::Host => Outcome::Host,
            Verdict::Sent => {
                let sent = sent.expect("asserted above");
                verify::checksums(&sent.frame).unwrap();
                Outcome::Sent(Box::new(sent))
            }
        })
    }

    /// Both entries of every connection, by the tuple of its first packet; panics if an
    /// entry lacks its other half.
    pub fn connections(&self) -> Vec<(Tuple, Flow, Flow)> {
        use netpath_common::flow::Direction::Original;
        let all: HashMap<_, _> = self.flows.entries().into_iter().collect();
        for (key, flow) in &all {
            let other_key = flow.other_key(key);
            let other = all
                .get(&other_key)
                .unwrap_or_else(|| panic!("{key:?} has no other half"));
            assert_eq!(
                other.other_key(&other_key),
                *key,
                "the halves do not belong together"
            );
            assert_ne!(other.direction, flow.direction);
            assert_eq!(other.state, flow.state);
            // Between two containers each half depends on its own receiver.
            if key.network == OUTSIDE || other_key.network == OUTSIDE {
                assert_eq!((other.slot, other.generation), (flow.slot, flow.generation));
            }
        }
        let originals = all.iter().filter(|(_, flow)| flow.direction == Original);
        originals
            .map(|(key, flow)| (*key, *flow, all[&flow.other_key(key)]))
            .collect()
    }

    /// The only connection.
    pub fn connection(&self) -> (Tuple, Flow, Flow) {
        let all = self.connections();
        assert_eq!(all.len(), 1, "{all:?}");
        all[0]
    }
}
