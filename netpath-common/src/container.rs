//! What a container sends: tcx ingress of its host-side veth.

use crate::addr::Addr;
use crate::direct;
use crate::endpoint::{EndpointKey, Veth};
use crate::env::{Env, Scratch, Table, Verdict};
use crate::flow::FlowKind;
use crate::link::NOBODY;
use crate::overlay::{self, Hop};
use crate::packet::Packet;
use crate::policy::{ICC_OFF, INTERNAL, OVERLAY};
use crate::publish;
use crate::reason::DropReason;
use crate::snat::{self, Opening};
use crate::track::{self, Begun};
use crate::tuple::OUTSIDE;

/// The host-side veth of another interface of the same container, which has the address `addr`;
/// [`NOBODY`] if none has.
///
/// The kernel chooses a packet's interface by its destination. A connection that began by one
/// interface goes on with that one's address when the default route has moved to another, and so
/// do sockets that are bound to an address. What such a packet may do is up to the network whose
/// address it carries, which is where the answers arrive.
#[inline(always)]
pub fn sibling<E: Env>(env: &E, veth: &Veth, addr: &Addr) -> u32 {
    if veth.netns == 0 {
        return NOBODY;
    }
    let Some(network) = env.network_of(addr) else {
        return NOBODY;
    };
    let mut ifindex = NOBODY;
    env.endpoints()
        .with(&EndpointKey::new(network, *addr), |endpoint| {
            ifindex = endpoint.ifindex;
        });
    if ifindex != NOBODY && env.netns_of(ifindex) == veth.netns {
        ifindex
    } else {
        NOBODY
    }
}

/// Checks that a packet comes from the container's own address, and delivers it if its
/// destination is on the container's own link. `None`: it leaves the network.
///
/// Traffic within a network has no state: nothing is translated, and all of it is let through
/// or none.
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
    if veth.is_gateway(dst) {
        return Ok(None);
    }
    let on_link = veth.on_link(dst);
    if on_link {
        if veth.flags & ICC_OFF != 0 {
            return Err(DropReason::IccOff);
        }
        let key = EndpointKey::new(veth.network, *dst);
        if let Some(ifindex) = env.endpoints().with(&key, |endpoint| endpoint.ifindex) {
            return Ok(Some(Verdict::Deliver { ifindex }));
        }
    }
    // The network may have subnets on other hosts that are not on the container's link.
    if veth.flags & OVERLAY != 0 {
        match overlay::leave(env, packet, veth) {
            Hop::Sent => return Ok(Some(Verdict::Sent)),
            Hop::Host => return Ok(Some(Verdict::Host)),
            Hop::Drop(reason) => return Err(reason),
            Hop::Nowhere => {}
        }
    }
    if on_link {
        Err(DropReason::NoSuchNeighbour)
    } else {
        Ok(None)
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
    // packet whose time has run out, so that nothing leaves untranslated that way. But what is
    // for the host itself has arrived: an internal network must not reach it like that.
    if packet.ttl <= 1 && !is_confined(packet, veth) {
        return Ok(Verdict::Host);
    }
    track::follow_or_begin(env, packet, || begin(env, packet, veth, veth_ifindex))
}

/// Whether the packet is from an internal network and leaves it.
#[inline(always)]
fn is_confined(packet: &Packet, veth: &Veth) -> bool {
    veth.flags & INTERNAL != 0 && !veth.is_gateway(&packet.tuple.dst)
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
    let dst = &packet.tuple.dst;
    // Only one of the two may translate a connection.
    if veth.is_adopted() && env.kernel_flows().contains(&packet.tuple) {
        return Ok(Begun::Host);
    }
    if is_confined(packet, veth) {
        return Err(DropReason::InternalNetwork);
    }
    if env.host_addrs().contains(dst) || veth.is_gateway(dst) {
        return dial(env, packet, veth, veth_ifindex);
    }
    env.with_scratch(|Scratch { opening, flow }| {
        match env.network_of(dst) {
            Some(network) => {
                direct::to_network(env, packet, veth, veth_ifindex, network, opening)?;
            }
            None => go_out(env, packet, veth, veth_ifindex, opening)?,
        }
        snat::open(env, packet, opening, flow).map(|()| Begun::Flow)
    })
    .unwrap_or(Err(DropReason::RewriteFailed))
}

/// Describes the connection that a container begins with somebody outside.
#[inline(always)]
fn go_out<E: Env>(
    env: &E,
    packet: &Packet,
    veth: &Veth,
    veth_ifindex: u32,
    opening: &mut Opening,
) -> Result<(), DropReason> {
    if !packet.continues_connection() {
        packet.may_open()?;
    }
    let key = &packet.tuple;
    opening.src = Addr::UNSPECIFIED;
    let mut masquerade = true;
    env.policies().with(&u32::from(veth.network), |policy| {
        masquerade = policy.masquerades(&key.dst);
        opening.src = policy.snat_addr(&key.dst);
    });
    if !masquerade {
        // Whom its owner lets through, and by which device, the stack knows.
        if veth.is_adopted() {
            return Err(DropReason::NotAnUplink);
        }
        return direct::outward(env, packet, veth, veth_ifindex, opening);
    }
    let route = &mut opening.forward.route;
    env.route(veth.gateway_ifindex, &key.src, &key.dst, route)?;
    env.uplinks()
        .with(&opening.forward.route.ifindex, |uplink| {
            if opening.src.is_unspecified() {
                opening.src = uplink.snat_addr(&key.dst);
            }
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
    (opening.port_min, opening.port_max) = snat::ports(env, key);
    opening.gateway_ifindex = veth.gateway_ifindex;
    opening.forward.out(veth.slot);
    opening.back.back_to(veth, veth_ifindex);
    Ok(())
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
        // Another network's: an internal one has none.
        if veth.flags & INTERNAL != 0 {
            return Err(DropReason::InternalNetwork);
        }
        publish::dial_from_container(env, packet, veth, veth_ifindex, opening, flow)
    })
    .unwrap_or(Err(DropReason::RewriteFailed))
}
