//! Containers on a wire that knows them by the card's MAC address.

use netpath::datapath::CardSpec;
use netpath_common::underlay::ROUTER_MAC;
use netpath_tests::packets::{L4, Sample, arp, icmpv6, solicitation};
use netpath_tests::progrun::{Action, At, Host, V4, V6, ifindex, on_host, sh};

const MAC_CARD: [u8; 6] = [2, 0, 0, 0, 2, 1];
const MAC_OTHER: [u8; 6] = [2, 0, 0, 0, 2, 2];
const MAC_FAR: [u8; 6] = [2, 0, 0, 0, 3, 1];
const MAC_FAR_TOO: [u8; 6] = [2, 0, 0, 0, 3, 2];
const BROADCAST: [u8; 6] = [0xff; 6];
const ALL_NODES: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

const CARD: [&str; 2] = ["192.0.2.10", "2001:db8::10"];
const OTHER: [&str; 2] = ["192.0.2.11", "2001:db8::11"];
const FAR: [&str; 2] = ["192.0.2.20", "2001:db8::20"];
const HOST: [&str; 2] = [V4.uplink, V6.uplink];

/// Two routed cards on the uplink; the first is the one at hand.
fn with_cards(test: impl FnOnce(&mut Host, At, [u8; 6]) + Send) {
    on_host(|host| {
        host.datapath.add_parent(host.uplink).unwrap();
        let parent_mac = host.mac("up0");
        let mut veths = Vec::new();
        for (number, mac, addresses) in [(4, MAC_CARD, CARD), (5, MAC_OTHER, OTHER)] {
            // Questions are copied to them, and the kernel knows the answer to some.
            sh(&format!(
                "ip link add veth{number} type veth peer name cont{number}
                 ip link set veth{number} up
                 ip link set cont{number} arp off up"
            ));
            let ifindex = ifindex(&format!("veth{number}"));
            let spec = CardSpec {
                ifindex,
                parent: host.uplink,
                parent_mac,
                vlan: 0,
                mac,
                addr4: Some(addresses[0].parse().unwrap()),
                addr6: Some(addresses[1].parse().unwrap()),
                link_local: Some(format!("fe80::{number}").parse().unwrap()),
                any_source: (false, false),
                routed: true,
            };
            host.datapath.add_card(&spec, None).unwrap();
            veths.push(ifindex);
        }
        test(host, At::Card(veths[0]), parent_mac);
    });
}

fn between(src: &str, dst: &str, from: [u8; 6], to: [u8; 6]) -> Vec<u8> {
    let udp = L4::Udp(1000, 2000);
    Sample::new(src, dst, udp).macs(from, to).bytes()
}

/// An answer to an ARP request.
fn reply(mac: [u8; 6], sender: &str, to: [u8; 6], target: &str) -> Vec<u8> {
    let mut frame = arp(2, mac, sender, to, target);
    frame[..6].copy_from_slice(&to);
    frame
}

/// A neighbour solicitation.
fn asks(from: [u8; 6], to: [u8; 6], src: &str, target: &str) -> Vec<u8> {
    icmpv6([from, to], src, target, 135, &solicitation(target, &[]))
}

#[test]
fn the_wire_finds_containers_by_their_addresses() {
    with_cards(|host, _, own| {
        for (src, dst) in [(FAR[0], CARD[0]), (FAR[1], CARD[1]), (FAR[1], "fe80::4")] {
            let frame = between(src, dst, MAC_FAR, own);
            let run = host.run(At::Wire(true), &frame);
            assert_eq!((run.action, run.frame), (Action::Redirect, frame.clone()));
            // As before the host's own, if it leaves the host.
            assert_eq!(host.run(At::Wire(false), &frame).action, Action::Pass);
        }
        assert_eq!(host.counter("underlay", "to_container"), 3);
        // The host itself sends to MAC addresses.
        let frame = between(HOST[0], CARD[0], own, MAC_CARD);
        assert_eq!(host.run(At::Wire(false), &frame).action, Action::Redirect);
    });
}

#[test]
fn frames_of_others_pass_unchanged() {
    with_cards(|host, _, own| {
        let mut frames = vec![
            between(FAR[0], HOST[0], MAC_FAR, own),
            between(FAR[1], HOST[1], MAC_FAR, own),
            between(FAR[0], "192.0.2.77", MAC_FAR, own),
            between(FAR[0], "192.0.2.21", MAC_FAR, MAC_FAR_TOO),
            // For a container's address, but not for the host's card.
            between(FAR[0], CARD[0], MAC_FAR, MAC_FAR_TOO),
            arp(1, MAC_FAR, FAR[0], [0; 6], HOST[0]),
            arp(2, MAC_FAR, FAR[0], own, HOST[0]),
            asks(MAC_FAR, own, FAR[1], HOST[1]),
            icmpv6([MAC_FAR, own], FAR[1], HOST[1], 128, &[0; 8]),
        ];
        frames.push([&own[..], &MAC_FAR, &[0x12, 0x34], &[9; 50]].concat());
        for frame in frames {
            for at in [At::Wire(true), At::Wire(false)] {
                let run = host.run(at, &frame);
                assert_eq!(run.action, Action::Pass, "{at:?} {frame:02x?}");
            }
        }
        assert_eq!(host.counter("underlay", "seen"), 0, "nor are they counted");
    });
}

#[test]
fn the_host_answers_for_them_on_the_wire() {
    with_cards(|host, _, own| {
        for to in [BROADCAST, own] {
            let mut question = arp(1, MAC_FAR, FAR[0], [0; 6], CARD[0]);
            question[..6].copy_from_slice(&to);
            let run = host.run(At::Wire(true), &question);
            assert_eq!(run.action, Action::Redirect);
            assert_eq!(run.frame, reply(own, CARD[0], MAC_FAR, FAR[0]));
        }
        for to in [ALL_NODES, own] {
            let run = host.run(At::Wire(true), &asks(MAC_FAR, to, FAR[1], CARD[1]));
            let answer = run.frame;
            assert_eq!(run.action, Action::Redirect);
            assert_eq!((&answer[..6], &answer[6..12]), (&MAC_FAR[..], &own[..]));
            assert_eq!(answer[54], 136);
            assert_eq!(answer[80..86], own, "the target's link-layer address");
        }
        assert_eq!(host.counter("underlay", "answered"), 4);
        // The search for duplicates is for the container to answer: it is copied there.
        let search = asks(MAC_FAR, ALL_NODES, "::", CARD[1]);
        assert_eq!(host.run(At::Wire(true), &search).action, Action::Pass);
    });
}

#[test]
fn the_wire_is_one_router_to_them() {
    with_cards(|host, card, _| {
        let router = ROUTER_MAC.octets;
        for target in [FAR[0], "198.51.100.7"] {
            let run = host.run(card, &arp(1, MAC_CARD, CARD[0], [0; 6], target));
            assert_eq!(run.action, Action::Redirect);
            assert_eq!(run.frame, reply(router, target, MAC_CARD, CARD[0]));
        }
        let run = host.run(card, &asks(MAC_CARD, ALL_NODES, CARD[1], FAR[1]));
        assert_eq!(run.action, Action::Redirect);
        assert_eq!((run.frame[54], &run.frame[80..86]), (136, &router[..]));
        assert_eq!(host.counter("underlay", "answered"), 3);
        // Who is on this host answers by himself.
        for target in [OTHER[0], HOST[0], CARD[0]] {
            let question = arp(1, MAC_CARD, CARD[0], [0; 6], target);
            let run = host.run(card, &question);
            assert_eq!((run.action, run.frame), (Action::Redirect, question));
        }
        assert_eq!(host.counter("underlay", "answered"), 3);
        assert_eq!(host.counter("underlay", "to_host"), 3);
    });
}

#[test]
fn they_send_to_the_wire_the_host_and_their_neighbours() {
    with_cards(|host, card, own| {
        let router = ROUTER_MAC.octets;
        for i in [0, 1] {
            for (dst, to) in [(HOST[i], own), (FAR[i], router), (OTHER[i], MAC_OTHER)] {
                let frame = between(CARD[i], dst, MAC_CARD, to);
                let run = host.run(card, &frame);
                // The kernel gives it the MAC addresses of the wire when it sends.
                assert_eq!((run.action, run.frame), (Action::Redirect, frame.clone()));
            }
            // An address of the host's that is not of this wire.
            let gateway = [V4.gateway, V6.gateway][i];
            let frame = between(CARD[i], gateway, MAC_CARD, router);
            let run = host.run(card, &frame);
            assert_eq!(run.action, Action::Redirect);
            assert_eq!(run.frame[..6], own);
            assert_eq!(run.frame[12..], frame[12..]);
        }
        assert_eq!(host.counter("underlay", "to_host"), 4);
        assert_eq!(host.counter("underlay", "to_uplink"), 2);
        assert_eq!(host.counter("underlay", "to_container"), 2);
        // Groups leave with the card's MAC address.
        let frame = between(CARD[0], "224.0.0.251", MAC_CARD, [1, 0, 0x5e, 0, 0, 0xfb]);
        let run = host.run(card, &frame);
        assert_eq!(run.action, Action::Redirect);
        assert_eq!(run.frame[6..12], own);
        assert_eq!(run.frame[12..], frame[12..]);
    });
}

#[test]
fn they_speak_for_themselves_by_the_cards_mac_address() {
    with_cards(|host, card, own| {
        let advertisement = |target: &str, mac: [u8; 6]| {
            let option = [&[2, 1][..], &mac].concat();
            let body = [
                &[0x20, 0, 0, 0][..],
                &solicitation(target, &[])[4..],
                &option,
            ]
            .concat();
            icmpv6([MAC_CARD, ALL_NODES], CARD[1], "ff02::1", 136, &body)
        };
        // `run` checks that its checksum is right.
        let run = host.run(card, &advertisement(CARD[1], MAC_CARD));
        assert_eq!(run.action, Action::Redirect);
        assert_eq!(run.frame[6..12], own);
        assert_eq!(run.frame[80..86], own, "the target's link-layer address");
        host.run(card, &advertisement(CARD[1], MAC_FAR))
            .dropped("spoofed_source");
        host.run(card, &advertisement(FAR[1], MAC_CARD))
            .dropped("spoofed_source");
        for frame in [
            between(FAR[0], FAR[0], MAC_CARD, ROUTER_MAC.octets),
            between(CARD[0], FAR[0], MAC_OTHER, ROUTER_MAC.octets),
            arp(2, MAC_CARD, FAR[0], BROADCAST, FAR[0]),
        ] {
            host.run(card, &frame).dropped("spoofed_source");
        }
        // Answers that nobody asked for reach nobody on the wire.
        let answer = reply(MAC_CARD, CARD[0], ROUTER_MAC.octets, FAR[0]);
        host.run(card, &answer).dropped("no_such_neighbour");
    });
}

#[test]
fn when_the_last_is_gone_the_host_has_its_frames_for_itself() {
    with_cards(|host, card, own| {
        let frame = between(FAR[0], CARD[0], MAC_FAR, own);
        let At::Card(first) = card else {
            unreachable!()
        };
        host.datapath.remove_card(first).unwrap();
        assert_eq!(host.run(At::Wire(true), &frame).action, Action::Pass);
        let other = between(FAR[0], OTHER[0], MAC_FAR, own);
        assert_eq!(host.run(At::Wire(true), &other).action, Action::Redirect);
        host.datapath.remove_card(ifindex("veth5")).unwrap();
        assert_eq!(host.run(At::Wire(true), &other).action, Action::Pass);
        let question = arp(1, MAC_FAR, FAR[0], [0; 6], CARD[0]);
        assert_eq!(host.run(At::Wire(true), &question).action, Action::Pass);
    });
}
