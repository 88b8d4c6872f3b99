//! Networks across hosts: what leaves for another host, and what comes from one.
//!
//! There is no flooding and no learning. What the agent has not told is nowhere, and what comes
//! from somebody it has not told of is dropped.

use crate::addr::{Addr, Mac};
use crate::endpoint::{Endpoint, EndpointKey, Veth};
use crate::env::{Env, Table};
use crate::packet::Packet;
use crate::policy::{ICC_OFF, INTERNAL};
use crate::reason::DropReason;
use crate::tunnel::Vtep;

/// What became of a packet for an address that no container of this host has.
///
/// One byte, as all results of functions that are not inlined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hop {
    /// Sent through a tunnel (or answered, because it is too big for it), and counted.
    Sent,
    /// For the host's stack, which says that its time has run out.
    Host,
    /// No other host has the address.
    Nowhere,
    /// It is to be dropped.
    Drop(DropReason),
}

const _: () = assert!(size_of::<Hop>() == 1);

/// Sends a container's packet to the host that has its destination.
#[inline(never)]
pub fn leave<E: Env>(env: &E, packet: &Packet, veth: &Veth) -> Hop {
    let sent = env.with_tunnel(veth.network, &packet.tuple.dst, |tunnel| {
        if veth.flags & ICC_OFF != 0 {
            return Hop::Drop(DropReason::IccOff);
        }
        if tunnel.is_routed() && packet.ttl <= 1 {
            // What is internal must not reach the host like that.
            return if veth.flags & INTERNAL == 0 {
                Hop::Host
            } else {
                Hop::Drop(DropReason::TtlExpired)
            };
        }
        match env.send_by_tunnel(packet, tunnel, Some(veth)) {
            Ok(()) => Hop::Sent,
            Err(reason) => Hop::Drop(reason),
        }
    });
    sent.unwrap_or(Hop::Nowhere)
}

/// Sends a packet of the host itself to the host that has its destination, in the network that
/// the packet's tuple names.
///
/// # Errors
/// [`DropReason::NoSuchNeighbour`] if no other host has it, or why it cannot be sent.
#[inline(never)]
pub fn leave_host<E: Env>(env: &E, packet: &Packet) -> Result<(), DropReason> {
    let network = packet.tuple.network;
    env.with_tunnel(network, &packet.tuple.dst, |tunnel| {
        env.send_by_tunnel(packet, tunnel, None)
    })
    .unwrap_or(Err(DropReason::NoSuchNeighbour))
}

/// Where a packet from another host goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inward {
    /// Into a container.
    Container(Endpoint),
    /// To the host itself, by an address of the network's gateway.
    Host,
}

/// Judges a packet that came from `vtep`.
#[inline(always)]
pub fn enter<E: Env>(env: &E, packet: &Packet, vtep: &Vtep) -> Result<Inward, DropReason> {
    let (src, dst) = (&packet.tuple.src, &packet.tuple.dst);
    if dst.is_group() {
        return Err(DropReason::Multicast);
    }
    if !is_behind(env, vtep, src) {
        return Err(DropReason::SpoofedTunnel);
    }
    if let Some(endpoint) = env.endpoints().get(&EndpointKey::new(vtep.network, *dst)) {
        return if vtep.flags & ICC_OFF == 0 {
            Ok(Inward::Container(endpoint))
        } else {
            Err(DropReason::IccOff)
        };
    }
    if is_gateway(env, vtep, dst) {
        Ok(Inward::Host)
    } else {
        Err(DropReason::NoSuchNeighbour)
    }
}

/// Whether an address of the network is behind this VTEP.
#[inline(always)]
pub fn is_behind<E: Env>(env: &E, vtep: &Vtep, addr: &Addr) -> bool {
    let place = env.with_tunnel(vtep.network, addr, |tunnel| tunnel.place);
    place == Some(vtep.place)
}

/// Whether it is an address of the network's gateway on this host.
#[inline(always)]
fn is_gateway<E: Env>(env: &E, vtep: &Vtep, addr: &Addr) -> bool {
    let device = env.host_addrs().with(addr, |host| host.ifindex);
    device == Some(vtep.gateway_ifindex)
}

/// The MAC address of a container of this host, or of the gateway: what another host is told
/// that asks for it. The flag says whether it is the gateway's.
#[inline(always)]
pub fn resolve<E: Env>(env: &E, vtep: &Vtep, addr: &Addr) -> Option<(Mac, bool)> {
    let key = EndpointKey::new(vtep.network, *addr);
    match env.endpoints().with(&key, |endpoint| endpoint.mac) {
        Some(mac) => Some((mac, false)),
        None if is_gateway(env, vtep, addr) => Some((vtep.gateway_mac, true)),
        None => None,
    }
}

/// Whether a question for a neighbour may come from this address of the network: one that is
/// behind the VTEP, none (a probe), or a link-local one, about which nothing is known.
#[inline(always)]
pub fn may_ask<E: Env>(env: &E, vtep: &Vtep, addr: &Addr) -> bool {
    addr.is_link_local_v6() || is_behind(env, vtep, addr)
}
