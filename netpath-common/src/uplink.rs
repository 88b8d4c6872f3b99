//! What comes from outside: tcx ingress of an uplink.

use crate::direct;
use crate::env::{Env, Scratch, Table, Verdict};
use crate::packet::Packet;
use crate::publish;
use crate::reason::DropReason;
use crate::snat;
use crate::track::{self, Begun};

/// Handles a packet from outside, which came in by the device `ingress`; the transport header
/// has been parsed.
///
/// Whatever is not a container's goes to the host's stack untouched.
#[inline(always)]
pub fn inward<E: Env>(env: &E, packet: &Packet, ingress: u32) -> Result<Verdict, DropReason> {
    track::follow_or_begin(env, packet, || begin(env, packet, ingress))
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
            publish::find(env, packet, opening)
                .then(|| publish::dial_from_outside(env, packet, opening, flow))
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
    env.with_scratch(|Scratch { opening, flow }| {
        direct::from_outside(env, packet, network, ingress, opening)?;
        if packet.ttl <= 1 {
            return Err(DropReason::TtlExpired);
        }
        snat::open(env, packet, opening, flow).map(|()| Begun::Flow)
    })
    .unwrap_or(Err(DropReason::RewriteFailed))
}
