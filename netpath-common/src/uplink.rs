//! What comes from outside: tcx ingress of an uplink.

use crate::direct;
use crate::env::{Env, Scratch, Table, Verdict};
use crate::flow::Flow;
use crate::packet::Packet;
use crate::policy::ADOPTED;
use crate::publish;
use crate::reason::DropReason;
use crate::snat::{self, Opening};
use crate::track::{self, Begun};

/// Handles a packet from outside, which came in by the device `ingress`; the transport header
/// has been parsed.
///
/// Whatever is not a container's goes to the host's stack untouched.
#[inline(always)]
pub fn inward<E: Env>(env: &E, packet: &Packet, ingress: u32) -> Result<Verdict, DropReason> {
    match track::follow_or_begin(env, packet, || begin(env, packet, ingress)) {
        // Nothing was made of it, so whoever owns the network can still have it.
        Err(DropReason::FlowTableFull)
            if env
                .with_scratch(|scratch| is_adopted(env, scratch.opening.network))
                .unwrap_or(false) =>
        {
            Ok(Verdict::Host)
        }
        result => result,
    }
}

/// The slow path: no flow yet. Out of line, so that it costs the fast path nothing.
#[inline(never)]
fn begin<E: Env>(env: &E, packet: &Packet, ingress: u32) -> Begun {
    try_begin(env, packet, ingress).into()
}

#[inline(always)]
fn try_begin<E: Env>(env: &E, packet: &Packet, ingress: u32) -> Result<Begun, DropReason> {
    if packet.may_open().is_ok() {
        let dialled = env.with_scratch(|Scratch { opening, flow }| {
            publish::find(env, packet, opening).then(|| dial(env, packet, opening, flow))
        });
        if let Some(Some(result)) = dialled {
            return result;
        }
    }
    let dst = &packet.tuple.dst;
    if env.host_addrs().contains(dst) {
        return Ok(Begun::Host);
    }
    let Some(network) = env.network_of(dst) else {
        return Ok(Begun::Host);
    };
    // By its own address an adopted container is reached as its owner says.
    if is_adopted(env, network) {
        return Ok(Begun::Host);
    }
    env.with_scratch(|Scratch { opening, flow }| {
        direct::from_outside(env, packet, network, ingress, opening)?;
        if packet.ttl <= 1 {
            return Err(DropReason::TtlExpired);
        }
        snat::open(env, packet, opening, flow).map(|()| Begun::Flow)
    })
    .unwrap_or(Err(DropReason::RewriteFailed))
}

/// Somebody dials the published port whose target has been noted.
#[inline(always)]
fn dial<E: Env>(
    env: &E,
    packet: &Packet,
    opening: &mut Opening,
    flow: &mut Flow,
) -> Result<Begun, DropReason> {
    let adopted = is_adopted(env, opening.network);
    // A datagram may belong to a connection that the kernel translates.
    if adopted && env.kernel_flows().contains(&packet.tuple) {
        return Ok(Begun::Host);
    }
    match publish::dial_from_outside(env, packet, opening, flow) {
        Err(_) if adopted => Ok(Begun::Host),
        result => result,
    }
}

/// Whether a network is somebody else's. Asked for first packets only.
#[inline(always)]
fn is_adopted<E: Env>(env: &E, network: u16) -> bool {
    let mut flags = 0;
    env.policies()
        .with(&u32::from(network), |policy| flags = policy.flags);
    flags & ADOPTED != 0
}
