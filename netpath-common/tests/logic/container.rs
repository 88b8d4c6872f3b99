//! The container hook: who may send what to whom.

use netpath_common::reason::DropReason;

use crate::model::{FAMILIES, Model, Outcome, VETH_A, VETH_B, VETH_RED};
use crate::packets::{ACK, L4, SYN, Sample, make_fragment};

const UDP: L4 = L4::Udp(1000, 2000);

#[test]
fn a_container_sends_from_its_own_addresses_only() {
    let model = Model::new();
    for family in FAMILIES {
        for foreign in [
            family.b,
            family.red,
            family.gateway,
            family.remote,
            family.any,
        ] {
            for dst in [family.b, family.remote, family.gateway] {
                let frame = Sample::new(foreign, dst, UDP).bytes();
                let outcome = model.container_sends(VETH_A, &frame);
                assert_eq!(
                    outcome,
                    Err(DropReason::SpoofedSource),
                    "{foreign} to {dst}"
                );
            }
        }
        let own = Sample::new(family.a, family.b, UDP).bytes();
        assert_eq!(
            model.container_sends(VETH_A, &own),
            Ok(Outcome::Delivered(VETH_B))
        );
        assert_eq!(
            model.container_sends(VETH_B, &own),
            Err(DropReason::SpoofedSource)
        );
    }
    let link_local = |src| Sample::new(src, "fe80::3", UDP).bytes();
    assert_eq!(
        model.container_sends(VETH_A, &link_local("fe80::2")),
        Ok(Outcome::Delivered(VETH_B))
    );
    assert_eq!(
        model.container_sends(VETH_A, &link_local("fe80::9")),
        Err(DropReason::SpoofedSource)
    );
    assert_eq!(model.flows.len(), 0);
}

#[test]
fn a_container_without_a_family_cannot_use_it() {
    let mut model = Model::new();
    let veth = model.veths.get_mut(&VETH_A).unwrap();
    veth.addr6 = netpath_common::addr::Addr::UNSPECIFIED;
    veth.prefix6 = 0;
    let frame = Sample::new("::", "fd01::3", UDP).bytes();
    assert_eq!(
        model.container_sends(VETH_A, &frame),
        Err(DropReason::SpoofedSource)
    );
}

#[test]
fn neighbours_get_everything_without_state() {
    let model = Model::new();
    for family in FAMILIES {
        for l4 in [
            UDP,
            L4::Tcp(1, 2, SYN),
            L4::Tcp(1, 2, ACK),
            L4::Request(1),
            L4::Reply(1),
        ] {
            // The last hop: nothing is routed, so nothing is taken off.
            let frame = Sample::new(family.a, family.b, l4).ttl(1).bytes();
            assert_eq!(
                model.container_sends(VETH_A, &frame),
                Ok(Outcome::Delivered(VETH_B))
            );
        }
    }
    let mut fragment = Sample::new("10.1.0.2", "10.1.0.3", UDP).bytes();
    make_fragment(&mut fragment, true, 0);
    assert_eq!(
        model.container_sends(VETH_A, &fragment),
        Ok(Outcome::Delivered(VETH_B))
    );
    assert_eq!(model.flows.len(), 0);
    assert_eq!(model.routes_asked.get(), 0);
}

#[test]
fn the_gateway_and_the_hosts_addresses_are_the_stacks() {
    let model = Model::new();
    for family in FAMILIES {
        for host in [family.gateway, family.uplink] {
            for l4 in [UDP, L4::Tcp(1, 2, ACK), L4::Request(1)] {
                let frame = Sample::new(family.a, host, l4).bytes();
                assert_eq!(
                    model.container_sends(VETH_A, &frame),
                    Ok(Outcome::Host),
                    "{host}"
                );
            }
        }
    }
    assert_eq!(model.flows.len(), 0);
}

#[test]
fn networks_do_not_reach_each_other() {
    let model = Model::new();
    for family in FAMILIES {
        for l4 in [UDP, L4::Tcp(1, 2, SYN), L4::Tcp(1, 2, ACK), L4::Request(1)] {
            let there = Sample::new(family.a, family.red, l4).bytes();
            assert_eq!(
                model.container_sends(VETH_A, &there),
                Err(DropReason::OtherNetwork)
            );
            let back = Sample::new(family.red, family.a, l4).bytes();
            assert_eq!(
                model.container_sends(VETH_RED, &back),
                Err(DropReason::OtherNetwork)
            );
        }
    }
    assert_eq!(model.flows.len(), 0);
}

#[test]
fn link_local_addresses_stay_in_their_network() {
    let model = Model::new();
    // Both fe80::2 exist, one a network; fe80::3 is in the first only.
    let frame = Sample::new("fe80::2", "fe80::3", UDP).bytes();
    assert_eq!(
        model.container_sends(VETH_RED, &frame),
        Err(DropReason::NoSuchNeighbour)
    );
    assert_eq!(
        model.container_sends(VETH_A, &frame),
        Ok(Outcome::Delivered(VETH_B))
    );
}

#[test]
fn addresses_that_nobody_has_are_dropped() {
    let model = Model::new();
    for family in FAMILIES {
        let frame = Sample::new(family.a, family.nobody, UDP).bytes();
        assert_eq!(
            model.container_sends(VETH_A, &frame),
            Err(DropReason::NoSuchNeighbour)
        );
    }
    // The directed broadcast of the subnet is such an address, too.
    let frame = Sample::new("10.1.0.2", "10.1.0.255", UDP).bytes();
    assert_eq!(
        model.container_sends(VETH_A, &frame),
        Err(DropReason::NoSuchNeighbour)
    );
}

#[test]
fn groups_have_no_receivers() {
    let model = Model::new();
    for (src, group) in [
        ("10.1.0.2", "224.0.0.251"),
        ("10.1.0.2", "239.1.2.3"),
        ("10.1.0.2", "255.255.255.255"),
        ("fd01::2", "ff02::1"),
        ("fe80::2", "ff02::fb"),
    ] {
        let frame = Sample::new(src, group, UDP).bytes();
        assert_eq!(
            model.container_sends(VETH_A, &frame),
            Err(DropReason::Multicast),
            "{group}"
        );
    }
}

#[test]
fn the_stack_says_when_the_time_to_live_ran_out() {
    let model = Model::new();
    for family in FAMILIES {
        for ttl in [0, 1] {
            let frame = Sample::new(family.a, family.remote, UDP).ttl(ttl).bytes();
            assert_eq!(
                model.container_sends(VETH_A, &frame),
                Ok(Outcome::Host),
                "{ttl}"
            );
        }
        // Also on a known flow.
        let sample = Sample::new(family.a, family.remote, UDP);
        assert_eq!(model.out(&sample.clone().ttl(2)).sample().ttl, 1);
        assert_eq!(
            model.container_sends(VETH_A, &sample.ttl(1).bytes()),
            Ok(Outcome::Host)
        );
    }
    assert_eq!(model.connections().len(), 2);
}

/// Two interfaces of one container, in two networks.
fn with_two_interfaces() -> Model {
    let mut model = Model::new();
    for ifindex in [VETH_A, VETH_RED] {
        model.veths.get_mut(&ifindex).unwrap().netns = 7;
    }
    model
}

#[test]
fn a_container_sends_from_the_addresses_of_all_of_its_interfaces() {
    let model = with_two_interfaces();
    for family in FAMILIES {
        // By the interface of network 1 with the address in network 2, and answers come there.
        let out = Sample::new(family.red, family.remote, UDP).bytes();
        let sent = model.container_sends(VETH_A, &out).unwrap().sent();
        let answer = sent.sample().answer(0).bytes();
        let back = model.outside_sends(&answer).unwrap().sent();
        assert_eq!(back.ifindex, VETH_RED);
        // It is the same connection as by the other interface.
        let flows = model.flows.len();
        model.container_sends(VETH_RED, &out).unwrap().sent();
        assert_eq!(model.flows.len(), flows);
        // The neighbours of network 1 are strangers for that address.
        let near = Sample::new(family.red, family.b, UDP).bytes();
        assert_eq!(
            model.container_sends(VETH_A, &near),
            Err(DropReason::OtherNetwork)
        );
        // Others are as spoofed as ever, and nobody else may use these.
        for foreign in [family.b, family.gateway, family.remote, family.nobody] {
            let frame = Sample::new(foreign, family.remote, UDP).bytes();
            assert_eq!(
                model.container_sends(VETH_A, &frame),
                Err(DropReason::SpoofedSource),
                "{foreign}"
            );
        }
        for own in [family.a, family.red] {
            let frame = Sample::new(own, family.remote, UDP).bytes();
            assert_eq!(
                model.container_sends(VETH_B, &frame),
                Err(DropReason::SpoofedSource)
            );
        }
    }
}

#[test]
fn an_unknown_namespace_has_no_siblings() {
    let mut model = Model::new();
    for veth in model.veths.values_mut() {
        veth.netns = 0;
    }
    let frame = Sample::new("10.2.0.2", "203.0.113.9", UDP).bytes();
    assert_eq!(
        model.container_sends(VETH_A, &frame),
        Err(DropReason::SpoofedSource)
    );
}
