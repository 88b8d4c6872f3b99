//! Sockets of the host itself with ports of the masqueraded ones.

use std::net::{TcpListener, UdpSocket};

use netpath_tests::packets::{L4, SYN, Sample};
use netpath_tests::progrun::{At, FAMILIES, Family, Host, Options, V4, from_a, on_host_with};

/// Two ports, so that there is no choice when the host has one.
const PORTS: (u16, u16) = (20_000, 20_001);

fn options() -> Options {
    Options {
        snat_ports: PORTS,
        ..Options::default()
    }
}

/// The port with which a container's first packet leaves.
fn port_of(host: &mut Host, family: &Family, l4: L4) -> u16 {
    host.out(&Sample::new(family.a, family.remote, l4))
        .ports()
        .0
}

#[test]
fn a_flow_never_gets_a_port_of_a_socket_of_the_host() {
    for wildcard in [true, false] {
        on_host_with(options(), |host| {
            for family in FAMILIES {
                let address = if wildcard { family.any } else { family.uplink };
                let tcp = TcpListener::bind((address, PORTS.0)).expect("a listener");
                let udp = UdpSocket::bind((address, PORTS.0)).expect("a socket");
                // The port is even the one that the container has.
                let asked = [L4::Tcp(PORTS.0, 443, SYN), L4::Udp(PORTS.0, 53)];
                for l4 in asked {
                    assert_eq!(port_of(host, &family, l4), PORTS.1, "{address} {l4:?}");
                }
                drop((tcp, udp));
                // Without the sockets the port is given out as ever.
                for l4 in [L4::Tcp(PORTS.0, 444, SYN), L4::Udp(PORTS.0, 54)] {
                    assert_eq!(port_of(host, &family, l4), PORTS.0, "{address} {l4:?}");
                }
            }
        });
    }
}

#[test]
fn when_the_host_has_all_ports_none_is_left() {
    on_host_with(options(), |host| {
        let sockets: Vec<UdpSocket> = (PORTS.0..=PORTS.1)
            .map(|port| UdpSocket::bind(("0.0.0.0", port)).expect("a socket"))
            .collect();
        let sample = Sample::new(V4.a, V4.remote, L4::Udp(1000, 53));
        let run = host.run(At::Container(0), &from_a(&sample).bytes());
        run.dropped("snat_ports_exhausted");
        drop(sockets);
        let sent = host.out(&Sample::new(V4.a, V4.remote, L4::Udp(1000, 53)));
        assert!((PORTS.0..=PORTS.1).contains(&sent.ports().0));
    });
}

#[test]
fn a_connection_of_the_host_takes_one_tuple_only() {
    on_host_with(options(), |host| {
        // Connected to somebody else: the container's flow is another tuple.
        let udp = UdpSocket::bind((V4.uplink, PORTS.0)).expect("a socket");
        udp.connect(("192.0.2.77", 53)).expect("a peer");
        assert_eq!(port_of(host, &V4, L4::Udp(PORTS.0, 53)), PORTS.0);
        udp.connect((V4.remote, 99)).expect("a peer");
        assert_eq!(port_of(host, &V4, L4::Udp(PORTS.0, 99)), PORTS.1);
    });
}
