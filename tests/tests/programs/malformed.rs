//! Frames that lie about themselves.

use netpath_common::tuple::Proto;
use netpath_tests::packets::{ETH, L4, SYN, Sample, fix_ipv4_checksum, insert_extensions, ip};
use netpath_tests::progrun::{
    Action, At, FAMILIES, Family, Host, MAC_A, MAC_B, V4, V6, from_a, on_host,
};

const KINDS: [L4; 4] = [
    L4::Tcp(1000, 443, SYN),
    L4::Udp(1000, 53),
    L4::Request(1000),
    L4::Reply(1000),
];

/// The least that the kernel runs a program on by hand: an IP header.
fn least(frame: &[u8]) -> usize {
    if frame[12] == 0x08 {
        ETH + 20
    } else {
        ETH + 40
    }
}

/// Asserts that a frame of the container is dropped as malformed, both to a neighbour and out.
fn assert_refused(host: &mut Host, frame: &[u8]) {
    let run = host.run(At::Container(0), frame);
    assert_eq!(run.action, Action::Drop, "{frame:02x?}");
    assert_eq!(run.reason.as_deref(), Some("malformed"), "{frame:02x?}");
}

/// A frame of each kind from the container, with options and extension headers, to `dst`.
fn frames(dst: impl Fn(&Family) -> &'static str) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for family in FAMILIES {
        for l4 in KINDS {
            let sample = from_a(&Sample::new(family.a, dst(&family), l4));
            all.push(sample.bytes());
            if family.a == V4.a {
                all.push(sample.with_options(10));
            } else {
                let mut frame = sample.bytes();
                insert_extensions(&mut frame, &[0, 60]);
                all.push(frame);
            }
        }
    }
    all
}

#[test]
fn cut_frames_are_not_redirected_at_any_length() {
    on_host(|host| {
        for frame in [frames(|f| f.remote), frames(|f| f.b)].concat() {
            for len in least(&frame)..frame.len() {
                assert_refused(host, &frame[..len]);
            }
        }
        assert_eq!(host.flows(), []);
        assert_eq!(host.counter("container", "to_container"), 0);
    });
}

#[test]
fn cut_frames_from_the_host_are_not_redirected() {
    on_host(|host| {
        for family in FAMILIES {
            for l4 in KINDS {
                let frame = Sample::new(family.gateway, family.a, l4).bytes();
                for len in least(&frame)..frame.len() {
                    host.run(At::Gateway(false), &frame[..len])
                        .dropped("malformed");
                }
            }
        }
    });
}

#[test]
fn cut_frames_from_outside_are_the_stacks() {
    on_host(|host| {
        for family in FAMILIES {
            host.publish(Proto::Tcp, family.any, 443, 0, 443);
            host.publish(Proto::Udp, family.any, 53, 0, 53);
            for dst in [family.uplink, family.a] {
                for l4 in KINDS {
                    let frame = Sample::new(family.remote, dst, l4).bytes();
                    for len in least(&frame)..frame.len() {
                        let run = host.run(At::Uplink, &frame[..len]);
                        assert_eq!((run.action, run.reason), (Action::Pass, None));
                    }
                }
            }
        }
        assert_eq!(host.flows(), []);
    });
}

/// Headers that lie, each made from a good frame; what is wrong is in the name.
fn lies() -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for dst in [V4.remote, V4.b] {
        let good = from_a(&Sample::new(V4.a, dst, L4::Tcp(1000, 443, SYN))).bytes();
        let total = (good.len() - ETH) as u16;
        let mut add = |what: String, change: &dyn Fn(&mut [u8])| {
            let mut frame = good.clone();
            change(&mut frame[ETH..]);
            fix_ipv4_checksum(&mut frame);
            all.push((format!("{what} to {dst}"), frame));
        };
        for ihl in 0..5 {
            add(format!("IHL {ihl}"), &|ip| ip[0] = 0x40 | ihl);
        }
        for version in [0, 1, 2, 3, 5, 6, 7, 15] {
            add(format!("version {version}"), &|ip| ip[0] = version << 4 | 5);
        }
        for len in [0, 1, 19, total + 1, total + 2, 1500, 0xffff] {
            add(format!("total length {len}"), &|ip| {
                ip[2..4].copy_from_slice(&len.to_be_bytes());
            });
        }
        // A header that is longer than the packet.
        add("IHL 15".to_owned(), &|ip| {
            ip[0] = 0x4f;
            ip[2..4].copy_from_slice(&50u16.to_be_bytes());
        });
    }
    for dst in [V6.remote, V6.b] {
        let good = from_a(&Sample::new(V6.a, dst, L4::Tcp(1000, 443, SYN))).bytes();
        let payload = (good.len() - ETH - 40) as u16;
        let mut add = |what: String, change: &dyn Fn(&mut [u8])| {
            let mut frame = good.clone();
            change(&mut frame[ETH..]);
            all.push((format!("{what} to {dst}"), frame));
        };
        for version in [0, 1, 4, 5, 7, 15] {
            add(format!("version {version}"), &|ip| ip[0] = version << 4);
        }
        for len in [payload + 1, payload + 2, 1500, 0xffff] {
            add(format!("payload length {len}"), &|ip| {
                ip[4..6].copy_from_slice(&len.to_be_bytes());
            });
        }
        for (what, at) in [("source", 8), ("destination", 24)] {
            add(format!("mapped {what}"), &|header| {
                let std::net::IpAddr::V6(v6) = ip("::ffff:10.1.0.2") else {
                    unreachable!("written as IPv6")
                };
                header[at..at + 16].copy_from_slice(&v6.octets());
            });
        }
        for chain in [[60; 5], [43; 5], [60, 60, 60, 60, 44]] {
            let mut frame = good.clone();
            insert_extensions(&mut frame, &chain);
            all.push((format!("extension headers {chain:?} to {dst}"), frame));
        }
        // The last header leads out of the packet.
        let mut frame = good.clone();
        insert_extensions(&mut frame, &[60]);
        frame[ETH + 41] = 20;
        all.push((format!("extension header of 168 bytes to {dst}"), frame));
    }
    all
}

#[test]
fn headers_that_lie_are_not_redirected() {
    on_host(|host| {
        for (what, frame) in lies() {
            let run = host.run(At::Container(0), &frame);
            assert_eq!(run.action, Action::Drop, "{what}");
            let outside = host.run(At::Uplink, &frame);
            assert_eq!(outside.action, Action::Pass, "{what} at the uplink");
        }
        assert_eq!(host.flows(), []);
    });
}

#[test]
fn transport_headers_that_lie_make_no_flow() {
    on_host(|host| {
        for family in FAMILIES {
            host.publish(Proto::Tcp, family.any, 443, 0, 443);
            host.publish(Proto::Udp, family.any, 53, 0, 53);
            let l4 = if family.a == V4.a { ETH + 20 } else { ETH + 40 };
            let mut lies = Vec::new();
            for words in (0..5).chain(9..16) {
                lies.push((L4::Tcp(1000, 443, SYN), 12, vec![words << 4]));
            }
            for len in [0u16, 7, 22, 1000, 0xffff] {
                lies.push((L4::Udp(1000, 53), 4, len.to_be_bytes().to_vec()));
            }
            for (kind, at, bytes) in lies {
                let place = l4 + at..l4 + at + bytes.len();
                let mut frame = from_a(&Sample::new(family.a, family.remote, kind)).bytes();
                frame[place.clone()].copy_from_slice(&bytes);
                assert_refused(host, &frame);
                let mut frame = Sample::new(family.remote, family.uplink, kind).bytes();
                frame[place].copy_from_slice(&bytes);
                assert_eq!(host.run(At::Uplink, &frame).action, Action::Pass);
            }
            // An IP packet that ends before its transport header, in a frame that goes on.
            for kind in KINDS {
                let mut frame = from_a(&Sample::new(family.a, family.remote, kind)).bytes();
                let (at, least) = if family.a == V4.a {
                    (ETH + 2, 20)
                } else {
                    (ETH + 4, 0)
                };
                for len in least..least + 8u16 {
                    frame[at..at + 2].copy_from_slice(&len.to_be_bytes());
                    fix_ipv4_checksum(&mut frame);
                    let run = host.run(At::Container(0), &frame);
                    assert_eq!(run.action, Action::Drop, "{kind:?} {len}");
                }
            }
        }
        assert_eq!(host.flows(), []);
    });
}

#[test]
fn padding_is_left_alone() {
    on_host(|host| {
        for family in FAMILIES {
            for l4 in KINDS[..3].iter().copied() {
                let mut frame = from_a(&Sample::new(family.a, family.remote, l4)).bytes();
                let len = frame.len();
                frame.extend([0xaa; 30]);
                let run = host.run(At::Container(0), &frame);
                assert_eq!(run.sent().src, ip(family.uplink));
                assert_eq!(run.frame[len..], [0xaa; 30]);
            }
            let mut frame = Sample::new(family.a, family.b, KINDS[1])
                .macs(MAC_A, MAC_B)
                .bytes();
            frame.extend([0xaa; 30]);
            assert_eq!(host.run(At::Container(0), &frame).frame, frame);
        }
    });
}
