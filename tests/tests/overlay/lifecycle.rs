//! Tunnels come, stay and go.

use std::process::Command;

use netpath_tests::command::{finish, start};
use netpath_tests::lab::eventually;
use netpath_tests::lab::hosts::{Hosts, v4};

use crate::{Place, set_up};

/// Two hosts with a container each, on one network.
fn pair() -> Hosts {
    let mut hosts = Hosts::new(2);
    set_up::route(&mut hosts, 54, false, &[]);
    for nth in [0, 1] {
        hosts[nth].run("box", &["--network", "wide"], &["sleep", "600"]);
    }
    Place::Container(&hosts[0], "box").pings(&hosts[1].address("box", false));
    hosts
}

#[test]
fn traffic_goes_on_while_the_agent_is_killed_and_started() {
    let mut hosts = pair();
    let there = hosts[1].address("box", false);
    let mac = crate::vtep_mac(&hosts[0], 4789);
    let args = ["ping", "-i", "0.02", "-c", "250", "-W", "1", &there];
    // Not by the agent, which is about to be killed.
    let mut pings = Command::new("nsenter");
    pings.arg(format!("--net={}", hosts[0].namespace_of("box")));
    pings.arg("--").args(args);
    let pings = start(pings);
    hosts.lab(0).kill_agent();
    hosts.start_agents(&[0]);
    let said = finish(pings).ok();
    assert!(said.contains(" 0% packet loss"), "{said}");
    assert_eq!(
        crate::vtep_mac(&hosts[0], 4789),
        mac,
        "the host is who it was"
    );
    let listed = hosts[0].json(&["tunnel", "ls"]);
    assert_eq!(listed[0]["destination"], "10.54.2.0/24", "{listed}");
    // A tunnel that goes while no agent is there does so at the next start, and what follows
    // still works.
    hosts[0]
        .netpath(&["tunnel", "rm", "wide", "10.54.2.0/24"])
        .ok();
    let ping = ["ping", "-c", "1", "-W", "1", &there];
    let place = Place::Container(&hosts[0], "box");
    assert_ne!(place.run(&ping).code, Some(0), "the tunnel is gone");
    let routes = hosts[0].host(&["ip", "route"]).ok();
    assert!(!routes.contains("10.54.2.0/24"), "{routes}");
}

#[test]
fn what_is_removed_leaves_nothing() {
    let mut hosts = pair();
    let devices = |hosts: &Hosts| hosts[0].host(&["ip", "-o", "link"]).ok();
    assert!(devices(&hosts).contains("np-vxlan4789"));
    // Another port has a device of its own, for as long as somebody needs it.
    let add = [
        "tunnel",
        "add",
        "wide",
        "--remote",
        "192.0.2.9",
        "--subnet",
        "10.55.0.0/16",
        "--port",
        "5555",
        "--vni",
        "9",
    ];
    hosts[0].netpath(&add).ok();
    assert!(devices(&hosts).contains("np-vxlan5555"));
    assert!(
        hosts[0]
            .host(&["ip", "route"])
            .ok()
            .contains("10.55.0.0/16")
    );
    hosts[0]
        .netpath(&["tunnel", "rm", "wide", "10.55.0.0/16"])
        .ok();
    assert!(!devices(&hosts).contains("np-vxlan5555"));
    hosts[0].netpath(&["rm", "-f", "box"]).ok();
    hosts[0].netpath(&["network", "rm", "wide"]).ok();
    assert!(!devices(&hosts).contains("np-vxlan"));
    assert_eq!(hosts[0].json(&["tunnels"]).as_array().unwrap().len(), 0);
    // And with everything else, by purge.
    let said = hosts.lab(1).purge().ok();
    assert!(said.contains("np-vxlan4789"), "{said}");
    let left = hosts[1].host(&["ip", "-o", "link"]).ok();
    assert!(
        !left.contains("np-br") && !left.contains("np-vxlan"),
        "{left}"
    );
}

#[test]
fn a_lost_device_is_made_anew() {
    let hosts = pair();
    hosts[0].host(&["ip", "link", "del", "np-vxlan4789"]).ok();
    let there = hosts[1].address("box", false);
    let ping = ["ping", "-c", "1", "-W", "1", &there];
    eventually("the tunnel is back", || {
        Place::Container(&hosts[0], "box").run(&ping).code == Some(0)
    });
}

#[test]
fn traffic_is_counted_by_host() {
    let hosts = pair();
    let there = hosts[1].address("box", false);
    let count = |field: &str| {
        let rows = hosts[0].json(&["tunnels"]);
        assert_eq!(rows[0]["vtep"], v4(1).as_str(), "{rows}");
        assert_eq!(rows[0]["network"], "wide", "{rows}");
        rows[0][field].as_u64().unwrap()
    };
    let before = (count("sent_packets"), count("received_packets"));
    let ping = ["ping", "-c", "5", "-i", "0.1", "-W", "2", &there];
    Place::Container(&hosts[0], "box").run(&ping).ok();
    assert_eq!(count("sent_packets"), before.0 + 5);
    assert_eq!(count("received_packets"), before.1 + 5);
    assert!(count("sent_bytes") >= 5 * 98);
}
