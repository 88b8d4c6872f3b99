//! The fast path: packets of known flows, and the state of connections.

use crate::addr::Addr;
use crate::env::{Env, Route, Table, Verdict};
use crate::flow::{Direction, Flow, FlowState, Toward};
use crate::icmp::{self, Related};
use crate::packet::{Packet, Transport};
use crate::reason::DropReason;
use crate::restore;
use crate::snat;
use crate::tcp;
use crate::tuple::{Proto, Tuple};

/// What is left to do after the entry has been looked at.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// Nothing.
    Nothing,
    /// The connection's state may have changed, or it is time to see whether the other entry
    /// is still there: look at both.
    Settle,
    /// The entry and its other half are of no use any more.
    Remove,
}

/// What the slow path made of a packet without a flow.
///
/// One byte, as all results of functions that are not inlined: BPF functions return what
/// fits into a register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Begun {
    /// A flow has been begun for it ([`snat::open`]), which is to be completed.
    Flow,
    /// It is for the host's own stack.
    Host,
    /// It is to be dropped.
    Drop(DropReason),
}

const _: () = assert!(size_of::<Begun>() == 1 && size_of::<Result<(), DropReason>>() == 1);

impl From<Result<Self, DropReason>> for Begun {
    #[inline(always)]
    fn from(result: Result<Self, DropReason>) -> Self {
        result.unwrap_or_else(Self::Drop)
    }
}

/// Sends a packet on its way by its flow; `begin` is asked when there is none, and may
/// make one.
#[inline(always)]
pub fn follow_or_begin<E: Env>(
    env: &E,
    packet: &Packet,
    begin: impl Fn() -> Begun,
) -> Result<Verdict, DropReason> {
    if packet.has_tuple()
        && let Some(sent) = follow(env, packet)
    {
        return sent.map(|()| Verdict::Sent);
    }
    if packet.transport == Transport::Error {
        match icmp::relate(env, packet) {
            Related::Sent => return Ok(Verdict::Sent),
            Related::Drop(reason) => return Err(reason),
            Related::Unknown => {}
        }
    }
    match begin() {
        Begun::Host => Ok(Verdict::Host),
        // Somebody else can only have removed it together with its container.
        Begun::Flow => snat::complete(env, &packet.tuple)
            .and_then(|()| follow(env, packet).unwrap_or(Err(DropReason::StaleFlow)))
            .map(|()| Verdict::Sent),
        Begun::Drop(reason) => Err(reason),
    }
}

/// Sends a packet of a known flow on its way. `None`: there is no flow (any more).
#[inline(always)]
fn follow<E: Env>(env: &E, packet: &Packet) -> Option<Result<(), DropReason>> {
    let key = &packet.tuple;
    let mut rest = Rest::Nothing;
    let sent = env
        .flows()
        .with(key, |flow| step(env, packet, flow, &mut rest))?;
    match rest {
        Rest::Nothing => Some(sent),
        Rest::Settle => {
            if !settle(env, key) {
                restore::lost_half(env, key);
            }
            Some(sent)
        }
        Rest::Remove => {
            remove(env, key);
            None
        }
    }
}

// Out of line: it is called for known flows and again for the first packet of new ones.
#[inline(never)]
fn step<E: Env>(
    env: &E,
    packet: &Packet,
    flow: &mut Flow,
    rest: &mut Rest,
) -> Result<(), DropReason> {
    let stale = env.generation(flow.slot) != flow.generation;
    // A SYN on a finished connection is a client that uses its port again; from the other
    // side it would be somebody who wants to have our flows removed.
    let again = flow.state.is_over() && flow.direction == Direction::Original;
    if stale || (again && packet.opens_connection()) {
        *rest = Rest::Remove;
        return Err(DropReason::StaleFlow);
    }
    if record(packet, flow) | touch(env, packet, flow) {
        *rest = Rest::Settle;
    }
    env.send(packet, flow)
}

/// Counts the packet and, once a second, notes the time and asks for the route anew: a
/// change of the host's routes reaches running flows without anybody's help. True once a second.
#[inline(always)]
fn touch<E: Env>(env: &E, packet: &Packet, flow: &mut Flow) -> bool {
    flow.packets += 1;
    flow.bytes += u64::from(packet.len);
    let now = env.now();
    let due = flow.last_seen != now;
    if due {
        flow.last_seen = now;
        if flow.to == Toward::Uplink {
            refresh_route(env, flow);
        }
    }
    due
}

/// Takes over a new next hop on the same uplink. On another uplink the flow's source
/// address would be wrong: such a flow stays where it is until it ends.
#[inline(always)]
fn refresh_route<E: Env>(env: &E, flow: &mut Flow) {
    let mut route = Route {
        next_hop: Addr::UNSPECIFIED,
        ifindex: 0,
    };
    let found = env.route(
        flow.gateway_ifindex,
        &flow.new_src,
        &flow.new_dst,
        &mut route,
    );
    if found.is_ok() && route.ifindex == flow.ifindex {
        flow.next_hop = route.next_hop;
    }
}

/// Notes what the packet says about the connection; true if its state may have changed.
#[inline(always)]
fn record(packet: &Packet, flow: &mut Flow) -> bool {
    match packet.tuple.proto {
        Proto::Tcp | Proto::Sctp => {
            let reset = flow.state == FlowState::Reset;
            let seen = tcp::seen(flow.tcp_flags, packet.tcp_flags, reset);
            let changed = seen != flow.tcp_flags;
            if changed {
                flow.tcp_flags = seen;
            }
            changed
        }
        _ => flow.direction == Direction::Reply && flow.state == FlowState::OneWay,
    }
}

/// Computes the connection's state from both entries and writes it to both. False if the other
/// entry is lost.
#[inline(never)]
fn settle<E: Env>(env: &E, key: &Tuple) -> bool {
    let flows = env.flows();
    let mut other_key = *key;
    let Some((own_flags, direction, before)) = flows.with(key, |flow| {
        other_key = flow.other_key(key);
        (flow.tcp_flags, flow.direction, flow.state)
    }) else {
        return true;
    };
    let mut other_flags = 0;
    let own = flows.with(&other_key, |other| {
        other_flags = other.tcp_flags;
        other.other_key(&other_key) == *key
    });
    match own {
        Some(true) => {}
        // While the other half was lost somebody else took its place, and with it the outside
        // port. This half must go: it would send by a port that is not its own.
        Some(false) => return remove(env, key),
        None => return false,
    }
    let state = match (key.proto, direction) {
        (Proto::Tcp | Proto::Sctp, Direction::Original) => tcp::state(own_flags, other_flags),
        (Proto::Tcp | Proto::Sctp, Direction::Reply) => tcp::state(other_flags, own_flags),
        (Proto::Udp, Direction::Reply) => FlowState::TwoWay,
        _ => before,
    };
    flows.with(key, |flow| flow.state = state);
    flows.with(&other_key, |flow| flow.state = state);
    true
}

/// Calls `f` with the other half of an entry, if it belongs to that.
#[inline(always)]
pub fn with_other<E: Env, R>(env: &E, key: &Tuple, f: impl FnOnce(&Flow) -> R) -> Option<R> {
    let flows = env.flows();
    let mut other_key = *key;
    flows.with(key, |flow| other_key = flow.other_key(key))?;
    flows
        .with(&other_key, |other| {
            (other.other_key(&other_key) == *key).then(|| f(other))
        })
        .flatten()
}

/// No endpoint's slot.
const NOBODY: u32 = u32::MAX;

/// Removes an entry, and its other half if that is still its own (the key may have passed to
/// a younger connection), and takes the connection off its payer's account.
#[inline(never)]
pub fn remove<E: Env>(env: &E, key: &Tuple) -> bool {
    let flows = env.flows();
    let mut other_key = *key;
    // No option: LLVM leaves its value unset where it is none, which the verifier refuses.
    let mut payer = NOBODY;
    // The entry of the answers has the payer's slot; see `snat::open`.
    let note = |flow: &Flow, payer: &mut u32| {
        let alive = env.generation(flow.slot) == flow.generation;
        if flow.direction == Direction::Reply && alive {
            *payer = flow.slot;
        }
    };
    flows.with(key, |flow| {
        other_key = flow.other_key(key);
        note(flow, &mut payer);
        env.flow_ends(key, flow);
    });
    let own = flows.with(&other_key, |other| {
        let own = other.other_key(&other_key) == *key;
        if own {
            note(other, &mut payer);
        }
        own
    });
    flows.remove(key);
    if own == Some(true) {
        flows.remove(&other_key);
    }
    if payer != NOBODY {
        env.refund(payer);
    }
    true
}
