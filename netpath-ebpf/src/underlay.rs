//! Containers on the wire of the host's own card: frames go between the wire, the host and the
//! containers by their MAC addresses, as on a switch.
//!
//! Unicast takes one look-up and is never copied nor changed; a VLAN's tag lies beside the frame,
//! not in it. Broadcast and multicast are copied to each member of the segment, one by one.
//!
//! What is different where all containers share the card's own MAC address: see [`crate::routed`];
//! and where their devices are the kernel's: see [`crate::stacked`].

use core::mem::offset_of;

use aya_ebpf::bindings::{BPF_F_INGRESS, TC_ACT_REDIRECT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::{
    bpf_clone_redirect, bpf_redirect, bpf_redirect_peer, bpf_skb_vlan_pop, bpf_skb_vlan_push,
};
use netpath_common::addr::Addr;
use netpath_common::env::{Env as _, Repeat};
use netpath_common::packet::{Frame as _, L3};
use netpath_common::reason::DropReason;
use netpath_common::tuple::OUTSIDE;
use netpath_common::underlay::{
    ARP_WORDS, Card, CardMac, FIRST_STACKED, ROUTED_PARENT, SegmentPlace, is_group, is_stacked,
};
use network_types::eth::EthHdr;
use network_types::ip::{IpProto, Ipv6Hdr};

use crate::action::{self, ETH_ARP, ETH_IPV6, Outcome};
use crate::frame::Linear;
use crate::kernel::Kernel;
use crate::{aggregate, maps, neighbour, routed, stacked};

/// Tag protocol 802.1Q, in memory order.
const VLAN_8021Q: u16 = 0x8100u16.to_be();
/// The VLAN's number in a tag.
const VLAN_ID: u16 = 0x0fff;

/// Where the next program of the device, or the stack, goes on with the frame as it is.
pub const PASS: i32 = TC_ACT_UNSPEC;

/// What stands beside a frame: its VLAN tag.
#[derive(Clone, Copy)]
struct Tag {
    /// The tag as it is, host byte order.
    control: u16,
    /// Whether there is one. Number 0 means a priority without a VLAN.
    is_there: bool,
}

impl Tag {
    /// The tag of a frame; `None` if it is one of a provider's (802.1ad).
    #[inline(always)]
    fn of(kernel: &Kernel<'_>) -> Option<Self> {
        // SAFETY: the context is valid for the program's whole run.
        let (present, protocol, control) = unsafe {
            let skb = kernel.ctx.skb.skb;
            ((*skb).vlan_present, (*skb).vlan_proto, (*skb).vlan_tci)
        };
        if present != 0 && protocol as u16 != VLAN_8021Q {
            return None;
        }
        Some(Self {
            control: control as u16,
            is_there: present != 0,
        })
    }

    #[inline(always)]
    fn vlan(self) -> u16 {
        if self.is_there {
            self.control & VLAN_ID
        } else {
            0
        }
    }

    /// Takes it off the frame.
    #[inline(always)]
    fn take(self, kernel: &Kernel<'_>) -> Result<(), DropReason> {
        if !self.is_there {
            return Ok(());
        }
        // SAFETY: the context is the program's own.
        match unsafe { bpf_skb_vlan_pop(kernel.ctx.skb.skb) } {
            0 => Ok(()),
            _ => Err(DropReason::RewriteFailed),
        }
    }

    /// Puts it onto a frame that has none.
    #[inline(always)]
    fn put(self, kernel: &Kernel<'_>) -> Result<(), DropReason> {
        if !self.is_there {
            return Ok(());
        }
        // SAFETY: the context is the program's own.
        match unsafe { bpf_skb_vlan_push(kernel.ctx.skb.skb, VLAN_8021Q, self.control) } {
            0 => Ok(()),
            _ => Err(DropReason::RewriteFailed),
        }
    }
}

/// The members of a segment, and how to copy a frame to them.
struct Copies<'a, 'b> {
    kernel: &'a Kernel<'b>,
    parent: u32,
    vlan: u16,
    /// The member that sent it; 0 for none.
    sender: u32,
}

impl Repeat for Copies<'_, '_> {
    #[inline(always)]
    fn step(&mut self, round: u32) -> bool {
        let place = SegmentPlace::member(self.parent, self.vlan, (round + 1) as u16);
        let member = at(maps::SEGMENTS.get_ptr(place));
        if member != 0 && member != self.sender {
            // A member whose queue is full, or that goes just now, misses it, as on any wire.
            // SAFETY: the context is the program's own.
            unsafe { bpf_clone_redirect(self.kernel.ctx.skb.skb, member, 0) };
        }
        true
    }
}

/// A value of a map; 0 if there is none.
#[inline(always)]
pub fn at(value: Option<*const u32>) -> u32 {
    // SAFETY: map values stay allocated while the program runs.
    value.map_or(0, |value| unsafe { *value })
}

/// Copies a frame without a tag to the members of a segment, but for its sender.
#[inline(always)]
pub fn copy(kernel: &Kernel<'_>, parent: u32, vlan: u16, sender: u32) {
    let count = at(maps::SEGMENTS.get_ptr(SegmentPlace::count(parent, vlan)));
    let mut copies = Copies {
        kernel,
        parent,
        vlan,
        sender,
    };
    kernel.repeat(count, &mut copies);
}

/// The card that has a MAC address; 0 if none has.
#[inline(always)]
pub fn find(parent: u32, vlan: u16, mac: [u16; 3]) -> u32 {
    at(maps::CARD_MACS.get_ptr(CardMac::new(parent, vlan, mac)))
}

/// What comes from the wire (`inward`), or leaves the host by it, goes on as it is unless it is for
/// a container: others' frames are not ours to count.
#[inline(always)]
fn pass_or_take(kernel: &Kernel<'_>, inward: bool, deliver: impl FnOnce(u32) -> i64) -> i32 {
    let linear = Linear::as_is(kernel.ctx);
    let (Ok(dst), Ok(src)) = (
        linear.load::<[u16; 3]>(offset_of!(EthHdr, dst_addr)),
        linear.load::<[u16; 3]>(offset_of!(EthHdr, src_addr)),
    ) else {
        return PASS;
    };
    let Some(tag) = Tag::of(kernel) else {
        return PASS;
    };
    let (parent, vlan) = (kernel.ifindex(), tag.vlan());
    if is_group(dst) {
        // A container's own: it has been copied, and is on its way to the host or to the wire.
        let sender = find(parent, vlan, src);
        if !inward && is_stacked(sender) {
            stacked::spread(kernel, parent);
            return PASS;
        }
        if sender != 0 && (sender != ROUTED_PARENT || routed::is_from_card(kernel)) {
            return PASS;
        }
        if inward && vlan == 0 && routed::asks_for(kernel, parent) != 0 {
            return action::finish(kernel, Err(routed::go_on(kernel)));
        }
        if tag.take(kernel).is_err() {
            return PASS;
        }
        copy(kernel, parent, vlan, 0);
        if !inward && vlan == 0 {
            stacked::offer(kernel, parent, dst);
        }
        return match tag.put(kernel) {
            Ok(()) => PASS,
            Err(reason) => action::finish(kernel, Err(reason)),
        };
    }
    let card = if vlan == 0 && stacked::has(parent, dst) {
        FIRST_STACKED
    } else {
        find(parent, vlan, dst)
    };
    if card == 0 {
        return PASS;
    }
    if card == ROUTED_PARENT {
        return if inward {
            routed::from_wire(kernel, parent)
        } else {
            PASS
        };
    }
    if is_stacked(card) {
        return if inward {
            stacked::deliver(kernel)
        } else {
            action::finish(kernel, stacked::send(parent))
        };
    }
    let result = tag.take(kernel).and_then(|()| {
        if deliver(card) == i64::from(TC_ACT_REDIRECT) {
            Ok(Outcome::ToContainer)
        } else {
            Err(DropReason::RewriteFailed)
        }
    });
    action::finish(kernel, result)
}

/// The parent's ingress: what comes from the wire, and what containers send to the host.
#[inline(always)]
pub fn from_wire(kernel: &Kernel<'_>) -> i32 {
    if let Some(action) = stacked::take_offer(kernel) {
        return action;
    }
    pass_or_take(kernel, true, |card| {
        action::claim(kernel);
        // SAFETY: a helper with plain arguments.
        unsafe { bpf_redirect_peer(card, 0) }
    })
}

/// The parent's egress: what the host sends, and what containers send to the wire.
#[inline(always)]
pub fn to_wire(kernel: &Kernel<'_>) -> i32 {
    if let Some(action) = stacked::follow_note(kernel, kernel.ifindex()) {
        return action;
    }
    // Not redirect_peer, which works from ingress only.
    // SAFETY: a helper with plain arguments.
    pass_or_take(kernel, false, |card| unsafe { bpf_redirect(card, 0) })
}

/// A card's frames, from the container.
#[inline(always)]
pub fn from_card(kernel: &Kernel<'_>) -> Result<Outcome, DropReason> {
    let ifindex = kernel.ifindex();
    let card = maps::CARDS
        .get_ptr(ifindex)
        .ok_or(DropReason::UnknownEndpoint)?;
    // SAFETY: map values stay allocated while the program runs.
    let card: &Card = unsafe { &*card };
    let Checked { dst, asks, linear } = check_frame(kernel, card)?;
    if card.is_routed() {
        return routed::from_card(kernel, card, &linear, dst, asks);
    }
    let tag = Tag {
        control: card.vlan,
        is_there: card.vlan != 0,
    };
    let (parent, vlan) = (card.parent, card.vlan);
    if is_group(dst) {
        copy(kernel, parent, vlan, ifindex);
        tag.put(kernel)?;
        // The host hears it as if it came by the wire.
        // SAFETY: the context is the program's own.
        unsafe { bpf_clone_redirect(kernel.ctx.skb.skb, parent, BPF_F_INGRESS.into()) };
        return to(kernel, parent);
    }
    if card.parent_mac.is(dst) {
        tag.put(kernel)?;
        return to_host(parent);
    }
    let neighbour = find(parent, vlan, dst);
    if neighbour != 0 {
        return to_neighbour(kernel, parent, neighbour);
    }
    if !aggregate::may_leave(kernel) {
        return Err(DropReason::PassedOnAggregate);
    }
    tag.put(kernel)?;
    to(kernel, parent)
}

/// Gives the frame to the host, as if it had come by the wire.
#[inline(always)]
pub fn to_host(parent: u32) -> Result<Outcome, DropReason> {
    // SAFETY: a helper with plain arguments.
    let result = unsafe { bpf_redirect(parent, BPF_F_INGRESS.into()) };
    action::redirected(result, Outcome::ToGateway)
}

/// Gives the frame of a container to another one on the parent.
#[inline(always)]
pub fn to_neighbour(kernel: &Kernel<'_>, parent: u32, ifindex: u32) -> Result<Outcome, DropReason> {
    if is_stacked(ifindex) {
        return stacked::send(parent);
    }
    action::claim(kernel);
    // SAFETY: a helper with plain arguments.
    let result = unsafe { bpf_redirect_peer(ifindex, 0) };
    action::redirected(result, Outcome::ToContainer)
}

/// Sends the frame to the wire.
#[inline(always)]
pub fn to(kernel: &Kernel<'_>, parent: u32) -> Result<Outcome, DropReason> {
    // SAFETY: a helper with plain arguments.
    let sent = action::redirected(unsafe { bpf_redirect(parent, 0) }, Outcome::Sent)?;
    let len = kernel.ctx.len();
    kernel.count(|counters| counters.to_uplink.add(len));
    Ok(sent)
}

/// A container's frame whose sender is who it says.
pub struct Checked {
    /// For whom it is.
    pub dst: [u16; 3],
    /// It is of ARP or neighbour discovery.
    asks: bool,
    linear: Linear,
}

/// Judges a container's frame.
#[inline(always)]
pub fn check_frame(kernel: &Kernel<'_>, card: &Card) -> Result<Checked, DropReason> {
    // A container cannot choose its VLAN: a tag of its own is refused here.
    let (ether_type, linear) = action::open(kernel)?;
    if !card.mac.is(linear.load(offset_of!(EthHdr, src_addr))?) {
        return Err(DropReason::SpoofedSource);
    }
    Ok(Checked {
        dst: linear.load(offset_of!(EthHdr, dst_addr))?,
        asks: check(kernel, card, ether_type, &linear)?,
        linear,
    })
}

/// Judges who a frame says it is from. True: it is of ARP or neighbour discovery.
#[inline(always)]
fn check(
    kernel: &Kernel<'_>,
    card: &Card,
    ether_type: u16,
    linear: &Linear,
) -> Result<bool, DropReason> {
    if ether_type == ETH_ARP {
        let words: [u16; ARP_WORDS] = linear.load(L3)?;
        return card.check_arp(&words).map(|()| true);
    }
    let packet = kernel.packet(OUTSIDE)?;
    action::parse(packet, linear, ether_type)?;
    card.check(packet)?;
    if packet.ip_proto != IpProto::Ipv6Icmp as u8 || ether_type != ETH_IPV6 {
        return Ok(false);
    }
    let Some(kind) = neighbour::discovery(linear, packet)? else {
        return Ok(false);
    };
    // Discovery is not hidden behind extension headers.
    if usize::from(packet.l4) != L3 + Ipv6Hdr::LEN {
        return Err(DropReason::Malformed);
    }
    // Type, code and checksum; flags; the target, which solicitations of routers lack.
    let target = match linear.load::<[u32; 6]>(L3 + Ipv6Hdr::LEN) {
        Ok([_, _, a, b, c, d]) => Addr::from_words([a, b, c, d]),
        Err(_) => Addr::UNSPECIFIED,
    };
    card.check_discovery(kind, &target).map(|()| true)
}
