//! Aggregates (GSO) that came through a tunnel and were taken out of it by our own hand.
//!
//! The kernel notes in an aggregate that it is encapsulated, and nothing but the device can take
//! that note away. Whoever receives the packet does not ask for it. But if a container passes
//! the aggregate on, a card that can cut tunnelled packets would look for a tunnel in it. So
//! packets that leave the host are asked for the note, as soon as there can be any that have it;
//! one that has is dropped, and from then on aggregates are the device's: the sender repeats what
//! was lost, and nobody else pays for a container that does what hardly any does.

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::{
    BPF_ADJ_ROOM_ENCAP_L2_MASK, BPF_ADJ_ROOM_ENCAP_L2_SHIFT, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
    BPF_F_ADJ_ROOM_FIXED_GSO,
};
use aya_ebpf::helpers::generated::bpf_skb_adjust_room;
use netpath_common::packet::Packet;
use netpath_common::tunnel::{bulk_place, may_overtake};
use network_types::ip::IpProto;

use crate::kernel::Kernel;
use crate::maps;

/// Place in map `aggregates`: which of the following states the host is in.
const STATE: u32 = 0;
/// Place in map `aggregates`: 1 if aggregates went to the device.
const DEVICE: u32 = 1;

/// No aggregate was taken out of a tunnel by our own hand yet.
const NONE: u32 = 0;
/// There was one, so that containers can have such.
const SOME: u32 = 1;
/// A container passed one on: they are the device's.
const PASSED_ON: u32 = 2;

/// `EALREADY`.
const ALREADY: i64 = -114;

/// Whether a packet, whose inner protocol this is, may be taken out of its tunnel by our own hand.
#[inline(always)]
pub fn may_unwrap(kernel: &Kernel<'_>, inner: u8) -> bool {
    if kernel.gso_size() == 0 {
        return true;
    }
    // A socket for datagrams has its aggregates cut, for which the kernel would look for the tunnel.
    if inner != IpProto::Tcp as u8 {
        return false;
    }
    match get(STATE) {
        NONE => set(STATE, SOME),
        SOME => {}
        _ => return false,
    }
    true
}

/// Notes an aggregate that goes to the device, given its outer headers.
///
/// There it waits for its turn: a packet on the short way would overtake those of its own
/// connection, see [`must_wait`].
#[inline(always)]
pub fn note(kernel: &Kernel<'_>, outer: &Packet) {
    if kernel.gso_size() == 0 {
        return;
    }
    let place = bulk_place(&outer.tuple.src, outer.tuple.src_port);
    if let Some(last) = maps::BULK.get_ptr_mut(place) {
        // SAFETY: array values live as long as the map; it is one word.
        unsafe { *last = kernel.ticks() };
        set(DEVICE, 1);
    }
}

/// Whether a packet from another host might overtake an aggregate of its flow on the short way.
#[inline(always)]
pub fn must_wait(kernel: &Kernel<'_>, outer: &Packet) -> bool {
    if get(DEVICE) == 0 {
        return false;
    }
    let place = bulk_place(&outer.tuple.src, outer.tuple.src_port);
    // SAFETY: array values live as long as the map; it is one word.
    let last = maps::BULK.get_ptr(place).map(|last| unsafe { *last });
    last.is_some_and(|last| may_overtake(last, kernel.ticks()))
}

/// Whether a packet may leave the host by a card.
#[inline(always)]
pub fn may_leave(kernel: &Kernel<'_>) -> bool {
    kernel.gso_size() == 0 || get(STATE) == NONE || !is_encapsulated(kernel)
}

/// Whether the kernel takes the packet for an encapsulated one. No field tells it; but the kernel
/// refuses to encapsulate such a packet once more, before it finds fault with what it is asked here:
/// a byte of room for a header of 14.
#[inline(never)]
fn is_encapsulated(kernel: &Kernel<'_>) -> bool {
    const ROOM: i32 = 1;
    const HEADER: u64 = 14;
    const FLAGS: u64 = BPF_F_ADJ_ROOM_FIXED_GSO as u64
        | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 as u64
        | (HEADER & BPF_ADJ_ROOM_ENCAP_L2_MASK as u64) << BPF_ADJ_ROOM_ENCAP_L2_SHIFT;
    let skb = kernel.ctx.skb.skb;
    // SAFETY: the context is the program's own; plain arguments.
    let refused = unsafe { bpf_skb_adjust_room(skb, ROOM, BPF_ADJ_ROOM_MAC, FLAGS) };
    let encapsulated = refused == ALREADY;
    if encapsulated {
        set(STATE, PASSED_ON);
    }
    encapsulated
}

/// A word of the host's, 0 until it is set.
#[inline(always)]
fn get(place: u32) -> u32 {
    // SAFETY: array values live as long as the map; it is one word.
    maps::AGGREGATES
        .get_ptr(place)
        .map_or(0, |word| unsafe { *word })
}

/// Two CPUs may do it at once: what is lost is done again at the next packet.
#[inline(always)]
fn set(place: u32, to: u32) {
    if let Some(word) = maps::AGGREGATES.get_ptr_mut(place) {
        // SAFETY: as above.
        unsafe { *word = to };
    }
}
