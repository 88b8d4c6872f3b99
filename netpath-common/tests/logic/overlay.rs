//! Networks across hosts.

use netpath_common::addr::{Addr, Mac};
use netpath_common::container;
use netpath_common::env::Verdict;
use netpath_common::overlay::{self, Inward};
use netpath_common::packet::Packet;
use netpath_common::policy::{ICC_OFF, INTERNAL, OVERLAY};
use netpath_common::reason::DropReason;
use netpath_common::tunnel::{BULK_PLACES, ROUTED, Tunnel, Vtep, bulk_place, may_overtake};

use crate::model::{FAMILIES, GATEWAY, Model, Outcome, V4, VETH_A, VETH_B, VETH_RED, parse};
use crate::packets::{L4, Sample, ip};

/// The VXLAN device.
const VXLAN: u32 = 50;
/// The network that reaches across hosts.
const NET: u16 = 1;

/// Addresses of another host, by family: a container, a subnet off the link and one in it.
struct Elsewhere {
    vtep: &'static str,
    container: &'static str,
    subnet: (&'static str, u8),
    in_subnet: &'static str,
}

const ELSEWHERE: [Elsewhere; 2] = [
    Elsewhere {
        vtep: "192.0.2.7",
        container: "10.1.0.50",
        subnet: ("10.9.0.0", 120),
        in_subnet: "10.9.0.5",
    },
    Elsewhere {
        vtep: "2001:db8::7",
        container: "fd01::50",
        subnet: ("fd09::", 64),
        in_subnet: "fd09::5",
    },
];

fn addr(text: &str) -> Addr {
    ip(text).into()
}

fn tunnel(vtep: &str, place: u32, flags: u8) -> Tunnel {
    Tunnel {
        vtep: addr(vtep),
        local: Addr::UNSPECIFIED,
        vni: 7,
        ifindex: VXLAN,
        gateway_ifindex: GATEWAY,
        place,
        mac: Mac::new([2, 0, 0, 0, 7, place as u8]),
        own_mac: Mac::new([2, 0, 0, 0, 7, 0]),
        mtu: 1450,
        port: 4789,
        flags,
        reserved: [0; 7],
    }
}

/// A host whose first network has a container (place 1) and a subnet (place 2) elsewhere.
fn host(flags: u8) -> Model {
    let mut model = Model::new();
    for veth in model.veths.values_mut().filter(|v| v.network == NET) {
        veth.flags = flags;
    }
    for elsewhere in &ELSEWHERE {
        let (subnet, bits) = elsewhere.subnet;
        let container = addr(elsewhere.container);
        model
            .tunnels
            .push((NET, container, 128, tunnel(elsewhere.vtep, 1, 0)));
        model
            .tunnels
            .push((NET, addr(subnet), bits, tunnel(elsewhere.vtep, 2, ROUTED)));
    }
    model
}

fn vtep(place: u32, flags: u8) -> Vtep {
    Vtep {
        place,
        gateway_ifindex: GATEWAY,
        network: NET,
        gateway_mac: Mac::new([2, 0, 0, 0, 1, 1]),
        flags,
        reserved: [0; 7],
    }
}

fn packet(src: &str, dst: &str) -> Packet {
    parse(&Sample::new(src, dst, L4::Udp(1, 2)).bytes(), NET).unwrap()
}

#[test]
fn what_is_elsewhere_leaves_by_its_tunnel() {
    let model = host(OVERLAY);
    for (family, elsewhere) in FAMILIES.iter().zip(&ELSEWHERE) {
        for (dst, place) in [(elsewhere.container, 1), (elsewhere.in_subnet, 2)] {
            let sample = Sample::new(family.a, dst, L4::Udp(1, 2));
            let sent = model.out(&sample);
            assert_eq!(sent.ifindex, VXLAN);
            assert_eq!(sent.next_hop, addr(elsewhere.vtep));
            assert_eq!(sent.dst_mac, Mac::new([2, 0, 0, 0, 7, place]));
        }
        // Neighbours on this host, and the way out, are what they were.
        let here = Sample::new(family.a, family.b, L4::Udp(1, 2)).bytes();
        let outcome = model.container_sends(VETH_A, &here).unwrap();
        assert_eq!(outcome, Outcome::Delivered(VETH_B));
        let out = model.out(&Sample::new(family.a, family.remote, L4::Udp(1, 2)));
        assert_eq!(out.sample().src, ip(family.uplink));
        let nobody = Sample::new(family.a, family.nobody, L4::Udp(1, 2)).bytes();
        let outcome = model.container_sends(VETH_A, &nobody);
        assert_eq!(outcome, Err(DropReason::NoSuchNeighbour));
    }
    assert!(!model.connections().is_empty(), "the way out has flows");
}

#[test]
fn the_most_particular_tunnel_is_taken() {
    let mut model = host(OVERLAY);
    let other = tunnel("192.0.2.8", 3, ROUTED);
    model.tunnels.push((NET, addr("10.9.0.4"), 126, other));
    for (dst, vtep) in [("10.9.0.5", "192.0.2.8"), ("10.9.0.9", "192.0.2.7")] {
        let sent = model.out(&Sample::new(V4.a, dst, L4::Udp(1, 2)));
        assert_eq!(sent.next_hop, addr(vtep), "{dst}");
    }
}

#[test]
fn another_network_has_no_part_in_it() {
    let model = host(OVERLAY);
    for (family, elsewhere) in FAMILIES.iter().zip(&ELSEWHERE) {
        let sample = Sample::new(family.red, elsewhere.in_subnet, L4::Udp(1, 2));
        // It goes out as to anybody.
        let Outcome::Sent(sent) = model.container_sends(VETH_RED, &sample.bytes()).unwrap() else {
            panic!("not sent");
        };
        assert_ne!(sent.ifindex, VXLAN);
    }
}

#[test]
fn networks_of_one_host_ask_no_tunnels() {
    let model = host(0);
    for (family, elsewhere) in FAMILIES.iter().zip(&ELSEWHERE) {
        let sample = Sample::new(family.a, elsewhere.container, L4::Udp(1, 2));
        let outcome = model.container_sends(VETH_A, &sample.bytes());
        assert_eq!(outcome, Err(DropReason::NoSuchNeighbour));
    }
}

#[test]
fn policies_hold_across_hosts() {
    for (family, elsewhere) in FAMILIES.iter().zip(&ELSEWHERE) {
        for dst in [elsewhere.container, elsewhere.in_subnet] {
            let frame = Sample::new(family.a, dst, L4::Udp(1, 2)).bytes();
            let model = host(OVERLAY | ICC_OFF);
            let outcome = model.container_sends(VETH_A, &frame);
            assert_eq!(outcome, Err(DropReason::IccOff));
            // What is internal stays in the network, which is there as well.
            let model = host(OVERLAY | INTERNAL);
            let outcome = model.container_sends(VETH_A, &frame);
            assert!(matches!(outcome, Ok(Outcome::Sent(_))), "{outcome:?}");
        }
        let model = host(OVERLAY);
        let packet = packet(elsewhere.container, family.a);
        let entered = overlay::enter(&model, &packet, &vtep(1, ICC_OFF));
        assert_eq!(entered, Err(DropReason::IccOff));
    }
}

#[test]
fn routed_packets_need_time_to_live() {
    for (family, elsewhere) in FAMILIES.iter().zip(&ELSEWHERE) {
        let expired = |flags: u8, dst: &str| {
            let model = host(flags);
            let frame = Sample::new(family.a, dst, L4::Udp(1, 2)).ttl(1).bytes();
            let packet = parse(&frame, NET).unwrap();
            container::within_network(&model, &packet, &model.veths[&VETH_A])
        };
        assert_eq!(
            expired(OVERLAY, elsewhere.in_subnet),
            Ok(Some(Verdict::Host))
        );
        let dropped = expired(OVERLAY | INTERNAL, elsewhere.in_subnet);
        assert_eq!(dropped, Err(DropReason::TtlExpired));
        // A neighbour is no hop away.
        let model = host(OVERLAY);
        let sample = Sample::new(family.a, elsewhere.container, L4::Udp(1, 2)).ttl(1);
        assert_eq!(model.out(&sample).ifindex, VXLAN);
    }
}

#[test]
fn what_comes_in_is_for_whom_it_says() {
    let model = host(OVERLAY);
    for (family, elsewhere) in FAMILIES.iter().zip(&ELSEWHERE) {
        for (src, place) in [(elsewhere.container, 1), (elsewhere.in_subnet, 2)] {
            let enter = |dst: &str| overlay::enter(&model, &packet(src, dst), &vtep(place, 0));
            let Ok(Inward::Container(endpoint)) = enter(family.b) else {
                panic!("not delivered");
            };
            assert_eq!(endpoint.ifindex, VETH_B);
            for nobody in [family.nobody, family.remote, family.red] {
                assert_eq!(enter(nobody), Err(DropReason::NoSuchNeighbour), "{nobody}");
            }
            let group = if ip(family.a).is_ipv4() {
                "224.0.0.251"
            } else {
                "ff02::fb"
            };
            assert_eq!(enter(group), Err(DropReason::Multicast));
        }
    }
}

#[test]
fn the_gateway_is_reached_from_elsewhere() {
    let model = host(OVERLAY);
    for (family, elsewhere) in FAMILIES.iter().zip(&ELSEWHERE) {
        let packet = packet(elsewhere.in_subnet, family.gateway);
        // The model has all of the host's addresses on its uplink.
        let entered = overlay::enter(&model, &packet, &vtep(2, 0));
        assert_eq!(entered, Err(DropReason::NoSuchNeighbour));
        let of_gateway = Vtep {
            gateway_ifindex: crate::model::UPLINK,
            ..vtep(2, 0)
        };
        let entered = overlay::enter(&model, &packet, &of_gateway);
        assert_eq!(entered, Ok(Inward::Host));
        let resolved = overlay::resolve(&model, &of_gateway, &addr(family.gateway));
        assert_eq!(resolved, Some((of_gateway.gateway_mac, true)));
    }
}

#[test]
fn sources_are_those_behind_the_vtep() {
    let model = host(OVERLAY);
    for (family, elsewhere) in FAMILIES.iter().zip(&ELSEWHERE) {
        // A container of this host, one of another host, somebody outside, nobody.
        for (src, place) in [
            (family.a, 1),
            (elsewhere.container, 2),
            (elsewhere.in_subnet, 1),
            (family.remote, 1),
            (family.nobody, 2),
            (family.any, 1),
        ] {
            let entered = overlay::enter(&model, &packet(src, family.b), &vtep(place, 0));
            assert_eq!(entered, Err(DropReason::SpoofedTunnel), "{src}");
        }
    }
}

#[test]
fn questions_from_elsewhere() {
    let model = host(OVERLAY);
    for (family, elsewhere) in FAMILIES.iter().zip(&ELSEWHERE) {
        let vtep = vtep(1, 0);
        assert!(overlay::may_ask(&model, &vtep, &addr(elsewhere.container)));
        assert!(!overlay::may_ask(&model, &vtep, &addr(elsewhere.in_subnet)));
        assert!(!overlay::may_ask(&model, &vtep, &addr(family.a)));
        let known = overlay::resolve(&model, &vtep, &addr(family.b));
        assert_eq!(known, Some((model.veths[&VETH_B].mac, false)));
        for other in [elsewhere.container, family.nobody, family.red] {
            assert_eq!(
                overlay::resolve(&model, &vtep, &addr(other)),
                None,
                "{other}"
            );
        }
    }
    assert!(overlay::may_ask(&model, &vtep(1, 0), &addr("fe80::77")));
}

#[test]
fn the_host_leaves_by_the_same_tunnels() {
    let model = host(OVERLAY);
    for (family, elsewhere) in FAMILIES.iter().zip(&ELSEWHERE) {
        let packet_to = |dst: &str| packet(family.gateway, dst);
        let sent = overlay::leave_host(&model, &packet_to(elsewhere.in_subnet));
        assert_eq!(sent, Ok(()));
        let sent = overlay::leave_host(&model, &packet_to(family.nobody));
        assert_eq!(sent, Err(DropReason::NoSuchNeighbour));
    }
}

#[test]
fn what_follows_an_aggregate_waits_for_it() {
    for (last, now, waits) in [
        (100, 100, true),
        (100, 115, true),
        (100, 116, false),
        (100, 99, false),
        (u32::MAX, 3, true),
    ] {
        assert_eq!(may_overtake(last, now), waits, "{last} {now}");
    }
    let flows = (32_768..=u16::MAX).map(|port| bulk_place(&Addr::v4([192, 0, 2, 2]), port));
    let places: std::collections::BTreeSet<u32> = flows.collect();
    assert!(places.iter().all(|place| *place < BULK_PLACES));
    assert_eq!(places.len() as u32, BULK_PLACES, "all places are used");
}
