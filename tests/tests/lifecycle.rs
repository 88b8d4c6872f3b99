//! The agent comes and goes; traffic stays. And at the end nothing is left.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use netpath_tests::lab::{HOST4, Lab, OUT4, UPLINK, eventually, finish};

fn network(lab: &Lab) {
    lab.netpath(&[
        "network",
        "create",
        "net",
        "--subnet",
        "10.88.0.0/24",
        "--subnet",
        "fd88::/64",
    ])
    .ok();
}

#[test]
fn killing_the_agent_breaks_no_connection() {
    let mut lab = Lab::new();
    network(&lab);
    let www = lab.dir().join("www");
    fs::create_dir(&www).unwrap();
    fs::write(www.join("large"), vec![b'x'; 32 << 20]).unwrap();
    let www = www.display().to_string();
    lab.run(
        "web",
        &["--network", "net", "-p", "8080:80"],
        &["busybox", "httpd", "-f", "-p", "80", "-h", &www],
    );
    lab.run("client", &["--network", "net"], &["sleep", "600"]);
    lab.serve_outside(&["iperf3", "-s"]);
    eventually("the web server answers", || {
        lab.outside(&[
            "curl",
            "-sSm2",
            "-r",
            "0-9",
            &format!("http://{HOST4}:8080/large"),
        ])
        .code
            == Some(0)
    });
    let before = (
        lab.json(&["ps"]),
        lab.json(&["network", "ls"]),
        lab.json(&["ports"]),
    );

    let url = format!("http://{HOST4}:8080/large");
    let download = lab.start_outside(&[
        "curl",
        "-sS",
        "--limit-rate",
        "8M",
        "-m",
        "25",
        "-w",
        "%{size_download}",
        "-o",
        "/dev/null",
        &url,
    ]);
    let mut iperf = lab.netpath_command(&[
        "exec", "client", "--", "iperf3", "-J", "-t", "5", "-i", "0.5", "-c", OUT4,
    ]);
    iperf.stdout(std::process::Stdio::piped());
    let iperf = netpath_tests::lab::start(iperf);
    thread::sleep(Duration::from_secs(1));
    lab.kill_agent();
    thread::sleep(Duration::from_secs(1));
    // New connections are made while there is no agent.
    lab.outside(&["curl", "-sSm2", "-r", "0-9", "-o", "/dev/null", &url])
        .ok();
    lab.start_agent();

    let report: serde_json::Value = serde_json::from_str(&finish(iperf).ok()).unwrap();
    let intervals = report["intervals"].as_array().unwrap();
    assert!(intervals.len() >= 9, "{report}");
    for interval in intervals {
        let bytes = interval["sum"]["bytes"].as_u64().unwrap();
        assert!(bytes > 0, "the stream stood still: {interval}");
    }
    assert_eq!(finish(download).ok(), (32 << 20).to_string());
    let after = (
        lab.json(&["ps"]),
        lab.json(&["network", "ls"]),
        lab.json(&["ports"]),
    );
    assert_eq!(before, after);
    // The adopted container is managed as before.
    lab.netpath(&["rm", "-f", "web"]).ok();
    assert_ne!(lab.outside(&["curl", "-sSm1", &url]).code, Some(0));
}

#[test]
fn a_container_that_ends_while_there_is_no_agent_is_cleaned_up() {
    let mut lab = Lab::new();
    network(&lab);
    lab.run(
        "short",
        &["--network", "net", "-p", "8080:80"],
        &["sleep", "1"],
    );
    lab.kill_agent();
    thread::sleep(Duration::from_millis(1500));
    lab.start_agent();
    eventually("it is listed as exited", || {
        lab.json(&["ps", "-a"])[0]["state"] == "exited"
    });
    assert_eq!(lab.json(&["ports"]).as_array().map(Vec::len), Some(0));
    assert_eq!(lab.json(&["endpoints"]).as_array().map(Vec::len), Some(0));
    lab.host(&["timeout", "1", "nc", "-l", "8080"]);
}

#[test]
fn flows_die_with_their_container() {
    let mut lab = Lab::new();
    network(&lab);
    lab.serve_outside(&["socat", "UDP4-RECVFROM:7000,fork", "EXEC:cat"]);
    lab.run(
        "first",
        &["--network", "net", "--ip", "10.88.0.9"],
        &["sleep", "600"],
    );
    let ask = format!("echo x | socat -t 1 - UDP4:{OUT4}:7000,sourceport=4444");
    eventually("an answer", || {
        lab.exec("first", &["sh", "-c", &ask]).stdout == "x\n"
    });
    lab.netpath(&["rm", "-f", "first"]).ok();
    // The address has a new owner; the old flow must not lead to it.
    lab.run(
        "second",
        &["--network", "net", "--ip", "10.88.0.9"],
        &["sleep", "600"],
    );
    eventually("an answer", || {
        lab.exec("second", &["sh", "-c", &ask]).stdout == "x\n"
    });
    eventually("the old flow is swept", || {
        lab.json(&["flows"])
            .as_array()
            .is_some_and(|flows| flows.len() == 1)
    });
}

#[test]
fn two_agents_live_in_two_namespaces() {
    let (one, two) = (Lab::new(), Lab::new());
    for lab in [&one, &two] {
        network(lab);
        lab.run("a", &["--network", "net"], &["sleep", "600"]);
        lab.exec("a", &["ping", "-c", "1", "-W", "2", OUT4]).ok();
    }
    assert_eq!(one.json(&["ps"]).as_array().map(Vec::len), Some(1));
}

#[test]
fn ports_are_reserved_for_real() {
    let lab = Lab::new();
    network(&lab);
    lab.run(
        "web",
        &["--network", "net", "-p", "8080:80", "-p", "8080:80/udp"],
        &["sleep", "600"],
    );
    for listen in [
        "TCP4-LISTEN:8080",
        "TCP6-LISTEN:8080",
        "UDP4-RECV:8080",
        "UDP6-RECV:8080",
    ] {
        let ran = lab.host(&["timeout", "2", "socat", listen, "-"]);
        assert!(
            ran.stderr.contains("Address already in use"),
            "{listen}: {ran:?}"
        );
    }
    let refused = lab
        .netpath(&[
            "run",
            "-d",
            "--name",
            "two",
            "--network",
            "net",
            "-p",
            "8080:80",
            "--",
            "sleep",
            "1",
        ])
        .refused();
    assert!(
        refused.contains("8080") && refused.contains("web"),
        "{refused}"
    );
    lab.netpath(&["rm", "-f", "web"]).ok();
    lab.run(
        "two",
        &["--network", "net", "-p", "8080:80"],
        &["sleep", "600"],
    );
}

#[test]
fn a_port_that_another_program_uses_is_refused_with_its_name() {
    let mut lab = Lab::new();
    network(&lab);
    let server = lab.host_command(&["socat", "TCP4-LISTEN:8080,fork", "EXEC:cat"]);
    lab.spawn(server);
    eventually("socat listens", || {
        lab.host(&["ss", "-ltn"]).stdout.contains(":8080")
    });
    let refused = lab
        .netpath(&[
            "run",
            "-d",
            "--name",
            "web",
            "--network",
            "net",
            "-p",
            "8080:80",
            "--",
            "sleep",
            "1",
        ])
        .refused();
    assert!(
        refused.contains("8080") && refused.contains("socat"),
        "{refused}"
    );
    // Nothing half made.
    assert_eq!(lab.json(&["ps", "-a"]).as_array().map(Vec::len), Some(0));
    assert_eq!(lab.json(&["endpoints"]).as_array().map(Vec::len), Some(0));
}

#[test]
fn exit_codes_and_output_are_passed_on() {
    let lab = Lab::new();
    network(&lab);
    let run = |args: &[&str]| {
        let mut all = vec!["run", "--rm", "--network", "net", "--"];
        all.extend(args);
        lab.netpath(&all)
    };
    let ran = run(&["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(
        (ran.code, ran.stdout.as_str(), ran.stderr.as_str()),
        (Some(7), "out\n", "err\n")
    );
    assert_eq!(run(&["no-such-command"]).code, Some(127));
    assert_eq!(run(&["/etc/hostname"]).code, Some(126));
    assert_eq!(lab.json(&["ps", "-a"]).as_array().map(Vec::len), Some(0));
    lab.run("box", &["--network", "net"], &["sleep", "600"]);
    assert_eq!(lab.exec("box", &["sh", "-c", "exit 9"]).code, Some(9));
}

#[test]
fn files_of_a_container_are_its_own() {
    let lab = Lab::new();
    network(&lab);
    let before = (
        fs::read("/etc/hosts").unwrap(),
        fs::read("/etc/resolv.conf").unwrap(),
    );
    lab.run("box", &["--network", "net"], &["sleep", "600"]);
    let hosts = lab.exec("box", &["cat", "/etc/hosts"]).ok();
    let address = lab.address("box", false);
    assert!(hosts.contains(&address) && hosts.contains("box"), "{hosts}");
    let resolv = lab.exec("box", &["cat", "/etc/resolv.conf"]).ok();
    assert!(resolv.contains("nameserver 127.0.0.11\n"), "{resolv}");
    assert_eq!(lab.exec("box", &["hostname"]).ok().trim(), "box");
    lab.exec("box", &["sh", "-c", "echo 203.0.113.1 mine >> /etc/hosts"])
        .ok();
    assert_eq!(
        before,
        (
            fs::read("/etc/hosts").unwrap(),
            fs::read("/etc/resolv.conf").unwrap()
        )
    );
}

#[test]
fn a_namespace_of_somebody_else_is_attached() {
    let mut lab = Lab::new();
    network(&lab);
    let other = format!("{}-guest", lab.host_namespace());
    let mut sleeper = std::process::Command::new("unshare");
    sleeper.args(["--net", "sleep", "600"]);
    let index = lab.spawn(sleeper);
    let pid = lab.helper_pid(index).to_string();
    thread::sleep(Duration::from_millis(200));
    lab.netpath(&[
        "attach",
        "--name",
        "guest",
        "--pid",
        &pid,
        "--network",
        "net",
    ])
    .ok();
    let ping = |target: &str| {
        let ns = format!("--net=/proc/{pid}/ns/net");
        lab.host(&["nsenter", &ns, "ping", "-c", "1", "-W", "2", target])
            .code
    };
    assert_eq!(ping("10.88.0.1"), Some(0));
    assert_eq!(ping(OUT4), Some(0));
    lab.netpath(&["rm", "-f", "guest"]).ok();
    assert_ne!(ping("10.88.0.1"), Some(0));
    // By path as well.
    let ran = std::process::Command::new("ip")
        .args(["netns", "add", &other])
        .status();
    assert!(ran.is_ok_and(|status| status.success()));
    let path = format!("/run/netns/{other}");
    let attached = lab.netpath(&[
        "attach",
        "--name",
        "guest",
        "--netns",
        &path,
        "--network",
        "net",
    ]);
    let ns = format!("--net={path}");
    let pinged = lab.host(&["nsenter", &ns, "ping", "-c", "1", "-W", "2", OUT4]);
    let removed = lab.netpath(&["rm", "-f", "guest"]);
    let _ = std::process::Command::new("ip")
        .args(["netns", "del", &other])
        .status();
    attached.ok();
    pinged.ok();
    removed.ok();
}

#[test]
fn stop_ends_what_the_command_left_running() {
    let lab = Lab::new();
    network(&lab);
    // A grandchild in a session of its own, deaf to SIGTERM.
    lab.run(
        "stubborn",
        &["--network", "net"],
        &[
            "sh",
            "-c",
            "setsid sh -c 'trap \"\" TERM; sleep 4711' & sleep 4711",
        ],
    );
    lab.netpath(&["stop", "-t", "1", "stubborn"]).ok();
    eventually("all of it is gone", || {
        lab.host(&["pgrep", "-f", "^sleep 4711$"]).code == Some(1)
    });
}

#[test]
fn stopping_everything_leaves_nothing() {
    let mut lab = Lab::without_agent();
    let links_before = links(&lab);
    lab.start_agent();
    network(&lab);
    for name in ["a", "b"] {
        lab.run(name, &["--network", "net"], &["sleep", "4712"]);
    }
    lab.run(
        "web",
        &["--network", "net", "-p", "8080-8090:80-90"],
        &["sleep", "4712"],
    );
    lab.exec("a", &["ping", "-c", "1", "-W", "2", OUT4]).ok();
    lab.netpath(&["rm", "-f", "a"]).ok();
    lab.netpath(&["network", "rm", "net"]).refused();
    let inside = lab.purge();
    inside.ok();
    assert_eq!(links(&lab), links_before);
    assert!(!lab.bpffs().exists(), "{:?}", lab.bpffs());
    assert_eq!(lab.host(&["pgrep", "-f", "^sleep 4712$"]).code, Some(1));
    let run_dir = lab.dir().join("run");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&run_dir.display().to_string()), "{mounts}");
    assert!(!Path::new(&run_dir).exists() || fs::read_dir(&run_dir).unwrap().next().is_none());
    assert!(!lab.host(&["ss", "-lntu"]).ok().contains(":8080"));
    // Once more, on nothing.
    lab.purge().ok();
}

fn links(lab: &Lab) -> Vec<String> {
    let text = lab.host(&["ip", "-o", "link"]).ok();
    text.lines()
        .filter_map(|l| l.split(": ").nth(1))
        .map(str::to_owned)
        .collect()
}

#[test]
fn removing_everything_by_hand_leaves_an_empty_agent() {
    let lab = Lab::new();
    let links_before = links(&lab);
    let pins = |lab: &Lab| fs::read_dir(lab.bpffs().join("links")).unwrap().count();
    let pins_before = pins(&lab);
    network(&lab);
    for name in ["a", "b", "c"] {
        lab.run(name, &["--network", "net", "-p", "80"], &["sleep", "600"]);
    }
    lab.netpath(&["rm", "-f", "a", "b", "c"]).ok();
    lab.netpath(&["network", "rm", "net"]).ok();
    assert_eq!(links(&lab), links_before);
    for verb in [&["ps", "-a"][..], &["endpoints"], &["ports"]] {
        assert_eq!(lab.json(verb).as_array().map(Vec::len), Some(0), "{verb:?}");
    }
    let custom = ["network", "ls", "-q", "--filter", "type=custom"];
    assert_eq!(lab.netpath(&custom).ok(), "");
    assert_eq!(pins(&lab), pins_before, "links to devices");
}

#[test]
fn an_uplink_that_comes_back_is_attached_again() {
    let lab = Lab::new();
    network(&lab);
    lab.run("client", &["--network", "net"], &["sleep", "600"]);
    lab.exec("client", &["ping", "-c", "1", "-W", "2", OUT4])
        .ok();
    lab.host(&["ip", "link", "del", UPLINK]).ok();
    thread::sleep(Duration::from_millis(300));
    lab.replug();
    eventually("the way out is back", || {
        lab.exec("client", &["ping", "-c", "1", "-W", "1", OUT4])
            .code
            == Some(0)
    });
}

#[test]
fn the_programs_own_messages_reach_the_agents_log_when_asked_for() {
    let mut lab = Lab::without_agent();
    for (options, expected) in [(&["--log-datapath", "debug"][..], true), (&[], false)] {
        lab.agent_options(options);
        lab.start_agent();
        if expected {
            network(&lab);
            lab.run("box", &["--network", "net"], &["sleep", "600"]);
        }
        let before = lab.agent_log().matches("drop: reason").count();
        let nobody = ["ping", "-c", "1", "-W", "1", "10.88.0.99"];
        assert_ne!(lab.exec("box", &nobody).code, Some(0));
        thread::sleep(Duration::from_millis(300));
        let said = lab.agent_log().matches("drop: reason").count() > before;
        assert_eq!(said, expected, "{}", lab.agent_log());
        lab.stop_agent();
    }
}

#[test]
fn a_namespace_that_is_deleted_behind_the_agent_leaves_nothing() {
    let lab = Lab::new();
    network(&lab);
    let guest = format!("{}-gone", lab.host_namespace());
    let path = format!("/run/netns/{guest}");
    let ip = |args: &[&str]| {
        let ran = std::process::Command::new("ip").args(args).status();
        assert!(ran.is_ok_and(|status| status.success()), "ip {args:?}");
    };
    for by_hand in [true, false] {
        ip(&["netns", "add", &guest]);
        let attach = ["attach", "--name", "guest", "--netns", &path];
        lab.netpath(&[attach.as_slice(), &["--network", "net"]].concat())
            .ok();
        let enter = format!("--net={path}");
        lab.host(&["nsenter", &enter, "ping", "-c1", "-W5", "10.88.0.1"])
            .ok();
        ip(&["netns", "del", &guest]);
        if by_hand {
            lab.netpath(&["rm", "-f", "guest"]).ok();
        }
        eventually("nothing is left of it", || {
            let endpoints = lab.json(&["endpoints"]);
            let flows = lab.json(&["flows"]);
            [endpoints, flows]
                .iter()
                .all(|rows| rows.as_array().is_some_and(Vec::is_empty))
        });
        if !by_hand {
            lab.netpath(&["rm", "-f", "guest"]);
        }
    }
    // The agent goes on.
    lab.run("next", &["--network", "net"], &["sleep", "600"]);
    lab.exec("next", &["ping", "-c1", "-W5", "10.88.0.1"]).ok();
}
