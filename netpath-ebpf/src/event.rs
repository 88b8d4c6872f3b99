//! Telling those who watch. Nothing here is done while nobody does.

use core::mem::offset_of;
use core::ptr;

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use netpath_common::counter::Hook;
use netpath_common::event::{Event, EventKind, Known};
use netpath_common::flow::{Direction, Flow};
use netpath_common::packet::Frame as _;
use netpath_common::reason::DropReason;
use netpath_common::tuple::{OUTSIDE, Tuple};
use network_types::eth::EthHdr;

use crate::frame::Linear;
use crate::{action, kernel, maps};

/// Whether somebody watches for this.
#[inline(always)]
pub fn wanted(what: u32) -> bool {
    maps::CONFIG
        .get(0)
        .is_some_and(|config| config.events & what != 0)
}

/// Tells of a drop. The packet is read anew: what was learnt of it before says nothing if it
/// was dropped early.
#[inline(always)]
pub fn drop(hook: Hook, reason: DropReason, ifindex: u32, frame: &Linear) {
    let Ok(packet) = kernel::packet(OUTSIDE) else {
        return;
    };
    let ether_type = frame.load(offset_of!(EthHdr, ether_type));
    let mut known = Known::Nothing;
    if let Ok(ether_type) = ether_type
        && action::parse(packet, frame, ether_type).is_ok()
    {
        known = Known::Addresses;
        if packet.parse_transport(frame).is_ok() && packet.has_tuple() {
            known = Known::Ports;
        }
    }
    tell(|event| {
        event.at = now();
        event.tuple = packet.tuple;
        event.rewritten = packet.tuple;
        event.ifindex = ifindex;
        event.len = frame.len();
        event.kind = EventKind::Drop;
        event.reason = reason as u8;
        event.hook = hook;
        event.known = known;
        event.ip_proto = packet.ip_proto;
        event.flow_kind = 0;
        event.flow_state = 0;
        event.reply = 0;
    });
}

/// Tells of a flow that begins or ends.
#[inline(never)]
pub fn flow(kind: EventKind, hook: Hook, ifindex: u32, key: &Tuple, flow: &Flow) {
    tell(|event| {
        event.at = now();
        event.tuple = *key;
        event.rewritten.src = flow.new_src;
        event.rewritten.dst = flow.new_dst;
        event.rewritten.src_port = flow.new_src_port;
        event.rewritten.dst_port = flow.new_dst_port;
        event.rewritten.network = flow.other_network;
        event.rewritten.proto = key.proto;
        event.rewritten.reserved = 0;
        event.ifindex = ifindex;
        event.len = 0;
        event.kind = kind;
        event.reason = 0;
        event.hook = hook;
        event.known = Known::Ports;
        event.ip_proto = key.proto as u8;
        event.flow_kind = flow.kind as u8;
        event.flow_state = flow.state as u8;
        event.reply = u8::from(flow.direction == Direction::Reply);
    });
}

/// Puts an event into the ring buffer, which `fill` must write as a whole; or counts it as lost.
#[inline(always)]
fn tell(fill: impl FnOnce(&mut Event)) {
    match maps::EVENTS.reserve(0) {
        Some(mut entry) => {
            // SAFETY: the memory is the entry's own, and of its size. Fields are only written
            // through the reference, each of them before anybody reads one.
            fill(unsafe { &mut *entry.as_mut_ptr() });
            entry.submit(0);
        }
        None => {
            if let Some(lost) = maps::LOST_EVENTS.get_ptr_mut(0) {
                // SAFETY: the counter is this CPU's own.
                unsafe { ptr::write(lost, *lost + 1) };
            }
        }
    }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}
