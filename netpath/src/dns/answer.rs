//! What becomes of a query.

use super::message::{self, Read, Request, Wanted};
use super::tables::{Client, World};
use super::wire::{self, code};

/// What is to be done.
#[derive(Debug)]
pub enum Outcome {
    /// Answer this.
    Reply(Vec<u8>),
    /// Ask others; the answer may have as many bytes.
    Forward(usize),
    /// Nothing: it was no query.
    Silence,
}

/// Decides about a message that a client sent by UDP or TCP. Containers are told about their
/// own networks; what they ask beyond is passed on, unless that is forbidden.
pub fn answer(world: &World, client: &Client, message: &[u8], tcp: bool) -> Outcome {
    let request = match message::read(message, tcp) {
        Read::Request(request) => request,
        Read::Refused(refusal) => return Outcome::Reply(refusal),
        Read::Nothing => return Outcome::Silence,
    };
    match own(world, client, &request) {
        Own::Reply(Some(reply)) => Outcome::Reply(reply),
        // Our own answer could not be written.
        Own::Reply(None) => refuse(message, code::SERVER),
        Own::Unknown if is_to_be_completed(client, &request) => {
            let nothing = request.addresses(&super::tables::Found::default());
            nothing.map_or_else(|| refuse(message, code::SERVER), Outcome::Reply)
        }
        Own::Unknown if client.forward.internal && client.forward.servers.is_empty() => {
            refuse(message, code::SERVER)
        }
        Own::Unknown => Outcome::Forward(request.limit),
    }
}

/// What the tables say.
enum Own {
    Reply(Option<Vec<u8>>),
    Unknown,
}

fn own(world: &World, client: &Client, request: &Request) -> Own {
    let Some(name) = &request.name else {
        return Own::Unknown;
    };
    let wanted = request.wanted();
    if wanted == Wanted::Pointer {
        let owner = message::pointed_at(request).and_then(|ip| world.owner(client, ip));
        if let Some(owner) = owner {
            return Own::Reply(request.pointer(&owner));
        }
    }
    let families = match wanted {
        Wanted::Addresses(families) => families,
        // The name is ours, and there is no such thing about it. Nobody else should be asked:
        // they would say that it does not exist.
        Wanted::Pointer | Wanted::Other => super::tables::Families {
            v4: false,
            v6: false,
        },
    };
    match world.find(client, name, families) {
        Some(found) => Own::Reply(request.addresses(&found)),
        None => Own::Unknown,
    }
}

/// Whether it is the first part of a name that the resolver is about to complete: somebody
/// wanted `ndots`, so a name of one label is not meant for the world.
fn is_to_be_completed(client: &Client, request: &Request) -> bool {
    let single = request
        .name
        .as_deref()
        .is_some_and(|name| !name.is_empty() && !name.contains('.'));
    client.forward.dotted_only && single && matches!(request.wanted(), Wanted::Addresses(_))
}

/// Refuses a message, if it has a header to answer.
pub fn refuse(message: &[u8], code: u8) -> Outcome {
    wire::refuse(message, code).map_or(Outcome::Silence, Outcome::Reply)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dns::tables::{Forward, Membership};

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
        for label in name.split('.').filter(|label| !label.is_empty()) {
            query.push(u8::try_from(label.len()).unwrap());
            query.extend(label.bytes());
        }
        query.push(0);
        query.extend(kind.to_be_bytes());
        query.extend([0, 1]);
        query
    }

    /// Two containers with one alias of sixty addresses.
    fn world() -> World {
        let member = |name: &str, first: u8, count: u8| super::super::tables::Client {
            name: name.into(),
            networks: vec![Membership {
                id: 1,
                network: "net".into(),
                names: vec![name.into(), "all".into()],
                addresses: (first..first + count)
                    .map(|n| std::net::IpAddr::from([10, 1, 0, n]))
                    .collect(),
            }],
            ..Default::default()
        };
        let mut world = World::default();
        world.change(vec![member("a", 1, 1), member("b", 2, 59)], &[]);
        world
    }

    fn ask(world: &World, forward: Forward, message: &[u8]) -> Outcome {
        let mut client = (**world.client("a").unwrap()).clone();
        client.forward = forward;
        answer(world, &client, message, false)
    }

    fn reply(outcome: Outcome) -> Vec<u8> {
        match outcome {
            Outcome::Reply(reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn own_names_are_answered_others_passed_on() {
        let world = world();
        let said = reply(ask(&world, Forward::default(), &query("A.net", 1)));
        assert_eq!(said[..4], [0x12, 0x34, 0x85, 0x80]);
        assert!(said.ends_with(&[10, 1, 0, 1]));
        // The letters of the question stay as they were.
        assert!(said.windows(5).any(|bytes| bytes == b"A\x03net"));
        for (name, kind) in [
            ("c", 1),
            ("example.org", 28),
            ("", 2),
            ("9.0.0.10.in-addr.arpa", 12),
        ] {
            let outcome = ask(&world, Forward::default(), &query(name, kind));
            assert!(
                matches!(outcome, Outcome::Forward(512)),
                "{name}: {outcome:?}"
            );
        }
        let internal = Forward {
            internal: true,
            ..Forward::default()
        };
        let said = reply(ask(&world, internal, &query("example.org", 1)));
        assert_eq!(wire::response_code(&said), code::SERVER);
        let dotted = Forward {
            dotted_only: true,
            ..Forward::default()
        };
        let said = reply(ask(&world, dotted.clone(), &query("example", 1)));
        assert_eq!((wire::response_code(&said), said[7]), (0, 0));
        let outcome = ask(&world, dotted, &query("example", 15));
        assert!(matches!(outcome, Outcome::Forward(_)));
    }

    #[test]
    fn what_does_not_fit_is_cut() {
        let world = world();
        let said = reply(ask(&world, Forward::default(), &query("all", 1)));
        assert!(said.len() <= 512 && said.len() > 490, "{}", said.len());
        assert_eq!(said[2] & 2, 2);
        let client = world.client("a").unwrap();
        let said = reply(answer(&world, client, &query("all", 1), true));
        assert_eq!((said[2] & 2, said[7]), (0, 60));
    }

    #[test]
    fn labels_with_dots_inside_are_no_names_of_ours() {
        let world = world();
        let mut odd = query("xxxxx", 1);
        odd[13..18].copy_from_slice(b"a.net");
        assert!(matches!(
            ask(&world, Forward::default(), &odd),
            Outcome::Forward(_)
        ));
    }

    /// Whatever comes, the answer is none or a small one to the very query.
    fn check(world: &World, message: &[u8], tcp: bool) {
        let client = world.client("a").unwrap();
        match answer(world, client, message, tcp) {
            Outcome::Silence => {}
            Outcome::Forward(limit) => {
                assert!(wire::question_end(message).is_some());
                assert!((512..=65_535).contains(&limit));
            }
            Outcome::Reply(reply) => {
                assert!(reply.len() >= wire::HEADER && reply.len() <= 4096);
                assert_eq!(reply[..2], message[..2]);
                assert!(wire::is_response(&reply) && !wire::is_response(message));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn random_bytes_do_no_harm(
            message in prop::collection::vec(any::<u8>(), 0..300),
            tcp in any::<bool>(),
        ) {
            check(&world(), &message, tcp);
        }

        #[test]
        fn damaged_queries_do_no_harm(
            name in "[a-z]{1,9}(\\.[a-z]{1,9}){0,3}|a|b.net|all",
            kind in prop_oneof![Just(1u16), Just(28), Just(12), Just(255), Just(41), any::<u16>()],
            edns in any::<bool>(),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            pointer in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
            cut in prop::option::of(any::<prop::sample::Index>()),
            more in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut message = query(&name, kind);
            if edns {
                message[11] = 1;
                message.extend(b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00");
            }
            message.extend(more);
            for (place, value) in damage {
                let at = place.index(message.len());
                message[at] = value;
            }
            // Pointers to anywhere, themselves above all.
            if let Some((place, to)) = pointer {
                let at = place.index(message.len() - 1);
                message[at] = 0xc0;
                message[at + 1] = if to < 128 { u8::try_from(at).unwrap_or(0) } else { to };
            }
            if let Some(cut) = cut {
                message.truncate(cut.index(message.len()));
            }
            check(&world(), &message, false);
        }
    }
}
