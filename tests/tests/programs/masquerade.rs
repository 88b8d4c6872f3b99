//! Containers going out, and the answers to them.

use netpath_tests::packets::{ACK, ETH, FIN, L4, RST, SYN, Sample, ip, make_fragment};
use netpath_tests::progrun::{
    Action, At, FAMILIES, MAC_A, MAC_B, MAC_GATEWAY, Options, SNAT_PORTS, V4, V6, from_a, on_host,
    on_host_with,
};
use netpath_tests::verify;

const A: At = At::Container(0);

/// One opening packet of each kind, from a port that has to be replaced.
const OPENINGS: [L4; 3] = [
    L4::Tcp(1000, 443, SYN),
    L4::Udp(1000, 53),
    L4::Request(1000),
];

#[test]
fn packets_leave_with_the_uplinks_address_and_a_port_in_range() {
    on_host(|host| {
        for family in FAMILIES {
            for l4 in OPENINGS {
                let original = from_a(&Sample::new(family.a, family.remote, l4));
                let sent = host.run(A, &original.bytes()).sent();
                // The MAC addresses are the kernel's to set when it resolves the next hop.
                let mut expected = original.clone().ttl(63);
                expected.src = ip(family.uplink);
                let port = sent.ports().0;
                expected.l4 = match l4 {
                    L4::Tcp(_, dst, flags) => L4::Tcp(port, dst, flags),
                    L4::Udp(_, dst) => L4::Udp(port, dst),
                    _ => L4::Request(port),
                };
                assert_eq!(sent, expected);
                match l4 {
                    L4::Request(id) => assert_eq!(port, id, "identifiers are kept"),
                    _ => assert!((SNAT_PORTS.0..=SNAT_PORTS.1).contains(&port), "{port}"),
                }
            }
        }
        assert_eq!(host.flows().len(), 6);
        assert_eq!(host.counter("container", "new_flows"), 6);
        assert_eq!(host.counter("container", "to_uplink"), 6);
    });
}

#[test]
fn answers_are_restored_exactly() {
    on_host(|host| {
        for family in FAMILIES {
            for l4 in OPENINGS {
                let original = Sample::new(family.a, family.remote, l4);
                let outside = host.out(&original);
                let back = host.inward(&outside.answer(SYN | ACK).payload(b"the answer"));
                let expected = original.answer(SYN | ACK).payload(b"the answer").ttl(63);
                assert_eq!(back, expected.macs(MAC_GATEWAY, MAC_A));
            }
        }
        assert_eq!(host.counter("uplink", "to_container"), 6);
        let rows = host.flows();
        let row = |proto: &str, v4: bool| {
            let of = |text: &str| text.starts_with('[') != v4;
            rows.iter()
                .find(|row| row.proto == proto && of(&row.source))
                .unwrap()
        };
        for (v4, family) in [(true, V4), (false, V6)] {
            let with_port = |text, port| std::net::SocketAddr::new(ip(text), port).to_string();
            let udp = row("udp", v4);
            assert_eq!(
                (udp.kind.as_str(), udp.state.as_str()),
                ("masquerade", "two_way")
            );
            assert_eq!(udp.source, with_port(family.a, 1000));
            assert_eq!(udp.destination, with_port(family.remote, 53));
            assert_eq!(udp.translated_destination, udp.destination);
            assert_eq!((udp.packets, udp.reply_packets), (1, 1));
            assert_eq!(row("tcp", v4).state, "syn_received");
        }
        assert_eq!(row("icmp", true).state, "echo");
        assert_eq!(row("icmpv6", false).state, "echo");
    });
}

#[test]
fn a_port_in_range_is_kept() {
    on_host(|host| {
        for family in FAMILIES {
            for port in [SNAT_PORTS.0, SNAT_PORTS.1] {
                let sample = Sample::new(family.a, family.remote, L4::Udp(port, 53));
                assert_eq!(host.out(&sample).ports(), (port, 53));
            }
        }
    });
}

#[test]
fn two_containers_with_one_port_get_two() {
    on_host(|host| {
        for family in FAMILIES {
            for l4 in [
                L4::Tcp(30_500, 443, SYN),
                L4::Udp(30_500, 53),
                L4::Request(7),
            ] {
                let a = Sample::new(family.a, family.remote, l4);
                let b = Sample::new(family.b, family.remote, l4).macs(MAC_B, MAC_GATEWAY);
                let from_a = host.out(&a);
                let from_b = host.run(At::Container(1), &b.bytes()).sent();
                assert_ne!(from_a.ports().0, from_b.ports().0);
                let (to_a, to_b) = (
                    host.inward(&from_a.answer(ACK)),
                    host.inward(&from_b.answer(ACK)),
                );
                assert_eq!(
                    (to_a.dst, to_a.mac_dst, to_a.ports().1),
                    (a.src, MAC_A, a.ports().0)
                );
                assert_eq!(
                    (to_b.dst, to_b.mac_dst, to_b.ports().1),
                    (b.src, MAC_B, b.ports().0)
                );
            }
        }
    });
}

#[test]
fn the_fifth_flow_through_four_ports_is_dropped() {
    let options = Options {
        snat_ports: (30_000, 30_003),
        ..Options::default()
    };
    on_host_with(options, |host| {
        let sample = |port| Sample::new(V4.a, V4.remote, L4::Udp(port, 53));
        let mut ports: Vec<u16> = (1..5)
            .map(|port| host.out(&sample(port)).ports().0)
            .collect();
        ports.sort_unstable();
        assert_eq!(ports, [30_000, 30_001, 30_002, 30_003]);
        host.run(A, &from_a(&sample(5)).bytes())
            .dropped("snat_ports_exhausted");
        assert_eq!(host.flows().len(), 4);
        host.out(&sample(4));
        // How long the searches were is told.
        let rows = host.datapath.counters().unwrap();
        let searches = rows.iter().filter(|row| row.hook == "snat");
        let found: u64 = searches
            .filter(|row| row.counter.starts_with("retries_"))
            .map(|row| row.packets)
            .sum();
        assert_eq!(found, 4);
        assert_eq!(host.counter("snat", "exhausted"), 1);
        assert!(host.counter("snat", "retries_0") >= 1);
        // Another destination has ports of its own.
        host.out(&Sample::new(V4.a, "203.0.113.10", L4::Udp(5, 53)));
    });
}

#[test]
fn a_udp_checksum_of_zero_stays_zero() {
    on_host(|host| {
        let original = from_a(&Sample::new(V4.a, V4.remote, L4::Udp(1000, 53)));
        let mut frame = original.bytes();
        frame[ETH + 26..ETH + 28].fill(0);
        let run = host.run(A, &frame);
        assert_eq!(run.frame[ETH + 26..ETH + 28], [0, 0]);
        let mut answer = run.sent().answer(0).bytes();
        answer[ETH + 26..ETH + 28].fill(0);
        let back = host.run(At::Uplink, &answer);
        assert_eq!(back.frame[ETH + 26..ETH + 28], [0, 0]);
        assert_eq!(back.sent().dst, original.src);
    });
}

#[test]
fn a_udp_checksum_never_becomes_zero() {
    on_host(|host| {
        // One of 65,536 payloads sums up to zero; try them all on one flow of each family.
        for family in FAMILIES {
            let checksum = if family.a == V4.a { ETH + 26 } else { ETH + 46 };
            let mut frame = from_a(&Sample::new(family.a, family.remote, L4::Udp(1, 53))).bytes();
            let payload = checksum + 2;
            let mut all_ones = 0;
            for word in 0..=0xffffu16 {
                frame[payload..payload + 2].copy_from_slice(&word.to_be_bytes());
                assert!(verify::fix_udp(&mut frame));
                let (action, out) = host.run_raw(A, &frame);
                assert_eq!(action, Action::Redirect);
                let sum = u16::from_be_bytes([out[checksum], out[checksum + 1]]);
                assert_ne!(sum, 0, "payload word {word:#06x}");
                all_ones += u32::from(sum == 0xffff);
            }
            assert_eq!(all_ones, 1, "exactly one payload has this checksum");
        }
    });
}

#[test]
fn ip_options_and_extension_headers_stay() {
    on_host(|host| {
        for words in 0..=10 {
            for l4 in OPENINGS {
                let sample = from_a(&Sample::new(V4.a, V4.remote, l4));
                let frame = sample.with_options(words);
                let run = host.run(A, &frame);
                assert_eq!(run.sent().src, ip(V4.uplink));
                let options = ETH + 20..ETH + 20 + words * 4;
                assert_eq!(run.frame[options.clone()], frame[options]);
            }
        }
        for chain in [[0].as_slice(), &[43], &[60], &[0, 60], &[0, 60, 43, 60]] {
            for l4 in OPENINGS {
                let mut frame = from_a(&Sample::new(V6.a, V6.remote, l4)).bytes();
                netpath_tests::packets::insert_extensions(&mut frame, chain);
                let run = host.run(A, &frame);
                assert_eq!(run.sent().src, ip(V6.uplink));
                assert_eq!(run.frame.len(), frame.len());
                let back = host.inward(&run.sent().answer(ACK));
                assert_eq!(back.dst, ip(V6.a));
            }
        }
    });
}

#[test]
fn what_cannot_be_translated_is_dropped_under_its_reason() {
    on_host(|host| {
        for family in FAMILIES {
            for flags in [ACK, SYN | ACK, FIN | ACK, RST, 0, SYN | FIN] {
                let sample = Sample::new(family.a, family.remote, L4::Tcp(1000, 443, flags));
                host.run(A, &from_a(&sample).bytes()).dropped("no_flow");
            }
            let sample = Sample::new(family.a, family.remote, L4::Reply(1));
            host.run(A, &from_a(&sample).bytes()).dropped("no_flow");
            let sample = Sample::new(family.a, family.unrouted, L4::Udp(1, 2));
            host.run(A, &from_a(&sample).bytes()).dropped("no_route");
            let mut frame = from_a(&Sample::new(family.a, family.remote, L4::Udp(1, 2))).bytes();
            frame[if family.a == V4.a { ETH + 9 } else { ETH + 6 }] = 47;
            netpath_tests::packets::fix_ipv4_checksum(&mut frame);
            host.run(A, &frame).dropped("unsupported_protocol");
        }
        let mut timestamp = from_a(&Sample::new(V4.a, V4.remote, L4::Request(1))).bytes();
        timestamp[ETH + 20] = 13;
        host.run(A, &timestamp).dropped("unsupported_protocol");
        // Parts that overtake the first, which alone has the ports.
        for (more, offset) in [(true, 100), (false, 100)] {
            let mut frame = from_a(&Sample::new(V4.a, V4.remote, L4::Udp(1, 2))).bytes();
            make_fragment(&mut frame, more, offset);
            host.run(A, &frame).dropped("fragment");
        }
        let mut frame = from_a(&Sample::new(V6.a, V6.remote, L4::Udp(1, 2))).bytes();
        netpath_tests::packets::insert_extensions(&mut frame, &[44]);
        frame[ETH + 40 + 3] = 8;
        host.run(A, &frame).dropped("fragment");
        assert_eq!(host.flows(), []);
    });
}

#[test]
fn no_uplink_and_no_address() {
    on_host(|host| {
        let uplink = host.uplink;
        host.datapath.set_uplink_addrs(uplink, None, None).unwrap();
        for family in FAMILIES {
            let sample = from_a(&Sample::new(family.a, family.remote, L4::Udp(1, 2)));
            host.run(A, &sample.bytes()).dropped("no_snat_address");
        }
        host.datapath.detach_uplink(uplink).unwrap();
        for family in FAMILIES {
            let sample = from_a(&Sample::new(family.a, family.remote, L4::Udp(1, 2)));
            host.run(A, &sample.bytes()).dropped("not_an_uplink");
        }
        assert_eq!(host.flows(), []);
    });
}

#[test]
fn a_full_table_is_a_named_drop() {
    on_host_with(
        Options {
            max_flows: 8,
            ..Options::default()
        },
        |host| {
            let sample = |port| Sample::new(V4.a, V4.remote, L4::Udp(port, 53));
            for port in 1..=8 {
                host.out(&sample(port));
            }
            for port in 9..=12 {
                host.run(A, &from_a(&sample(port)).bytes())
                    .dropped("flow_table_full");
            }
            assert_eq!(host.flows().len(), 8);
            // The others go on, and so does what needs no state.
            host.out(&sample(8));
            let local = Sample::new(V4.a, V4.b, L4::Udp(9, 9)).macs(MAC_A, MAC_B);
            assert_eq!(host.run(A, &local.bytes()).action, Action::Redirect);
        },
    );
}

#[test]
fn a_connection_lives_and_dies_by_its_flags() {
    on_host(|host| {
        for family in FAMILIES {
            let sample = |flags| Sample::new(family.a, family.remote, L4::Tcp(1000, 443, flags));
            let state = |host: &netpath_tests::progrun::Host| {
                let rows = host.flows();
                let own = |row: &&netpath::datapath::rows::FlowRow| {
                    row.source == std::net::SocketAddr::new(ip(family.a), 1000).to_string()
                };
                rows.iter().find(own).unwrap().state.clone()
            };
            let outside = host.out(&sample(SYN));
            assert_eq!(state(host), "syn_sent");
            assert_eq!(
                host.out(&sample(SYN)),
                outside,
                "a retry keeps its translation"
            );
            host.inward(&outside.answer(SYN | ACK));
            assert_eq!(state(host), "syn_received");
            host.out(&sample(ACK));
            assert_eq!(state(host), "established");
            host.out(&sample(FIN | ACK));
            assert_eq!(state(host), "closing");
            host.inward(&outside.answer(FIN | ACK));
            assert_eq!(state(host), "closed");
            // The port is used again.
            host.out(&sample(SYN));
            assert_eq!(state(host), "syn_sent");
            let outside = host.out(&sample(SYN));
            host.inward(&outside.answer(RST | ACK));
            assert_eq!(state(host), "reset");
        }
        assert_eq!(host.flows().len(), 2);
    });
}

#[test]
fn a_gone_containers_flows_reach_nobody() {
    on_host(|host| {
        let outside = host.out(&Sample::new(V4.a, V4.remote, L4::Udp(1000, 53)));
        let veth = host.veths[0];
        let [spec, ..] = host.endpoints();
        host.datapath.remove_endpoint(veth).unwrap();
        host.datapath.add_endpoint(&spec).unwrap();
        // The address has a new owner, and the old one's peer still sends.
        let run = host.run(At::Uplink, &outside.answer(0).bytes());
        assert_eq!(run.action, Action::Pass);
        assert_eq!(host.flows(), []);
    });
}
