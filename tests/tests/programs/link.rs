//! The short way between containers of one network, judged by the long one.

use netpath::datapath::Keep;
use netpath_tests::packets::{
    ACK, L4, SYN, Sample, arp, fix_ipv4_checksum, icmpv6, insert_extensions, make_fragment,
    solicitation,
};
use netpath_tests::progrun::{
    Action, At, FAMILIES, Family, Host, MAC_A, MAC_B, MAC_GATEWAY, MAC_RED, V4, V6, on_host,
};

/// With the short way, and without it.
const WITH: At = At::Container(0);
const WITHOUT: At = At::Beyond(0);
const UDP: L4 = L4::Udp(1000, 2000);
const TCP: L4 = L4::Tcp(1000, 2000, ACK);

fn to_b(family: Family, l4: L4) -> Vec<u8> {
    let sample = Sample::new(family.a, family.b, l4);
    sample.macs(MAC_A, MAC_B).bytes()
}

/// Runs both ways on a frame: the outcome must be the same. Returns whether it was delivered.
fn both(host: &mut Host, frame: &[u8]) -> bool {
    let with = host.run(WITH, frame);
    let without = host.run(WITHOUT, frame);
    assert_eq!(with, without, "{frame:02x?}");
    with.action == Action::Redirect
}

/// Packets that went the short way are counted like all others; which way it was shows in time
/// only, or when the places of the short way are taken away.
#[test]
fn neighbours_get_their_packets_by_the_short_way() {
    on_host(|host| {
        let mut frames = vec![
            Sample::new("fe80::2", "fe80::3", UDP)
                .macs(MAC_A, MAC_B)
                .bytes(),
        ];
        for family in FAMILIES {
            for l4 in [TCP, L4::Tcp(1, 2, SYN), UDP] {
                frames.push(to_b(family, l4));
            }
        }
        // Without their entries in the hash maps, only the short way knows them.
        let endpoints = host.endpoints();
        host.forget_endpoints();
        for (count, frame) in (1..).zip(&frames) {
            host.run(WITHOUT, frame).dropped("unknown_endpoint");
            let run = host.run(WITH, frame);
            assert_eq!((run.action, &run.frame), (Action::Redirect, frame));
            assert_eq!(host.counter("container", "to_container"), count);
            assert_eq!(host.counter("container", "seen"), 2 * count);
        }
        for spec in endpoints {
            host.datapath.add_endpoint(&spec).expect("added again");
        }
        assert!(frames.iter().all(|frame| both(host, frame)));
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
            both(host, &frame);
        }
    });
}

/// Every byte of the headers, with values that mean something somewhere.
#[test]
fn the_short_way_delivers_nothing_that_the_long_one_would_not() {
    const VALUES: [u8; 14] = [
        0, 1, 4, 6, 17, 20, 44, 58, 0x40, 0x45, 0x46, 0x60, 0x81, 0xff,
    ];
    on_host(|host| {
        let mut delivered = 0;
        for family in FAMILIES {
            for l4 in [TCP, UDP] {
                let frame = to_b(family, l4);
                for at in 6..frame.len().min(60) {
                    for value in VALUES {
                        let mut damaged = frame.clone();
                        damaged[at] = value;
                        delivered += u32::from(both(host, &damaged));
                        if family.a == V4.a {
                            fix_ipv4_checksum(&mut damaged);
                            delivered += u32::from(both(host, &damaged));
                        }
                    }
                }
                let least = if family.a == V4.a { 34 } else { 54 };
                for len in least..frame.len() {
                    both(host, &frame[..len]);
                }
            }
        }
        let mut fragment = to_b(V4, UDP);
        make_fragment(&mut fragment, false, 185);
        assert!(both(host, &fragment));
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
        assert!(both(host, &frame));
        host.datapath.add_endpoint(&spec).expect("added");
        assert!(both(host, &frame));
        host.datapath.remove_endpoint(spec.ifindex).expect("gone");
        assert!(both(host, &frame));
        assert!(both(host, &to_b(V6, UDP)));
        let b = host.veths[1];
        host.datapath.remove_endpoint(b).expect("gone");
        for family in FAMILIES {
            let frame = to_b(family, UDP);
            assert!(!both(host, &frame));
            host.run(WITH, &frame).dropped("no_such_neighbour");
        }
    });
}

#[test]
fn a_new_load_goes_on_in_its_own_programs() {
    on_host(|host| {
        let out = Sample::new(V4.a, V4.remote, UDP).macs(MAC_A, MAC_GATEWAY);
        let stages = |host: &Host| {
            let names = std::fs::read_dir(host.folder()).expect("a folder");
            let names = names.map(|entry| entry.expect("an entry").file_name());
            let mut names: Vec<_> = names
                .filter_map(|name| name.into_string().ok())
                .filter(|name| name.starts_with("stages-"))
                .collect();
            names.sort();
            names
        };
        let first = stages(host);
        assert_eq!(first.len(), 1);
        host.reopen();
        assert_eq!(stages(host).len(), 2);
        assert_eq!(host.run(WITH, &out.bytes()).action, Action::Redirect);
        let keep = Keep {
            uplinks: vec![host.uplink],
            gateways: host.gateways.to_vec(),
            veths: host.veths.to_vec(),
            ports: vec![],
            ..Keep::default()
        };
        host.datapath.retain(&keep).expect("retained");
        let second = stages(host);
        assert_eq!(second.len(), 1);
        assert_ne!(first, second);
        assert_eq!(host.run(WITH, &out.bytes()).action, Action::Redirect);
    });
}
