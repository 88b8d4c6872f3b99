//! What must hold whatever happens.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netpath_common::flow::Direction;
use netpath_common::idle::remove_if_idle;
use netpath_common::tuple::{OUTSIDE, Proto, Tuple};
use proptest::prelude::*;

use crate::model::{FAMILIES, Model, Outcome, UPLINK, V4, V6, VETH_A, VETH_B};
use crate::packets::{ACK, FIN, L4, RST, SYN, Sample, ip};

/// A remote address that belongs to nobody of the model.
fn remote(v6: bool, bits: u64) -> IpAddr {
    if v6 {
        let [a, b, c, d] = [48, 32, 16, 0].map(|shift| (bits >> shift) as u16);
        Ipv6Addr::new(0x2a00, 1, 2, 3, a, b, c, d).into()
    } else {
        let [a, b, c, d] = (bits as u32).to_be_bytes();
        // 64.0.0.0/3 has none of our addresses.
        Ipv4Addr::new(64 | (a & 0x1f), b, c, d).into()
    }
}

fn opening(kind: u8, src: u16, dst: u16) -> L4 {
    match kind {
        0 => L4::Tcp(src, dst, SYN),
        1 => L4::Udp(src, dst),
        _ => L4::Request(src),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    /// Out and back in is identity: the container's own address and port come back, and the
    /// remote's are never touched.
    #[test]
    fn masquerading_out_and_in_is_identity(
        v6: bool, kind in 0u8..3, bits: u64, src: u16, dst: u16, seed: u64, ttl in 2u8..,
        payload in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let family = &FAMILIES[usize::from(v6)];
        let model = Model::new();
        model.seed.set(seed);
        let there = Sample::between(ip(family.a), remote(v6, bits), opening(kind, src, dst));
        let there = there.ttl(ttl).payload(&payload);
        let outside = model.out(&there).sample();
        let mut expected = there.clone().ttl(ttl - 1);
        expected.src = ip(family.uplink);
        expected.l4 = opening(kind, outside.ports().0, dst);
        prop_assert_eq!(&outside, &expected);

        let back = outside.answer(SYN | ACK).payload(&payload);
        let inside = model.inward(&back).sample();
        let expected = there.answer(SYN | ACK).payload(&payload).ttl(63);
        prop_assert_eq!(inside.macs([0; 6], [0; 6]), expected.macs([0; 6], [0; 6]));
        model.connection();
    }

    /// The same for published ports, whatever the client's address and port.
    #[test]
    fn publishing_in_and_out_is_identity(
        v6: bool, udp: bool, bits: u64, src: u16, host_port in 1u16.., port in 1u16..,
        wildcard: bool, payload in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let family = &FAMILIES[usize::from(v6)];
        let model = Model::new();
        let proto = if udp { Proto::Udp } else { Proto::Tcp };
        let host = if wildcard { family.any } else { family.uplink };
        model.publish(proto, host, host_port, family.a, port);
        let l4 = opening(udp.into(), src, host_port);
        let there = Sample::between(remote(v6, bits), ip(family.uplink), l4).payload(&payload);
        let inside = model.inward(&there).sample();
        let mut expected = there.clone().ttl(63);
        expected.dst = ip(family.a);
        expected.l4 = opening(udp.into(), src, port);
        prop_assert_eq!(&inside, &expected);
        let outside = model.out(&inside.answer(SYN | ACK).payload(&payload)).sample();
        let expected = there.answer(SYN | ACK).payload(&payload).ttl(63);
        prop_assert_eq!(outside, expected);
    }
}

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    /// A container sends to a remote port.
    Out {
        b: bool,
        v6: bool,
        kind: u8,
        src: u16,
        dst: u16,
        flags: u8,
    },
    /// A client dials a published port.
    Dial {
        v6: bool,
        udp: bool,
        src: u16,
        port: u16,
    },
    /// The remote answers the newest outside tuple there is of that number.
    Answer { number: usize, flags: u8 },
    /// A container is replaced.
    Replace { slot: u32 },
    /// Time passes and the agent sweeps.
    Sweep { seconds: u32 },
}

/// Few values, so that histories collide.
fn step() -> impl Strategy<Value = Step> {
    let flags = prop::sample::select(vec![SYN, ACK, FIN | ACK, RST]);
    prop_oneof![
        8 => (any::<bool>(), any::<bool>(), 0u8..3, 30_000u16..30_006, 0u16..2, flags.clone())
            .prop_map(|(b, v6, kind, src, dst, flags)| Step::Out { b, v6, kind, src, dst, flags }),
        4 => (any::<bool>(), any::<bool>(), 0u16..4, 0u16..2)
            .prop_map(|(v6, udp, src, port)| Step::Dial { v6, udp, src, port }),
        6 => (any::<usize>(), flags).prop_map(|(number, flags)| Step::Answer { number, flags }),
        1 => (0u32..2).prop_map(|slot| Step::Replace { slot }),
        1 => (1u32..400).prop_map(|seconds| Step::Sweep { seconds }),
    ]
}

/// A model with four ports for masquerading and two published ports that lead to one.
fn busy_host() -> Model {
    let mut model = Model::new();
    model.snat_ports(30_000, 30_003);
    for family in FAMILIES {
        for proto in [Proto::Tcp, Proto::Udp] {
            for port in [8080, 8081] {
                model.publish(proto, family.any, port, family.a, 80);
            }
        }
    }
    model
}

/// What is said about a live entry at the outside: its tuple there, both ways the same.
fn outside_tuples(model: &Model) -> Vec<Tuple> {
    let live = |slot, generation| {
        model.generations.borrow().get(&slot).copied().unwrap_or(0) == generation
    };
    let originals = model.flows.entries().into_iter().filter(|(_, flow)| {
        flow.direction == Direction::Original && live(flow.slot, flow.generation)
    });
    originals
        .map(|(key, flow)| {
            if key.network == OUTSIDE {
                key
            } else {
                flow.other_key(&key)
            }
        })
        .collect()
}

/// Asserts that every live entry has its other half, and no two the same outside.
fn assert_sound(model: &Model) {
    let all: HashMap<_, _> = model.flows.entries().into_iter().collect();
    for (key, flow) in &all {
        let current = model
            .generations
            .borrow()
            .get(&flow.slot)
            .copied()
            .unwrap_or(0);
        if flow.generation != current {
            continue;
        }
        let other_key = flow.other_key(key);
        let other = all
            .get(&other_key)
            .unwrap_or_else(|| panic!("{key:?} lost its other half"));
        assert_eq!(other.other_key(&other_key), *key);
        assert_eq!(other.state, flow.state);
        assert_ne!(
            key.network, other_key.network,
            "one half outside, one inside"
        );
    }
    let tuples = outside_tuples(model);
    let distinct: HashSet<_> = tuples.iter().collect();
    assert_eq!(
        distinct.len(),
        tuples.len(),
        "two live flows share an outside tuple"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Random histories: each packet that leaves has the uplink's address, each that enters
    /// reaches the container that its connection belongs to, and the table stays sound.
    #[test]
    fn no_two_live_flows_share_an_outside_tuple(
        steps in prop::collection::vec(step(), 1..80), seed: u64, limit in 5usize..200,
    ) {
        let model = busy_host();
        model.seed.set(seed);
        model.flows.limit(limit);
        // Who owns an outside tuple: the inside packet that made it.
        let mut seen: Vec<(Sample, Sample)> = Vec::new();
        for step in steps {
            match step {
                Step::Out { b, v6, kind, src, dst, flags } => {
                    let family = if v6 { V6 } else { V4 };
                    let (veth, own) = if b { (VETH_B, family.b) } else { (VETH_A, family.a) };
                    let l4 = match opening(kind, src, 443 + dst) {
                        L4::Tcp(src, dst, _) => L4::Tcp(src, dst, flags),
                        other => other,
                    };
                    let inside = Sample::new(own, family.remote, l4);
                    if let Ok(outcome) = model.container_sends(veth, &inside.bytes()) {
                        let sent = outcome.sent();
                        let outside = sent.sample();
                        prop_assert_eq!(outside.src, ip(family.uplink), "left untranslated");
                        prop_assert_eq!(outside.dst, inside.dst);
                        prop_assert_eq!(sent.ifindex, UPLINK);
                        seen.retain(|(_, old)| {
                            (old.src, old.dst, old.ports(), kind_of(old))
                                != (outside.src, outside.dst, outside.ports(), kind_of(&outside))
                        });
                        seen.push((inside, outside));
                    }
                }
                Step::Dial { v6, udp, src, port } => {
                    let family = if v6 { V6 } else { V4 };
                    let l4 = opening(udp.into(), 50_000 + src, 8080 + port);
                    let client = Sample::new(family.remote, family.uplink, l4);
                    if let Ok(Outcome::Sent(sent)) = model.outside_sends(&client.bytes()) {
                        let inside = sent.sample();
                        prop_assert_eq!((inside.dst, inside.ports().1), (ip(family.a), 80));
                        let back = model.container_sends(VETH_A, &inside.answer(ACK).bytes());
                        let back = back.expect("the answer has a flow").sent().sample();
                        prop_assert_eq!((back.src, back.dst), (client.dst, client.src));
                        prop_assert_eq!(back.ports(), (client.ports().1, client.ports().0));
                    }
                }
                Step::Answer { number, flags } => {
                    if seen.is_empty() {
                        continue;
                    }
                    let (inside, outside) = &seen[number % seen.len()];
                    match model.outside_sends(&outside.answer(flags).bytes()) {
                        Ok(Outcome::Sent(sent)) => {
                            let got = sent.sample();
                            prop_assert_eq!(got.dst, inside.src, "reached somebody else");
                            prop_assert_eq!(got.src, inside.dst);
                            prop_assert_eq!(got.ports().1, inside.ports().0);
                        }
                        Ok(Outcome::Host) => {}
                        other => prop_assert!(false, "{:?}", other),
                    }
                }
                Step::Replace { slot } => {
                    model.end_container(slot);
                    let owners = [[V4.a, V6.a], [V4.b, V6.b]][slot as usize].map(ip);
                    seen.retain(|(inside, _)| !owners.contains(&inside.src));
                }
                Step::Sweep { seconds } => {
                    model.pass_seconds(seconds);
                    for (key, _) in model.flows.entries() {
                        remove_if_idle(&model, &key);
                    }
                }
            }
            assert_sound(&model);
        }
    }
}

fn kind_of(sample: &Sample) -> u8 {
    match sample.l4 {
        L4::Tcp(..) => 0,
        L4::Udp(..) => 1,
        L4::Request(_) | L4::Reply(_) => 2,
        L4::Sctp(..) => 3,
    }
}
