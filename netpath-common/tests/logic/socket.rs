//! What the host's own processes dial.

use netpath_common::addr::Addr;
use netpath_common::env::Table;
use netpath_common::network::HostAddr;
use netpath_common::port::{PortKey, PortTarget};
use netpath_common::socket::{
    Dialled, NAME_PORT, NAME_SERVER, Peer, Resolver, SocketPeer, Sockets, connect, dial,
    dial_name_server, recall, recall_name_server,
};
use netpath_common::tuple::Proto;

use crate::model::Map;
use crate::packets::ip;

/// A host with two addresses a family and a container, seen by one socket.
#[derive(Default)]
struct Host {
    ports: Map<PortKey, PortTarget>,
    host_addrs: Map<Addr, HostAddr>,
    sock_nat: Map<SocketPeer, Dialled>,
    cookie: u64,
}

impl Sockets for Host {
    fn ports(&self) -> impl Table<PortKey, PortTarget> {
        &self.ports
    }

    fn host_addrs(&self) -> impl Table<Addr, HostAddr> {
        &self.host_addrs
    }

    fn sock_nat(&self) -> impl Table<SocketPeer, Dialled> {
        &self.sock_nat
    }

    fn cookie(&self) -> u64 {
        self.cookie
    }
}

const UPLINKS: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const GATEWAYS: [&str; 2] = ["10.1.0.1", "fd01::1"];
const CONTAINERS: [&str; 2] = ["10.1.0.2", "fd01::2"];
const LOOPBACKS: [&str; 2] = ["127.0.0.1", "::1"];
const ANY: [&str; 2] = ["0.0.0.0", "::"];

fn addr(text: &str) -> Addr {
    ip(text).into()
}

fn peer(addr_: &str, port: u16) -> Peer {
    Peer {
        addr: addr(addr_),
        port,
    }
}

impl Host {
    fn new() -> Self {
        let host = Self {
            cookie: 7,
            ..Self::default()
        };
        for own in UPLINKS.into_iter().chain(GATEWAYS) {
            host.host_addrs.put(addr(own), HostAddr { ifindex: 1 });
        }
        host
    }

    fn publish(&self, proto: Proto, host: &str, port: u16, to: Peer) {
        let target = PortTarget {
            addr: to.addr,
            port: to.port,
            network: 1,
            slot: 0,
        };
        self.ports
            .put(PortKey::new(proto, addr(host), port), target);
    }

    /// Publishes 8080 of all addresses as the container's 80, of both families.
    fn published(proto: Proto) -> Self {
        let host = Self::new();
        for (any, container) in ANY.into_iter().zip(CONTAINERS) {
            host.publish(proto, any, 8080, peer(container, 80));
        }
        host
    }

    /// Where a dialled address leads; `None` if it stays what it is.
    fn dial(&self, proto: Proto, to: &str, port: u16) -> Option<Peer> {
        let mut peer = peer(to, port);
        let before = peer;
        let translated = dial(self, proto, false, &mut peer);
        assert!(translated || peer == before);
        let mut connected = before;
        assert_eq!(connect(self, proto, false, &mut connected), translated);
        assert_eq!(connected, peer);
        translated.then_some(peer)
    }

    fn recall(&self, mut peer: Peer) -> Option<Peer> {
        let before = peer;
        let known = recall(self, &mut peer);
        assert!(known || peer == before);
        known.then_some(peer)
    }
}

#[test]
fn every_address_of_the_host_leads_to_the_container() {
    for proto in [Proto::Tcp, Proto::Udp] {
        for family in 0..2 {
            for own in [LOOPBACKS, UPLINKS, GATEWAYS] {
                let host = Host::published(proto);
                let container = peer(CONTAINERS[family], 80);
                assert_eq!(host.dial(proto, own[family], 8080), Some(container));
                assert_eq!(host.recall(container), Some(peer(own[family], 8080)));
            }
        }
    }
}

#[test]
fn all_of_127_is_the_host() {
    let host = Host::published(Proto::Tcp);
    assert!(host.dial(Proto::Tcp, "127.1.2.3", 8080).is_some());
}

#[test]
fn to_dial_any_is_to_dial_loopback() {
    for family in 0..2 {
        let host = Host::published(Proto::Tcp);
        let container = peer(CONTAINERS[family], 80);
        assert_eq!(host.dial(Proto::Tcp, ANY[family], 8080), Some(container));
        assert_eq!(host.recall(container), Some(peer(LOOPBACKS[family], 8080)));
    }
}

#[test]
fn what_is_not_published_is_left_alone() {
    let host = Host::published(Proto::Tcp);
    for to in ["127.0.0.1", "::1", "192.0.2.1", "203.0.113.9", "10.1.0.2"] {
        assert_eq!(host.dial(Proto::Tcp, to, 8081), None, "{to}");
        assert_eq!(host.dial(Proto::Udp, to, 8080), None, "{to}");
    }
    // The same port elsewhere is somebody else's.
    for to in ["203.0.113.9", "2001:db8::9", "10.1.0.2", "::7f00:1"] {
        assert_eq!(host.dial(Proto::Tcp, to, 8080), None, "{to}");
    }
    assert_eq!(host.sock_nat.len(), 0);
}

#[test]
fn one_address_comes_before_all() {
    let host = Host::published(Proto::Tcp);
    let other = peer("10.1.0.3", 81);
    host.publish(Proto::Tcp, "192.0.2.1", 8080, other);
    assert_eq!(host.dial(Proto::Tcp, "192.0.2.1", 8080), Some(other));
    let first = peer("10.1.0.2", 80);
    assert_eq!(host.dial(Proto::Tcp, "127.0.0.1", 8080), Some(first));
}

#[test]
fn a_port_of_one_address_is_only_there() {
    let host = Host::new();
    let container = peer("10.1.0.2", 80);
    host.publish(Proto::Tcp, "127.0.0.1", 8080, container);
    assert_eq!(host.dial(Proto::Tcp, "127.0.0.1", 8080), Some(container));
    assert_eq!(host.dial(Proto::Tcp, "0.0.0.0", 8080), Some(container));
    for to in ["127.0.0.2", "192.0.2.1", "10.1.0.1", "::1"] {
        assert_eq!(host.dial(Proto::Tcp, to, 8080), None, "{to}");
    }
}

#[test]
fn an_address_that_the_host_has_lost_is_elsewhere() {
    let host = Host::new();
    host.publish(Proto::Tcp, "192.0.2.77", 8080, peer("10.1.0.2", 80));
    assert_eq!(host.dial(Proto::Tcp, "192.0.2.77", 8080), None);
}

#[test]
fn sockets_bound_to_loopback_are_left_alone() {
    let host = Host::published(Proto::Tcp);
    let mut to = peer("127.0.0.1", 8080);
    assert!(!dial(&host, Proto::Tcp, true, &mut to));
    assert_eq!(to, peer("127.0.0.1", 8080));
}

#[test]
fn a_socket_recalls_only_what_it_dialled_itself() {
    let mut host = Host::published(Proto::Udp);
    let container = host.dial(Proto::Udp, "127.0.0.1", 8080).unwrap();
    assert_eq!(host.recall(peer("10.1.0.2", 81)), None);
    host.cookie = 8;
    assert_eq!(host.recall(container), None);
}

#[test]
fn the_last_way_to_a_container_counts() {
    let host = Host::published(Proto::Udp);
    let container = host.dial(Proto::Udp, "127.0.0.1", 8080).unwrap();
    host.dial(Proto::Udp, "192.0.2.1", 8080).unwrap();
    assert_eq!(host.recall(container), Some(peer("192.0.2.1", 8080)));
    // To connect to the container directly is a way, too; a datagram may be one of the
    // connection that there is.
    let mut direct = container;
    assert!(!dial(&host, Proto::Udp, false, &mut direct));
    assert_eq!(host.recall(container), Some(peer("192.0.2.1", 8080)));
    assert!(!connect(&host, Proto::Udp, false, &mut direct));
    assert_eq!(host.recall(container), None);
}

#[test]
fn two_ports_by_one_socket() {
    let host = Host::published(Proto::Udp);
    host.publish(Proto::Udp, "127.0.0.1", 53, peer("10.1.0.3", 53));
    let web = host.dial(Proto::Udp, "127.0.0.1", 8080).unwrap();
    let dns = host.dial(Proto::Udp, "127.0.0.1", 53).unwrap();
    assert_eq!(host.recall(web), Some(peer("127.0.0.1", 8080)));
    assert_eq!(host.recall(dns), Some(peer("127.0.0.1", 53)));
}

#[test]
fn without_room_for_a_note_the_port_is_reached_all_the_same() {
    let host = Host::published(Proto::Tcp);
    host.sock_nat.limit(0);
    let container = host.dial(Proto::Tcp, "127.0.0.1", 8080);
    assert_eq!(container, Some(peer("10.1.0.2", 80)));
    assert_eq!(host.recall(container.unwrap()), None);
}

#[test]
fn the_name_servers_port_is_exchanged_for_its_own_namespace_only() {
    let resolvers = Map::<u64, Resolver>::default();
    let resolver = Resolver {
        port: 1023,
        reserved: [0; 6],
    };
    resolvers.put(5, resolver);
    let dialled = Peer {
        addr: NAME_SERVER,
        port: NAME_PORT,
    };
    let mut peer = dialled;
    assert!(dial_name_server(&resolvers, 5, &mut peer));
    assert_eq!((peer.addr, peer.port), (NAME_SERVER, 1023));
    assert!(recall_name_server(&resolvers, 5, &mut peer));
    assert_eq!(peer, dialled);
    // A namespace without a server keeps its own port 53.
    assert!(!dial_name_server(&resolvers, 6, &mut peer));
    assert_eq!(peer, dialled);
    peer.port = 1023;
    assert!(!recall_name_server(&resolvers, 6, &mut peer));
    // Other ports of that address, and port 53 of other addresses, are the container's.
    for other in [
        ("127.0.0.11", 54),
        ("127.0.0.1", 53),
        ("::1", 53),
        ("8.8.8.8", 53),
    ] {
        let mut other = self::peer(other.0, other.1);
        let before = other;
        assert!(!dial_name_server(&resolvers, 5, &mut other));
        assert!(!recall_name_server(&resolvers, 5, &mut other));
        assert_eq!(other, before);
    }
}
