//! ICMP errors, byte for byte: what comes out quotes exactly what its receiver once sent.

use netpath_common::tuple::Proto;
use netpath_tests::packets::{ACK, ETH, INIT, L4, SYN, Sample, ip, make_fragment, too_big};
use netpath_tests::progrun::{Action, At, FAMILIES, MAC_A, MAC_GATEWAY, Run, V4, from_a, on_host};
use netpath_tests::verify;

const A: At = At::Container(0);
/// A router on the way, of each family.
const ROUTERS: [&str; 2] = ["203.0.113.1", "2001:db8:ffff::1"];

const OPENINGS: [L4; 4] = [
    L4::Tcp(1000, 443, SYN),
    L4::Udp(1000, 53),
    L4::Request(1000),
    L4::Sctp(1000, 443, INIT),
];

/// Lengths of an IP header of a family and of the ICMP header.
fn headers(v4: bool) -> usize {
    if v4 { 20 + 8 } else { 40 + 8 }
}

/// The quoted bytes of an error's frame.
fn quoted(frame: &[u8], v4: bool) -> &[u8] {
    &frame[ETH + headers(v4)..]
}

/// Source and destination address of a frame.
fn addresses(frame: &[u8], v4: bool) -> (Vec<u8>, Vec<u8>) {
    let (at, len) = if v4 { (12, 4) } else { (8, 16) };
    let field = |start: usize| frame[ETH + start..ETH + start + len].to_vec();
    (field(at), field(at + len))
}

/// Asserts that an error was sent on, with valid checksums outside.
fn redirected(run: &Run) {
    assert_eq!(run.action, Action::Redirect, "{:?}", run.reason);
    verify::checksums(&run.frame).unwrap();
}

fn octets(text: &str) -> Vec<u8> {
    match ip(text) {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

#[test]
fn an_error_about_a_masqueraded_packet_quotes_what_the_container_sent() {
    on_host(|host| {
        for (family, router) in FAMILIES.into_iter().zip(ROUTERS) {
            let v4 = ip(family.a).is_ipv4();
            for l4 in OPENINGS {
                let original = from_a(&Sample::new(family.a, family.remote, l4));
                let outside = host.run(A, &original.bytes());
                outside.sent();
                // Whole, and cut behind the ports, where a TCP header has no checksum yet.
                for cut in [usize::MAX, headers(v4)] {
                    let macs = [[2, 0, 0, 0, 9, 9], [2, 0, 0, 0, 0, 1]];
                    let sent = &outside.frame[ETH..];
                    let error = too_big(macs, router, family.uplink, sent, cut);
                    let run = host.run(At::Uplink, &error);
                    redirected(&run);
                    // What the container wrote, one hop later.
                    let wrote = original.clone().ttl(63).bytes();
                    let wrote = &wrote[ETH..][..cut.min(wrote.len() - ETH)];
                    assert_eq!(quoted(&run.frame, v4), wrote, "{l4:?} cut at {cut}");
                    let expected = (octets(router), octets(family.a));
                    assert_eq!(addresses(&run.frame, v4), expected);
                    assert_eq!(run.frame[..6], MAC_A);
                    assert_eq!(run.frame[6..12], MAC_GATEWAY);
                }
            }
        }
    });
}

#[test]
fn an_error_of_a_container_comes_from_the_published_address() {
    on_host(|host| {
        for family in FAMILIES {
            let v4 = ip(family.a).is_ipv4();
            host.publish(Proto::Udp, family.any, 5353, 0, 53);
            let dialled = Sample::new(family.remote, family.uplink, L4::Udp(4000, 5353));
            let inside = host.run(At::Uplink, &dialled.bytes());
            inside.sent();
            let packet = &inside.frame[ETH..];
            let error = too_big([MAC_A, MAC_GATEWAY], family.a, family.remote, packet, 500);
            let run = host.run(A, &error);
            redirected(&run);
            let wrote = dialled.ttl(63).bytes();
            assert_eq!(quoted(&run.frame, v4), &wrote[ETH..]);
            let expected = (octets(family.uplink), octets(family.remote));
            assert_eq!(addresses(&run.frame, v4), expected);
        }
    });
}

#[test]
fn a_quoted_udp_checksum_of_zero_stays_zero() {
    on_host(|host| {
        let mut original = from_a(&Sample::new(V4.a, V4.remote, L4::Udp(1000, 53))).bytes();
        original[ETH + 20 + 6..ETH + 20 + 8].fill(0);
        let outside = host.run(A, &original);
        outside.sent();
        let macs = [[2, 0, 0, 0, 9, 9], [2, 0, 0, 0, 0, 1]];
        let error = too_big(macs, ROUTERS[0], V4.uplink, &outside.frame[ETH..], 500);
        let run = host.run(At::Uplink, &error);
        redirected(&run);
        let inside = quoted(&run.frame, true);
        assert_eq!(inside[20..24], original[ETH + 20..ETH + 24], "the ports");
        assert_eq!(inside[26..28], [0, 0]);
    });
}

#[test]
fn errors_that_make_no_sense_go_nowhere() {
    on_host(|host| {
        let original = from_a(&Sample::new(V4.a, V4.remote, L4::Udp(1000, 53)));
        let outside = host.run(A, &original.bytes());
        outside.sent();
        let macs = [[2, 0, 0, 0, 9, 9], [2, 0, 0, 0, 0, 1]];
        let whole = outside.frame.clone();
        // From outside, what concerns no flow is the stack's business.
        let mut later = whole.clone();
        make_fragment(&mut later, false, 100);
        let mut foreign = whole.clone();
        foreign[ETH + 20] ^= 1;
        let short = whole[..ETH + 27].to_vec();
        for (what, quoting) in [("fragment", later), ("no flow", foreign), ("short", short)] {
            let error = too_big(macs, ROUTERS[0], V4.uplink, &quoting[ETH..], 500);
            let (action, frame) = host.run_raw(At::Uplink, &error);
            assert_eq!(format!("{action:?}"), "Pass", "{what}");
            assert_eq!(frame, error, "{what}: unchanged");
        }
        // A container reports only what came to itself.
        let answer = Sample::new(V4.remote, V4.a, L4::Udp(53, 1000)).bytes();
        let error =
            |src: &str, packet: &[u8]| too_big([MAC_A, MAC_GATEWAY], src, V4.remote, packet, 500);
        redirected(&host.run(A, &error(V4.a, &answer[ETH..])));
        host.run(A, &error(V4.b, &answer[ETH..]))
            .dropped("spoofed_source");
        let neighbours = Sample::new(V4.remote, V4.b, L4::Udp(53, 1000)).bytes();
        host.run(A, &error(V4.a, &neighbours[ETH..]))
            .dropped("spoofed_source");
        let nobodys = Sample::new(V4.remote, V4.a, L4::Udp(54, 1000)).bytes();
        host.run(A, &error(V4.a, &nobodys[ETH..]))
            .dropped("no_flow");
        let tcp = Sample::new(V4.remote, V4.a, L4::Tcp(443, 1, ACK)).bytes();
        host.run(A, &error(V4.a, &tcp[ETH..])).dropped("no_flow");
    });
}

#[test]
fn an_error_that_quotes_ip_options_is_translated_behind_them() {
    on_host(|host| {
        for words in 1..=10 {
            for l4 in OPENINGS {
                let original = from_a(&Sample::new(V4.a, V4.remote, l4));
                let outside = host.run(A, &original.with_options(words));
                outside.sent();
                let macs = [[2, 0, 0, 0, 9, 9], [2, 0, 0, 0, 0, 1]];
                let sent = &outside.frame[ETH..];
                for cut in [usize::MAX, 20 + 4 * words + 8] {
                    let error = too_big(macs, ROUTERS[0], V4.uplink, sent, cut);
                    let run = host.run(At::Uplink, &error);
                    redirected(&run);
                    let wrote = original.clone().ttl(63).with_options(words);
                    let wrote = &wrote[ETH..][..cut.min(wrote.len() - ETH)];
                    assert_eq!(quoted(&run.frame, true), wrote, "{l4:?}, {words} words");
                }
            }
        }
    });
}
