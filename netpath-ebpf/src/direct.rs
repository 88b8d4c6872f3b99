//! Encapsulation and its reverse by our own hand, past the VXLAN device and the host's stack: for
//! packets for which it is as right and faster.
//!
//! Out of a container that is every packet to a host that is reached by IPv4. Back it is single packets
//! and aggregates of TCP, as far as [`aggregate`] allows. Everything unusual is the device's, and so is
//! what follows an aggregate that went there, for a while, in order not to overtake it.

use core::mem::offset_of;
use core::ptr;

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::{
    BPF_ADJ_ROOM_ENCAP_L2_MASK, BPF_ADJ_ROOM_ENCAP_L2_SHIFT, BPF_F_ADJ_ROOM_DECAP_L3_IPV4,
    BPF_F_ADJ_ROOM_DECAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
    BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO, TC_ACT_REDIRECT,
};
use aya_ebpf::helpers::generated::{bpf_get_hash_recalc, bpf_redirect, bpf_skb_adjust_room};
use netpath_common::addr::Addr;
use netpath_common::checksum::fold;
use netpath_common::env::{Env as _, Route, Table as _};
use netpath_common::packet::{Fragment, Frame as _, IP_MAX, L3, Packet};
use netpath_common::reason::DropReason;
use netpath_common::tunnel::{OVERHEAD_V4, Tunnel, Underlay, Vtep, VtepKey};
use netpath_common::tuple::Proto;
use network_types::eth::EthHdr;
use network_types::ip::Ipv4Hdr;
use network_types::udp::UdpHdr;

use crate::action::{self, ETH_IPV4, ETH_IPV6};
use crate::frame::Linear;
use crate::kernel::Kernel;
use crate::{aggregate, maps, overlay, route};

/// Bytes of outer headers behind the outer Ethernet header.
const OUTER: usize = OVERHEAD_V4 as usize;
/// Where the outer UDP header begins, and what follows it.
const UDP: usize = L3 + Ipv4Hdr::LEN;
const VXLAN: usize = UDP + UdpHdr::LEN;
const VXLAN_LEN: usize = 8;
const INNER: usize = VXLAN + VXLAN_LEN;

/// The only flag of VXLAN: there is a VNI.
const HAS_VNI: u32 = 0x0800_0000u32.to_be();

const IPV4_HEAD: u8 = 0x45;
const TTL: u8 = 64;
/// The bits of congestion notification (RFC 3168): not capable, capable, met congestion.
const ECN: u8 = 3;
const CONGESTION: u8 = 3;
const CAPABLE: u8 = 2;

/// Source ports, as the kernel has them for tunnels: its default ephemeral ones.
const FIRST_PORT: u32 = 32_768;
const PORTS: u64 = 28_232;

/// Sends the frame at hand through a tunnel, with these MAC addresses. False: nothing was done,
/// the device has to.
///
/// # Errors
/// [`DropReason::RewriteFailed`] if the kernel refuses what it began.
#[inline(always)]
pub fn send(
    kernel: &Kernel<'_>,
    packet: &Packet,
    tunnel: &Tunnel,
    macs: [u16; 6],
) -> Result<bool, DropReason> {
    if tunnel.local.is_unspecified() {
        return Ok(false);
    }
    let frame = kernel.ctx.len();
    let total = frame + OVERHEAD_V4 - L3 as u32;
    let mut renewed = false;
    let Some(way) = underlay(kernel, tunnel, &mut renewed) else {
        return Ok(false);
    };
    if total > IP_MAX {
        return Ok(false);
    }
    let linear = Linear::of(kernel.ctx, 0);
    let Some(traffic_class) = traffic_class(packet, &linear) else {
        return Ok(false);
    };
    let ether_type = if packet.tuple.dst.is_v4() {
        ETH_IPV4
    } else {
        ETH_IPV6
    };
    const FLAGS: u64 = BPF_F_ADJ_ROOM_FIXED_GSO as u64
        | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 as u64
        | BPF_F_ADJ_ROOM_ENCAP_L4_UDP as u64
        | BPF_F_ADJ_ROOM_ENCAP_L2_ETH as u64
        | (EthHdr::LEN as u64 & BPF_ADJ_ROOM_ENCAP_L2_MASK as u64) << BPF_ADJ_ROOM_ENCAP_L2_SHIFT;
    // SAFETY: the context is the program's own; plain arguments.
    let (hash, made) = unsafe {
        let skb = kernel.ctx.skb.skb;
        let hash = bpf_get_hash_recalc(skb);
        let made = bpf_skb_adjust_room(skb, OUTER as i32, BPF_ADJ_ROOM_MAC, FLAGS);
        (hash, made)
    };
    if made != 0 {
        return Ok(false);
    }
    let linear = Linear::of(kernel.ctx, (L3 + OUTER) as u32);
    let [m0, m1, m2, m3, m4, m5] = macs;
    let inner = [m0, m1, m2, m3, m4, m5, ether_type];
    let written = linear
        .store(L3, ip_header(kernel, tunnel, traffic_class, total))
        .and_then(|()| linear.store(UDP, udp_header(hash, tunnel.port, total)))
        .and_then(|()| linear.store(VXLAN, [HAS_VNI, (tunnel.vni << 8).to_be()]))
        .and_then(|()| linear.store(INNER, inner));
    written.ok_or(DropReason::RewriteFailed)?;
    let [d0, d1, d2, s0, s1, s2] = way.macs;
    // What leaves past the neighbour table does not keep its entry fresh, so that a next hop with
    // a new MAC address would never be noticed: one packet a second goes through it.
    let result = if renewed || way.macs == [0; 6] {
        action::redirect_neigh(way.ifindex, &way.next_hop)
    } else {
        let outer = [d0, d1, d2, s0, s1, s2, ETH_IPV4];
        linear.store(0, outer).ok_or(DropReason::RewriteFailed)?;
        // SAFETY: a helper with plain arguments.
        unsafe { bpf_redirect(way.ifindex, 0) }
    };
    if result == i64::from(TC_ACT_REDIRECT) {
        Ok(true)
    } else {
        Err(DropReason::RewriteFailed)
    }
}

/// The outer type of service: the inner packet's congestion bits, and nothing of its class.
#[inline(always)]
fn traffic_class(packet: &Packet, linear: &Linear) -> Option<u8> {
    let [a, b, _, _]: [u8; 4] = linear.load(L3).ok()?;
    let inner = if packet.tuple.dst.is_v4() {
        b
    } else {
        (a << 4) | (b >> 4)
    };
    // RFC 6040, 4.1, as the kernel does it: the outer packet has met no congestion yet.
    Some(match inner & ECN {
        CONGESTION => CAPABLE,
        other => other,
    })
}

#[inline(always)]
fn ip_header(kernel: &Kernel<'_>, tunnel: &Tunnel, class: u8, total: u32) -> [u32; 5] {
    let [t0, t1] = (total as u16).to_be_bytes();
    let head = u32::from_ne_bytes([IPV4_HEAD, class, t0, t1]);
    // It may be cut on its way, so that its parts have to be known from others'.
    let id = kernel.random() & 0xffff;
    let middle = u32::from_ne_bytes([TTL, Proto::Udp as u8, 0, 0]);
    let (src, dst) = (tunnel.local.quads()[3], tunnel.vtep.quads()[3]);
    let sum = [head, id, middle, src, dst].map(u64::from);
    let sum = sum[0] + sum[1] + sum[2] + sum[3] + sum[4];
    let [c0, c1] = (!fold(sum)).to_ne_bytes();
    [
        head,
        id,
        middle | u32::from_ne_bytes([0, 0, c0, c1]),
        src,
        dst,
    ]
}

#[inline(always)]
fn udp_header(hash: u32, port: u16, total: u32) -> [u32; 2] {
    let spread = hash ^ (hash << 16);
    let src = FIRST_PORT + ((u64::from(spread) * PORTS) >> 32) as u32;
    let [s0, s1] = (src as u16).to_be_bytes();
    let [d0, d1] = port.to_be_bytes();
    let [l0, l1] = ((total - Ipv4Hdr::LEN as u32) as u16).to_be_bytes();
    // No checksum, as RFC 7348 has it.
    [
        u32::from_ne_bytes([s0, s1, d0, d1]),
        u32::from_ne_bytes([l0, l1, 0, 0]),
    ]
}

/// The host's route to a VTEP, asked for anew once a second, which `renewed` tells.
#[inline(always)]
fn underlay(kernel: &Kernel<'_>, tunnel: &Tunnel, renewed: &mut bool) -> Option<&'static Underlay> {
    let way = maps::UNDERLAY.get_ptr_mut(tunnel.place)?;
    // SAFETY: array values live as long as the map. Two CPUs may write at once, the same in all
    // likelihood; who reads in between sends one packet to where the route led before.
    let way: &mut Underlay = unsafe { &mut *way };
    let now = kernel.now();
    if way.asked != now {
        way.asked = now;
        *renewed = true;
        ask(kernel, tunnel, way);
    }
    if way.ifindex == 0 {
        return None;
    }
    // SAFETY: as above.
    Some(unsafe { &*ptr::from_ref(way) })
}

/// Out of line: it is needed once a second.
#[inline(never)]
fn ask(kernel: &Kernel<'_>, tunnel: &Tunnel, way: &mut Underlay) -> bool {
    let mut route = Route {
        next_hop: Addr::UNSPECIFIED,
        ifindex: 0,
    };
    let (src, dst) = (&tunnel.local, &tunnel.vtep);
    let found = route::lookup(kernel, tunnel.gateway_ifindex, src, dst, &mut route).is_ok();
    way.macs = [0; 6];
    if found {
        route::macs(kernel, tunnel.gateway_ifindex, src, dst, &mut way.macs);
    }
    way.next_hop = route.next_hop;
    way.ifindex = if found && route.next_hop.is_v4() {
        route.ifindex
    } else {
        0
    };
    found
}

/// Takes the outer headers off a packet from another host, given what was parsed of them. Who
/// sent it and what is known of that host, or `None`: nothing was done, the device has to.
///
/// # Errors
/// [`DropReason::RewriteFailed`] if the kernel refuses what it began.
#[inline(always)]
pub fn unwrap(
    kernel: &Kernel<'_>,
    outer: &Packet,
    ifindex: u32,
) -> Result<Option<(VtepKey, &'static Vtep)>, DropReason> {
    let linear = Linear::of(kernel.ctx, (INNER + EthHdr::LEN + Ipv4Hdr::LEN) as u32);
    let usual = outer.tuple.src.is_v4()
        && usize::from(outer.l4) == UDP
        && outer.fragment == Fragment::Whole
        && outer.end == outer.len
        && outer.len as usize >= INNER + EthHdr::LEN + Ipv4Hdr::LEN;
    if !usual {
        return Ok(None);
    }
    let [_, lengths]: [u32; 2] = linear.load(UDP)?;
    let [_, _, c0, c1] = lengths.to_ne_bytes();
    let [flags, vni]: [u32; 2] = linear.load(VXLAN)?;
    let [_, class, _, _]: [u8; 4] = linear.load(L3)?;
    // A checksum is the kernel's to verify, and congestion the kernel's to tell.
    if c0 | c1 != 0 || flags != HAS_VNI || class & ECN == CONGESTION {
        return Ok(None);
    }
    let inner: [u16; 7] = linear.load(INNER)?;
    let ip: [u32; 3] = linear.load(INNER + EthHdr::LEN)?;
    let (family, proto) = match inner[6] {
        ETH_IPV4 => (BPF_F_ADJ_ROOM_DECAP_L3_IPV4, ip[2].to_ne_bytes()[1]),
        ETH_IPV6 => (BPF_F_ADJ_ROOM_DECAP_L3_IPV6, ip[1].to_ne_bytes()[2]),
        _ => return Ok(None),
    };
    if aggregate::must_wait(kernel, outer) || !aggregate::may_unwrap(kernel, proto) {
        return Ok(None);
    }
    let key = VtepKey {
        addr: outer.tuple.src,
        vni: u32::from_be(vni) >> 8,
        ifindex,
    };
    // Strangers are the device's business as well, and the packet may be for somebody else.
    let Some(vtep) = overlay::known(&key) else {
        return Ok(None);
    };
    if !kernel.host_addrs().contains(&outer.tuple.dst) {
        return Ok(None);
    }
    let flags = u64::from(family) | u64::from(BPF_F_ADJ_ROOM_FIXED_GSO);
    // SAFETY: the context is the program's own; plain arguments.
    let made = unsafe {
        let skb = kernel.ctx.skb.skb;
        bpf_skb_adjust_room(skb, -(OUTER as i32), BPF_ADJ_ROOM_MAC, flags)
    };
    if made != 0 {
        return Ok(None);
    }
    Linear::of(kernel.ctx, 0)
        .store(offset_of!(EthHdr, dst_addr), inner)
        .ok_or(DropReason::RewriteFailed)?;
    Ok(Some((key, vtep)))
}
