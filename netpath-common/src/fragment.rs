//! Fragments: only the first part of a datagram has ports; the others borrow them.
//!
//! The first part notes its ports, later parts look them up. Parts that overtake the first
//! are dropped by name (RFC 4787, REQ-14 asks for in-order fragments at least): to keep them
//! would take memory that a stranger could fill.

use crate::addr::Addr;
use crate::env::{Env, Table};
use crate::packet::{Fragment, Packet, Transport};

/// Key of map `fragments`: what the parts of a datagram have in common (RFC 791, RFC 8200).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FragmentKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Identification.
    pub id: u32,
    /// The network whose container sent it; 0 from outside.
    pub network: u16,
    /// IP protocol number.
    pub ip_proto: u8,
    /// Always 0.
    pub reserved: u8,
}

/// Value of map `fragments`: what the first part said.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FragmentPorts {
    /// Source port or echo identifier, host byte order.
    pub src_port: u16,
    /// Destination port or echo identifier, host byte order.
    pub dst_port: u16,
    /// Seconds since boot when the first part came.
    pub seen: u32,
}

const _: () = assert!(size_of::<FragmentKey>() == 40 && size_of::<FragmentPorts>() == 8);

/// How long parts may come after the first, in seconds. Identifications come round: a sender
/// of 100,000 datagrams a second uses each of IPv4's again after less than a second, so this
/// is far below the 30 s for which a receiver keeps parts.
pub const FRAGMENT_LIFE: u32 = 2;

/// Notes the ports of a first part, and gives a later one its ports if they are known.
#[inline(never)]
pub fn resolve<E: Env>(env: &E, packet: &mut Packet) -> bool {
    let key = FragmentKey {
        src: packet.tuple.src,
        dst: packet.tuple.dst,
        id: packet.fragment_id,
        network: packet.tuple.network,
        ip_proto: packet.ip_proto,
        reserved: 0,
    };
    let now = env.now();
    if packet.fragment == Fragment::First {
        let ports = FragmentPorts {
            src_port: packet.tuple.src_port,
            dst_port: packet.tuple.dst_port,
            seen: now,
        };
        return packet.has_tuple() && env.fragments().replace(&key, &ports).is_ok();
    }
    let known = env.fragments().with(&key, |ports| {
        let fresh = now.wrapping_sub(ports.seen) <= FRAGMENT_LIFE;
        if fresh {
            packet.tuple.src_port = ports.src_port;
            packet.tuple.dst_port = ports.dst_port;
        }
        fresh
    });
    if known == Some(true) {
        packet.transport = Transport::Ports;
    }
    known == Some(true)
}
