//! Entries of the flow table that somebody deletes, as an operator with bpftool may.

use aya::maps::{HashMap, Map, MapData};
use netpath_common::flow::{Direction, Flow};
use netpath_common::tuple::{Proto, Tuple};
use netpath_tests::packets::{ACK, L4, SYN, Sample};
use netpath_tests::progrun::{At, FAMILIES, Host, on_host};
use std::thread::sleep;
use std::time::Duration;

const A: At = At::Container(0);

/// Deletes the entries of one direction; says how many there were.
fn lose(host: &Host, lost: Direction) -> usize {
    let map = MapData::from_pin(host.folder().join("flows")).unwrap();
    let mut flows: HashMap<_, Tuple, Flow> = Map::HashMap(map).try_into().unwrap();
    let all: Vec<_> = flows.iter().map(Result::unwrap).collect();
    let gone = all.iter().filter(|(_, flow)| flow.direction == lost);
    gone.map(|(key, _)| flows.remove(key).unwrap()).count()
}

/// Both entries of each connection.
fn entries(host: &Host) -> usize {
    let map = MapData::from_pin(host.folder().join("flows")).unwrap();
    let flows: HashMap<_, Tuple, Flow> = Map::HashMap(map).try_into().unwrap();
    flows.iter().count()
}

/// Halves look for each other once a second.
fn a_second_later() {
    sleep(Duration::from_millis(1_100));
}

#[test]
fn a_deleted_half_comes_back_with_its_port() {
    on_host(|host| {
        for family in FAMILIES {
            for proto in [Proto::Tcp, Proto::Udp] {
                host.publish(proto, family.uplink, 8080, 0, 80);
            }
        }
        for lost in [Direction::Original, Direction::Reply] {
            for family in FAMILIES {
                for (first, more) in [
                    (L4::Tcp(50_000, 443, SYN), L4::Tcp(50_000, 443, ACK)),
                    (L4::Udp(50_000, 443), L4::Udp(50_000, 443)),
                ] {
                    // Masqueraded.
                    let ask = |l4| Sample::new(family.a, family.remote, l4);
                    let outside = host.out(&ask(first));
                    host.inward(&outside.answer(SYN | ACK));
                    host.out(&ask(more));
                    // Published.
                    let to_port = |l4| match l4 {
                        L4::Tcp(src, _, flags) => L4::Tcp(src, 8080, flags),
                        _ => L4::Udp(50_000, 8080),
                    };
                    let dial = |l4| Sample::new(family.remote, family.uplink, to_port(l4));
                    let inside = host.inward(&dial(first));
                    host.out(&inside.answer(SYN | ACK));
                    host.inward(&dial(more));

                    assert_eq!(lose(host, lost), 2);
                    a_second_later();
                    if lost == Direction::Original {
                        host.inward(&outside.answer(ACK));
                        host.out(&inside.answer(ACK));
                    } else {
                        host.out(&ask(more));
                        host.inward(&dial(more));
                    }
                    assert_eq!(entries(host), 4, "{family:?} {lost:?}");
                    assert_eq!(host.out(&ask(more)).ports(), outside.ports());
                    assert_eq!(host.inward(&outside.answer(ACK)).dst, ask(more).src);
                    assert_eq!(host.inward(&dial(more)).ports(), inside.ports());
                    let answered = host.out(&inside.answer(ACK));
                    assert_eq!((answered.src, answered.ports().0), (dial(more).dst, 8080));
                    for direction in [Direction::Original, Direction::Reply] {
                        lose(host, direction);
                    }
                }
            }
        }
    });
}

#[test]
fn a_container_finds_its_port_again() {
    on_host(|host| {
        for family in FAMILIES {
            for (first, more) in [
                (L4::Tcp(50_000, 443, SYN), L4::Tcp(50_000, 443, ACK)),
                (L4::Udp(50_000, 443), L4::Udp(50_000, 443)),
            ] {
                let outside = host.out(&Sample::new(family.a, family.remote, first));
                host.inward(&outside.answer(SYN | ACK));
                assert_eq!(lose(host, Direction::Original), 1);
                let again = host.out(&Sample::new(family.a, family.remote, more));
                assert_eq!(again.ports(), outside.ports());
                assert_eq!(entries(host), 2);
                for direction in [Direction::Original, Direction::Reply] {
                    lose(host, direction);
                }
                // With both halves gone it is a stray.
                if let L4::Tcp(..) = more {
                    let stray = Sample::new(family.a, family.remote, more);
                    let stray = netpath_tests::progrun::from_a(&stray).bytes();
                    host.run(A, &stray).dropped("no_flow");
                }
            }
        }
    });
}
