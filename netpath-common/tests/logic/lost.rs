//! Halves of connections that get lost, and two CPUs that make the same connection at once.

use netpath_common::env::Table as _;
use netpath_common::flow::{Direction, Flow, FlowState};
use netpath_common::policy::{GatewayMode, Policy};
use netpath_common::reason::DropReason;
use netpath_common::tuple::{Proto, Tuple};

use crate::model::{FAMILIES, Family, Model, Outcome, V4, VETH_A, VETH_B, VETH_RED};
use crate::packets::{ACK, FIN, INIT, INIT_ACK, L4, RST, SYN, Sample, ip};

type Ask = Box<dyn Fn(&Model, u8) -> Sample>;
type Answer = Box<dyn Fn(&Model, &Sample, u8) -> Sample>;

/// A connection in both directions: the packets of whoever began, and of whoever answers.
struct Talk {
    model: Model,
    name: &'static str,
    /// A packet of the side that began, with these flags, and what is seen of it.
    ask: Ask,
    /// The same of the other side, given what it has seen.
    answer: Answer,
}

fn go(model: &Model, veth: Option<u32>, sample: &Sample) -> Sample {
    let outcome = match veth {
        Some(veth) => model.container_sends(veth, &sample.bytes()),
        None => model.outside_sends(&sample.bytes()),
    };
    outcome.expect("not dropped").sent().sample()
}

/// Connections of each kind that there is, of one family.
fn talks(family: &'static Family, l4: impl Fn(u16, u16, u8) -> L4 + Copy + 'static) -> Vec<Talk> {
    let published = || {
        let mut model = Model::new();
        let open = Policy {
            mode4: GatewayMode::NatUnprotected,
            mode6: GatewayMode::NatUnprotected,
            ..Policy::default()
        };
        model.set_policy(2, open);
        for proto in [Proto::Tcp, Proto::Udp] {
            model.publish(proto, family.any, 8080, family.b, 80);
        }
        model.publish(Proto::Sctp, family.any, 8080, family.b, 8080);
        model
    };
    let talk = |name, from: Option<u32>, src, dst, port, to: Option<u32>| Talk {
        model: published(),
        name,
        ask: Box::new(move |model, flags| {
            go(model, from, &Sample::new(src, dst, l4(50_000, port, flags)))
        }),
        answer: Box::new(move |model, seen, flags| go(model, to, &seen.answer(flags))),
    };
    let (a, red, remote) = (family.a, family.red, family.remote);
    let uplink = family.uplink;
    let mut all = vec![
        talk("published", None, remote, uplink, 8080, Some(VETH_B)),
        talk("neighbour", Some(VETH_A), a, uplink, 8080, Some(VETH_B)),
        talk("direct", Some(VETH_A), a, red, 80, Some(VETH_RED)),
        talk("visit", None, remote, red, 80, Some(VETH_RED)),
        talk("network", Some(VETH_RED), red, uplink, 8080, Some(VETH_B)),
    ];
    // SCTP's ports stay what they are, others' are translated.
    all.push(talk("masquerade", Some(VETH_A), a, remote, 443, None));
    all
}

fn tcp(src: u16, dst: u16, flags: u8) -> L4 {
    L4::Tcp(src, dst, flags)
}

fn udp(src: u16, dst: u16, _: u8) -> L4 {
    L4::Udp(src, dst)
}

fn sctp(src: u16, dst: u16, chunk: u8) -> L4 {
    L4::Sctp(src, dst, chunk)
}

/// What an entry says but for what was counted, and when.
fn essence(flow: Option<Flow>) -> Option<Flow> {
    flow.map(|flow| Flow {
        packets: 0,
        bytes: 0,
        last_seen: 0,
        ..flow
    })
}

fn keys(model: &Model) -> (Tuple, Tuple) {
    let (key, flow, _) = model.connection();
    (key, flow.other_key(&key))
}

#[test]
fn a_lost_half_comes_back_with_the_next_packet_of_the_other() {
    for family in &FAMILIES {
        let chunks = [INIT, INIT_ACK, 10, 0];
        let flags = [SYN, SYN | ACK, ACK, ACK];
        for (talks, [first, second, third, more]) in [
            (talks(family, tcp), flags),
            (talks(family, udp), flags),
            (talks(family, sctp), chunks),
        ] {
            for talk in talks {
                for lost in [Direction::Original, Direction::Reply] {
                    let Talk { model, name, .. } = &talk;
                    for (key, _) in model.flows.entries() {
                        model.flows.remove(&key);
                    }
                    let seen = (talk.ask)(model, first);
                    (talk.answer)(model, &seen, second);
                    (talk.ask)(model, third);
                    let (key, other_key) = keys(model);
                    let gone = if lost == Direction::Original {
                        key
                    } else {
                        other_key
                    };
                    let before = model.flows.get(&gone);
                    model.flows.remove(&gone);
                    // Once a second each half looks for the other.
                    model.pass_seconds(1);
                    if lost == Direction::Original {
                        (talk.answer)(model, &seen, more);
                    } else {
                        (talk.ask)(model, more);
                    }
                    let after = model.flows.get(&gone);
                    assert_eq!(essence(after), essence(before), "{name} {lost:?}");
                    // All goes on as before.
                    assert_eq!((talk.ask)(model, more).ports(), seen.ports(), "{name}");
                    (talk.answer)(model, &seen, more);
                    model.connection();
                }
            }
        }
    }
}

#[test]
fn whoever_lost_the_first_half_finds_its_port_again() {
    for family in &FAMILIES {
        for l4 in [
            tcp(50_000, 443, SYN),
            udp(50_000, 443, 0),
            tcp(50_000, 443, ACK),
        ] {
            let model = Model::new();
            let opening = match l4 {
                L4::Tcp(src, dst, _) => L4::Tcp(src, dst, SYN),
                other => other,
            };
            // The port is not one that is kept: it has to be found.
            let outside = model
                .out(&Sample::new(family.a, family.remote, opening))
                .sample();
            assert_ne!(outside.ports().0, 50_000);
            model.inward(&outside.answer(SYN | ACK));
            let (key, _) = keys(&model);
            model.flows.remove(&key);
            let again = model
                .out(&Sample::new(family.a, family.remote, l4))
                .sample();
            assert_eq!(again.ports(), outside.ports(), "{l4:?}");
            model.connection();
            assert_eq!(model.new_flows.get(), 1, "it is the same connection");
            assert_eq!(model.accounts.borrow()[&0], 1);
        }
    }
}

#[test]
fn strays_of_lost_connections_make_no_state() {
    for family in &FAMILIES {
        let model = Model::new();
        let stray = |flags| Sample::new(family.a, family.remote, tcp(50_000, 443, flags)).bytes();
        model.container_sends(VETH_A, &stray(SYN)).unwrap();
        for (key, _) in model.flows.entries() {
            model.flows.remove(&key);
        }
        for flags in [ACK, FIN | ACK, RST, SYN | ACK] {
            let outcome = model.container_sends(VETH_A, &stray(flags));
            assert_eq!(outcome, Err(DropReason::NoFlow));
        }
        assert_eq!(model.flows.len(), 0);
        // Another's entry is not one's own.
        let outside = model
            .container_sends(
                VETH_B,
                &Sample::new(family.b, family.remote, tcp(50_000, 443, SYN)).bytes(),
            )
            .unwrap();
        drop(outside);
        let outcome = model.container_sends(VETH_A, &stray(ACK));
        assert_eq!(outcome, Err(DropReason::NoFlow));
        assert_eq!(model.connections().len(), 1);
    }
}

#[test]
fn a_lost_half_whose_port_has_a_new_owner_takes_its_other_half_with_it() {
    for family in &FAMILIES {
        let mut model = Model::new();
        model.snat_ports(30_000, 30_000);
        let a = Sample::new(family.a, family.remote, L4::Udp(1000, 53));
        let b = Sample::new(family.b, family.remote, L4::Udp(1000, 53));
        model.out(&a);
        let (_, other_key) = keys(&model);
        model.flows.remove(&other_key);
        // B gets the port before A has said anything.
        let from_b = go(&model, Some(VETH_B), &b);
        model.pass_seconds(1);
        model.out(&a);
        assert_eq!(model.connections().len(), 1, "A's half is gone");
        assert_eq!(
            model.container_sends(VETH_A, &a.bytes()),
            Err(DropReason::SnatPortsExhausted)
        );
        assert_eq!(model.inward(&from_b.answer(0)).sample().dst, b.src);
    }
}

#[test]
fn a_half_is_not_restored_towards_nobody() {
    let model = Model::new();
    let sample = Sample::new(V4.a, V4.remote, L4::Udp(20_000, 53));
    let outside = model.out(&sample).sample();
    let (key, other_key) = keys(&model);
    // No route any more for what the container sends.
    model.flows.remove(&key);
    model.route.set(Err(DropReason::NoRoute));
    model.pass_seconds(1);
    model.inward(&outside.answer(0));
    assert_eq!(model.flows.len(), 1);
    // A full table.
    model.route.set(Ok((crate::model::UPLINK, None)));
    model.flows.limit(1);
    model.pass_seconds(1);
    model.inward(&outside.answer(0));
    assert_eq!(model.flows.len(), 1);
    // And then there is room.
    model.flows.limit(2);
    model.pass_seconds(1);
    model.inward(&outside.answer(0));
    model.connection();
    assert!(model.flows.contains(&other_key));
}

#[test]
fn the_one_who_pays_for_a_connection_pays_once() {
    for family in &FAMILIES {
        for talk in talks(family, udp) {
            let seen = (talk.ask)(&talk.model, 0);
            let accounts = talk.model.accounts.borrow().clone();
            let (key, _) = keys(&talk.model);
            talk.model.flows.remove(&key);
            // The first half is found again by its own next packet.
            assert_eq!((talk.ask)(&talk.model, 0), seen, "{}", talk.name);
            assert_eq!(*talk.model.accounts.borrow(), accounts, "{}", talk.name);
        }
    }
}

/// What another CPU does in the middle of the making of a flow: the same packet, and others.
fn race(family: &'static Family, first: &Sample, at: u32, prepare: fn(&Model)) -> Model {
    let mut model = Model::new();
    model.snat_ports(20_000, 20_999);
    model.publish(Proto::Tcp, family.any, 8080, family.a, 80);
    model.publish(Proto::Udp, family.any, 8080, family.a, 80);
    let theirs = first.clone();
    model.before_insertion(at, move |model| {
        prepare(model);
        send(model, &theirs);
    });
    send(&model, first);
    model
}

fn send(model: &Model, sample: &Sample) -> Sample {
    let from = FAMILIES.iter().any(|family| sample.src == ip(family.a));
    go(model, from.then_some(VETH_A), sample)
}

#[test]
fn two_cpus_with_the_same_first_packet_make_one_connection() {
    for family in &FAMILIES {
        for l4 in [tcp(50_000, 443, SYN), udp(50_000, 443, 0)] {
            let out = Sample::new(family.a, family.remote, l4);
            let l4 = match l4 {
                L4::Tcp(..) => tcp(50_000, 8080, SYN),
                _ => udp(50_000, 8080, 0),
            };
            let inward = Sample::new(family.remote, family.uplink, l4);
            for first in [out, inward] {
                // Before the port is reserved, and between that and the second entry.
                for at in [0, 1] {
                    let model = race(family, &first, at, |_| {});
                    let (_, flow, _) = model.connection();
                    assert_eq!(flow.packets, 2, "both packets went by it");
                    assert_eq!(model.accounts.borrow()[&0], 1);
                    assert_eq!(model.new_flows.get(), 1);
                    let state = flow.state;
                    assert!(matches!(state, FlowState::SynSent | FlowState::OneWay));
                }
            }
        }
    }
}

#[test]
fn whoever_loses_the_race_gives_its_port_back() {
    for family in &FAMILIES {
        let sample = Sample::new(family.a, family.remote, udp(50_000, 443, 0));
        // The other CPU ends up with another port: ours has just been published.
        let model = race(family, &sample, 1, |model| {
            let (key, _) = model.flows.entries()[0];
            let host = key.dst.to_ip().to_string();
            model.publish(Proto::Udp, &host, key.dst_port, V4.b, 80);
        });
        let (_, flow, _) = model.connection();
        assert_eq!(flow.packets, 2, "both packets went by it");
        assert_eq!(model.accounts.borrow()[&0], 1);
        assert!(matches!(
            model.container_sends(VETH_A, &sample.bytes()),
            Ok(Outcome::Sent(_))
        ));
    }
}
