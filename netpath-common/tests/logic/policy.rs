//! What networks let in and out.

use netpath_common::addr::Addr;
use netpath_common::flow::{FlowKind, Toward};
use netpath_common::policy::{GatewayMode, ICC_OFF, INTERNAL, MASQUERADE_OFF, Policy, Trusted};
use netpath_common::reason::DropReason;
use netpath_common::tuple::Proto;

use crate::model::{
    FAMILIES, Family, GATEWAY, Model, OTHER_DEVICE, Outcome, UPLINK, V4, VETH_A, VETH_B, VETH_RED,
};
use crate::packets::{ACK, L4, SYN, Sample, ip};

const RED: u16 = 2;

/// A published port, another one, a ping: what the matrix of gateway modes tells apart.
const PUBLISHED: L4 = L4::Tcp(50_000, 80, SYN);
const UNPUBLISHED: L4 = L4::Tcp(50_000, 81, SYN);
const PING: L4 = L4::Request(7);

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

/// A model whose second network has this policy, and whose container there has a published port.
fn model(family: &Family, policy: Policy) -> Model {
    let mut model = Model::new();
    model.set_policy(RED, policy);
    model.open_port(RED, Proto::Tcp, family.red, 80);
    model
}

/// The ways to a container's own address from elsewhere: by the uplink, from another network,
/// through the host's stack.
const WAYS: [&str; 3] = ["uplink", "network", "stack"];

fn reach(model: &Model, way: &str, family: &Family, l4: L4) -> Result<Outcome, DropReason> {
    let from = |src| Sample::new(src, family.red, l4).bytes();
    match way {
        "uplink" => model.outside_sends(&from(family.remote)),
        "network" => model.container_sends(VETH_A, &from(family.a)),
        _ => model.forwards(&from(family.remote), RED, OTHER_DEVICE),
    }
}

#[test]
fn each_gateway_mode_lets_in_what_it_says() {
    use GatewayMode::{Isolated, Nat, NatUnprotected, Routed};
    let no = |reason| [Err(reason); 3];
    for family in FAMILIES {
        for way in WAYS {
            let closed = if way == "network" {
                DropReason::OtherNetwork
            } else {
                DropReason::DirectRouting
            };
            for (policy, expected) in [
                (mode(Nat), no(closed)),
                (mode(NatUnprotected), [Ok(()); 3]),
                (
                    mode(Routed),
                    [Ok(()), Err(DropReason::NotPublished), Ok(())],
                ),
                (
                    Policy {
                        flags: INTERNAL,
                        ..mode(Isolated)
                    },
                    no(DropReason::InternalNetwork),
                ),
                (flags(INTERNAL), no(DropReason::InternalNetwork)),
                (flags(ICC_OFF), no(closed)),
                (flags(MASQUERADE_OFF), no(closed)),
            ] {
                for (l4, expected) in [PUBLISHED, UNPUBLISHED, PING].into_iter().zip(expected) {
                    let model = model(&family, policy);
                    let outcome = reach(&model, way, &family, l4);
                    assert_eq!(outcome.map(drop), expected, "{way} {policy:?} {l4:?}");
                    assert_eq!(model.flows.len(), if expected.is_ok() { 2 } else { 0 });
                }
            }
        }
    }
}

#[test]
fn nothing_is_translated_and_answers_come_back() {
    for family in FAMILIES {
        for way in WAYS {
            let model = model(&family, mode(GatewayMode::Routed));
            for l4 in [PUBLISHED, PING] {
                let (client, veth) = match way {
                    "network" => (family.a, VETH_A),
                    _ => (family.remote, UPLINK),
                };
                let request = Sample::new(client, family.red, l4);
                let sent = reach(&model, way, &family, l4).unwrap().sent();
                let ttl = if way == "stack" { 64 } else { 63 };
                assert_eq!(sent.sample(), request.clone().ttl(ttl), "{way}");
                assert_eq!(sent.ifindex, VETH_RED);
                let answer = request.answer(SYN | ACK);
                let back = model.container_sends(VETH_RED, &answer.bytes());
                let back = back.unwrap().sent();
                assert_eq!(back.sample(), answer.ttl(63));
                assert_eq!(back.ifindex, veth, "{way}");
            }
            let all = model.flows.entries();
            assert_eq!(all.len(), 4);
            assert!(all.iter().all(|(_, flow)| flow.kind == FlowKind::Direct));
        }
    }
}

#[test]
fn answers_go_by_the_stack_where_the_route_leaves_by_no_uplink() {
    for family in FAMILIES {
        let model = model(&family, mode(GatewayMode::Routed));
        model.route.set(Ok((OTHER_DEVICE, None)));
        let request = Sample::new(family.remote, family.red, PUBLISHED);
        let sent = reach(&model, "stack", &family, PUBLISHED).unwrap().sent();
        assert_eq!((sent.to, sent.ifindex), (Toward::Forwarded, VETH_RED));
        let answer = request.answer(SYN | ACK);
        let back = model.container_sends(VETH_RED, &answer.bytes());
        let back = back.unwrap().sent();
        // Untouched: the stack lowers the time to live.
        assert_eq!(back.sample(), answer);
        assert_eq!((back.to, back.ifindex), (Toward::Stack, GATEWAY + 1));

        // And the other way round: the container begins.
        let out = Sample::new(family.red, family.remote, L4::Udp(1000, 53));
        let sent = model.container_sends(VETH_RED, &out.bytes()).unwrap();
        assert_eq!(sent.sent().to, Toward::Stack);
        let answer = out.answer(0).bytes();
        let sent = model.forwards(&answer, RED, OTHER_DEVICE).unwrap().sent();
        assert_eq!((sent.to, sent.ifindex), (Toward::Forwarded, VETH_RED));
        // Nothing else comes in with it.
        let stray = Sample::new(family.remote, family.red, L4::Udp(53, 1001)).bytes();
        assert_eq!(
            model.forwards(&stray, RED, OTHER_DEVICE),
            Err(DropReason::NotPublished)
        );
        // A network that masquerades has no address to give there.
        let masqueraded = Sample::new(family.a, family.remote, L4::Udp(1, 53)).bytes();
        assert_eq!(
            model.container_sends(VETH_A, &masqueraded),
            Err(DropReason::NotAnUplink)
        );
    }
}

#[test]
fn stray_packets_open_nothing_even_where_all_is_open() {
    for family in FAMILIES {
        for way in WAYS {
            let model = model(&family, mode(GatewayMode::NatUnprotected));
            for (l4, reason) in [
                (L4::Tcp(50_000, 80, ACK), DropReason::NoFlow),
                (L4::Tcp(50_000, 80, SYN | ACK), DropReason::NoFlow),
                (L4::Reply(7), DropReason::NoFlow),
            ] {
                assert_eq!(reach(&model, way, &family, l4), Err(reason), "{way} {l4:?}");
            }
            let nobody = Sample::new(family.remote, family.nobody, PUBLISHED).bytes();
            let mut model = model;
            model.set_policy(1, mode(GatewayMode::NatUnprotected));
            assert_eq!(
                model.outside_sends(&nobody),
                Err(DropReason::NoSuchNeighbour)
            );
            assert_eq!(model.flows.len(), 0);
        }
    }
}

#[test]
fn nobody_outside_has_a_containers_address() {
    for family in FAMILIES {
        let model = model(&family, mode(GatewayMode::NatUnprotected));
        let frame = Sample::new(family.a, family.red, PUBLISHED).bytes();
        for outcome in [
            model.outside_sends(&frame),
            model.forwards(&frame, RED, OTHER_DEVICE),
        ] {
            assert_eq!(outcome, Err(DropReason::SpoofedSource));
        }
    }
}

#[test]
fn trusted_devices_reach_published_ports_only() {
    for family in FAMILIES {
        for (way, ingress) in [
            ("uplink", UPLINK),
            ("network", GATEWAY),
            ("stack", OTHER_DEVICE),
        ] {
            let model = model(&family, Policy::default());
            model.trusted.put(Trusted::new(1, ingress), 1);
            let refused = reach(&model, way, &family, PUBLISHED);
            assert!(refused.is_err(), "another network trusts it");
            model.trusted.put(Trusted::new(RED, ingress), 1);
            let outcome = reach(&model, way, &family, PUBLISHED);
            assert!(matches!(outcome, Ok(Outcome::Sent(_))), "{way}");
            for l4 in [UNPUBLISHED, PING, L4::Udp(50_000, 80)] {
                assert_eq!(
                    reach(&model, way, &family, l4),
                    Err(DropReason::NotPublished)
                );
            }
        }
    }
}

#[test]
fn an_internal_network_reaches_its_gateway_and_itself() {
    for family in FAMILIES {
        let mut model = Model::new();
        model.set_policy(1, flags(INTERNAL));
        let send = |model: &Model, dst: &str| {
            let frame = Sample::new(family.a, dst, PUBLISHED).bytes();
            model.container_sends(VETH_A, &frame)
        };
        assert_eq!(send(&model, family.b), Ok(Outcome::Delivered(VETH_B)));
        assert_eq!(send(&model, family.gateway), Ok(Outcome::Host));
        for elsewhere in [family.remote, family.red, family.uplink] {
            assert_eq!(
                send(&model, elsewhere),
                Err(DropReason::InternalNetwork),
                "{elsewhere}"
            );
        }
        // Nor with the last of its time, with which it would have arrived at the host.
        let last = Sample::new(family.a, family.uplink, PUBLISHED).ttl(1);
        assert_eq!(
            model.container_sends(VETH_A, &last.bytes()),
            Err(DropReason::InternalNetwork)
        );
        let last = Sample::new(family.a, family.gateway, PUBLISHED).ttl(1);
        let outcome = model.container_sends(VETH_A, &last.bytes());
        assert_eq!(outcome, Ok(Outcome::Host));
        // A port that another network's container publishes at all addresses.
        model.publish(Proto::Tcp, family.any, 80, family.b, 80);
        assert_eq!(
            send(&model, family.gateway),
            Err(DropReason::InternalNetwork)
        );
        assert_eq!(model.flows.len(), 0);
    }
}

#[test]
fn without_icc_containers_meet_at_published_ports_only() {
    for family in FAMILIES {
        let mut model = Model::new();
        model.set_policy(1, flags(ICC_OFF));
        for dst in [family.b, family.nobody, "fe80::3"] {
            if dst == "fe80::3" && family.a == V4.a {
                continue;
            }
            let frame = Sample::new(family.a, dst, PUBLISHED).bytes();
            assert_eq!(
                model.container_sends(VETH_A, &frame),
                Err(DropReason::IccOff)
            );
        }
        model.publish(Proto::Tcp, family.any, 8080, family.b, 80);
        let dial = Sample::new(family.a, family.uplink, L4::Tcp(50_000, 8080, SYN));
        let inside = model.out(&dial);
        assert_eq!(inside.ifindex, VETH_B);
        let answer = inside.sample().answer(SYN | ACK);
        let back = model.container_sends(VETH_B, &answer.bytes()).unwrap();
        assert_eq!(back.sent().ifindex, VETH_A);
        let out = model.out(&Sample::new(family.a, family.remote, L4::Udp(1, 53)));
        assert_eq!(out.ifindex, UPLINK);
    }
}

#[test]
fn without_masquerade_the_containers_address_goes_out() {
    for family in FAMILIES {
        for policy in [flags(MASQUERADE_OFF), mode(GatewayMode::Routed)] {
            let mut model = Model::new();
            model.set_policy(1, policy);
            let out = Sample::new(family.a, family.remote, L4::Tcp(1000, 80, SYN));
            let sent = model.out(&out);
            assert_eq!(sent.sample(), out.clone().ttl(63));
            assert_eq!((sent.to, sent.ifindex), (Toward::Uplink, UPLINK));
            assert_eq!(sent.next_hop, Addr::from(ip(family.next_hop)));
            let answer = out.answer(SYN | ACK);
            let back = model.inward(&answer);
            assert_eq!(back.sample(), answer.ttl(63));
            assert_eq!(back.ifindex, VETH_A);
            // Its answers, and nothing else.
            let stray = Sample::new(family.remote, family.a, L4::Tcp(80, 1001, SYN)).bytes();
            assert!(model.outside_sends(&stray).is_err());
        }
    }
}

#[test]
fn the_chosen_source_address_is_used_and_ports_stay_unique() {
    for family in FAMILIES {
        let chosen = if family.a == V4.a {
            "192.0.2.77"
        } else {
            "2001:db8::77"
        };
        let mut model = Model::new();
        let policy = Policy {
            snat4: ip("192.0.2.77").into(),
            snat6: ip("2001:db8::77").into(),
            ..Policy::default()
        };
        model.set_policy(1, policy);
        let first = model.out(&Sample::new(family.a, family.remote, L4::Udp(20_000, 53)));
        let second = Sample::new(family.b, family.remote, L4::Udp(20_000, 53));
        let second = model.container_sends(VETH_B, &second.bytes()).unwrap();
        let (first, second) = (first.sample(), second.sent().sample());
        assert_eq!((first.src, second.src), (ip(chosen), ip(chosen)));
        assert_eq!(first.ports(), (20_000, 53));
        assert_ne!(second.ports().0, 20_000);
        for (outside, inside, veth) in [(first, family.a, VETH_A), (second, family.b, VETH_B)] {
            let back = model.inward(&outside.answer(0));
            assert_eq!((back.sample().dst, back.ifindex), (ip(inside), veth));
        }
        // The other network keeps the uplink's.
        let red = Sample::new(family.red, family.remote, L4::Udp(20_000, 53)).bytes();
        let red = model.container_sends(VETH_RED, &red).unwrap().sent();
        assert_eq!(red.sample().src, ip(family.uplink));
    }
}

#[test]
fn the_families_of_a_network_have_modes_of_their_own() {
    let policy = Policy {
        mode6: GatewayMode::Routed,
        ..Policy::default()
    };
    for family in FAMILIES {
        let model = model(&family, policy);
        let outcome = reach(&model, "uplink", &family, PING);
        let mut model = model;
        model.set_policy(1, policy);
        let out = model.out(&Sample::new(family.a, family.remote, L4::Udp(1, 53)));
        if family.a == V4.a {
            assert_eq!(outcome, Err(DropReason::DirectRouting));
            assert_eq!(out.sample().src, ip(family.uplink));
        } else {
            assert!(outcome.is_ok());
            assert_eq!(out.sample().src, ip(family.a));
        }
    }
}

#[test]
fn direct_flows_end_with_either_container() {
    for family in FAMILIES {
        for slot in [0, 2] {
            let model = model(&family, mode(GatewayMode::Routed));
            let request = Sample::new(family.a, family.red, PUBLISHED);
            reach(&model, "network", &family, PUBLISHED).unwrap();
            model.end_container(slot);
            // Whose generation changed is nobody's any more, in the direction towards it.
            let outcome = if slot == 0 {
                let answer = request.answer(SYN | ACK).bytes();
                model.container_sends(VETH_RED, &answer)
            } else {
                let later = Sample::new(family.a, family.red, L4::Tcp(50_000, 80, ACK)).bytes();
                model.container_sends(VETH_A, &later)
            };
            assert!(outcome.is_err(), "{outcome:?}");
        }
    }
}
