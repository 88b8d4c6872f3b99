//! ARP (RFC 826) and neighbour discovery (RFC 4861), answered in place: no container ever
//! hears another's question, and no answer of a container is believed.

use aya_ebpf::helpers::generated::bpf_redirect;
use netpath_common::addr::{Addr, Mac};
use netpath_common::checksum::fold;
use netpath_common::endpoint::{EndpointKey, Veth};
use netpath_common::env::{Env as _, Table as _};
use netpath_common::packet::{Frame as _, L3, Packet};
use netpath_common::reason::DropReason;
use network_types::ip::Ipv6Hdr;

use crate::action::{Outcome, redirected};
use crate::frame::Linear;
use crate::kernel::Kernel;

/// Length of an ARP frame for IPv4 over Ethernet.
const ARP_FRAME: usize = L3 + 28;
/// Hardware type Ethernet, protocol IPv4, address lengths 6 and 4, operation "request".
const ARP_REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];

/// Router solicitation, the first of the neighbour discovery messages; redirect is the last.
const FIRST_DISCOVERY: u8 = 133;
const LAST_DISCOVERY: u8 = 137;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// A solicitation without options (RFC 4861, 4.3).
const SOLICITATION: usize = 24;
/// A link-layer address option of Ethernet (RFC 4861, 4.6.1): type, length in words of 8, MAC.
const LINK_ADDRESS: usize = 8;
const TARGET_LINK_ADDRESS: u8 = 2;

/// Flags of an advertisement: from a router, solicited, override.
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

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
        .with(&EndpointKey::new(veth.network, *addr), |endpoint| endpoint.mac)
        .map(|mac| (mac, false))
}

/// Sends the frame back where it came from.
#[inline(always)]
fn back(kernel: &Kernel<'_>) -> Result<Outcome, DropReason> {
    // SAFETY: a helper with plain arguments.
    redirected(unsafe { bpf_redirect(kernel.ifindex(), 0) }, Outcome::Answered)
}

/// Answers an ARP request.
#[inline(never)]
pub fn answer_arp(kernel: &Kernel<'_>, veth: &Veth) -> Result<Outcome, DropReason> {
    let linear = Linear::of(kernel.ctx, ARP_FRAME as u32);
    let mut frame: [u8; ARP_FRAME] = linear.load(0)?;
    for (at, expected) in ARP_REQUEST.iter().enumerate() {
        if frame[L3 + at] != *expected {
            return Err(DropReason::Multicast);
        }
    }
    let sender = [frame[28], frame[29], frame[30], frame[31]];
    let target = [frame[38], frame[39], frame[40], frame[41]];
    let sender_mac = [frame[22], frame[23], frame[24], frame[25], frame[26], frame[27]];
    // A probe (RFC 5227) asks on behalf of nobody.
    let probe = sender == [0; 4];
    if !veth.mac.same(&sender_mac) || !(probe || veth.owns(&Addr::v4(sender))) {
        return Err(DropReason::SpoofedSource);
    }
    let (mac, _) =
        resolve(kernel, veth, &Addr::v4(target)).ok_or(DropReason::NoSuchNeighbour)?;
    let mut i = 0;
    while i < 6 {
        frame[i] = sender_mac[i];
        frame[6 + i] = mac.octets[i];
        frame[22 + i] = mac.octets[i];
        frame[32 + i] = sender_mac[i];
        i += 1;
    }
    let mut i = 0;
    while i < 4 {
        frame[28 + i] = target[i];
        frame[38 + i] = sender[i];
        i += 1;
    }
    frame[21] = 2; // operation "reply"
    kernel.ctx.store(0, &frame, 0).map_err(|_| DropReason::RewriteFailed)?;
    back(kernel)
}

/// The type of a neighbour discovery message; `None` for any other ICMPv6.
#[inline(always)]
pub fn discovery(linear: &Linear, packet: &Packet) -> Result<Option<u8>, DropReason> {
    if packet.fragment {
        return Ok(None);
    }
    // Type, code and checksum. (A single byte at an offset that is not constant would be
    // compared in a way that the verifier does not follow.)
    let [kind, ..]: [u8; 4] = linear.load(packet.transport_offset())?;
    Ok((FIRST_DISCOVERY..=LAST_DISCOVERY).contains(&kind).then_some(kind))
}

/// Answers a neighbour solicitation. Other discovery messages end here: containers are no
/// routers, and advertisements nobody asked for are how neighbours are impersonated.
#[inline(never)]
pub fn handle_discovery(
    kernel: &Kernel<'_>,
    veth: &Veth,
    packet: &Packet,
    kind: u8,
) -> Result<Outcome, DropReason> {
    if kind != NEIGHBOUR_SOLICITATION {
        let group = packet.tuple.dst.is_group();
        return Err(if group { DropReason::Multicast } else { DropReason::SpoofedSource });
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
    // With the sender's link-layer address, as a solicitation to a group must be, there is
    // room for the target's; without it RFC 4861 (7.2.4) lets the answer be without, too.
    let body = packet.len as usize - L3 - Ipv6Hdr::LEN;
    if body >= SOLICITATION + LINK_ADDRESS {
        advertise::<{ SOLICITATION + LINK_ADDRESS }>(kernel, veth, packet)
    } else if body >= SOLICITATION {
        advertise::<SOLICITATION>(kernel, veth, packet)
    } else {
        Err(DropReason::Malformed)
    }
}

/// Turns the solicitation into an advertisement of `BODY` bytes and sends it back.
#[inline(always)]
fn advertise<const BODY: usize>(
    kernel: &Kernel<'_>,
    veth: &Veth,
    packet: &Packet,
) -> Result<Outcome, DropReason> {
    let headers = L3 + Ipv6Hdr::LEN;
    let failed = |_| DropReason::RewriteFailed;
    // Options that we do not answer are cut off.
    // SAFETY: the context is the program's own.
    let cut = unsafe {
        aya_ebpf::helpers::generated::bpf_skb_change_tail(
            kernel.ctx.skb.skb,
            (headers + BODY) as u32,
            0,
        )
    };
    if cut != 0 {
        return Err(DropReason::RewriteFailed);
    }
    let linear = Linear::of(kernel.ctx, (headers + BODY) as u32);
    let mut body: [u8; BODY] = linear.load(headers)?;
    let mut target = Addr::UNSPECIFIED;
    let mut i = 0;
    while i < 16 {
        target.octets[i] = body[8 + i];
        i += 1;
    }
    let (mac, gateway) = resolve(kernel, veth, &target).ok_or(DropReason::NoSuchNeighbour)?;
    body[0] = NEIGHBOUR_ADVERTISEMENT;
    body[1] = 0;
    body[2] = 0;
    body[3] = 0;
    body[4] = SOLICITED | OVERRIDE | if gateway { ROUTER } else { 0 };
    body[5] = 0;
    body[6] = 0;
    body[7] = 0;
    if BODY > SOLICITATION {
        body[SOLICITATION] = TARGET_LINK_ADDRESS;
        body[SOLICITATION + 1] = 1;
        let mut i = 0;
        while i < 6 {
            body[SOLICITATION + 2 + i] = mac.octets[i];
            i += 1;
        }
    }
    let asker = packet.tuple.src;
    let checksum = !fold(sum(&target.octets) + sum(&asker.octets) + sum(&body) + pseudo(BODY));
    let [high, low] = checksum.to_ne_bytes();
    body[2] = high;
    body[3] = low;
    kernel.ctx.store(headers, &body, 0).map_err(failed)?;
    let addrs = [target, asker];
    kernel.ctx.store(L3 + 8, &addrs, 0).map_err(failed)?;
    kernel.ctx.store(L3 + 4, &(BODY as u16).to_be(), 0).map_err(failed)?;
    kernel.ctx.store(0, &[veth.mac, mac], 0).map_err(failed)?;
    back(kernel)
}

/// Sum of the pseudo header's length and next header (RFC 8200, 8.1), memory order.
#[inline(always)]
const fn pseudo(len: usize) -> u64 {
    (len as u16).to_be() as u64 + 58u16.to_be() as u64
}

/// Sum of bytes as 16-bit words, memory order.
#[inline(always)]
fn sum<const N: usize>(bytes: &[u8; N]) -> u64 {
    let mut sum = 0;
    let mut i = 0;
    while i + 1 < N {
        sum += u64::from(u16::from_ne_bytes([bytes[i], bytes[i + 1]]));
        i += 2;
    }
    sum
}
