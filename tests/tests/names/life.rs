//! The server outlives the agent, and nothing outlives the containers.

use std::fs;
use std::thread;
use std::time::Duration;

use netpath_tests::dns::{A, Asking, Tally, ask_udp, code, query, records};
use netpath_tests::lab::{Lab, eventually, netpath_binary};

use super::{dig, lab_with_resolv_conf, network, servers, sleeper};

const WAIT: Duration = Duration::from_secs(3);

#[track_caller]
fn flawless(tally: &Tally) {
    assert!(tally.asked > 300, "{tally:?}");
    assert_eq!(tally.failures, [""; 0], "of {}", tally.asked);
}

#[test]
fn killing_the_agent_fails_no_query() {
    let mut lab = Lab::new();
    network(&lab, "net", 31, &[]);
    sleeper(&lab, "a", &["--network", "net"]);
    sleeper(&lab, "b", &["--network", "net"]);
    let before = servers(&lab);
    assert_eq!(before.len(), 1);
    let asking = Asking::start(&lab.namespace_of("a"), "b");
    asking.wait_for(100);
    lab.kill_agent();
    asking.wait_for(100);
    // dig as well, by both protocols, without an agent.
    let netns = format!("--net={}", lab.namespace_of("a"));
    for over in ["+notcp", "+tcp"] {
        for _ in 0..10 {
            let words = [
                "nsenter",
                &netns,
                "dig",
                "+short",
                "+tries=1",
                over,
                "@127.0.0.11",
                "b",
            ];
            assert!(lab.host(&words).ok().starts_with("10.31.0."));
        }
    }
    lab.start_agent();
    asking.wait_for(100);
    lab.stop_agent();
    asking.wait_for(50);
    lab.start_agent();
    asking.wait_for(50);
    flawless(&asking.stop());
    assert_eq!(servers(&lab), before, "the same server all the time");
    // It is told of what is new as before.
    sleeper(&lab, "c", &["--network", "net"]);
    assert_eq!(dig(&lab, "a", &["c"]).len(), 1);
    assert_eq!(dig(&lab, "c", &["a.net"]).len(), 1);
}

#[test]
fn a_new_version_takes_the_sockets_over() {
    let mut lab = Lab::new();
    network(&lab, "net", 32, &[]);
    sleeper(&lab, "a", &["--network", "net"]);
    sleeper(&lab, "b", &["--network", "net"]);
    let before = servers(&lab);
    let asking = Asking::start(&lab.namespace_of("a"), "b");
    asking.wait_for(100);
    lab.stop_agent();
    // The same program in another file is another version.
    let other = lab.dir().join("netpath");
    fs::copy(netpath_binary(), &other).unwrap();
    lab.agent_binary(&other.display().to_string());
    lab.start_agent();
    asking.wait_for(200);
    eventually("the old server has ended", || {
        let now = servers(&lab);
        now.len() == 1 && now != before
    });
    asking.wait_for(100);
    flawless(&asking.stop());
}

#[test]
fn a_server_that_dies_is_replaced() {
    let lab = Lab::new();
    network(&lab, "net", 33, &[]);
    sleeper(&lab, "a", &["--network", "net"]);
    sleeper(&lab, "b", &["--network", "net"]);
    let [server] = servers(&lab)[..] else {
        panic!("not one server");
    };
    let pid = nix::unistd::Pid::from_raw(i32::try_from(server).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    let netns = lab.namespace_of("a");
    eventually("names are answered again", || {
        ask_udp(&netns, &query(1, "b", A), WAIT)
            .is_ok_and(|(said, _)| code(&said) == 0 && records(&said) == 1)
    });
    assert_ne!(servers(&lab), [server]);
}

#[test]
fn the_server_ends_with_what_it_is_for() {
    // With the purge, in use or not.
    let mut lab = Lab::new();
    network(&lab, "net", 34, &[]);
    sleeper(&lab, "a", &["--network", "net"]);
    assert_eq!(servers(&lab).len(), 1);
    lab.purge().ok();
    assert_eq!(servers(&lab), [0; 0]);
    assert!(!lab.dir().join("run").exists(), "the run folder is gone");

    // With the agent, if there are no containers.
    let mut lab = Lab::new();
    network(&lab, "net", 34, &[]);
    sleeper(&lab, "a", &["--network", "net"]);
    lab.netpath(&["rm", "-f", "a"]).ok();
    assert_eq!(servers(&lab).len(), 1);
    lab.stop_agent();
    eventually("the server has ended", || servers(&lab).is_empty());

    // With the run folder.
    let mut lab = Lab::new();
    network(&lab, "net", 34, &[]);
    sleeper(&lab, "a", &["--network", "net"]);
    lab.kill_agent();
    assert_eq!(servers(&lab).len(), 1);
    fs::remove_file(lab.dir().join("run/names.sock")).unwrap();
    eventually("the server has ended", || servers(&lab).is_empty());
}

#[test]
fn a_namespace_of_somebody_else_can_end() {
    // Nobody is asked beyond.
    let mut lab = lab_with_resolv_conf("");
    network(&lab, "net", 35, &[]);
    let netns = lab.add_namespace("vm");
    let name = netns.rsplit('/').next().unwrap().to_owned();
    lab.host(&["ip", "-n", &name, "link", "set", "lo", "up"])
        .ok();
    lab.netpath(&[
        "attach",
        "--name",
        "vm",
        "--network",
        "net",
        "--netns",
        &netns,
    ])
    .ok();
    sleeper(&lab, "a", &["--network", "net"]);
    let (said, _) = ask_udp(&netns, &query(1, "a", A), WAIT).unwrap();
    assert_eq!(records(&said), 1);
    assert_eq!(dig(&lab, "a", &["vm"]).len(), 1);
    // Nobody is told of it, and our sockets are in it.
    lab.host(&["ip", "netns", "del", &name]).ok();
    eventually("it is gone", || {
        lab.json(&["ps"]).as_array().map(Vec::len) == Some(1)
    });
    eventually("its name is gone", || {
        let said = ask_udp(&lab.namespace_of("a"), &query(2, "vm", A), WAIT);
        said.is_ok_and(|(said, _)| records(&said) == 0)
    });
    // Detaching one that stays gives its port 53 back.
    let other = lab.add_namespace("vm2");
    lab.netpath(&[
        "attach",
        "--name",
        "vm2",
        "--network",
        "net",
        "--netns",
        &other,
    ])
    .ok();
    lab.netpath(&["rm", "vm2"]).ok();
    let ss = lab
        .host(&["nsenter", &format!("--net={other}"), "ss", "-Hlntu"])
        .ok();
    assert_eq!(ss.trim(), "");
}

#[test]
fn nothing_piles_up_in_the_server() {
    let lab = Lab::new();
    network(&lab, "net", 37, &[]);
    sleeper(&lab, "a", &["--network", "net"]);
    let [server] = servers(&lab)[..] else {
        panic!("not one server");
    };
    let files = || fs::read_dir(format!("/proc/{server}/fd")).unwrap().count();
    let before = files();
    for _ in 0..30 {
        sleeper(&lab, "b", &["--network", "net", "--dns", "192.0.2.53"]);
        assert_eq!(dig(&lab, "a", &["b"]).len(), 1);
        lab.netpath(&["rm", "-f", "b"]).ok();
    }
    eventually("all that was opened is closed", || files() == before);
    let map = lab.bpffs().join("resolvers");
    let rows = lab
        .host(&[
            "bpftool",
            "-j",
            "map",
            "dump",
            "pinned",
            &map.display().to_string(),
        ])
        .ok();
    let rows: serde_json::Value = serde_json::from_str(&rows).unwrap();
    assert_eq!(rows.as_array().map(Vec::len), Some(1), "{rows}");
}

#[test]
fn without_the_control_groups_root_the_server_has_port_53_itself() {
    let mut lab = Lab::without_agent();
    let root = netpath::datapath::cgroup::find().expect("cgroup2");
    let group = root.join(format!("netpath-test-names-{}", std::process::id()));
    fs::create_dir(&group).unwrap();
    lab.agent_options(&["--cgroup", &group.display().to_string()]);
    lab.start_agent();
    network(&lab, "net", 36, &[]);
    sleeper(&lab, "a", &["--network", "net"]);
    sleeper(&lab, "b", &["--network", "net"]);
    let listening = lab.exec("a", &["ss", "-Hlntu"]).ok();
    assert_eq!(
        listening.matches("127.0.0.11:53 ").count(),
        2,
        "{listening}"
    );
    assert_eq!(dig(&lab, "a", &["b"]).len(), 1);
    assert_eq!(dig(&lab, "a", &["+tcp", "b"]).len(), 1);
    // A later agent with the root moves the server, and port 53 is free.
    lab.stop_agent();
    lab.agent_options(&[]);
    lab.start_agent();
    assert_eq!(dig(&lab, "a", &["b"]).len(), 1);
    let listening = lab.exec("a", &["ss", "-Hlntu"]).ok();
    assert!(!listening.contains(":53 "), "{listening}");
    drop(lab);
    thread::sleep(Duration::from_millis(100));
    let _ = fs::remove_dir(&group);
}
