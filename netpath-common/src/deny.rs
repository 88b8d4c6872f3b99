//! The gate of an uplink (XDP): what is dropped before the kernel makes a packet of it.
//!
//! Dropped are frames from denied sources, and frames whose IP header contradicts itself or the
//! frame, of which the kernel would drop each as well, only later. All else passes, above all
//! what cannot be judged here: frames with a VLAN tag, other protocols, headers that lie beyond
//! the first piece of a frame in several pieces.

use core::mem::offset_of;

use network_types::eth::{EthHdr, EtherType};
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::addr::Addr;
use crate::packet::{Frame, IP_MAX, L3};
use crate::reason::DropReason;

/// Value of map `denied`, whose keys are prefixes of source addresses.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Denied {
    /// Packets dropped. Counted without locks: queues that count at once may lose some; the
    /// exact sum of all entries is in map `drops`.
    pub packets: u64,
    /// Their bytes, with the Ethernet header.
    pub bytes: u64,
    /// 1 for a prefix of IPv4 addresses. A short IPv6 prefix (`::/0`) has the mapped form of
    /// all IPv4 addresses in it and must not stop them.
    pub v4: u8,
    /// Always 0.
    pub reserved: [u8; 7],
}

const _: () = assert!(size_of::<Denied>() == 24);

/// Prefixes that map `denied` holds.
pub const MAX_DENIED: usize = 65_536;

/// Next header "hop-by-hop options": of a packet whose length is in there (RFC 2675).
const IPV6_HOP_BY_HOP: u8 = 0;

/// Ethertypes in memory order.
const ETH_IPV4: u16 = EtherType::Ipv4 as u16;
const ETH_IPV6: u16 = EtherType::Ipv6 as u16;

/// What the gate knows besides the frame.
pub trait Gate {
    /// Calls `f` with the longest denied prefix that has `src`.
    fn denied<R>(&self, src: &Addr, f: impl FnOnce(&mut Denied) -> R) -> Option<R>;
}

/// Whether a frame may come in.
///
/// # Errors
/// [`DropReason::Malformed`], [`DropReason::DeniedSource`].
#[inline(always)]
pub fn admit<G: Gate, F: Frame>(gate: &G, frame: &F) -> Result<(), DropReason> {
    let Ok(ether_type) = frame.load(offset_of!(EthHdr, ether_type)) else {
        return Ok(());
    };
    // `::` stands for "not known"; it is nobody's address.
    let src = match ether_type {
        ETH_IPV4 => source_v4(frame)?,
        ETH_IPV6 => source_v6(frame)?,
        _ => Addr::UNSPECIFIED,
    };
    if src.is_unspecified() {
        return Ok(());
    }
    let denied = gate.denied(&src, |entry| {
        let meant = (entry.v4 != 0) == src.is_v4();
        if meant {
            entry.packets += 1;
            entry.bytes += u64::from(frame.len());
        }
        meant
    });
    if denied == Some(true) {
        return Err(DropReason::DeniedSource);
    }
    Ok(())
}

/// The source of an IPv4 packet, checked as ip_rcv() does; its checksum is left to it.
#[inline(always)]
fn source_v4<F: Frame>(frame: &F) -> Result<Addr, DropReason> {
    let room = frame.len().saturating_sub(L3 as u32);
    if room < Ipv4Hdr::LEN as u32 {
        return Err(DropReason::Malformed);
    }
    let words: [u32; Ipv4Hdr::LEN / 4] = match frame.load(L3) {
        Ok(words) => words,
        Err(_) => return Ok(Addr::UNSPECIFIED),
    };
    let [version, _, total @ ..] = words[0].to_ne_bytes();
    let header_len = u32::from(version & 0x0f) * 4;
    let total = u32::from(u16::from_be_bytes(total));
    let fits = total >= header_len && total <= room;
    // Aggregates of more than 64 KiB say 0.
    let aggregate = total == 0 && room > IP_MAX;
    if version >> 4 != 4 || header_len < Ipv4Hdr::LEN as u32 || !(fits || aggregate) {
        return Err(DropReason::Malformed);
    }
    Ok(Addr::v4(words[3].to_ne_bytes()))
}

/// The source of an IPv6 packet, checked as ipv6_rcv() does.
#[inline(always)]
fn source_v6<F: Frame>(frame: &F) -> Result<Addr, DropReason> {
    let room = frame.len().saturating_sub(L3 as u32);
    if room < Ipv6Hdr::LEN as u32 {
        return Err(DropReason::Malformed);
    }
    let words: [u64; Ipv6Hdr::LEN / 8] = match frame.load(L3) {
        Ok(words) => words,
        Err(_) => return Ok(Addr::UNSPECIFIED),
    };
    let [version, _, _, _, p0, p1, next, _] = words[0].to_ne_bytes();
    let payload = u32::from(u16::from_be_bytes([p0, p1]));
    let jumbo = payload == 0 && next == IPV6_HOP_BY_HOP;
    let fits = payload <= room - Ipv6Hdr::LEN as u32;
    let src = Addr::from_halves([words[1], words[2]]);
    // A mapped source would pass for IPv4 here; the kernel drops it, too.
    if version >> 4 != 6 || !(fits || jumbo) || src.is_v4() {
        return Err(DropReason::Malformed);
    }
    Ok(src)
}
