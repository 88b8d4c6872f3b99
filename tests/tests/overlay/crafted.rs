//! Frames made by hand, sent in UDP datagrams as anybody on the underlay could.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use netpath_tests::inside::inside;
use netpath_tests::lab::eventually;
use netpath_tests::lab::hosts::{Hosts, SWITCH4, v4};
use netpath_tests::packets::{self, L4, Sample};
use netpath_tests::verify;

use crate::{dropped, mac, set_up};

const VNI: u32 = 90;
/// MAC address of the container behind the test's VTEP.
const THEIR_MAC: [u8; 6] = [2, 0, 0, 0, 0x90, 0x20];
/// MAC address of the router that the test is.
const ROUTER: [u8; 6] = [2, 0, 0, 0, 0x90, 0x01];

/// A host whose network has a container and a subnet behind the switch, which the test plays.
struct Scene {
    hosts: Hosts,
    vtep: UdpSocket,
    stranger: UdpSocket,
    box_mac: [u8; 6],
}

fn parse_mac(text: &str) -> [u8; 6] {
    let octets = text
        .split(':')
        .map(|hex| u8::from_str_radix(hex, 16).unwrap());
    octets.collect::<Vec<_>>().try_into().unwrap()
}

fn scene() -> Scene {
    let mut hosts = Hosts::new(1);
    hosts.start_agents(&[0]);
    let lab = &hosts[0];
    set_up::network(lab, ["10.90.0.0/24", "fd90::/64"], &["--opt", "vni=90"]);
    let options = ["--network", "wide", "--ip", "10.90.0.2", "--ip6", "fd90::2"];
    lab.run("box", &options, &["sleep", "600"]);
    let (neighbour, router) = ("02:00:00:00:90:20", "02:00:00:00:90:01");
    set_up::neighbour(lab, SWITCH4, neighbour, ["10.90.0.20", "fd90::20"]);
    set_up::router(lab, SWITCH4, Some(router), ["10.91.0.0/24", "fd91::/64"]);
    let box_mac = parse_mac(&mac(lab, "box"));
    let another = "192.0.2.253/24";
    hosts
        .switch(&["ip", "addr", "add", another, "dev", "br0"])
        .ok();
    let bind = |address: &str| {
        let socket = inside(&hosts.switch_netns(), || UdpSocket::bind(address).unwrap());
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        socket
    };
    Scene {
        vtep: bind("192.0.2.254:4789"),
        stranger: bind("192.0.2.253:4789"),
        box_mac,
        hosts,
    }
}

/// A VXLAN packet (RFC 7348, section 5).
fn vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
    let vni = vni << 8;
    [&[8, 0, 0, 0], &vni.to_be_bytes()[..], frame].concat()
}

impl Scene {
    fn send_from(&self, socket: &UdpSocket, vni: u32, frame: &[u8]) {
        let to: SocketAddr = format!("{}:4789", v4(0)).parse().unwrap();
        socket.send_to(&vxlan(vni, frame), to).unwrap();
    }

    /// Sends as the known VTEP.
    fn send(&self, frame: &[u8]) {
        self.send_from(&self.vtep, VNI, frame);
    }

    /// The next inner frame that the known VTEP is sent and that `wanted` takes.
    #[track_caller]
    fn receive(&self, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let mut buffer = [0; 65_536];
        for _ in 0..1000 {
            let (length, _) = self.vtep.recv_from(&mut buffer).expect("an answer");
            let packet = &buffer[..length];
            assert_eq!(packet[..4], [8, 0, 0, 0], "flags");
            assert_eq!(packet[4..8], (VNI << 8).to_be_bytes(), "VNI");
            let frame = &packet[8..];
            verify::checksums(frame).unwrap_or_else(|e| panic!("{e}"));
            if wanted(frame) {
                return frame.to_vec();
            }
        }
        panic!("no such frame in a thousand");
    }

    /// Counts a drop of this reason that `cause` is to bring about.
    #[track_caller]
    fn drops(&self, reason: &str, cause: impl Fn()) {
        let before = dropped(&self.hosts[0], reason);
        cause();
        eventually(reason, || dropped(&self.hosts[0], reason) > before);
    }
}

/// An echo request of the container behind the VTEP (or one that claims to be), to a container.
fn request(scene: &Scene, src: &str, dst: &str) -> Vec<u8> {
    Sample::new(src, dst, L4::Request(77))
        .macs(THEIR_MAC, scene.box_mac)
        .bytes()
}

#[test]
fn who_is_not_told_of_is_dropped_by_name() {
    let scene = scene();
    for (src, dst, group) in [
        ("10.90.0.20", "10.90.0.2", "224.0.0.251"),
        ("fd90::20", "fd90::2", "ff02::fb"),
    ] {
        let honest = request(&scene, src, dst);
        scene.drops("unknown_vtep", || {
            scene.send_from(&scene.stranger, VNI, &honest);
        });
        scene.drops("unknown_vni", || {
            scene.send_from(&scene.vtep, VNI + 1, &honest);
        });
        let v6 = src.contains(':');
        // A container of this host, nobody, somebody outside, the gateway.
        let liars = if v6 {
            ["fd90::2", "fd90::77", "2001:db8::9", "fd90::1"]
        } else {
            ["10.90.0.2", "10.90.0.77", "203.0.113.9", "10.90.0.1"]
        };
        for liar in liars {
            scene.drops("spoofed_tunnel", || scene.send(&request(&scene, liar, dst)));
        }
        scene.drops("multicast", || scene.send(&request(&scene, src, group)));
        let nobody = if v6 { "fd90::88" } else { "10.90.0.88" };
        scene.drops("no_such_neighbour", || {
            scene.send(&request(&scene, src, nobody))
        });
        let mut odd = honest.clone();
        odd[14] = 0x75;
        scene.drops("malformed", || scene.send(&odd));
    }
    scene.drops("unknown_ether_type", || {
        let mut frame = request(&scene, "10.90.0.20", "10.90.0.2");
        frame[12..14].copy_from_slice(&[0x88, 0xcc]);
        scene.send(&frame);
    });
    // Traffic between hosts is no traffic of the outside: nothing went by another way.
    assert_eq!(scene.hosts[0].json(&["flows"]).as_array().unwrap().len(), 0);
}

#[test]
fn neighbours_are_answered_unchanged() {
    let scene = scene();
    for (src, dst) in [("10.90.0.20", "10.90.0.2"), ("fd90::20", "fd90::2")] {
        let wanted = packets::ip(dst);
        let is_reply = |frame: &[u8]| {
            Sample::read(frame).is_some_and(|s| s.src == wanted && s.l4 == L4::Reply(77))
        };
        scene.send(&request(&scene, src, dst));
        let reply = Sample::read(&scene.receive(is_reply)).unwrap();
        assert_eq!((reply.mac_src, reply.mac_dst), (scene.box_mac, THEIR_MAC));
        assert_eq!(reply.ttl, 64, "a neighbour is no hop away");
    }
}

#[test]
fn routers_are_answered_by_a_router() {
    let scene = scene();
    let our_mac = parse_mac(&crate::vtep_mac(&scene.hosts[0], 4789));
    for (src, dst) in [("10.91.0.5", "10.90.0.2"), ("fd91::5", "fd90::2")] {
        let frame = Sample::new(src, dst, L4::Request(78)).macs(ROUTER, our_mac);
        scene.send(&frame.bytes());
        let is_reply = |frame: &[u8]| Sample::read(frame).is_some_and(|s| s.l4 == L4::Reply(78));
        let reply = Sample::read(&scene.receive(is_reply)).unwrap();
        assert_eq!((reply.mac_src, reply.mac_dst), (our_mac, ROUTER));
        assert_eq!(reply.dst, packets::ip(src));
        assert_eq!(reply.ttl, 63, "a router is a hop away");
    }
}

#[test]
fn questions_for_containers_are_answered() {
    let scene = scene();
    let question = |sender: &str, target: &str| packets::arp(1, THEIR_MAC, sender, [0; 6], target);
    scene.send(&question("10.90.0.20", "10.90.0.2"));
    let reply = scene.receive(|frame| frame[12..14] == [8, 6] && frame[20..22] == [0, 2]);
    let expected = packets::arp(2, scene.box_mac, "10.90.0.2", THEIR_MAC, "10.90.0.20");
    assert_eq!(reply[14..42], expected[14..42]);
    assert_eq!(
        (&reply[..6], &reply[6..12]),
        (&THEIR_MAC[..], &scene.box_mac[..])
    );
    // The gateway is the host's.
    scene.send(&question("10.90.0.20", "10.90.0.1"));
    scene.receive(|frame| frame[12..14] == [8, 6] && frame[28..32] == [10, 90, 0, 1]);
    // Nobody speaks for others, nor for those who are elsewhere.
    scene.drops("spoofed_tunnel", || {
        scene.send(&question("10.90.0.2", "10.90.0.2"))
    });
    for nobody in ["10.90.0.77", "10.90.0.20", "203.0.113.9"] {
        scene.drops("no_such_neighbour", || {
            scene.send(&question("10.90.0.20", nobody))
        });
    }
    let announcement = packets::arp(2, THEIR_MAC, "10.90.0.2", [0; 6], "10.90.0.2");
    scene.drops("multicast", || scene.send(&announcement));
    // The same for IPv6, from a global and from a link-local address.
    for asker in ["fd90::20", "fe80::20"] {
        let body = packets::solicitation("fd90::2", &[1, 1, 2, 0, 0, 0, 0x90, 0x20]);
        let group = [0x33, 0x33, 0xff, 0, 0, 2];
        scene.send(&packets::icmpv6(
            [THEIR_MAC, group],
            asker,
            "ff02::1:ff00:2",
            135,
            &body,
        ));
        let reply = scene.receive(|frame| verify::advertisement(frame).is_some());
        let said = verify::advertisement(&reply).unwrap();
        assert_eq!(said.flags, [false, true, true]);
        assert_eq!(said.body[said.body.len() - 6..], scene.box_mac);
        assert_eq!(reply[..6], THEIR_MAC);
    }
    let body = packets::solicitation("fd90::77", &[]);
    let nobody = packets::icmpv6(
        [THEIR_MAC, [0x33; 6]],
        "fd90::20",
        "ff02::1:ff00:77",
        135,
        &body,
    );
    scene.drops("no_such_neighbour", || scene.send(&nobody));
}
