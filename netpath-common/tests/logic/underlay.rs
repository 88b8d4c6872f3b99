//! What a card of a container may send on the wire of its host.

use netpath_common::addr::{Addr, Mac};
use netpath_common::packet::Packet;
use netpath_common::reason::DropReason;
use netpath_common::underlay::{
    ADVERTISEMENT_WORDS, ANY_SOURCE4, ANY_SOURCE6, ARP_WORDS, Answerer, Card, ROUTED, is_group,
};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

fn addr(text: &str) -> Addr {
    text.parse::<std::net::IpAddr>().unwrap().into()
}

fn card(flags: u8) -> Card {
    Card {
        addr4: addr("10.0.0.2"),
        addr6: addr("fd00::2"),
        link_local: addr("fe80::2"),
        parent: 3,
        vlan: 101,
        mac: Mac::new(MAC),
        parent_mac: Mac::new([2, 0, 0, 0, 0, 1]),
        flags,
        reserved: [0; 5],
        neighbours: 0,
    }
}

fn from(source: &str) -> Packet {
    let mut packet = Packet::of_network(0);
    packet.tuple.src = addr(source);
    packet
}

fn arp(mac: [u8; 6], sender: [u8; 4]) -> [u16; ARP_WORDS] {
    let mut octets = vec![0, 1, 8, 0, 6, 4, 0, 1];
    octets.extend(mac);
    octets.extend(sender);
    octets.extend([0; 6]);
    octets.extend([10, 0, 0, 1]);
    let words = octets
        .chunks(2)
        .map(|pair| u16::from_ne_bytes([pair[0], pair[1]]));
    words.collect::<Vec<_>>().try_into().unwrap()
}

#[test]
fn a_card_sends_from_its_own_addresses_and_from_none() {
    for own in ["10.0.0.2", "fd00::2", "fe80::2", "0.0.0.0", "::"] {
        assert_eq!(card(0).check(&from(own)), Ok(()), "{own}");
    }
    for foreign in ["10.0.0.3", "fd00::3", "fe80::3"] {
        assert_eq!(
            card(0).check(&from(foreign)),
            Err(DropReason::SpoofedSource),
            "{foreign}"
        );
    }
    // Whose addresses are not known may use any, family by family.
    assert_eq!(card(ANY_SOURCE4).check(&from("10.0.0.3")), Ok(()));
    assert!(card(ANY_SOURCE4).check(&from("fd00::3")).is_err());
    assert_eq!(card(ANY_SOURCE6).check(&from("fd00::3")), Ok(()));
    assert!(card(ANY_SOURCE6).check(&from("10.0.0.3")).is_err());
}

#[test]
fn a_card_speaks_arp_for_itself_only() {
    assert_eq!(card(0).check_arp(&arp(MAC, [10, 0, 0, 2])), Ok(()));
    // A probe (RFC 5227) asks on behalf of nobody.
    assert_eq!(card(0).check_arp(&arp(MAC, [0; 4])), Ok(()));
    let spoofed = Err(DropReason::SpoofedSource);
    assert_eq!(card(0).check_arp(&arp(MAC, [10, 0, 0, 3])), spoofed);
    assert_eq!(card(0).check_arp(&arp([2; 6], [10, 0, 0, 2])), spoofed);
    let mut other = arp(MAC, [10, 0, 0, 2]);
    other[0] = 6u16.to_be();
    assert_eq!(card(0).check_arp(&other), Err(DropReason::Malformed));
}

#[test]
fn a_card_is_no_router_and_speaks_for_nobody() {
    let (own, foreign) = (addr("fd00::2"), addr("fd00::3"));
    for (kind, target, fine) in [
        (133, foreign, true),
        (134, own, false),
        (135, foreign, true),
        (136, own, true),
        (136, addr("fe80::2"), true),
        (136, foreign, false),
        (137, own, false),
    ] {
        assert_eq!(
            card(0).check_discovery(kind, &target).is_ok(),
            fine,
            "{kind} {target}"
        );
    }
}

#[test]
fn groups_are_told_by_the_first_octet() {
    let words = |mac: [u8; 6]| Mac::new(mac).words();
    assert!(is_group(words([0xff; 6])));
    assert!(is_group(words([0x33, 0x33, 0, 0, 0, 1])));
    assert!(!is_group(words(MAC)));
    assert!(!is_group(words([0, 1, 1, 1, 1, 1])));
}

#[test]
fn the_router_answers_for_the_wire_and_for_nobody_else() {
    let here = [addr("10.0.0.1"), addr("10.0.0.3"), addr("fd00::3")];
    let of = |target: &str| card(ROUTED).answerer(&addr(target), |a| here.contains(a));
    for wire in ["10.0.0.9", "198.51.100.1", "fd00::9", "169.254.169.254"] {
        assert_eq!(of(wire), Answerer::Router, "{wire}");
    }
    for other in [
        // Its own, which it asks for to find duplicates; and those of this host.
        "10.0.0.2",
        "fd00::2",
        "fe80::2",
        "10.0.0.1",
        "10.0.0.3",
        "fd00::3",
        // What does not cross a router, and what nobody has.
        "fe80::9",
        "224.0.0.1",
        "0.0.0.0",
        "::",
        "255.255.255.255",
        "ff02::1",
    ] {
        assert_eq!(of(other), Answerer::Owner, "{other}");
    }
}

#[test]
fn the_wire_hears_what_a_container_says_about_itself() {
    for (kind, searches, wire) in [
        (133, false, false),
        (133, true, false),
        (135, false, false),
        (135, true, true),
        (136, false, true),
    ] {
        assert_eq!(Card::is_for_wire(kind, searches), wire, "{kind} {searches}");
    }
}

#[test]
fn advertisements_name_the_parents_mac_address() {
    // The sum over all words, the checksum among them, does not change.
    let sum = |words: &[u16; ADVERTISEMENT_WORDS]| {
        let sum: u32 = words.iter().map(|word| u32::from(*word)).sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        (sum & 0xffff) + (sum >> 16)
    };
    let mut words: [u16; ADVERTISEMENT_WORDS] = core::array::from_fn(|i| 0x0f34 * i as u16);
    words[12] = u16::from_ne_bytes([2, 1]);
    let own = Mac::new(MAC).words();
    words[13..].copy_from_slice(&own);
    let before = words;
    assert!(card(ROUTED).advertise(&mut words));
    assert_eq!(words[13..], card(ROUTED).parent_mac.words());
    assert_eq!(words[2..13], before[2..13]);
    assert_eq!(sum(&words) % 0xffff, sum(&before) % 0xffff);
    for (place, value) in [(12, u16::from_ne_bytes([1, 1])), (15, 0)] {
        let mut other = before;
        other[place] = value;
        let unchanged = other;
        assert!(!card(ROUTED).advertise(&mut other));
        assert_eq!(other, unchanged);
    }
}
