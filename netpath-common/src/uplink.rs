//! What comes from outside: tcx ingress of an uplink.

use crate::endpoint::EndpointKey;
use crate::env::{Env, Scratch, Table, Verdict};
use crate::flow::FlowKind;
use crate::packet::Packet;
use crate::port::{PortKey, PortTarget};
use crate::reason::DropReason;
use crate::snat;
use crate::track;
use crate::tuple::Tuple;

/// Ports that a client may be given towards a container when its own is taken there:
/// all but the well-known ones, which some services trust.
const CLIENT_PORTS: (u16, u16) = (1024, u16::MAX);

/// Handles a packet from outside; the transport header has been parsed.
///
/// Whatever is not a container's goes to the host's stack untouched.
#[inline(always)]
pub fn inward<E: Env>(env: &E, packet: &Packet) -> Result<Verdict, DropReason> {
    if packet.has_tuple() {
        if let Some(sent) = track::follow(env, packet) {
            return sent;
        }
        if packet.may_open().is_ok()
            && let Some(target) = published(env, packet)
        {
            return begin(env, packet, &target);
        }
    }
    let dst = &packet.tuple.dst;
    if !env.host_addrs().contains(dst) && env.network_of(dst).is_some() {
        return Err(DropReason::DirectRouting);
    }
    Ok(Verdict::Host)
}

/// Where the port leads that the packet dials. A port of one address comes before the
/// port of all addresses, and those are the host's own, not what it forwards.
#[inline(always)]
fn published<E: Env>(env: &E, packet: &Packet) -> Option<PortTarget> {
    let Tuple { dst, dst_port, proto, .. } = packet.tuple;
    env.ports().get(&PortKey::new(proto, dst, dst_port)).or_else(|| {
        env.ports()
            .get(&PortKey::new(proto, dst.wildcard(), dst_port))
            .filter(|_| env.host_addrs().contains(&dst))
    })
}

/// The slow path: a new connection to a published port. Out of line, so that it costs the
/// fast path nothing.
#[inline(never)]
fn begin<E: Env>(env: &E, packet: &Packet, target: &PortTarget) -> Result<Verdict, DropReason> {
    let key = &packet.tuple;
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExpired);
    }
    let endpoint = env
        .endpoints()
        .get(&EndpointKey::new(target.network, target.addr))
        .ok_or(DropReason::UnknownEndpoint)?;
    let route = env.route(endpoint.gateway_ifindex, &target.addr, &key.src)?;
    env.with_scratch(|Scratch { opening, flow }| {
        opening.kind = FlowKind::Published;
        // The container sees the client's own address and port. Only when the client
        // reaches the same container port by two published ports at once, from one port
        // of its own, must the second look different.
        opening.src = key.src;
        opening.src_port = key.src_port;
        (opening.port_min, opening.port_max) = CLIENT_PORTS;
        opening.dst = target.addr;
        opening.dst_port = target.port;
        opening.network = target.network;
        opening.slot = endpoint.slot;
        opening.gateway_ifindex = endpoint.gateway_ifindex;
        opening.route = route;
        opening.veth = endpoint.ifindex;
        opening.mac = endpoint.mac;
        opening.gateway_mac = endpoint.gateway_mac;
        snat::open(env, packet, opening, flow)
    })
    .unwrap_or(Err(DropReason::RewriteFailed))
}
