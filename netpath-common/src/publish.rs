//! Published ports: where they lead, for clients outside and for containers.

use crate::endpoint::{EndpointKey, Veth};
use crate::env::{Env, Table};
use crate::flow::{Flow, FlowKind};
use crate::packet::Packet;
use crate::port::PortKey;
use crate::reason::DropReason;
use crate::snat::{self, Opening};
use crate::track::Begun;
use crate::tuple::{Proto, Tuple};

/// Ports that a client may be given towards a container when its own is taken there:
/// all but the well-known ones, which some services trust.
const CLIENT_PORTS: (u16, u16) = (1024, u16::MAX);

/// Notes where the port leads that the packet dials, if it is published. A port of one
/// address comes before the port of all addresses, and those are the host's own, not what
/// it forwards.
#[inline(always)]
pub fn find<E: Env>(env: &E, packet: &Packet, opening: &mut Opening) -> bool {
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

/// A client outside dials the port whose target has been noted.
#[inline(always)]
pub fn dial_from_outside<E: Env>(
    env: &E,
    packet: &Packet,
    opening: &mut Opening,
    flow: &mut Flow,
) -> Result<Begun, DropReason> {
    // What goes to the host's stack is checked there; this does not.
    let src = &packet.tuple.src;
    if src.is_no_source() || env.host_addrs().contains(src) || env.network_of(src).is_some() {
        return Err(DropReason::MartianSource);
    }
    describe(env, packet, opening)?;
    let route = &mut opening.back.route;
    env.route(
        opening.gateway_ifindex,
        &opening.dst,
        &packet.tuple.src,
        route,
    )?;
    if !env.uplinks().contains(&opening.back.route.ifindex) {
        return Err(DropReason::NotAnUplink);
    }
    opening.back.out(opening.forward.slot);
    snat::open(env, packet, opening, flow).map(|()| Begun::Flow)
}

/// A container (behind `veth`, whose ifindex is given) dials the port whose target has been
/// noted; it may be its own.
#[inline(always)]
pub fn dial_from_container<E: Env>(
    env: &E,
    packet: &Packet,
    veth: &Veth,
    veth_ifindex: u32,
    opening: &mut Opening,
    flow: &mut Flow,
) -> Result<Begun, DropReason> {
    describe(env, packet, opening)?;
    opening.back.back_to(veth, veth_ifindex);
    // Within one network the answer would go straight to the client, untranslated and from
    // the wrong address; as the gateway's it comes back here.
    if opening.network == veth.network {
        opening.src = veth.gateway_of(&opening.dst);
    }
    snat::open(env, packet, opening, flow).map(|()| Begun::Flow)
}

/// Fills in what does not depend on where the client is.
#[inline(always)]
fn describe<E: Env>(env: &E, packet: &Packet, opening: &mut Opening) -> Result<(), DropReason> {
    let key = &packet.tuple;
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExpired);
    }
    env.endpoints()
        .with(
            &EndpointKey::new(opening.network, opening.dst),
            |endpoint| {
                opening.forward.into_container(endpoint);
                opening.gateway_ifindex = endpoint.gateway_ifindex;
            },
        )
        .ok_or(DropReason::UnknownEndpoint)?;
    opening.kind = FlowKind::Published;
    // The container sees the client's own address and port. Only when the client reaches
    // the same container port by two published ports at once, from one port of its own,
    // must the second look different.
    opening.src = key.src;
    opening.src_port = key.src_port;
    (opening.port_min, opening.port_max) = CLIENT_PORTS;
    if key.proto == Proto::Sctp {
        if opening.dst_port != key.dst_port {
            return Err(DropReason::PortFixed);
        }
        (opening.port_min, opening.port_max) = (key.src_port, key.src_port);
    }
    Ok(())
}
