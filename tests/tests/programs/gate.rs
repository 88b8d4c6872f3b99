//! The XDP program of an uplink.

use netpath_tests::packets::{ETH, L4, SYN, Sample};
use netpath_tests::progrun::{Action, At, FAMILIES, Host, V4, V6, on_host, sh};

fn deny(host: &mut Host, prefix: &str) {
    host.datapath.deny(prefix.parse().unwrap()).unwrap();
}

/// Packets and bytes of a denied prefix.
fn hits(host: &Host, prefix: &str) -> (u64, u64) {
    let all = host.datapath.denied().unwrap();
    let found = all.into_iter().find(|(p, _)| p.to_string() == prefix);
    let (_, denied) = found.unwrap_or_else(|| panic!("{prefix} is not denied"));
    (denied.packets, denied.bytes)
}

#[test]
fn denied_sources_are_dropped_and_counted_by_prefix() {
    on_host(|host| {
        for (family, prefix, longer) in [
            (V4, "203.0.113.0/24", "203.0.113.9/32"),
            (V6, "2001:db8:ffff::/48", "2001:db8:ffff::9/128"),
        ] {
            let sample = Sample::new(family.remote, family.uplink, L4::Tcp(1000, 80, SYN));
            let frame = sample.bytes();
            let len = frame.len() as u64;
            assert_eq!(host.run(At::Xdp, &frame).action, Action::Pass);
            deny(host, prefix);
            host.run(At::Xdp, &frame).dropped("denied_source");
            assert_eq!(hits(host, prefix), (1, len));
            // Adding it again changes nothing, and the longest prefix counts.
            deny(host, prefix);
            deny(host, longer);
            host.run(At::Xdp, &frame).dropped("denied_source");
            assert_eq!(
                (hits(host, prefix), hits(host, longer)),
                ((1, len), (1, len))
            );
            host.datapath.allow(prefix.parse().unwrap()).unwrap();
            host.datapath.allow(longer.parse().unwrap()).unwrap();
            assert_eq!(host.run(At::Xdp, &frame).action, Action::Pass);
            // Its own source is nobody's business.
            deny(
                host,
                &format!(
                    "{}/{}",
                    family.uplink,
                    if family.a == V4.a { 32 } else { 128 }
                ),
            );
            assert_eq!(host.run(At::Xdp, &frame).action, Action::Pass);
        }
        assert_eq!(host.counter("xdp", "dropped"), 4);
        assert_eq!(host.counter("xdp", "to_host"), 6);
        assert_eq!(host.counter("xdp", "seen"), 10);
    });
}

#[test]
fn everybody_of_a_family_can_be_denied() {
    on_host(|host| {
        let frame = |family: &netpath_tests::progrun::Family| {
            Sample::new(family.remote, family.uplink, L4::Udp(1000, 53)).bytes()
        };
        deny(host, "::/0");
        assert_eq!(host.run(At::Xdp, &frame(&V4)).action, Action::Pass);
        host.run(At::Xdp, &frame(&V6)).dropped("denied_source");
        deny(host, "0.0.0.0/0");
        host.run(At::Xdp, &frame(&V4)).dropped("denied_source");
        assert_eq!(hits(host, "::/0").0, 1);
        assert_eq!(hits(host, "0.0.0.0/0").0, 1);
    });
}

#[test]
fn malformed_frames_are_dropped_and_tagged_ones_are_not() {
    on_host(|host| {
        for family in FAMILIES {
            let good = Sample::new(family.remote, family.uplink, L4::Udp(1000, 53)).bytes();
            for len in ETH..good.len() {
                // Shorter than its length says, or than a header.
                host.run(At::Xdp, &good[..len]).dropped("malformed");
            }
            let mut padded = good.clone();
            padded.resize(good.len() + 20, 0);
            assert_eq!(host.run(At::Xdp, &padded).action, Action::Pass);
            for version in [0x00, 0x35, 0x75, 0xf5] {
                let mut frame = good.clone();
                frame[ETH] = version;
                host.run(At::Xdp, &frame).dropped("malformed");
            }
            let mut tagged = good.clone();
            tagged[ETH] = 0;
            tagged[12..14].copy_from_slice(&[0x81, 0x00]);
            assert_eq!(host.run(At::Xdp, &tagged).action, Action::Pass);
        }
    });
}

#[test]
fn what_is_denied_outlives_the_agent_with_its_counters() {
    on_host(|host| {
        deny(host, "203.0.113.0/24");
        deny(host, "198.51.100.0/24");
        let frame = Sample::new(V4.remote, V4.uplink, L4::Udp(1000, 53)).bytes();
        host.run(At::Xdp, &frame).dropped("denied_source");
        host.reopen();
        let wanted = ["203.0.113.0/24", "2001:db8::/32"].map(|text| text.parse().unwrap());
        host.datapath.retain_denied(&wanted).unwrap();
        assert_eq!(hits(host, "203.0.113.0/24").0, 1);
        let all = host.datapath.denied().unwrap();
        assert_eq!(
            all.iter().map(|(prefix, _)| *prefix).collect::<Vec<_>>(),
            wanted
        );
    });
}

#[test]
fn operators_read_what_is_denied_with_bpftool() {
    on_host(|host| {
        deny(host, "203.0.113.0/24");
        let frame = Sample::new(V4.remote, V4.uplink, L4::Udp(1000, 53)).bytes();
        host.run(At::Xdp, &frame).dropped("denied_source");
        let path = host.folder().join("denied");
        let text = sh(&format!("bpftool -j map dump pinned {}", path.display()));
        let dump: serde_json::Value = serde_json::from_str(&text).unwrap();
        // The cell that lets programs count.
        let value = &dump[0]["formatted"]["value"]["value"];
        assert_eq!((&value["packets"], &value["v4"]), (&1.into(), &1.into()));
    });
}
