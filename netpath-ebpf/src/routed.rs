//! Containers on a wire that carries one MAC address a machine: all of them have the card's.
//!
//! The wire finds them by their IP addresses, for which the host answers there. To them everybody
//! on the wire has one MAC address, [`ROUTER_MAC`], and the kernel finds the real one when it sends.
//! The host and the containers of this host know each other as they are. So MAC addresses
//! say where a container's frame goes, as on any other wire.
//!
//! What writes to frames is a program of its own, `np_routed`: one that does has the kernel make
//! every frame's bytes private before it begins.

use core::mem::offset_of;
use core::ptr;

use aya_ebpf::bindings::BPF_F_INGRESS;
use aya_ebpf::helpers::generated::{bpf_clone_redirect, bpf_redirect_neigh};
use netpath_common::addr::{Addr, Mac};
use netpath_common::link::ROUTED;
use netpath_common::packet::{Frame as _, L3};
use netpath_common::reason::DropReason;
use netpath_common::tuple::OUTSIDE;
use netpath_common::underlay::{
    ADVERTISEMENT_WORDS, ARP_WORDS, Answerer, Card, CardAddr, is_group,
};
use network_types::eth::EthHdr;
use network_types::ip::{IpProto, Ipv4Hdr, Ipv6Hdr};

use crate::action::{self, ETH_ARP, ETH_IPV4, ETH_IPV6, Outcome};
use crate::frame::Linear;
use crate::kernel::Kernel;
use crate::neighbour::{self, NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, v4};
use crate::underlay::{self, PASS};
use crate::{aggregate, maps, rewrite};

const ICMPV6: u8 = IpProto::Ipv6Icmp as u8;
/// Operation of an ARP packet: a request.
const REQUEST: u16 = 1u16.to_be();

/// Ethernet, IPv6, and a solicitation without options: what is read of a question.
const QUESTION: u32 = (L3 + Ipv6Hdr::LEN + 24) as u32;
/// The same of an advertisement with an option.
const ADVERTISEMENT: u32 = QUESTION + 8;

/// The routed card that has an address; 0 if none has.
#[inline(always)]
fn find(parent: u32, addr: &Addr) -> u32 {
    underlay::at(maps::CARD_ADDRS.get_ptr(CardAddr::new(parent, *addr)))
}

/// Whether a frame that leaves the host with the card's MAC address is a container's.
#[inline(always)]
pub fn is_from_card(kernel: &Kernel<'_>) -> bool {
    maps::CARDS.get_ptr(kernel.ingress_ifindex()).is_some()
}

/// Goes on in `np_routed`.
#[inline(always)]
pub fn go_on(kernel: &Kernel<'_>) -> DropReason {
    // SAFETY: nothing here needs to be dropped. It comes back only if it fails, which the
    // agent's order of loading rules out.
    unsafe { maps::STAGES.tail_call(kernel.ctx, ROUTED) };
    DropReason::MissingStage
}

/// The address whose owner a frame asks for, by ARP or neighbour discovery; `::` if it asks for
/// none. The search for duplicates is no such question: it is for the owner to answer.
#[inline(always)]
fn asked(linear: &Linear) -> Result<Addr, DropReason> {
    match linear.load::<u16>(offset_of!(EthHdr, ether_type))? {
        ETH_ARP => {
            let words: [u16; ARP_WORDS] = linear.load(L3)?;
            Ok(arp_target(&words))
        }
        ETH_IPV6 => {
            let [head, s0, s1, _, _]: [u64; Ipv6Hdr::LEN / 8] = linear.load(L3)?;
            let [.., next, _] = head.to_ne_bytes();
            // Type, code and checksum; reserved; the target.
            let [kind, _, a, b, c, d]: [u32; 6] = linear.load(L3 + Ipv6Hdr::LEN)?;
            let [kind, ..] = kind.to_ne_bytes();
            if next == ICMPV6 && kind == NEIGHBOUR_SOLICITATION && s0 | s1 != 0 {
                Ok(Addr::from_words([a, b, c, d]))
            } else {
                Ok(Addr::UNSPECIFIED)
            }
        }
        _ => Ok(Addr::UNSPECIFIED),
    }
}

/// The address whose owner an ARP request asks for; `::` if it is none.
#[inline(always)]
fn arp_target(words: &[u16; ARP_WORDS]) -> Addr {
    let [_, _, _, kind, _, _, _, _, _, _, _, _, a, b] = *words;
    if kind == REQUEST {
        v4(a, b)
    } else {
        Addr::UNSPECIFIED
    }
}

/// The routed card that a frame from the wire asks for; 0 if it asks for none.
#[inline(always)]
pub fn asks_for(kernel: &Kernel<'_>, parent: u32) -> u32 {
    match asked(&Linear::of(kernel.ctx, QUESTION)) {
        Ok(addr) if !addr.is_unspecified() => find(parent, &addr),
        _ => 0,
    }
}

/// A frame from the wire for the card's own MAC address: the host's, or a container's by its IP
/// address.
#[inline(always)]
pub fn from_wire(kernel: &Kernel<'_>, parent: u32) -> i32 {
    if asks_for(kernel, parent) != 0 {
        return action::finish(kernel, Err(go_on(kernel)));
    }
    let Ok(dst) = destination(&Linear::of(kernel.ctx, QUESTION)) else {
        return PASS;
    };
    let card = find(parent, &dst);
    if card == 0 {
        return PASS;
    }
    action::finish(kernel, underlay::to_neighbour(kernel, parent, card))
}

/// Where an IP packet goes; the error means that it is none.
#[inline(always)]
fn destination(linear: &Linear) -> Result<Addr, DropReason> {
    match linear.load::<u16>(offset_of!(EthHdr, ether_type))? {
        ETH_IPV4 => {
            let octets: [u8; 4] = linear.load(L3 + offset_of!(Ipv4Hdr, dst_addr))?;
            Ok(Addr::v4(octets))
        }
        ETH_IPV6 => {
            let words: [u32; 4] = linear.load(L3 + offset_of!(Ipv6Hdr, dst_addr))?;
            Ok(Addr::from_words(words))
        }
        _ => Err(DropReason::UnknownEtherType),
    }
}

/// A routed card's frame, whose sender is who it says. `asks`: it is of ARP or neighbour
/// discovery.
#[inline(always)]
pub fn from_card(
    kernel: &Kernel<'_>,
    card: &Card,
    linear: &Linear,
    dst: [u16; 3],
    asks: bool,
) -> Result<Outcome, DropReason> {
    let parent = card.parent;
    if !is_group(dst) {
        if card.parent_mac.is(dst) {
            return underlay::to_host(parent);
        }
        let neighbour = underlay::find(parent, 0, dst);
        if neighbour != 0 {
            return underlay::to_neighbour(kernel, parent, neighbour);
        }
        // The host may be meant by an address that is not of this wire.
        if !asks && maps::HOST_ADDRS.get_ptr(destination(linear)?).is_none() {
            return to_wire(kernel, parent);
        }
    }
    Err(go_on(kernel))
}

/// Sends an IP packet to the wire: the kernel finds the next hop and its MAC address.
#[inline(always)]
fn to_wire(kernel: &Kernel<'_>, parent: u32) -> Result<Outcome, DropReason> {
    if !aggregate::may_leave(kernel) {
        return Err(DropReason::PassedOnAggregate);
    }
    // SAFETY: no parameters, as their length says.
    let result = unsafe { bpf_redirect_neigh(parent, ptr::null_mut(), 0, 0) };
    let sent = action::redirected(result, Outcome::Sent)?;
    let len = kernel.ctx.len();
    kernel.count(|counters| counters.to_uplink.add(len));
    Ok(sent)
}

/// `np_routed`: answers, and frames that get another MAC address.
#[inline(always)]
pub fn run(kernel: &Kernel<'_>) -> Result<Outcome, DropReason> {
    match maps::CARDS.get_ptr(kernel.ifindex()) {
        // SAFETY: map values stay allocated while the program runs.
        Some(card) => rest_of_card(kernel, unsafe { &*card }),
        None => answer_wire(kernel),
    }
}

/// Somebody on the wire asks for a routed card, and learns the parent's MAC address.
#[inline(always)]
fn answer_wire(kernel: &Kernel<'_>) -> Result<Outcome, DropReason> {
    let card = maps::CARDS
        .get_ptr(asks_for(kernel, kernel.ifindex()))
        .ok_or(DropReason::NoSuchNeighbour)?;
    // SAFETY: map values stay allocated while the program runs.
    let mac: Mac = unsafe { (*card).parent_mac };
    let linear = Linear::of(kernel.ctx, QUESTION);
    let ether_type: u16 = linear.load(offset_of!(EthHdr, ether_type))?;
    if ether_type == ETH_ARP {
        return action::answered(neighbour::answer_arp_on_wire(kernel, &mac));
    }
    let packet = kernel.packet(OUTSIDE)?;
    action::parse(packet, &linear, ether_type)?;
    let failure = neighbour::answer_discovery_on_wire(kernel, &mac, packet);
    action::answered(failure)
}

/// A frame of a routed card that is for a group, asks for somebody, or is for the host by another
/// MAC address than its own.
#[inline(always)]
fn rest_of_card(kernel: &Kernel<'_>, card: &Card) -> Result<Outcome, DropReason> {
    let parent = card.parent;
    let (ether_type, linear) = action::open(kernel)?;
    let dst: [u16; 3] = linear.load(offset_of!(EthHdr, dst_addr))?;
    let is_here =
        |addr: &Addr| find(parent, addr) != 0 || maps::HOST_ADDRS.get_ptr(*addr).is_some();
    let mut stays = false;
    let mut advertises = false;
    if ether_type == ETH_ARP {
        let words: [u16; ARP_WORDS] = linear.load(L3)?;
        if card.answerer(&arp_target(&words), is_here) == Answerer::Router {
            return action::answered(neighbour::answer_arp_of_card(kernel, card));
        }
        stays = true;
    } else {
        let packet = kernel.packet(OUTSIDE)?;
        action::parse(packet, &linear, ether_type)?;
        let mut discovers = false;
        if packet.ip_proto == ICMPV6
            && ether_type == ETH_IPV6
            && let Some(kind) = neighbour::discovery(&linear, packet)?
        {
            discovers = true;
            let searches = packet.tuple.src.is_unspecified();
            if kind == NEIGHBOUR_SOLICITATION && !searches {
                let target = asked(&Linear::of(kernel.ctx, QUESTION))?;
                if card.answerer(&target, is_here) == Answerer::Router {
                    let failure = neighbour::answer_discovery_of_card(kernel, card, packet);
                    return action::answered(failure);
                }
            }
            stays = !Card::is_for_wire(kind, searches);
            advertises = kind == NEIGHBOUR_ADVERTISEMENT;
        }
        if !is_group(dst) && !discovers {
            // The host's stack finds out by itself which of its addresses is meant.
            rewrite::macs(kernel.ctx, &card.parent_mac, &card.mac)?;
            return underlay::to_host(parent);
        }
    }
    if !is_group(dst) {
        return Err(DropReason::NoSuchNeighbour);
    }
    underlay::copy(kernel, parent, 0, kernel.ifindex());
    // Questions for somebody on this host are not the wire's business.
    if stays {
        return underlay::to_host(parent);
    }
    // SAFETY: the context is the program's own.
    unsafe { bpf_clone_redirect(kernel.ctx.skb.skb, parent, BPF_F_INGRESS.into()) };
    if advertises {
        advertise(kernel, card)?;
    }
    rewrite::macs(kernel.ctx, &Mac::from_words(dst), &card.parent_mac)?;
    underlay::to(kernel, parent)
}

/// Has an advertisement of a routed card name the parent's MAC address. One that names none is fine.
#[inline(always)]
fn advertise(kernel: &Kernel<'_>, card: &Card) -> Result<(), DropReason> {
    if kernel.ctx.len() < ADVERTISEMENT {
        return Ok(());
    }
    let linear = Linear::of(kernel.ctx, ADVERTISEMENT);
    let mut words: [u16; ADVERTISEMENT_WORDS] = linear.load(L3 + Ipv6Hdr::LEN)?;
    if !card.advertise(&mut words) {
        return Err(DropReason::SpoofedSource);
    }
    linear
        .store(L3 + Ipv6Hdr::LEN, words)
        .ok_or(DropReason::RewriteFailed)
}
