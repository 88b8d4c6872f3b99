//! What cannot be, and what fails half-way.

use netpath_tests::inside::{ask_tcp, serve};
use netpath_tests::lab::{HOST4, HOST6, Lab, OUT4, eventually};

use crate::{Session, connection, echo, interfaces, network, published, way_out};

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
