//! Networks on a card about which netpath is told little, or that is not netpath's alone.

use netpath_tests::lab::{HOST4, HOST6, Lab, OUT4, OUT6, UPLINK, eventually};

use super::{KINDS, STACKED, as_opt, networks, ping, short_ping};

/// Makes a device of the host's own on the uplink.
#[track_caller]
fn add_macvlan(lab: &Lab, mode: &str) {
    let add = ["ip", "link", "add", "link", UPLINK, "name", "other0"];
    lab.host(&[&add[..], &["type", "macvlan", "mode", mode]].concat())
        .ok();
    lab.host(&["ip", "link", "set", "other0", "up"]).ok();
}

/// Makes a network on the uplink, without a gateway.
fn create(lab: &Lab, driver: &str, options: &[&str]) -> netpath_tests::lab::Ran {
    let parent = format!("parent={UPLINK}");
    let create = ["network", "create", "lan", "-d", driver, "-o", &parent];
    let subnets = ["--subnet", "192.0.2.0/24", "--subnet", "2001:db8:1::/64"];
    lab.netpath(&[&create[..], &subnets, options].concat())
}

/// Words that start a container on it.
fn run_words(name: &str) -> [&str; 12] {
    let (v4, v6) = ("192.0.2.10", "2001:db8:1::10");
    [
        "run",
        "-d",
        "--name",
        name,
        "--network",
        "lan",
        "--ip",
        v4,
        "--ip6",
        v6,
        "sleep",
        "600",
    ]
}

#[test]
fn without_a_gateway_nothing_leads_out_and_the_wire_is_reached() {
    for (driver, options) in [
        ("underlay", &[][..]),
        ("underlay", &["-o", "mode=l3"]),
        ("underlay", &STACKED),
        ("macvlan", &[]),
    ] {
        let lab = Lab::new();
        // A machine beyond the outside one, which a default route would lead to.
        let beyond = "198.51.100.1/32";
        lab.outside(&["ip", "addr", "add", beyond, "dev", "lo"])
            .ok();
        create(&lab, driver, options).ok();
        lab.netpath(&run_words("a")).ok();
        for address in [OUT4, OUT6] {
            lab.exec("a", &ping(address)).ok();
        }
        for address in ["192.0.2.10", "2001:db8:1::10"] {
            lab.outside(&ping(address)).ok();
        }
        if driver == "underlay" {
            for address in [HOST4, HOST6] {
                lab.exec("a", &ping(address)).ok();
            }
        }
        for family in ["-4", "-6"] {
            let routes = lab.exec("a", &["ip", family, "route"]).ok();
            assert!(
                !routes.contains("default"),
                "{driver} {options:?}: {routes}"
            );
        }
        let far = lab.exec("a", &short_ping("198.51.100.1"));
        assert_ne!(far.code, Some(0), "{driver} {options:?}");
        // With a network that leads out it leads out by that one.
        let net = ["network", "create", "net", "--subnet", "10.88.0.0/24"];
        lab.netpath(&net).ok();
        lab.netpath(&["network", "connect", "net", "a"]).ok();
        lab.exec("a", &ping("198.51.100.1")).ok();
        lab.exec("a", &ping(OUT6)).ok();
    }
}

#[test]
fn a_card_with_somebody_elses_macvlan_on_it_is_shared() {
    for (driver, options) in KINDS {
        let lab = Lab::new();
        add_macvlan(&lab, "bridge");
        let mac = super::mac_on(&lab, "other0");
        create(&lab, driver, options).ok();
        lab.netpath(&run_words("a")).ok();
        lab.exec("a", &ping(OUT4)).ok();
        lab.exec("a", &ping(OUT6)).ok();
        lab.outside(&ping("192.0.2.10")).ok();
        lab.host(&ping(OUT4)).ok();
        // The other one goes on, and is nobody's to remove.
        lab.host(&["ip", "addr", "add", "192.0.2.77/32", "dev", "other0"])
            .ok();
        lab.outside(&[
            "ip",
            "neigh",
            "replace",
            "192.0.2.77",
            "lladdr",
            &mac,
            "dev",
            "eth0",
        ])
        .ok();
        lab.outside(&ping("192.0.2.77")).ok();
        lab.netpath(&["rm", "-f", "a"]).ok();
        lab.netpath(&["network", "rm", "lan"]).ok();
        lab.outside(&ping("192.0.2.77")).ok();
    }
}

#[test]
fn a_card_that_somebody_else_shares_is_not_given_to_one_container() {
    let lab = Lab::new();
    add_macvlan(&lab, "bridge");
    let refused = create(&lab, "macvlan", &["-o", "macvlan_mode=passthru"]).refused();
    assert!(
        refused.contains("other0") && refused.contains("passthru"),
        "{refused}"
    );
    assert_eq!(networks(&lab), 0);
    let words = ["attach", "--parent", UPLINK, "--ip", "192.0.2.10/24"];
    let more = ["-d", "macvlan", "--opt", "macvlan_mode=passthru", "box"];
    lab.netpath(&["network", "create", "net", "--subnet", "10.88.0.0/24"])
        .ok();
    lab.run("box", &["--network", "net"], &["sleep", "600"]);
    let refused = lab.netpath(&[&words[..], &more].concat()).refused();
    assert!(refused.contains("other0"), "{refused}");
    assert_eq!(lab.json(&["cards"]).as_array().map(Vec::len), Some(0));
    let links = lab.exec("box", &["ip", "-o", "link"]).ok();
    assert!(!links.contains("eth1"), "{links}");
}

#[test]
fn a_card_that_somebody_takes_for_himself_later_is_told() {
    let lab = Lab::new();
    create(&lab, "macvlan", &[]).ok();
    add_macvlan(&lab, "passthru");
    let refused = lab.netpath(&run_words("a")).refused();
    assert!(
        refused.contains("uplink0") && refused.contains("passthru"),
        "{refused}"
    );
    assert_eq!(lab.json(&["ps", "-a"]).as_array().map(Vec::len), Some(0));
    let refused = lab.netpath(&run_words("a")).refused();
    assert!(
        refused.contains("passthru"),
        "the address is free: {refused}"
    );
    lab.host(&["ip", "link", "del", "other0"]).ok();
    lab.netpath(&run_words("a")).ok();
    lab.exec("a", &ping(OUT4)).ok();
}

/// Plugs the uplink in again: the device is there for a while before somebody sets it up.
fn replug_slowly(lab: &Lab) {
    let (host, outside) = (lab.host_netns(), lab.outside_netns());
    let name = |path: &str| path.rsplit('/').next().expect("a name").to_owned();
    let (host, outside) = (name(&host), name(&outside));
    let veth = ["type", "veth", "peer", "name", "eth0", "netns", &outside];
    let add = ["ip", "link", "add", UPLINK, "netns", &host];
    lab.host(&[&add[..], &veth].concat()).ok();
    lab.outside(&["ip", "link", "set", "eth0", "up"]).ok();
    lab.outside(&["ip", "addr", "add", "192.0.2.2/24", "dev", "eth0"])
        .ok();
    // Long enough for the agent to see it.
    std::thread::sleep(std::time::Duration::from_millis(500));
    lab.host(&["ip", "link", "set", UPLINK, "up"]).ok();
    lab.host(&["ip", "addr", "add", "192.0.2.1/24", "dev", UPLINK])
        .ok();
}

#[test]
fn a_card_that_is_plugged_in_again_serves_its_containers_again() {
    for (driver, options) in KINDS {
        let lab = Lab::new();
        create(&lab, driver, options).ok();
        lab.netpath(&run_words("a")).ok();
        let net = ["network", "create", "net", "--subnet", "10.88.0.0/24"];
        lab.netpath(&net).ok();
        lab.run("box", &["--network", "net"], &["sleep", "600"]);
        let attach = ["attach", "--parent", UPLINK, "--ip", "192.0.2.11/24"];
        let kind = as_opt(options);
        lab.netpath(&[&attach[..], &kind, &["-d", driver, "box"]].concat())
            .ok();
        let are_reached = || {
            ["192.0.2.10", "192.0.2.11"]
                .iter()
                .all(|address| lab.outside(&short_ping(address)).code == Some(0))
        };
        assert!(are_reached(), "{driver}");
        lab.host(&["ip", "link", "del", UPLINK]).ok();
        replug_slowly(&lab);
        eventually(driver, are_reached);
    }
}

/// A second card, `spare0`, with the outside machine's `10.9.0.2` on the other end.
fn add_spare(lab: &Lab) {
    let outside = lab.outside_netns();
    let outside = outside.rsplit('/').next().expect("a name");
    let veth = ["type", "veth", "peer", "name", "spare1", "netns", outside];
    lab.host(&[&["ip", "link", "add", "spare0"], &veth[..]].concat())
        .ok();
    lab.outside(&["ip", "link", "set", "spare1", "up"]).ok();
    lab.outside(&["ip", "addr", "add", "10.9.0.2/24", "dev", "spare1"])
        .ok();
    lab.host(&["ip", "link", "set", "spare0", "up"]).ok();
}

#[test]
fn an_agent_starts_without_the_card_of_a_network() {
    for (driver, options) in KINDS {
        let mut lab = Lab::without_agent();
        add_spare(&lab);
        lab.start_agent();
        let create = [
            "network",
            "create",
            "lan",
            "-d",
            driver,
            "-o",
            "parent=spare0",
        ];
        let subnet = ["--subnet", "10.9.0.0/24"];
        lab.netpath(&[&create[..], options, &subnet].concat()).ok();
        let at = ["--network", "lan", "--ip", "10.9.0.10"];
        lab.run("a", &at, &["sleep", "600"]);
        lab.netpath(&["network", "create", "net", "--subnet", "10.88.0.0/24"])
            .ok();
        lab.run("b", &["--network", "net"], &["sleep", "600"]);
        lab.kill_agent();
        lab.host(&["ip", "link", "del", "spare0"]).ok();
        lab.start_agent();
        // The others are served.
        lab.exec("b", &ping(OUT4)).ok();
        let refused = lab
            .netpath(&["run", "-d", "--network", "lan", "true"])
            .refused();
        assert!(refused.contains("spare0"), "{refused}");
        assert_eq!(lab.json(&["ps"]).as_array().map(Vec::len), Some(2));
        add_spare(&lab);
        eventually(driver, || {
            lab.exec("a", &short_ping("10.9.0.2")).code == Some(0)
        });
        lab.netpath(&["rm", "-f", "a"]).ok();
        lab.netpath(&["network", "rm", "lan"]).ok();
    }
}

#[test]
fn addresses_that_are_somebodys_here_are_not_given_again() {
    for driver in ["underlay", "macvlan"] {
        let lab = Lab::new();
        create(&lab, driver, &[]).ok();
        lab.netpath(&["network", "create", "net", "--subnet", "10.88.0.0/24"])
            .ok();
        lab.run("box", &["--network", "net"], &["sleep", "600"]);
        let attach = ["attach", "--parent", UPLINK, "-d", driver, "--ip"];
        let card = |words: &[&str]| lab.netpath(&[&attach[..], words].concat());
        let mac = "02:00:00:00:77:01";
        card(&["192.0.2.3/24", "--mac", mac, "box"]).ok();
        // The first addresses are the host's, a machine's that we are told, and a card's.
        lab.netpath(&["network", "rm", "lan"]).ok();
        create(&lab, driver, &["--gateway", OUT4]).ok();
        lab.run("a", &["--network", "lan"], &["sleep", "600"]);
        assert_eq!(lab.address("a", false), "192.0.2.4", "{driver}");
        for (words, part) in [
            (&["--ip", HOST4][..], "192.0.2.1 belongs to the host"),
            (&["--ip6", HOST6], "2001:db8:1::1 belongs to the host"),
            (&["--ip", "192.0.2.3"], "belongs to the card eth1 of box"),
            (&["--mac-address", mac], "belongs to the card eth1 of box"),
            (
                &["--mac-address", &super::mac_on(&lab, UPLINK)],
                "belongs to uplink0 itself",
            ),
        ] {
            let run = ["run", "-d", "--name", "x", "--network", "lan"];
            let run = [&run[..], words, &["sleep", "600"]].concat();
            let refused = lab.netpath(&run).refused();
            assert!(refused.contains(part), "{words:?}: {refused}");
        }
        for (words, part) in [
            (&["192.0.2.1/24", "box"][..], "belongs to the host"),
            (&["192.0.2.3/24", "box"], "belongs to the card eth1 of box"),
            (&["192.0.2.4/24", "box"], "belongs to container a"),
            (
                &["0/0", "--mac", &super::mac_on(&lab, UPLINK), "box"],
                "belongs to uplink0 itself",
            ),
            (
                &["0/0", "--mac", &super::mac_of(&lab, "a", "eth0"), "box"],
                "belongs to container a",
            ),
        ] {
            let refused = card(words).refused();
            assert!(refused.contains(part), "{words:?}: {refused}");
        }
        assert_eq!(lab.json(&["cards"]).as_array().map(Vec::len), Some(1));
        lab.host(&ping(OUT4)).ok();
    }
}
