//! Addresses from a real DHCP server.

use std::fs;

use netpath_tests::lab::{Lab, OUT4, UPLINK, eventually, finish, start};

use super::{KINDS, as_opt, ping, short_ping};

/// Has the outside machine give addresses.
fn serve(lab: &mut Lab) {
    serve_with(lab, OUT4);
}

/// The same, with a router.
fn serve_with(lab: &mut Lab, router: &str) {
    let router = format!("--dhcp-option=option:router,{router}");
    let leases = lab.dir().join("leases").display().to_string();
    let leases = format!("--dhcp-leasefile={leases}");
    lab.serve_outside(&[
        "dnsmasq",
        "--no-daemon",
        "--conf-file=/dev/null",
        "--port=0",
        "--interface=eth0",
        "--bind-interfaces",
        "--dhcp-range=192.0.2.100,192.0.2.199,255.255.255.0,120",
        &router,
        "--dhcp-authoritative",
        "--user=root",
        "--pid-file",
        &leases,
    ]);
    eventually("the server listens", || {
        lab.outside(&["ss", "-lun"]).stdout.contains(":67")
    });
}

fn lease(lab: &Lab) -> Option<(String, String, u64)> {
    let cards = lab.json(&["cards"]);
    let address = cards[0]["addresses"][0].as_str()?.to_owned();
    let folder = lab.dir().join("run/dhcp");
    let file = fs::read_dir(folder).ok()?.flatten().find(|entry| {
        entry
            .path()
            .extension()
            .is_some_and(|suffix| suffix == "lease")
    })?;
    let text = fs::read_to_string(file.path()).ok()?;
    let record: serde_json::Value = serde_json::from_str(&text).ok()?;
    Some((address, text.clone(), record["since"].as_u64()?))
}

/// The clients in a laboratory's containers.
fn clients(lab: &Lab) -> Vec<String> {
    let folder = lab.dir().join("run/dhcp").display().to_string();
    let all = lab.host(&["ps", "-eo", "pid,args"]).ok();
    let ours = all
        .lines()
        .filter(|line| line.contains("udhcpc") && line.contains(&folder));
    ours.filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect()
}

#[test]
fn a_server_of_the_wire_gives_an_address_and_renews_it() {
    for (driver, options) in KINDS {
        let mut lab = Lab::new();
        serve(&mut lab);
        lab.netpath(&["network", "create", "net", "--subnet", "10.88.0.0/24"])
            .ok();
        lab.run("box", &["--network", "net"], &["sleep", "600"]);
        let attach = [
            "attach", "--parent", UPLINK, "--ip", "dhcp", "-d", driver, "box",
        ];
        lab.netpath(&[&attach[..], &as_opt(options)].concat()).ok();
        let (address, _, first) = lease(&lab).unwrap();
        assert!(
            address.starts_with("192.0.2.1") && address.ends_with("/24"),
            "{address}"
        );
        let plain = address.trim_end_matches("/24").to_owned();
        lab.outside(&ping(&plain)).ok();
        lab.exec("box", &ping(OUT4)).ok();
        // The container has a way out already.
        let routes = lab.exec("box", &["ip", "route"]).ok();
        assert!(routes.contains("default via 10.88.0.1"), "{routes}");
        // Renewing does not need the agent. (The signal is the client's own way to be asked to.)
        lab.kill_agent();
        let pids = clients(&lab);
        assert_eq!(pids.len(), 1, "{pids:?}");
        eventually("a second later it is renewed", || {
            lab.host(&["kill", "-USR1", &pids[0]]).ok();
            let folder = lab.dir().join("run/dhcp/box:eth1.lease");
            let text = fs::read_to_string(folder).unwrap_or_default();
            let record: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            record["since"].as_u64() > Some(first)
        });
        lab.start_agent();
        assert_eq!(clients(&lab), pids, "{driver}: the next agent keeps it");
        let (again, ..) = lease(&lab).unwrap();
        assert_eq!(again, address);
        lab.outside(&ping(&plain)).ok();
        // A client that is killed is started again, with the same address.
        lab.host(&["kill", "-9", &pids[0]]).ok();
        lab.stop_agent();
        lab.start_agent();
        eventually("another client", || {
            let now = clients(&lab);
            now.len() == 1 && now != pids
        });
        eventually("the same address", || {
            lease(&lab).is_some_and(|(again, ..)| again == address)
        });
        lab.netpath(&["detach", "box"]).ok();
        eventually("its client ends", || clients(&lab).is_empty());
        assert_ne!(lab.outside(&short_ping(&plain)).code, Some(0));
        lab.netpath(&attach).ok();
        lab.purge().ok();
        eventually("its client ends with the purge", || {
            clients(&lab).is_empty()
        });
    }
}

#[test]
fn without_a_server_nothing_is_left() {
    let lab = Lab::new();
    lab.netpath(&["network", "create", "net", "--subnet", "10.88.0.0/24"])
        .ok();
    lab.run("box", &["--network", "net"], &["sleep", "600"]);
    let attach = ["attach", "--parent", UPLINK, "--ip", "dhcp", "box"];
    let refused = lab.netpath(&attach).refused();
    assert!(
        refused.contains("no DHCP server answered on uplink0"),
        "{refused}"
    );
    assert_eq!(lab.json(&["cards"]).as_array().map(Vec::len), Some(0));
    let links = lab.exec("box", &["ip", "-o", "link"]).ok();
    assert!(!links.contains("eth1"), "{links}");
    eventually("its client ends", || clients(&lab).is_empty());
}

#[test]
fn whoever_waits_for_a_server_leaves_the_next_one_alone() {
    for driver in ["underlay", "macvlan"] {
        let mut lab = Lab::new();
        lab.run("box", &["--network", "none"], &["sleep", "600"]);
        let attach = ["attach", "--parent", UPLINK, "-d", driver, "box", "--ip"];
        let first = lab.netpath_command(&[&attach[..], &["dhcp"]].concat());
        let first = start(first);
        eventually("it waits", || clients(&lab).len() == 1);
        lab.netpath(&["detach", "box"]).ok();
        serve(&mut lab);
        lab.netpath(&[&attach[..], &["dhcp"]].concat()).ok();
        let refused = finish(first).refused();
        assert!(refused.contains("was detached meanwhile"), "{refused}");
        assert_eq!(lab.json(&["cards"]).as_array().map(Vec::len), Some(1));
        lab.exec("box", &ping(OUT4)).ok();
        assert_eq!(clients(&lab).len(), 1);
    }
}

#[test]
fn the_router_of_a_renewed_lease_takes_the_place_of_the_former() {
    let mut lab = Lab::new();
    serve(&mut lab);
    lab.run("box", &["--network", "none"], &["sleep", "600"]);
    let attach = ["attach", "--parent", UPLINK, "--ip", "dhcp", "box"];
    lab.netpath(&attach).ok();
    let default = lab.exec("box", &["ip", "route", "show", "default"]).ok();
    assert!(default.contains("via 192.0.2.2 "), "{default}");
    // Another server, which knows another router: `users:(("dnsmasq",pid=7,fd=4))`.
    let listening = lab.outside(&["ss", "-lunp", "sport", "=", ":67"]).ok();
    let pid = listening.split("pid=").nth(1).expect("a process");
    let pid = pid.split(',').next().expect("its number").to_owned();
    lab.host(&["kill", "-9", &pid]).ok();
    eventually("the server is gone", || {
        !lab.outside(&["ss", "-lun"]).stdout.contains(":67")
    });
    serve_with(&mut lab, "192.0.2.9");
    let client = clients(&lab).pop().expect("a client");
    eventually("the other router", || {
        lab.host(&["kill", "-USR1", &client]).ok();
        let default = lab.exec("box", &["ip", "route", "show", "default"]).ok();
        default.contains("via 192.0.2.9 ") && default.lines().count() == 1
    });
}
