//! What a segment has beside unicast: multicast, routers' advertisements, the search for
//! duplicates.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use netpath_tests::inside::inside;
use netpath_tests::lab::{HOST4, Lab, OUT4, OUT6, UPLINK, eventually};

use super::{container, network, ping};

const MDNS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const PORT: u16 = 5353;

/// A socket that hears multicast DNS.
fn listener(netns: &str, own: &str) -> UdpSocket {
    let own: Ipv4Addr = own.parse().unwrap();
    inside(netns, || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap();
        socket.join_multicast_v4(&MDNS, &own).unwrap();
        socket.set_multicast_loop_v4(false).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        socket
    })
}

fn heard(socket: &UdpSocket) -> Vec<String> {
    let mut texts = Vec::new();
    let mut buffer = [0; 64];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..length]);
        texts.push(format!("{text} {}", from.ip()));
    }
    texts
}

#[test]
fn multicast_reaches_everybody_on_the_wire_once() {
    multicast_reaches_everybody(&[]);
}

#[test]
fn multicast_reaches_the_kernels_devices_once() {
    multicast_reaches_everybody(&super::STACKED);
}

#[test]
fn multicast_of_routed_containers_reaches_everybody_once() {
    multicast_reaches_everybody(&["-o", "mode=l3"]);
}

fn multicast_reaches_everybody(options: &[&str]) {
    let lab = Lab::new();
    network(&lab, "lan", "underlay", options);
    container(&lab, "a", "lan", 10);
    container(&lab, "b", "lan", 11);
    let ends = [
        (lab.namespace_of("a"), "192.0.2.10"),
        (lab.namespace_of("b"), "192.0.2.11"),
        (lab.host_netns(), HOST4),
        (lab.outside_netns(), OUT4),
    ];
    // The route of the group is that of the sender's own interface.
    for (netns, _) in &ends {
        let device = match netns {
            _ if *netns == lab.host_netns() => UPLINK,
            _ => "eth0",
        };
        let netns = format!("--net={netns}");
        let route = [
            "nsenter",
            &netns,
            "ip",
            "route",
            "replace",
            "224.0.0.0/4",
            "dev",
            device,
        ];
        lab.host(&route).ok();
    }
    let sockets = ends.clone().map(|(netns, own)| listener(&netns, own));
    for (sender, (_, own)) in ends.iter().enumerate() {
        let question = format!("who {sender}");
        // The first one may be lost with a neighbour table that is still empty: it is not, for
        // groups have no neighbours.
        sockets[sender]
            .send_to(question.as_bytes(), (MDNS, PORT))
            .unwrap();
        for (receiver, socket) in sockets.iter().enumerate() {
            let wanted = if receiver == sender {
                Vec::new()
            } else {
                vec![format!("{question} {own}")]
            };
            assert_eq!(heard(socket), wanted, "from {sender} at {receiver}");
        }
    }
}

#[test]
fn routers_advertise_and_duplicates_are_found() {
    routers_and_duplicates(&[]);
}

#[test]
fn routers_advertise_to_the_kernels_devices_and_duplicates_are_found() {
    routers_and_duplicates(&super::STACKED);
}

fn routers_and_duplicates(options: &[&str]) {
    let mut lab = Lab::new();
    lab.serve_outside(&[
        "dnsmasq",
        "--no-daemon",
        "--conf-file=/dev/null",
        "--port=0",
        "--interface=eth0",
        "--bind-interfaces",
        "--enable-ra",
        "--dhcp-range=2001:db8:1::,ra-only,64,600",
        "--ra-param=eth0,5,600",
        "--user=root",
        "--pid-file",
        "--leasefile-ro",
    ]);
    let parent = format!("parent={UPLINK}");
    let create = ["network", "create", "lan", "-d", "underlay", "-o", &parent];
    let subnets = ["--subnet", "192.0.2.0/24", "--ipv6"];
    lab.netpath(&[&create[..], options, &subnets].concat()).ok();
    lab.run("a", &["--network", "lan"], &["sleep", "600"]);
    eventually("an address by advertisement", || {
        let text = lab.exec("a", &["ip", "-6", "addr", "show", "eth0"]).ok();
        text.contains("2001:db8:1:") && !text.contains("tentative")
    });
    eventually("the outside answers", || {
        lab.exec("a", &ping(OUT6)).code == Some(0)
    });
    let routes = lab.exec("a", &["ip", "-6", "route"]).ok();
    assert!(routes.contains("default via fe80:"), "{routes}");
    // An address that somebody on the wire has is not taken.
    let duplicate = format!("{OUT6}/64");
    lab.exec("a", &["ip", "addr", "add", &duplicate, "dev", "eth0"])
        .ok();
    eventually("it is found out", || {
        let text = lab.exec("a", &["ip", "-6", "addr", "show", "eth0"]).ok();
        text.contains("dadfailed")
    });
    lab.outside(&ping(HOST4)).ok();
}

#[test]
fn containers_find_each_other_by_name() {
    for (driver, options) in [
        ("underlay", &[][..]),
        ("underlay", &["-o", "mode=l3"]),
        ("macvlan", &[]),
    ] {
        let lab = Lab::new();
        network(&lab, "lan", driver, options);
        container(&lab, "a", "lan", 10);
        lab.run(
            "b",
            &[
                "--network",
                "lan",
                "--ip",
                "192.0.2.11",
                "--network-alias",
                "db",
            ],
            &["sleep", "600"],
        );
        for name in ["b", "db"] {
            let found = lab.exec("a", &["getent", "ahostsv4", name]).ok();
            assert!(found.starts_with("192.0.2.11 "), "{driver}: {found}");
        }
        lab.exec("b", &ping("a")).ok();
    }
}
