//! Networks of somebody else: what stays with the kernel, and what goes up to it.

use netpath_common::env::Table as _;
use netpath_common::policy::{ADOPTED, MASQUERADE_OFF, Policy};
use netpath_common::reason::DropReason;
use netpath_common::tuple::{OUTSIDE, Proto, Tuple};

use crate::model::{FAMILIES, Family, Model, Outcome, VETH_A, VETH_RED};
use crate::packets::{ACK, L4, SYN, Sample, ip};

/// A model whose first network is adopted.
fn model(flags: u8) -> Model {
    let mut model = Model::new();
    let policy = Policy {
        flags: ADOPTED | flags,
        ..Policy::default()
    };
    model.set_policy(1, policy);
    model
}

fn tuple(sample: &Sample, network: u16, proto: Proto) -> Tuple {
    let (src_port, dst_port) = sample.ports();
    Tuple {
        src: sample.src.into(),
        dst: sample.dst.into(),
        src_port,
        dst_port,
        network,
        proto,
        reserved: 0,
    }
}

fn question(family: &Family) -> Sample {
    Sample::new(family.a, family.remote, L4::Udp(5_000, 53))
}

#[test]
fn new_connections_are_translated_as_in_a_network_of_our_own() {
    for family in FAMILIES {
        let model = model(0);
        let sent = model.out(&question(&family));
        assert_eq!(sent.sample().src, ip(family.uplink));
        model.publish(Proto::Udp, family.uplink, 8080, family.b, 80);
        let dial = Sample::new(family.remote, family.uplink, L4::Udp(5_000, 8080));
        assert_eq!(model.inward(&dial).sample().dst, ip(family.b));
    }
}

#[test]
fn what_the_kernel_translates_stays_with_it() {
    for family in FAMILIES {
        let model = model(0);
        let question = question(&family);
        let key = tuple(&question, 1, Proto::Udp);
        model.kernel_flows.put(key, 1);
        let outcome = model.container_sends(VETH_A, &question.bytes());
        assert_eq!(outcome, Ok(Outcome::Host));
        assert!(model.connections().is_empty());
        // And from outside, to a port that is published.
        model.publish(Proto::Udp, family.uplink, 8080, family.a, 80);
        let dial = Sample::new(family.remote, family.uplink, L4::Udp(5_000, 8080));
        let from_outside = tuple(&dial, OUTSIDE, Proto::Udp);
        model.kernel_flows.put(from_outside, 1);
        assert_eq!(model.outside_sends(&dial.bytes()), Ok(Outcome::Host));
        assert!(model.connections().is_empty());
        // Until they have ended there.
        model.kernel_flows.remove(&key);
        model.kernel_flows.remove(&from_outside);
        model.out(&question);
        model.inward(&dial);
    }
}

#[test]
fn a_port_of_the_kernels_connections_is_not_chosen() {
    for family in FAMILIES {
        let mut model = model(0);
        model.snat_ports(20_000, 20_003);
        for port in [20_000, 20_001, 20_003] {
            let answer = Sample::new(family.remote, family.uplink, L4::Udp(53, port));
            model
                .kernel_flows
                .put(tuple(&answer, OUTSIDE, Proto::Udp), 1);
        }
        let sent = model.out(&question(&family));
        assert_eq!(sent.sample().ports().0, 20_002);
    }
}

#[test]
fn connections_that_began_before_are_left_alone() {
    for family in FAMILIES {
        let model = model(0);
        let segment = Sample::new(family.a, family.remote, L4::Tcp(5_000, 80, ACK));
        // The program passes it on to the stack, as all that is refused here.
        let outcome = model.container_sends(VETH_A, &segment.bytes());
        assert_eq!(outcome, Err(DropReason::NoFlow));
        model.publish(Proto::Tcp, family.uplink, 8080, family.a, 80);
        let segment = Sample::new(family.remote, family.uplink, L4::Tcp(5_000, 8080, ACK));
        assert_eq!(model.outside_sends(&segment.bytes()), Ok(Outcome::Host));
        assert!(model.connections().is_empty());
    }
}

#[test]
fn what_is_refused_at_a_published_port_is_the_stacks() {
    for family in FAMILIES {
        let mut model = model(0);
        model.publish(Proto::Tcp, family.uplink, 8080, family.a, 80);
        let dial = Sample::new(family.remote, family.uplink, L4::Tcp(5_000, 8080, SYN));
        assert_eq!(
            model.outside_sends(&dial.clone().ttl(1).bytes()),
            Ok(Outcome::Host)
        );
        model.config.max_flows_per_endpoint = 0;
        assert_eq!(model.outside_sends(&dial.bytes()), Ok(Outcome::Host));
        model.config.max_flows_per_endpoint = u32::MAX;
        model.flows.limit(1);
        assert_eq!(model.outside_sends(&dial.bytes()), Ok(Outcome::Host));
        assert!(model.connections().is_empty());
        // A network of our own has nobody else to ask.
        model.set_policy(1, Policy::default());
        assert_eq!(
            model.outside_sends(&dial.bytes()),
            Err(DropReason::FlowTableFull)
        );
    }
}

#[test]
fn by_its_own_address_a_container_is_the_stacks() {
    for family in FAMILIES {
        let model = model(0);
        for l4 in [L4::Tcp(5_000, 80, SYN), L4::Udp(5_000, 80), L4::Request(7)] {
            let direct = Sample::new(family.remote, family.a, l4);
            assert_eq!(model.outside_sends(&direct.bytes()), Ok(Outcome::Host));
        }
        // From another network there is a route to its bridge, which is no uplink.
        model.route.set(Ok((crate::model::OTHER_DEVICE, None)));
        let direct = Sample::new(family.red, family.a, L4::Udp(5_000, 80));
        let outcome = model.container_sends(VETH_RED, &direct.bytes());
        assert_eq!(outcome, Err(DropReason::NotAnUplink));
    }
}

#[test]
fn without_masquerade_the_stack_sends() {
    for family in FAMILIES {
        let model = model(MASQUERADE_OFF);
        let outcome = model.container_sends(VETH_A, &question(&family).bytes());
        assert_eq!(outcome, Err(DropReason::NotAnUplink));
        assert!(model.connections().is_empty());
    }
}
