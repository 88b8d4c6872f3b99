//! ARP and neighbour discovery, answered in place.

use etherparse::{ArpOperation, NetHeaders, PacketHeaders};
use netpath_tests::packets::{arp, icmpv6, insert_extensions, solicitation};
use netpath_tests::progrun::{Action, At, Host, MAC_A, MAC_B, MAC_GATEWAY, V4, V6, on_host};
use netpath_tests::verify;

const A: At = At::Container(0);
const NOBODY: [u8; 6] = [0; 6];
const BROADCAST: [u8; 6] = [0xff; 6];
/// Where solicitations go.
const SOLICITED_NODE: [u8; 6] = [0x33, 0x33, 0xff, 0, 0, 1];

/// Asks who has `target`, and expects that `mac` is said to have it.
fn assert_arp_answer(host: &mut Host, sender: &str, target: &str, mac: [u8; 6]) {
    let run = host.run(A, &arp(1, MAC_A, sender, NOBODY, target));
    assert_eq!(run.action, Action::Redirect, "{target}: {:?}", run.reason);
    let headers = PacketHeaders::from_ethernet_slice(&run.frame).unwrap();
    let link = headers.link.unwrap().ethernet2().unwrap();
    assert_eq!((link.source, link.destination), (mac, MAC_A));
    let Some(NetHeaders::Arp(answer)) = headers.net else {
        panic!("no ARP")
    };
    assert_eq!(answer.operation, ArpOperation::REPLY);
    assert_eq!(answer.sender_hw_addr(), mac);
    assert_eq!(answer.target_hw_addr(), MAC_A);
    let octets = |text: &str| text.parse::<std::net::Ipv4Addr>().unwrap().octets();
    assert_eq!(answer.sender_protocol_addr(), octets(target));
    assert_eq!(answer.target_protocol_addr(), octets(sender));
    assert_eq!(run.frame.len(), 42);
}

#[test]
fn arp_for_the_gateway_and_for_neighbours_is_answered() {
    on_host(|host| {
        assert_arp_answer(host, V4.a, V4.gateway, MAC_GATEWAY);
        assert_arp_answer(host, V4.a, V4.b, MAC_B);
        // A probe (RFC 5227) asks on behalf of nobody.
        assert_arp_answer(host, "0.0.0.0", V4.b, MAC_B);
        assert_eq!(host.counter("container", "answered"), 3);
        // Padding up to the smallest Ethernet frame changes nothing.
        let mut padded = arp(1, MAC_A, V4.a, NOBODY, V4.b);
        padded.resize(60, 0);
        assert_eq!(host.run(A, &padded).action, Action::Redirect);
    });
}

#[test]
fn arp_for_ones_own_address_and_for_nobodys_is_silent() {
    on_host(|host| {
        // Its own, its own by a probe, nobody's, another network's, one off the link.
        let asks = [
            (V4.a, V4.a),
            ("0.0.0.0", V4.a),
            (V4.a, V4.nobody),
            (V4.a, V4.red),
            (V4.a, "10.2.0.1"),
            (V4.a, V4.remote),
        ];
        for (sender, target) in asks {
            let run = host.run(A, &arp(1, MAC_A, sender, NOBODY, target));
            run.dropped("no_such_neighbour");
        }
    });
}

#[test]
fn arp_that_lies_is_dropped() {
    on_host(|host| {
        // The sender's address, the sender's MAC within, and the frame's own.
        for sender in [V4.b, V4.gateway, V4.remote] {
            host.run(A, &arp(1, MAC_A, sender, NOBODY, V4.b))
                .dropped("spoofed_source");
        }
        let mut frame = arp(1, MAC_A, V4.a, NOBODY, V4.b);
        frame[22..28].copy_from_slice(&MAC_B);
        host.run(A, &frame).dropped("spoofed_source");
        host.run(A, &arp(1, MAC_B, V4.a, NOBODY, V4.b))
            .dropped("spoofed_source");
        // Answers and announcements that nobody asked for.
        host.run(A, &arp(2, MAC_A, V4.a, MAC_B, V4.b))
            .dropped("multicast");
        host.run(A, &arp(2, MAC_A, V4.gateway, BROADCAST, V4.gateway))
            .dropped("multicast");
        for len in 14..42 {
            let run = host.run(A, &arp(1, MAC_A, V4.a, NOBODY, V4.b)[..len.max(15)]);
            run.dropped("malformed");
        }
        assert_eq!(host.counter("container", "answered"), 0);
    });
}

/// Solicits `target` with these options, and expects that `mac` is said to have it.
fn assert_nd_answer(host: &mut Host, sender: &str, target: &str, options: &[u8], mac: [u8; 6]) {
    let body = [solicitation(target, options)].concat();
    let frame = icmpv6(
        [MAC_A, SOLICITED_NODE],
        sender,
        "ff02::1:ff00:1",
        135,
        &body,
    );
    let run = host.run(A, &frame);
    assert_eq!(run.action, Action::Redirect, "{target}: {:?}", run.reason);
    verify::checksums(&run.frame).unwrap();
    let headers = PacketHeaders::from_ethernet_slice(&run.frame).unwrap();
    let link = headers.link.unwrap().ethernet2().unwrap();
    assert_eq!((link.source, link.destination), (mac, MAC_A));
    let Some(NetHeaders::Ipv6(ip, _)) = headers.net else {
        panic!("no IPv6")
    };
    let v6 = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap();
    assert_eq!(
        (ip.source_addr(), ip.destination_addr()),
        (v6(target), v6(sender))
    );
    assert_eq!(ip.hop_limit, 255);
    let answer = verify::advertisement(&run.frame).expect("an advertisement");
    assert_eq!(
        answer.flags,
        [mac == MAC_GATEWAY, true, true],
        "router, solicited, override"
    );
    let option = [[2, 1].as_slice(), &mac].concat();
    assert_eq!(
        answer.body,
        [v6(target).octets().as_slice(), &option].concat()
    );
    assert_eq!(run.frame.len(), 14 + 40 + 32);
}

/// Option "source link-layer address" (RFC 4861, 4.6.1).
const SOURCE: [u8; 8] = [1, 1, 2, 0, 0, 0, 0, 2];
/// Option "nonce" (RFC 3971, 5.3.2).
const NONCE: [u8; 8] = [14, 1, 9, 8, 7, 6, 5, 4];

#[test]
fn solicitations_are_answered() {
    on_host(|host| {
        let both = [SOURCE, NONCE].concat();
        for options in [SOURCE.as_slice(), &[], &NONCE, &both] {
            assert_nd_answer(host, V6.a, V6.gateway, options, MAC_GATEWAY);
            assert_nd_answer(host, V6.a, V6.b, options, MAC_B);
            assert_nd_answer(host, "fe80::2", "fe80::3", options, MAC_B);
            assert_nd_answer(host, "fe80::2", V6.b, options, MAC_B);
        }
        assert_eq!(host.counter("container", "answered"), 16);
    });
}

#[test]
fn solicitations_for_oneself_and_for_nobody_are_silent() {
    on_host(|host| {
        for target in [
            V6.a, "fe80::2", V6.nobody, V6.red, V6.remote, "::", "ff02::1",
        ] {
            let body = solicitation(target, &SOURCE);
            let frame = icmpv6([MAC_A, SOLICITED_NODE], V6.a, "ff02::1:ff00:1", 135, &body);
            host.run(A, &frame).dropped("no_such_neighbour");
        }
        // Duplicate address detection.
        for target in [V6.a, V6.b] {
            let body = solicitation(target, &NONCE);
            let frame = icmpv6([MAC_A, SOLICITED_NODE], "::", "ff02::1:ff00:1", 135, &body);
            host.run(A, &frame).dropped("no_such_neighbour");
        }
    });
}

#[test]
fn solicitations_that_lie_are_dropped() {
    on_host(|host| {
        let body = solicitation(V6.b, &SOURCE);
        for sender in [V6.b, V6.gateway, "fe80::9", V6.remote] {
            let frame = icmpv6(
                [MAC_A, SOLICITED_NODE],
                sender,
                "ff02::1:ff00:1",
                135,
                &body,
            );
            host.run(A, &frame).dropped("spoofed_source");
        }
        let frame = icmpv6([MAC_B, SOLICITED_NODE], V6.a, "ff02::1:ff00:1", 135, &body);
        host.run(A, &frame).dropped("spoofed_source");

        let good = icmpv6([MAC_A, SOLICITED_NODE], V6.a, "ff02::1:ff00:1", 135, &body);
        assert_eq!(host.run(A, &good).action, Action::Redirect);
        // From beyond a router, or behind another header.
        for hops in [0, 1, 64, 254] {
            let mut frame = good.clone();
            frame[21] = hops;
            host.run(A, &frame).dropped("malformed");
        }
        let mut frame = good.clone();
        insert_extensions(&mut frame, &[60]);
        host.run(A, &frame).dropped("malformed");
        // A code other than 0; and lengths that leave no room for the target.
        let mut frame = good.clone();
        frame[55] = 1;
        host.run(A, &frame).dropped("malformed");
        for payload in 0u16..24 {
            let mut frame = good.clone();
            frame[18..20].copy_from_slice(&payload.to_be_bytes());
            host.run(A, &frame).dropped("malformed");
        }
        // (The kernel runs no program by hand on less than an IP header.)
        for len in 54..good.len() {
            host.run(A, &good[..len]).dropped("malformed");
        }
    });
}

#[test]
fn containers_are_no_routers_and_impersonate_nobody() {
    on_host(|host| {
        let advertisement = [[0xe0, 0, 0, 0].as_slice(), &[0; 24]].concat();
        for (kind, src) in [
            (133, "fe80::2"),
            (134, "fe80::2"),
            (136, V6.a),
            (137, "fe80::2"),
        ] {
            let frame = icmpv6(
                [MAC_A, SOLICITED_NODE],
                src,
                "ff02::1",
                kind,
                &advertisement,
            );
            host.run(A, &frame).dropped("multicast");
            let frame = icmpv6([MAC_A, MAC_B], src, V6.b, kind, &advertisement);
            host.run(A, &frame).dropped("spoofed_source");
        }
        assert_eq!(host.counter("container", "to_container"), 0);
    });
}

#[test]
fn discovery_is_ipv6s() {
    on_host(|host| {
        // IPv4 with 20 bytes of options puts the transport header where IPv6 has it.
        let sample = netpath_tests::packets::Sample::new(
            V4.a,
            V4.remote,
            netpath_tests::packets::L4::Udp(1, 2),
        );
        let payload = solicitation(V6.b, &SOURCE);
        let mut frame = sample
            .macs(MAC_A, MAC_GATEWAY)
            .ttl(255)
            .payload(&payload)
            .with_options(5);
        frame[23] = 58;
        frame[54..58].copy_from_slice(&[135, 0, 0, 0]);
        netpath_tests::packets::fix_ipv4_checksum(&mut frame);
        host.run(A, &frame).dropped("unsupported_protocol");
        assert_eq!(host.counter("container", "answered"), 0);
    });
}
