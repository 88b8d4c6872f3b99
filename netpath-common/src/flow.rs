//! The flow: the decision about one direction of a connection, made once.

use crate::addr::{Addr, Mac};
use crate::tuple::Tuple;

/// Value of map `flows`, keyed by the [`Tuple`] of its direction.
///
/// A connection has two, one a direction. Each holds all that its packets need: a
/// known flow costs one look-up. The other direction's key is not stored: it is the
/// swapped tuple after the rewrite ([`Flow::other_key`]).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// Source address after the rewrite.
    pub new_src: Addr,
    /// Destination address after the rewrite.
    pub new_dst: Addr,
    /// Next hop of flows to an uplink; may be of the other family (RFC 5549).
    pub next_hop: Addr,
    /// Packets of this direction.
    pub packets: u64,
    /// Bytes of this direction, with the Ethernet header.
    pub bytes: u64,
    /// Source port (or echo id) after the rewrite, host byte order.
    pub new_src_port: u16,
    /// Destination port (or echo id) after the rewrite, host byte order.
    pub new_dst_port: u16,
    /// Checksum difference of the addresses, one's complement, memory order.
    pub addr_diff: u16,
    /// Checksum difference of the ports, one's complement, memory order.
    pub port_diff: u16,
    /// Where to send it: host-side veth or uplink.
    pub ifindex: u32,
    /// The gateway device of the container's network: routes are looked up from there.
    pub gateway_ifindex: u32,
    /// The container's place in map `slots`.
    pub slot: u32,
    /// The generation of that place when the flow was made.
    pub generation: u32,
    /// Seconds since boot, last packet of this direction.
    pub last_seen: u32,
    /// Destination MAC of flows to a container.
    pub dst_mac: Mac,
    /// Source MAC of flows to a container.
    pub src_mac: Mac,
    /// Network id in the key of the other direction.
    pub other_network: u16,
    /// Which way it goes.
    pub to: Toward,
    /// Who began: is this the direction of the first packet?
    pub direction: Direction,
    /// What made it.
    pub kind: FlowKind,
    /// State of the connection, the same in both entries.
    pub state: FlowState,
    /// TCP flags seen in this direction, or-ed ([`crate::tcp`]).
    pub tcp_flags: u8,
    /// Always 0.
    pub reserved: [u8; 1],
}

const _: () = assert!(size_of::<Flow>() == 112);

/// The way a flow's packets take.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "user", derive(serde::Serialize))]
#[cfg_attr(feature = "user", serde(rename_all = "snake_case"))]
pub enum Toward {
    /// Into the container behind the veth `ifindex`.
    Container = 0,
    /// Out of the uplink `ifindex`.
    Uplink = 1,
    /// To the host's own stack by the gateway device `ifindex`, to be forwarded as the host's
    /// routes and rules say; unchanged.
    Stack = 2,
    /// As [`Self::Container`], for what the host's stack has forwarded to the gateway device;
    /// unchanged.
    Forwarded = 3,
}

impl Toward {
    /// Whether the host's stack forwards the packet, so that it is not ours to change.
    #[inline(always)]
    pub const fn is_by_stack(self) -> bool {
        self as u8 >= Self::Stack as u8
    }
}

/// A direction of a flow.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "user", derive(serde::Serialize))]
#[cfg_attr(feature = "user", serde(rename_all = "snake_case"))]
pub enum Direction {
    /// The direction of the first packet.
    Original = 0,
    /// The answers.
    Reply = 1,
}

/// What made a flow.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "user", derive(serde::Serialize))]
#[cfg_attr(feature = "user", serde(rename_all = "snake_case"))]
pub enum FlowKind {
    /// A container went out; its source is translated.
    Masquerade = 0,
    /// Somebody dialled a published port; the destination is translated.
    Published = 1,
    /// Between a container's own address and somebody beyond its network; nothing is
    /// translated.
    Direct = 2,
}

/// State of a connection.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "user", derive(serde::Serialize))]
#[cfg_attr(feature = "user", serde(rename_all = "snake_case"))]
pub enum FlowState {
    /// TCP: SYN seen.
    SynSent = 0,
    /// TCP: SYN and its answer seen.
    SynReceived = 1,
    /// TCP: handshake complete.
    Established = 2,
    /// TCP: one side has finished.
    Closing = 3,
    /// TCP: both sides have finished.
    Closed = 4,
    /// TCP: reset.
    Reset = 5,
    /// UDP: no answer yet.
    OneWay = 6,
    /// UDP: answered.
    TwoWay = 7,
    /// ICMP echo.
    Echo = 8,
}

impl FlowKind {
    /// All kinds, for listings.
    pub const ALL: [Self; 3] = [Self::Masquerade, Self::Published, Self::Direct];
}

impl FlowState {
    /// All states, for listings.
    pub const ALL: [Self; 9] = [
        Self::SynSent,
        Self::SynReceived,
        Self::Established,
        Self::Closing,
        Self::Closed,
        Self::Reset,
        Self::OneWay,
        Self::TwoWay,
        Self::Echo,
    ];

    /// Over: a SYN on this tuple opens a new connection. One FIN is not enough, for the
    /// other side may go on sending for as long as it likes.
    #[inline(always)]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Closed | Self::Reset)
    }
}

impl Flow {
    /// The tuple of this direction's packets once rewritten, as it leaves us.
    #[inline(always)]
    pub fn rewritten(&self, key: &Tuple) -> Tuple {
        Tuple {
            src: self.new_src,
            dst: self.new_dst,
            src_port: self.new_src_port,
            dst_port: self.new_dst_port,
            network: self.other_network,
            proto: key.proto,
            reserved: 0,
        }
    }

    /// Key of the other direction's entry.
    #[inline(always)]
    pub fn other_key(&self, key: &Tuple) -> Tuple {
        self.rewritten(key).reply(self.other_network)
    }
}
