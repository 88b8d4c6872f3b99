//! Containers on the wire of the host's card: unicast finds them, others' frames pass unchanged,
//! and nobody speaks for others.

use std::fs::File;
use std::os::fd::AsFd as _;

use netpath::datapath::CardSpec;
use netpath_common::underlay::FIRST_STACKED;
use netpath_tests::packets::{L4, SYN, Sample, arp, icmpv6, solicitation};
use netpath_tests::progrun::{Action, At, Host, ifindex, on_host, sh};

const MAC_CARD: [u8; 6] = [2, 0, 0, 0, 2, 1];
const MAC_OTHER: [u8; 6] = [2, 0, 0, 0, 2, 2];
const MAC_FAR: [u8; 6] = [2, 0, 0, 0, 3, 1];
const MAC_FAR_TOO: [u8; 6] = [2, 0, 0, 0, 3, 2];
const BROADCAST: [u8; 6] = [0xff; 6];
const ALL_NODES: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

const CARD4: &str = "192.0.2.10";
const CARD6: &str = "2001:db8::10";
const LINK_LOCAL: &str = "fe80::210";
const FAR4: &str = "192.0.2.20";
const FAR6: &str = "2001:db8::20";

/// A card on the uplink, behind a veth or stacked, and another beside it behind a veth.
fn with_first(stacked: bool, test: impl FnOnce(&mut Host, At) + Send) {
    on_host(|host| {
        host.datapath.add_parent(host.uplink).unwrap();
        let parent_mac = host.mac("up0");
        let here = File::open("/proc/thread-self/ns/net").unwrap();
        let mut cards = Vec::new();
        for (number, mac) in [(4, MAC_CARD), (5, MAC_OTHER)] {
            let first = number == 4;
            let device = format!("veth{number}");
            if first && stacked {
                let index = host.datapath.free_stacked(mac).unwrap();
                assert_eq!(index, FIRST_STACKED + 0x201);
                sh(&format!(
                    "ip link add link up0 name {device} index {index} address 02:00:00:00:02:01 \
                        type macvlan mode vepa
                     ip link set {device} up"
                ));
            } else {
                sh(&format!(
                    "ip link add {device} type veth peer name cont{number}
                     ip link set {device} up
                     ip link set cont{number} up"
                ));
            }
            let ifindex = ifindex(&device);
            let spec = CardSpec {
                ifindex,
                parent: host.uplink,
                parent_mac,
                vlan: 0,
                mac,
                addr4: first.then(|| CARD4.parse().unwrap()),
                addr6: first.then(|| CARD6.parse().unwrap()),
                link_local: first.then(|| LINK_LOCAL.parse().unwrap()),
                any_source: (!first, !first),
                routed: false,
            };
            host.datapath.add_card(&spec, Some(here.as_fd())).unwrap();
            cards.push(ifindex);
        }
        let first = cards[0];
        let at = if stacked { At::Guard } else { At::Card };
        test(host, at(first));
    });
}

fn with_cards(test: impl FnOnce(&mut Host, At) + Send) {
    with_first(false, test);
}

fn with_both(test: impl Fn(&mut Host, At) + Send + Sync) {
    with_first(false, &test);
    with_first(true, &test);
}

/// What becomes of a frame that a card may send: the guard leaves it to the device.
fn sent(at: At) -> Action {
    match at {
        At::Guard(_) => Action::Pass,
        _ => Action::Redirect,
    }
}

fn udp(src: &str, src_port: u16, dst: &str, dst_port: u16) -> Sample {
    Sample::new(src, dst, L4::Udp(src_port, dst_port))
}

fn between(src: &str, dst: &str, from: [u8; 6], to: [u8; 6]) -> Vec<u8> {
    udp(src, 1000, dst, 2000).macs(from, to).bytes()
}

#[test]
fn frames_of_others_pass_unchanged() {
    with_both(|host, _| {
        let own = host.mac("up0");
        let mut frames = vec![
            between(FAR4, "192.0.2.1", MAC_FAR, own),
            between(FAR6, "2001:db8::1", MAC_FAR, own),
            between(FAR4, "192.0.2.21", MAC_FAR, MAC_FAR_TOO),
            arp(1, MAC_FAR, FAR4, [0; 6], "192.0.2.21"),
            arp(2, MAC_FAR, FAR4, own, "192.0.2.1"),
            Sample::new(FAR4, "192.0.2.1", L4::Tcp(1, 80, SYN))
                .macs(MAC_FAR, own)
                .bytes(),
        ];
        // Whatever it is, also what nobody can read: LLDP, noise.
        let mut lldp = vec![0x01, 0x80, 0xc2, 0, 0, 0x0e, 2, 0, 0, 0, 3, 1, 0x88, 0xcc];
        lldp.extend([0x55; 46]);
        frames.push(lldp);
        frames.push([&own[..], &MAC_FAR, &[0x12, 0x34], &[9; 50]].concat());
        for frame in frames {
            for at in [At::Wire(true), At::Wire(false)] {
                // `run` checks that what passes is what came.
                let run = host.run(at, &frame);
                assert_eq!(run.action, Action::Pass, "{at:?} {frame:02x?}");
            }
        }
        assert_eq!(host.counter("underlay", "seen"), 0, "nor are they counted");
    });
}

#[test]
fn a_container_gets_its_frames_unchanged() {
    with_cards(|host, _| {
        for (src, dst) in [(FAR4, CARD4), (FAR6, CARD6), (FAR4, "198.51.100.1")] {
            let frame = between(src, dst, MAC_FAR, MAC_CARD);
            for at in [At::Wire(true), At::Wire(false)] {
                let run = host.run(at, &frame);
                assert_eq!(
                    (run.action, run.frame),
                    (Action::Redirect, frame.clone()),
                    "{at:?}"
                );
            }
        }
        assert_eq!(host.counter("underlay", "to_container"), 6);
    });
}

#[test]
fn groups_pass_on_and_a_containers_own_are_not_copied_again() {
    with_cards(|host, card| {
        let question = arp(1, MAC_FAR, FAR4, [0; 6], CARD4);
        for at in [At::Wire(true), At::Wire(false)] {
            let run = host.run(at, &question);
            assert_eq!((run.action, &run.frame), (Action::Pass, &question));
        }
        let own = arp(1, MAC_CARD, CARD4, [0; 6], FAR4);
        let run = host.run(card, &own);
        assert_eq!((run.action, &run.frame), (Action::Redirect, &own));
        for at in [At::Wire(true), At::Wire(false)] {
            assert_eq!(host.run(at, &own).action, Action::Pass);
        }
    });
}

#[test]
fn a_container_sends_to_the_wire_the_host_and_its_neighbours() {
    with_cards(|host, card| {
        let own = host.mac("up0");
        for (src, dst) in [(CARD4, FAR4), (CARD6, FAR6), (LINK_LOCAL, "fe80::1")] {
            for to in [own, MAC_FAR, MAC_OTHER, BROADCAST, ALL_NODES] {
                let frame = between(src, dst, MAC_CARD, to);
                let run = host.run(card, &frame);
                assert_eq!((run.action, run.frame), (Action::Redirect, frame.clone()));
            }
        }
        assert_eq!(host.counter("underlay", "to_host"), 3);
        assert_eq!(host.counter("underlay", "to_container"), 3);
        assert_eq!(host.counter("underlay", "to_uplink"), 9);
    });
}

#[test]
fn a_container_speaks_for_nobody_else() {
    with_both(|host, card| {
        let far = |frame: Sample| frame.macs(MAC_CARD, MAC_FAR).bytes();
        let advertisement = |target: &str| {
            let body = [&[0x20, 0, 0, 0][..], &solicitation(target, &[])[4..]].concat();
            icmpv6([MAC_CARD, ALL_NODES], CARD6, "ff02::1", 136, &body)
        };
        for frame in [
            far(udp(FAR4, 1, "192.0.2.1", 2)),
            far(udp(FAR6, 1, "2001:db8::1", 2)),
            far(udp("fe80::999", 1, "fe80::1", 2)),
            between(CARD4, FAR4, MAC_OTHER, MAC_FAR),
            arp(2, MAC_CARD, FAR4, BROADCAST, FAR4),
            arp(1, MAC_OTHER, CARD4, [0; 6], FAR4),
            advertisement(FAR6),
            // A router's advertisement, and a redirect.
            icmpv6([MAC_CARD, ALL_NODES], LINK_LOCAL, "ff02::1", 134, &[0; 12]),
            icmpv6([MAC_CARD, ALL_NODES], LINK_LOCAL, "ff02::1", 137, &[0; 36]),
        ] {
            host.run(card, &frame).dropped("spoofed_source");
        }
        let mut lldp = vec![0x01, 0x80, 0xc2, 0, 0, 0x0e];
        lldp.extend(MAC_CARD);
        lldp.extend([0x88, 0xcc]);
        lldp.extend([0x55; 46]);
        host.run(card, &lldp).dropped("unknown_ether_type");
        // What is its own passes: its advertisement, a probe, the search for duplicates.
        for frame in [
            advertisement(CARD6),
            arp(1, MAC_CARD, "0.0.0.0", [0; 6], CARD4),
            icmpv6(
                [MAC_CARD, ALL_NODES],
                "::",
                "ff02::1",
                135,
                &solicitation(CARD6, &[]),
            ),
            far(udp("0.0.0.0", 68, "255.255.255.255", 67)),
        ] {
            assert_eq!(host.run(card, &frame).action, sent(card), "{frame:02x?}");
        }
    });
}

#[test]
fn cut_frames_go_nowhere() {
    with_cards(|host, card| {
        // The kernel runs no program on an IP header that is cut.
        for (whole, shortest) in [
            (between(CARD4, FAR4, MAC_CARD, MAC_FAR), 34),
            (between(CARD6, FAR6, MAC_CARD, MAC_FAR), 54),
            (arp(1, MAC_CARD, CARD4, [0; 6], FAR4), 15),
        ] {
            for length in shortest..whole.len() {
                let run = host.run(card, &whole[..length]);
                run.dropped("malformed");
                assert_eq!(run.frame, whole[..length], "{length} of {}", whole.len());
            }
        }
    });
}

#[test]
fn a_stacked_card_sends_what_is_its_own_as_it_is() {
    with_first(true, |host, guard| {
        let own = host.mac("up0");
        for (src, dst) in [(CARD4, FAR4), (CARD6, FAR6), (LINK_LOCAL, "fe80::1")] {
            for to in [own, MAC_FAR, MAC_OTHER, BROADCAST, ALL_NODES] {
                let frame = between(src, dst, MAC_CARD, to);
                assert_eq!(host.run(guard, &frame).action, Action::Pass);
            }
        }
        // What the card's egress takes elsewhere is counted there.
        assert_eq!(host.counter("underlay", "to_uplink"), 3);
        assert_eq!(host.counter("underlay", "seen"), 3);
        // An option in the header is no way around the guard.
        let mut options = between(FAR4, CARD4, MAC_CARD, MAC_FAR);
        options[14] = 0x46;
        assert_eq!(host.run(guard, &options).action, Action::Drop);
        options[14] = 0x35;
        assert_eq!(host.run(guard, &options).action, Action::Drop);
    });
}

#[test]
fn cut_frames_do_a_guard_no_harm() {
    with_first(true, |host, guard| {
        for (whole, shortest) in [
            (between(CARD4, FAR4, MAC_CARD, MAC_FAR), 34),
            (between(CARD6, FAR6, MAC_CARD, MAC_FAR), 54),
            (arp(1, MAC_CARD, CARD4, [0; 6], FAR4), 15),
        ] {
            for length in shortest..whole.len() {
                // The source is whole wherever the header is.
                let run = host.run(guard, &whole[..length]);
                assert_ne!(run.action, Action::Redirect, "{length} of {}", whole.len());
            }
        }
    });
}

#[test]
fn the_kernel_delivers_to_a_stacked_card() {
    with_first(true, |host, _| {
        for (src, dst) in [(FAR4, CARD4), (FAR6, CARD6), (FAR4, "198.51.100.1")] {
            let frame = between(src, dst, MAC_FAR, MAC_CARD);
            // Past the program that is for the host's packets.
            let run = host.run(At::Wire(true), &frame);
            assert_eq!((run.action, run.frame), (Action::Accept, frame.clone()));
            let run = host.run(At::Wire(false), &frame);
            assert_eq!((run.action, run.frame), (Action::Redirect, frame));
        }
        assert_eq!(host.counter("underlay", "to_container"), 3);
        let question = arp(1, MAC_FAR, FAR4, [0; 6], CARD4);
        for at in [At::Wire(true), At::Wire(false)] {
            assert_eq!(host.run(at, &question).action, Action::Pass);
        }
        let own = arp(1, MAC_CARD, CARD4, [0; 6], FAR4);
        for at in [At::Wire(true), At::Wire(false)] {
            assert_eq!(host.run(at, &own).action, Action::Pass, "{at:?}");
        }
    });
}

#[test]
fn stacked_cards_are_numbered_apart() {
    with_first(true, |host, guard| {
        let At::Guard(first) = guard else {
            unreachable!()
        };
        assert!(host.datapath.has_stacked(first, MAC_CARD).unwrap());
        assert!(!host.datapath.has_stacked(first, MAC_OTHER).unwrap());
        // A record that is out of date does not take another's card away.
        host.datapath.remove_stacked(first, MAC_OTHER).unwrap();
        // Its number is that of its MAC address, as long as it is free.
        let free = |host: &Host| host.datapath.free_stacked(MAC_CARD).unwrap();
        assert_eq!((first, free(host)), (FIRST_STACKED + 0x201, FIRST_STACKED));
        sh("ip link del veth4");
        assert!(!host.datapath.has_stacked(first, MAC_CARD).unwrap());
        host.datapath.remove_card(first).unwrap();
        assert_eq!(free(host), first);
        let frame = between(FAR4, CARD4, MAC_FAR, MAC_CARD);
        assert_eq!(host.run(At::Wire(true), &frame).action, Action::Pass);
    });
}

#[test]
fn a_card_that_is_gone_gets_nothing() {
    with_cards(|host, card| {
        let At::Card(ifindex) = card else {
            unreachable!()
        };
        host.datapath.remove_card(ifindex).unwrap();
        let frame = between(FAR4, CARD4, MAC_FAR, MAC_CARD);
        assert_eq!(host.run(At::Wire(true), &frame).action, Action::Pass);
        let frame = between(CARD4, FAR4, MAC_CARD, MAC_FAR);
        host.run(card, &frame).dropped("unknown_endpoint");
    });
}
