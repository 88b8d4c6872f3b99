//! A host in memory: two networks, three containers, one uplink.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::Hash;

use netpath_common::addr::{Addr, Mac};
use netpath_common::checksum::{TTL_DIFF, apply, fold};
use netpath_common::config::Config;
use netpath_common::endpoint::{Endpoint, EndpointKey, Veth};
use netpath_common::env::{Env, InsertError, Repeat, Route, Scratch, Table, Verdict};
use netpath_common::flow::{Direction, Flow, Toward};
use netpath_common::fragment::{self, FragmentKey, FragmentPorts};
use netpath_common::icmp::{self, Quoted};
use netpath_common::link::Receiver;
use netpath_common::network::{HostAddr, Uplink};
use netpath_common::packet::{Fragment, Frame, L3, Packet, Wire};
use netpath_common::policy::{OpenPort, Policy, Trusted};
use netpath_common::port::{PortKey, PortTarget};
use netpath_common::reason::DropReason;
use netpath_common::tuple::{OUTSIDE, Proto, Tuple};
use netpath_common::{container, gateway, uplink};

use crate::packets::{Sample, ip};
use crate::verify;

/// A hash map with a limit. Calling into the same map from within `with` panics.
pub struct Map<K, V> {
    entries: RefCell<HashMap<K, V>>,
    limit: Cell<usize>,
}

impl<K, V> Default for Map<K, V> {
    fn default() -> Self {
        Self {
            entries: RefCell::default(),
            limit: Cell::new(usize::MAX),
        }
    }
}

impl<K: Eq + Hash + Copy, V: Copy> Map<K, V> {
    /// Lets it hold no more than `limit` entries.
    pub fn limit(&self, limit: usize) {
        self.limit.set(limit);
    }

    pub fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    pub fn entries(&self) -> Vec<(K, V)> {
        self.entries
            .borrow()
            .iter()
            .map(|(k, v)| (*k, *v))
            .collect()
    }

    pub fn put(&self, key: K, value: V) {
        self.entries.borrow_mut().insert(key, value);
    }
}

impl<K: Eq + Hash + Copy, V: Copy> Table<K, V> for Map<K, V> {
    fn with<R>(&self, key: &K, f: impl FnOnce(&mut V) -> R) -> Option<R> {
        self.entries.borrow_mut().get_mut(key).map(f)
    }

    fn insert_new(&self, key: &K, value: &V) -> Result<(), InsertError> {
        if self.contains(key) {
            Err(InsertError::Exists)
        } else {
            self.replace(key, value)
        }
    }

    fn replace(&self, key: &K, value: &V) -> Result<(), InsertError> {
        if !self.contains(key) && self.len() >= self.limit.get() {
            return Err(InsertError::Full);
        }
        self.put(*key, *value);
        Ok(())
    }

    fn remove(&self, key: &K) {
        self.entries.borrow_mut().remove(key);
    }
}

/// A frame's bytes.
pub struct Bytes<'a>(pub &'a [u8]);

impl Frame for Bytes<'_> {
    fn load<T: Wire>(&self, offset: usize) -> Result<T, DropReason> {
        let bytes = self
            .0
            .get(offset..offset + size_of::<T>())
            .ok_or(DropReason::Malformed)?;
        // SAFETY: as many bytes as `T` has, and any bytes are a valid `T`.
        Ok(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }

    fn len(&self) -> u32 {
        self.0.len() as u32
    }
}

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

/// The host.
pub struct Model {
    pub flows: Map<Tuple, Flow>,
    pub endpoints: Map<EndpointKey, Endpoint>,
    pub ports: Map<PortKey, PortTarget>,
    pub policies: Map<u32, Policy>,
    pub open_ports: Map<OpenPort, u32>,
    pub trusted: Map<Trusted, u32>,
    pub uplinks: Map<u32, Uplink>,
    pub host_addrs: Map<Addr, HostAddr>,
    pub fragments: Map<FragmentKey, FragmentPorts>,
    pub veths: HashMap<u32, Veth>,
    pub subnets: Vec<(Addr, u8, u16)>,
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
    scratch: RefCell<Scratch>,
    frame: RefCell<Vec<u8>>,
    sent: RefCell<Option<Sent>>,
    /// ICMP errors that were sent: the quoted packet's key, and the flow they went by.
    pub errors: RefCell<Vec<(Tuple, Flow)>>,
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
            generations: RefCell::default(),
            accounts: RefCell::default(),
            config: Config::default(),
            now: Cell::new(1000),
            seed: Cell::new(42),
            route: Cell::new(Ok((UPLINK, None))),
            routes_asked: Cell::new(0),
            new_flows: Cell::new(0),
            ended_flows: Cell::new(0),
            // SAFETY: all bytes zero are a valid value, says its documentation.
            scratch: RefCell::new(unsafe { core::mem::zeroed() }),
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
            reserved: [0; 7],
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

    /// Limits the ports of masqueraded flows.
    pub fn snat_ports(&mut self, min: u16, max: u16) {
        (self.config.snat_port_min, self.config.snat_port_max) = (min, max);
    }

    pub fn pass_seconds(&self, seconds: u32) {
        self.now.set(self.now.get() + seconds);
    }

    /// A frame at the container hook, but for what needs the kernel (ARP and the like).
    pub fn container_sends(&self, veth: u32, frame: &[u8]) -> Result<Outcome, DropReason> {
        let record = self.veths[&veth];
        let mut packet = parse(frame, record.network)?;
        self.run(frame, || {
            if let Some(verdict) = container::within_network(self, &packet, &record)? {
                return Ok(verdict);
            }
            packet.parse_transport(&Bytes(frame))?;
            self.borrow_ports(&mut packet);
            container::out_of_network(self, &packet, &record, veth)
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
            assert_eq!((other.slot, other.generation), (flow.slot, flow.generation));
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

impl Env for Model {
    fn flows(&self) -> impl Table<Tuple, Flow> {
        &self.flows
    }

    fn endpoints(&self) -> impl Table<EndpointKey, Endpoint> {
        &self.endpoints
    }

    fn ports(&self) -> impl Table<PortKey, PortTarget> {
        &self.ports
    }

    fn uplinks(&self) -> impl Table<u32, Uplink> {
        &self.uplinks
    }

    fn host_addrs(&self) -> impl Table<Addr, HostAddr> {
        &self.host_addrs
    }

    fn policies(&self) -> impl Table<u32, Policy> {
        &self.policies
    }

    fn open_ports(&self) -> impl Table<OpenPort, u32> {
        &self.open_ports
    }

    fn trusted(&self) -> impl Table<Trusted, u32> {
        &self.trusted
    }

    fn fragments(&self) -> impl Table<FragmentKey, FragmentPorts> {
        &self.fragments
    }

    fn network_of(&self, addr: &Addr) -> Option<u16> {
        let found = self
            .subnets
            .iter()
            .find(|(net, bits, _)| net.same_prefix(addr, *bits));
        found.map(|(_, _, network)| *network)
    }

    fn charge(&self, slot: u32) -> bool {
        let mut accounts = self.accounts.borrow_mut();
        let account = accounts.entry(slot).or_default();
        let free = *account < self.config.max_flows_per_endpoint;
        *account += u32::from(free);
        free
    }

    fn refund(&self, slot: u32) {
        let mut accounts = self.accounts.borrow_mut();
        *accounts.get_mut(&slot).expect("an account") -= 1;
    }

    fn generation(&self, slot: u32) -> u32 {
        self.generations.borrow().get(&slot).copied().unwrap_or(0)
    }

    // The short way is tested in the kernel, beside the long one.
    fn receiver(&self, _place: u32) -> Option<&Receiver> {
        None
    }

    fn config(&self) -> &Config {
        &self.config
    }

    fn now(&self) -> u32 {
        self.now.get()
    }

    fn random(&self) -> u32 {
        // SplitMix64.
        self.seed
            .set(self.seed.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mut z = self.seed.get();
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 32) as u32
    }

    fn route(
        &self,
        _gateway_ifindex: u32,
        _src: &Addr,
        dst: &Addr,
        route: &mut Route,
    ) -> Result<(), DropReason> {
        self.routes_asked.set(self.routes_asked.get() + 1);
        let (ifindex, next_hop) = self.route.get()?;
        let usual = if dst.is_v4() {
            addr(V4.next_hop)
        } else {
            addr(V6.next_hop)
        };
        *route = Route {
            ifindex,
            next_hop: next_hop.unwrap_or(usual),
        };
        Ok(())
    }

    fn send(&self, packet: &Packet, flow: &Flow) -> Result<(), DropReason> {
        let mut frame = self.frame.borrow().clone();
        if !flow.to.is_by_stack() {
            if packet.ttl <= 1 {
                return Err(DropReason::TtlExpired);
            }
            rewrite(&mut frame, packet, flow);
        }
        let Flow {
            to,
            ifindex,
            next_hop,
            dst_mac,
            ..
        } = *flow;
        let before = self.sent.replace(Some(Sent {
            to,
            ifindex,
            next_hop,
            dst_mac,
            frame,
        }));
        assert_eq!(before, None, "sent twice");
        Ok(())
    }

    /// Notes what is sent where; how bytes change is for the tests of the programs.
    fn send_error(&self, packet: &Packet, quoted: &Quoted, flow: &Flow) -> Result<(), DropReason> {
        if packet.ttl <= 1 {
            return Err(DropReason::TtlExpired);
        }
        self.errors.borrow_mut().push((quoted.key, *flow));
        self.sent.replace(Some(Sent {
            to: flow.to,
            ifindex: flow.ifindex,
            next_hop: flow.next_hop,
            dst_mac: flow.dst_mac,
            frame: self.frame.borrow().clone(),
        }));
        Ok(())
    }

    fn quoted<R>(&self, packet: &Packet, f: impl FnOnce(&Quoted) -> R) -> Result<R, DropReason> {
        let mut quoted = Quoted {
            key: packet.tuple,
            l3: 0,
            l4: 0,
            room: 0,
            reserved: 0,
        };
        icmp::read(packet, &Bytes(&self.frame.borrow()), &mut quoted)?;
        Ok(f(&quoted))
    }

    fn flow_begins(&self, _key: &Tuple, flow: &Flow) {
        assert_eq!(flow.direction, Direction::Original);
        self.new_flows.set(self.new_flows.get() + 1);
    }

    fn flow_ends(&self, _key: &Tuple, _flow: &Flow) {
        self.ended_flows.set(self.ended_flows.get() + 1);
    }

    fn repeat<R: Repeat>(&self, times: u32, body: &mut R) {
        for round in 0..times {
            if !body.step(round) {
                break;
            }
        }
    }

    fn with_scratch<R>(&self, f: impl FnOnce(&mut Scratch) -> R) -> Option<R> {
        Some(f(&mut self.scratch.borrow_mut()))
    }
}

/// Rewrites a frame as the programs do: checksums by the flow's differences.
fn rewrite(frame: &mut [u8], packet: &Packet, flow: &Flow) {
    let l4 = packet.transport_offset();
    let header = packet.fragment != Fragment::Later;
    let mut patch = |offset: usize, diff: u16| {
        let field = u16::from_ne_bytes([frame[offset], frame[offset + 1]]);
        if packet.tuple.proto == Proto::Udp && offset > l4 && field == 0 {
            return;
        }
        let mut sum = apply(field, diff);
        if packet.tuple.proto == Proto::Udp && offset > l4 && sum == 0 {
            sum = 0xffff;
        }
        frame[offset..offset + 2].copy_from_slice(&sum.to_ne_bytes());
    };
    let pseudo = flow.addr_diff;
    let (checksum, addrs) = match packet.tuple.proto {
        Proto::Tcp => (16, pseudo),
        Proto::Udp => (6, pseudo),
        Proto::Icmpv6 => (2, pseudo),
        Proto::Icmp => (2, 0),
    };
    if header {
        patch(
            l4 + checksum,
            fold(u64::from(addrs) + u64::from(flow.port_diff)),
        );
    }
    let [src, dst] = [flow.new_src, flow.new_dst];
    if packet.tuple.dst.is_v4() {
        patch(
            L3 + 10,
            fold(u64::from(flow.addr_diff) + u64::from(TTL_DIFF)),
        );
        frame[L3 + 8] -= 1;
        frame[L3 + 12..L3 + 16].copy_from_slice(&src.v4_octets());
        frame[L3 + 16..L3 + 20].copy_from_slice(&dst.v4_octets());
    } else {
        frame[L3 + 7] -= 1;
        frame[L3 + 8..L3 + 24].copy_from_slice(&src.octets);
        frame[L3 + 24..L3 + 40].copy_from_slice(&dst.octets);
    }
    let ports = [
        flow.new_src_port.to_be_bytes(),
        flow.new_dst_port.to_be_bytes(),
    ]
    .concat();
    match packet.tuple.proto {
        _ if !header => {}
        Proto::Tcp | Proto::Udp => frame[l4..l4 + 4].copy_from_slice(&ports),
        Proto::Icmp | Proto::Icmpv6 => {
            let id = flow.new_src_port | flow.new_dst_port;
            frame[l4 + 4..l4 + 6].copy_from_slice(&id.to_be_bytes());
        }
    }
}
