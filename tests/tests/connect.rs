//! Containers that are connected to more networks, and disconnected, while they run.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use netpath_tests::inside::{ask_tcp, ask_udp, inside, serve};
use netpath_tests::lab::{HOST4, HOST6, Lab, OUT4, OUT6, eventually};
use serde_json::Value;

/// Networks by name, with the number in their subnets: `10.N.0.0/24` and `fdN::/64`.
fn network(lab: &Lab, name: &str, number: u8, options: &[&str]) {
    let subnets = [format!("10.{number}.0.0/24"), format!("fd{number}::/64")];
    let mut args = vec!["network", "create", name];
    for subnet in &subnets {
        args.extend(["--subnet", subnet]);
    }
    args.extend(options);
    lab.netpath(&args).ok();
}

/// Serves an echo at a port of all addresses of a namespace, until the test ends.
fn echo(netns: &str, port: u16) {
    let listener = inside(netns, || {
        TcpListener::bind(("::", port)).expect("a listener")
    });
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut byte = [0];
                while client.read_exact(&mut byte).is_ok() && client.write_all(&byte).is_ok() {}
            });
        }
    });
}

/// A connection to an echo.
struct Session(TcpStream);

impl Session {
    fn dial(netns: &str, address: &str, port: u16) -> Self {
        let server = SocketAddr::new(address.parse().unwrap(), port);
        let patience = Duration::from_secs(5);
        let stream = inside(netns, || TcpStream::connect_timeout(&server, patience));
        let stream = stream.unwrap_or_else(|error| panic!("{server}: {error}"));
        stream.set_read_timeout(Some(patience)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    #[track_caller]
    fn lives(&mut self) {
        for byte in [7, 8] {
            self.0.write_all(&[byte]).expect("written");
            let mut answer = [0];
            self.0.read_exact(&mut answer).expect("an answer");
            assert_eq!(answer, [byte]);
        }
    }
}

/// What `inspect` says of a container in a network.
#[track_caller]
fn connection(lab: &Lab, name: &str, network: &str) -> Value {
    let container = lab.json(&["inspect", name]);
    let all = container["networks"].as_array().expect("networks");
    let found = all.iter().find(|one| one["network"] == network);
    found
        .unwrap_or_else(|| panic!("not in {network}: {container}"))
        .clone()
}

#[track_caller]
fn address(lab: &Lab, name: &str, network: &str, v6: bool) -> String {
    let connection = connection(lab, name, network);
    let text = connection["addresses"][usize::from(v6)].as_str();
    let (ip, _) = text
        .and_then(|text| text.split_once('/'))
        .expect("an address");
    ip.to_owned()
}

/// The interface of a container's default route; none without one.
fn way_out(lab: &Lab, name: &str, v6: bool) -> Option<String> {
    let family = if v6 { "-6" } else { "-4" };
    let text = lab
        .exec(name, &["ip", family, "-j", "route", "show", "default"])
        .ok();
    let routes: Vec<Value> = serde_json::from_str(&text).expect("JSON of ip");
    assert!(routes.len() <= 1, "{text}");
    let device = routes.first()?["dev"].as_str()?;
    Some(device.to_owned())
}

fn interfaces(lab: &Lab, name: &str) -> Vec<String> {
    let text = lab.exec(name, &["ip", "-j", "link"]).ok();
    let links: Vec<Value> = serde_json::from_str(&text).expect("JSON of ip");
    let name = |link: &Value| link["ifname"].as_str().map(str::to_owned);
    links.iter().filter_map(name).collect()
}

#[test]
fn a_running_container_is_connected_and_disconnected() {
    let lab = Lab::new();
    network(&lab, "one", 88, &[]);
    network(&lab, "two", 89, &[]);
    lab.run("box", &["--network", "one"], &["sleep", "600"]);
    lab.run("peer", &["--network", "two"], &["sleep", "600"]);
    let (inside_box, inside_peer) = (lab.namespace_of("box"), lab.namespace_of("peer"));
    serve(&inside_peer, "peer", [80]);
    serve(&inside_box, "box", [80]);
    echo(&lab.outside_netns(), 7000);
    let peer = [false, true].map(|v6| address(&lab, "peer", "two", v6));
    for address in &peer {
        ask_tcp(&inside_box, address, 80).expect_err("another network");
    }
    let mut sessions = [OUT4, OUT6].map(|out| Session::dial(&inside_box, out, 7000));

    let begin = Instant::now();
    lab.netpath(&["network", "connect", "two", "box"]).ok();
    for address in &peer {
        assert!(
            ask_tcp(&inside_box, address, 80)
                .unwrap()
                .starts_with("peer 80")
        );
    }
    assert!(
        begin.elapsed() < Duration::from_secs(10),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(interfaces(&lab, "box"), ["lo", "eth0", "eth1"]);
    for v6 in [false, true] {
        let own = address(&lab, "box", "two", v6);
        let seen = ask_udp(&inside_box, &peer[usize::from(v6)], 80).unwrap();
        assert_eq!(seen, format!("peer 80 {own}"));
        assert!(
            ask_tcp(&inside_peer, &own, 80)
                .unwrap()
                .starts_with("box 80")
        );
        // By its address in the other network it is not there for the peer.
        let other = address(&lab, "box", "one", v6);
        ask_tcp(&inside_peer, &other, 80).expect_err("another network");
        let hosts = lab.exec("box", &["cat", "/etc/hosts"]).ok();
        assert!(hosts.contains(&format!("{own}\tbox")), "{hosts}");
        // The host reaches it by either.
        for address in [own, other] {
            assert!(
                ask_tcp(&lab.host_netns(), &address, 80).is_ok(),
                "{address}"
            );
        }
    }
    sessions.iter_mut().for_each(Session::lives);

    let own = address(&lab, "box", "two", false);
    lab.netpath(&["network", "disconnect", "two", "box"]).ok();
    assert_eq!(interfaces(&lab, "box"), ["lo", "eth0"]);
    let routes = lab.exec("box", &["ip", "route"]).ok();
    assert!(!routes.contains("10.89."), "{routes}");
    let hosts = lab.exec("box", &["cat", "/etc/hosts"]).ok();
    assert!(!hosts.contains(&own), "{hosts}");
    sessions.iter_mut().for_each(Session::lives);
    for address in &peer {
        ask_tcp(&inside_box, address, 80).expect_err("another network");
    }
    // Its place is free again.
    lab.netpath(&["network", "connect", "--ip", &own, "two", "box"])
        .ok();
    assert_eq!(connection(&lab, "box", "two")["interface"], "eth1");
}

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

/// Host port, container port and container address of all published ports.
fn published(lab: &Lab) -> Vec<(u64, u64, String)> {
    let rows = lab.json(&["ports"]);
    let rows = rows.as_array().expect("rows").iter().map(|row| {
        let end = |side: &str| -> SocketAddr {
            let text = row[side].as_str().expect("an address with a port");
            text.parse()
                .unwrap_or_else(|error| panic!("{text}: {error}"))
        };
        let (host, container) = (end("host"), end("container"));
        (
            u64::from(host.port()),
            u64::from(container.port()),
            container.ip().to_string(),
        )
    });
    let mut rows: Vec<_> = rows.collect();
    rows.sort();
    rows
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

#[test]
fn several_networks_are_named_at_the_start() {
    let lab = Lab::new();
    network(&lab, "one", 81, &[]);
    network(&lab, "two", 82, &[]);
    lab.run(
        "box",
        &[
            "--network",
            "one",
            "--network",
            "name=two,ip=10.82.0.9,ip6=fd82::9,mac-address=02:00:00:00:82:09,alias=x,gw-priority=1",
            "--mac-address",
            "02:00:00:00:81:09",
            "--ip",
            "10.81.0.9",
            "--network-alias",
            "y",
        ],
        &["sleep", "600"],
    );
    let (one, two) = (
        connection(&lab, "box", "one"),
        connection(&lab, "box", "two"),
    );
    assert_eq!(
        (
            &one["interface"],
            &one["mac"],
            &one["addresses"][0],
            &one["aliases"][0]
        ),
        (
            &"eth0".into(),
            &"02:00:00:00:81:09".into(),
            &"10.81.0.9/24".into(),
            &"y".into()
        )
    );
    assert_eq!(
        (
            &two["interface"],
            &two["mac"],
            &two["addresses"],
            &two["aliases"][0]
        ),
        (
            &"eth1".into(),
            &"02:00:00:00:82:09".into(),
            &serde_json::json!(["10.82.0.9/24", "fd82::9/64"]),
            &"x".into()
        )
    );
    assert_eq!(way_out(&lab, "box", false).as_deref(), Some("eth1"));
    let macs = lab.exec("box", &["ip", "link"]).ok();
    for mac in ["02:00:00:00:81:09", "02:00:00:00:82:09"] {
        assert!(macs.contains(mac), "{macs}");
    }
    for out in [OUT4, OUT6] {
        lab.exec("box", &["ping", "-c1", "-W3", out]).ok();
    }
    let ps = lab.netpath(&["ps"]).ok();
    assert!(ps.contains("one, two") && ps.contains("10.82.0.9"), "{ps}");
    // The neighbours of both are there.
    for (network, to) in [("one", "10.81.0.9"), ("two", "fd82::9")] {
        let name = format!("in-{network}");
        lab.run(&name, &["--network", network], &["sleep", "600"]);
        lab.exec(&name, &["ping", "-c1", "-W3", to]).ok();
    }
    lab.netpath(&["network", "rm", "two"]).refused();
    lab.netpath(&["stop", "box"]).ok();
    let networks = lab.json(&["inspect", "box"])["networks"].clone();
    let names: Vec<&str> = networks
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| one["network"].as_str())
        .collect();
    assert_eq!(names, ["one", "two"], "what it was in is remembered");
    lab.netpath(&["rm", "in-two", "-f"]).ok();
    lab.netpath(&["network", "rm", "two"]).ok();
}

#[test]
fn interfaces_of_several_networks_outlive_the_agent() {
    let mut lab = Lab::new();
    network(&lab, "one", 81, &[]);
    network(&lab, "two", 82, &[]);
    lab.run(
        "box",
        &["--network", "one", "-p", "8080:80"],
        &["sleep", "600"],
    );
    let inside_box = lab.namespace_of("box");
    serve(&inside_box, "box", [80]);
    echo(&lab.outside_netns(), 7000);
    let mut session = Session::dial(&inside_box, OUT4, 7000);
    lab.netpath(&[
        "network",
        "connect",
        "--gw-priority",
        "1",
        "--alias",
        "x",
        "two",
        "box",
    ])
    .ok();
    let before = (lab.json(&["inspect", "box"]), lab.json(&["ports"]));
    lab.kill_agent();
    session.lives();
    lab.start_agent();
    assert_eq!(
        (lab.json(&["inspect", "box"]), lab.json(&["ports"])),
        before
    );
    session.lives();
    ask_tcp(&lab.outside_netns(), HOST4, 8080).unwrap();
    // An interface that somebody removed while no agent was there, or while one is.
    for without_agent in [true, false] {
        let device = connection(&lab, "box", "two")["device"].clone();
        if without_agent {
            lab.kill_agent();
        }
        lab.host(&["ip", "link", "del", device.as_str().unwrap()])
            .ok();
        if without_agent {
            lab.start_agent();
        }
        eventually("it is back", || {
            way_out(&lab, "box", false).as_deref() == Some("eth1")
        });
        eventually("the port is back", || {
            ask_tcp(&lab.outside_netns(), HOST6, 8080).is_ok()
        });
        lab.exec("box", &["ping", "-c1", "-W3", OUT4]).ok();
        session.lives();
    }
    lab.netpath(&["network", "disconnect", "two", "box"]).ok();
    lab.netpath(&["stop", "box"]).ok();
    assert_eq!(lab.json(&["endpoints"]).as_array().map(Vec::len), Some(0));
}

#[test]
fn attached_namespaces_are_connected_like_containers() {
    let mut lab = Lab::new();
    network(&lab, "one", 81, &[]);
    network(&lab, "two", 82, &[]);
    let guest = lab.add_namespace("guest");
    lab.netpath(&[
        "attach",
        "--name",
        "guest",
        "--netns",
        &guest,
        "--network",
        "two",
    ])
    .ok();
    let links = |lab: &Lab| lab.host(&["ip", "-o", "link"]).ok().lines().count();
    let before = links(&lab);
    lab.netpath(&["network", "connect", "one", "guest"]).ok();
    assert_eq!(way_out(&lab, "guest", false).as_deref(), Some("eth1"));
    for out in [OUT4, OUT6] {
        lab.exec("guest", &["ping", "-c1", "-W3", out]).ok();
    }
    lab.netpath(&["network", "disconnect", "one", "guest"]).ok();
    assert_eq!(links(&lab), before);
    assert_eq!(way_out(&lab, "guest", true).as_deref(), Some("eth0"));
    // A way out that its owner made stays.
    lab.netpath(&["network", "connect", "one", "guest"]).ok();
    lab.exec(
        "guest",
        &["ip", "route", "add", "203.0.113.0/24", "via", "10.82.0.1"],
    )
    .ok();
    // An interface of its owner's is in nobody's way.
    lab.exec(
        "guest",
        &[
            "ip", "link", "add", "eth2", "type", "veth", "peer", "name", "eth3",
        ],
    )
    .ok();
    lab.netpath(&["network", "create", "three", "--subnet", "10.83.0.0/24"])
        .ok();
    lab.netpath(&["network", "connect", "three", "guest"]).ok();
    assert_eq!(connection(&lab, "guest", "three")["interface"], "eth4");
    lab.netpath(&["rm", "guest"]).ok();
    let netns = format!("--net={guest}");
    let left = lab.host(&["nsenter", &netns, "ip", "-o", "link"]).ok();
    assert_eq!(left.lines().count(), 3, "its owner's: {left}");
}

#[test]
fn connections_that_make_no_sense_are_refused() {
    let lab = Lab::new();
    network(&lab, "one", 81, &[]);
    network(&lab, "two", 82, &[]);
    lab.netpath(&["network", "create", "tiny", "--subnet", "10.83.0.0/30"])
        .ok();
    lab.netpath(&["network", "create", "four", "--subnet", "10.84.0.0/24"])
        .ok();
    lab.run(
        "box",
        &["--network", "one", "-p", "8080:80"],
        &["sleep", "600"],
    );
    lab.run("full", &["--network", "tiny"], &["sleep", "600"]);
    lab.run("hosts", &["--network", "host"], &["sleep", "600"]);
    lab.run("lonely", &["--network", "none"], &["sleep", "600"]);
    lab.run("sharer", &["--network", "container:box"], &["sleep", "600"]);
    lab.run("over", &["--network", "one"], &["true"]);
    eventually("it has ended", || {
        lab.json(&["inspect", "over"])["state"] == "exited"
    });
    let state = || {
        [
            &["ps", "-a"][..],
            &["network", "ls"],
            &["endpoints"],
            &["ports"],
        ]
        .map(|verb| lab.json(verb))
    };
    let links = || lab.host(&["ip", "-o", "link"]).ok().lines().count();
    let mac = connection(&lab, "full", "tiny")["mac"].clone();
    let (before, links_before) = (state(), links());
    for (args, parts) in [
        (
            &["connect", "one", "box"][..],
            &["box", "one", "already"][..],
        ),
        (&["connect", "nowhere", "box"], &["nowhere"]),
        (&["connect", "two", "nobody"], &["nobody"]),
        (&["connect", "two", "hosts"], &["hosts", "host's network"]),
        (&["connect", "two", "lonely"], &["lonely", "none"]),
        (&["connect", "two", "sharer"], &["sharer", "box"]),
        (&["connect", "two", "over"], &["over", "ended"]),
        (&["connect", "host", "box"], &["host"]),
        (&["connect", "none", "box"], &["none"]),
        (&["connect", "container:full", "box"], &["container:full"]),
        (&["connect", "tiny", "box"], &["10.83.0.0/30"]),
        (
            &["connect", "--ip", "10.81.0.9", "two", "box"],
            &["10.81.0.9"],
        ),
        (
            &["connect", "--ip", "10.82.0.1", "two", "box"],
            &["10.82.0.1"],
        ),
        (
            &["connect", "--ip", "10.82.0.255", "two", "box"],
            &["10.82.0.255"],
        ),
        (&["connect", "--ip", "tomato", "two", "box"], &["tomato"]),
        (
            &["connect", "--ip6", "fd84::9", "four", "box"],
            &["fd84::9", "four"],
        ),
        (
            &["connect", "--mac-address", "tomato", "two", "box"],
            &["tomato"],
        ),
        (
            &[
                "connect",
                "--mac-address",
                "01:00:5e:00:00:01",
                "two",
                "box",
            ],
            &["01:00:5e:00:00:01", "group"],
        ),
        (
            &[
                "connect",
                "--mac-address",
                mac.as_str().unwrap(),
                "tiny",
                "box",
            ],
            &["full", "tiny"],
        ),
        (&["connect", "--alias", "a b", "two", "box"], &["a b"]),
        (
            &["connect", "--gw-priority", "high", "two", "box"],
            &["high"],
        ),
        (&["disconnect", "two", "box"], &["box", "two"]),
        (&["disconnect", "nowhere", "box"], &["nowhere"]),
        (&["disconnect", "one", "nobody"], &["nobody"]),
        (&["disconnect", "one", "hosts"], &["hosts"]),
        (&["disconnect", "one", "sharer"], &["sharer", "box"]),
        (&["disconnect", "one", "over"], &["over", "ended"]),
    ] {
        let refused = lab.netpath(&[&["network"], args].concat()).refused();
        for part in parts {
            assert!(refused.contains(part), "{args:?}: {refused}");
        }
        assert_eq!(state(), before, "{args:?}");
        assert_eq!(links(), links_before, "{args:?}");
    }
    // Twice is fine with -f, and so is what is gone.
    for args in [["two", "box"], ["one", "nobody"], ["one", "over"]] {
        lab.netpath(&[&["network", "disconnect", "-f"][..], &args].concat())
            .ok();
    }
    assert_eq!(state(), before);
}

#[test]
fn a_connection_whose_ports_cannot_be_had_changes_nothing() {
    let lab = Lab::new();
    network(&lab, "m", 81, &[]);
    // Ports without an address of their own would go to one that the host has not got.
    network(&lab, "a", 82, &["-o", "host_binding_ipv4=192.0.2.77"]);
    lab.run(
        "box",
        &["--network", "m", "-p", "9090:80", "-p", "81"],
        &["sleep", "600"],
    );
    serve(&lab.namespace_of("box"), "box", [80]);
    echo(&lab.outside_netns(), 7000);
    let mut session = Session::dial(&lab.namespace_of("box"), OUT4, 7000);
    let state = || (lab.json(&["inspect", "box"]), published(&lab));
    let links = || lab.host(&["ip", "-o", "link"]).ok().lines().count();
    let (before, links_before) = (state(), links());
    let refused = lab.netpath(&["network", "connect", "a", "box"]).refused();
    assert!(refused.contains("192.0.2.77"), "{refused}");
    assert_eq!((state(), links()), (before, links_before));
    assert_eq!(way_out(&lab, "box", false).as_deref(), Some("eth0"));
    assert_eq!(interfaces(&lab, "box"), ["lo", "eth0"]);
    for host in [HOST4, HOST6] {
        ask_tcp(&lab.outside_netns(), host, 9090).unwrap();
    }
    session.lives();
    // Where it would not be the way out it does no harm.
    lab.netpath(&["network", "connect", "--gw-priority", "-1", "a", "box"])
        .ok();
    ask_tcp(&lab.outside_netns(), HOST4, 9090).unwrap();
    // And if it has to become the way out, the container goes on without ports.
    lab.netpath(&["network", "disconnect", "m", "box"]).ok();
    lab.exec("box", &["ping", "-c1", "-W3", OUT4]).ok();
    ask_tcp(&lab.outside_netns(), HOST4, 9090).expect_err("nothing is published");
}
