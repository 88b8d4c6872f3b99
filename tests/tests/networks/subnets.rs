//! Subnets, ranges, gateways and addresses.

use std::collections::BTreeSet;

use netpath_tests::lab::Lab;
use serde_json::json;

use crate::{create, inspect, names};

#[test]
fn default_subnets_skip_what_the_host_has() {
    let mut lab = Lab::without_agent();
    for route in ["172.17.0.0/24", "172.18.128.0/17"] {
        lab.host(&["ip", "route", "add", route, "via", "192.0.2.2"])
            .ok();
    }
    lab.host(&["ip", "addr", "add", "172.19.7.7/32", "dev", "lo"])
        .ok();
    lab.start_agent();
    let subnet = |lab: &Lab, name| inspect(lab, name)["IPAM"]["Config"][0]["Subnet"].clone();
    assert_eq!(subnet(&lab, "bridge"), "172.20.0.0/16");
    create(&lab, &["next"]);
    assert_eq!(subnet(&lab, "next"), "172.21.0.0/16");
    // Pools of the settings; what is there stays as it is.
    lab.stop_agent();
    lab.agent_options(&[
        "--default-address-pool",
        "base=10.77.0.0/22,size=24",
        "--default-address-pool",
        "base=fd77::/16,size=64",
    ]);
    lab.start_agent();
    assert_eq!(subnet(&lab, "bridge"), "172.20.0.0/16");
    lab.host(&["ip", "route", "add", "10.77.1.0/24", "via", "192.0.2.2"])
        .ok();
    for (name, expected) in [("p0", "10.77.0.0/24"), ("p1", "10.77.2.0/24")] {
        create(&lab, &[name]);
        assert_eq!(subnet(&lab, name), expected);
    }
    create(&lab, &["p2", "--ipv6"]);
    let config = inspect(&lab, "p2")["IPAM"]["Config"].clone();
    assert_eq!(config[1]["Subnet"], "fd77::/64");
    let sentence = lab.netpath(&["network", "create", "p3"]).refused();
    assert!(
        sentence.contains("10.77.0.0/22 cut into /24") && sentence.contains("--subnet"),
        "{sentence}"
    );
    let mut command = lab.agent_command();
    command.args(["--default-address-pool", "base=10.0.0.0/8"]);
    let sentence = netpath_tests::lab::run(command).refused();
    assert!(sentence.contains("base=10.10.0.0/16,size=24"), "{sentence}");
}

#[test]
fn containers_get_addresses_of_the_range_and_none_that_is_set_aside() {
    let mut lab = Lab::new();
    create(
        &lab,
        &[
            "--subnet",
            "10.88.0.0/24",
            "--ip-range",
            "10.88.0.64/29",
            "--gateway",
            "10.88.0.1",
            "--aux-address",
            "printer=10.88.0.66",
            "--aux-address",
            "router=10.88.0.9",
            "net",
        ],
    );
    assert_eq!(
        inspect(&lab, "net")["IPAM"]["Config"][0],
        json!({
            "Subnet": "10.88.0.0/24",
            "IPRange": "10.88.0.64/29",
            "Gateway": "10.88.0.1",
            "AuxiliaryAddresses": {"printer": "10.88.0.66", "router": "10.88.0.9"},
        })
    );
    let mut given = BTreeSet::new();
    for n in 0..7 {
        let name = format!("c{n}");
        lab.run(&name, &["--network", "net"], &["sleep", "600"]);
        given.insert(lab.address(&name, false));
    }
    let expected = [64, 65, 67, 68, 69, 70, 71].map(|n| format!("10.88.0.{n}"));
    assert_eq!(given, BTreeSet::from(expected));
    let run = |ip: Option<&str>| {
        let mut args = vec!["run", "-d", "--name", "more", "--network", "net"];
        args.extend(ip.iter().flat_map(|ip| ["--ip", ip]));
        args.extend(["--", "sleep", "600"]);
        lab.netpath(&args)
    };
    for (ip, part) in [
        (None, "range 10.88.0.64/29 of subnet 10.88.0.0/24"),
        (Some("10.88.0.66"), "in use"),
        (Some("10.88.0.9"), "in use"),
        (Some("10.88.0.65"), "in use"),
        (Some("10.88.0.1"), "gateway"),
        (Some("10.88.0.255"), "broadcast"),
        (Some("10.89.0.7"), "outside"),
    ] {
        let sentence = run(ip).refused();
        assert!(sentence.contains(part), "{ip:?}: {sentence}");
    }
    // Outside the range, but inside the subnet.
    run(Some("10.88.0.200")).ok();
    // What was refused has taken no address; one that is free again is given again.
    lab.netpath(&["rm", "-f", "more", "c3"]).ok();
    lab.kill_agent();
    lab.start_agent();
    lab.run("again", &["--network", "net"], &["sleep", "600"]);
    assert_eq!(lab.address("again", false), "10.88.0.68");
    lab.run(
        "other",
        &["--network", "net", "--ip", "10.88.0.200"],
        &["sleep", "600"],
    );
}

#[test]
fn networks_have_the_families_that_they_are_told() {
    let lab = Lab::new();
    create(&lab, &["both", "--ipv6"]);
    let config = inspect(&lab, "both")["IPAM"]["Config"].clone();
    let ula = config[1]["Subnet"].as_str().unwrap();
    assert!(ula.starts_with("fd") && ula.ends_with("::/64"), "{ula}");
    create(&lab, &["second", "--ipv6"]);
    assert_ne!(inspect(&lab, "second")["IPAM"]["Config"][1]["Subnet"], ula);
    create(&lab, &["six", "--ipv4=false", "--ipv6"]);
    let shown = inspect(&lab, "six");
    assert_eq!(shown["EnableIPv4"], false);
    assert_eq!(shown["EnableIPv6"], true);
    lab.run("box", &["--network", "six"], &["sleep", "600"]);
    lab.exec(
        "box",
        &["ping", "-6", "-c", "1", "-W", "2", "2001:db8:1::2"],
    )
    .ok();
    let addresses = lab
        .exec("box", &["ip", "-4", "-o", "addr", "show", "eth0"])
        .ok();
    assert_eq!(addresses, "");
    create(
        &lab,
        &["option", "-o", "com.docker.network.enable_ipv6=true"],
    );
    assert_eq!(inspect(&lab, "option")["EnableIPv6"], true);
    for (args, part) in [
        (&["--ipv4=false"][..], "--ipv6"),
        (&["--ipv4=false", "--subnet", "10.9.0.0/24"], "IPv4"),
        (&["--ipv4=maybe"], "maybe"),
    ] {
        let sentence = lab
            .netpath(&[&["network", "create", "no"], args].concat())
            .refused();
        assert!(sentence.contains(part), "{args:?}: {sentence}");
    }
}

/// Whatever is wrong with a subnet, it is refused and nothing is made.
#[test]
fn senseless_subnets_are_refused_and_nothing_is_made() {
    let lab = Lab::new();
    create(&lab, &["other", "--subnet", "10.88.0.0/24"]);
    let state = |lab: &Lab| {
        let links = lab.host(&["ip", "-o", "-4", "addr"]).ok();
        (names(lab, &[]), links)
    };
    let before = state(&lab);
    let v4 = ["--subnet", "10.99.0.0/24"];
    let more = |args: &[&'static str]| [&v4[..], args].concat();
    for (args, part) in [
        // Host bits.
        (vec!["--subnet", "10.99.0.1/24"], "10.99.0.0/24"),
        (vec!["--subnet", "fd00:9::1/64"], "fd00:9::/64"),
        // Overlaps, from inside and from outside; the same twice; two of a family.
        (
            vec!["--subnet", "10.88.0.128/25"],
            "10.88.0.0/24 of network other",
        ),
        (
            vec!["--subnet", "10.88.0.0/16"],
            "10.88.0.0/24 of network other",
        ),
        (vec!["--subnet", "172.17.3.0/24"], "network bridge"),
        (vec!["--subnet", "192.0.2.0/25"], "uplink0"),
        (vec!["--subnet", "2001:db8:1::/80"], "uplink0"),
        (more(&v4), "one family"),
        (more(&["--subnet", "10.98.0.0/24"]), "one family"),
        // Too small, too large, what nobody can have.
        (vec!["--subnet", "10.99.0.0/32"], "too small"),
        (vec!["--subnet", "10.99.0.0/31"], "too small"),
        (vec!["--subnet", "fd00:9::/128"], "too small"),
        (vec!["--subnet", "0.0.0.0/0"], "too large"),
        (vec!["--subnet", "127.9.0.0/16"], "loopback"),
        (vec!["--subnet", "169.254.9.0/24"], "link-local"),
        (vec!["--subnet", "224.9.0.0/16"], "multicast"),
        (vec!["--subnet", "fe80::/64"], "link-local"),
        // Gateways.
        (more(&["--gateway", "10.98.0.1"]), "10.98.0.1 is outside"),
        (more(&["--gateway", "10.99.0.0"]), "network or broadcast"),
        (more(&["--gateway", "10.99.0.255"]), "network or broadcast"),
        (more(&["--gateway", "fd00::1"]), "no subnet of its family"),
        (
            more(&["--gateway", "10.99.0.1", "--gateway", "10.99.0.2"]),
            "second of its family",
        ),
        (more(&["--gateway", "here"]), "here"),
        // Ranges and addresses that are set aside.
        (more(&["--ip-range", "10.98.0.0/25"]), "outside the subnet"),
        (more(&["--ip-range", "10.99.0.0/16"]), "outside the subnet"),
        (more(&["--ip-range", "10.99.0.1/25"]), "10.99.0.0/25"),
        (
            more(&["--ip-range", "fd00::/64"]),
            "no subnet of its family",
        ),
        (more(&["--ip-range", "somewhere"]), "somewhere"),
        (
            more(&["--aux-address", "a=10.98.0.9"]),
            "outside the subnet",
        ),
        (more(&["--aux-address", "a=10.99.0.1"]), "the gateway's"),
        (more(&["--aux-address", "a=fd00::9"]), "there is none"),
        (
            more(&[
                "--aux-address",
                "a=10.99.0.8",
                "--aux-address",
                "a=10.99.0.9",
            ]),
            "given twice",
        ),
        // No subnets at all.
        (vec!["--subnet", ""], "prefix length"),
        (vec!["--subnet", "10.99.0.0"], "10.99.0.0/24"),
        (vec!["--subnet", "tomato/24"], "tomato"),
        (vec!["--subnet", "10.99.0.0/33"], "10.99.0.0/33"),
        (vec!["--subnet", "10.99.0.0/-1"], "10.99.0.0/-1"),
    ] {
        let sentence = lab
            .netpath(&[&["network", "create", "no"][..], &args].concat())
            .refused();
        assert!(sentence.contains(part), "{args:?}: {sentence}");
    }
    assert_eq!(state(&lab), before);
}
