//! What comes from outside.

use netpath_common::tuple::Proto;
use netpath_tests::packets::{
    ACK, ETH, L4, RST, SYN, Sample, arp, insert_extensions, ip, make_fragment,
};
use netpath_tests::progrun::{
    Action, At, FAMILIES, Family, Host, MAC_A, MAC_B, MAC_GATEWAY, V4, V6, on_host,
};

fn dial(family: &Family, l4: L4) -> Sample {
    Sample::new(family.remote, family.uplink, l4)
}

/// Asserts that the host's stack gets the frame as it is.
fn assert_passes(host: &mut Host, frame: &[u8]) {
    let run = host.run(At::Uplink, frame);
    assert_eq!((run.action, &run.reason), (Action::Pass, &None));
}

#[test]
fn a_published_port_leads_into_the_container_and_back() {
    on_host(|host| {
        for family in FAMILIES {
            for (proto, l4) in [
                (Proto::Tcp, L4::Tcp(50_000, 8080, SYN)),
                (Proto::Udp, L4::Udp(50_000, 8080)),
            ] {
                host.publish(proto, family.any, 8080, 0, 80);
                let request = dial(&family, l4);
                let inside = host.inward(&request);
                let mut expected = request.clone().ttl(63).macs(MAC_GATEWAY, MAC_A);
                expected.dst = ip(family.a);
                expected.l4 = match l4 {
                    L4::Tcp(src, _, flags) => L4::Tcp(src, 80, flags),
                    _ => L4::Udp(50_000, 80),
                };
                assert_eq!(inside, expected);
                let back = host.out(&inside.answer(SYN | ACK).payload(b"answer"));
                let expected = request.answer(SYN | ACK).payload(b"answer").ttl(63);
                assert_eq!(back, expected.macs(MAC_A, MAC_GATEWAY));
            }
        }
        let rows = host.flows();
        assert_eq!(rows.len(), 4);
        for row in rows {
            assert_eq!(
                (row.kind.as_str(), row.packets, row.reply_packets),
                ("published", 1, 1)
            );
            assert_eq!(
                row.translated_source, row.source,
                "the client's own address"
            );
        }
        assert_eq!(host.counter("uplink", "new_flows"), 4);
    });
}

#[test]
fn specific_wildcard_and_foreign_addresses() {
    on_host(|host| {
        for family in FAMILIES {
            host.publish(Proto::Tcp, family.any, 8080, 0, 80);
            host.publish(Proto::Tcp, family.uplink, 8080, 1, 81);
            let l4 = L4::Tcp(50_000, 8080, SYN);
            let specific = host.inward(&dial(&family, l4));
            assert_eq!((specific.dst, specific.ports().1), (ip(family.b), 81));
            assert_eq!(specific.mac_dst, MAC_B);
            let other = host.inward(&Sample::new(family.remote, family.gateway, l4));
            assert_eq!((other.dst, other.ports().1), (ip(family.a), 80));
            let foreign = if family.a == V4.a {
                "198.51.100.7"
            } else {
                "2001:db8:5::7"
            };
            assert_passes(host, &Sample::new(family.remote, foreign, l4).bytes());
            // A port next to it, and the other protocol.
            assert_passes(host, &dial(&family, L4::Tcp(50_000, 8081, SYN)).bytes());
            assert_passes(host, &dial(&family, L4::Udp(50_000, 8080)).bytes());
        }
    });
}

#[test]
fn a_port_of_loopback_is_not_the_lans() {
    on_host(|host| {
        host.publish(Proto::Tcp, "127.0.0.1", 8080, 0, 80);
        host.publish(Proto::Tcp, "::1", 8080, 0, 80);
        let l4 = L4::Tcp(50_000, 8080, SYN);
        for family in FAMILIES {
            assert_passes(host, &dial(&family, l4).bytes());
        }
        // From outside to 127.0.0.1 itself, by somebody on the link.
        for (src, dst) in [(V4.remote, "127.0.0.1"), (V6.remote, "::1")] {
            let run = host.run(At::Uplink, &Sample::new(src, dst, l4).bytes());
            assert_ne!(run.action, Action::Redirect, "{dst}");
        }
        assert_eq!(host.flows(), []);
    });
}

#[test]
fn stray_packets_are_the_hosts_and_leave_no_state() {
    on_host(|host| {
        for family in FAMILIES {
            host.publish(Proto::Tcp, family.any, 8080, 0, 80);
            for flags in [ACK, SYN | ACK, RST, 0] {
                assert_passes(host, &dial(&family, L4::Tcp(50_000, 8080, flags)).bytes());
            }
            assert_passes(host, &dial(&family, L4::Reply(1)).bytes());
            assert_passes(host, &dial(&family, L4::Request(1)).bytes());
            // And the container's SYN on that tuple is translated.
            let out = Sample::new(family.a, family.remote, L4::Tcp(80, 50_000, SYN));
            assert_eq!(host.out(&out).src, ip(family.uplink));
        }
        assert_eq!(host.flows().len(), 2);
    });
}

#[test]
fn containers_cannot_be_reached_by_their_own_addresses() {
    on_host(|host| {
        for family in FAMILIES {
            host.publish(Proto::Tcp, family.any, 80, 0, 80);
            for dst in [family.a, family.b, family.red, family.nobody] {
                for l4 in [
                    L4::Tcp(1, 80, SYN),
                    L4::Tcp(1, 80, ACK),
                    L4::Udp(1, 2),
                    L4::Request(1),
                ] {
                    let frame = Sample::new(family.remote, dst, l4).bytes();
                    host.run(At::Uplink, &frame).dropped("direct_routing");
                }
            }
        }
        let mut frame = Sample::new(V4.remote, V4.a, L4::Udp(1, 2)).bytes();
        make_fragment(&mut frame, false, 100);
        host.run(At::Uplink, &frame).dropped("direct_routing");
        let mut frame = Sample::new(V6.remote, V6.a, L4::Udp(1, 2)).bytes();
        insert_extensions(&mut frame, &[0, 44]);
        host.run(At::Uplink, &frame).dropped("direct_routing");
    });
}

#[test]
fn what_is_not_ip_is_the_stacks_business() {
    on_host(|host| {
        assert_passes(
            host,
            &arp(1, [2, 9, 9, 9, 9, 9], "192.0.2.254", [0; 6], V4.uplink),
        );
        let good = dial(&V4, L4::Udp(1, 2)).bytes();
        for kind in [0x8100u16, 0x88a8, 0x88cc, 0x0040] {
            let mut frame = good.clone();
            frame[12..14].copy_from_slice(&kind.to_be_bytes());
            assert_passes(host, &frame);
        }
        // Other protocols, and fragments for the host.
        let mut gre = good.clone();
        gre[ETH + 9] = 47;
        assert_passes(host, &gre);
        let mut fragment = good;
        make_fragment(&mut fragment, true, 0);
        assert_passes(host, &fragment);
    });
}

#[test]
fn a_client_with_two_ways_to_one_port_looks_like_two() {
    on_host(|host| {
        for family in FAMILIES {
            host.publish(Proto::Tcp, family.any, 8080, 0, 80);
            host.publish(Proto::Tcp, family.any, 8081, 0, 80);
            let first = host.inward(&dial(&family, L4::Tcp(50_000, 8080, SYN)));
            let second = host.inward(&dial(&family, L4::Tcp(50_000, 8081, SYN)));
            assert_eq!(first.ports(), (50_000, 80));
            assert_ne!(second.ports().0, 50_000);
            assert_eq!(host.out(&first.answer(ACK)).ports(), (8080, 50_000));
            assert_eq!(host.out(&second.answer(ACK)).ports(), (8081, 50_000));
        }
    });
}

#[test]
fn time_runs_out_at_a_published_port() {
    on_host(|host| {
        for family in FAMILIES {
            host.publish(Proto::Udp, family.any, 8080, 0, 80);
            let sample = dial(&family, L4::Udp(50_000, 8080));
            for ttl in [0, 1] {
                let frame = sample.clone().ttl(ttl).bytes();
                host.run(At::Uplink, &frame).dropped("ttl_expired");
            }
            assert_eq!(host.inward(&sample.clone().ttl(2)).ttl, 1);
            host.run(At::Uplink, &sample.ttl(1).bytes())
                .dropped("ttl_expired");
        }
    });
}

#[test]
fn an_unpublished_port_is_closed() {
    on_host(|host| {
        host.publish(Proto::Udp, V4.any, 8080, 0, 80);
        let veth = host.veths[0];
        let sample = dial(&V4, L4::Udp(50_000, 8080));
        host.inward(&sample);
        // The ports of a container go with it, and so do its flows.
        host.datapath.remove_endpoint(veth).unwrap();
        assert_passes(host, &sample.bytes());
        assert_eq!(host.datapath.ports().unwrap(), []);
        assert_eq!(host.flows(), []);
    });
}

#[test]
fn a_masqueraded_flow_never_gets_a_published_port() {
    let options = netpath_tests::progrun::Options {
        snat_ports: (30_000, 30_001),
        ..netpath_tests::progrun::Options::default()
    };
    netpath_tests::progrun::on_host_with(options, |host| {
        for family in FAMILIES {
            host.publish(Proto::Udp, family.any, 30_000, 1, 80);
            let sample = |port| Sample::new(family.a, family.remote, L4::Udp(port, 53));
            assert_eq!(host.out(&sample(30_000)).ports().0, 30_001);
            let frame = netpath_tests::progrun::from_a(&sample(30_001)).bytes();
            host.run(At::Container(0), &frame)
                .dropped("snat_ports_exhausted");
        }
    });
}

#[test]
fn sources_that_nobody_can_have_reach_no_published_port() {
    on_host(|host| {
        let families = [
            (
                V4,
                [
                    "0.0.0.1",
                    "127.0.0.1",
                    "224.0.0.1",
                    "240.0.0.1",
                    "255.255.255.255",
                ],
            ),
            (V6, ["::", "::1", "ff02::1", "ff0e::1", "::"]),
        ];
        for (family, sources) in families {
            host.publish(Proto::Tcp, family.any, 8080, 0, 80);
            host.publish(Proto::Udp, family.any, 8080, 0, 80);
            let own = [
                family.uplink,
                family.gateway,
                family.b,
                family.red,
                family.nobody,
            ];
            for src in sources.into_iter().chain(own) {
                for l4 in [L4::Tcp(5000, 8080, SYN), L4::Udp(5000, 8080)] {
                    let sample = Sample::new(src, family.uplink, l4);
                    host.run(At::Uplink, &sample.bytes())
                        .dropped("martian_source");
                }
            }
        }
        assert_eq!(host.flows(), []);
    });
}
