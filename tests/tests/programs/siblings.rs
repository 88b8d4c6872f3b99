//! Containers with several interfaces: packets that leave by one with the address of another.

use netpath_tests::packets::{ACK, L4, SYN, Sample, arp};
use netpath_tests::progrun::{
    Action, At, FAMILIES, MAC_A, MAC_B, MAC_GATEWAY, MAC_RED, V4, from_a, on_host,
};

/// The interface in network 1 of the container that is in network 2 as well.
const FIRST: At = At::Container(0);
/// Its interface in network 2.
const SECOND: At = At::Container(2);

#[test]
fn packets_with_a_siblings_address_are_the_siblings() {
    on_host(|host| {
        host.share_namespace();
        for family in FAMILIES {
            let opening = Sample::new(family.red, family.remote, L4::Tcp(1000, 443, SYN));
            let outside = host.run(FIRST, &from_a(&opening).bytes()).sent();
            // The answer arrives where the address is.
            let back = host.inward(&outside.answer(SYN | ACK));
            assert_eq!((back.dst, back.mac_dst), (opening.src, MAC_RED));
            // One connection, whichever way its packets leave.
            let next = Sample::new(family.red, family.remote, L4::Tcp(1000, 443, ACK));
            let by_first = host.run(FIRST, &from_a(&next).bytes()).sent();
            let by_second = host
                .run(SECOND, &next.clone().macs(MAC_RED, MAC_GATEWAY).bytes())
                .sent();
            // Where the next hop is, is the kernel's to say.
            assert_eq!(
                by_first.macs([0; 6], [0; 6]),
                by_second.macs([0; 6], [0; 6])
            );
            // What is for the host is the other gateway's, by its MAC address as well.
            let hosts = Sample::new(family.red, family.uplink, L4::Udp(1000, 2000));
            let run = host.run(FIRST, &from_a(&hosts).bytes());
            assert_eq!(run.action, Action::Redirect, "{:?}", run.reason);
            assert_eq!(run.frame[..6], netpath_tests::progrun::MAC_GATEWAY_RED);
            // A neighbour of the first network is a stranger for this address.
            let near = Sample::new(family.red, family.b, L4::Udp(1000, 2000));
            host.run(FIRST, &from_a(&near).bytes())
                .dropped("other_network");
            for foreign in [family.b, family.gateway, family.nobody] {
                let frame = Sample::new(foreign, family.remote, L4::Udp(1000, 2000));
                host.run(FIRST, &from_a(&frame).bytes())
                    .dropped("spoofed_source");
            }
            // Others are no siblings.
            let spoofed = Sample::new(family.red, family.remote, L4::Udp(1000, 2000));
            host.run(At::Container(1), &spoofed.macs(MAC_B, MAC_GATEWAY).bytes())
                .dropped("spoofed_source");
        }
        assert_eq!(host.flows().len(), 2, "one a family");
    });
}

#[test]
fn neighbours_are_asked_for_with_a_siblings_address() {
    on_host(|host| {
        let ask = arp(1, MAC_A, V4.red, [0; 6], V4.gateway);
        host.run(FIRST, &ask).dropped("spoofed_source");
        host.share_namespace();
        assert_eq!(host.run(FIRST, &ask).action, Action::Redirect);
        let lie = arp(1, MAC_A, V4.b, [0; 6], V4.gateway);
        host.run(FIRST, &lie).dropped("spoofed_source");
        let other = arp(1, MAC_B, V4.red, [0; 6], V4.gateway);
        host.run(At::Container(1), &other).dropped("spoofed_source");
    });
}
