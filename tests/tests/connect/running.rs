//! Interfaces come and go while a container runs.

use std::time::{Duration, Instant};

use netpath_tests::inside::{ask_tcp, ask_udp, serve};
use netpath_tests::lab::{HOST4, HOST6, Lab, OUT4, OUT6, eventually};

use crate::{Session, address, connection, echo, interfaces, network, way_out};

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
