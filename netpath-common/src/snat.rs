//! Making a flow: both entries, and a source port that nobody else has.

use crate::addr::{Addr, Mac};
use crate::checksum::{addr_diff, port_diff};
use crate::endpoint::{Endpoint, Veth};
use crate::env::{Env, InsertError, Repeat, Route, Scratch, Table};
use crate::flow::{Direction, Flow, FlowKind, FlowState, Toward};
use crate::packet::Packet;
use crate::port::PortKey;
use crate::reason::DropReason;
use crate::restore;
use crate::search::{EXHAUSTED, bucket, share, siphash};
use crate::tuple::{Proto, Tuple};

/// Tries for a free source port: with nine tenths of the range taken, 128 tries fail once in
/// a million times; more would let one packet hold the CPU.
pub const TRIES: u32 = 128;

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
    /// Where in the range the search for a port begins; see [`aim`].
    pub start: u32,
    /// How far apart the ports are that it tries.
    pub stride: u32,
    /// The number, from 0, of its last try.
    pub tries: u32,
    /// What it found.
    pub found: Found,
    /// Whether an entry may be made; else only one's own is looked for.
    pub opens: bool,
}

/// Begins a connection: reserves its source port by inserting the answers' entry, whose key
/// holds the outside's view of the connection; of two that want the same only one succeeds.
/// [`complete`] does the rest.
///
/// A packet that does not open a connection makes nothing; but if the answers' entry of its own
/// connection is there, that is found.
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
    opening.opens = packet.may_open().is_ok();
    if opening.opens && !env.charge(payer) {
        return Err(DropReason::FlowBudget);
    }
    describe_reply(env, packet, opening, flow);
    let reserved = reserve(env, &packet.tuple, opening, flow);
    if opening.opens && reserved.is_err() {
        env.refund(payer);
    }
    reserved
}

/// Makes a begun connection whole, in the memory where it was begun: inserts the entry of its
/// first packet's direction. That packet then takes the same way as all others, and is counted
/// there.
///
/// Called apart from [`open`], for what both keep on the stack.
///
/// # Errors
/// [`DropReason::FlowTableFull`].
#[inline(never)]
pub fn complete<E: Env>(env: &E, key: &Tuple) -> Result<(), DropReason> {
    env.with_scratch(|Scratch { opening, flow }| {
        let payer = opening.back.slot;
        let made = match opening.found {
            // Half of it was lost; or another CPU is about to insert that half, and will find it.
            Found::Own => restore::other_half(env, &reply_key(opening, key.proto), opening, flow)
                .then_some(Made::Joined),
            _ => insert_original(env, key, opening, flow),
        };
        if opening.opens && made != Some(Made::New) {
            env.refund(payer);
        }
        made.map(|_| ()).ok_or(DropReason::FlowTableFull)
    })
    .unwrap_or(Err(DropReason::RewriteFailed))
}

/// Whose connection it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Made {
    /// It has just begun.
    New,
    /// It was there already, or another CPU has begun it meanwhile.
    Joined,
}

/// Inserts the entry of the first packet's direction. `None`: the table is full.
#[inline(always)]
fn insert_original<E: Env>(
    env: &E,
    key: &Tuple,
    opening: &Opening,
    flow: &mut Flow,
) -> Option<Made> {
    let flows = env.flows();
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
    match flows.insert_new(key, flow) {
        Ok(()) => {}
        Err(InsertError::Full) => {
            flows.remove(&reply_key(opening, key.proto));
            return None;
        }
        // Two CPUs had a first packet of the same connection in hand at once.
        Err(InsertError::Exists) => {
            let (src, port) = (opening.src, opening.src_port);
            let ours = flows.with(key, |other| {
                other.new_src == src && other.new_src_port == port
            });
            if ours != Some(true) {
                // The other one has another port: ours is given back.
                flows.remove(&reply_key(opening, key.proto));
                return Some(Made::Joined);
            }
        }
    }
    env.flow_begins(key, flow);
    Some(Made::New)
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
        Proto::Tcp | Proto::Sctp => FlowState::SynSent,
        Proto::Udp => FlowState::OneWay,
        Proto::Icmp | Proto::Icmpv6 => FlowState::Echo,
    };
    flow.tcp_flags = 0;
    flow.reserved = [0; 1];
    direct(env, flow, &opening.back);
}

/// Points an entry the way that its packets go.
#[inline(always)]
pub(crate) fn direct<E: Env>(env: &E, flow: &mut Flow, way: &Way) {
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
}

/// What a search for a source port found.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// Nothing.
    Nothing = 0,
    /// A free port.
    Port = 1,
    /// The answers' entry of the very connection that is looked for.
    Own = 2,
    /// No room in the flow table.
    TableFull = 3,
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
    aim(env, key, opening, span);
    let mut search = Search {
        env,
        key,
        next: opening.start,
        opening,
        flow,
        span,
        keep,
    };
    // A range smaller than the number of tries is walked through once.
    env.repeat(TRIES.min(span + u32::from(keep)), &mut search);
    let found = opening.found;
    let masquerade = opening.kind == FlowKind::Masquerade;
    match found {
        Found::Nothing if !opening.opens => Err(DropReason::NoFlow),
        // There was but one candidate.
        Found::Nothing if key.proto == Proto::Sctp => Err(DropReason::PortFixed),
        Found::Nothing => {
            if masquerade {
                env.count_search(EXHAUSTED);
            }
            Err(DropReason::SnatPortsExhausted)
        }
        Found::TableFull => Err(DropReason::FlowTableFull),
        Found::Port | Found::Own => {
            if masquerade && found == Found::Port {
                env.count_search(bucket(opening.tries));
            }
            Ok(())
        }
    }
}

/// Decides where the search for a port begins and how it goes on.
///
/// Both come from the connection's tuple and the agent's secret (RFC 6056, 3.3.3): outsiders
/// cannot foretell a port, and we find the port of a connection again whose entry was lost.
/// A stride of its own for each connection keeps searches from queueing up behind each other.
#[inline(never)]
fn aim<E: Env>(env: &E, key: &Tuple, opening: &mut Opening, span: u32) -> bool {
    let [s0, s1, s2, s3] = key.src.quads();
    let [d0, d1, d2, d3] = key.dst.quads();
    let pair = |a: u32, b: u32| (u64::from(a) << 32) | u64::from(b);
    let ports = (u32::from(key.src_port) << 16) | u32::from(key.dst_port);
    let rest = (u32::from(key.network) << 16) | u32::from(key.proto as u8);
    let words = [
        pair(s0, s1),
        pair(s2, s3),
        pair(d0, d1),
        pair(d2, d3),
        pair(ports, rest),
    ];
    let hash = siphash(&env.config().port_secret, words);
    opening.start = share(hash as u32, span);
    // A small range is walked through port by port, so that none is missed.
    opening.stride = if span > TRIES {
        1 + share((hash >> 32) as u32, span - 1)
    } else {
        1
    };
    opening.tries = 0;
    opening.found = Found::Nothing;
    true
}

impl<E: Env> Repeat for Search<'_, E> {
    #[inline(always)]
    fn step(&mut self, attempt: u32) -> bool {
        let opening = &mut *self.opening;
        opening.tries = attempt;
        // Whoever fails and tries again shall not meet the very same ports.
        if attempt == TRIES / 2 && self.span > TRIES {
            self.next = share(self.env.random(), self.span);
        }
        if attempt > 0 || !self.keep {
            opening.src_port = opening.port_min.wrapping_add(self.next as u16);
            self.next += opening.stride;
            if self.next >= self.span {
                self.next -= self.span;
            }
        }
        let proto = self.key.proto;
        if opening.kind == FlowKind::Masquerade && is_published(self.env, opening, proto) {
            return true;
        }
        let reply_key = reply_key(opening, proto);
        if opening.kind == FlowKind::Masquerade
            && (self.env.host_socket(&reply_key) || self.env.kernel_flows().contains(&reply_key))
        {
            return true;
        }
        self.flow.port_diff = port_diff(
            [reply_key.src_port, reply_key.dst_port],
            [self.key.dst_port, self.key.src_port],
        );
        let flows = self.env.flows();
        if opening.opens {
            match flows.insert_new(&reply_key, self.flow) {
                Ok(()) => opening.found = Found::Port,
                Err(InsertError::Full) => opening.found = Found::TableFull,
                Err(InsertError::Exists) => {}
            }
            if opening.found != Found::Nothing {
                return false;
            }
        }
        let (mut gone, mut own) = (false, false);
        let taken = flows.with(&reply_key, |old| {
            gone = self.env.generation(old.slot) != old.generation;
            own = old.direction == Direction::Reply && old.other_key(&reply_key) == *self.key;
        });
        if gone {
            // An entry whose container is gone holds nothing.
            if opening.opens && flows.replace(&reply_key, self.flow).is_ok() {
                opening.found = Found::Port;
            }
        } else if own {
            opening.found = Found::Own;
        }
        // One's own entry is not to be found behind a port that is free.
        opening.found == Found::Nothing && (opening.opens || taken.is_some())
    }
}

/// Whether the source of a masqueraded flow would look like a published port.
#[inline(always)]
fn is_published<E: Env>(env: &E, opening: &Opening, proto: Proto) -> bool {
    if matches!(proto, Proto::Icmp | Proto::Icmpv6) {
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

/// The ports that a packet's masqueraded flow may have. Echo identifiers are no ports of
/// sockets: all of them will do. SCTP's port has to stay.
#[inline(always)]
pub fn ports<E: Env>(env: &E, key: &Tuple) -> (u16, u16) {
    match key.proto {
        Proto::Sctp => (key.src_port, key.src_port),
        Proto::Tcp | Proto::Udp => (env.config().snat_port_min, env.config().snat_port_max),
        Proto::Icmp | Proto::Icmpv6 => (0, u16::MAX),
    }
}
