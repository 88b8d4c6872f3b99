//! Containers whose device is the kernel's own, stacked on the card: see
//! [`netpath_common::underlay`].
//!
//! What such a container sends is at the card within the sender's own call: there is no queue
//! between them, as a veth has one. It meets two programs. The first, on the device itself, knows
//! by that who sends, judges it, and notes beside the frame what it found; the second, on the card,
//! goes by the note. What comes for the container is the kernel's to deliver.
//!
//! A socket that leaves out its device's programs (`PACKET_QDISC_BYPASS`, with `CAP_NET_RAW`) is
//! not judged: the card's program takes what it sends for the host's.

use aya_ebpf::bindings::BPF_F_INGRESS;
use aya_ebpf::helpers::generated::{bpf_clone_redirect, bpf_skb_change_type};
use netpath_common::packet::Frame as _;
use netpath_common::reason::DropReason;
use netpath_common::underlay::{Card, SegmentPlace, is_group, is_stacked, place_of, stacked_place};

use crate::action::{self, ETH_IPV4, Outcome};
use crate::frame::Linear;
use crate::kernel::Kernel;
use crate::underlay::{self, PASS};
use crate::{aggregate, maps};

/// The kernel goes on with the frame, without asking further programs of the device (`TCX_PASS`).
const ACCEPT: i32 = 0;
/// What eth_type_trans() says of frames for others (linux/if_packet.h).
const PACKET_OTHERHOST: u32 = 3;

/// An IPv4 header without options: version 4, five words.
const PLAIN_IPV4: u8 = 0x45;

/// What is noted beside a frame (`tc_index`), for the next program that meets it and for no other:
/// a note that stayed would be read again where the host, or another on this machine, passes the
/// frame on. Sockets cannot write it; of the kernel's queueing disciplines one can (gred), which
/// takes `CAP_NET_ADMIN`.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
enum Note {
    /// The card's egress has to see for itself.
    Nothing = 0,
    /// It is for somebody on the wire.
    ToWire = 0x6e70,
    /// It is for the host.
    ToHost = 0x6e71,
    /// The host has sent it to a group, of which the card's ingress takes it to the stacked cards.
    ToStacked = 0x6e72,
}

impl Note {
    #[inline(always)]
    fn is_on(self, kernel: &Kernel<'_>) -> bool {
        // SAFETY: the context is valid for the program's whole run.
        unsafe { (*kernel.ctx.skb.skb).tc_index == u32::from(self as u16) }
    }

    #[inline(always)]
    fn write(self, kernel: &Kernel<'_>) {
        // SAFETY: as above.
        unsafe { (*kernel.ctx.skb.skb).tc_index = u32::from(self as u16) }
    }
}

/// The egress of a stacked device, in the container's namespace.
#[inline(always)]
pub fn guard(kernel: &Kernel<'_>) -> i32 {
    match judge(kernel) {
        Ok(note) => {
            forget_wishes(kernel);
            note.write(kernel);
            if note == Note::ToWire {
                let len = kernel.ctx.len();
                kernel.count(|counters| {
                    counters.seen.add(len);
                    counters.to_uplink.add(len);
                });
            }
            PASS
        }
        Err(reason) => action::finish(kernel, Err(reason)),
    }
}

/// What a container's sockets may ask of its own stack is not for the host's rules and queues: a veth
/// between the namespaces would clear it.
#[inline(always)]
fn forget_wishes(kernel: &Kernel<'_>) {
    // SAFETY: the context is valid for the program's whole run.
    unsafe {
        (*kernel.ctx.skb.skb).mark = 0;
        (*kernel.ctx.skb.skb).priority = 0;
    }
}

#[inline(always)]
fn judge(kernel: &Kernel<'_>) -> Result<Note, DropReason> {
    // A container that may can take the device to another namespace, under another number.
    if !is_stacked(kernel.ifindex()) {
        return Err(DropReason::UnknownEndpoint);
    }
    let card = maps::STACKED
        .get_ptr(place_of(kernel.ifindex()))
        .ok_or(DropReason::UnknownEndpoint)?;
    // SAFETY: array values live as long as the map.
    let card: &Card = unsafe { &*card };
    if card.parent == 0 {
        return Err(DropReason::UnknownEndpoint);
    }
    let dst = match usual(kernel, card) {
        Some(dst) => dst,
        None => underlay::check_frame(kernel, card)?.dst,
    };
    if is_group(dst) {
        return Ok(Note::Nothing);
    }
    if card.parent_mac.is(dst) {
        return Ok(Note::ToHost);
    }
    if card.may_be_neighbour(dst) && underlay::find(card.parent, card.vlan, dst) != 0 {
        return Ok(Note::Nothing);
    }
    if !aggregate::may_leave(kernel) {
        return Err(DropReason::PassedOnAggregate);
    }
    Ok(Note::ToWire)
}

/// Where a frame goes that is what nearly all are: IPv4, from the container's own addresses.
#[inline(always)]
fn usual(kernel: &Kernel<'_>, card: &Card) -> Option<[u16; 3]> {
    // Ethernet, and IPv4 up to the source.
    let words: [u16; 15] = Linear::as_is(kernel.ctx).load(0).ok()?;
    let [d, e, f, a, b, c, kind, head, _, _, _, _, _, high, low] = words;
    let [_, _, _, own] = card.addr4.quads();
    let plain = kind == ETH_IPV4 && head.to_ne_bytes()[0] == PLAIN_IPV4 && !kernel.vlan_tagged();
    // SAFETY: integers of the same total size.
    let src = unsafe { core::mem::transmute::<[u16; 2], u32>([high, low]) };
    (plain && src == own && card.mac.is([a, b, c])).then_some([d, e, f])
}

/// Whether a MAC address on a parent, in no VLAN, is a stacked card's. False means that it has to be
/// searched for.
#[inline(always)]
pub fn has(parent: u32, mac: [u16; 3]) -> bool {
    let card = maps::STACKED.get_ptr(stacked_place(mac));
    // SAFETY: array values live as long as the map.
    card.is_some_and(|card| unsafe { (*card).parent == parent && (*card).mac.is(mac) })
}

/// What the guard noted of a frame at the card's egress. `None`: nothing, or it has not been there.
#[inline(always)]
pub fn follow_note(kernel: &Kernel<'_>, parent: u32) -> Option<i32> {
    if Note::ToWire.is_on(kernel) {
        Note::Nothing.write(kernel);
        return Some(PASS);
    }
    if Note::ToHost.is_on(kernel) {
        Note::Nothing.write(kernel);
        return Some(action::finish(kernel, underlay::to_host(parent)));
    }
    None
}

/// A frame for a stacked card at the card's ingress: the kernel delivers it. It is not the host's, so
/// no other program is asked.
#[inline(always)]
pub fn deliver(kernel: &Kernel<'_>) -> i32 {
    let len = kernel.ctx.len();
    kernel.count(|counters| {
        counters.seen.add(len);
        counters.to_container.add(len);
    });
    ACCEPT
}

/// Takes a frame from a stacked card, for a group, to the host and to all cards but the sender.
#[inline(always)]
pub fn spread(kernel: &Kernel<'_>, parent: u32) {
    let len = kernel.ctx.len();
    kernel.count(|counters| {
        counters.seen.add(len);
        counters.to_uplink.add(len);
    });
    underlay::copy(kernel, parent, 0, 0);
    // As if it had come by the wire: the kernel copies it to the stacked ones.
    // SAFETY: the context is the program's own.
    unsafe { bpf_clone_redirect(kernel.ctx.skb.skb, parent, BPF_F_INGRESS.into()) };
}

/// Takes a frame that the host sends to a group to the stacked cards.
#[inline(always)]
pub fn offer(kernel: &Kernel<'_>, parent: u32, dst: [u16; 3]) {
    // Groups that no switch passes on (IEEE 802.1Q, 8.6.3): the host would hear itself for nothing.
    if [dst[0], dst[1]] == [0x0180u16.to_be(), 0xc200u16.to_be()] {
        return;
    }
    if underlay::at(maps::SEGMENTS.get_ptr(SegmentPlace::stacked(parent))) == 0 {
        return;
    }
    Note::ToStacked.write(kernel);
    // SAFETY: the context is the program's own.
    unsafe { bpf_clone_redirect(kernel.ctx.skb.skb, parent, BPF_F_INGRESS.into()) };
    Note::Nothing.write(kernel);
}

/// Such a frame at the card's ingress. The kernel copies it to the stacked cards before it asks for
/// whom it is; then the host, which sent it, does not hear itself. `None`: it is another one.
#[inline(always)]
pub fn take_offer(kernel: &Kernel<'_>) -> Option<i32> {
    if !Note::ToStacked.is_on(kernel) {
        return None;
    }
    Note::Nothing.write(kernel);
    // SAFETY: the context is the program's own.
    unsafe { bpf_skb_change_type(kernel.ctx.skb.skb, PACKET_OTHERHOST) };
    Some(ACCEPT)
}

/// Gives a frame to a stacked card of the parent, from elsewhere than the wire.
#[inline(always)]
pub fn send(parent: u32) -> Result<Outcome, DropReason> {
    // The card's ingress counts it.
    underlay::to_host(parent).map(|_| Outcome::Sent)
}
