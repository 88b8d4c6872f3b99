//! ICMP errors (RFC 792, RFC 4443): about whose packet is it, and how it is translated.
//!
//! An error quotes the packet that caused it, as the router saw it: translated. It belongs to
//! the flow whose packets go the other way, so the quoted tuple, swapped, is the key of the
//! entry that leads to the quoted packet's sender; and that entry's rewrite, swapped, is what
//! the sender wrote.

use network_types::icmp::Icmpv4Hdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::addr::Addr;
use crate::env::{Env, Table};
use crate::packet::{Frame, Packet};
use crate::reason::DropReason;
use crate::tuple::{OUTSIDE, Proto, Tuple};

/// The packet that an error quotes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Quoted {
    /// Its tuple swapped: the key of the flow entry that leads to its sender.
    pub key: Tuple,
    /// Offset of its IP header.
    pub l3: u16,
    /// Offset of its transport header.
    pub l4: u16,
    /// Bytes quoted of its transport header and what follows; at least 8.
    pub room: u16,
    /// Always 0.
    pub reserved: u16,
}

/// Quoted bytes of the transport header that there must be (RFC 792): the ports.
const QUOTED_MIN: usize = 8;

const IPV4_OFFSET_BITS: u16 = 0x1fff;
const ICMP_ECHO_REQUEST: u8 = 8;
const ICMPV6_ECHO_REQUEST: u8 = 128;

/// Whether an ICMP message of this type is an error that quotes a packet: unreachable, time
/// exceeded, parameter problem; packet too big. (Redirects are not: RFC 1812, 5.2.7.2 forbids
/// to pass them on.)
#[inline(always)]
pub const fn quotes(proto: Proto, kind: u8) -> bool {
    match proto {
        Proto::Icmp => matches!(kind, 3 | 11 | 12),
        Proto::Icmpv6 => matches!(kind, 1..=4),
        Proto::Tcp | Proto::Udp | Proto::Sctp => false,
    }
}

/// Reads the packet that an error quotes.
///
/// # Errors
/// [`DropReason::Malformed`]; [`DropReason::Fragment`] if it is a later fragment, whose first
/// bytes are no ports; [`DropReason::UnsupportedProtocol`].
#[inline(always)]
pub fn read<F: Frame>(packet: &Packet, frame: &F, quoted: &mut Quoted) -> Result<(), DropReason> {
    let l3 = packet.transport_offset() + Icmpv4Hdr::LEN;
    let key = &mut quoted.key;
    let (header, number) = if packet.tuple.dst.is_v4() {
        let [head, fragment, middle, src, dst]: [u32; Ipv4Hdr::LEN / 4] = frame.load(l3)?;
        let [version, ..] = head.to_ne_bytes();
        let [_, _, fragment @ ..] = fragment.to_ne_bytes();
        let [_, proto, ..] = middle.to_ne_bytes();
        let header = usize::from(version & 0x0f) * 4;
        if version >> 4 != 4 || header < Ipv4Hdr::LEN {
            return Err(DropReason::Malformed);
        }
        if u16::from_be_bytes(fragment) & IPV4_OFFSET_BITS != 0 {
            return Err(DropReason::Fragment);
        }
        key.src = Addr::v4(dst.to_ne_bytes());
        key.dst = Addr::v4(src.to_ne_bytes());
        (header, proto)
    } else {
        let [head, s0, s1, d0, d1]: [u64; Ipv6Hdr::LEN / 8] = frame.load(l3)?;
        let [version, _, _, _, _, _, next, _] = head.to_ne_bytes();
        if version >> 4 != 6 {
            return Err(DropReason::Malformed);
        }
        key.src = Addr::from_halves([d0, d1]);
        key.dst = Addr::from_halves([s0, s1]);
        if key.src.is_v4() || key.dst.is_v4() {
            return Err(DropReason::Malformed);
        }
        (Ipv6Hdr::LEN, next)
    };
    let proto = Proto::from_number(number).ok_or(DropReason::UnsupportedProtocol)?;
    let l4 = l3 + header;
    let room = (packet.end as usize).saturating_sub(l4);
    if room < QUOTED_MIN {
        return Err(DropReason::Malformed);
    }
    let [ports, second]: [u32; QUOTED_MIN / 4] = frame.load(l4)?;
    let [a, b, c, d] = ports.to_ne_bytes();
    let [id0, id1, ..] = second.to_ne_bytes();
    (key.src_port, key.dst_port) = match proto {
        Proto::Tcp | Proto::Udp | Proto::Sctp => {
            (u16::from_be_bytes([c, d]), u16::from_be_bytes([a, b]))
        }
        // As in a tuple: the identifier is a request's source port and a reply's destination
        // port; and here it is swapped.
        Proto::Icmp | Proto::Icmpv6 => {
            let id = u16::from_be_bytes([id0, id1]);
            let request = matches!(
                (proto, a),
                (Proto::Icmp, ICMP_ECHO_REQUEST) | (Proto::Icmpv6, ICMPV6_ECHO_REQUEST)
            );
            if request { (0, id) } else { (id, 0) }
        }
    };
    // It goes to whoever sent the quoted packet; and what a container reports is what came to
    // itself, or its address would leave the host untranslated.
    let (src, dst, network) = (&packet.tuple.src, &packet.tuple.dst, packet.tuple.network);
    if *dst != key.dst {
        return Err(DropReason::Malformed);
    }
    if network != OUTSIDE && *src != key.src {
        return Err(DropReason::SpoofedSource);
    }
    key.network = network;
    key.proto = proto;
    key.reserved = 0;
    quoted.l3 = l3 as u16;
    quoted.l4 = l4 as u16;
    quoted.room = room as u16;
    quoted.reserved = 0;
    Ok(())
}

/// What became of an error; one byte, see [`crate::track::Begun`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Related {
    /// Translated and sent.
    Sent,
    /// About no flow of ours.
    Unknown,
    /// To be dropped.
    Drop(DropReason),
}

const _: () = assert!(size_of::<Related>() == 1);

/// Translates an error about a known flow and sends it to whom it concerns.
///
/// The flow itself is left alone: an error is no sign of life, and anybody can send one.
#[inline(never)]
pub fn relate<E: Env>(env: &E, packet: &Packet) -> Related {
    let found = env.quoted(packet, |quoted| {
        env.flows().with(&quoted.key, |flow| {
            if env.generation(flow.slot) != flow.generation {
                return Err(DropReason::StaleFlow);
            }
            env.send_error(packet, quoted, flow)
        })
    });
    match found {
        Ok(Some(Ok(()))) => Related::Sent,
        Ok(Some(Err(reason))) => Related::Drop(reason),
        Ok(None) => Related::Unknown,
        // What from outside we cannot read may still mean something to the host's stack.
        Err(_) if packet.tuple.network == OUTSIDE => Related::Unknown,
        Err(reason) => Related::Drop(reason),
    }
}
