//! What the host sends to a container: tcx egress of a network's gateway device.

use crate::direct;
use crate::endpoint::{Endpoint, EndpointKey};
use crate::env::{Env, Scratch, Table, Verdict};
use crate::flow::Toward;
use crate::packet::Packet;
use crate::reason::DropReason;
use crate::snat;
use crate::track::{self, Begun};

/// Finds the container for a packet that the host itself made.
#[inline(always)]
pub fn deliver<E: Env>(env: &E, packet: &Packet) -> Result<Endpoint, DropReason> {
    let dst = &packet.tuple.dst;
    if dst.is_group() {
        return Err(DropReason::Multicast);
    }
    env.endpoints()
        .get(&EndpointKey::new(packet.tuple.network, *dst))
        .ok_or(DropReason::NoSuchNeighbour)
}

/// Handles a packet that the host passes on for somebody else, from the device `ingress`, into
/// `network`; the transport header has been parsed. It is from outside, as one at an uplink is.
#[inline(always)]
pub fn forward<E: Env>(
    env: &E,
    packet: &Packet,
    network: u16,
    ingress: u32,
) -> Result<Verdict, DropReason> {
    if packet.tuple.dst.is_group() {
        return Err(DropReason::Multicast);
    }
    track::follow_or_begin(env, packet, || begin(env, packet, network, ingress))
}

/// The slow path: no flow yet.
#[inline(never)]
fn begin<E: Env>(env: &E, packet: &Packet, network: u16, ingress: u32) -> Begun {
    env.with_scratch(|Scratch { opening, flow }| {
        direct::from_outside(env, packet, network, ingress, opening)?;
        opening.forward.to = Toward::Forwarded;
        snat::open(env, packet, opening, flow).map(|()| Begun::Flow)
    })
    .unwrap_or(Err(DropReason::RewriteFailed))
    .into()
}
