//! Cards: interfaces of containers on a network of the host's own card, the *parent*.
//!
//! A card has a MAC address of its own on the parent's wire. Frames find it by that address, so
//! that whatever IP addresses it has (from a DHCP server, from a router's advertisement) nobody
//! has to be told. The parent's VLANs are segments of their own: a card is in exactly one.
//!
//! Some wires (a cloud's, a wireless network's) carry one MAC address a machine. On such a parent
//! cards are *routed*: the wire knows them by the parent's MAC address, so they are found by their
//! IP addresses, which must be known then. The host answers for them there, and a router that does
//! not exist answers for the wire here.

use crate::addr::{Addr, Mac};
use crate::checksum::{apply, fold};
use crate::packet::Packet;
use crate::reason::DropReason;

/// Value of map `cards`, keyed by the ifindex of the host-side veth, or of the stacked device: who
/// sends here, what it may send, and where its wire is.
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
    /// The [`neighbour_bit`] of everybody else on the segment, and of the card itself. Only stacked
    /// cards have it.
    pub neighbours: u64,
}

/// The container may send from any IPv4 address: its own is not known to us.
pub const ANY_SOURCE4: u8 = 1;
/// The container may send from any IPv6 address.
pub const ANY_SOURCE6: u8 = 2;
/// The wire knows the container by the parent's MAC address.
pub const ROUTED: u8 = 4;

/// What map `card_macs` has for the MAC address of a parent with routed cards: no device has this
/// number.
pub const ROUTED_PARENT: u32 = u32::MAX;

/// The ifindex of the first stacked card. Such a device is in the container's namespace, where numbers
/// have nothing to do with the host's. Theirs are chosen so that a number still means one device: the
/// kernel counts from 1, and never comes this far.
pub const FIRST_STACKED: u32 = 1 << 30;

/// Whether a number is a stacked card's, and no device's of the host.
#[inline(always)]
pub const fn is_stacked(ifindex: u32) -> bool {
    ifindex & FIRST_STACKED != 0 && ifindex != ROUTED_PARENT
}

/// Where in map `stacked` the card with this MAC address is looked for first: as long as nobody
/// chooses MAC addresses, nearly all are there.
#[inline(always)]
pub const fn stacked_place(mac: [u16; 3]) -> u32 {
    let [high, low] = mac[2].to_ne_bytes();
    u32::from_be_bytes([0, 0, high, low]) & PLACE_MASK
}

/// The place in map `stacked` of a stacked card by its number.
#[inline(always)]
pub const fn place_of(ifindex: u32) -> u32 {
    ifindex & PLACE_MASK
}

const PLACE_MASK: u32 = MAX_CARDS - 1;
const _: () = assert!(MAX_CARDS.is_power_of_two());

/// The bit of a MAC address among those of a segment: without it, the address is nobody's there.
#[inline(always)]
pub const fn neighbour_bit(mac: [u16; 3]) -> u64 {
    let [_, low] = mac[2].to_ne_bytes();
    1 << (low & 63)
}

/// The MAC address that routed cards take for that of everybody on the wire. It is locally
/// administered, and no frame on any wire has it.
pub const ROUTER_MAC: Mac = Mac::new([0x02, 0x6e, 0x70, 0x00, 0x00, 0x01]);

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

/// Key of map `card_addrs`: who has this address behind the parent's MAC address?
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CardAddr {
    /// The address.
    pub addr: Addr,
    /// The parent.
    pub parent: u32,
    /// Always 0.
    pub reserved: u32,
}

impl CardAddr {
    /// The key of an address.
    #[inline(always)]
    pub const fn new(parent: u32, addr: Addr) -> Self {
        Self {
            addr,
            parent,
            reserved: 0,
        }
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

    /// Where the number of a parent's stacked cards is, which are no members of the segment: the
    /// kernel copies frames to them.
    #[inline(always)]
    pub const fn stacked(parent: u32) -> Self {
        Self::member(parent, 0, u16::MAX)
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

const _: () = assert!(size_of::<Card>() == 80);
const _: () = assert!(size_of::<CardMac>() == 12 && size_of::<SegmentPlace>() == 8);
const _: () = assert!(size_of::<CardAddr>() == 24);

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
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// Length of a neighbour advertisement with one option, in words of 2 bytes (RFC 4861, 4.4).
pub const ADVERTISEMENT_WORDS: usize = 16;
/// Type 2, the target's link-layer address; length in words of 8 bytes.
const TARGET_ADDRESS: u16 = u16::from_ne_bytes([2, 1]);

/// Who answers when a routed card asks for the owner of an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answerer {
    /// The owner, who is on this host: the host itself or a neighbour. Or nobody.
    Owner,
    /// The router that does not exist, for somebody on the wire.
    Router,
}

impl Card {
    /// Whether the wire knows the container by the parent's MAC address.
    #[inline(always)]
    pub const fn is_routed(&self) -> bool {
        self.flags & ROUTED != 0
    }

    /// Whether somebody else on the segment may have this MAC address.
    #[inline(always)]
    pub const fn may_be_neighbour(&self, mac: [u16; 3]) -> bool {
        self.neighbours & neighbour_bit(mac) != 0
    }

    /// Whether this is one of the container's addresses.
    #[inline(always)]
    pub fn owns(&self, addr: &Addr) -> bool {
        !addr.is_unspecified()
            && (*addr == self.addr4 || *addr == self.addr6 || *addr == self.link_local)
    }

    /// Who answers when the container asks for the owner of an address, by `is_here`: whether
    /// the host or another of its containers has it. Link-local addresses do not cross a router.
    #[inline(always)]
    pub fn answerer(&self, addr: &Addr, is_here: impl FnOnce(&Addr) -> bool) -> Answerer {
        // Nobody answers for an address to its owner (the search for duplicates).
        let nobodys = self.owns(addr) || addr.is_group() || addr.is_no_source();
        if nobodys || addr.is_link_local_v6() || is_here(addr) {
            Answerer::Owner
        } else {
            Answerer::Router
        }
    }

    /// What becomes of a message of neighbour discovery for a group, by its type; `searches`: it is
    /// from no address. Only what is said about oneself is the wire's business: the search for
    /// duplicates and its answer.
    #[inline(always)]
    pub const fn is_for_wire(kind: u8, searches: bool) -> bool {
        kind == NEIGHBOUR_ADVERTISEMENT || kind == NEIGHBOUR_SOLICITATION && searches
    }

    /// Has an advertisement of the container name the parent's MAC address in the place of its
    /// own. False, and nothing is changed, if it does not name its own.
    #[inline(always)]
    pub fn advertise(&self, words: &mut [u16; ADVERTISEMENT_WORDS]) -> bool {
        let [_, sum, _, _, _, _, _, _, _, _, _, _, option, a, b, c] = *words;
        if option != TARGET_ADDRESS || !self.mac.is([a, b, c]) {
            return false;
        }
        let [d, e, f] = self.parent_mac.words();
        let add = |a: u16, b: u16, c: u16| fold(u64::from(a) + u64::from(b) + u64::from(c));
        let removed = add(a, b, c);
        let added = add(d, e, f);
        words[1] = apply(sum, fold(u64::from(!removed) + u64::from(added)));
        words[13] = d;
        words[14] = e;
        words[15] = f;
        true
    }

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
