//! The short way between containers of one network, judged by the long one.

use netpath_tests::packets::{
    ACK, L4, SYN, Sample, arp, fix_ipv4_checksum, icmpv6, insert_extensions, make_fragment,
    solicitation,
};
use netpath_tests::progrun::{
    Action, At, FAMILIES, Family, MAC_A, MAC_B, MAC_GATEWAY, MAC_RED, V4, V6, on_host,
};

const SHORT: At = At::Link(0);
const LONG: At = At::Container(0);
const UDP: L4 = L4::Udp(1000, 2000);
const TCP: L4 = L4::Tcp(1000, 2000, ACK);

fn to_b(family: Family, l4: L4) -> Vec<u8> {
    let sample = Sample::new(family.a, family.b, l4);
    sample.macs(MAC_A, MAC_B).bytes()
}

#[test]
fn neighbours_get_their_packets_by_the_short_way() {
    on_host(|host| {
        let mut count = 0;
        for family in FAMILIES {
            for l4 in [TCP, L4::Tcp(1, 2, SYN), UDP] {
                let frame = to_b(family, l4);
                let run = host.run(SHORT, &frame);
                assert_eq!((run.action, &run.frame), (Action::Redirect, &frame));
                count += 1;
                for counter in ["seen", "to_container"] {
                    assert_eq!(host.counter("container", counter), count);
                }
            }
        }
        let link_local = Sample::new("fe80::2", "fe80::3", UDP).macs(MAC_A, MAC_B);
        assert_eq!(
            host.run(SHORT, &link_local.bytes()).action,
            Action::Redirect
        );
    });
}

#[test]
fn all_else_is_left_to_the_long_way() {
    on_host(|host| {
        let mut frames = Vec::new();
        for family in FAMILIES {
            for (src, dst) in [
                (family.a, family.remote),
                (family.a, family.gateway),
                (family.a, family.red),
                (family.a, family.nobody),
                (family.b, family.a),
                (family.red, family.b),
                (family.any, family.b),
            ] {
                frames.push(Sample::new(src, dst, UDP).macs(MAC_A, MAC_B).bytes());
            }
            for mac in [MAC_B, MAC_RED, [0; 6]] {
                let sample = Sample::new(family.a, family.b, UDP).macs(mac, MAC_B);
                frames.push(sample.bytes());
            }
        }
        for chain in [[0].as_slice(), &[44], &[0, 60, 43, 60]] {
            let mut frame = to_b(V6, UDP);
            insert_extensions(&mut frame, chain);
            frames.push(frame);
        }
        frames.push(to_b(V6, L4::Request(1)));
        frames.push(arp(1, MAC_A, V4.a, [0; 6], V4.b));
        let body = solicitation(V6.b, &[1, 1, 2, 0, 0, 0, 0, 2]);
        frames.push(icmpv6([MAC_A, MAC_B], V6.a, "ff02::1:ff00:3", 135, &body));
        for frame in frames {
            assert_eq!(host.run(SHORT, &frame).action, Action::Pass, "{frame:02x?}");
        }
        assert_eq!(host.counter("container", "seen"), 0);
    });
}

/// Every byte of the headers, with values that mean something somewhere: whatever the short way
/// delivers, the long one delivers as well, and no byte is changed.
#[test]
fn the_short_way_delivers_nothing_that_the_long_one_would_not() {
    const VALUES: [u8; 14] = [
        0, 1, 4, 6, 17, 20, 44, 58, 0x40, 0x45, 0x46, 0x60, 0x81, 0xff,
    ];
    on_host(|host| {
        let mut both = |frame: &[u8]| {
            let (short, out) = host.run_raw(SHORT, frame);
            assert_ne!(short, Action::Drop, "{frame:02x?}");
            assert_eq!(out, frame);
            if short == Action::Redirect {
                assert_eq!(
                    host.run_raw(LONG, frame).0,
                    Action::Redirect,
                    "{frame:02x?}"
                );
            }
            u32::from(short == Action::Redirect)
        };
        let mut delivered = 0;
        for family in FAMILIES {
            for l4 in [TCP, UDP] {
                let frame = to_b(family, l4);
                for at in 6..frame.len().min(60) {
                    for value in VALUES {
                        let mut damaged = frame.clone();
                        damaged[at] = value;
                        delivered += both(&damaged);
                        if family.a == V4.a {
                            fix_ipv4_checksum(&mut damaged);
                            delivered += both(&damaged);
                        }
                    }
                }
                for len in (if family.a == V4.a { 34 } else { 54 })..frame.len() {
                    delivered += both(&frame[..len]);
                }
            }
        }
        let mut fragment = to_b(V4, UDP);
        make_fragment(&mut fragment, false, 185);
        assert_eq!(both(&fragment), 1);
        // Ports and payloads are nobody's business here.
        assert!(delivered > 100, "only {delivered} frames were delivered");
    });
}

#[test]
fn a_place_that_is_taken_or_empty_leads_the_long_way() {
    on_host(|host| {
        // 8,192 addresses on, the places begin anew.
        let mut spec = host.endpoints()[2].clone();
        spec.network = 1;
        spec.addr4 = Some("10.1.32.3".parse().expect("an address"));
        let frame = to_b(V4, UDP);
        assert_eq!(host.run(SHORT, &frame).action, Action::Redirect);
        host.datapath.add_endpoint(&spec).expect("added");
        assert_eq!(host.run(SHORT, &frame).action, Action::Pass);
        assert_eq!(host.run(LONG, &frame).action, Action::Redirect);
        host.datapath.remove_endpoint(spec.ifindex).expect("gone");
        assert_eq!(host.run(SHORT, &frame).action, Action::Pass);
        assert_eq!(host.run(LONG, &frame).action, Action::Redirect);

        let b = host.veths[1];
        assert_eq!(host.run(SHORT, &to_b(V6, UDP)).action, Action::Redirect);
        host.datapath.remove_endpoint(b).expect("gone");
        assert_eq!(host.run(SHORT, &to_b(V6, UDP)).action, Action::Pass);
        host.run(LONG, &to_b(V6, UDP)).dropped("no_such_neighbour");
        let own = Sample::new(V4.a, V4.gateway, UDP).macs(MAC_A, MAC_GATEWAY);
        assert_eq!(host.run(SHORT, &own.bytes()).action, Action::Pass);
    });
}
