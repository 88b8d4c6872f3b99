//! Driver `underlay` with `mode=l3`: the wire knows the containers by the card's MAC address.

use std::thread;
use std::time::Duration;

use netpath_tests::inside::{ask_tcp, ask_udp, serve};
use netpath_tests::lab::{HOST4, HOST6, Lab, OUT4, OUT6, UPLINK, eventually, finish};

use super::{SUBNETS, container, has_flag, mac_of, mac_on, network, networks, ping, short_ping};

const L3: [&str; 2] = ["-o", "mode=l3"];

/// The MAC address of the host's card.
fn card_mac(lab: &Lab) -> String {
    mac_on(lab, UPLINK)
}

#[test]
fn the_wire_knows_containers_by_the_cards_mac_address() {
    let mut lab = Lab::new();
    network(&lab, "lan", "underlay", &L3);
    // Whatever comes from another MAC address would not come through a cloud's switch.
    let foreign = format!("not ether src {} and inbound", card_mac(&lab));
    let capture = [
        "timeout", "60", "tcpdump", "-nnel", "-i", "eth0", "-Q", "in", "-c", "1", &foreign,
    ];
    let capture = lab.start_outside(&capture);
    thread::sleep(Duration::from_millis(500));
    container(&lab, "a", "lan", 10);
    container(&lab, "b", "lan", 11);
    for address in ["192.0.2.10", "2001:db8:1::10"] {
        lab.outside(&ping(address)).ok();
        lab.host(&ping(address)).ok();
        lab.exec("b", &ping(address)).ok();
    }
    for address in [OUT4, OUT6, HOST4, HOST6] {
        lab.exec("a", &ping(address)).ok();
    }
    let neighbours = lab.outside(&["ip", "neigh"]).ok();
    let own = [mac_of(&lab, "a", "eth0"), mac_of(&lab, "b", "eth0")];
    assert!(
        own.iter().all(|mac| !neighbours.contains(mac)),
        "{neighbours}"
    );
    // The card lets in nothing more than groups.
    let filter = lab.host(&["bridge", "fdb", "show", "dev", UPLINK]).ok();
    assert!(own.iter().all(|mac| !filter.contains(mac)), "{filter}");
    assert!(!has_flag(&lab, UPLINK, "PROMISC"));
    serve(&lab.namespace_of("a"), "a", [7000]);
    serve(&lab.outside_netns(), "out", [7000]);
    for (netns, client4, client6) in [
        (lab.outside_netns(), OUT4, OUT6),
        (lab.host_netns(), HOST4, HOST6),
        (lab.namespace_of("b"), "192.0.2.11", "2001:db8:1::11"),
    ] {
        for (server, client) in [("192.0.2.10", client4), ("2001:db8:1::10", client6)] {
            let said = format!("a 7000 {client}");
            assert_eq!(ask_tcp(&netns, server, 7000).unwrap(), said);
            assert_eq!(ask_udp(&netns, server, 7000).unwrap(), said);
        }
    }
    for (server, own) in [(OUT4, "192.0.2.10"), (OUT6, "2001:db8:1::10")] {
        let said = ask_tcp(&lab.namespace_of("a"), server, 7000).unwrap();
        assert_eq!(said, format!("out 7000 {own}"));
    }
    // Entries are kept fresh by questions that are not for everybody.
    for address in ["192.0.2.10", "2001:db8:1::10"] {
        let probe = [
            "ip", "neigh", "change", address, "dev", "eth0", "nud", "probe",
        ];
        lab.outside(&probe).ok();
        eventually("the entry is fresh", || {
            let text = lab.outside(&["ip", "neigh", "show", address]).ok();
            text.contains("REACHABLE") && text.contains(&card_mac(&lab))
        });
    }
    // Streams, in both directions.
    lab.serve_outside(&["iperf3", "-s"]);
    thread::sleep(Duration::from_millis(300));
    for reverse in [&[][..], &["-R"]] {
        let stream = [&["iperf3", "-J", "-t", "1", "-c", OUT4][..], reverse].concat();
        let report = lab.exec("a", &stream).ok();
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        assert!(report["end"]["sum_received"]["bytes"].as_u64() > Some(1_000_000));
    }
    // Nobody on the wire has seen another MAC address (and tcpdump was there to see one).
    lab.outside(&["pkill", "-INT", "-f", &foreign]).ok();
    let seen = finish(capture).stdout;
    assert_eq!(seen.trim(), "");
}

#[test]
fn a_routed_container_reaches_all_of_the_host() {
    let lab = Lab::new();
    network(&lab, "lan", "underlay", &L3);
    container(&lab, "a", "lan", 10);
    lab.netpath(&["network", "create", "net", "--subnet", "10.88.0.0/24"])
        .ok();
    lab.run(
        "web",
        &["--network", "net", "-p", "8080:80"],
        &["sleep", "600"],
    );
    serve(&lab.namespace_of("web"), "web", [80]);
    let said = ask_tcp(&lab.namespace_of("a"), HOST4, 8080).unwrap();
    assert_eq!(said, "web 80 192.0.2.10");
    // An address of the host's that is not of this wire, by way of the router.
    lab.exec("a", &ping("10.88.0.1")).ok();
    // From behind the host's address, and back.
    lab.exec("web", &ping("192.0.2.10")).ok();
}

#[test]
fn duplicates_are_found_and_nobody_speaks_for_others() {
    let lab = Lab::new();
    network(&lab, "lan", "underlay", &L3);
    container(&lab, "a", "lan", 10);
    let duplicate = format!("{OUT6}/64");
    lab.exec("a", &["ip", "addr", "add", &duplicate, "dev", "eth0"])
        .ok();
    eventually("the duplicate is found out", || {
        let text = lab.exec("a", &["ip", "-6", "addr", "show", "eth0"]).ok();
        text.contains("dadfailed")
    });
    lab.exec("a", &["ip", "addr", "add", "192.0.2.77/24", "dev", "eth0"])
        .ok();
    let spoofed = ["ping", "-c", "1", "-W", "1", "-I", "192.0.2.77", OUT4];
    assert_ne!(lab.exec("a", &spoofed).code, Some(0));
    // Nor is it answered for.
    assert_ne!(lab.outside(&short_ping("192.0.2.77")).code, Some(0));
    lab.outside(&ping(HOST4)).ok();
}

#[test]
fn it_outlives_the_agent_and_leaves_nothing() {
    let mut lab = Lab::new();
    network(&lab, "lan", "underlay", &L3);
    container(&lab, "a", "lan", 10);
    lab.kill_agent();
    lab.outside(&ping("192.0.2.10")).ok();
    lab.start_agent();
    lab.outside(&ping("192.0.2.10")).ok();
    lab.exec("a", &ping(OUT6)).ok();
    lab.netpath(&["rm", "-f", "a"]).ok();
    lab.outside(&["ip", "neigh", "flush", "all"]).ok();
    assert_ne!(lab.outside(&short_ping("192.0.2.10")).code, Some(0));
    lab.netpath(&["network", "rm", "lan"]).ok();
    assert!(!has_flag(&lab, UPLINK, "ALLMULTI"));
    lab.outside(&ping(HOST4)).ok();
}

#[test]
fn one_more_interface_can_be_routed() {
    let lab = Lab::new();
    lab.netpath(&["network", "create", "net", "--subnet", "10.88.0.0/24"])
        .ok();
    lab.run("box", &["--network", "net"], &["sleep", "600"]);
    let attach = |words: &[&str]| {
        let first = ["attach", "--parent", UPLINK, "--opt", "mode=l3"];
        lab.netpath(&[&first[..], words].concat())
    };
    for ip in ["dhcp", "0/0"] {
        let refused = attach(&["--ip", ip, "box"]).refused();
        assert!(refused.contains("mode=l3"), "{refused}");
    }
    attach(&["--ip", "192.0.2.10/24", "box"]).ok();
    lab.outside(&ping("192.0.2.10")).ok();
    lab.exec("box", &ping(OUT4)).ok();
    let neighbours = lab.outside(&["ip", "neigh", "show", "192.0.2.10"]).ok();
    assert!(neighbours.contains(&card_mac(&lab)), "{neighbours}");
    lab.host(&["ip", "route", "del", "default"]).ok();
    let refused = attach(&["--ip", "10.99.0.10/24", "box"]).refused();
    assert!(refused.contains("leads to 10.99.0.0/24"), "{refused}");
    let refused = attach(&["--ip", "192.0.2.10/24", "box"]).refused();
    assert!(
        refused.contains("192.0.2.10 belongs to the card eth1 of box"),
        "{refused}"
    );
    let cards = lab.json(&["cards"]);
    assert_eq!(cards.as_array().map(Vec::len), Some(1), "{cards}");
    lab.outside(&ping("192.0.2.10")).ok();
}

#[test]
fn what_cannot_be_is_refused() {
    let lab = Lab::new();
    lab.host(&["ip", "route", "del", "default"]).ok();
    let create = |options: &[&str]| {
        let first = ["network", "create", "x", "-d", "underlay"];
        lab.netpath(&[&first[..], options].concat()).refused()
    };
    for (options, part) in [
        (
            &["-o", "parent=uplink0", "-o", "mode=l4"][..],
            "choose one of l2, l3",
        ),
        (
            &["-o", "parent=uplink0.101", "-o", "mode=l3"],
            "make uplink0.101 first",
        ),
        (
            &[
                "-o",
                "parent=uplink0",
                "-o",
                "mode=l3",
                "--subnet",
                "192.0.2.0/24",
                "--ipv6",
            ],
            "name the IPv6 subnet",
        ),
        (
            &[
                "-o",
                "parent=uplink0",
                "-o",
                "mode=l3",
                "--subnet",
                "10.99.0.0/24",
            ],
            "leads to 10.99.0.0/24 by uplink0",
        ),
    ] {
        let refused = create(options);
        assert!(refused.contains(part), "{options:?}: {refused}");
    }
    assert_eq!(networks(&lab), 0);
    let create = ["network", "create", "lan", "-d", "macvlan", "-o"];
    let words = [&create[..], &["parent=uplink0"], &L3, &SUBNETS].concat();
    let refused = lab.netpath(&words).refused();
    assert!(refused.contains("unknown to driver macvlan"), "{refused}");
}
