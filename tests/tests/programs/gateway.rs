//! The gateway program: what the host sends to containers.

use netpath_tests::packets::{ACK, L4, SYN, Sample};
use netpath_tests::progrun::{Action, At, FAMILIES, MAC_A, MAC_B, MAC_GATEWAY, V4, V6, on_host};

const OWN: At = At::Gateway(false);
const FORWARDED: At = At::Gateway(true);

#[test]
fn the_hosts_packets_get_their_mac_addresses() {
    on_host(|host| {
        for family in FAMILIES {
            for (dst, mac) in [(family.a, MAC_A), (family.b, MAC_B)] {
                for l4 in [
                    L4::Udp(1, 2),
                    L4::Tcp(1, 2, SYN),
                    L4::Tcp(1, 2, ACK),
                    L4::Reply(3),
                ] {
                    let sample = Sample::new(family.gateway, dst, l4).macs([0; 6], [0; 6]);
                    let sent = host.run(OWN, &sample.bytes()).sent();
                    // The host's own packets lose no time to live on their way.
                    assert_eq!(sent, sample.macs(MAC_GATEWAY, mac));
                }
            }
        }
        let local = Sample::new("fe80::1", "fe80::2", L4::Udp(1, 2));
        assert_eq!(host.run(OWN, &local.bytes()).sent().mac_dst, MAC_A);
        assert_eq!(host.counter("gateway", "to_container"), 17);
    });
}

#[test]
fn the_host_forwards_nobody_elses_packets() {
    on_host(|host| {
        for family in FAMILIES {
            for l4 in [
                L4::Udp(1, 2),
                L4::Tcp(1, 2, SYN),
                L4::Tcp(1, 2, ACK),
                L4::Reply(3),
            ] {
                let frame = Sample::new(family.remote, family.a, l4).bytes();
                host.run(FORWARDED, &frame).dropped("direct_routing");
            }
        }
    });
}

#[test]
fn what_has_no_receiver_is_dropped() {
    on_host(|host| {
        for family in FAMILIES {
            let frame = Sample::new(family.gateway, family.nobody, L4::Udp(1, 2)).bytes();
            host.run(OWN, &frame).dropped("no_such_neighbour");
            // The other network's container, by this network's gateway.
            let frame = Sample::new(family.gateway, family.red, L4::Udp(1, 2)).bytes();
            host.run(OWN, &frame).dropped("no_such_neighbour");
        }
        for (src, dst) in [(V4.gateway, "224.0.0.1"), (V6.gateway, "ff02::1")] {
            let frame = Sample::new(src, dst, L4::Udp(1, 2)).bytes();
            host.run(OWN, &frame).dropped("multicast");
        }
        let arp = netpath_tests::packets::arp(1, MAC_GATEWAY, V4.gateway, [0; 6], V4.a);
        host.run(OWN, &arp).dropped("unknown_ether_type");
    });
}

#[test]
fn a_gateway_of_no_network_is_closed() {
    on_host(|host| {
        let [network, _] = host.networks();
        host.datapath.remove_network(&network).unwrap();
        let frame = Sample::new(V4.gateway, V4.a, L4::Udp(1, 2)).bytes();
        let run = host.run(OWN, &frame);
        run.dropped("unknown_endpoint");
        assert_eq!(run.action, Action::Drop);
    });
}
