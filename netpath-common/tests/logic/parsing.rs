//! From bytes to tuples.

use netpath_common::addr::Addr;
use netpath_common::packet::{Fragment, Packet, Transport};
use netpath_common::reason::DropReason;
use netpath_common::tuple::{OUTSIDE, Proto};
use proptest::prelude::*;

use crate::model::{Bytes, FAMILIES, V4, V6, parse};
use crate::packets::{ACK, ETH, L4, SYN, Sample, insert_extensions, ip, make_fragment};
use crate::verify;

/// One packet of each kind and family.
fn samples() -> Vec<Sample> {
    let kinds = [
        L4::Tcp(40_000, 443, SYN),
        L4::Udp(5353, 53),
        L4::Request(77),
        L4::Reply(78),
    ];
    FAMILIES
        .iter()
        .flat_map(|family| kinds.map(|l4| Sample::new(family.a, family.remote, l4)))
        .collect()
}

fn parse_all(frame: &[u8]) -> Result<Packet, DropReason> {
    let mut packet = parse(frame, OUTSIDE)?;
    packet.parse_transport(&Bytes(frame))?;
    Ok(packet)
}

/// Asserts that a frame is understood as `sample` says.
fn assert_understood(frame: &[u8], sample: &Sample) {
    let packet = parse_all(frame).unwrap_or_else(|e| panic!("{e:?}: {sample:?}"));
    let (proto, ports, transport) = match (sample.l4, sample.src.is_ipv4()) {
        (L4::Tcp(a, b, _), _) => (Proto::Tcp, (a, b), Transport::Ports),
        (L4::Udp(a, b), _) => (Proto::Udp, (a, b), Transport::Ports),
        (L4::Request(id), true) => (Proto::Icmp, (id, 0), Transport::Ports),
        (L4::Request(id), false) => (Proto::Icmpv6, (id, 0), Transport::Ports),
        (L4::Reply(id), true) => (Proto::Icmp, (0, id), Transport::EchoReply),
        (L4::Sctp(src, dst, _), _) => (Proto::Sctp, (src, dst), Transport::Ports),
        (L4::Reply(id), false) => (Proto::Icmpv6, (0, id), Transport::EchoReply),
    };
    assert_eq!(packet.tuple.src, Addr::from(sample.src));
    assert_eq!(packet.tuple.dst, Addr::from(sample.dst));
    assert_eq!(
        (packet.tuple.src_port, packet.tuple.dst_port),
        ports,
        "{sample:?}"
    );
    assert_eq!((packet.tuple.proto, packet.transport), (proto, transport));
    assert_eq!((packet.ttl, packet.fragment), (sample.ttl, Fragment::Whole));
    assert_eq!(packet.len as usize, frame.len());
    if let L4::Tcp(_, _, flags) = sample.l4 {
        assert_eq!(packet.tcp_flags, flags);
    }
}

#[test]
fn every_kind_of_packet_is_understood() {
    for sample in samples() {
        assert_understood(&sample.bytes(), &sample);
    }
    let flags = Sample::new(V4.a, V4.remote, L4::Tcp(1, 2, SYN | ACK));
    assert_understood(&flags.bytes(), &flags);
}

#[test]
fn ports_are_found_behind_ip_options_of_every_length() {
    for words in 0..=10 {
        for sample in samples().into_iter().filter(|s| s.src.is_ipv4()) {
            let frame = sample.with_options(words);
            assert_eq!(usize::from(frame[ETH] & 0x0f), 5 + words);
            assert_understood(&frame, &sample);
        }
    }
}

#[test]
fn ports_are_found_behind_extension_headers() {
    let chains: [&[u8]; 5] = [&[0], &[43], &[60], &[0, 60, 43], &[0, 60, 43, 60]];
    for chain in chains {
        for sample in samples().into_iter().filter(|s| s.src.is_ipv6()) {
            let mut frame = sample.bytes();
            insert_extensions(&mut frame, chain);
            assert_understood(&frame, &sample);
        }
    }
    // More than honest traffic has: what is behind them would be hidden from us.
    let chains: [&[u8]; 5] = [
        &[0, 60, 60, 60, 60],
        &[60, 60, 60, 60, 44],
        &[43; 5],
        &[60, 0],
        &[0, 0],
    ];
    for chain in chains {
        let mut frame = Sample::new(V6.a, V6.remote, L4::Udp(1, 2)).bytes();
        insert_extensions(&mut frame, chain);
        assert_eq!(
            parse_all(&frame).err(),
            Some(DropReason::Malformed),
            "{chain:?}"
        );
    }
}

#[test]
fn extension_headers_that_lead_out_of_the_frame_are_malformed() {
    let mut frame = Sample::new(V6.a, V6.remote, L4::Udp(1, 2)).bytes();
    insert_extensions(&mut frame, &[60]);
    for length in 4..=255 {
        frame[ETH + 41] = length;
        assert_eq!(
            parse_all(&frame).err(),
            Some(DropReason::Malformed),
            "length {length}"
        );
    }
}

#[test]
fn only_the_first_fragment_has_ports() {
    for (more, offset) in [(true, 0), (true, 185), (false, 1), (false, 0x1fff)] {
        let mut frame = Sample::new(V4.a, V4.remote, L4::Udp(1, 2)).bytes();
        make_fragment(&mut frame, more, offset);
        let packet = parse_all(&frame).unwrap();
        if offset == 0 {
            assert_eq!(packet.fragment, Fragment::First);
            assert_eq!((packet.tuple.src_port, packet.tuple.dst_port), (1, 2));
        } else {
            assert_eq!(packet.fragment, Fragment::Later);
            assert_eq!(packet.transport, Transport::Fragment, "{more} {offset}");
            assert!(!packet.has_tuple());
            assert_eq!(packet.may_open(), Err(DropReason::Fragment));
        }
    }
    for (chain, at) in [([44].as_slice(), 0), (&[0, 44], 8), (&[60, 43, 44], 16)] {
        for (place, fragment) in [
            (0u16, Fragment::Whole),
            (1, Fragment::First),
            (8, Fragment::Later),
            (9, Fragment::Later),
        ] {
            let mut frame = Sample::new(V6.a, V6.remote, L4::Udp(1, 2)).bytes();
            insert_extensions(&mut frame, chain);
            let header = ETH + 40 + at;
            frame[header + 2..header + 4].copy_from_slice(&place.to_be_bytes());
            frame[header + 4..header + 8].copy_from_slice(&7u32.to_be_bytes());
            let packet = parse_all(&frame).unwrap();
            assert_eq!(packet.fragment, fragment, "{chain:?} {place}");
            assert_eq!((packet.ip_proto, packet.fragment_id), (17, 7));
            let whole = fragment != Fragment::Later;
            assert_eq!(packet.has_tuple(), whole, "{chain:?} {place}");
        }
    }
    // What is hidden behind a first part's fragment header is not looked for.
    let mut frame = Sample::new(V6.a, V6.remote, L4::Udp(1, 2)).bytes();
    insert_extensions(&mut frame, &[44, 60]);
    frame[ETH + 42..ETH + 44].copy_from_slice(&[0, 1]);
    assert_eq!(parse_all(&frame).err(), Some(DropReason::Malformed));
    // "Do not fragment" and the reserved bit do not make a fragment.
    let mut frame = Sample::new(V4.a, V4.remote, L4::Udp(1, 2)).bytes();
    frame[ETH + 6] = 0xc0;
    assert_eq!(parse_all(&frame).unwrap().transport, Transport::Ports);
}

#[test]
fn frames_cut_short_at_any_length_are_malformed() {
    for sample in samples() {
        let mut frames = vec![sample.bytes()];
        if sample.src.is_ipv4() {
            frames.push(sample.with_options(10));
        } else {
            insert_extensions(&mut frames[0], &[0, 60]);
        }
        for frame in frames {
            for len in 14..frame.len() {
                let cut = &frame[..len];
                assert_eq!(
                    parse_all(cut).err(),
                    Some(DropReason::Malformed),
                    "{len} of {frame:?}"
                );
            }
            // And below the Ethernet header, whatever the caller thinks it has.
            for len in 0..14 {
                let mut packet = Packet::of_network(OUTSIDE);
                assert!(packet.parse_v4(&Bytes(&frame[..len])).is_err());
                assert!(packet.parse_v6(&Bytes(&frame[..len])).is_err());
            }
        }
    }
}

#[test]
fn padding_after_the_packet_is_no_harm() {
    for sample in samples() {
        let mut frame = sample.bytes();
        frame.extend([0; 30]);
        assert_understood(&frame, &sample);
    }
}

#[test]
fn ipv4_headers_that_lie_are_malformed() {
    let good = Sample::new(V4.a, V4.remote, L4::Tcp(1, 2, SYN)).bytes();
    let total = (good.len() - ETH) as u16;
    let broken = |change: &dyn Fn(&mut [u8])| {
        let mut frame = good.clone();
        change(&mut frame[ETH..]);
        parse_all(&frame).err()
    };
    for ihl in 0..5 {
        assert_eq!(
            broken(&|ip| ip[0] = 0x40 | ihl),
            Some(DropReason::Malformed),
            "IHL {ihl}"
        );
    }
    for version in (0..16).filter(|v| *v != 4) {
        assert_eq!(
            broken(&|ip| ip[0] = version << 4 | 5),
            Some(DropReason::Malformed)
        );
    }
    // Total length: shorter than headers, or longer than the frame.
    for len in (0..40).chain(total + 1..total + 100).chain([0xffff]) {
        let set = |ip: &mut [u8]| ip[2..4].copy_from_slice(&len.to_be_bytes());
        assert_eq!(
            broken(&set),
            Some(DropReason::Malformed),
            "total length {len}"
        );
    }
}

#[test]
fn ipv6_headers_that_lie_are_malformed() {
    let good = Sample::new(V6.a, V6.remote, L4::Tcp(1, 2, SYN)).bytes();
    let payload = (good.len() - ETH - 40) as u16;
    let broken = |change: &dyn Fn(&mut [u8])| {
        let mut frame = good.clone();
        change(&mut frame[ETH..]);
        parse_all(&frame).err()
    };
    for version in (0..16).filter(|v| *v != 6) {
        assert_eq!(
            broken(&|ip| ip[0] = version << 4),
            Some(DropReason::Malformed)
        );
    }
    for len in (0..20).chain(payload + 1..payload + 100).chain([0xffff]) {
        let set = |ip: &mut [u8]| ip[4..6].copy_from_slice(&len.to_be_bytes());
        assert_eq!(
            broken(&set),
            Some(DropReason::Malformed),
            "payload length {len}"
        );
    }
}

#[test]
fn transport_headers_that_lie_are_malformed() {
    for family in FAMILIES {
        let l4 = if family.a == V4.a { ETH + 20 } else { ETH + 40 };
        let mut frame = Sample::new(family.a, family.remote, L4::Tcp(1, 2, SYN)).bytes();
        // 13 bytes follow the fixed header: three words of options are there, a fourth is not.
        for words in (0..5).chain(9..16) {
            frame[l4 + 12] = words << 4;
            assert_eq!(
                parse_all(&frame).err(),
                Some(DropReason::Malformed),
                "{words} words"
            );
        }
        let mut frame = Sample::new(family.a, family.remote, L4::Udp(1, 2)).bytes();
        let right = 8 + 13;
        for len in (0u16..8).chain([right + 1, 1000, 0xffff]) {
            frame[l4 + 4..l4 + 6].copy_from_slice(&len.to_be_bytes());
            assert_eq!(
                parse_all(&frame).err(),
                Some(DropReason::Malformed),
                "length {len}"
            );
        }
    }
}

#[test]
fn aggregates_larger_than_the_length_field_say_zero() {
    for family in FAMILIES {
        let sample = Sample::new(family.a, family.remote, L4::Tcp(1, 2, ACK));
        let mut frame = sample.bytes();
        let field = if sample.src.is_ipv4() {
            ETH + 2
        } else {
            ETH + 4
        };
        frame[field..field + 2].fill(0);
        assert_eq!(parse_all(&frame).err(), Some(DropReason::Malformed));
        frame.resize(80_000, 0);
        assert_understood(&frame, &sample);
    }
}

#[test]
fn mapped_addresses_on_the_wire_are_refused() {
    let mapped = "::ffff:10.1.0.2";
    for (src, dst) in [(mapped, V6.remote), (V6.a, mapped), (mapped, mapped)] {
        let mut frame = Sample::new(V6.a, V6.remote, L4::Udp(1, 2)).bytes();
        for (at, text) in [(ETH + 8, src), (ETH + 24, dst)] {
            let std::net::IpAddr::V6(v6) = ip(text) else {
                unreachable!("written as IPv6")
            };
            frame[at..at + 16].copy_from_slice(&v6.octets());
        }
        assert_eq!(
            parse_all(&frame).err(),
            Some(DropReason::Malformed),
            "{src} {dst}"
        );
    }
}

#[test]
fn protocols_without_ports_never_open_a_flow() {
    // IGMP, IPIP, DCCP, GRE, ESP; and the ICMP of the other family.
    for number in [2, 4, 33, 47, 50] {
        for family in FAMILIES {
            let mut frame = Sample::new(family.a, family.remote, L4::Udp(1, 2)).bytes();
            frame[if family.a == V4.a { ETH + 9 } else { ETH + 6 }] = number;
            let packet = parse_all(&frame).unwrap();
            assert_eq!(packet.transport, Transport::Other, "{number}");
            assert_eq!(packet.may_open(), Err(DropReason::UnsupportedProtocol));
        }
    }
    let mut frame = Sample::new(V4.a, V4.remote, L4::Request(1)).bytes();
    frame[ETH + 9] = 58;
    assert_eq!(parse_all(&frame).unwrap().transport, Transport::Other);
    let mut frame = Sample::new(V6.a, V6.remote, L4::Request(1)).bytes();
    frame[ETH + 6] = 1;
    assert_eq!(parse_all(&frame).unwrap().transport, Transport::Other);
    // ICMP that is neither echo nor error: timestamp request, redirect; an echo with a code.
    for (kind, code) in [(13, 0), (5, 1), (8, 1)] {
        let mut frame = Sample::new(V4.a, V4.remote, L4::Request(1)).bytes();
        (frame[ETH + 20], frame[ETH + 21]) = (kind, code);
        assert_eq!(
            parse_all(&frame).unwrap().transport,
            Transport::Other,
            "{kind}/{code}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    /// Whatever is done to a frame, what we read from it is what etherparse reads from it.
    #[test]
    fn damaged_frames_are_read_as_etherparse_reads_them(
        which in 0usize..8,
        cut in 0usize..120,
        damage in prop::collection::vec((0usize..90, any::<u8>()), 0..4),
    ) {
        let mut frame = samples()[which].bytes();
        for (at, byte) in damage {
            let at = at % frame.len();
            frame[at] = byte;
        }
        frame.truncate(frame.len() - if cut < frame.len() / 2 { cut } else { 0 });
        let Ok(packet) = parse_all(&frame) else { return Ok(()) };
        // etherparse reads no ports from any fragment.
        if !packet.has_tuple() || packet.fragment != Fragment::Whole {
            return Ok(());
        }
        prop_assert!(verify::is_well_formed(&frame), "{packet:?} of {frame:02x?}");
        let sample = Sample::read(&frame);
        prop_assert!(sample.is_some(), "{packet:?} of {frame:02x?}");
        let sample = sample.unwrap();
        prop_assert_eq!(packet.tuple.src, Addr::from(sample.src));
        prop_assert_eq!(packet.tuple.dst, Addr::from(sample.dst));
        let ports = match sample.l4 {
            L4::Request(id) => (id, 0),
            L4::Reply(id) => (0, id),
            _ => sample.ports(),
        };
        prop_assert_eq!((packet.tuple.src_port, packet.tuple.dst_port), ports);
    }
}
