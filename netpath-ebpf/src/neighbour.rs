//! ARP (RFC 826) and neighbour discovery (RFC 4861), answered in place: no container ever
//! hears another's question, and no answer of a container is believed.

use core::mem::offset_of;

use aya_ebpf::bindings::TC_ACT_REDIRECT;
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_skb_change_tail};
use netpath_common::addr::{Addr, Mac};
use netpath_common::checksum::{fold, sum_addr};
use netpath_common::endpoint::{EndpointKey, Veth};
use netpath_common::env::{Env as _, Table as _};
use netpath_common::packet::{Fragment, Frame as _, L3, Packet};
use netpath_common::reason::DropReason;
use network_types::ip::Ipv6Hdr;

use crate::frame::Linear;
use crate::kernel::Kernel;
use crate::rewrite;

/// Length of an ARP packet for IPv4 over Ethernet, in words of 2 bytes.
const ARP_WORDS: usize = 14;
/// Hardware type Ethernet, protocol IPv4, address lengths 6 and 4, operation.
const ARP_REQUEST: [u16; 4] = [
    1u16.to_be(),
    0x0800u16.to_be(),
    0x0604u16.to_be(),
    1u16.to_be(),
];
const ARP_REPLY: u16 = 2u16.to_be();

/// Router solicitation, the first of the neighbour discovery messages; redirect is the last.
const FIRST_DISCOVERY: u8 = 133;
const LAST_DISCOVERY: u8 = 137;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// A solicitation without options (RFC 4861, 4.3), in words of 4 bytes.
const SOLICITATION: usize = 6;
/// An advertisement with one option, the target's link-layer address (RFC 4861, 4.6.1: type,
/// length in words of 8 bytes, MAC), in words of 4 bytes.
const ADVERTISEMENT: usize = SOLICITATION + 2;
const TARGET_LINK_ADDRESS: u8 = 2;

/// Flags of an advertisement: from a router, solicited, override.
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// Next header of ICMPv6, in the pseudo header (RFC 8200, 8.1).
const ICMPV6: u16 = 58;
const IPV6_PAYLOAD_LEN: usize = offset_of!(Ipv6Hdr, payload_len);
const IPV6_ADDRS: usize = offset_of!(Ipv6Hdr, src_addr);

/// Neighbour discovery is valid with this hop limit only: nobody off the link can forge it.
const DISCOVERY_HOPS: u8 = 255;

/// Who has `addr`, and whether that is the gateway.
#[inline(always)]
fn resolve(kernel: &Kernel<'_>, veth: &Veth, addr: &Addr) -> Option<(Mac, bool)> {
    // Nobody answers for an address to its owner (duplicate address detection).
    if veth.owns(addr) {
        return None;
    }
    if veth.is_gateway(addr) {
        return Some((veth.gateway_mac, true));
    }
    kernel
        .endpoints()
        .with(&EndpointKey::new(veth.network, *addr), |endpoint| {
            endpoint.mac
        })
        .map(|mac| (mac, false))
}

/// Sends the frame back where it came from.
#[inline(always)]
fn back(kernel: &Kernel<'_>, to: &Mac, from: &Mac) -> Result<(), DropReason> {
    rewrite::macs(kernel.ctx, to, from)?;
    // SAFETY: a helper with plain arguments.
    match unsafe { bpf_redirect(kernel.ifindex(), 0) } as i32 {
        TC_ACT_REDIRECT => Ok(()),
        _ => Err(DropReason::RewriteFailed),
    }
}

/// Answers an ARP request; the reason if that could not be.
#[inline(never)]
pub fn answer_arp(kernel: &Kernel<'_>, veth: &Veth) -> Option<DropReason> {
    try_arp(kernel, veth).err()
}

#[inline(always)]
fn try_arp(kernel: &Kernel<'_>, veth: &Veth) -> Result<(), DropReason> {
    let linear = Linear::of(kernel.ctx, (L3 + 2 * ARP_WORDS) as u32);
    let words: [u16; ARP_WORDS] = linear.load(L3)?;
    let [a, b, c, d, m0, m1, m2, s0, s1, _, _, _, t0, t1] = words;
    if [a, b, c, d] != ARP_REQUEST {
        return Err(DropReason::Multicast);
    }
    // A probe (RFC 5227) asks on behalf of nobody.
    let own = s0 | s1 == 0 || veth.owns(&v4(s0, s1));
    if !own || !veth.mac.is([m0, m1, m2]) {
        return Err(DropReason::SpoofedSource);
    }
    let (mac, _) = resolve(kernel, veth, &v4(t0, t1)).ok_or(DropReason::NoSuchNeighbour)?;
    let [n0, n1, n2] = mac.words();
    let reply = [a, b, c, ARP_REPLY, n0, n1, n2, t0, t1, m0, m1, m2, s0, s1];
    linear.store(L3, reply).ok_or(DropReason::RewriteFailed)?;
    back(kernel, &veth.mac, &mac)
}

/// An IPv4 address from two words in memory order.
#[inline(always)]
fn v4(a: u16, b: u16) -> Addr {
    // SAFETY: integers of the same total size.
    Addr::v4(unsafe { core::mem::transmute::<[u16; 2], [u8; 4]>([a, b]) })
}

/// The type of a neighbour discovery message; `None` for any other ICMPv6.
#[inline(always)]
pub fn discovery(linear: &Linear, packet: &Packet) -> Result<Option<u8>, DropReason> {
    // Discovery must not be fragmented (RFC 6980); a first part is judged by what it says.
    if packet.fragment == Fragment::Later {
        return Ok(None);
    }
    // Type, code and checksum. (A single byte at an offset that is not constant would be
    // compared in a way that the verifier does not follow.)
    let [kind, ..]: [u8; 4] = linear.load(packet.transport_offset())?;
    Ok((FIRST_DISCOVERY..=LAST_DISCOVERY)
        .contains(&kind)
        .then_some(kind))
}

/// Answers a neighbour solicitation; the reason if that could not be. Other discovery
/// messages end here: containers are no routers, and advertisements nobody asked for are how
/// neighbours are impersonated.
#[inline(never)]
pub fn handle_discovery(
    kernel: &Kernel<'_>,
    veth: &Veth,
    packet: &Packet,
    kind: u8,
) -> Option<DropReason> {
    try_discovery(kernel, veth, packet, kind).err()
}

#[inline(always)]
fn try_discovery(
    kernel: &Kernel<'_>,
    veth: &Veth,
    packet: &Packet,
    kind: u8,
) -> Result<(), DropReason> {
    if kind != NEIGHBOUR_SOLICITATION {
        let group = packet.tuple.dst.is_group();
        return Err(if group {
            DropReason::Multicast
        } else {
            DropReason::SpoofedSource
        });
    }
    // Duplicate address detection: our addresses are handed out by the agent, no clash.
    if packet.tuple.src.is_unspecified() {
        return Err(DropReason::NoSuchNeighbour);
    }
    if !veth.owns(&packet.tuple.src) {
        return Err(DropReason::SpoofedSource);
    }
    if packet.ttl != DISCOVERY_HOPS || usize::from(packet.l4) != L3 + Ipv6Hdr::LEN {
        return Err(DropReason::Malformed);
    }
    let headers = L3 + Ipv6Hdr::LEN;
    if (packet.end as usize) < headers + SOLICITATION * 4 {
        return Err(DropReason::Malformed);
    }
    // Room for the target's link-layer address, and for no other option.
    let body = ADVERTISEMENT * 4;
    // SAFETY: the context is the program's own.
    let cut = unsafe { bpf_skb_change_tail(kernel.ctx.skb.skb, (headers + body) as u32, 0) };
    if cut != 0 {
        return Err(DropReason::RewriteFailed);
    }
    let linear = Linear::of(kernel.ctx, (headers + body) as u32);
    let mut words: [u32; ADVERTISEMENT] = linear.load(headers)?;
    let [_, code, ..] = words[0].to_ne_bytes();
    if code != 0 {
        return Err(DropReason::Malformed);
    }
    let target = Addr::from_words([words[2], words[3], words[4], words[5]]);
    let (mac, gateway) = resolve(kernel, veth, &target).ok_or(DropReason::NoSuchNeighbour)?;
    let asker = &packet.tuple.src;
    words[0] = u32::from_ne_bytes([NEIGHBOUR_ADVERTISEMENT, 0, 0, 0]);
    words[1] = u32::from_ne_bytes([
        SOLICITED | OVERRIDE | if gateway { ROUTER } else { 0 },
        0,
        0,
        0,
    ]);
    let [a, b, c] = mac.words();
    let option = u16::from_ne_bytes([TARGET_LINK_ADDRESS, 1]);
    // SAFETY: integers of the same total size.
    let [option, rest] = unsafe { core::mem::transmute::<[u16; 4], [u32; 2]>([option, a, b, c]) };
    words[SOLICITATION] = option;
    words[SOLICITATION + 1] = rest;
    let pseudo = u64::from((body as u16).to_be()) + u64::from(ICMPV6.to_be());
    let mut sum = pseudo + sum_addr(&target) + sum_addr(asker);
    let mut i = 0;
    while i < ADVERTISEMENT {
        sum += u64::from(words[i]);
        i += 1;
    }
    let [high, low] = (!fold(sum)).to_ne_bytes();
    words[0] = u32::from_ne_bytes([NEIGHBOUR_ADVERTISEMENT, 0, high, low]);
    linear
        .store(headers, words)
        .and_then(|()| linear.store(L3 + IPV6_ADDRS, [target.quads(), asker.quads()]))
        .and_then(|()| linear.store(L3 + IPV6_PAYLOAD_LEN, (body as u16).to_be()))
        .ok_or(DropReason::RewriteFailed)?;
    back(kernel, &veth.mac, &mac)
}
