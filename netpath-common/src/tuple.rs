//! The tuple: what names one direction of a flow.

use crate::addr::Addr;

/// Transport protocols that have flows. The values are the IANA protocol numbers.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "user", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "user", serde(rename_all = "lowercase"))]
pub enum Proto {
    /// ICMP for IPv4 (RFC 792); only echo has flows.
    Icmp = 1,
    /// TCP (RFC 9293).
    Tcp = 6,
    /// UDP (RFC 768).
    Udp = 17,
    /// ICMPv6 (RFC 4443); only echo has flows.
    Icmpv6 = 58,
    /// SCTP (RFC 9260).
    Sctp = 132,
}

impl Proto {
    /// The protocol of an IANA number, if it can have flows.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Icmp,
            6 => Self::Tcp,
            17 => Self::Udp,
            58 => Self::Icmpv6,
            132 => Self::Sctp,
            _ => return None,
        })
    }

    /// Whether it has connections, which begin and end by agreement.
    #[inline(always)]
    pub const fn has_connections(self) -> bool {
        matches!(self, Self::Tcp | Self::Sctp)
    }
}

/// One direction of a flow exactly as it appears on the wire at our hook.
///
/// ICMP echo has no ports: a request carries its identifier as source port and 0 as
/// destination port, a reply the other way round, so that the tuple of a reply is
/// the swapped tuple of its request, as with any other protocol.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tuple {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port or echo identifier, host byte order.
    pub src_port: u16,
    /// Destination port or echo identifier, host byte order.
    pub dst_port: u16,
    /// The network whose container sent it; [`OUTSIDE`] at an uplink. Two networks
    /// may use the same addresses.
    pub network: u16,
    /// Transport protocol.
    pub proto: Proto,
    /// Always 0: hash keys are compared as bytes.
    pub reserved: u8,
}

/// The network id of packets that come from an uplink.
pub const OUTSIDE: u16 = 0;

const _: () = assert!(size_of::<Tuple>() == 40);

/// Keys that one run of the sweep program takes. A packet of PROG_TEST_RUN must fit into
/// a page with the kernel's own head and tail room; 64 keys are 2,560 bytes.
pub const SWEEP_KEYS: usize = 64;

/// Length of map `kernel_flows`: both directions of as many connections as conntrack has on a
/// host with its usual settings. Memory is taken as it is needed.
pub const MAX_KERNEL_FLOWS: u32 = 524_288;

impl Tuple {
    /// The tuple of the answer, as seen in `network`.
    #[inline(always)]
    pub fn reply(&self, network: u16) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
            network,
            proto: self.proto,
            reserved: 0,
        }
    }
}
