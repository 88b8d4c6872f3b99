//! Traffic with containers by their own addresses, beyond their network: nothing is
//! translated, yet it has flows, so that the answers of what was let through pass and nothing
//! else does.
//!
//! Whether a connection may begin is the policy of the network that it goes to
//! ([`crate::policy`]).

use crate::addr::Addr;
use crate::endpoint::{EndpointKey, Veth};
use crate::env::{Env, Table};
use crate::flow::{FlowKind, Toward};
use crate::packet::Packet;
use crate::policy::{ADOPTED, GatewayMode, INTERNAL, OpenPort, Trusted};
use crate::reason::DropReason;
use crate::snat::{Opening, Way};
use crate::tuple::{OUTSIDE, Proto};

/// Describes the connection that somebody outside begins with a container of `network`. The
/// packet came in by the device `ingress`.
#[inline(always)]
pub fn from_outside<E: Env>(
    env: &E,
    packet: &Packet,
    network: u16,
    ingress: u32,
    opening: &mut Opening,
) -> Result<(), DropReason> {
    admit(env, packet, network, ingress, DropReason::DirectRouting)?;
    // Nobody outside has a container's address.
    if env.network_of(&packet.tuple.src).is_some() {
        return Err(DropReason::SpoofedSource);
    }
    into_network(env, packet, network, opening)?;
    let key = &packet.tuple;
    let slot = opening.forward.slot;
    let gateway = opening.gateway_ifindex;
    away(env, &key.dst, &key.src, slot, gateway, &mut opening.back)
}

/// Describes the connection that a container (behind `veth`, whose ifindex is given) begins
/// with one of another network.
#[inline(always)]
pub fn to_network<E: Env>(
    env: &E,
    packet: &Packet,
    veth: &Veth,
    veth_ifindex: u32,
    network: u16,
    opening: &mut Opening,
) -> Result<(), DropReason> {
    let ingress = veth.gateway_ifindex;
    admit(env, packet, network, ingress, DropReason::OtherNetwork)?;
    into_network(env, packet, network, opening)?;
    opening.back.back_to(veth, veth_ifindex);
    Ok(())
}

/// Describes the connection that a container begins with somebody outside under its own address.
#[inline(always)]
pub fn outward<E: Env>(
    env: &E,
    packet: &Packet,
    veth: &Veth,
    veth_ifindex: u32,
    opening: &mut Opening,
) -> Result<(), DropReason> {
    let key = &packet.tuple;
    unchanged(packet, opening);
    opening.network = OUTSIDE;
    opening.gateway_ifindex = veth.gateway_ifindex;
    let forward = &mut opening.forward;
    let (slot, gateway) = (veth.slot, veth.gateway_ifindex);
    away(env, &key.src, &key.dst, slot, gateway, forward)?;
    opening.back.back_to(veth, veth_ifindex);
    if opening.forward.to as u8 == Toward::Stack as u8 {
        // The answers come by the host's stack as well.
        opening.back.to = Toward::Forwarded;
    }
    Ok(())
}

/// Whether a network lets in a packet from elsewhere; `refusal` is the reason of those that
/// only let in what the host translated.
#[inline(always)]
fn admit<E: Env>(
    env: &E,
    packet: &Packet,
    network: u16,
    ingress: u32,
    refusal: DropReason,
) -> Result<(), DropReason> {
    let dst = &packet.tuple.dst;
    let (mut mode, mut flags) = (GatewayMode::Nat as u8, 0);
    env.policies().with(&u32::from(network), |policy| {
        mode = policy.mode(dst) as u8;
        flags = policy.flags;
    });
    // Whom its owner lets in, and how, the stack knows.
    if flags & ADOPTED != 0 {
        return Err(DropReason::NotAnUplink);
    }
    if flags & INTERNAL != 0 || mode == GatewayMode::Isolated as u8 {
        return Err(DropReason::InternalNetwork);
    }
    if mode == GatewayMode::NatUnprotected as u8 {
        return Ok(());
    }
    let ping = matches!(packet.tuple.proto, Proto::Icmp | Proto::Icmpv6);
    let published = if mode == GatewayMode::Routed as u8 {
        ping || is_open(env, packet, network)
    } else if env.trusted().contains(&Trusted::new(network, ingress)) {
        is_open(env, packet, network)
    } else {
        return Err(refusal);
    };
    if published {
        Ok(())
    } else {
        Err(DropReason::NotPublished)
    }
}

#[inline(always)]
fn is_open<E: Env>(env: &E, packet: &Packet, network: u16) -> bool {
    let key = &packet.tuple;
    env.open_ports()
        .contains(&OpenPort::new(network, key.proto, key.dst, key.dst_port))
}

/// Fills in the way to a container of `network`.
#[inline(always)]
fn into_network<E: Env>(
    env: &E,
    packet: &Packet,
    network: u16,
    opening: &mut Opening,
) -> Result<(), DropReason> {
    packet.may_open()?;
    unchanged(packet, opening);
    opening.network = network;
    env.endpoints()
        .with(&EndpointKey::new(network, packet.tuple.dst), |endpoint| {
            opening.forward.into_container(endpoint);
            opening.gateway_ifindex = endpoint.gateway_ifindex;
        })
        .ok_or(DropReason::NoSuchNeighbour)
}

/// Nothing is translated: there is one port to choose from, its own.
#[inline(always)]
fn unchanged(packet: &Packet, opening: &mut Opening) {
    let key = &packet.tuple;
    opening.kind = FlowKind::Direct;
    opening.src = key.src;
    opening.dst = key.dst;
    opening.src_port = key.src_port;
    opening.dst_port = key.dst_port;
    opening.port_min = key.src_port;
    opening.port_max = key.src_port;
}

/// Fills in the way from a container's own address to somebody outside: by an uplink, or by
/// whatever other device the host's routes name, which is the stack's to do.
#[inline(always)]
fn away<E: Env>(
    env: &E,
    src: &Addr,
    dst: &Addr,
    slot: u32,
    gateway_ifindex: u32,
    way: &mut Way,
) -> Result<(), DropReason> {
    env.route(gateway_ifindex, src, dst, &mut way.route)?;
    if env.uplinks().contains(&way.route.ifindex) {
        way.out(slot);
    } else {
        way.by_stack(slot, gateway_ifindex);
    }
    Ok(())
}
