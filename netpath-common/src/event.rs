//! What the programs tell somebody who watches: records of ring buffer `events`.

use crate::counter::Hook;
use crate::tuple::Tuple;

/// Flags of [`crate::config::Config::events`].
pub mod wanted {
    /// Drops are told.
    pub const DROPS: u32 = 1;
    /// Flows that begin and end are told.
    pub const FLOWS: u32 = 2;
}

/// What happened.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "user", derive(serde::Serialize))]
#[cfg_attr(feature = "user", serde(rename_all = "snake_case"))]
pub enum EventKind {
    /// A packet was dropped.
    Drop = 0,
    /// A flow was made.
    NewFlow = 1,
    /// A flow was removed: idle, used again, or its container is gone.
    FlowEnd = 2,
}

/// How much of a dropped packet could be read.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Known {
    /// Nothing.
    Nothing = 0,
    /// Addresses and IP protocol.
    Addresses = 1,
    /// Ports (or the echo identifier) as well.
    Ports = 2,
}

/// Something that happened.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// Nanoseconds since boot (CLOCK_MONOTONIC).
    pub at: u64,
    /// The packet, or the key of the flow's entry.
    pub tuple: Tuple,
    /// The flow's packets after the rewrite; of a drop the same as `tuple`.
    pub rewritten: Tuple,
    /// The device at which it happened; 0 for a flow that ends.
    pub ifindex: u32,
    /// Length of the packet with the Ethernet header, bytes; 0 for flows.
    pub len: u32,
    /// What happened.
    pub kind: EventKind,
    /// Why it was dropped, a [`crate::reason::DropReason`] as number; 0 for flows.
    pub reason: u8,
    /// Where it happened.
    pub hook: Hook,
    /// How much of `tuple` means something.
    pub known: Known,
    /// IP protocol number.
    pub ip_proto: u8,
    /// The flow's [`crate::flow::FlowKind`] as number; 0 for a drop.
    pub flow_kind: u8,
    /// The flow's [`crate::flow::FlowState`] as number; 0 for a drop.
    pub flow_state: u8,
    /// 1 if `tuple` is the key of the answers' entry.
    pub reply: u8,
}

const _: () = assert!(size_of::<Event>() == 104);

/// Size of ring buffer `events` in bytes: room for 4,600 events that nobody has read yet.
pub const EVENTS_BYTES: usize = 1 << 19;
