//! Counters.

use crate::reason::DropReason;

/// Where a packet met us.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "user", derive(serde::Serialize))]
#[cfg_attr(feature = "user", serde(rename_all = "snake_case"))]
pub enum Hook {
    /// tcx ingress of a container's host-side veth.
    Container = 0,
    /// tcx ingress of an uplink.
    Uplink = 1,
    /// tcx egress of a network's gateway device.
    Gateway = 2,
    /// XDP of an uplink.
    Xdp = 3,
    /// tcx ingress of a VXLAN device.
    Overlay = 4,
    /// tcx of a card whose wire containers share, and of their veths.
    Underlay = 5,
}

impl Hook {
    /// All hooks, in the order of their counters.
    pub const ALL: [Self; 6] = [
        Self::Container,
        Self::Uplink,
        Self::Gateway,
        Self::Xdp,
        Self::Overlay,
        Self::Underlay,
    ];
}

/// Key of map `drops`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DropKey {
    /// Why.
    pub reason: DropReason,
    /// Where.
    pub hook: Hook,
    /// Always 0.
    pub reserved: [u8; 2],
}

/// Packets and bytes.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "user", derive(serde::Serialize))]
pub struct Count {
    /// Packets; an aggregate of segments (GSO) counts as one.
    pub packets: u64,
    /// Bytes with the Ethernet header.
    pub bytes: u64,
}

impl Count {
    /// Counts one packet.
    #[inline(always)]
    pub fn add(&mut self, bytes: u32) {
        self.packets += 1;
        self.bytes += u64::from(bytes);
    }
}

/// Value of per-CPU map `counters`, one for each [`Hook`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "user", derive(serde::Serialize))]
pub struct HookCounters {
    /// All that the hook saw.
    pub seen: Count,
    /// Sent to a container.
    pub to_container: Count,
    /// Sent to an uplink.
    pub to_uplink: Count,
    /// Left to the host's stack.
    pub to_host: Count,
    /// Sent to another host.
    pub to_tunnel: Count,
    /// ARP and neighbour solicitations answered in place.
    pub answered: Count,
    /// Dropped; the reasons are in map `drops`.
    pub dropped: Count,
    /// Flows made.
    pub new_flows: u64,
}
