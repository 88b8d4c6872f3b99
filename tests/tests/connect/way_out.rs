//! Which of its networks leads out of a container, and what follows it: ports, sessions.

use netpath_tests::inside::{ask_tcp, serve};
use netpath_tests::lab::{HOST4, HOST6, Lab, OUT4, OUT6};
use serde_json::Value;

use crate::{Session, address, echo, interfaces, network, published, way_out};

#[test]
fn the_way_out_is_that_of_the_highest_priority_and_the_first_name() {
    let lab = Lab::new();
    for (name, number) in [("b", 81), ("c", 82), ("a", 83)] {
        network(&lab, name, number, &[]);
    }
    network(&lab, "inner", 84, &["--internal"]);
    lab.netpath(&["network", "create", "four", "--subnet", "10.85.0.0/24"])
        .ok();
    lab.run("box", &["--network", "inner"], &["sleep", "600"]);
    let expect = |v4: Option<&str>, v6: Option<&str>| {
        for (is6, expected) in [(false, v4), (true, v6)] {
            assert_eq!(
                way_out(&lab, "box", is6).as_deref(),
                expected,
                "IPv6: {is6}"
            );
            let inspected = lab.json(&["inspect", "box"]);
            let of_family = |connection: &Value| {
                let gateways = connection["default_gateways"].as_array().expect("a list");
                let mut texts = gateways.iter().filter_map(Value::as_str);
                texts.any(|text| text.contains(':') == is6)
            };
            let all = inspected["networks"].as_array().expect("networks");
            let shown = all.iter().find(|one| of_family(one));
            let shown = shown.and_then(|one| one["interface"].as_str());
            assert_eq!(shown, expected, "{inspected}");
        }
        let out = if v4.is_some() { Some(0) } else { Some(2) };
        let pinged = lab.exec("box", &["ping", "-c1", "-W3", OUT4]);
        assert_eq!(pinged.code, out, "{pinged:?}");
    };
    let connect = |args: &[&str]| {
        lab.netpath(&[&["network", "connect"], args, &["box"]].concat())
            .ok();
    };
    let disconnect = |network: &str| {
        lab.netpath(&["network", "disconnect", network, "box"]).ok();
    };
    expect(None, None);
    connect(&["four"]);
    expect(Some("eth1"), None);
    // Both families come before one, and names before others.
    connect(&["c"]);
    expect(Some("eth2"), Some("eth2"));
    connect(&["b"]);
    expect(Some("eth3"), Some("eth3"));
    connect(&["--gw-priority", "-1", "a"]);
    expect(Some("eth3"), Some("eth3"));
    disconnect("four");
    connect(&["--gw-priority", "7", "four"]);
    expect(Some("eth1"), Some("eth3"));
    disconnect("four");
    expect(Some("eth3"), Some("eth3"));
    disconnect("b");
    expect(Some("eth2"), Some("eth2"));
    disconnect("c");
    expect(Some("eth4"), Some("eth4"));
    disconnect("a");
    expect(None, None);
    disconnect("inner");
    assert_eq!(interfaces(&lab, "box"), ["lo"]);
    connect(&["b"]);
    expect(Some("eth0"), Some("eth0"));
}

#[test]
fn connections_outlive_a_new_way_out() {
    let lab = Lab::new();
    network(&lab, "m", 81, &[]);
    network(&lab, "a", 82, &[]);
    lab.run(
        "box",
        &["--network", "m", "-p", "8080:80"],
        &["sleep", "600"],
    );
    let inside_box = lab.namespace_of("box");
    echo(&lab.outside_netns(), 7000);
    echo(&inside_box, 80);
    let mut sessions: Vec<Session> = [OUT4, OUT6]
        .map(|out| Session::dial(&inside_box, out, 7000))
        .into();
    sessions.extend([HOST4, HOST6].map(|host| Session::dial(&lab.outside_netns(), host, 8080)));
    sessions.extend(["127.0.0.1", "::1"].map(|own| Session::dial(&lab.host_netns(), own, 8080)));
    sessions.iter_mut().for_each(Session::lives);
    lab.netpath(&["network", "connect", "a", "box"]).ok();
    assert_eq!(way_out(&lab, "box", false).as_deref(), Some("eth1"));
    assert_eq!(way_out(&lab, "box", true).as_deref(), Some("eth1"));
    // Now they go by eth1 with the address of eth0, also when neighbours are asked for anew.
    lab.exec("box", &["ip", "neigh", "flush", "all"]).ok();
    sessions.iter_mut().for_each(Session::lives);
    // New ones take the new way.
    let mut newer = [OUT4, OUT6].map(|out| Session::dial(&inside_box, out, 7000));
    newer.iter_mut().for_each(Session::lives);
    // And a process may still choose the old address.
    let own = address(&lab, "box", "m", false);
    lab.exec("box", &["ping", "-c1", "-W3", "-I", &own, OUT4])
        .ok();
    // Nobody else's: not a neighbour's, and not one of the other network's.
    lab.run("other", &["--network", "m"], &["sleep", "600"]);
    for network in ["m", "a"] {
        let number = if network == "m" { 81 } else { 82 };
        for (prefix, length, address) in [
            ("-4", "32", format!("10.{number}.0.77")),
            ("-4", "32", self::address(&lab, "other", "m", false)),
            ("-6", "128", self::address(&lab, "other", "m", true)),
        ] {
            let plain = format!("{address}/{length}");
            lab.exec("box", &["ip", prefix, "addr", "add", &plain, "dev", "lo"]);
            let out = if prefix == "-4" { OUT4 } else { OUT6 };
            let pinged = lab.exec("box", &["ping", "-c1", "-W1", "-I", &address, out]);
            assert_ne!(pinged.code, Some(0), "{address}: {pinged:?}");
            lab.exec("box", &["ip", prefix, "addr", "del", &plain, "dev", "lo"]);
        }
    }
    let drops = lab.json(&["drops"]);
    let spoofed = drops.as_array().is_some_and(|rows| {
        let mut reasons = rows.iter().map(|row| &row["reason"]);
        reasons.any(|reason| reason == "spoofed_source")
    });
    assert!(spoofed, "{drops}");
    lab.netpath(&["network", "disconnect", "a", "box"]).ok();
    sessions.iter_mut().for_each(Session::lives);
}

#[test]
fn published_ports_move_with_the_way_out() {
    let lab = Lab::new();
    network(&lab, "m", 81, &[]);
    lab.netpath(&["network", "create", "a", "--subnet", "10.82.0.0/24"])
        .ok();
    lab.run(
        "box",
        &[
            "--network",
            "m",
            "-p",
            "8080:80",
            "-p",
            "81",
            "-p",
            "127.0.0.1:82:82",
        ],
        &["sleep", "600"],
    );
    serve(&lab.namespace_of("box"), "box", [80, 81, 82]);
    let before = published(&lab);
    assert_eq!(before.len(), 5, "{before:?}");
    let reach = || {
        let ephemeral = before
            .iter()
            .find(|(_, container, _)| *container == 81)
            .map(|(host, ..)| u16::try_from(*host).unwrap())
            .unwrap();
        for host in [HOST4, HOST6] {
            for port in [8080, ephemeral] {
                ask_tcp(&lab.outside_netns(), host, port)
                    .unwrap_or_else(|error| panic!("{host} {port}: {error}"));
            }
        }
        for own in ["127.0.0.1", "::1"] {
            ask_tcp(&lab.host_netns(), own, 8080).unwrap_or_else(|e| panic!("{own}: {e}"));
        }
        ask_tcp(&lab.host_netns(), "127.0.0.1", 82).unwrap();
    };
    reach();
    // IPv4 leaves by a, IPv6 stays with m.
    lab.netpath(&["network", "connect", "--gw-priority", "1", "a", "box"])
        .ok();
    let (m4, m6) = (
        address(&lab, "box", "m", false),
        address(&lab, "box", "m", true),
    );
    let a4 = address(&lab, "box", "a", false);
    let moved = published(&lab);
    let expected: Vec<_> = before
        .iter()
        .map(|(host, container, addr)| {
            let addr = if *addr == m4 { &a4 } else { addr };
            (*host, *container, addr.clone())
        })
        .collect();
    assert_eq!(moved, expected);
    assert!(moved.iter().any(|(.., addr)| *addr == m6), "{moved:?}");
    reach();
    lab.netpath(&["network", "disconnect", "a", "box"]).ok();
    assert_eq!(published(&lab), before);
    reach();
    // Without a way out there are no ports, and they are free for others.
    lab.netpath(&["network", "disconnect", "m", "box"]).ok();
    assert_eq!(published(&lab), []);
    assert!(!lab.host(&["ss", "-lnt"]).ok().contains(":8080"));
    lab.netpath(&["network", "connect", "a", "box"]).ok();
    ask_tcp(&lab.outside_netns(), HOST4, 8080).unwrap();
    ask_tcp(&lab.outside_netns(), HOST6, 8080).expect_err("no IPv6");
    // IPv6 comes, and with it the same numbers.
    lab.netpath(&["network", "connect", "m", "box"]).ok();
    let ports = published(&lab);
    let both = ports.iter().filter(|(_, container, _)| *container == 81);
    let numbers: Vec<u64> = both.map(|(host, ..)| *host).collect();
    assert!(numbers.len() == 2 && numbers[0] == numbers[1], "{ports:?}");
    ask_tcp(&lab.outside_netns(), HOST6, 8080).unwrap();
    lab.netpath(&["rm", "-f", "box"]).ok();
    assert_eq!(published(&lab), []);
}

#[test]
fn ports_of_a_routed_network_stay_open_without_being_the_way_out() {
    let lab = Lab::new();
    network(&lab, "a", 81, &[]);
    let routed = [
        "-o",
        "gateway_mode_ipv4=routed",
        "-o",
        "gateway_mode_ipv6=routed",
    ];
    network(&lab, "routed", 82, &routed);
    lab.run(
        "box",
        &["--network", "a", "--network", "routed", "-p", "8080:80"],
        &["sleep", "600"],
    );
    serve(&lab.namespace_of("box"), "box", [80, 81]);
    assert_eq!(way_out(&lab, "box", false).as_deref(), Some("eth0"));
    let outside = lab.outside_netns();
    for (host, v6) in [(HOST4, false), (HOST6, true)] {
        let (family, prefix) = if v6 {
            ("-6", "fd82::/64")
        } else {
            ("-4", "10.82.0.0/24")
        };
        lab.outside(&["ip", family, "route", "add", prefix, "via", host])
            .ok();
        ask_tcp(&outside, host, 8080).unwrap();
        let own = address(&lab, "box", "routed", v6);
        assert!(ask_tcp(&outside, &own, 80).unwrap().starts_with("box 80"));
        ask_tcp(&outside, &own, 81).expect_err("not published");
    }
    // It becomes the way out, and the host's port goes.
    lab.netpath(&["network", "disconnect", "a", "box"]).ok();
    for (host, v6) in [(HOST4, false), (HOST6, true)] {
        ask_tcp(&outside, host, 8080).expect_err("no port of the host");
        let own = address(&lab, "box", "routed", v6);
        assert!(ask_tcp(&outside, &own, 80).unwrap().starts_with("box 80"));
    }
}
