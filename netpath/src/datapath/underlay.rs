//! Cards on the wire of a device of the host: see [`netpath_common::underlay`].

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;

use anyhow::{Context as _, Result, bail};
use netpath_common::addr::{Addr, Mac};
use netpath_common::underlay::{
    ANY_SOURCE4, ANY_SOURCE6, Card, CardAddr, CardMac, FIRST_STACKED, MAX_CARDS, MAX_MEMBERS,
    ROUTED, ROUTED_PARENT, SegmentPlace, is_stacked, neighbour_bit, place_of, stacked_place,
};

use super::{Datapath, Hook, attach, optional};
use crate::netlink::netns;

/// What is in a free place of map `stacked`.
const NO_CARD: Card = Card {
    addr4: Addr::UNSPECIFIED,
    addr6: Addr::UNSPECIFIED,
    link_local: Addr::UNSPECIFIED,
    parent: 0,
    vlan: 0,
    mac: Mac::new([0; 6]),
    parent_mac: Mac::new([0; 6]),
    flags: 0,
    reserved: [0; 5],
    neighbours: 0,
};

/// A container's interface on a wire of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CardSpec {
    /// Host-side veth, up, whose peer is in the container's namespace; or a stacked device there,
    /// see [`Datapath::free_stacked`].
    pub ifindex: u32,
    /// The device whose wire it shares.
    pub parent: u32,
    /// MAC address of that device.
    pub parent_mac: [u8; 6],
    /// The VLAN; 0 for frames without a tag.
    pub vlan: u16,
    /// MAC address of the container's interface.
    pub mac: [u8; 6],
    /// Its IPv4 address, the only one that it may send from.
    pub addr4: Option<Ipv4Addr>,
    /// Its IPv6 address, beside the link-local one the only one that it may send from.
    pub addr6: Option<Ipv6Addr>,
    /// Its IPv6 link-local address.
    pub link_local: Option<Ipv6Addr>,
    /// It may send from any address of a family (IPv4, IPv6): who gave it one did not tell us.
    pub any_source: (bool, bool),
    /// The wire knows it by the parent's MAC address; its addresses must be known, and it is in no
    /// VLAN.
    pub routed: bool,
}

impl Datapath {
    /// Attaches the programs of a wire that containers share to its device. Attaching twice is
    /// fine.
    ///
    /// # Errors
    /// If there is no such device.
    pub fn add_parent(&mut self, ifindex: u32) -> Result<()> {
        for hook in [Hook::WireIn, Hook::WireOut] {
            attach::attach(&mut self.programs, &self.bpffs, hook, ifindex)?;
        }
        Ok(())
    }

    /// Detaches them.
    ///
    /// # Errors
    /// If the kernel refuses; what is gone already is fine.
    pub fn remove_parent(&mut self, ifindex: u32) -> Result<()> {
        for hook in [Hook::WireIn, Hook::WireOut] {
            attach::detach(&self.bpffs, hook, ifindex)?;
        }
        Ok(())
    }

    /// A number for a stacked device that no other has: that of its MAC address, or any.
    ///
    /// # Errors
    /// There are [`MAX_CARDS`] already.
    pub fn free_stacked(&self, mac: [u8; 6]) -> Result<u32> {
        let taken = self.tables.cards.keys()?;
        let first = FIRST_STACKED + stacked_place(Mac::new(mac).words());
        let all = FIRST_STACKED..FIRST_STACKED + MAX_CARDS;
        [first]
            .into_iter()
            .chain(all)
            // A device that could not be removed keeps its number.
            .find(|number| {
                !taken.contains(number) && !attach::has_device(&self.bpffs, Hook::Guard, *number)
            })
            .with_context(|| format!("there are {MAX_CARDS} cards already"))
    }

    /// Whether the stacked device of a card is there.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn has_stacked(&self, ifindex: u32, mac: [u8; 6]) -> Result<bool> {
        let card = self.tables.cards.get(&ifindex)?;
        Ok(card.is_some_and(|card| card.mac == Mac::new(mac))
            && attach::has_device(&self.bpffs, Hook::Guard, ifindex))
    }

    /// Removes a stacked card. If its number is another card's by now, that one stays.
    ///
    /// # Errors
    /// If the kernel refuses; what is gone already is fine.
    pub fn remove_stacked(&mut self, ifindex: u32, mac: [u8; 6]) -> Result<()> {
        match self.tables.cards.get(&ifindex)? {
            Some(card) if card.mac != Mac::new(mac) => Ok(()),
            _ => self.remove_card(ifindex),
        }
    }

    /// Adds a card, or takes it over. A stacked device is in the namespace `inside`.
    ///
    /// # Errors
    /// If the device is missing, the segment has [`MAX_MEMBERS`] already, or the kernel refuses.
    pub fn add_card(&mut self, spec: &CardSpec, inside: Option<BorrowedFd<'_>>) -> Result<()> {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let card = Card {
            addr4: optional(spec.addr4),
            addr6: optional(spec.addr6),
            link_local: optional(spec.link_local),
            parent: spec.parent,
            vlan: spec.vlan,
            mac: Mac::new(spec.mac),
            parent_mac: Mac::new(spec.parent_mac),
            flags: flag(spec.any_source.0, ANY_SOURCE4)
                | flag(spec.any_source.1, ANY_SOURCE6)
                | flag(spec.routed, ROUTED),
            reserved: [0; 5],
            neighbours: 0,
        };
        let others = self.members(spec.parent, spec.vlan)?;
        let others = others.iter().filter(|other| **other != spec.ifindex);
        if !is_stacked(spec.ifindex) && others.count() >= MAX_MEMBERS as usize {
            bail!("this segment has {MAX_MEMBERS} containers already");
        }
        for key in addresses(&card) {
            if let Some(other) = self.tables.card_addrs.get(&key)?
                && other != spec.ifindex
            {
                bail!(
                    "another container on this parent has the address {}",
                    key.addr
                );
            }
        }
        let before = self.tables.cards.get(&spec.ifindex)?;
        let attached = self
            .tables
            .cards
            .insert(spec.ifindex, card)
            // Who has not heard of it would send to the wire what is for it.
            .and_then(|()| self.write_stacked(spec.parent))
            .and_then(|()| self.tables.card_macs.insert(key(&card), spec.ifindex))
            .and_then(|()| {
                addresses(&card)
                    .try_for_each(|key| self.tables.card_addrs.insert(key, spec.ifindex))
            })
            .and_then(|()| self.write_routed(spec.parent, card.parent_mac))
            // The parent may have had another MAC address, or have been another device.
            .and_then(|()| match before {
                Some(before) if before.is_routed() => {
                    self.write_routed(before.parent, before.parent_mac)
                }
                _ => Ok(()),
            })
            .and_then(|()| {
                let (programs, bpffs) = (&mut self.programs, &self.bpffs);
                if is_stacked(spec.ifindex) {
                    let inside = inside.context("the container's namespace is gone")?;
                    netns::inside(inside, || {
                        attach::attach(programs, bpffs, Hook::Guard, spec.ifindex)
                    })
                } else {
                    attach::attach(programs, bpffs, Hook::Card, spec.ifindex)
                }
            })
            .and_then(|()| self.write_segment(spec.parent, spec.vlan));
        if attached.is_err() {
            self.remove_card(spec.ifindex)?;
        }
        attached
    }

    /// Removes a card.
    ///
    /// # Errors
    /// If the kernel refuses; what is gone already is fine.
    pub fn remove_card(&mut self, ifindex: u32) -> Result<()> {
        if let Some(card) = self.tables.cards.get(&ifindex)? {
            self.tables.cards.remove(&ifindex)?;
            if is_stacked(ifindex) {
                self.tables.stacked.set(place_of(ifindex), NO_CARD, 0)?;
            }
            let key = key(&card);
            // The MAC address may have a new owner already.
            if self.tables.card_macs.get(&key)? == Some(ifindex) {
                self.tables.card_macs.remove(&key)?;
            }
            for key in addresses(&card) {
                if self.tables.card_addrs.get(&key)? == Some(ifindex) {
                    self.tables.card_addrs.remove(&key)?;
                }
            }
            self.write_routed(card.parent, card.parent_mac)?;
            self.write_segment(card.parent, card.vlan)?;
        }
        if !is_stacked(ifindex) {
            return attach::detach(&self.bpffs, Hook::Card, ifindex);
        }
        // A device in a namespace to which no way leads any more keeps its guard, which lets nothing
        // pass now.
        if attach::has_device(&self.bpffs, Hook::Guard, ifindex) {
            return Ok(());
        }
        attach::detach(&self.bpffs, Hook::Guard, ifindex)
    }

    /// Removes all cards but these.
    pub(super) fn retain_cards(&mut self, keep: &[u32]) -> Result<()> {
        let cards: Vec<u32> = self.tables.cards.keys()?;
        for ifindex in cards.into_iter().filter(|i| !keep.contains(i)) {
            self.remove_card(ifindex)?;
        }
        Ok(())
    }

    /// Those to whom the programs copy a segment's broadcasts: all but the stacked ones.
    fn members(&self, parent: u32, vlan: u16) -> Result<Vec<u32>> {
        let on_segment = |card: &Card| (card.parent, card.vlan) == (parent, vlan);
        let cards = self.tables.cards.iter()?;
        let mut members: Vec<u32> = cards
            .filter(|(ifindex, card)| !is_stacked(*ifindex) && on_segment(card))
            .map(|(ifindex, _)| ifindex)
            .collect();
        members.sort_unstable();
        Ok(members)
    }

    /// Writes the stacked cards of a parent to where they are found quickly.
    fn write_stacked(&mut self, parent: u32) -> Result<()> {
        let cards = self.tables.cards.iter()?;
        let beside = |card: &Card| card.parent == parent && card.vlan == 0;
        let cards: Vec<(u32, Card)> = cards.filter(|(_, card)| beside(card)).collect();
        let neighbours = cards
            .iter()
            .fold(0, |bits, (_, card)| bits | neighbour_bit(card.mac.words()));
        for (ifindex, card) in cards.into_iter().filter(|(i, _)| is_stacked(*i)) {
            let card = Card { neighbours, ..card };
            self.tables.stacked.set(place_of(ifindex), card, 0)?;
        }
        Ok(())
    }

    /// Has frames for a parent's own MAC address looked at if there are routed cards on it.
    fn write_routed(&mut self, parent: u32, mac: Mac) -> Result<()> {
        let mut cards = self.tables.cards.iter()?;
        let there = cards
            .any(|(_, card)| card.is_routed() && card.parent == parent && card.parent_mac == mac);
        let key = CardMac::new(parent, 0, mac.words());
        if there {
            self.tables.card_macs.insert(key, ROUTED_PARENT)
        } else if self.tables.card_macs.get(&key)? == Some(ROUTED_PARENT) {
            self.tables.card_macs.remove(&key)
        } else {
            Ok(())
        }
    }

    /// Writes the list of a segment's members. Places come before their number, so that none is
    /// empty whenever the programs look.
    fn write_segment(&mut self, parent: u32, vlan: u16) -> Result<()> {
        let members = self.members(parent, vlan)?;
        let stacked = self.tables.cards.iter()?;
        let stacked =
            stacked.filter(|(ifindex, card)| is_stacked(*ifindex) && card.parent == parent);
        let stacked = u32::try_from(stacked.count())?;
        let segments = &mut self.tables.segments;
        for (place, member) in (1..).zip(&members) {
            segments.insert(SegmentPlace::member(parent, vlan, place), member)?;
        }
        let count = SegmentPlace::count(parent, vlan);
        let before = segments.get(&count)?.unwrap_or(0);
        let now = u32::try_from(members.len())?;
        let numbers = [(count, now), (SegmentPlace::stacked(parent), stacked)];
        for (place, number) in numbers {
            if number == 0 {
                segments.remove(&place)?;
            } else {
                segments.insert(place, number)?;
            }
        }
        for place in now + 1..=before {
            let place = u16::try_from(place)?;
            segments.remove(&SegmentPlace::member(parent, vlan, place))?;
        }
        Ok(())
    }
}

fn key(card: &Card) -> CardMac {
    CardMac::new(card.parent, card.vlan, card.mac.words())
}

/// The addresses by which a routed card is found.
fn addresses(card: &Card) -> impl Iterator<Item = CardAddr> + use<> {
    let all = [card.addr4, card.addr6, card.link_local];
    let (parent, routed) = (card.parent, card.is_routed());
    all.into_iter()
        .filter(move |addr| routed && !addr.is_unspecified())
        .map(move |addr| CardAddr::new(parent, addr))
}
