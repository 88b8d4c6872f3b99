//! Denied sources, dropped at the uplink before the stack sees them.

use std::path::PathBuf;
use std::process::Command;

use netpath_tests::lab::{HOST4, HOST6, Lab, OUT4, OUT6, UPLINK, eventually, run};
use serde_json::{Value, json};

/// A host on whose port 7000 a program listens.
fn lab(options: &[&str]) -> Lab {
    let mut lab = Lab::without_agent();
    lab.agent_options(options);
    lab.start_agent();
    let server = "import socket\n\
                  s = socket.create_server(('::', 7000), family=socket.AF_INET6, \
                  dualstack_ipv6=True)\n\
                  while True: s.accept()[0].close()";
    let command = lab.host_command(&["python3", "-c", server]);
    lab.spawn(command);
    eventually("the host's server listens", || {
        reaches(&lab, HOST4) && reaches(&lab, HOST6)
    });
    lab
}

/// Whether the outside machine reaches the host's server.
fn reaches(lab: &Lab, addr: &str) -> bool {
    let client = format!("import socket; socket.create_connection(('{addr}', 7000), 1)");
    lab.outside(&["python3", "-c", &client]).code == Some(0)
}

/// Where the uplink's gate is, and what is wrong with it.
fn gate(lab: &Lab) -> (String, Option<String>) {
    let uplink = lab.json(&["status"])["uplinks"][0].clone();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    (text(&uplink["xdp"]).unwrap(), text(&uplink["xdp_problem"]))
}

fn place(lab: &Lab) -> String {
    gate(lab).0
}

/// Packets that came from a denied prefix.
fn hits(lab: &Lab, prefix: &str) -> u64 {
    let all = lab.json(&["deny", "ls"]);
    let all = all.as_array().unwrap();
    let found = all.iter().find(|row| row["prefix"] == prefix);
    found.unwrap_or_else(|| panic!("{prefix} is not denied"))["packets"]
        .as_u64()
        .unwrap()
}

/// The XDP program of the uplink, as the kernel tells.
fn attached(lab: &Lab) -> bool {
    let text = lab.host(&["ip", "-o", "link", "show", UPLINK]).ok();
    text.contains("xdp")
}

#[test]
fn denied_sources_are_dropped_before_the_stack() {
    for mode in ["native", "generic", "auto"] {
        let lab = lab(&["--xdp", mode]);
        for (out, host, bits) in [(OUT4, HOST4, 32), (OUT6, HOST6, 128)] {
            // The outside machine is the host's gateway, too.
            lab.netpath(&["deny", "add", "--force", out]).ok();
            assert_eq!(place(&lab), if mode == "auto" { "generic" } else { mode });
            assert!(!reaches(&lab, host), "{mode}");
            let prefix = format!("{out}/{bits}");
            assert!(hits(&lab, &prefix) > 0, "{mode}");
            let drops = lab.json(&["drops"]);
            let row = drops
                .as_array()
                .unwrap()
                .iter()
                .find(|row| row["hook"] == "xdp");
            assert_eq!(row.unwrap()["reason"], "denied_source", "{drops}");
            lab.netpath(&["deny", "rm", &prefix]).ok();
            eventually("it is let in again", || reaches(&lab, host));
        }
        assert_eq!(lab.json(&["deny", "ls"]), json!([]));
    }
}

#[test]
fn what_is_denied_stays_denied_without_an_agent_and_with_the_next() {
    let mut lab = lab(&[]);
    lab.netpath(&["deny", "add", "--force", OUT4]).ok();
    lab.netpath(&["deny", "add", "203.0.113.0/24", "2001:db8:bad::/48"])
        .ok();
    assert!(!reaches(&lab, HOST4));
    lab.kill_agent();
    assert!(!reaches(&lab, HOST4));
    lab.start_agent();
    assert_eq!(place(&lab), "generic");
    let list = lab.json(&["deny", "ls"]);
    let prefixes: Vec<&Value> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|r| &r["prefix"])
        .collect();
    assert_eq!(
        prefixes,
        [&format!("{OUT4}/32"), "203.0.113.0/24", "2001:db8:bad::/48"]
    );
    assert!(hits(&lab, &format!("{OUT4}/32")) > 1, "the counters go on");
    assert!(!reaches(&lab, HOST4));
    // Without XDP it is known, and not in force.
    lab.stop_agent();
    lab.agent_options(&["--xdp", "off"]);
    lab.start_agent();
    assert!(gate(&lab).1.unwrap().contains("--xdp off"));
    assert!(reaches(&lab, HOST4));
    lab.stop_agent();
    lab.agent_options(&[]);
    lab.start_agent();
    // An uplink that comes back has its gate again.
    lab.host(&["ip", "link", "del", UPLINK]).ok();
    lab.replug();
    eventually("the gate is there", || {
        attached(&lab) && place(&lab) == "generic"
    });
    assert!(!reaches(&lab, HOST4));
    lab.purge().ok();
    assert!(!attached(&lab));
}

#[test]
fn the_next_agent_takes_the_gate_over_or_moves_it() {
    let mut lab = lab(&["--xdp", "native"]);
    let program = |lab: &Lab| {
        let text = lab.host(&["ip", "-d", "link", "show", UPLINK]).ok();
        let (_, rest) = text.split_once("prog/xdp id ").expect("a program");
        rest.split(' ').next().unwrap().to_owned()
    };
    let before = program(&lab);
    lab.kill_agent();
    lab.start_agent();
    assert_ne!(program(&lab), before, "the new agent's own program");
    for (mode, expected) in [
        ("generic", "generic"),
        ("auto", "off"),
        ("native", "native"),
    ] {
        lab.stop_agent();
        lab.agent_options(&["--xdp", mode]);
        lab.start_agent();
        assert_eq!(place(&lab), expected);
        assert_eq!(attached(&lab), expected != "off");
    }
    lab.stop_agent();
    lab.agent_options(&["--xdp", "off"]);
    lab.start_agent();
    assert!(!attached(&lab));
    assert_eq!(gate(&lab), ("off".to_owned(), None));
    let refused = lab.netpath(&["deny", "add", "203.0.113.0/24"]).refused();
    assert!(refused.contains("--xdp off"), "{refused}");
}

#[test]
fn a_veths_offloads_are_left_alone_unless_asked() {
    let segmentation = |lab: &Lab| {
        let text = lab.outside(&["ethtool", "-k", "eth0"]).ok();
        text.contains("tcp-segmentation-offload: on")
    };
    let mut lab = lab(&[]);
    assert_eq!(place(&lab), "off");
    assert!(segmentation(&lab));
    lab.netpath(&["deny", "add", "203.0.113.0/24"]).ok();
    assert_eq!(place(&lab), "generic");
    assert!(segmentation(&lab));
    lab.netpath(&["deny", "rm", "203.0.113.0/24"]).ok();
    assert_eq!(place(&lab), "off");
    lab.stop_agent();
    lab.agent_options(&["--xdp", "native"]);
    lab.start_agent();
    // The reason for all this.
    assert!(!segmentation(&lab));
}

#[test]
fn an_uplink_without_xdp_is_used_all_the_same() {
    let mut lab = Lab::without_agent();
    lab.host(&["ip", "link", "del", UPLINK]).ok();
    let host = PathBuf::from("/run/netns").join(lab.host_namespace());
    let outside = host.display().to_string().replace("-host", "-out");
    // Native XDP on a veth wants as many queues as the other end sends by.
    let mut command = Command::new("ip");
    command.args(["link", "add", UPLINK, "netns", lab.host_namespace()]);
    command.args([
        "numrxqueues",
        "1",
        "numtxqueues",
        "1",
        "type",
        "veth",
        "peer",
    ]);
    command.args(["name", "eth0", "netns", &outside.replace("/run/netns/", "")]);
    command.args(["numrxqueues", "4", "numtxqueues", "4"]);
    run(command).ok();
    lab.host(&["ip", "addr", "add", "192.0.2.1/24", "dev", UPLINK])
        .ok();
    lab.host(&["ip", "link", "set", UPLINK, "up"]).ok();
    lab.agent_options(&["--xdp", "native"]);
    lab.start_agent();
    let (place, problem) = gate(&lab);
    assert_eq!(place, "off");
    assert!(problem.unwrap().contains("queues"));
    assert!(lab.agent_log().contains("drops no denied sources"));
    let added = lab.netpath(&["deny", "add", "203.0.113.0/24"]);
    assert_eq!(added.code, Some(0), "{added:?}");
    assert!(added.stderr.contains("warning: uplink"), "{added:?}");
    assert!(lab.netpath(&["status"]).ok().contains("queues"));
}

#[test]
fn what_would_cut_the_host_off_is_refused() {
    let mut lab = lab(&[]);
    lab.netpath(&["network", "create", "net", "--subnet", "10.88.0.0/24"])
        .ok();
    for (prefix, part) in [
        ("192.0.2.0/24", HOST4),
        (HOST6, HOST6),
        (OUT4, "reaches others"),
        ("0.0.0.0/0", "IPv4"),
        ("::/0", "IPv6"),
        ("10.88.0.7", "network net"),
        ("10.0.0.0/8", "10.88.0."),
        ("fe80::/64", "link-local"),
        ("tomato", "tomato"),
        ("203.0.113.1/24", "203.0.113.0/24"),
        ("203.0.113.0/33", "203.0.113.0/33"),
        ("::ffff:203.0.113.1", "203.0.113.1/32"),
    ] {
        let refused = lab.netpath(&["deny", "add", prefix]).refused();
        assert!(refused.contains(part), "{prefix}: {refused}");
    }
    assert_eq!(lab.json(&["deny", "ls"]), json!([]));
    assert_eq!(place(&lab), "off");
    lab.netpath(&["deny", "add", "203.0.113.0/24"]).ok();
    let again = lab.netpath(&["deny", "add", "203.0.113.0/24"]).refused();
    assert!(again.contains("already"), "{again}");
    let other = lab.netpath(&["deny", "rm", "203.0.113.0/25"]).refused();
    assert!(other.contains("203.0.113.0/25 is not denied"), "{other}");
    lab.netpath(&["deny", "rm", "203.0.113.0/24"]).ok();
    lab.stop_agent();
    lab.agent_options(&["--xdp", "fast"]);
    let refused = run(lab.agent_command()).refused();
    assert!(refused.contains("fast"), "{refused}");
}

#[test]
fn all_reasons_of_drops_are_named() {
    let lab = lab(&[]);
    // What the host itself says at the default network's gateway goes nowhere.
    let rows = lab.json(&["drops"]);
    let own = |row: &Value| row["hook"] == "gateway" && row["reason"] == "multicast";
    assert!(rows.as_array().unwrap().iter().all(own), "{rows}");
    let all = lab.json(&["drops", "--all"]);
    let all = all.as_array().unwrap();
    for reason in ["malformed", "denied_source", "stale_flow"] {
        let row = all.iter().find(|row| row["reason"] == reason).unwrap();
        assert_eq!((&row["packets"], &row["hook"]), (&json!(0), &json!("any")));
        assert!(row["meaning"].as_str().is_some_and(|text| !text.is_empty()));
    }
    let names: std::collections::HashSet<&str> = all
        .iter()
        .map(|row| row["reason"].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), all.len(), "each once");
    assert_eq!(names.len(), netpath_common::reason::DropReason::ALL.len());
    let text = lab.netpath(&["drops", "--all"]).ok();
    assert_eq!(text.lines().count(), names.len() + 1);
}
