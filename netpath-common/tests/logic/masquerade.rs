//! Containers going out: the source is translated.

use netpath_common::addr::Addr;
use netpath_common::env::{Env as _, Route};
use netpath_common::flow::{FlowKind, FlowState, Toward};
use netpath_common::network::Uplink;
use netpath_common::reason::DropReason;
use netpath_common::tuple::{OUTSIDE, Proto};

use crate::model::{
    FAMILIES, GATEWAY, Model, OTHER_DEVICE, Outcome, UPLINK, V4, V6, VETH_A, VETH_B,
};
use crate::packets::{ACK, FIN, L4, RST, SYN, Sample, ip, make_fragment};

/// The source port that a packet leaves with.
fn outside_port(model: &Model, veth: u32, sample: &Sample) -> Result<u16, DropReason> {
    let sent = model.container_sends(veth, &sample.bytes())?.sent();
    Ok(sent.sample().ports().0)
}

#[test]
fn a_packet_leaves_with_the_uplinks_address() {
    for family in FAMILIES {
        for l4 in [
            L4::Tcp(20_000, 443, SYN),
            L4::Udp(20_000, 53),
            L4::Request(20_000),
        ] {
            let model = Model::new();
            let original = Sample::new(family.a, family.remote, l4);
            let sent = model.out(&original);
            let mut expected = original.clone().ttl(63);
            expected.src = ip(family.uplink);
            assert_eq!(sent.sample(), expected);
            assert_eq!((sent.to, sent.ifindex), (Toward::Uplink, UPLINK));
            assert_eq!(sent.next_hop, Addr::from(ip(family.next_hop)));

            let (key, flow, reply) = model.connection();
            assert_eq!((key.network, flow.other_network), (1, OUTSIDE));
            assert_eq!(
                (flow.kind, reply.kind),
                (FlowKind::Masquerade, FlowKind::Masquerade)
            );
            assert_eq!(
                (flow.gateway_ifindex, reply.gateway_ifindex),
                (GATEWAY, GATEWAY)
            );
            assert_eq!((flow.packets, reply.packets), (1, 0));
            assert_eq!(flow.bytes, original.bytes().len() as u64);
            assert_eq!(model.new_flows.get(), 1);
        }
    }
}

#[test]
fn the_answer_goes_back_to_the_container() {
    for family in FAMILIES {
        for l4 in [
            L4::Tcp(20_000, 443, SYN),
            L4::Udp(20_000, 53),
            L4::Request(20_000),
        ] {
            let model = Model::new();
            let sent = model
                .out(&Sample::new(family.a, family.remote, l4))
                .sample();
            let back = model.inward(&sent.answer(SYN | ACK));
            let answer = back.sample();
            assert_eq!((answer.src, answer.dst), (ip(family.remote), ip(family.a)));
            assert_eq!(answer.ports().1, 20_000);
            assert_eq!(answer.ttl, 63);
            assert_eq!((back.to, back.ifindex), (Toward::Container, VETH_A));
            assert_eq!(back.dst_mac.octets, [2, 0, 0, 0, 0, VETH_A as u8]);
            assert_eq!(model.new_flows.get(), 1);
        }
    }
}

#[test]
fn a_port_in_range_is_kept_and_another_is_replaced() {
    let mut model = Model::new();
    model.snat_ports(16_384, 32_767);
    for port in [16_384, 20_000, 32_767] {
        let sample = Sample::new(V4.a, V4.remote, L4::Udp(port, 53));
        assert_eq!(outside_port(&model, VETH_A, &sample), Ok(port));
    }
    for port in [0, 53, 16_383, 32_768, 65_535] {
        for l4 in [L4::Udp(port, 53), L4::Tcp(port, 53, SYN)] {
            let sample = Sample::new(V6.a, V6.remote, l4);
            let given = outside_port(&model, VETH_A, &sample).unwrap();
            assert!((16_384..=32_767).contains(&given), "{port} became {given}");
        }
    }
}

#[test]
fn echo_identifiers_are_kept_whatever_they_are() {
    for id in [0, 1, 16_383, 65_535] {
        let model = Model::new();
        let sample = Sample::new(V4.a, V4.remote, L4::Request(id));
        assert_eq!(outside_port(&model, VETH_A, &sample), Ok(id));
        assert_eq!(model.connection().1.state, FlowState::Echo);
    }
}

#[test]
fn two_containers_with_one_port_get_two() {
    for family in FAMILIES {
        for l4 in [
            L4::Tcp(20_000, 443, SYN),
            L4::Udp(20_000, 53),
            L4::Request(20_000),
        ] {
            let model = Model::new();
            let a = Sample::new(family.a, family.remote, l4);
            let b = Sample::new(family.b, family.remote, l4);
            let from_a = model.out(&a).sample();
            let outcome = model.container_sends(VETH_B, &b.bytes()).unwrap();
            let from_b = outcome.sent().sample();
            assert_eq!(from_a.ports().0, 20_000);
            assert_ne!(from_b.ports().0, 20_000);
            // Both reply paths are right.
            let back = |sent: &Sample| model.inward(&sent.answer(ACK)).sample();
            assert_eq!(
                (back(&from_a).dst, back(&from_a).ports().1),
                (a.src, 20_000)
            );
            assert_eq!(
                (back(&from_b).dst, back(&from_b).ports().1),
                (b.src, 20_000)
            );
            assert_eq!(model.connections().len(), 2);
        }
    }
}

#[test]
fn one_port_serves_many_destinations() {
    let mut model = Model::new();
    model.snat_ports(30_000, 30_000);
    for dst in ["203.0.113.9", "203.0.113.10", "203.0.113.11"] {
        let sample = Sample::new(V4.a, dst, L4::Udp(1, 53));
        assert_eq!(outside_port(&model, VETH_A, &sample), Ok(30_000));
    }
}

#[test]
fn the_fifth_flow_through_four_ports_is_dropped() {
    // The wished port within the range, and outside of it.
    for first in [30_000, 1_000] {
        let mut model = Model::new();
        model.snat_ports(30_000, 30_003);
        let mut given = Vec::new();
        for i in 0..4 {
            let sample = Sample::new(V4.a, V4.remote, L4::Udp(first + i, 53));
            given.push(outside_port(&model, VETH_A, &sample).unwrap());
        }
        given.sort_unstable();
        assert_eq!(given, [30_000, 30_001, 30_002, 30_003]);
        let before = model.flows.len();
        let fifth = Sample::new(V4.b, V4.remote, L4::Udp(first, 53));
        let outcome = outside_port(&model, VETH_B, &fifth);
        assert_eq!(outcome, Err(DropReason::SnatPortsExhausted));
        assert_eq!(model.flows.len(), before, "nothing is left of the fifth");
        // The first four work on, and the fifth does as soon as one has ended.
        for i in 0..4 {
            model.out(&Sample::new(V4.a, V4.remote, L4::Udp(first + i, 53)));
        }
        model.end_container(0);
        assert!(outside_port(&model, VETH_B, &fifth).is_ok());
    }
}

#[test]
fn a_published_port_is_never_given_to_a_masqueraded_flow() {
    for family in FAMILIES {
        for host in [family.any, family.uplink] {
            for proto in [Proto::Tcp, Proto::Udp] {
                let mut model = Model::new();
                model.snat_ports(30_000, 30_003);
                for port in [30_000, 30_001, 30_003] {
                    model.publish(proto, host, port, family.b, 80);
                }
                let l4 = |port| match proto {
                    Proto::Tcp => L4::Tcp(port, 443, SYN),
                    _ => L4::Udp(port, 443),
                };
                let first = Sample::new(family.a, family.remote, l4(30_001));
                assert_eq!(outside_port(&model, VETH_A, &first), Ok(30_002));
                let second = Sample::new(family.a, family.remote, l4(30_003));
                let outcome = outside_port(&model, VETH_A, &second);
                assert_eq!(
                    outcome,
                    Err(DropReason::SnatPortsExhausted),
                    "{host} {proto:?}"
                );
            }
        }
    }
}

#[test]
fn a_port_published_for_another_protocol_or_address_is_free() {
    let mut model = Model::new();
    model.snat_ports(30_000, 30_000);
    model.publish(Proto::Tcp, V4.any, 30_000, V4.b, 80);
    model.publish(Proto::Udp, "192.0.2.200", 30_000, V4.b, 80);
    model.publish(Proto::Udp, V6.any, 30_000, V6.b, 80);
    let sample = Sample::new(V4.a, V4.remote, L4::Udp(30_000, 53));
    assert_eq!(outside_port(&model, VETH_A, &sample), Ok(30_000));
}

#[test]
fn what_cannot_be_translated_is_dropped_under_its_reason() {
    let model = Model::new();
    let drop = |frame: &[u8]| model.container_sends(VETH_A, frame).unwrap_err();
    for family in FAMILIES {
        // TCP in mid-flow, without a flow: never state.
        for flags in [
            ACK,
            SYN | ACK,
            FIN | ACK,
            RST,
            RST | ACK,
            0,
            SYN | FIN,
            SYN | RST,
        ] {
            let frame = Sample::new(family.a, family.remote, L4::Tcp(20_000, 443, flags)).bytes();
            assert_eq!(drop(&frame), DropReason::NoFlow, "{flags:#x}");
        }
        // An answer to a question nobody asked.
        let frame = Sample::new(family.a, family.remote, L4::Reply(1)).bytes();
        assert_eq!(drop(&frame), DropReason::NoFlow);
        // IPIP.
        let mut frame = Sample::new(family.a, family.remote, L4::Udp(1, 2)).bytes();
        frame[if family.a == V4.a { 23 } else { 20 }] = 4;
        assert_eq!(drop(&frame), DropReason::UnsupportedProtocol);
    }
    // A timestamp request.
    let mut frame = Sample::new(V4.a, V4.remote, L4::Request(1)).bytes();
    frame[34] = 13;
    assert_eq!(drop(&frame), DropReason::UnsupportedProtocol);
    let mut frame = Sample::new(V4.a, V4.remote, L4::Udp(1, 2)).bytes();
    make_fragment(&mut frame, true, 100);
    assert_eq!(drop(&frame), DropReason::Fragment);
    assert_eq!(model.flows.len(), 0);
    // Of two of the flags, once a family: where would the lost flow of that connection have gone?
    assert_eq!(model.routes_asked.get(), 4);
}

#[test]
fn no_route_no_uplink_no_address() {
    for family in FAMILIES {
        let model = Model::new();
        let sample = Sample::new(family.a, family.remote, L4::Udp(1, 2));
        for reason in [DropReason::NoRoute, DropReason::TooBig] {
            model.route.set(Err(reason));
            assert_eq!(outside_port(&model, VETH_A, &sample), Err(reason));
        }
        model.route.set(Ok((OTHER_DEVICE, None)));
        assert_eq!(
            outside_port(&model, VETH_A, &sample),
            Err(DropReason::NotAnUplink)
        );
        model.route.set(Ok((UPLINK, None)));
        let none = Uplink {
            addr4: Addr::UNSPECIFIED,
            addr6: Addr::UNSPECIFIED,
        };
        model.uplinks.put(UPLINK, none);
        assert_eq!(
            outside_port(&model, VETH_A, &sample),
            Err(DropReason::NoSnatAddress)
        );
        assert_eq!(model.flows.len(), 0);
    }
}

#[test]
fn an_ipv4_flow_may_have_an_ipv6_next_hop() {
    let model = Model::new();
    let next_hop = Addr::from(ip("fe80::fe"));
    model.route.set(Ok((UPLINK, Some(next_hop))));
    let sent = model.out(&Sample::new(V4.a, V4.remote, L4::Udp(1, 2)));
    assert_eq!(sent.next_hop, next_hop);
}

#[test]
fn a_running_flow_follows_the_hosts_routes() {
    let model = Model::new();
    let sample = Sample::new(V4.a, V4.remote, L4::Udp(20_000, 53));
    model.out(&sample);
    let asked = model.routes_asked.get();
    // Within the same second nobody asks.
    let new_hop = Addr::from(ip("192.0.2.253"));
    model.route.set(Ok((UPLINK, Some(new_hop))));
    assert_eq!(model.out(&sample).next_hop, Addr::from(ip(V4.next_hop)));
    assert_eq!(model.routes_asked.get(), asked);
    model.pass_seconds(1);
    assert_eq!(model.out(&sample).next_hop, new_hop);
    // By another device it would leave with the wrong source address; without a route, too,
    // it stays where it was.
    for elsewhere in [
        Ok((OTHER_DEVICE, Some(Addr::from(ip(V4.uplink))))),
        Err(DropReason::NoRoute),
    ] {
        model.route.set(elsewhere);
        model.pass_seconds(1);
        let sent = model.out(&sample);
        assert_eq!((sent.ifindex, sent.next_hop), (UPLINK, new_hop));
    }
    // The model's own function says what it was told.
    let mut route = Route {
        next_hop: Addr::UNSPECIFIED,
        ifindex: 0,
    };
    assert!(
        model
            .route(GATEWAY, &Addr::UNSPECIFIED, &Addr::UNSPECIFIED, &mut route)
            .is_err()
    );
}

#[test]
fn a_full_table_is_a_named_drop_and_leaves_no_half() {
    for l4 in [
        L4::Udp(20_000, 53),
        L4::Tcp(20_000, 443, SYN),
        L4::Request(5),
    ] {
        // Room for no entry, and for one of two.
        for room in [0, 1] {
            let model = Model::new();
            model.out(&Sample::new(V4.a, V4.remote, L4::Udp(1, 2)));
            model.flows.limit(2 + room);
            let outcome = outside_port(&model, VETH_A, &Sample::new(V4.a, V4.remote, l4));
            assert_eq!(
                outcome,
                Err(DropReason::FlowTableFull),
                "{l4:?}, room for {room}"
            );
            assert_eq!(model.connections().len(), 1);
            assert_eq!(model.new_flows.get(), 1);
            // What is there goes on, and what needs no state does, too.
            model.out(&Sample::new(V4.a, V4.remote, L4::Udp(1, 2)));
            let local = Sample::new(V4.a, V4.b, l4).bytes();
            assert_eq!(
                model.container_sends(VETH_A, &local),
                Ok(Outcome::Delivered(VETH_B))
            );
            let host = Sample::new(V4.a, V4.uplink, l4).bytes();
            assert_eq!(model.container_sends(VETH_A, &host), Ok(Outcome::Host));
        }
    }
}

#[test]
fn a_flood_is_bounded_and_harms_nobody_else() {
    let mut model = Model::new();
    model.config.max_flows_per_endpoint = 5;
    let flow = |i: u16| Sample::new(V4.a, V4.remote, L4::Udp(20_000 + i, 53));
    for i in 0..5 {
        outside_port(&model, VETH_A, &flow(i)).unwrap();
    }
    assert_eq!(
        outside_port(&model, VETH_A, &flow(5)),
        Err(DropReason::FlowBudget)
    );
    // What is known goes on, and so does the neighbour.
    model.out(&flow(0));
    let other = Sample::new(V4.b, V4.remote, L4::Udp(20_000, 53));
    outside_port(&model, VETH_B, &other).unwrap();
    assert_eq!(model.accounts.borrow()[&0], 5);
    // A connection that fails to be made costs nothing.
    model.flows.limit(model.flows.len());
    model.config.max_flows_per_endpoint = 6;
    assert!(outside_port(&model, VETH_A, &flow(5)).is_err());
    assert_eq!(model.accounts.borrow()[&0], 5);
    // Idle ones are taken off the account, whichever half is proposed for removal.
    model.pass_seconds(model.config.timeouts.udp_one_way + 1);
    for (key, _) in model.flows.entries() {
        netpath_common::idle::remove_if_idle(&model, &key);
    }
    assert_eq!(model.flows.len(), 0);
    assert_eq!(model.accounts.borrow().values().sum::<u32>(), 0);
}

#[test]
fn mapping_and_filtering_are_as_documented() {
    for family in FAMILIES {
        let model = Model::new();
        let udp = |src, dst: &str, port| Sample::new(family.a, dst, L4::Udp(src, port));
        let elsewhere = family
            .nobody
            .replace("10.1.0", "203.0.113")
            .replace("fd01", "2a00");
        // A port of the range is kept, whatever the destination.
        for (dst, port) in [(family.remote, 53), (family.remote, 54), (&*elsewhere, 53)] {
            let outside = outside_port(&model, VETH_A, &udp(20_000, dst, port));
            assert_eq!(outside, Ok(20_000));
        }
        // Another is replaced for each destination address and port.
        let mut ports: Vec<u16> = (1..=20)
            .map(|port| outside_port(&model, VETH_A, &udp(50_000, family.remote, port)).unwrap())
            .collect();
        let first = ports[0];
        ports.sort_unstable();
        ports.dedup();
        assert!(ports.len() > 15, "{ports:?}");
        // Only whoever was asked may answer: another port or address may not.
        for (from, port, expected) in [
            (family.remote, 1, true),
            (family.remote, 99, false),
            (&*elsewhere, 1, false),
        ] {
            let answer = Sample::new(from, family.uplink, L4::Udp(port, first));
            let outcome = model.outside_sends(&answer.bytes()).unwrap();
            assert_eq!(
                matches!(outcome, Outcome::Sent(_)),
                expected,
                "{from}:{port}"
            );
        }
    }
}

#[test]
fn a_port_of_the_hosts_own_sockets_is_passed_over() {
    let mut model = Model::new();
    (model.config.snat_port_min, model.config.snat_port_max) = (20_000, 20_001);
    model.host_sockets.borrow_mut().push(20_000);
    for family in FAMILIES {
        for (l4, expected) in [
            (L4::Tcp(20_000, 443, SYN), 20_001),
            (L4::Udp(20_000, 53), 20_001),
            (L4::Request(20_000), 20_000),
        ] {
            let sample = Sample::new(family.a, family.remote, l4);
            assert_eq!(
                outside_port(&model, VETH_A, &sample),
                Ok(expected),
                "{l4:?}"
            );
        }
    }
}
