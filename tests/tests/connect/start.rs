//! Several networks from the start.

use netpath_tests::lab::{Lab, OUT4, OUT6};

use crate::{connection, network, way_out};

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
