//! The container program: who may send what to whom.

use netpath_tests::lab::eventually;
use netpath_tests::packets::{ACK, L4, SYN, Sample, insert_extensions, make_fragment};
use netpath_tests::progrun::{
    Action, At, FAMILIES, Host, MAC_A, MAC_B, MAC_RED, V4, V6, from_a, on_host,
};
use netpath_tests::wire::Wire;

const A: At = At::Container(0);
const UDP: L4 = L4::Udp(1000, 2000);

fn a(src: &str, dst: &str, l4: L4) -> Vec<u8> {
    from_a(&Sample::new(src, dst, l4)).bytes()
}

#[test]
fn spoofed_sources_are_dropped_and_counted() {
    on_host(|host| {
        for family in FAMILIES {
            for src in [
                family.b,
                family.red,
                family.gateway,
                family.remote,
                family.any,
            ] {
                for dst in [family.b, family.remote, family.gateway] {
                    host.run(A, &a(src, dst, UDP)).dropped("spoofed_source");
                }
            }
            // The right address from the wrong MAC address, and from the wrong device.
            for mac in [MAC_B, MAC_RED, [0; 6]] {
                let sample = Sample::new(family.a, family.b, UDP).macs(mac, MAC_B);
                host.run(A, &sample.bytes()).dropped("spoofed_source");
            }
            host.run(At::Container(1), &a(family.a, family.b, UDP))
                .dropped("spoofed_source");
        }
        host.run(A, &a("fe80::9", "fe80::3", UDP))
            .dropped("spoofed_source");
        let dropped = host.counter("container", "dropped");
        assert_eq!(dropped, host.drops("container")["spoofed_source"]);
        assert_eq!(host.flows(), []);
    });
}

#[test]
fn neighbours_get_frames_without_any_change() {
    on_host(|host| {
        let mut count = 0;
        let mut deliver = |host: &mut Host, frame: &[u8]| {
            let run = host.run(A, frame);
            assert_eq!(
                (run.action, run.reason.as_deref()),
                (Action::Redirect, None)
            );
            assert_eq!(run.frame, frame);
            count += 1;
            assert_eq!(host.counter("container", "to_container"), count);
        };
        for family in FAMILIES {
            for l4 in [
                UDP,
                L4::Tcp(1, 2, SYN),
                L4::Tcp(1, 2, ACK),
                L4::Request(1),
                L4::Reply(1),
            ] {
                let sample = Sample::new(family.a, family.b, l4).macs(MAC_A, MAC_B);
                deliver(host, &sample.bytes());
                deliver(host, &sample.ttl(1).bytes());
            }
        }
        deliver(host, &a("fe80::2", "fe80::3", UDP));
        deliver(
            host,
            &Sample::new(V4.a, V4.b, UDP)
                .macs(MAC_A, MAC_B)
                .with_options(10),
        );
        let mut fragment = a(V4.a, V4.b, UDP);
        make_fragment(&mut fragment, false, 185);
        deliver(host, &fragment);
        for chain in [[0].as_slice(), &[44], &[0, 60, 43, 60]] {
            let mut frame = a(V6.a, V6.b, UDP);
            insert_extensions(&mut frame, chain);
            deliver(host, &frame);
        }
        assert_eq!(host.flows(), []);
    });
}

#[test]
fn who_is_not_there_and_who_is_elsewhere() {
    on_host(|host| {
        for family in FAMILIES {
            for l4 in [UDP, L4::Tcp(1, 2, SYN), L4::Tcp(1, 2, ACK), L4::Request(1)] {
                host.run(A, &a(family.a, family.nobody, l4))
                    .dropped("no_such_neighbour");
                host.run(A, &a(family.a, family.red, l4))
                    .dropped("other_network");
                let sample = Sample::new(family.red, family.a, l4).macs(MAC_RED, MAC_A);
                host.run(At::Container(2), &sample.bytes())
                    .dropped("other_network");
            }
        }
        // Link-local addresses are each network's own.
        let sample = Sample::new("fe80::2", "fe80::3", UDP).macs(MAC_RED, MAC_B);
        host.run(At::Container(2), &sample.bytes())
            .dropped("no_such_neighbour");
        for (src, group) in [
            (V4.a, "224.0.0.251"),
            (V4.a, "255.255.255.255"),
            (V6.a, "ff02::1"),
            ("fe80::2", "ff02::fb"),
        ] {
            host.run(A, &a(src, group, UDP)).dropped("multicast");
        }
        assert_eq!(host.flows(), []);
    });
}

#[test]
fn what_is_for_the_host_goes_to_the_gateway_device_unchanged() {
    on_host(|host| {
        for family in FAMILIES {
            for dst in [family.gateway, family.uplink] {
                for l4 in [UDP, L4::Tcp(1, 2, SYN), L4::Tcp(1, 2, ACK), L4::Request(1)] {
                    let frame = a(family.a, dst, l4);
                    let run = host.run(A, &frame);
                    assert_eq!((run.action, &run.frame), (Action::Redirect, &frame));
                }
            }
            // Time that runs out here is the stack's to tell.
            for ttl in [0, 1] {
                let frame = from_a(&Sample::new(family.a, family.remote, UDP).ttl(ttl)).bytes();
                let run = host.run(A, &frame);
                assert_eq!((run.action, &run.frame), (Action::Redirect, &frame));
            }
        }
        assert_eq!(host.counter("container", "to_host"), 20);
        assert_eq!(host.flows(), []);
    });
}

#[test]
fn other_ethertypes_are_dropped() {
    on_host(|host| {
        let good = a(V4.a, V4.remote, UDP);
        // VLAN (both), PPPoE, MPLS, LLDP, EAPOL, a length (IEEE 802.3), experimental.
        for kind in [
            0x8100u16, 0x88a8, 0x8864, 0x8847, 0x88cc, 0x888e, 0x0040, 0x88b5,
        ] {
            let mut frame = good.clone();
            frame[12..14].copy_from_slice(&kind.to_be_bytes());
            host.run(A, &frame).dropped("unknown_ether_type");
        }
        // A whole tagged frame.
        let mut frame = good.clone();
        frame.splice(12..12, [0x81, 0x00, 0x00, 0x64]);
        host.run(A, &frame).dropped("unknown_ether_type");
        // Type and content do not agree.
        let mut frame = good.clone();
        frame[12..14].copy_from_slice(&0x86ddu16.to_be_bytes());
        frame.resize(80, 0);
        host.run(A, &frame).dropped("malformed");
    });
}

#[test]
fn a_device_of_no_endpoint_reaches_nobody() {
    on_host(|host| {
        let veth = host.veths[0];
        host.datapath.remove_endpoint(veth).unwrap();
        for dst in [V4.b, V4.gateway, V4.remote] {
            host.run(A, &a(V4.a, dst, UDP)).dropped("unknown_endpoint");
        }
        // And nobody reaches it.
        let sample = Sample::new(V4.b, V4.a, UDP).macs(MAC_B, MAC_A);
        host.run(At::Container(1), &sample.bytes())
            .dropped("no_such_neighbour");
    });
}

/// The kernel takes a tag out of the frame before the program sees it, so this goes by wire.
#[test]
fn a_container_cannot_choose_a_vlan() {
    on_host(|host| {
        let wire = Wire::open("cont1");
        for dst in [V4.b, V4.gateway, V4.remote] {
            let mut frame = a(V4.a, dst, UDP);
            frame.splice(12..12, [0x81, 0x00, 0x00, 0x64]);
            wire.send(&frame);
        }
        eventually("all are counted", || host.counter("container", "seen") == 3);
        assert_eq!(host.drops("container").get("unknown_ether_type"), Some(&3));
        assert_eq!(
            host.counter("container", "dropped"),
            host.counter("container", "seen")
        );
        assert_eq!(host.flows(), []);
        // The same without a tag does get out.
        wire.send(&a(V4.a, V4.remote, UDP));
        eventually("there is a flow", || host.flows().len() == 1);
    });
}

/// The uplink's tagged packets belong to its VLAN devices.
#[test]
fn a_vlans_packets_do_not_reach_published_ports() {
    on_host(|host| {
        host.publish(netpath_common::tuple::Proto::Udp, V4.any, 8080, 0, 80);
        let wire = Wire::open("up0-far");
        let plain = Sample::new(V4.remote, V4.uplink, L4::Udp(5, 8080));
        let plain = plain.macs([2, 0, 0, 0, 9, 9], host.mac("up0")).bytes();
        let mut tagged = plain.clone();
        tagged.splice(12..12, [0x81, 0x00, 0x00, 0x64]);
        wire.send(&tagged);
        eventually("it is counted", || host.counter("uplink", "to_host") == 1);
        assert_eq!(host.flows(), []);
        wire.send(&plain);
        eventually("there is a flow", || host.flows().len() == 1);
    });
}

#[test]
fn frames_shorter_than_an_ip_header_are_dropped() {
    on_host(|host| {
        let wire = Wire::open("cont1");
        let mut sent = 0;
        for frame in [a(V4.a, V4.remote, UDP), a(V6.a, V6.remote, UDP)] {
            let header = if frame[12] == 8 { 34 } else { 54 };
            for len in 15..header {
                wire.send(&frame[..len]);
                sent += 1;
            }
        }
        eventually("all are counted", || {
            host.counter("container", "seen") == sent
        });
        assert_eq!(host.drops("container").get("malformed"), Some(&sent));
    });
}
