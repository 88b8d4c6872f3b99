//! Drivers `macvlan` and `ipvlan`: the kernel's devices.

use netpath_tests::lab::{HOST4, Lab, OUT4, UPLINK, eventually};

use super::{SUBNETS, container, network, networks, ping, short_ping};

/// Whether the kernel has devices of a kind.
fn kernel_has(lab: &Lab, words: &[&str]) -> bool {
    let add = [
        "ip", "link", "add", "link", UPLINK, "name", "probe0", "type",
    ];
    let ran = lab.host(&[&add[..], words].concat());
    lab.host(&["ip", "link", "del", "probe0"]);
    ran.code == Some(0)
}

#[test]
fn modes_are_the_kernels() {
    for (mode, neighbours) in [("bridge", true), ("private", false), ("vepa", false)] {
        let lab = Lab::new();
        let option = format!("macvlan_mode={mode}");
        network(&lab, "lan", "macvlan", &["-o", &option]);
        container(&lab, "a", "lan", 10);
        container(&lab, "b", "lan", 11);
        for address in ["192.0.2.10", "2001:db8:1::10"] {
            lab.outside(&ping(address)).ok();
        }
        lab.exec("a", &ping(OUT4)).ok();
        let met = lab.exec("a", &short_ping("192.0.2.11")).code == Some(0);
        assert_eq!(met, neighbours, "{mode}");
        // The host is not among those who share its card.
        assert_ne!(lab.host(&short_ping("192.0.2.10")).code, Some(0), "{mode}");
        lab.host(&ping(OUT4)).ok();
        let link = lab.exec("a", &["ip", "-d", "link", "show", "eth0"]).ok();
        assert!(link.contains(&format!("macvlan mode {mode}")), "{link}");
        let routes = lab.exec("a", &["ip", "route"]).ok();
        assert!(routes.contains("default via 192.0.2.2"), "{routes}");
    }
}

#[test]
fn passthru_is_for_one_network_and_one_container() {
    let lab = Lab::new();
    network(&lab, "own", "macvlan", &["-o", "macvlan_mode=passthru"]);
    container(&lab, "a", "own", 10);
    let run = [
        "run",
        "-d",
        "--name",
        "b",
        "--network",
        "own",
        "--",
        "sleep",
        "600",
    ];
    let refused = lab.netpath(&run).refused();
    assert!(refused.contains("passthru"), "{refused}");
    assert_eq!(lab.json(&["ps"]).as_array().map(Vec::len), Some(1));
    let parent = format!("parent={UPLINK}");
    let create = ["network", "create", "x", "-d", "macvlan", "-o", &parent];
    let refused = lab.netpath(&create).refused();
    assert!(
        refused.contains("passthru") && refused.contains("network own"),
        "{refused}"
    );
    // The next one can have it.
    lab.netpath(&["rm", "-f", "a"]).ok();
    eventually("the card is free", || lab.netpath(&run).code == Some(0));
}

#[test]
fn a_card_that_somebody_else_has_for_himself_is_refused() {
    let lab = Lab::new();
    let add = [
        "ip", "link", "add", "link", UPLINK, "name", "other0", "type", "macvlan", "mode",
        "passthru",
    ];
    lab.host(&add).ok();
    let parent = format!("parent={UPLINK}");
    let create = ["network", "create", "x", "-d", "macvlan", "-o", &parent];
    let refused = lab.netpath(&create).refused();
    assert!(
        refused.contains("uplink0 is used by a device of the host"),
        "{refused}"
    );
    assert_eq!(networks(&lab), 0);
}

#[test]
fn networks_share_a_parent_with_their_own_kind() {
    let lab = Lab::new();
    network(&lab, "one", "macvlan", &[]);
    let parent = format!("parent={UPLINK}");
    let subnet = ["--subnet", "192.0.3.0/24"];
    let create = ["network", "create", "two", "-d", "macvlan", "-o", &parent];
    lab.netpath(&[&create[..], &subnet].concat()).ok();
    for (driver, mode) in [
        ("ipvlan", ""),
        ("underlay", ""),
        ("macvlan", "macvlan_mode=passthru"),
    ] {
        let mut create = vec!["network", "create", "x", "-d", driver, "-o", &parent];
        if !mode.is_empty() {
            create.extend(["-o", mode]);
        }
        create.extend(["--subnet", "192.0.4.0/24"]);
        let refused = lab.netpath(&create).refused();
        assert!(
            refused.contains("is used by network"),
            "{driver}: {refused}"
        );
    }
    // Addresses of one wire overlap with nobody's but each other.
    let again = [
        &["network", "create", "x", "-d", "macvlan", "-o", &parent][..],
        &SUBNETS,
    ]
    .concat();
    let refused = lab.netpath(&again).refused();
    assert!(refused.contains("overlaps"), "{refused}");
}

#[test]
fn without_a_parent_containers_are_among_themselves() {
    let lab = Lab::new();
    let create = [
        "network",
        "create",
        "lan",
        "-d",
        "macvlan",
        "--subnet",
        "10.88.0.0/24",
    ];
    lab.netpath(&create).ok();
    lab.run(
        "a",
        &["--network", "lan", "--ip", "10.88.0.10"],
        &["sleep", "600"],
    );
    lab.run("b", &["--network", "lan"], &["sleep", "600"]);
    lab.exec("b", &ping("10.88.0.10")).ok();
    let routes = lab.exec("b", &["ip", "route"]).ok();
    assert!(!routes.contains("default"), "{routes}");
    lab.netpath(&["rm", "-f", "a", "b"]).ok();
    lab.netpath(&["network", "rm", "lan"]).ok();
    let links = lab.host(&["ip", "-o", "link"]).ok();
    assert!(!links.contains("np-lan"), "{links}");
}

#[test]
fn a_parent_that_is_down_or_gone_is_told() {
    let lab = Lab::new();
    network(&lab, "lan", "macvlan", &[]);
    lab.host(&["ip", "link", "set", UPLINK, "down"]).ok();
    let run = [
        "run",
        "-d",
        "--name",
        "a",
        "--network",
        "lan",
        "--",
        "sleep",
        "600",
    ];
    let refused = lab.netpath(&run).refused();
    assert!(refused.contains("uplink0 is down"), "{refused}");
    assert_eq!(lab.json(&["ps", "-a"]).as_array().map(Vec::len), Some(0));
    lab.host(&["ip", "link", "del", UPLINK]).ok();
    let refused = lab.netpath(&run).refused();
    assert!(refused.contains("uplink0 is gone"), "{refused}");
    lab.replug();
    eventually("it works again", || lab.netpath(&run).code == Some(0));
    lab.exec("a", &ping(OUT4)).ok();
}

#[test]
fn it_outlives_the_agent_and_goes_with_its_container() {
    let mut lab = Lab::new();
    network(&lab, "lan", "macvlan", &[]);
    container(&lab, "a", "lan", 10);
    lab.kill_agent();
    lab.outside(&ping("192.0.2.10")).ok();
    lab.start_agent();
    lab.outside(&ping("192.0.2.10")).ok();
    assert!(
        !lab.agent_log().contains("making it anew"),
        "{}",
        lab.agent_log()
    );
    lab.netpath(&["rm", "-f", "a"]).ok();
    assert_ne!(lab.outside(&short_ping("192.0.2.10")).code, Some(0));
    container(&lab, "a", "lan", 10);
    lab.outside(&ping("192.0.2.10")).ok();
}

#[test]
fn a_foreign_namespace_gets_and_loses_an_interface() {
    let mut lab = Lab::new();
    network(&lab, "lan", "macvlan", &[]);
    let netns = lab.add_namespace("foreign");
    let attach = [
        "attach",
        "--netns",
        &netns,
        "--name",
        "x",
        "--network",
        "lan",
    ];
    lab.netpath(&attach).ok();
    let inside = format!("--net={netns}");
    lab.host(&["nsenter", &inside, "ping", "-c", "1", "-W", "2", OUT4])
        .ok();
    lab.netpath(&["rm", "x"]).ok();
    let links = lab.host(&["nsenter", &inside, "ip", "-o", "link"]).ok();
    assert!(!links.contains("eth0"), "{links}");
    lab.netpath(&attach).ok();
    lab.purge().ok();
    let links = lab.host(&["nsenter", &inside, "ip", "-o", "link"]).ok();
    assert!(!links.contains("eth0"), "{links}");
}

#[test]
fn vlans_have_devices_where_the_kernel_makes_such() {
    let lab = Lab::new();
    let has = kernel_has(&lab, &["vlan", "id", "9"]);
    let create = [
        "network",
        "create",
        "lan",
        "-d",
        "macvlan",
        "-o",
        "parent=uplink0.101",
        "--subnet",
        "192.0.5.0/24",
    ];
    let ran = lab.netpath(&create);
    let device = || lab.host(&["ip", "link", "show", "uplink0.101"]).code == Some(0);
    if !has {
        let refused = ran.refused();
        assert!(
            refused.contains("VLAN_8021Q") && refused.contains("underlay"),
            "{refused}"
        );
        assert!(!device());
        assert_eq!(networks(&lab), 0);
        return;
    }
    ran.ok();
    assert!(device());
    lab.run("a", &["--network", "lan"], &["sleep", "600"]);
    lab.netpath(&["rm", "-f", "a"]).ok();
    lab.netpath(&["network", "rm", "lan"]).ok();
    assert!(!device());
}

#[test]
fn ipvlan_is_as_the_kernel_has_it() {
    let lab = Lab::new();
    let has = kernel_has(&lab, &["ipvlan", "mode", "l2"]);
    for mode in ["l2", "l3", "l3s"] {
        let parent = format!("parent={UPLINK}");
        let option = format!("ipvlan_mode={mode}");
        let create = [
            "network", "create", "lan", "-d", "ipvlan", "-o", &parent, "-o", &option,
        ];
        let ran = lab.netpath(&[&create[..], &SUBNETS].concat());
        if !has {
            let refused = ran.refused();
            assert!(
                refused.contains("no ipvlan devices (CONFIG_IPVLAN)"),
                "{refused}"
            );
            assert_eq!(networks(&lab), 0);
            continue;
        }
        ran.ok();
        container(&lab, "a", "lan", 10);
        container(&lab, "b", "lan", 11);
        lab.exec("a", &ping("192.0.2.11")).ok();
        if mode == "l2" {
            lab.outside(&ping("192.0.2.10")).ok();
        }
        let create = ["network", "create", "x", "-d", "ipvlan", "-o", &parent];
        let subnet = ["--subnet", "192.0.9.0/24"];
        let refused = lab.netpath(&[&create[..], &subnet].concat()).refused();
        assert!(refused.contains("one network a parent"), "{refused}");
        lab.netpath(&["rm", "-f", "a", "b"]).ok();
        lab.netpath(&["network", "rm", "lan"]).ok();
    }
    lab.host(&ping(OUT4)).ok();
    lab.outside(&ping(HOST4)).ok();
}
