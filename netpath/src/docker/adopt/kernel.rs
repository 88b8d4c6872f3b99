//! Connections that the kernel has begun to translate, in the form of the programs' maps.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use netpath_common::tuple::{OUTSIDE, Proto, Tuple};

use crate::netlink::netfilter::{Direction, Tracked};

/// What the kernel's connections mean to adopted networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owned {
    /// Both directions of each, as they appear at our hooks.
    pub tuples: HashSet<Tuple>,
    /// Networks in which two containers talk by a published port: their packets must meet the
    /// kernel's translation, although both are on one link.
    pub within: HashSet<u16>,
}

/// Picks those connections that have to do with adopted containers; `owners` has the network of
/// each of their addresses.
pub fn owned(connections: &[Tracked], owners: &HashMap<IpAddr, u16>) -> Owned {
    let mut owned = Owned::default();
    let network = |addr: &IpAddr| owners.get(addr).copied();
    for connection in connections {
        let ends = [
            &connection.original.src,
            &connection.original.dst,
            &connection.reply.src,
            &connection.reply.dst,
        ];
        if !ends.iter().any(|addr| owners.contains_key(addr)) {
            continue;
        }
        let (client, server) = (
            network(&connection.original.src),
            network(&connection.reply.src),
        );
        if client.is_some() && client == server {
            // One's own link: there are no flows, and what is not translated needs none.
            if connection.is_translated() {
                owned.within.extend(client);
            }
        }
        for (direction, is_reply) in [(&connection.original, false), (&connection.reply, true)] {
            let from = network(&direction.src).unwrap_or(OUTSIDE);
            owned.tuples.extend(tuple(direction, from, is_reply));
        }
    }
    owned
}

/// A direction as it appears at the hook of the network that it comes from.
fn tuple(direction: &Direction, network: u16, is_reply: bool) -> Option<Tuple> {
    let proto = Proto::from_number(direction.proto)?;
    // See `Tuple`: the identifier is a request's source port and a reply's destination port.
    let (src_port, dst_port) = match (proto, is_reply) {
        (Proto::Icmp | Proto::Icmpv6, false) => (direction.echo_id, 0),
        (Proto::Icmp | Proto::Icmpv6, true) => (0, direction.echo_id),
        _ => (direction.src_port, direction.dst_port),
    };
    Some(Tuple {
        src: direction.src.into(),
        dst: direction.dst.into(),
        src_port,
        dst_port,
        network,
        proto,
        reserved: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NET: u16 = 7;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn direction(proto: u8, src: &str, dst: &str, ports: (u16, u16)) -> Direction {
        let icmp = proto == 1;
        Direction {
            src: ip(src),
            dst: ip(dst),
            proto,
            src_port: if icmp { 0 } else { ports.0 },
            dst_port: ports.1,
            echo_id: if icmp { ports.0 } else { 0 },
        }
    }

    fn owners() -> HashMap<IpAddr, u16> {
        [("172.17.0.2", NET), ("172.17.0.3", NET), ("172.18.0.2", 8)]
            .map(|(addr, network)| (ip(addr), network))
            .into()
    }

    fn keys(owned: &Owned) -> Vec<(u16, u16, u16)> {
        let mut keys: Vec<_> = owned
            .tuples
            .iter()
            .map(|tuple| (tuple.network, tuple.src_port, tuple.dst_port))
            .collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn both_directions_are_seen_where_they_come_by() {
        let masqueraded = Tracked {
            original: direction(17, "172.17.0.2", "192.0.2.2", (5000, 53)),
            reply: direction(17, "192.0.2.2", "192.0.2.1", (53, 6000)),
        };
        let owned = owned(&[masqueraded], &owners());
        assert_eq!(keys(&owned), [(OUTSIDE, 53, 6000), (NET, 5000, 53)]);
        assert!(owned.within.is_empty());
        let published = Tracked {
            original: direction(17, "192.0.2.2", "192.0.2.1", (5000, 8080)),
            reply: direction(17, "172.17.0.2", "192.0.2.2", (80, 5000)),
        };
        let owned = super::owned(&[published], &owners());
        assert_eq!(keys(&owned), [(OUTSIDE, 5000, 8080), (NET, 80, 5000)]);
    }

    #[test]
    fn echo_has_its_identifier_where_tuples_have_it() {
        let ping = Tracked {
            original: direction(1, "172.17.0.2", "192.0.2.2", (9, 0)),
            reply: direction(1, "192.0.2.2", "192.0.2.1", (9, 0)),
        };
        assert_eq!(
            keys(&owned(&[ping], &owners())),
            [(OUTSIDE, 0, 9), (NET, 9, 0)]
        );
    }

    #[test]
    fn neighbours_that_talk_by_a_published_port_are_noticed() {
        let hairpin = Tracked {
            original: direction(6, "172.17.0.2", "192.0.2.1", (5000, 8080)),
            reply: direction(6, "172.17.0.3", "172.17.0.2", (80, 5000)),
        };
        assert_eq!(owned(&[hairpin], &owners()).within, HashSet::from([NET]));
        let plain = Tracked {
            original: direction(6, "172.17.0.2", "172.17.0.3", (5000, 80)),
            reply: direction(6, "172.17.0.3", "172.17.0.2", (80, 5000)),
        };
        assert!(owned(&[plain], &owners()).within.is_empty());
        let between = Tracked {
            original: direction(6, "172.17.0.2", "192.0.2.1", (5000, 8080)),
            reply: direction(6, "172.18.0.2", "172.17.0.2", (80, 5000)),
        };
        assert!(owned(&[between], &owners()).within.is_empty());
    }

    #[test]
    fn others_connections_do_not_matter() {
        let hosts = Tracked {
            original: direction(6, "192.0.2.1", "192.0.2.2", (5000, 80)),
            reply: direction(6, "192.0.2.2", "192.0.2.1", (80, 5000)),
        };
        assert_eq!(owned(&[hosts], &owners()), Owned::default());
    }
}
