//! Connections from birth to death.

use netpath_common::env::Table as _;
use netpath_common::flow::{Direction, FlowState};
use netpath_common::idle::remove_if_idle;
use netpath_common::reason::DropReason;
use netpath_common::tuple::{Proto, Tuple};

use crate::model::{FAMILIES, Model, Outcome, V4, V6, VETH_A, VETH_B};
use crate::packets::{ACK, FIN, L4, RST, SYN, Sample, ip};

/// A masqueraded TCP connection of container A: its packets and what they look like outside.
struct Tcp {
    model: Model,
    outside: Sample,
}

impl Tcp {
    fn sample(flags: u8) -> Sample {
        Sample::new(V4.a, V4.remote, L4::Tcp(20_000, 443, flags))
    }

    fn new() -> Self {
        let model = Model::new();
        let outside = model.out(&Self::sample(SYN)).sample();
        Self { model, outside }
    }

    fn established() -> Self {
        let tcp = Self::new();
        tcp.inward(SYN | ACK);
        tcp.out(ACK);
        assert_eq!(tcp.state(), FlowState::Established);
        tcp
    }

    fn out(&self, flags: u8) {
        self.model.out(&Self::sample(flags));
    }

    fn inward(&self, flags: u8) {
        self.model.inward(&self.outside.answer(flags));
    }

    /// The state, which both entries agree on.
    fn state(&self) -> FlowState {
        self.model.connection().1.state
    }
}

#[test]
fn a_syn_makes_a_flow_that_does_not_live_long() {
    let tcp = Tcp::new();
    assert_eq!(tcp.state(), FlowState::SynSent);
    let (key, _, _) = tcp.model.connection();
    tcp.model.pass_seconds(60);
    assert!(!remove_if_idle(&tcp.model, &key));
    tcp.model.pass_seconds(1);
    assert!(remove_if_idle(&tcp.model, &key));
    assert_eq!(tcp.model.flows.len(), 0);
}

#[test]
fn a_repeated_syn_keeps_its_translation() {
    let tcp = Tcp::new();
    let again = tcp.model.out(&Tcp::sample(SYN)).sample();
    assert_eq!(again, tcp.outside);
    assert_eq!(tcp.state(), FlowState::SynSent);
    assert_eq!(tcp.model.new_flows.get(), 1);
}

#[test]
fn a_connection_goes_through_its_states() {
    let tcp = Tcp::new();
    tcp.inward(SYN | ACK);
    assert_eq!(tcp.state(), FlowState::SynReceived);
    tcp.out(ACK);
    assert_eq!(tcp.state(), FlowState::Established);
    tcp.out(FIN | ACK);
    assert_eq!(tcp.state(), FlowState::Closing);
    tcp.inward(ACK);
    assert_eq!(tcp.state(), FlowState::Closing);
    tcp.inward(FIN | ACK);
    assert_eq!(tcp.state(), FlowState::Closed);
    tcp.out(ACK);
    let (_, flow, reply) = tcp.model.connection();
    assert_eq!((flow.packets, reply.packets), (4, 3));
}

#[test]
fn the_far_side_may_finish_first() {
    let tcp = Tcp::established();
    tcp.inward(FIN | ACK);
    assert_eq!(tcp.state(), FlowState::Closing);
    tcp.out(FIN | ACK);
    assert_eq!(tcp.state(), FlowState::Closed);
}

#[test]
fn a_reset_ends_it_and_late_packets_still_pass() {
    for from_outside in [false, true] {
        let tcp = Tcp::established();
        let reset = |tcp: &Tcp| {
            if from_outside {
                tcp.inward(RST)
            } else {
                tcp.out(RST | ACK)
            }
        };
        let late = |tcp: &Tcp| {
            if from_outside {
                tcp.out(ACK)
            } else {
                tcp.inward(ACK)
            }
        };
        reset(&tcp);
        assert_eq!(tcp.state(), FlowState::Reset);
        // What was under way to whoever has reset it, and what that says to it.
        let (key, _, _) = tcp.model.connection();
        for _ in 0..5 {
            late(&tcp);
            tcp.model.pass_seconds(9);
            reset(&tcp);
            assert_eq!(tcp.state(), FlowState::Reset);
            assert!(!remove_if_idle(&tcp.model, &key));
        }
        tcp.model.pass_seconds(11);
        assert!(remove_if_idle(&tcp.model, &key));
    }
}

#[test]
fn a_reset_that_neither_side_minds_ends_nothing() {
    for from_outside in [false, true] {
        let tcp = Tcp::established();
        let forged = |tcp: &Tcp| {
            if from_outside {
                tcp.inward(RST)
            } else {
                tcp.out(RST | ACK)
            }
        };
        // As often as anybody likes.
        for round in 0..3 {
            forged(&tcp);
            assert_eq!(tcp.state(), FlowState::Reset, "round {round}");
            tcp.model.pass_seconds(5);
            tcp.out(ACK);
            tcp.inward(ACK);
            assert_eq!(tcp.state(), FlowState::Established, "round {round}");
        }
        let (key, _, _) = tcp.model.connection();
        tcp.model.pass_seconds(7999);
        assert!(!remove_if_idle(&tcp.model, &key));
        // It still ends as others do.
        tcp.out(FIN | ACK);
        tcp.inward(FIN | ACK);
        assert_eq!(tcp.state(), FlowState::Closed);
    }
}

#[test]
fn one_side_alone_does_not_undo_a_reset() {
    let tcp = Tcp::established();
    tcp.inward(RST);
    tcp.out(ACK);
    tcp.out(FIN | ACK);
    assert_eq!(tcp.state(), FlowState::Reset);
    let tcp = Tcp::established();
    tcp.inward(RST);
    tcp.inward(ACK);
    assert_eq!(tcp.state(), FlowState::Reset);
    // Nor does a handshake that both have forgotten.
    tcp.inward(SYN | ACK);
    tcp.out(0);
    assert_eq!(tcp.state(), FlowState::Reset);
}

#[test]
fn a_refused_connection_stays_reset() {
    let tcp = Tcp::new();
    tcp.inward(RST | ACK);
    assert_eq!(tcp.state(), FlowState::Reset);
    tcp.inward(RST | ACK);
    assert_eq!(tcp.state(), FlowState::Reset);
    let (key, _, _) = tcp.model.connection();
    tcp.model.pass_seconds(11);
    assert!(remove_if_idle(&tcp.model, &key));
}

#[test]
fn a_syn_on_a_finished_flow_is_a_new_flow() {
    for reset in [false, true] {
        let tcp = Tcp::established();
        if reset {
            tcp.inward(RST);
        } else {
            tcp.out(FIN | ACK);
            tcp.inward(FIN | ACK);
        }
        tcp.model.pass_seconds(1);
        tcp.out(SYN);
        let (_, flow, reply) = tcp.model.connection();
        assert_eq!(
            (flow.state, flow.tcp_flags, reply.tcp_flags),
            (FlowState::SynSent, SYN, 0)
        );
        assert_eq!((flow.packets, reply.packets), (1, 0));
        assert_eq!(tcp.model.new_flows.get(), 2);
    }
}

#[test]
fn a_syn_on_a_live_flow_changes_nothing() {
    let tcp = Tcp::established();
    tcp.out(SYN);
    assert_eq!(tcp.state(), FlowState::Established);
    // Half closed is alive: the other side may go on sending.
    tcp.out(FIN | ACK);
    tcp.out(SYN);
    assert_eq!(tcp.state(), FlowState::Closing);
    assert_eq!(tcp.model.new_flows.get(), 1);
}

#[test]
fn nobody_outside_removes_a_finished_flow() {
    let tcp = Tcp::established();
    tcp.inward(RST);
    tcp.inward(SYN);
    assert_eq!(tcp.state(), FlowState::Reset);
}

#[test]
fn a_published_connection_is_used_again_after_its_end() {
    let model = Model::new();
    model.publish(Proto::Tcp, V4.any, 8080, V4.a, 80);
    let client = |flags| Sample::new(V4.remote, V4.uplink, L4::Tcp(50_000, 8080, flags));
    let inside = model.inward(&client(SYN)).sample();
    model.out(&inside.answer(SYN | ACK));
    model.inward(&client(ACK));
    assert_eq!(model.connection().1.state, FlowState::Established);
    model.inward(&client(FIN | ACK));
    model.out(&inside.answer(FIN | ACK));
    assert_eq!(model.connection().1.state, FlowState::Closed);
    assert_eq!(model.inward(&client(SYN)).sample(), inside);
    assert_eq!(model.connection().1.state, FlowState::SynSent);
    assert_eq!(model.new_flows.get(), 2);
}

#[test]
fn udp_is_one_way_until_it_is_answered() {
    for family in FAMILIES {
        let model = Model::new();
        let sample = Sample::new(family.a, family.remote, L4::Udp(20_000, 53));
        let outside = model.out(&sample).sample();
        model.out(&sample);
        let (key, flow, _) = model.connection();
        assert_eq!(flow.state, FlowState::OneWay);
        model.inward(&outside.answer(0));
        assert_eq!(model.connection().1.state, FlowState::TwoWay);
        model.out(&sample);
        assert_eq!(model.connection().1.state, FlowState::TwoWay);
        model.pass_seconds(300);
        assert!(!remove_if_idle(&model, &key));
        model.pass_seconds(1);
        assert!(remove_if_idle(&model, &key));
    }
}

#[test]
fn each_state_has_its_idle_time() {
    let udp = Model::new();
    udp.out(&Sample::new(V4.a, V4.remote, L4::Udp(20_000, 53)));
    let echo = Model::new();
    echo.out(&Sample::new(V4.a, V4.remote, L4::Request(1)));
    let closing = Tcp::established();
    closing.out(FIN | ACK);
    let closed = Tcp::established();
    closed.out(FIN | ACK);
    closed.inward(FIN | ACK);
    for (model, seconds) in [
        (&udp, 120),
        (&echo, 60),
        (&Tcp::established().model, 8000),
        (&closing.model, 120),
        (&closed.model, 10),
    ] {
        let (key, flow, _) = model.connection();
        model.pass_seconds(seconds);
        assert!(!remove_if_idle(model, &key), "{:?}", flow.state);
        model.pass_seconds(1);
        assert!(remove_if_idle(model, &key), "{:?}", flow.state);
    }
}

#[test]
fn a_flow_goes_as_a_whole_and_not_while_one_side_speaks() {
    for by_reply in [false, true] {
        let model = Model::new();
        let sample = Sample::new(V6.a, V6.remote, L4::Udp(20_000, 53));
        let outside = model.out(&sample).sample();
        model.inward(&outside.answer(0));
        let (key, flow, _) = model.connection();
        let proposed = if by_reply { flow.other_key(&key) } else { key };
        // Only the other side speaks.
        for _ in 0..4 {
            model.pass_seconds(200);
            if by_reply {
                drop(model.out(&sample))
            } else {
                drop(model.inward(&outside.answer(0)))
            }
            assert!(!remove_if_idle(&model, &proposed));
            assert_eq!(model.connections().len(), 1);
        }
        model.pass_seconds(301);
        assert!(remove_if_idle(&model, &proposed));
        assert_eq!(model.flows.len(), 0);
        assert!(
            !remove_if_idle(&model, &proposed),
            "nothing to remove twice"
        );
    }
}

#[test]
fn a_flow_that_woke_up_stays() {
    let tcp = Tcp::new();
    let (key, _, _) = tcp.model.connection();
    tcp.model.pass_seconds(61);
    // The agent has proposed it, and now a packet comes by.
    tcp.out(SYN);
    assert!(!remove_if_idle(&tcp.model, &key));
    assert_eq!(tcp.state(), FlowState::SynSent);
}

#[test]
fn a_gone_containers_flows_are_removed_at_once() {
    for by_reply in [false, true] {
        let tcp = Tcp::established();
        let (key, flow, _) = tcp.model.connection();
        tcp.model.end_container(0);
        let proposed = if by_reply { flow.other_key(&key) } else { key };
        assert!(remove_if_idle(&tcp.model, &proposed));
        assert_eq!(tcp.model.flows.len(), 0);
    }
}

#[test]
fn no_packet_of_an_old_flow_reaches_the_addresss_new_owner() {
    // From outside to a masqueraded flow.
    let tcp = Tcp::established();
    tcp.model.end_container(0);
    let late = tcp.outside.answer(ACK).bytes();
    assert_eq!(tcp.model.outside_sends(&late), Ok(Outcome::Host));
    assert_eq!(tcp.model.flows.len(), 0);
    // The new owner in mid-flow of the old one's connection.
    let tcp = Tcp::established();
    tcp.model.end_container(0);
    let late = Tcp::sample(ACK).bytes();
    assert_eq!(
        tcp.model.container_sends(VETH_A, &late),
        Err(DropReason::NoFlow)
    );
    assert_eq!(tcp.model.flows.len(), 0);
    // Its own connection from the same port is its own.
    let tcp = Tcp::established();
    tcp.model.end_container(0);
    tcp.out(SYN);
    let (_, flow, _) = tcp.model.connection();
    assert_eq!((flow.generation, flow.state), (1, FlowState::SynSent));
}

#[test]
fn a_client_of_a_gone_container_starts_anew() {
    let model = Model::new();
    model.publish(Proto::Udp, V4.any, 8080, V4.a, 80);
    let sample = Sample::new(V4.remote, V4.uplink, L4::Udp(50_000, 8080));
    model.inward(&sample);
    model.end_container(0);
    // The port now leads to another container.
    model.publish(Proto::Udp, V4.any, 8080, V4.b, 80);
    assert_eq!(model.inward(&sample).sample().dst, ip(V4.b));
    let (_, flow, _) = model.connection();
    assert_eq!((flow.slot, flow.generation), (1, 0));
}

#[test]
fn an_old_half_does_not_take_another_flows_half_with_it() {
    // A's flow through the only port; A goes; B gets the port, and with it the key of the
    // answers. Then A's address has a new owner, who uses the old port again.
    for by_sweep in [false, true] {
        let mut model = Model::new();
        model.snat_ports(30_000, 30_000);
        let a = Sample::new(V4.a, V4.remote, L4::Udp(1000, 53));
        let b = Sample::new(V4.b, V4.remote, L4::Udp(1000, 53));
        model.out(&a);
        let (old, _, _) = model.connection();
        model.end_container(0);
        let from_b = model
            .container_sends(VETH_B, &b.bytes())
            .unwrap()
            .sent()
            .sample();
        assert_eq!(from_b.ports().0, 30_000);
        if by_sweep {
            assert!(remove_if_idle(&model, &old));
        } else {
            let outcome = model.container_sends(VETH_A, &a.bytes());
            assert_eq!(outcome, Err(DropReason::SnatPortsExhausted));
        }
        assert_eq!(model.inward(&from_b.answer(0)).sample().dst, b.src);
        assert_eq!(model.connections().len(), 1);
    }
}

#[test]
fn a_lonely_half_is_removed_when_idle() {
    for lost in [Direction::Original, Direction::Reply] {
        let tcp = Tcp::established();
        let (key, flow, _) = tcp.model.connection();
        let keys: [Tuple; 2] = [key, flow.other_key(&key)];
        let (gone, left) = match lost {
            Direction::Original => (keys[0], keys[1]),
            Direction::Reply => (keys[1], keys[0]),
        };
        tcp.model.flows.remove(&gone);
        assert!(!remove_if_idle(&tcp.model, &left));
        tcp.model.pass_seconds(8001);
        assert!(remove_if_idle(&tcp.model, &left));
        assert_eq!(tcp.model.flows.len(), 0);
    }
}
