//! What a container sends: tcx ingress of its host-side veth.

use crate::endpoint::{EndpointKey, Veth};
use crate::env::{Env, Scratch, Table, Verdict};
use crate::flow::FlowKind;
use crate::packet::Packet;
use crate::publish;
use crate::reason::DropReason;
use crate::snat;
use crate::track::{self, Begun};
use crate::tuple::OUTSIDE;

/// Checks that a packet comes from the container's own address, and delivers it if its
/// destination is on the container's own link. `None`: it leaves the network.
///
/// Traffic within a network has no state: nothing is translated, nothing restricted.
#[inline(always)]
pub fn within_network<E: Env>(
    env: &E,
    packet: &Packet,
    veth: &Veth,
) -> Result<Option<Verdict>, DropReason> {
    let (src, dst) = (&packet.tuple.src, &packet.tuple.dst);
    if !veth.owns(src) {
        return Err(DropReason::SpoofedSource);
    }
    if dst.is_group() {
        return Err(DropReason::Multicast);
    }
    // The gateway may have published ports.
    if veth.is_gateway(dst) || !veth.on_link(dst) {
        return Ok(None);
    }
    let key = EndpointKey::new(veth.network, *dst);
    match env.endpoints().with(&key, |endpoint| endpoint.ifindex) {
        Some(ifindex) => Ok(Some(Verdict::Deliver { ifindex })),
        None => Err(DropReason::NoSuchNeighbour),
    }
}

/// Handles a packet that leaves its network; the transport header has been parsed.
///
/// `veth_ifindex` is where it came from.
#[inline(always)]
pub fn out_of_network<E: Env>(
    env: &E,
    packet: &Packet,
    veth: &Veth,
    veth_ifindex: u32,
) -> Result<Verdict, DropReason> {
    // The stack answers "time exceeded" from the gateway's address; it never passes on a
    // packet whose time has run out, so that nothing leaves untranslated that way.
    if packet.ttl <= 1 {
        return Ok(Verdict::Host);
    }
    track::follow_or_begin(env, packet, || begin(env, packet, veth, veth_ifindex))
}

/// The slow path: no flow yet. Out of line, so that it costs the fast path nothing.
#[inline(never)]
fn begin<E: Env>(env: &E, packet: &Packet, veth: &Veth, veth_ifindex: u32) -> Begun {
    try_begin(env, packet, veth, veth_ifindex).into()
}

#[inline(always)]
fn try_begin<E: Env>(
    env: &E,
    packet: &Packet,
    veth: &Veth,
    veth_ifindex: u32,
) -> Result<Begun, DropReason> {
    let key = &packet.tuple;
    if env.host_addrs().contains(&key.dst) || veth.is_gateway(&key.dst) {
        return dial(env, packet, veth, veth_ifindex);
    }
    if env.network_of(&key.dst).is_some() {
        return Err(DropReason::OtherNetwork);
    }
    packet.may_open()?;
    env.with_scratch(|Scratch { opening, flow }| {
        let route = &mut opening.forward.route;
        env.route(veth.gateway_ifindex, &key.src, &key.dst, route)?;
        env.uplinks()
            .with(&opening.forward.route.ifindex, |uplink| {
                opening.src = uplink.snat_addr(&key.dst);
            })
            .ok_or(DropReason::NotAnUplink)?;
        if opening.src.is_unspecified() {
            return Err(DropReason::NoSnatAddress);
        }
        opening.kind = FlowKind::Masquerade;
        opening.dst = key.dst;
        opening.src_port = key.src_port;
        opening.dst_port = key.dst_port;
        opening.network = OUTSIDE;
        (opening.port_min, opening.port_max) = snat::ports(env, key.proto);
        opening.gateway_ifindex = veth.gateway_ifindex;
        opening.forward.out(veth.slot);
        opening.back.back_to(veth, veth_ifindex);
        snat::open(env, packet, opening, flow).map(|()| Begun::Flow)
    })
    .unwrap_or(Err(DropReason::RewriteFailed))
}

/// A packet for an address of the host: for a published port, or for the host itself.
#[inline(always)]
fn dial<E: Env>(
    env: &E,
    packet: &Packet,
    veth: &Veth,
    veth_ifindex: u32,
) -> Result<Begun, DropReason> {
    if packet.may_open().is_err() {
        return Ok(Begun::Host);
    }
    env.with_scratch(|Scratch { opening, flow }| {
        if !publish::find(env, packet, opening) {
            return Ok(Begun::Host);
        }
        publish::dial_from_container(env, packet, veth, veth_ifindex, opening, flow)
    })
    .unwrap_or(Err(DropReason::RewriteFailed))
}
