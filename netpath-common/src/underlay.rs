//! Cards: interfaces of containers on a network of the host's own card, the *parent*.
//!
//! A card has a MAC address of its own on the parent's wire. Frames find it by that address, so
//! that whatever IP addresses it has (from a DHCP server, from a router's advertisement) nobody
//! has to be told. The parent's VLANs are segments of their own: a card is in exactly one.

use crate::addr::{Addr, Mac};
use crate::packet::Packet;
use crate::reason::DropReason;

/// Value of map `cards`, keyed by the ifindex of the host-side veth: who sends here, what it may
/// send, and where its wire is.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Card {
    /// Its IPv4 address (mapped), or `::`.
    pub addr4: Addr,
    /// Its IPv6 address, or `::`.
    pub addr6: Addr,
    /// Its IPv6 link-local address, or `::`.
    pub link_local: Addr,
    /// The device whose wire it shares.
    pub parent: u32,
    /// The VLAN there, host byte order; 0 for frames without a tag.
    pub vlan: u16,
    /// MAC address of the container's interface.
    pub mac: Mac,
    /// MAC address of the parent: the host's own on that wire.
    pub parent_mac: Mac,
    /// [`ANY_SOURCE4`] and its like.
    pub flags: u8,
    /// Always 0.
    pub reserved: [u8; 5],
}

/// The container may send from any IPv4 address: its own is not known to us.
pub const ANY_SOURCE4: u8 = 1;
/// The container may send from any IPv6 address.
pub const ANY_SOURCE6: u8 = 2;

/// Key of map `card_macs`: who has this MAC address on a segment?
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CardMac {
    /// The parent.
    pub parent: u32,
    /// The VLAN, host byte order; 0 for frames without a tag.
    pub vlan: u16,
    /// The MAC address, in memory order.
    pub mac: [u16; 3],
}

impl CardMac {
    /// The key of a MAC address, given as words in memory order.
    #[inline(always)]
    pub const fn new(parent: u32, vlan: u16, mac: [u16; 3]) -> Self {
        Self { parent, vlan, mac }
    }
}

/// Key of map `segments`: the members of a segment, one a place. At place 0 is their number.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SegmentPlace {
    /// The parent.
    pub parent: u32,
    /// The VLAN, host byte order; 0 for frames without a tag.
    pub vlan: u16,
    /// 0, or the place of a member.
    pub place: u16,
}

impl SegmentPlace {
    /// Where the number of a segment's members is.
    #[inline(always)]
    pub const fn count(parent: u32, vlan: u16) -> Self {
        Self::member(parent, vlan, 0)
    }

    /// A member's place; the first is 1.
    #[inline(always)]
    pub const fn member(parent: u32, vlan: u16, place: u16) -> Self {
        Self {
            parent,
            vlan,
            place,
        }
    }
}

const _: () = assert!(size_of::<Card>() == 72);
const _: () = assert!(size_of::<CardMac>() == 12 && size_of::<SegmentPlace>() == 8);

/// Cards that a host can have at a time.
pub const MAX_CARDS: u32 = 4_096;

/// Members that a segment can have: each broadcast is copied to all of them, one after the other.
pub const MAX_MEMBERS: u32 = 256;

/// Whether these words, in memory order, are the address of a group: the lowest bit of the first
/// octet says so.
#[inline(always)]
pub const fn is_group(mac: [u16; 3]) -> bool {
    let [first, _] = mac[0].to_ne_bytes();
    first & 1 != 0
}

/// Length of an ARP packet for IPv4 over Ethernet, in words of 2 bytes.
pub const ARP_WORDS: usize = 14;
/// Hardware type Ethernet, protocol IPv4, address lengths 6 and 4.
const ARP_HEAD: [u16; 3] = [1u16.to_be(), 0x0800u16.to_be(), 0x0604u16.to_be()];

const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

impl Card {
    /// Whether the container may send from this address. Whoever has none yet sends from none:
    /// a DHCP client, and the search for duplicates.
    #[inline(always)]
    pub fn may_send_from(&self, addr: &Addr) -> bool {
        if addr.is_v4() {
            self.flags & ANY_SOURCE4 != 0 || *addr == self.addr4 || *addr == Addr::UNSPECIFIED_V4
        } else {
            self.flags & ANY_SOURCE6 != 0
                || addr.is_unspecified()
                || *addr == self.addr6
                || *addr == self.link_local
        }
    }

    /// Judges the source of an IP packet.
    ///
    /// # Errors
    /// It is not the container's.
    #[inline(always)]
    pub fn check(&self, packet: &Packet) -> Result<(), DropReason> {
        if self.may_send_from(&packet.tuple.src) {
            Ok(())
        } else {
            Err(DropReason::SpoofedSource)
        }
    }

    /// Judges an ARP packet, words in memory order: nobody speaks for others.
    ///
    /// # Errors
    /// It is none of IPv4 over Ethernet, or its sender is not the container.
    #[inline(always)]
    pub fn check_arp(&self, words: &[u16; ARP_WORDS]) -> Result<(), DropReason> {
        let [a, b, c, _, m0, m1, m2, s0, s1, ..] = *words;
        if [a, b, c] != ARP_HEAD {
            return Err(DropReason::Malformed);
        }
        // SAFETY: integers of the same total size.
        let sender = unsafe { core::mem::transmute::<[u16; 2], [u8; 4]>([s0, s1]) };
        if self.mac.is([m0, m1, m2]) && self.may_send_from(&Addr::v4(sender)) {
            Ok(())
        } else {
            Err(DropReason::SpoofedSource)
        }
    }

    /// Judges a message of neighbour discovery by its type and its target, which only some types
    /// have: containers are no routers, and speak for nobody else.
    ///
    /// # Errors
    /// It pretends to be somebody else's.
    #[inline(always)]
    pub fn check_discovery(&self, kind: u8, target: &Addr) -> Result<(), DropReason> {
        let foreign = match kind {
            ROUTER_ADVERTISEMENT | REDIRECT => true,
            NEIGHBOUR_ADVERTISEMENT => !self.may_send_from(target),
            _ => false,
        };
        if foreign {
            Err(DropReason::SpoofedSource)
        } else {
            Ok(())
        }
    }
}
