//! What an agent can be told.

use std::net::UdpSocket;
use std::thread;
use std::time::Duration;

use netpath_tests::inside::inside;
use netpath_tests::lab::{Lab, OUT4, eventually, run};

fn network(lab: &Lab) {
    lab.netpath(&["network", "create", "net", "--subnet", "10.88.0.0/24"])
        .ok();
}

/// Sends a datagram to the outside from each of some ports of a container.
fn send_from(lab: &Lab, container: &str, ports: std::ops::Range<u16>) {
    inside(&lab.namespace_of(container), || {
        for port in ports {
            let socket = UdpSocket::bind(("0.0.0.0", port)).unwrap();
            socket.send_to(b"nobody hears", (OUT4, 9)).unwrap();
        }
    });
}

fn flows(lab: &Lab) -> usize {
    lab.json(&["flows"]).as_array().map_or(0, Vec::len)
}

fn drops(lab: &Lab, reason: &str) -> u64 {
    let rows = lab.json(&["drops"]);
    let rows = rows.as_array().unwrap().iter();
    rows.filter(|row| row["reason"] == reason)
        .filter_map(|row| row["packets"].as_u64())
        .sum()
}

#[test]
fn idle_times_are_settings_that_the_next_agent_changes() {
    let mut lab = Lab::without_agent();
    let file = lab.dir().join("netpath.toml");
    let text = "max_flows_per_container = 500\n[timeouts]\nudp-one-way = 1000\nicmp = 70\n";
    std::fs::write(&file, text).unwrap();
    let file = file.display().to_string();
    let config = ["--config", &file];
    lab.agent_options(
        &[
            &config[..],
            &["--timeout", "icmp=80", "--timeout", "tcp-established=9000"],
        ]
        .concat(),
    );
    lab.start_agent();
    let status = lab.json(&["status"]);
    let timeouts = &status["timeouts"];
    assert_eq!(timeouts["udp-one-way"], 1000, "from the file");
    assert_eq!(timeouts["icmp"], 80, "the command line wins");
    assert_eq!(timeouts["tcp-established"], 9000);
    assert_eq!(timeouts["tcp-closed"], 10, "the default");
    assert_eq!(status["max_flows"], 16_384);
    assert_eq!(status["max_flows_per_container"], 500);
    let shown = lab.netpath(&["status"]).ok();
    assert!(shown.contains("at most 16384, 500 a container"), "{shown}");
    assert!(
        shown.contains("tcp-established=9000") && shown.contains("udp-one-way=1000"),
        "{shown}"
    );
    assert!(!lab.agent_log().contains("RFC"), "{}", lab.agent_log());

    network(&lab);
    lab.run("box", &["--network", "net"], &["sleep", "600"]);
    send_from(&lab, "box", 20_000..20_010);
    eventually("the flows are there", || flows(&lab) == 10);
    lab.stop_agent();
    lab.agent_options(&["--timeout", "udp-one-way=1"]);
    lab.start_agent();
    // The table is the same; two rounds of the sweep are enough.
    let status = lab.json(&["status"]);
    assert_eq!(status["timeouts"]["udp-one-way"], 1);
    assert_eq!(status["timeouts"]["icmp"], 60);
    assert_eq!(status["max_flows_per_container"], 4096, "a quarter");
    eventually("the flows of the earlier agent are idle now", || {
        flows(&lab) == 0
    });
    assert!(
        lab.agent_log()
            .contains("timeout udp-one-way=1 is below the 120 s of RFC 4787"),
        "{}",
        lab.agent_log()
    );
}

#[test]
fn the_budget_of_a_container_is_a_setting() {
    let mut lab = Lab::without_agent();
    lab.agent_options(&["--max-flows-per-container", "20"]);
    lab.start_agent();
    network(&lab);
    for name in ["a", "b"] {
        lab.run(name, &["--network", "net"], &["sleep", "600"]);
    }
    send_from(&lab, "a", 20_000..20_050);
    assert_eq!(flows(&lab), 20);
    eventually("thirty are dropped", || drops(&lab, "flow_budget") >= 30);
    // The other container has its own.
    send_from(&lab, "b", 20_000..20_010);
    assert_eq!(flows(&lab), 30);
    lab.stop_agent();
    lab.agent_options(&["--max-flows-per-container", "40"]);
    lab.start_agent();
    send_from(&lab, "a", 21_000..21_050);
    eventually("it may have more now", || flows(&lab) == 50);
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let lab = Lab::without_agent();
    for (options, part) in [
        (
            &["--timeout", "tcp=5"][..],
            "there is no timeout tcp, choose one of icmp,",
        ),
        (&["--timeout", "icmp"], "write NAME=SECONDS"),
        (&["--timeout", "icmp=0"], "choose 1 to 2592000 seconds"),
        (&["--max-flows-per-container", "5"], "choose 16 to 16384"),
        (
            &["--max-flows-per-container", "20000"],
            "choose 16 to 16384",
        ),
    ] {
        let mut command = lab.agent_command();
        command.args(options);
        let sentence = run(command).refused();
        assert!(sentence.contains(part), "{options:?}: {sentence}");
        assert!(!lab.bpffs().exists(), "nothing is half made");
    }
}

#[test]
fn masqueraded_ports_are_reserved_for_real() {
    const RESERVED: &str = "net.ipv4.ip_local_reserved_ports";
    let mut lab = Lab::without_agent();
    let reserved = |lab: &Lab| lab.host(&["sysctl", "-n", RESERVED]).ok().trim().to_owned();
    let range = "net.ipv4.ip_local_port_range=30000 34999";
    lab.host(&["sysctl", "-qw", range, &format!("{RESERVED}=31000,8080")])
        .ok();
    // The default range, of which the upper part is ephemeral here.
    lab.start_agent();
    assert_eq!(reserved(&lab), "8080,30000-32767");
    // The host's own sockets get none of them: these are 200 of the 2232 that are left.
    let host = lab.host_netns();
    inside(&host, || {
        let sockets: Vec<UdpSocket> = (0..200)
            .map(|_| UdpSocket::bind("0.0.0.0:0").unwrap())
            .collect();
        let ports = sockets
            .iter()
            .map(|socket| socket.local_addr().unwrap().port());
        assert!(
            ports
                .into_iter()
                .all(|port| (32_768..35_000).contains(&port))
        );
    });
    // An agent that was killed, and another range.
    lab.kill_agent();
    lab.agent_options(&["--snat-ports", "34000-34499"]);
    lab.start_agent();
    assert_eq!(reserved(&lab), "8080,31000,34000-34499");
    assert_eq!(
        lab.json(&["status"])["snat_ports"],
        serde_json::json!([34_000, 34_499])
    );
    lab.stop_agent();
    assert_eq!(
        reserved(&lab),
        "8080,31000,34000-34499",
        "containers go on without an agent"
    );
    let purged = lab.purge().ok();
    assert!(
        purged.contains("reservation of ports 34000-34499"),
        "{purged}"
    );
    assert_eq!(reserved(&lab), "8080,31000");
    // Without any port of its own the host would be cut off.
    lab.agent_options(&["--snat-ports", "30000-34000"]);
    let sentence = run(lab.agent_command()).refused();
    assert!(
        sentence.contains("would leave the host 999 of its own ephemeral ports"),
        "{sentence}"
    );
    assert_eq!(reserved(&lab), "8080,31000");
}

#[test]
fn a_port_that_the_host_uses_is_not_given_to_a_flow() {
    let mut lab = Lab::without_agent();
    lab.agent_options(&["--snat-ports", "20000-20255"]);
    lab.start_agent();
    network(&lab);
    lab.run("box", &["--network", "net"], &["sleep", "600"]);
    let heard = inside(&lab.outside_netns(), || UdpSocket::bind((OUT4, 9)).unwrap());
    heard
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    // The host talks to the same server from a port of the range.
    let host = inside(&lab.host_netns(), || {
        UdpSocket::bind(("0.0.0.0", 20_007)).unwrap()
    });
    host.send_to(b"host", (OUT4, 9)).unwrap();
    let mut buffer = [0; 64];
    let (_, from) = heard.recv_from(&mut buffer).unwrap();
    assert_eq!(from.port(), 20_007);
    // The container has the same source port, which would be kept if it could be.
    let client = inside(&lab.namespace_of("box"), || {
        UdpSocket::bind(("0.0.0.0", 20_007)).unwrap()
    });
    client.send_to(b"box", (OUT4, 9)).unwrap();
    let (length, second) = heard.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"box");
    assert_ne!(second.port(), 20_007);
    for (socket, address, text) in [
        (&host, from, b"to the host "),
        (&client, second, b"to container"),
    ] {
        heard.send_to(text, address).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let (length, _) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], text);
    }
    // Without the host's socket it is kept.
    drop(host);
    thread::sleep(Duration::from_millis(100));
    let again = inside(&lab.namespace_of("box"), || {
        UdpSocket::bind(("0.0.0.0", 20_008)).unwrap()
    });
    again.send_to(b"box", (OUT4, 9)).unwrap();
    assert_eq!(heard.recv_from(&mut buffer).unwrap().1.port(), 20_008);
}
