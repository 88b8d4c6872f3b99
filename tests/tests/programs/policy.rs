//! What networks let in and out by containers' own addresses.

use netpath_common::policy::{GatewayMode, ICC_OFF, INTERNAL, MASQUERADE_OFF, Policy};
use netpath_common::tuple::Proto;
use netpath_tests::packets::{ACK, L4, SYN, Sample, ip};
use netpath_tests::progrun::{
    At, FAMILIES, Family, Host, MAC_A, MAC_GATEWAY, MAC_GATEWAY_RED, MAC_RED, V4, on_host, sh,
};

const PUBLISHED: L4 = L4::Tcp(50_000, 80, SYN);
const UNPUBLISHED: L4 = L4::Tcp(50_000, 81, SYN);
const PING: L4 = L4::Request(7);

const UPLINK: At = At::Uplink;
const RED: At = At::Container(2);
const STACK: At = At::Gateway(true);
const WAYS: [At; 3] = [UPLINK, RED, STACK];

fn mode(mode: GatewayMode) -> Policy {
    Policy {
        mode4: mode,
        mode6: mode,
        ..Policy::default()
    }
}

fn flags(flags: u8) -> Policy {
    Policy {
        flags,
        ..Policy::default()
    }
}

/// Whoever comes that way.
fn client(at: At, family: &Family) -> &'static str {
    if at == RED { family.red } else { family.remote }
}

/// A packet to container A's own address.
fn request(at: At, family: &Family, l4: L4) -> Sample {
    let sample = Sample::new(client(at, family), family.a, l4);
    if at == RED {
        sample.macs(MAC_RED, MAC_GATEWAY_RED)
    } else {
        sample
    }
}

#[test]
fn gateway_modes_decide_what_comes_in() {
    use GatewayMode::{Nat, NatUnprotected, Routed};
    on_host(|host| {
        for (policy, reasons) in [
            (mode(Nat), [Some("closed"); 3]),
            (mode(NatUnprotected), [None; 3]),
            (mode(Routed), [None, Some("not_published"), None]),
            (flags(INTERNAL), [Some("internal_network"); 3]),
        ] {
            for at in WAYS {
                host.set_policy(0, policy);
                for family in FAMILIES {
                    host.open_port(Proto::Tcp, 0, family.a, 80);
                    for (l4, reason) in [PUBLISHED, UNPUBLISHED, PING].into_iter().zip(reasons) {
                        let sample = request(at, &family, l4);
                        let run = host.run(at, &sample.bytes());
                        match reason {
                            Some("closed") if at == RED => run.dropped("other_network"),
                            Some("closed") => run.dropped("direct_routing"),
                            Some(reason) => run.dropped(reason),
                            None => {
                                let ttl = if at == STACK { 64 } else { 63 };
                                let inside = sample.macs(MAC_GATEWAY, MAC_A).ttl(ttl);
                                assert_eq!(run.sent(), inside, "{policy:?} {at:?}");
                            }
                        }
                    }
                }
                // The next way begins anew.
                host.datapath.remove_endpoint(host.veths[0]).unwrap();
            }
        }
    });
}

/// A connection through all of its life: nothing is changed but the time to live.
fn converse(host: &mut Host, at: At, family: &Family) {
    let mut expected = Vec::new();
    for (l4, from_client) in [
        (PUBLISHED, true),
        (L4::Tcp(80, 50_000, SYN | ACK), false),
        (L4::Tcp(50_000, 80, ACK), true),
        (L4::Tcp(80, 50_000, ACK), false),
    ] {
        let sent = if from_client {
            host.run(at, &request(at, family, l4).bytes()).sent()
        } else {
            let answer = Sample::new(family.a, client(at, family), l4);
            host.out(&answer)
        };
        let (src, dst) = if from_client {
            (client(at, family), family.a)
        } else {
            (family.a, client(at, family))
        };
        assert_eq!((sent.src, sent.dst, sent.l4), (ip(src), ip(dst), l4));
        expected.push(sent.ttl);
    }
    let first = if at == STACK { 64 } else { 63 };
    assert_eq!(expected, [first, 63, first, 63], "{at:?}");
}

#[test]
fn direct_connections_live_and_are_listed() {
    on_host(|host| {
        for at in WAYS {
            host.set_policy(0, mode(GatewayMode::Routed));
            for family in FAMILIES {
                host.open_port(Proto::Tcp, 0, family.a, 80);
                converse(host, at, &family);
            }
            let rows = host.flows();
            assert_eq!(rows.len(), 2, "{at:?}");
            for row in rows {
                assert_eq!(
                    (row.kind.as_str(), row.state.as_str()),
                    ("direct", "established")
                );
                assert_eq!((row.packets, row.reply_packets), (2, 2));
                assert_eq!(row.source, row.translated_source);
                assert_eq!(row.destination, row.translated_destination);
            }
            // They go with the container, and so does what was open.
            host.datapath.remove_endpoint(host.veths[0]).unwrap();
            assert_eq!(host.sweep().removed, 2);
            assert_eq!(host.flows(), []);
        }
    });
}

#[test]
fn errors_about_direct_connections_go_through() {
    on_host(|host| {
        host.set_policy(0, mode(GatewayMode::Routed));
        for family in FAMILIES {
            host.open_port(Proto::Tcp, 0, family.a, 80);
            for at in [UPLINK, STACK] {
                let port = if at == UPLINK { 50_001 } else { 50_002 };
                let l4 = L4::Tcp(port, 80, SYN);
                host.run(at, &request(at, &family, l4).bytes()).sent();
                let answer = Sample::new(family.a, family.remote, L4::Tcp(80, port, SYN | ACK));
                // A router outside tells the container about its answer.
                let router = if family.a == V4.a {
                    "203.0.113.1"
                } else {
                    "2001:db8:ffff::1"
                };
                let error = unreachable(router, family.a, &answer.bytes());
                let run = host.run(at, &error);
                let inside = run.frame.clone();
                assert_eq!(run.reason, None, "{at:?}");
                assert_eq!(&inside[..6], &MAC_A, "{at:?}");
                // And the container tells the client about its packet.
                let error = unreachable(family.a, family.remote, &request(at, &family, l4).bytes());
                let mut error = error;
                error[..6].copy_from_slice(&MAC_GATEWAY);
                error[6..12].copy_from_slice(&MAC_A);
                let run = host.run(At::Container(0), &error);
                assert_eq!(run.reason, None, "{at:?}");
                // One about nothing that we know.
                let other = Sample::new(family.a, family.remote, L4::Tcp(81, port, ACK));
                let error = unreachable(router, family.a, &other.bytes());
                assert!(host.run(at, &error).reason.is_some());
            }
        }
    });
}

/// A message "port unreachable" that quotes a frame's packet.
fn unreachable(src: &str, dst: &str, quoted: &[u8]) -> Vec<u8> {
    use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, icmpv4, icmpv6};
    let quoted = &quoted[14..];
    let step = PacketBuilder::ethernet2([2, 9, 9, 9, 9, 9], [2, 8, 8, 8, 8, 8]);
    let mut bytes = Vec::new();
    let written = match (ip(src), ip(dst)) {
        (std::net::IpAddr::V4(src), std::net::IpAddr::V4(dst)) => step
            .ipv4(src.octets(), dst.octets(), 64)
            .icmpv4(Icmpv4Type::DestinationUnreachable(
                icmpv4::DestUnreachableHeader::Port,
            ))
            .write(&mut bytes, quoted),
        (std::net::IpAddr::V6(src), std::net::IpAddr::V6(dst)) => step
            .ipv6(src.octets(), dst.octets(), 64)
            .icmpv6(Icmpv6Type::DestinationUnreachable(
                icmpv6::DestUnreachableCode::Port,
            ))
            .write(&mut bytes, quoted),
        _ => panic!("one family"),
    };
    written.expect("a frame");
    bytes
}

#[test]
fn a_route_by_no_uplink_is_the_stacks() {
    on_host(|host| {
        sh("ip link add other0 type veth peer name other0-far
            ip link set other0 addrgenmode none
            echo 0 > /proc/sys/net/ipv6/conf/other0/disable_ipv6
            ip link set other0-far up
            ip link set other0 up
            ip addr add 198.51.100.1/24 dev other0
            ip addr add 2001:db8:9::1/64 dev other0 nodad");
        host.set_policy(0, mode(GatewayMode::Routed));
        for (family, there) in FAMILIES.into_iter().zip(["198.51.100.9", "2001:db8:9::9"]) {
            let out = Sample::new(family.a, there, L4::Udp(1000, 53));
            let sent = host.out(&out);
            assert_eq!(sent, out.clone().macs(MAC_A, MAC_GATEWAY), "untouched");
            let answer = out.answer(0);
            let inside = host.run(STACK, &answer.bytes()).sent();
            assert_eq!(inside, answer.macs(MAC_GATEWAY, MAC_A));
            let stray = Sample::new(there, family.a, L4::Udp(53, 1001));
            host.run(STACK, &stray.bytes()).dropped("not_published");
        }
        assert_eq!(host.counter("container", "to_host"), 2);
    });
}

#[test]
fn without_masquerade_containers_leave_by_their_own_address() {
    on_host(|host| {
        host.set_policy(0, flags(MASQUERADE_OFF));
        for family in FAMILIES {
            for l4 in [L4::Tcp(1, 80, SYN), L4::Udp(1, 53), L4::Request(3)] {
                let out = Sample::new(family.a, family.remote, l4);
                let sent = host.out(&out);
                assert_eq!((sent.src, sent.l4, sent.ttl), (ip(family.a), l4, 63));
                let answer = out.answer(SYN | ACK);
                let back = host.inward(&answer);
                assert_eq!(back, answer.ttl(63).macs(MAC_GATEWAY, MAC_A));
            }
            // Only answers come in.
            for l4 in [L4::Tcp(80, 2, SYN), L4::Udp(53, 2), PING] {
                let stray = Sample::new(family.remote, family.a, l4).bytes();
                host.run(UPLINK, &stray).dropped("direct_routing");
            }
            // What has no route is no reason to ask the stack, which would send it as it is.
            let lost = Sample::new(family.a, family.unrouted, L4::Udp(1, 2));
            let lost = netpath_tests::progrun::from_a(&lost).bytes();
            host.run(At::Container(0), &lost).dropped("no_route");
        }
    });
}

#[test]
fn a_chosen_source_address_is_on_what_leaves() {
    on_host(|host| {
        let policy = Policy {
            snat4: ip("192.0.2.77").into(),
            snat6: ip("2001:db8::77").into(),
            ..Policy::default()
        };
        host.set_policy(0, policy);
        for (family, chosen) in FAMILIES.into_iter().zip(["192.0.2.77", "2001:db8::77"]) {
            for l4 in [L4::Tcp(1, 80, SYN), L4::Udp(1, 53), L4::Request(3)] {
                let sent = host.out(&Sample::new(family.a, family.remote, l4));
                assert_eq!(sent.src, ip(chosen));
                assert_eq!(host.inward(&sent.answer(SYN | ACK)).dst, ip(family.a));
            }
        }
    });
}

#[test]
fn trusted_devices_reach_published_ports() {
    on_host(|host| {
        let uplink = host.uplink;
        for family in FAMILIES {
            host.open_port(Proto::Tcp, 0, family.a, 80);
            host.datapath.set_trusted(&[(1, uplink)]).unwrap();
            for at in [UPLINK, STACK] {
                host.run(at, &request(at, &family, PUBLISHED).bytes())
                    .sent();
                for l4 in [UNPUBLISHED, PING] {
                    let frame = request(at, &family, l4).bytes();
                    host.run(at, &frame).dropped("not_published");
                }
                host.datapath.remove_endpoint(host.veths[0]).unwrap();
                host.set_policy(0, Policy::default());
                host.open_port(Proto::Tcp, 0, family.a, 80);
            }
            host.datapath.set_trusted(&[(2, uplink)]).unwrap();
            let frame = request(UPLINK, &family, L4::Tcp(50_009, 80, SYN)).bytes();
            host.run(UPLINK, &frame).dropped("direct_routing");
        }
    });
}

#[test]
fn internal_networks_and_networks_without_icc() {
    on_host(|host| {
        host.set_policy(0, flags(INTERNAL));
        for family in FAMILIES {
            let from_a =
                |dst: &str| netpath_tests::progrun::from_a(&Sample::new(family.a, dst, PUBLISHED));
            for dst in [family.remote, family.red, family.uplink] {
                host.run(At::Container(0), &from_a(dst).bytes())
                    .dropped("internal_network");
            }
            for dst in [family.b, family.gateway] {
                assert_eq!(host.out(&from_a(dst)).dst, ip(dst));
            }
        }
        host.set_policy(0, flags(ICC_OFF));
        for family in FAMILIES {
            let sample = Sample::new(family.a, family.b, PUBLISHED);
            let frame = netpath_tests::progrun::from_a(&sample).bytes();
            host.run(At::Container(0), &frame).dropped("icc_off");
        }
    });
}
