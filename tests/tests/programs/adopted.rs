//! Networks of somebody else: whatever is not handled goes up to the stack as it came.

use std::collections::HashSet;

use netpath::datapath::PortSpec;
use netpath_common::policy::{ADOPTED, ICC_OFF, INTERNAL, Policy};
use netpath_common::tuple::{OUTSIDE, Proto, Tuple};
use netpath_tests::packets::{ACK, ETH, L4, SYN, Sample, ip};
use netpath_tests::progrun::{
    Action, At, FAMILIES, Host, MAC_A, MAC_B, MAC_GATEWAY, Options, V4, from_a, on_host,
    on_host_with,
};

const A: At = At::Container(0);
const UDP: L4 = L4::Udp(1000, 2000);

/// Makes the first network an adopted one, whose containers have these flags.
fn adopt(host: &mut Host, flags: u8) {
    let [network, _] = host.networks();
    host.datapath.remove_network(&network).expect("removed");
    let policy = Policy {
        flags: ADOPTED,
        ..Policy::default()
    };
    let subnets = &network.subnets;
    host.datapath
        .add_adopted(1, policy, subnets)
        .expect("adopted");
    let [a, b, _] = host.endpoints();
    for mut spec in [a, b] {
        spec.flags = ADOPTED | flags;
        host.datapath.add_endpoint(&spec).expect("an endpoint");
    }
}

/// Makes both networks adopted ones.
fn adopt_both(host: &mut Host) {
    adopt(host, 0);
    let [_, network] = host.networks();
    host.datapath.remove_network(&network).expect("removed");
    let policy = Policy {
        flags: ADOPTED,
        ..Policy::default()
    };
    let subnets = &network.subnets;
    host.datapath
        .add_adopted(2, policy, subnets)
        .expect("adopted");
    let [.., mut red] = host.endpoints();
    red.flags = ADOPTED;
    host.datapath.add_endpoint(&red).expect("an endpoint");
}

fn a(src: &str, dst: &str, l4: L4) -> Vec<u8> {
    from_a(&Sample::new(src, dst, l4)).bytes()
}

/// [`Host::run`] asserts that a frame that is passed on is unchanged.
#[track_caller]
fn passes(host: &mut Host, at: At, frame: &[u8]) {
    let run = host.run(at, frame);
    assert_eq!((run.action, run.reason), (Action::Pass, None));
}

#[test]
fn whatever_would_be_dropped_goes_up_unchanged() {
    on_host(|host| {
        adopt(host, 0);
        for family in FAMILIES {
            // Other people's addresses; groups; nobody; other networks; the host and its gateway;
            // connections that began before; what cannot be translated; time that has run out.
            for (src, dst, l4) in [
                (family.b, family.remote, UDP),
                (family.remote, family.b, UDP),
                (family.a, family.nobody, UDP),
                (family.a, family.red, UDP),
                (family.a, family.gateway, UDP),
                (family.a, family.uplink, L4::Tcp(1000, 22, SYN)),
                (family.a, family.unrouted, UDP),
                (family.a, family.remote, L4::Tcp(1000, 80, ACK)),
                (family.a, family.remote, L4::Reply(1)),
            ] {
                passes(host, A, &a(src, dst, l4));
            }
            let hop = Sample::new(family.a, family.remote, UDP).ttl(1);
            passes(host, A, &from_a(&hop).bytes());
            let mac = Sample::new(family.a, family.b, UDP).macs(MAC_B, MAC_A);
            passes(host, A, &mac.bytes());
        }
        passes(host, A, &a(V4.a, "224.0.0.251", UDP));
        passes(host, A, &a(V4.a, "255.255.255.255", UDP));
        passes(host, A, &a("fe80::2", "ff02::1", UDP));
        // What nobody can read.
        let frame = a(V4.a, V4.b, UDP);
        for length in [ETH + 20, ETH + 27] {
            passes(host, A, &frame[..length]);
        }
        assert_eq!(host.flows(), []);
        assert_eq!(host.counter("container", "dropped"), 0);
    });
}

#[test]
fn neighbours_answer_for_themselves() {
    on_host(|host| {
        adopt(host, 0);
        let mut request = vec![0xff; 6];
        request.extend(MAC_A);
        request.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        request.extend(MAC_A);
        request.extend([10, 1, 0, 2, 0, 0, 0, 0, 0, 0, 10, 1, 0, 3]);
        passes(host, A, &request);
        assert_eq!(host.counter("container", "answered"), 0);
    });
}

#[test]
fn new_connections_are_served() {
    on_host(|host| {
        adopt(host, 0);
        for family in FAMILIES {
            let neighbour = Sample::new(family.a, family.b, UDP)
                .macs(MAC_A, MAC_B)
                .bytes();
            let run = host.run(A, &neighbour);
            assert_eq!((run.action, &run.frame), (Action::Redirect, &neighbour));
            let out = host.out(&Sample::new(family.a, family.remote, UDP));
            assert_eq!(out.src, ip(family.uplink));
            let back = host.inward(&out.answer(0));
            assert_eq!((back.dst, back.ports()), (ip(family.a), (2000, 1000)));
            host.publish(Proto::Tcp, family.uplink, 8080, 1, 80);
            let dial = Sample::new(family.remote, family.uplink, L4::Tcp(5000, 8080, SYN));
            assert_eq!(host.inward(&dial).dst, ip(family.b));
            // By its own address it is the stack's.
            passes(
                host,
                At::Uplink,
                &Sample::new(family.remote, family.a, UDP).bytes(),
            );
        }
    });
}

#[test]
fn what_leaves_by_another_interface_of_the_container_is_answered() {
    on_host(|host| {
        host.share_namespace();
        adopt_both(host);
        for family in FAMILIES {
            let [.., red] = host.endpoints();
            let port = PortSpec {
                host_ip: ip(family.uplink),
                proto: Proto::Tcp,
                host_port: 8080,
                endpoint_ifindex: red.ifindex,
                container_ip: ip(family.red),
                container_port: 80,
            };
            host.datapath.publish(&[port]).expect("published");
            // A neighbour of its first interface dials the port that leads to the second one.
            let dial = Sample::new(family.b, family.uplink, L4::Tcp(1000, 8080, SYN));
            let dial = dial.macs(MAC_B, MAC_GATEWAY);
            let inside = host.run(At::Container(1), &dial.bytes()).sent();
            assert_eq!((inside.src, inside.dst), (dial.src, ip(family.red)));
            // The kernel answers by the interface that is nearer to the neighbour.
            let answer = Sample::new(family.red, family.b, L4::Tcp(80, 1000, SYN | ACK));
            let back = host.run(A, &from_a(&answer).bytes()).sent();
            assert_eq!((back.src, back.dst), (dial.dst, dial.src));
            assert_eq!(back.ports(), (8080, 1000));
            // Without a connection it goes up as it came.
            let stray = Sample::new(family.red, family.b, L4::Tcp(81, 1000, ACK));
            passes(host, A, &from_a(&stray).bytes());
            passes(host, A, &a(family.nobody, family.b, UDP));
        }
    });
}

#[test]
fn what_is_refused_is_the_stacks_and_known_connections_go_on() {
    on_host(|host| {
        adopt(host, 0);
        let known = Sample::new(V4.a, V4.remote, UDP);
        let out = host.out(&known);
        adopt(host, INTERNAL | ICC_OFF);
        passes(host, A, &a(V4.a, V4.b, UDP));
        passes(host, A, &a(V4.a, V4.remote, L4::Udp(1001, 2000)));
        passes(host, A, &a(V4.a, V4.uplink, L4::Tcp(1001, 8080, SYN)));
        assert_eq!(host.out(&known).ports(), out.ports());
        assert_eq!(host.inward(&out.answer(0)).dst, ip(V4.a));
    });
}

#[test]
fn the_kernels_connections_stay_the_kernels() {
    on_host(|host| {
        adopt(host, 0);
        host.publish(Proto::Udp, V4.uplink, 8080, 0, 80);
        let tuple = |src: &str, dst: &str, network, ports: (u16, u16)| Tuple {
            src: ip(src).into(),
            dst: ip(dst).into(),
            src_port: ports.0,
            dst_port: ports.1,
            network,
            proto: Proto::Udp,
            reserved: 0,
        };
        let own = HashSet::from([
            tuple(V4.a, V4.remote, 1, (1000, 2000)),
            tuple(V4.remote, V4.uplink, OUTSIDE, (5000, 8080)),
        ]);
        assert_eq!(host.datapath.leave_to_kernel(&own).unwrap(), 0);
        passes(host, A, &a(V4.a, V4.remote, UDP));
        let dial = Sample::new(V4.remote, V4.uplink, L4::Udp(5000, 8080));
        passes(host, At::Uplink, &dial.bytes());
        assert_eq!(
            host.datapath.retain_kernel_flows(&HashSet::new()).unwrap(),
            0
        );
        host.out(&Sample::new(V4.a, V4.remote, UDP));
        host.inward(&dial);
    });
}

#[test]
fn a_full_table_leaves_connections_to_the_stack() {
    let options = Options {
        max_flows: 1,
        ..Options::default()
    };
    on_host_with(options, |host| {
        adopt(host, 0);
        host.publish(Proto::Tcp, V4.uplink, 8080, 0, 80);
        host.out(&Sample::new(V4.a, V4.remote, UDP));
        passes(host, A, &a(V4.a, V4.remote, L4::Udp(1001, 2000)));
        let dial = Sample::new(V4.remote, V4.uplink, L4::Tcp(5000, 8080, SYN));
        passes(host, At::Uplink, &dial.bytes());
        let [flow] = &host.flows()[..] else {
            panic!("{:?}", host.flows());
        };
        assert_eq!(flow.proto, "udp");
    });
}
