//! From verdicts to actions: the stages of each hook, and the one place that counts.

use core::mem::offset_of;

use aya_ebpf::bindings::{
    BPF_F_INGRESS, TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_redir_neigh,
};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer};
use aya_log_ebpf::debug;
use netpath_common::addr::Addr;
use netpath_common::counter::{DropKey, Hook};
use netpath_common::endpoint::Veth;
use netpath_common::env::{Env as _, Verdict};
use netpath_common::event::wanted;
use netpath_common::flow::{Flow, Toward};
use netpath_common::icmp::Quoted;
use netpath_common::link::{NOBODY, UNWRAP};
use netpath_common::packet::{Fragment, Frame as _, L3, Packet};
use netpath_common::reason::DropReason;
use netpath_common::tuple::{OUTSIDE, Proto};
use netpath_common::{container, fragment, gateway, overlay, uplink};
use network_types::eth::{EthHdr, EtherType};
use network_types::ip::{IpProto, Ipv4Hdr, Ipv6Hdr};
use network_types::tcp::TcpHdr;

use crate::frame::Linear;
use crate::kernel::Kernel;
use crate::{aggregate, event, maps, neighbour, rewrite, route};

/// What became of a packet that was not dropped.
pub enum Outcome {
    /// Sent by its flow, and counted already.
    Sent,
    /// Sent to a container.
    ToContainer,
    /// To the host's stack, by way of the gateway device.
    ToGateway,
    /// Left to the host's stack where it is.
    Pass,
    /// Answered.
    Answered,
}

const PACKET_HOST: u32 = 0;

/// Ethertypes in memory order.
pub const ETH_IPV4: u16 = EtherType::Ipv4 as u16;
pub const ETH_IPV6: u16 = EtherType::Ipv6 as u16;
pub const ETH_ARP: u16 = EtherType::Arp as u16;

/// Headers without options: what must lie in one piece for the usual packet.
const HEADERS_V4: u32 = (L3 + Ipv4Hdr::LEN + TcpHdr::LEN) as u32;
const HEADERS_V6: u32 = (L3 + Ipv6Hdr::LEN + TcpHdr::LEN) as u32;

/// Parses the IP header of an IPv4 or IPv6 frame.
#[inline(always)]
pub fn parse(packet: &mut Packet, linear: &Linear, ether_type: u16) -> Result<(), DropReason> {
    match ether_type {
        ETH_IPV4 => packet.parse_v4(linear),
        ETH_IPV6 => packet.parse_v6(linear),
        _ => Err(DropReason::UnknownEtherType),
    }
}

/// The type of the frame, memory order, and its headers in one piece.
#[inline(always)]
pub fn open(kernel: &Kernel<'_>) -> Result<(u16, Linear), DropReason> {
    let linear = Linear::of(kernel.ctx, HEADERS_V4);
    let ether_type: u16 = linear.load(offset_of!(EthHdr, ether_type))?;
    // The tag would stay on a packet that we redirect: a container could choose the VLAN in
    // which it leaves the host.
    if kernel.vlan_tagged() {
        return Err(DropReason::UnknownEtherType);
    }
    let v6 = ether_type == ETH_IPV6;
    Ok((
        ether_type,
        if v6 {
            Linear::of(kernel.ctx, HEADERS_V6)
        } else {
            linear
        },
    ))
}

/// The container hook. What is refused in an adopted network is left to the stack: its owner's
/// rules decide, for it is as it came. (A packet that could only be rewritten in part must not go
/// anywhere.)
#[inline(always)]
pub fn container(kernel: &Kernel<'_>) -> Result<Outcome, DropReason> {
    match from_container(kernel) {
        Err(reason) if reason as u8 != DropReason::RewriteFailed as u8 && is_adopted(kernel) => {
            Ok(Outcome::Pass)
        }
        result => result,
    }
}

/// Whether the container that sends is in an adopted network. Asked for refused packets only, and
/// out of line: the stack of the caller is nearly full.
#[inline(never)]
fn is_adopted(kernel: &Kernel<'_>) -> bool {
    maps::VETHS
        .get_ptr(kernel.ifindex())
        // SAFETY: map values stay allocated while the program runs.
        .is_some_and(|veth| unsafe { (*veth).is_adopted() })
}

#[inline(always)]
fn from_container(kernel: &Kernel<'_>) -> Result<Outcome, DropReason> {
    let (ether_type, linear) = open(kernel)?;
    let ifindex = kernel.ifindex();
    let veth = maps::VETHS
        .get_ptr(ifindex)
        .ok_or(DropReason::UnknownEndpoint)?;
    // SAFETY: map values stay allocated while the program runs.
    let veth: &Veth = unsafe { &*veth };
    if !veth.mac.is(linear.load(offset_of!(EthHdr, src_addr))?) {
        return Err(DropReason::SpoofedSource);
    }
    if ether_type == ETH_ARP {
        // On a bridge neighbours answer for themselves.
        if veth.is_adopted() {
            return Ok(Outcome::Pass);
        }
        return answered(neighbour::answer_arp(kernel, veth));
    }
    let packet = kernel.packet(veth.network)?;
    parse(packet, &linear, ether_type)?;
    if packet.ip_proto == IpProto::Ipv6Icmp as u8
        && ether_type == ETH_IPV6
        && !veth.is_adopted()
        && let Some(kind) = neighbour::discovery(&linear, packet)?
    {
        return answered(neighbour::handle_discovery(kernel, veth, packet, kind));
    }
    // What is left to the stack must be as it came.
    let to_stack = veth.is_adopted();
    let (veth, ifindex) = sender(kernel, packet, veth, ifindex);
    let verdict = match container::within_network(kernel, packet, veth)? {
        Some(verdict) => verdict,
        None => {
            packet.parse_transport(&linear)?;
            borrow_ports(kernel, packet);
            if ifindex != kernel.ifindex() && !to_stack {
                // As if it had come by that interface.
                rewrite::macs(kernel.ctx, &veth.gateway_mac, &veth.mac)?;
            }
            container::out_of_network(kernel, packet, veth, ifindex)?
        }
    };
    match verdict {
        Verdict::Deliver { ifindex } => deliver(kernel, ifindex),
        Verdict::Sent => Ok(Outcome::Sent),
        // The bridge is the host's own interface in the network.
        Verdict::Host if to_stack => Ok(Outcome::Pass),
        // The other interface's network is the stack's, this one is not.
        Verdict::Host if veth.is_adopted() => Err(DropReason::SpoofedSource),
        // Through the gateway device, so that the host sees its containers' packets come
        // from the interface that has their route (rp_filter), whatever the veth is called.
        Verdict::Host => redirected(
            // SAFETY: a helper with plain arguments.
            unsafe { bpf_redirect(veth.gateway_ifindex, BPF_F_INGRESS.into()) },
            Outcome::ToGateway,
        ),
    }
}

/// Whose packet it is: the interface's that it came by, or another one's of the same container.
#[inline(always)]
fn sender<'a>(
    kernel: &Kernel<'_>,
    packet: &mut Packet,
    veth: &'a Veth,
    ifindex: u32,
) -> (&'a Veth, u32) {
    if veth.owns(&packet.tuple.src) {
        return (veth, ifindex);
    }
    let other = container::sibling(kernel, veth, &packet.tuple.src);
    match maps::VETHS.get_ptr(other) {
        Some(sibling) if other != NOBODY => {
            // SAFETY: map values stay allocated while the program runs.
            let sibling: &Veth = unsafe { &*sibling };
            packet.tuple.network = sibling.network;
            (sibling, other)
        }
        _ => (veth, ifindex),
    }
}

/// Parts of fragmented datagrams know of each other.
#[inline(always)]
fn borrow_ports(kernel: &Kernel<'_>, packet: &mut Packet) {
    if packet.fragment != Fragment::Whole {
        fragment::resolve(kernel, packet);
    }
}

/// The uplink hook. What cannot be parsed is the stack's business.
#[inline(always)]
pub fn uplink(kernel: &Kernel<'_>) -> Result<Outcome, DropReason> {
    let Ok((ether_type, linear)) = open(kernel) else {
        return Ok(Outcome::Pass);
    };
    let packet = kernel.packet(OUTSIDE)?;
    if parse(packet, &linear, ether_type).is_err() {
        return Ok(Outcome::Pass);
    }
    if packet.parse_transport(&linear).is_err() {
        return Ok(Outcome::Pass);
    }
    if packet.tuple.proto == Proto::Udp && overlay_device(kernel, packet) != NOBODY {
        // SAFETY: nothing here needs to be dropped. It comes back only if it fails.
        unsafe { maps::STAGES.tail_call(kernel.ctx, UNWRAP) };
    }
    borrow_ports(kernel, packet);
    match uplink::inward(kernel, packet, kernel.ifindex())? {
        Verdict::Sent => Ok(Outcome::Sent),
        Verdict::Deliver { .. } | Verdict::Host => Ok(Outcome::Pass),
    }
}

/// The VXLAN device whose port a datagram is for, or [`NOBODY`].
#[inline(always)]
pub fn overlay_device(kernel: &Kernel<'_>, packet: &Packet) -> u32 {
    let port = packet.tuple.dst_port;
    let [one, two] = &kernel.config().tunnels;
    if port == one.port {
        one.ifindex
    } else if port == two.port {
        two.ifindex
    } else {
        NOBODY
    }
}

/// The gateway hook.
#[inline(always)]
pub fn gateway(kernel: &Kernel<'_>) -> Result<Outcome, DropReason> {
    let (ether_type, linear) = open(kernel)?;
    let network = maps::NETWORKS
        .get_ptr(kernel.ifindex())
        .ok_or(DropReason::UnknownEndpoint)?;
    // SAFETY: map values stay allocated while the program runs.
    let network = unsafe { (*network).id };
    let ingress = kernel.ingress_ifindex();
    if ingress != 0 {
        return forwarded(kernel, &linear, ether_type, network, ingress);
    }
    let packet = kernel.packet(network)?;
    parse(packet, &linear, ether_type)?;
    let endpoint = match gateway::deliver(kernel, packet) {
        // Another host may have it.
        Err(DropReason::NoSuchNeighbour) => {
            return overlay::leave_host(kernel, packet).map(|()| Outcome::Sent);
        }
        found => found?,
    };
    rewrite::macs(kernel.ctx, &endpoint.mac, &endpoint.gateway_mac)?;
    // Not redirect_peer, which works from ingress only.
    // SAFETY: a helper with plain arguments.
    redirected(
        unsafe { bpf_redirect(endpoint.ifindex, 0) },
        Outcome::ToContainer,
    )
}

/// Says that a frame with the receiver's MAC, which is not our veth's, is the receiver's: the
/// stack took it for somebody else's.
#[inline(always)]
pub fn claim(kernel: &Kernel<'_>) {
    if maps::REDIRECT_CLAIMS.load() == 0 && kernel.packet_type() != PACKET_HOST {
        let _ = kernel.ctx.change_type(PACKET_HOST);
    }
}

/// What the host passes on for somebody else.
#[inline(always)]
fn forwarded(
    kernel: &Kernel<'_>,
    linear: &Linear,
    ether_type: u16,
    network: u16,
    ingress: u32,
) -> Result<Outcome, DropReason> {
    let packet = kernel.packet(OUTSIDE)?;
    parse(packet, linear, ether_type)?;
    packet.parse_transport(linear)?;
    borrow_ports(kernel, packet);
    match gateway::forward(kernel, packet, network, ingress)? {
        Verdict::Sent => Ok(Outcome::Sent),
        // The host's stack is done with it.
        Verdict::Deliver { .. } | Verdict::Host => Err(DropReason::DirectRouting),
    }
}

/// Delivers a packet unchanged into the container behind a host-side veth.
#[inline(always)]
pub fn deliver(kernel: &Kernel<'_>, ifindex: u32) -> Result<Outcome, DropReason> {
    claim(kernel);
    // SAFETY: a helper with plain arguments.
    redirected(
        unsafe { bpf_redirect_peer(ifindex, 0) },
        Outcome::ToContainer,
    )
}

/// Rewrites a packet as its flow says and redirects it.
#[inline(always)]
pub fn send(kernel: &Kernel<'_>, packet: &Packet, flow: &Flow) -> Result<(), DropReason> {
    if !flow.to.is_by_stack() {
        if packet.ttl <= 1 {
            return Err(DropReason::TtlExpired);
        }
        rewrite::translate(kernel.ctx, packet, flow)?;
    }
    redirect(kernel, packet, flow)
}

/// Rewrites an ICMP error for the flow of the packet that it quotes, and redirects it.
#[inline(always)]
pub fn send_error(
    kernel: &Kernel<'_>,
    packet: &Packet,
    quoted: &Quoted,
    flow: &Flow,
) -> Result<(), DropReason> {
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExpired);
    }
    rewrite::translate_error(kernel.ctx, packet, quoted, flow)?;
    redirect(kernel, packet, flow)
}

/// Sends a rewritten packet the way of its flow.
#[inline(always)]
fn redirect(kernel: &Kernel<'_>, packet: &Packet, flow: &Flow) -> Result<(), DropReason> {
    let result = match flow.to {
        Toward::Container => {
            rewrite::macs(kernel.ctx, &flow.dst_mac, &flow.src_mac)?;
            // SAFETY: a helper with plain arguments.
            unsafe { bpf_redirect_peer(flow.ifindex, 0) }
        }
        Toward::Uplink if !aggregate::may_leave(kernel) => {
            return Err(DropReason::PassedOnAggregate);
        }
        Toward::Uplink => redirect_neigh(flow.ifindex, &flow.next_hop),
        // SAFETY: as above.
        Toward::Stack => unsafe { bpf_redirect(flow.ifindex, BPF_F_INGRESS.into()) },
        Toward::Forwarded => {
            rewrite::macs(kernel.ctx, &flow.dst_mac, &flow.src_mac)?;
            // Not redirect_peer, as in the gateway hook.
            // SAFETY: as above.
            unsafe { bpf_redirect(flow.ifindex, 0) }
        }
    };
    if result != i64::from(TC_ACT_REDIRECT) {
        return Err(DropReason::RewriteFailed);
    }
    kernel.count(|counters| match flow.to {
        Toward::Container | Toward::Forwarded => counters.to_container.add(packet.len),
        Toward::Uplink => counters.to_uplink.add(packet.len),
        Toward::Stack => counters.to_host.add(packet.len),
    });
    Ok(())
}

/// Sends out of a device to a next hop; the kernel resolves its MAC.
#[inline(always)]
pub fn redirect_neigh(ifindex: u32, next_hop: &Addr) -> i64 {
    // SAFETY: integers and a union of integers; all zero is valid.
    let mut params: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    let words = next_hop.quads();
    if next_hop.is_v4() {
        params.nh_family = route::AF_INET.into();
        params.__bindgen_anon_1.ipv4_nh = words[3];
    } else {
        params.nh_family = route::AF_INET6.into();
        params.__bindgen_anon_1.ipv6_nh = words;
    }
    let size = size_of::<bpf_redir_neigh>() as i32;
    // SAFETY: the parameters are initialised and as long as said.
    unsafe { bpf_redirect_neigh(ifindex, &raw mut params, size, 0) }
}

/// The outcome of an attempt to answer.
#[inline(always)]
pub fn answered(failure: Option<DropReason>) -> Result<Outcome, DropReason> {
    failure.map_or(Ok(Outcome::Answered), Err)
}

/// The outcome, if the redirecting helper agreed.
#[inline(always)]
pub fn redirected(result: i64, outcome: Outcome) -> Result<Outcome, DropReason> {
    if result == i64::from(TC_ACT_REDIRECT) {
        Ok(outcome)
    } else {
        Err(DropReason::RewriteFailed)
    }
}

/// Counts what became of the packet and tells the kernel: the only place that does.
#[inline(always)]
pub fn finish(kernel: &Kernel<'_>, result: Result<Outcome, DropReason>) -> i32 {
    let len = kernel.ctx.len();
    let action = match &result {
        Ok(Outcome::Pass) => TC_ACT_UNSPEC,
        Ok(_) => TC_ACT_REDIRECT,
        Err(reason) => {
            count_drop(kernel, *reason, len);
            TC_ACT_SHOT
        }
    };
    kernel.count(|counters| {
        counters.seen.add(len);
        match result {
            Ok(Outcome::ToContainer) => counters.to_container.add(len),
            Ok(Outcome::Sent) => {}
            Ok(Outcome::ToGateway | Outcome::Pass) => counters.to_host.add(len),
            Ok(Outcome::Answered) => counters.answered.add(len),
            Err(_) => counters.dropped.add(len),
        }
    });
    action
}

#[inline(never)]
fn count_drop(kernel: &Kernel<'_>, reason: DropReason, len: u32) {
    add_drop(reason, kernel.hook, len);
    if event::wanted(wanted::DROPS) {
        // As it is: `np_container` must stay a program that only reads.
        let linear = Linear::as_is(kernel.ctx);
        event::drop(kernel.hook, reason, kernel.ifindex(), &linear);
    }
    debug!(
        kernel.ctx,
        "drop: reason {}, hook {}, device {}, {} bytes",
        reason as u8,
        kernel.hook as u8,
        kernel.ifindex(),
        len
    );
}

/// Adds a packet to the drops of a reason at a hook.
#[inline(always)]
pub fn add_drop(reason: DropReason, hook: Hook, len: u32) {
    let key = DropKey {
        reason,
        hook,
        reserved: [0; 2],
    };
    match maps::DROPS.get_ptr_mut(key) {
        // SAFETY: the record is this CPU's own.
        Some(count) => unsafe { (*count).add(len) },
        None => {
            let mut count = netpath_common::counter::Count::default();
            count.add(len);
            let _ = maps::DROPS.insert(key, count, 0);
        }
    }
}
