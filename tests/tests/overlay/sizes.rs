//! How large packets may be, and what is said to those that are larger.

use netpath_tests::lab::eventually;
use netpath_tests::lab::hosts::Hosts;

use crate::{Place, make_big, run_server, set_up};

/// Two hosts whose tunnels go by IPv4, or by IPv6, which leaves less room.
pub fn hosts(underlay_v6: bool, mtu: &str) -> Hosts {
    let mut hosts = Hosts::new(2);
    hosts.set_mtu(mtu);
    set_up::route(&mut hosts, 52, underlay_v6, &[]);
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
