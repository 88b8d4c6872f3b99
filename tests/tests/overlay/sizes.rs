//! How large packets may be, and what is said to those that are larger.

use netpath_tests::lab::eventually;
use netpath_tests::lab::hosts::{Hosts, v4, v6};

use crate::{Place, make_big, run_server};

/// Two hosts whose tunnels go by IPv4, or by IPv6, which leaves less room.
pub fn hosts(underlay_v6: bool, mtu: &str) -> Hosts {
    let mut hosts = Hosts::new(2);
    hosts.set_mtu(mtu);
    hosts.start_agents(&[0, 1]);
    for nth in [0usize, 1] {
        let (here, there) = (nth + 1, 2 - nth);
        let far = u8::try_from(1 - nth).unwrap();
        let remote = if underlay_v6 { v6(far) } else { v4(far) };
        let subnets = [format!("10.52.{here}.0/24"), format!("fd52:{here}::/64")];
        let create = [
            "network",
            "create",
            "-d",
            "overlay",
            "wide",
            "--subnet",
            &subnets[0],
        ];
        let lab = &hosts[nth];
        lab.netpath(&[&create[..], &["--subnet", &subnets[1]]].concat())
            .ok();
        for subnet in [format!("10.52.{there}.0/24"), format!("fd52:{there}::/64")] {
            let add = [
                "tunnel", "add", "wide", "--remote", &remote, "--subnet", &subnet,
            ];
            lab.netpath(&add).ok();
        }
    }
    hosts
}

/// What ping says to an echo request whose IP packet has that many bytes and must not be
/// fragmented.
fn ping(place: &Place<'_>, address: &str, bytes: u32) -> (bool, String) {
    let headers = if address.contains(':') { 48 } else { 28 };
    let payload = (bytes - headers).to_string();
    let args = [
        "ping", "-M", "do", "-s", &payload, "-c", "1", "-W", "2", address,
    ];
    let ran = place.run(&args);
    (ran.code == Some(0), ran.stdout + &ran.stderr)
}

#[test]
fn the_network_has_what_the_underlay_leaves() {
    for (uplink, inner) in [("1500", 1450), ("9000", 8950)] {
        let hosts = hosts(false, uplink);
        for nth in [0, 1] {
            hosts[nth].run("box", &["--network", "wide"], &["sleep", "600"]);
        }
        let place = Place::Container(&hosts[0], "box");
        for family_v6 in [false, true] {
            let there = hosts[1].address("box", family_v6);
            place.pings(&there);
            let (fits, said) = ping(&place, &there, inner);
            assert!(fits, "{said}");
            // The interface says no already.
            let (fits, said) = ping(&place, &there, inner + 1);
            assert!(!fits && said.contains(&inner.to_string()), "{said}");
        }
    }
}

#[test]
fn what_is_too_big_for_a_tunnel_is_told_so() {
    let hosts = hosts(true, "1500");
    let folder = hosts[0].dir().to_path_buf();
    let sum = make_big(&folder);
    run_server(&hosts[1], "server", "wide", &folder, &[]);
    hosts[0].run("box", &["--network", "wide"], &["sleep", "600"]);
    let place = Place::Container(&hosts[0], "box");
    for family_v6 in [false, true] {
        let there = hosts[1].address("server", family_v6);
        place.pings(&there);
        let (fits, said) = ping(&place, &there, 1430);
        assert!(fits, "{said}");
        // 70 bytes go to the tunnel; the interface would have taken 1450.
        let (fits, said) = ping(&place, &there, 1431);
        assert!(!fits && said.contains("1430"), "{said}");
        // The container has learnt it.
        let learnt = place.run(&["ip", "route", "get", &there]).ok();
        assert!(learnt.contains("mtu 1430"), "{learnt}");
        assert_eq!(place.fetches(&there), sum);
    }
    let counters = hosts[0].json(&["counters"]);
    let rows = counters.as_array().unwrap().iter();
    let mut answered = rows.filter(|r| r["hook"] == "container" && r["counter"] == "answered");
    assert!(
        answered.all(|row| row["packets"].as_u64() >= Some(2)),
        "{counters}"
    );
}

/// Over IPv4 the outer packet is cut; over IPv6, where nobody may do that on the way, the
/// container's stack learns to cut its own.
#[test]
fn who_lets_packets_be_cut_has_them_delivered() {
    for underlay_v6 in [false, true] {
        let hosts = hosts(underlay_v6, "1500");
        for nth in [0, 1] {
            hosts[nth].run("box", &["--network", "wide"], &["sleep", "600"]);
        }
        let there = hosts[1].address("box", false);
        let place = Place::Container(&hosts[0], "box");
        place.pings(&there);
        hosts.set_mtu("1400");
        for bytes in ["1410", "8000", "60000"] {
            eventually(bytes, || {
                let args = [
                    "ping", "-M", "dont", "-s", bytes, "-c", "1", "-W", "1", &there,
                ];
                place.run(&args).code == Some(0)
            });
        }
    }
}

#[test]
fn a_smaller_underlay_is_noticed() {
    let hosts = hosts(false, "1500");
    for nth in [0, 1] {
        hosts[nth].run("box", &["--network", "wide"], &["sleep", "600"]);
    }
    let place = Place::Container(&hosts[0], "box");
    let there = hosts[1].address("box", false);
    place.pings(&there);
    hosts.set_mtu("1300");
    eventually("1250 bytes are left", || {
        let (fits, said) = ping(&place, &there, 1400);
        !fits && said.contains("1250")
    });
    let (fits, said) = ping(&place, &there, 1250);
    assert!(fits, "{said}");
}
