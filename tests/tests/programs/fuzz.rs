//! Frames damaged at random, by a fixed seed.

use std::time::{Duration, Instant};

use netpath_common::policy::{GatewayMode, Policy};
use netpath_common::tuple::Proto;
use netpath_tests::packets::{
    ACK, L4, SYN, Sample, arp, fix_ipv4_checksum, icmpv6, insert_extensions, make_fragment,
    solicitation,
};
use netpath_tests::progrun::{Action, At, FAMILIES, MAC_A, MAC_B, MAC_GATEWAY, V4, V6, on_host};
use netpath_tests::verify;

/// How long it goes on. The seed is fixed; more time only means more of the same sequence.
const TIME: Duration = Duration::from_secs(5);

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z >> 33) as usize) % limit
    }
}

/// Valid frames, and where they come by.
fn corpus() -> Vec<(At, Vec<u8>)> {
    let mut all = Vec::new();
    for family in FAMILIES {
        for l4 in [
            L4::Tcp(1000, 443, SYN),
            L4::Tcp(1000, 443, ACK),
            L4::Udp(1000, 53),
            L4::Request(9),
            L4::Reply(9),
        ] {
            for dst in [family.remote, family.b, family.gateway] {
                let sample = Sample::new(family.a, dst, l4).macs(MAC_A, MAC_GATEWAY);
                all.push((At::Container(0), sample.bytes()));
                let mut other = sample.bytes();
                if sample.src.is_ipv4() {
                    other = sample.with_options(3);
                } else {
                    insert_extensions(&mut other, &[0, 60]);
                }
                all.push((At::Container(0), other));
            }
            let sample = Sample::new(family.gateway, family.a, l4).macs(MAC_GATEWAY, MAC_A);
            all.push((At::Gateway(false), sample.bytes()));
        }
        for l4 in [L4::Tcp(5000, 8080, SYN), L4::Udp(5000, 8080), L4::Reply(9)] {
            let frame = Sample::new(family.remote, family.uplink, l4).bytes();
            all.push((At::Uplink, frame));
        }
        // By containers' own addresses; each way with a client of its own.
        for l4 in [
            L4::Tcp(6000, 80, SYN),
            L4::Tcp(6000, 80, ACK),
            L4::Udp(6000, 80),
            L4::Request(6),
        ] {
            let out = Sample::new(family.a, family.red, l4).macs(MAC_A, MAC_GATEWAY);
            all.push((At::Container(0), out.bytes()));
            let inward = Sample::new(family.remote, family.red, l4).bytes();
            all.push((At::Uplink, inward));
            let forwarded = Sample::new(family.remote, family.a, l4).bytes();
            all.push((At::Gateway(true), forwarded));
        }
    }
    let mut fragment = Sample::new(V4.a, V4.b, L4::Udp(1, 2))
        .macs(MAC_A, MAC_B)
        .bytes();
    make_fragment(&mut fragment, true, 3);
    all.push((At::Container(0), fragment));
    all.push((At::Container(0), arp(1, MAC_A, V4.a, [0; 6], V4.gateway)));
    let body = solicitation(V6.b, &[1, 1, 2, 0, 0, 0, 0, 2]);
    let frame = icmpv6([MAC_A, MAC_B], V6.a, "ff02::1:ff00:3", 135, &body);
    all.push((At::Container(0), frame));
    all
}

/// Flips, overwrites, cuts and grows; keeps the MAC addresses, or nothing would get far.
fn damage(frame: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        let at = 12 + random.below(frame.len() - 12);
        // Headers are the interesting part.
        let at = if random.below(4) > 0 {
            at.min(12 + random.below(60))
        } else {
            at
        };
        match random.below(6) {
            0 | 1 => frame[at] ^= 1 << random.below(8),
            2 => frame[at] = random.below(256) as u8,
            3 => {
                frame[at] =
                    [0, 1, 4, 5, 6, 17, 43, 44, 58, 60, 0x45, 0x4f, 0x60, 0xff][random.below(14)]
            }
            4 => {
                let keep = frame.len() - random.below(frame.len() / 2);
                frame.truncate(keep.max(55));
            }
            _ => frame.extend(std::iter::repeat_n(0xa5, random.below(40))),
        }
    }
    // Half of the time with a right header checksum, so that only the damage itself shows.
    if random.below(2) == 0 && frame[12..14] == [8, 0] {
        fix_ipv4_checksum(frame);
    }
}

/// Whether the frame's IP header, if it has one, is whole and its length true.
fn ip_is_whole(frame: &[u8]) -> bool {
    let rest = &frame[14..];
    match frame[12..14] {
        [0x08, 0x00] => etherparse::Ipv4Header::from_slice(rest).is_ok_and(|(header, _)| {
            usize::from(header.total_len) >= header.header_len()
                && usize::from(header.total_len) <= rest.len()
        }),
        [0x86, 0xdd] => etherparse::Ipv6Header::from_slice(rest)
            .is_ok_and(|(header, rest)| usize::from(header.payload_length) <= rest.len()),
        _ => true,
    }
}

#[test]
fn damaged_frames_do_no_harm() {
    on_host(|host| {
        for family in FAMILIES {
            host.publish(Proto::Tcp, family.any, 8080, 0, 80);
            host.publish(Proto::Udp, family.any, 8080, 0, 80);
        }
        // As open as can be.
        for network in [0, 1] {
            host.set_policy(
                network,
                Policy {
                    mode4: GatewayMode::NatUnprotected,
                    mode6: GatewayMode::NatUnprotected,
                    ..Policy::default()
                },
            );
        }
        let corpus = corpus();
        let mut random = Random(20_260_101);
        let end = Instant::now() + TIME;
        let (mut runs, mut redirected) = (0, 0);
        while Instant::now() < end {
            let (at, good) = &corpus[random.below(corpus.len())];
            let mut frame = good.clone();
            damage(&mut frame, &mut random);
            let sent_by_flow = |host: &netpath_tests::progrun::Host| {
                host.counter("container", "to_uplink") + host.counter("uplink", "to_container")
            };
            let before = sent_by_flow(host);
            let (action, out) = host.run_raw(*at, &frame);
            runs += 1;
            if action != Action::Redirect {
                continue;
            }
            redirected += 1;
            assert!(ip_is_whole(&frame), "{at:?} redirects {frame:02x?}");
            if sent_by_flow(host) > before {
                let well_formed = verify::is_well_formed(&frame);
                assert!(well_formed, "{at:?} translates {frame:02x?}");
            }
            if verify::checksums(&frame).is_ok() {
                let checked = verify::checksums(&out);
                assert_eq!(checked, Ok(()), "{at:?} spoils {frame:02x?}");
            }
        }
        println!("{runs} frames, {redirected} redirected");
        assert!(runs > 2_000, "only {runs} frames");
        assert!(
            redirected > runs / 20,
            "the damage is too great: {redirected} of {runs}"
        );
        assert!(redirected < runs, "the damage is too small");
    });
}

/// The agent's own program takes keys from the agent only, but must bear anything.
#[test]
fn the_sweep_program_bears_any_bytes() {
    use aya::{TestRun as _, TestRunOptions};
    on_host(|host| {
        host.out(&Sample::new(V4.a, V4.remote, L4::Udp(1000, 53)));
        let mut random = Random(7);
        let program = host.datapath.programs().classifier("np_sweep").unwrap();
        for len in (14..2_600).step_by(13) {
            let bytes: Vec<u8> = (0..len).map(|_| random.below(256) as u8).collect();
            let options = TestRunOptions {
                data_in: Some(&bytes),
                ..TestRunOptions::new()
            };
            // The kernel itself refuses what looks like a cut IP packet.
            let removed = program.test_run(options).map_or(0, |run| run.return_value);
            assert_eq!(removed, 0);
        }
        assert_eq!(host.flows().len(), 1);
    });
}
