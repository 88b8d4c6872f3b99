//! ARP (RFC 826) and neighbour discovery (RFC 4861), answered in place: no container ever
//! hears another's question, and no answer of a container is believed.

use core::mem::offset_of;

use aya_ebpf::bindings::TC_ACT_REDIRECT;
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_skb_change_tail};
use netpath_common::addr::{Addr, Mac};
use netpath_common::checksum::{fold, sum_addr};
use netpath_common::container;
use netpath_common::endpoint::{EndpointKey, Veth};
use netpath_common::env::{Env as _, Table as _};
use netpath_common::link::NOBODY;
use netpath_common::overlay;
use netpath_common::packet::{Fragment, Frame as _, L3, Packet};
use netpath_common::policy::OVERLAY;
use netpath_common::reason::DropReason;
use netpath_common::tunnel::{Tunnel, Vtep, VtepKey};
use netpath_common::underlay::{Card, ROUTER_MAC};
use network_types::eth::EthHdr;
use network_types::ip::Ipv6Hdr;

use crate::frame::Linear;
use crate::kernel::Kernel;
use crate::overlay::put_into;
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
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

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

/// Somebody who asks for a neighbour.
trait Asker {
    /// Why a question that is not the asker's own is dropped.
    const SPOOFED: DropReason;
    /// Whether it may ask from this address.
    fn may_ask(&self, addr: &Addr) -> bool;
    /// Whether it may ask with this MAC address, given in words.
    fn has_mac(&self, mac: [u16; 3]) -> bool;
    /// Who has `addr`, and whether that is the gateway.
    fn resolve(&self, addr: &Addr) -> Option<(Mac, bool)>;
    /// Sends the frame back where it came from.
    fn back(&self, to: &Mac, from: &Mac) -> Result<(), DropReason>;
}

/// A container of this host.
struct Container<'a> {
    kernel: &'a Kernel<'a>,
    veth: &'a Veth,
}

impl Asker for Container<'_> {
    const SPOOFED: DropReason = DropReason::SpoofedSource;

    #[inline(always)]
    fn may_ask(&self, addr: &Addr) -> bool {
        // The kernel asks with the source of the packet that it wants to send, which may be the
        // address of another interface.
        self.veth.owns(addr) || container::sibling(self.kernel, self.veth, addr) != NOBODY
    }

    #[inline(always)]
    fn has_mac(&self, mac: [u16; 3]) -> bool {
        self.veth.mac.is(mac)
    }

    #[inline(always)]
    fn resolve(&self, addr: &Addr) -> Option<(Mac, bool)> {
        let veth = self.veth;
        // Nobody answers for an address to its owner (duplicate address detection).
        if veth.owns(addr) {
            return None;
        }
        if veth.is_gateway(addr) {
            return Some((veth.gateway_mac, true));
        }
        let key = EndpointKey::new(veth.network, *addr);
        let endpoints = self.kernel.endpoints();
        match endpoints.with(&key, |endpoint| endpoint.mac) {
            Some(mac) => Some((mac, false)),
            None if veth.flags & OVERLAY != 0 => {
                let mac = |tunnel: &Tunnel| tunnel.mac;
                let mac = self.kernel.with_tunnel(veth.network, addr, mac)?;
                Some((mac, false))
            }
            None => None,
        }
    }

    #[inline(always)]
    fn back(&self, to: &Mac, from: &Mac) -> Result<(), DropReason> {
        back(self.kernel, to, from)
    }
}

/// Somebody on another host.
struct Remote<'a> {
    kernel: &'a Kernel<'a>,
    vtep: &'a Vtep,
    key: &'a VtepKey,
}

impl Asker for Remote<'_> {
    const SPOOFED: DropReason = DropReason::SpoofedTunnel;

    #[inline(always)]
    fn may_ask(&self, addr: &Addr) -> bool {
        overlay::may_ask(self.kernel, self.vtep, addr)
    }

    #[inline(always)]
    fn has_mac(&self, _: [u16; 3]) -> bool {
        // A bridge asks for its containers.
        true
    }

    #[inline(always)]
    fn resolve(&self, addr: &Addr) -> Option<(Mac, bool)> {
        overlay::resolve(self.kernel, self.vtep, addr)
    }

    #[inline(always)]
    fn back(&self, to: &Mac, from: &Mac) -> Result<(), DropReason> {
        rewrite::macs(self.kernel.ctx, to, from)?;
        let VtepKey { addr, vni, ifindex } = self.key;
        put_into(self.kernel, *vni, addr, *ifindex)
    }
}

/// A container that takes everybody on its wire for one router. Whether the router answers has
/// been decided.
struct Routed<'a> {
    kernel: &'a Kernel<'a>,
    card: &'a Card,
}

impl Asker for Routed<'_> {
    const SPOOFED: DropReason = DropReason::SpoofedSource;

    #[inline(always)]
    fn may_ask(&self, addr: &Addr) -> bool {
        self.card.may_send_from(addr)
    }

    #[inline(always)]
    fn has_mac(&self, mac: [u16; 3]) -> bool {
        self.card.mac.is(mac)
    }

    #[inline(always)]
    fn resolve(&self, _: &Addr) -> Option<(Mac, bool)> {
        Some((ROUTER_MAC, true))
    }

    #[inline(always)]
    fn back(&self, to: &Mac, from: &Mac) -> Result<(), DropReason> {
        back(self.kernel, to, from)
    }
}

/// Somebody on a wire who asks for such a container.
struct OnWire<'a> {
    kernel: &'a Kernel<'a>,
    /// The parent's MAC address.
    mac: &'a Mac,
}

impl Asker for OnWire<'_> {
    const SPOOFED: DropReason = DropReason::SpoofedSource;

    #[inline(always)]
    fn may_ask(&self, _: &Addr) -> bool {
        true
    }

    #[inline(always)]
    fn has_mac(&self, _: [u16; 3]) -> bool {
        true
    }

    #[inline(always)]
    fn resolve(&self, _: &Addr) -> Option<(Mac, bool)> {
        Some((*self.mac, false))
    }

    #[inline(always)]
    fn back(&self, to: &Mac, from: &Mac) -> Result<(), DropReason> {
        back(self.kernel, to, from)
    }
}

/// Sends the frame back where it came from.
#[inline(always)]
pub fn back(kernel: &Kernel<'_>, to: &Mac, from: &Mac) -> Result<(), DropReason> {
    rewrite::macs(kernel.ctx, to, from)?;
    // SAFETY: a helper with plain arguments.
    match unsafe { bpf_redirect(kernel.ifindex(), 0) } as i32 {
        TC_ACT_REDIRECT => Ok(()),
        _ => Err(DropReason::RewriteFailed),
    }
}

/// Answers a container's ARP request; the reason if that could not be.
#[inline(never)]
pub fn answer_arp(kernel: &Kernel<'_>, veth: &Veth) -> Option<DropReason> {
    try_arp(kernel, &Container { kernel, veth }).err()
}

/// Answers an ARP request of another host.
#[inline(never)]
pub fn answer_arp_of(kernel: &Kernel<'_>, vtep: &Vtep, key: &VtepKey) -> Option<DropReason> {
    try_arp(kernel, &Remote { kernel, vtep, key }).err()
}

/// Answers the ARP request of a container that takes everybody on its wire for one router.
#[inline(never)]
pub fn answer_arp_of_card(kernel: &Kernel<'_>, card: &Card) -> Option<DropReason> {
    try_arp(kernel, &Routed { kernel, card }).err()
}

/// Answers an ARP request from the wire for such a container, with the parent's MAC address.
#[inline(never)]
pub fn answer_arp_on_wire(kernel: &Kernel<'_>, mac: &Mac) -> Option<DropReason> {
    try_arp(kernel, &OnWire { kernel, mac }).err()
}

#[inline(always)]
fn try_arp<A: Asker>(kernel: &Kernel<'_>, asker: &A) -> Result<(), DropReason> {
    let linear = Linear::of(kernel.ctx, (L3 + 2 * ARP_WORDS) as u32);
    let words: [u16; ARP_WORDS] = linear.load(L3)?;
    let [a, b, c, d, m0, m1, m2, s0, s1, _, _, _, t0, t1] = words;
    if [a, b, c, d] != ARP_REQUEST {
        return Err(DropReason::Multicast);
    }
    // A probe (RFC 5227) asks on behalf of nobody.
    let own = s0 | s1 == 0 || asker.may_ask(&v4(s0, s1));
    if !own || !asker.has_mac([m0, m1, m2]) {
        return Err(A::SPOOFED);
    }
    let (mac, _) = asker
        .resolve(&v4(t0, t1))
        .ok_or(DropReason::NoSuchNeighbour)?;
    let [n0, n1, n2] = mac.words();
    let reply = [a, b, c, ARP_REPLY, n0, n1, n2, t0, t1, m0, m1, m2, s0, s1];
    linear.store(L3, reply).ok_or(DropReason::RewriteFailed)?;
    asker.back(&Mac::from_words([m0, m1, m2]), &mac)
}

/// An IPv4 address from two words in memory order.
#[inline(always)]
pub fn v4(a: u16, b: u16) -> Addr {
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

/// Answers a container's neighbour solicitation; the reason if that could not be. Other
/// discovery messages end here: containers are no routers, and advertisements nobody asked for
/// are how neighbours are impersonated.
#[inline(never)]
pub fn handle_discovery(
    kernel: &Kernel<'_>,
    veth: &Veth,
    packet: &Packet,
    kind: u8,
) -> Option<DropReason> {
    try_discovery(kernel, &Container { kernel, veth }, packet, kind).err()
}

/// As [`handle_discovery`], of another host.
#[inline(never)]
pub fn handle_discovery_of(
    kernel: &Kernel<'_>,
    vtep: &Vtep,
    key: &VtepKey,
    packet: &Packet,
    kind: u8,
) -> Option<DropReason> {
    try_discovery(kernel, &Remote { kernel, vtep, key }, packet, kind).err()
}

/// As [`answer_arp_of_card`], a neighbour solicitation.
#[inline(never)]
pub fn answer_discovery_of_card(
    kernel: &Kernel<'_>,
    card: &Card,
    packet: &Packet,
) -> Option<DropReason> {
    let asker = Routed { kernel, card };
    try_discovery(kernel, &asker, packet, NEIGHBOUR_SOLICITATION).err()
}

/// As [`answer_arp_on_wire`], a neighbour solicitation.
#[inline(never)]
pub fn answer_discovery_on_wire(
    kernel: &Kernel<'_>,
    mac: &Mac,
    packet: &Packet,
) -> Option<DropReason> {
    let asker = OnWire { kernel, mac };
    try_discovery(kernel, &asker, packet, NEIGHBOUR_SOLICITATION).err()
}

#[inline(always)]
fn try_discovery<A: Asker>(
    kernel: &Kernel<'_>,
    asker: &A,
    packet: &Packet,
    kind: u8,
) -> Result<(), DropReason> {
    if kind != NEIGHBOUR_SOLICITATION {
        let group = packet.tuple.dst.is_group();
        return Err(if group {
            DropReason::Multicast
        } else {
            A::SPOOFED
        });
    }
    // Duplicate address detection: our addresses are handed out by the agent, no clash.
    if packet.tuple.src.is_unspecified() {
        return Err(DropReason::NoSuchNeighbour);
    }
    if !asker.may_ask(&packet.tuple.src) {
        return Err(A::SPOOFED);
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
    // A bridge asks for its containers, so the frame's sender is whoever it says.
    let asked_by: [u16; 3] = linear.load(offset_of!(EthHdr, src_addr))?;
    let mut words: [u32; ADVERTISEMENT] = linear.load(headers)?;
    let [_, code, ..] = words[0].to_ne_bytes();
    if code != 0 {
        return Err(DropReason::Malformed);
    }
    let target = Addr::from_words([words[2], words[3], words[4], words[5]]);
    let (mac, gateway) = asker.resolve(&target).ok_or(DropReason::NoSuchNeighbour)?;
    let src = &packet.tuple.src;
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
    let mut sum = pseudo + sum_addr(&target) + sum_addr(src);
    let mut i = 0;
    while i < ADVERTISEMENT {
        sum += u64::from(words[i]);
        i += 1;
    }
    let [high, low] = (!fold(sum)).to_ne_bytes();
    words[0] = u32::from_ne_bytes([NEIGHBOUR_ADVERTISEMENT, 0, high, low]);
    linear
        .store(headers, words)
        .and_then(|()| linear.store(L3 + IPV6_ADDRS, [target.quads(), src.quads()]))
        .and_then(|()| linear.store(L3 + IPV6_PAYLOAD_LEN, (body as u16).to_be()))
        .ok_or(DropReason::RewriteFailed)?;
    asker.back(&Mac::from_words(asked_by), &mac)
}
