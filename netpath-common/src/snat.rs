//! Making a flow: both entries, and a source port that nobody else has.

use crate::addr::{Addr, Mac};
use crate::checksum::{addr_diff, port_diff};
use crate::endpoint::{Endpoint, Veth};
use crate::env::{Env, InsertError, Repeat, Route, Table};
use crate::flow::{Direction, Flow, FlowKind, FlowState, Toward};
use crate::packet::Packet;
use crate::port::PortKey;
use crate::reason::DropReason;
use crate::tuple::{Proto, Tuple};

/// Tries for a free source port: with three quarters of the range taken, 32 random
/// tries fail once in ten thousand times; more would let one packet hold the CPU.
pub const TRIES: u32 = 32;

/// Where one direction of a connection goes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Device and next hop; of the way into a container, its host-side veth.
    pub route: Route,
    /// The endpoint without which this direction makes no sense.
    pub slot: u32,
    /// Destination MAC of the way into a container.
    pub dst_mac: Mac,
    /// Source MAC of the way into a container.
    pub src_mac: Mac,
    /// Which of the two it is.
    pub to: Toward,
}

impl Way {
    /// Into the container of an endpoint.
    #[inline(always)]
    pub fn into_container(&mut self, endpoint: &Endpoint) {
        self.to = Toward::Container;
        self.route.ifindex = endpoint.ifindex;
        self.route.next_hop = Addr::UNSPECIFIED;
        self.slot = endpoint.slot;
        self.dst_mac = endpoint.mac;
        self.src_mac = endpoint.gateway_mac;
    }

    /// Back to the container that sends by `veth`, whose ifindex is given.
    #[inline(always)]
    pub fn back_to(&mut self, veth: &Veth, ifindex: u32) {
        self.to = Toward::Container;
        self.route.ifindex = ifindex;
        self.route.next_hop = Addr::UNSPECIFIED;
        self.slot = veth.slot;
        self.dst_mac = veth.mac;
        self.src_mac = veth.gateway_mac;
    }

    /// Out of the host by the route that has been looked up into `route`, for a container.
    #[inline(always)]
    pub fn out(&mut self, slot: u32) {
        self.to = Toward::Uplink;
        self.slot = slot;
        self.dst_mac = Mac::ZERO;
        self.src_mac = Mac::ZERO;
    }

    /// To the host's stack by the gateway device, for a container.
    #[inline(always)]
    pub fn by_stack(&mut self, slot: u32, gateway_ifindex: u32) {
        self.out(slot);
        self.to = Toward::Stack;
        self.route.ifindex = gateway_ifindex;
        self.route.next_hop = Addr::UNSPECIFIED;
    }
}

/// A connection about to be made.
///
/// Filled field by field: a literal would be put together on the BPF stack first.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// Source address after the rewrite.
    pub src: Addr,
    /// Destination address after the rewrite.
    pub dst: Addr,
    /// Way of the first packet and all that follow it.
    pub forward: Way,
    /// Way of the answers.
    pub back: Way,
    /// Source port after the rewrite: a wish.
    pub src_port: u16,
    /// Destination port after the rewrite.
    pub dst_port: u16,
    /// Network id in the key of the answers.
    pub network: u16,
    /// First port to choose from.
    pub port_min: u16,
    /// Last port to choose from.
    pub port_max: u16,
    /// What made it.
    pub kind: FlowKind,
    /// The gateway device of the container's network.
    pub gateway_ifindex: u32,
}

/// Makes both entries of a connection. Its first packet then takes the same way as all
/// others, and is counted there.
///
/// Inserting the answer's entry is what reserves the source port: its key holds the
/// outside's view of the connection, and of two that want the same only one succeeds.
#[inline(always)]
pub fn open<E: Env>(
    env: &E,
    packet: &Packet,
    opening: &mut Opening,
    flow: &mut Flow,
) -> Result<(), DropReason> {
    // Whoever hears the answers pays: the container that began, or that was dialled from
    // outside.
    let payer = opening.back.slot;
    if !env.charge(payer) {
        return Err(DropReason::FlowBudget);
    }
    let made = make(env, packet, opening, flow);
    if made.is_err() {
        env.refund(payer);
    }
    made
}

#[inline(always)]
fn make<E: Env>(
    env: &E,
    packet: &Packet,
    opening: &mut Opening,
    flow: &mut Flow,
) -> Result<(), DropReason> {
    let key = &packet.tuple;
    describe_reply(env, packet, opening, flow);
    reserve(env, key, opening, flow)?;
    // From here on `flow` is turned into this packet's own direction.
    flow.new_src = opening.src;
    flow.new_dst = opening.dst;
    flow.new_src_port = opening.src_port;
    flow.new_dst_port = opening.dst_port;
    flow.addr_diff = addr_diff([&key.src, &key.dst], [&opening.src, &opening.dst]);
    flow.port_diff = port_diff(
        [key.src_port, key.dst_port],
        [opening.src_port, opening.dst_port],
    );
    flow.other_network = opening.network;
    flow.direction = Direction::Original;
    direct(env, flow, &opening.forward);
    if env.flows().replace(key, flow).is_err() {
        env.flows().remove(&reply_key(opening, key.proto));
        return Err(DropReason::FlowTableFull);
    }
    env.flow_begins(key, flow);
    Ok(())
}

/// The tuple of the answers, as they will appear at our hook.
#[inline(always)]
fn reply_key(opening: &Opening, proto: Proto) -> Tuple {
    Tuple {
        src: opening.dst,
        dst: opening.src,
        src_port: opening.dst_port,
        dst_port: opening.src_port,
        network: opening.network,
        proto,
        reserved: 0,
    }
}

/// Fills in the answers' entry, but for what depends on the port.
#[inline(always)]
fn describe_reply<E: Env>(env: &E, packet: &Packet, opening: &Opening, flow: &mut Flow) {
    let key = &packet.tuple;
    flow.new_src = key.dst;
    flow.new_dst = key.src;
    flow.packets = 0;
    flow.bytes = 0;
    flow.new_src_port = key.dst_port;
    flow.new_dst_port = key.src_port;
    flow.addr_diff = addr_diff([&opening.dst, &opening.src], [&key.dst, &key.src]);
    flow.gateway_ifindex = opening.gateway_ifindex;
    flow.last_seen = env.now();
    flow.other_network = key.network;
    flow.direction = Direction::Reply;
    flow.kind = opening.kind;
    flow.state = match key.proto {
        Proto::Tcp => FlowState::SynSent,
        Proto::Udp => FlowState::OneWay,
        Proto::Icmp | Proto::Icmpv6 => FlowState::Echo,
    };
    flow.tcp_flags = 0;
    flow.reserved = [0; 1];
    direct(env, flow, &opening.back);
}

/// Points an entry the way that its packets go.
#[inline(always)]
fn direct<E: Env>(env: &E, flow: &mut Flow, way: &Way) {
    flow.to = way.to;
    flow.ifindex = way.route.ifindex;
    flow.next_hop = way.route.next_hop;
    flow.dst_mac = way.dst_mac;
    flow.src_mac = way.src_mac;
    flow.slot = way.slot;
    flow.generation = env.generation(way.slot);
}

/// The search for a free source port.
struct Search<'a, E> {
    env: &'a E,
    key: &'a Tuple,
    opening: &'a mut Opening,
    flow: &'a mut Flow,
    /// Offset of the next candidate in the range.
    next: u32,
    /// Candidates in the range.
    span: u32,
    /// Whether the wished port is the first candidate.
    keep: bool,
    found: Found,
}

#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    Port,
    TableFull,
}

/// Finds a free source port by inserting the answer's entry under one key after the other.
#[inline(always)]
fn reserve<E: Env>(
    env: &E,
    key: &Tuple,
    opening: &mut Opening,
    flow: &mut Flow,
) -> Result<(), DropReason> {
    let (min, max, wish) = (opening.port_min, opening.port_max, opening.src_port);
    let span = u32::from(max - min) + 1;
    // A client from outside keeps its port even if we would not have given it.
    let keep = opening.kind == FlowKind::Published || (min <= wish && wish <= max);
    let next = ((u64::from(env.random()) * u64::from(span)) >> 32) as u32;
    let mut search = Search {
        env,
        key,
        opening,
        flow,
        next,
        span,
        keep,
        found: Found::Nothing,
    };
    // A range smaller than the number of tries is walked through once.
    env.repeat(TRIES.min(span + u32::from(keep)), &mut search);
    match search.found {
        Found::Port => Ok(()),
        Found::TableFull => Err(DropReason::FlowTableFull),
        Found::Nothing => Err(DropReason::SnatPortsExhausted),
    }
}

impl<E: Env> Repeat for Search<'_, E> {
    #[inline(always)]
    fn step(&mut self, attempt: u32) -> bool {
        let opening = &mut *self.opening;
        if attempt > 0 || !self.keep {
            opening.src_port = opening.port_min.wrapping_add(self.next as u16);
            self.next = if self.next + 1 >= self.span {
                0
            } else {
                self.next + 1
            };
        }
        let proto = self.key.proto;
        if opening.kind == FlowKind::Masquerade && is_published(self.env, opening, proto) {
            return true;
        }
        let reply_key = reply_key(opening, proto);
        self.flow.port_diff = port_diff(
            [reply_key.src_port, reply_key.dst_port],
            [self.key.dst_port, self.key.src_port],
        );
        let flows = self.env.flows();
        match flows.insert_new(&reply_key, self.flow) {
            Ok(()) => self.found = Found::Port,
            Err(InsertError::Full) => self.found = Found::TableFull,
            Err(InsertError::Exists) => {
                // An entry whose container is gone holds nothing.
                let mut gone = false;
                flows.with(&reply_key, |old| {
                    gone = self.env.generation(old.slot) != old.generation;
                });
                if gone && flows.replace(&reply_key, self.flow).is_ok() {
                    self.found = Found::Port;
                }
            }
        }
        self.found == Found::Nothing
    }
}

/// Whether the source of a masqueraded flow would look like a published port.
#[inline(always)]
fn is_published<E: Env>(env: &E, opening: &Opening, proto: Proto) -> bool {
    if proto != Proto::Tcp && proto != Proto::Udp {
        return false;
    }
    env.ports()
        .contains(&PortKey::new(proto, opening.src, opening.src_port))
        || env.ports().contains(&PortKey::new(
            proto,
            opening.src.wildcard(),
            opening.src_port,
        ))
}

/// The ports that a protocol's masqueraded flows may have. Echo identifiers are no
/// ports of sockets: all of them will do.
#[inline(always)]
pub fn ports<E: Env>(env: &E, proto: Proto) -> (u16, u16) {
    match proto {
        Proto::Tcp | Proto::Udp => (env.config().snat_port_min, env.config().snat_port_max),
        Proto::Icmp | Proto::Icmpv6 => (0, u16::MAX),
    }
}
