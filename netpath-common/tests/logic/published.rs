//! What comes from outside: published ports, and what is not a container's business.

use netpath_common::addr::Addr;
use netpath_common::flow::{FlowKind, FlowState, Toward};
use netpath_common::reason::DropReason;
use netpath_common::tuple::{OUTSIDE, Proto};

use crate::model::{FAMILIES, Family, Model, OTHER_DEVICE, Outcome, UPLINK, V4, V6, VETH_A};
use crate::packets::{ACK, L4, SYN, Sample, ip, make_fragment};

/// A client's first packet to a port of the host.
fn dial(family: &Family, proto: Proto, host: &str, port: u16) -> Sample {
    let l4 = match proto {
        Proto::Tcp => L4::Tcp(50_000, port, SYN),
        _ => L4::Udp(50_000, port),
    };
    Sample::new(family.remote, host, l4)
}

#[test]
fn a_published_port_leads_into_the_container_and_back() {
    for family in FAMILIES {
        for proto in [Proto::Tcp, Proto::Udp] {
            let model = Model::new();
            model.publish(proto, family.uplink, 8080, family.a, 80);
            let request = dial(&family, proto, family.uplink, 8080);
            let sent = model.inward(&request);
            let inside = sent.sample();
            assert_eq!((inside.src, inside.dst), (request.src, ip(family.a)));
            assert_eq!(inside.ports(), (50_000, 80));
            assert_eq!((inside.ttl, &inside.payload), (63, &request.payload));
            assert_eq!((sent.to, sent.ifindex), (Toward::Container, VETH_A));

            let answer = model.out(&inside.answer(SYN | ACK));
            let outside = answer.sample();
            assert_eq!((outside.src, outside.dst), (ip(family.uplink), request.src));
            assert_eq!(outside.ports(), (8080, 50_000));
            assert_eq!((answer.to, answer.ifindex), (Toward::Uplink, UPLINK));
            assert_eq!(answer.next_hop, Addr::from(ip(family.next_hop)));

            let (key, flow, reply) = model.connection();
            assert_eq!(
                (key.network, reply.other_network, flow.other_network),
                (0, OUTSIDE, 1)
            );
            assert_eq!(flow.kind, FlowKind::Published);
        }
    }
}

#[test]
fn the_port_of_one_address_comes_before_the_port_of_all() {
    for family in FAMILIES {
        let model = Model::new();
        model.publish(Proto::Tcp, family.any, 8080, family.a, 80);
        model.publish(Proto::Tcp, family.uplink, 8080, family.b, 81);
        let specific = model
            .inward(&dial(&family, Proto::Tcp, family.uplink, 8080))
            .sample();
        assert_eq!((specific.dst, specific.ports().1), (ip(family.b), 81));
        let any = model
            .inward(&dial(&family, Proto::Tcp, family.gateway, 8080))
            .sample();
        assert_eq!((any.dst, any.ports().1), (ip(family.a), 80));
    }
}

#[test]
fn the_port_of_all_addresses_is_that_of_the_hosts_own_only() {
    for family in FAMILIES {
        let model = Model::new();
        model.publish(Proto::Tcp, family.any, 8080, family.a, 80);
        let elsewhere = if family.a == V4.a {
            "198.51.100.7"
        } else {
            "2001:db8:5::7"
        };
        let frame = dial(&family, Proto::Tcp, elsewhere, 8080).bytes();
        assert_eq!(
            model.outside_sends(&frame),
            Ok(Outcome::Host),
            "the host may be a router"
        );
        assert_eq!(model.flows.len(), 0);
    }
    // The families do not mix.
    let model = Model::new();
    model.publish(Proto::Tcp, V6.any, 8080, V6.a, 80);
    let frame = dial(&V4, Proto::Tcp, V4.uplink, 8080).bytes();
    assert_eq!(model.outside_sends(&frame), Ok(Outcome::Host));
}

#[test]
fn only_what_is_published_gets_in() {
    let model = Model::new();
    model.publish(Proto::Tcp, V4.uplink, 8080, V4.a, 80);
    model.publish(Proto::Udp, "127.0.0.1", 9090, V4.a, 90);
    for (proto, host, port) in [
        (Proto::Udp, V4.uplink, 8080),
        (Proto::Tcp, V4.uplink, 8081),
        (Proto::Tcp, V4.uplink, 80),
        (Proto::Tcp, V4.gateway, 8080),
        // Published for the host's own processes only.
        (Proto::Udp, V4.uplink, 9090),
    ] {
        let frame = dial(&V4, proto, host, port).bytes();
        assert_eq!(
            model.outside_sends(&frame),
            Ok(Outcome::Host),
            "{proto:?} {host} {port}"
        );
    }
    assert_eq!(model.flows.len(), 0);
}

#[test]
fn a_port_of_loopback_is_not_reached_from_outside() {
    for (src, dst, family) in [(V4.remote, "127.0.0.1", V4), (V6.remote, "::1", V6)] {
        let model = Model::new();
        model.publish(Proto::Tcp, dst, 8080, family.a, 80);
        model.publish(Proto::Tcp, family.any, 8080, family.a, 80);
        let frame = Sample::new(src, dst, L4::Tcp(50_000, 8080, SYN)).bytes();
        assert_eq!(model.outside_sends(&frame), Ok(Outcome::Host));
        assert_eq!(model.flows.len(), 0);
    }
}

#[test]
fn stray_packets_make_no_state_and_are_the_hosts() {
    for family in FAMILIES {
        let model = Model::new();
        model.publish(Proto::Tcp, family.any, 8080, family.a, 80);
        for flags in [ACK, SYN | ACK, 0, ACK | 0x01, 0x04] {
            let l4 = L4::Tcp(50_000, 8080, flags);
            let frame = Sample::new(family.remote, family.uplink, l4).bytes();
            assert_eq!(model.outside_sends(&frame), Ok(Outcome::Host), "{flags:#x}");
        }
        for l4 in [L4::Reply(9), L4::Request(9)] {
            let frame = Sample::new(family.remote, family.uplink, l4).bytes();
            assert_eq!(model.outside_sends(&frame), Ok(Outcome::Host));
        }
        assert_eq!(model.flows.len(), 0);
        // And the container's SYN on that very tuple is translated as any other.
        let out = model.out(&Sample::new(
            family.a,
            family.remote,
            L4::Tcp(20_000, 50_000, SYN),
        ));
        assert_eq!(out.sample().src, ip(family.uplink));
    }
}

#[test]
fn containers_cannot_be_reached_by_their_own_addresses() {
    for family in FAMILIES {
        let model = Model::new();
        model.publish(Proto::Tcp, family.any, 80, family.a, 80);
        for dst in [family.a, family.b, family.red, family.nobody] {
            for l4 in [
                L4::Tcp(1, 80, SYN),
                L4::Tcp(1, 80, ACK),
                L4::Udp(1, 80),
                L4::Request(1),
            ] {
                let frame = Sample::new(family.remote, dst, l4).bytes();
                assert_eq!(
                    model.outside_sends(&frame),
                    Err(DropReason::DirectRouting),
                    "{dst}"
                );
            }
        }
        // The gateway is the host's own address.
        let frame = Sample::new(family.remote, family.gateway, L4::Request(1)).bytes();
        assert_eq!(model.outside_sends(&frame), Ok(Outcome::Host));
    }
    let model = Model::new();
    let mut fragment = Sample::new(V4.remote, V4.a, L4::Udp(1, 2)).bytes();
    make_fragment(&mut fragment, false, 100);
    assert_eq!(
        model.outside_sends(&fragment),
        Err(DropReason::DirectRouting)
    );
}

#[test]
fn a_client_with_two_ways_to_one_port_looks_like_two() {
    for family in FAMILIES {
        let model = Model::new();
        model.publish(Proto::Tcp, family.any, 8080, family.a, 80);
        model.publish(Proto::Tcp, family.any, 8081, family.a, 80);
        let first = dial(&family, Proto::Tcp, family.uplink, 8080);
        let second = dial(&family, Proto::Tcp, family.uplink, 8081);
        let inside = [
            model.inward(&first).sample(),
            model.inward(&second).sample(),
        ];
        assert_eq!(inside[0].ports(), (50_000, 80));
        assert_ne!(inside[1].ports().0, 50_000);
        assert!(inside[1].ports().0 >= 1024);
        // Each answer comes from the port that was dialled.
        let back = |sample: &Sample| model.out(&sample.answer(SYN | ACK)).sample().ports();
        assert_eq!(back(&inside[0]), (8080, 50_000));
        assert_eq!(back(&inside[1]), (8081, 50_000));
        assert_eq!(model.connections().len(), 2);
    }
}

#[test]
fn a_clients_low_port_is_its_own_business() {
    let model = Model::new();
    model.publish(Proto::Udp, V4.any, 8080, V4.a, 80);
    let sample = Sample::new(V4.remote, V4.uplink, L4::Udp(53, 8080));
    assert_eq!(model.inward(&sample).sample().ports(), (53, 80));
}

#[test]
fn a_port_whose_container_is_gone_is_a_named_drop() {
    let model = Model::new();
    model.publish(Proto::Tcp, V4.any, 8080, V4.a, 80);
    for (key, _) in model.endpoints.entries() {
        netpath_common::env::Table::remove(&&model.endpoints, &key);
    }
    let frame = dial(&V4, Proto::Tcp, V4.uplink, 8080).bytes();
    assert_eq!(
        model.outside_sends(&frame),
        Err(DropReason::UnknownEndpoint)
    );
    assert_eq!(model.flows.len(), 0);
}

#[test]
fn a_client_without_a_way_back_gets_no_state() {
    for (route, reason) in [
        (Err(DropReason::NoRoute), DropReason::NoRoute),
        (Ok((OTHER_DEVICE, None)), DropReason::NotAnUplink),
    ] {
        let model = Model::new();
        model.publish(Proto::Udp, V4.any, 8080, V4.a, 80);
        model.route.set(route);
        let frame = dial(&V4, Proto::Udp, V4.uplink, 8080).bytes();
        assert_eq!(model.outside_sends(&frame), Err(reason));
        assert_eq!(model.flows.len(), 0);
    }
}

#[test]
fn time_runs_out_at_a_published_port() {
    for family in FAMILIES {
        let model = Model::new();
        model.publish(Proto::Udp, family.any, 8080, family.a, 80);
        let sample = dial(&family, Proto::Udp, family.uplink, 8080);
        for ttl in [0, 1] {
            let frame = sample.clone().ttl(ttl).bytes();
            assert_eq!(model.outside_sends(&frame), Err(DropReason::TtlExpired));
        }
        assert_eq!(model.flows.len(), 0);
        assert_eq!(model.inward(&sample.clone().ttl(2)).sample().ttl, 1);
        assert_eq!(
            model.outside_sends(&sample.ttl(1).bytes()),
            Err(DropReason::TtlExpired)
        );
    }
}

#[test]
fn a_full_table_drops_new_clients_only() {
    for room in [0, 1] {
        let model = Model::new();
        model.publish(Proto::Udp, V4.any, 8080, V4.a, 80);
        model.inward(&dial(&V4, Proto::Udp, V4.uplink, 8080));
        model.flows.limit(2 + room);
        let other = Sample::new("203.0.113.10", V4.uplink, L4::Udp(1, 8080)).bytes();
        assert_eq!(model.outside_sends(&other), Err(DropReason::FlowTableFull));
        assert_eq!(model.connection().1.state, FlowState::OneWay);
        model.inward(&dial(&V4, Proto::Udp, V4.uplink, 8080));
    }
}

#[test]
fn what_cannot_be_parsed_is_the_stacks_business() {
    let model = Model::new();
    model.publish(Proto::Tcp, V4.any, 8080, V4.a, 80);
    let good = dial(&V4, Proto::Tcp, V4.uplink, 8080).bytes();
    for len in 0..good.len() {
        assert_eq!(model.outside_sends(&good[..len]), Ok(Outcome::Host));
    }
    assert_eq!(model.flows.len(), 0);
}
