//! What comes from outside: tcx ingress of an uplink.

use crate::endpoint::EndpointKey;
use crate::env::{Env, Scratch, Table, Verdict};
use crate::flow::{Flow, FlowKind};
use crate::packet::Packet;
use crate::port::PortKey;
use crate::reason::DropReason;
use crate::snat::{self, Opening};
use crate::track::{self, Begun};
use crate::tuple::Tuple;

/// Ports that a client may be given towards a container when its own is taken there:
/// all but the well-known ones, which some services trust.
const CLIENT_PORTS: (u16, u16) = (1024, u16::MAX);

/// Handles a packet from outside; the transport header has been parsed.
///
/// Whatever is not a container's goes to the host's stack untouched.
#[inline(always)]
pub fn inward<E: Env>(env: &E, packet: &Packet) -> Result<Verdict, DropReason> {
    track::follow_or_begin(env, packet, || begin(env, packet))
}

/// The slow path: no flow yet. Out of line, so that it costs the fast path nothing.
#[inline(never)]
fn begin<E: Env>(env: &E, packet: &Packet) -> Begun {
    try_begin(env, packet).into()
}

#[inline(always)]
fn try_begin<E: Env>(env: &E, packet: &Packet) -> Result<Begun, DropReason> {
    if packet.may_open().is_ok() {
        let dialled = env.with_scratch(|Scratch { opening, flow }| {
            published(env, packet, opening).then(|| dial(env, packet, opening, flow))
        });
        if let Some(Some(result)) = dialled {
            return result;
        }
    }
    let dst = &packet.tuple.dst;
    if !env.host_addrs().contains(dst) && env.network_of(dst).is_some() {
        return Err(DropReason::DirectRouting);
    }
    Ok(Begun::Host)
}

/// Notes where the port leads that the packet dials, if it is published. A port of one
/// address comes before the port of all addresses, and those are the host's own, not what
/// it forwards.
#[inline(always)]
fn published<E: Env>(env: &E, packet: &Packet, opening: &mut Opening) -> bool {
    let Tuple {
        dst,
        dst_port,
        proto,
        ..
    } = &packet.tuple;
    // A port of 127.0.0.1 is for the host's own processes, whatever a neighbour on the link
    // writes into its packets.
    if dst.is_loopback() {
        return false;
    }
    let mut key = PortKey::new(*proto, *dst, *dst_port);
    if note_target(env, &key, opening) {
        return true;
    }
    key.addr = dst.wildcard();
    env.host_addrs().contains(dst) && note_target(env, &key, opening)
}

#[inline(always)]
fn note_target<E: Env>(env: &E, key: &PortKey, opening: &mut Opening) -> bool {
    env.ports()
        .with(key, |target| {
            opening.dst = target.addr;
            opening.dst_port = target.port;
            opening.network = target.network;
        })
        .is_some()
}

/// A new connection to the published port whose target has been noted.
#[inline(always)]
fn dial<E: Env>(
    env: &E,
    packet: &Packet,
    opening: &mut Opening,
    flow: &mut Flow,
) -> Result<Begun, DropReason> {
    let key = &packet.tuple;
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExpired);
    }
    env.endpoints()
        .with(
            &EndpointKey::new(opening.network, opening.dst),
            |endpoint| {
                opening.slot = endpoint.slot;
                opening.gateway_ifindex = endpoint.gateway_ifindex;
                opening.veth = endpoint.ifindex;
                opening.mac = endpoint.mac;
                opening.gateway_mac = endpoint.gateway_mac;
            },
        )
        .ok_or(DropReason::UnknownEndpoint)?;
    env.route(
        opening.gateway_ifindex,
        &opening.dst,
        &key.src,
        &mut opening.route,
    )?;
    if !env.uplinks().contains(&opening.route.ifindex) {
        return Err(DropReason::NotAnUplink);
    }
    opening.kind = FlowKind::Published;
    // The container sees the client's own address and port. Only when the client reaches
    // the same container port by two published ports at once, from one port of its own,
    // must the second look different.
    opening.src = key.src;
    opening.src_port = key.src_port;
    (opening.port_min, opening.port_max) = CLIENT_PORTS;
    snat::open(env, packet, opening, flow).map(|()| Begun::Flow)
}
