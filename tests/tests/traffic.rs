//! Real clients over real namespaces: what a user of containers sees.

use std::fs;
use std::process::Command;
use std::time::Duration;

use netpath_tests::lab::{HOST4, HOST6, Lab, OUT4, OUT6, UPLINK, eventually, finish, start};

/// A network of both families, a web server on 8080 and a client.
fn web() -> Lab {
    let lab = Lab::new();
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
    let www = lab.dir().join("www");
    fs::create_dir(&www).unwrap();
    fs::write(www.join("hello"), "hello from the container\n").unwrap();
    fs::write(www.join("large"), vec![b'x'; 64 << 20]).unwrap();
    let www = www.display().to_string();
    lab.run(
        "web",
        &["--network", "net", "-p", "8080:80"],
        &["busybox", "httpd", "-f", "-p", "[::]:80", "-h", &www],
    );
    lab.run("client", &["--network", "net"], &["sleep", "600"]);
    eventually("the web server answers", || {
        lab.exec(
            "web",
            &["busybox", "wget", "-qO-", "http://127.0.0.1/hello"],
        )
        .code
            == Some(0)
    });
    lab
}

#[test]
fn containers_of_one_network_talk() {
    let lab = web();
    for (v6, url) in [(false, "http://ADDR/hello"), (true, "http://[ADDR]/hello")] {
        let server = lab.address("web", v6);
        let url = url.replace("ADDR", &server);
        let text = lab.exec("client", &["curl", "-gsSm5", &url]).ok();
        assert_eq!(text, "hello from the container\n");
        lab.exec(
            "client",
            &["ping", "-c", "2", "-i", "0.2", "-W", "2", &server],
        )
        .ok();
    }
    // Traffic within a network has no flow.
    assert_eq!(lab.json(&["flows"]).as_array().map(Vec::len), Some(0));
}

#[test]
fn containers_talk_by_link_local_addresses() {
    let lab = web();
    let text = lab
        .exec(
            "web",
            &["ip", "-j", "-6", "addr", "show", "eth0", "scope", "link"],
        )
        .ok();
    let links: serde_json::Value = serde_json::from_str(&text).unwrap();
    let infos = links
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|link| link["addr_info"].as_array());
    let local = infos.flatten().find_map(|info| info["local"].as_str());
    let local = local.unwrap_or_else(|| panic!("no link-local address: {text}"));
    let target = format!("{local}%eth0");
    lab.exec(
        "client",
        &["ping", "-c", "2", "-i", "0.2", "-W", "2", &target],
    )
    .ok();
}

#[test]
fn outside_sees_the_hosts_address() {
    let mut lab = web();
    // Replies with the address it sees.
    for (kind, port) in [("TCP4-LISTEN", "7000"), ("TCP6-LISTEN", "7001")] {
        let listen = format!("{kind}:{port},fork,reuseaddr");
        lab.serve_outside(&["socat", &listen, "SYSTEM:echo $SOCAT_PEERADDR"]);
    }
    for (kind, port) in [("UDP4-RECVFROM", "7002"), ("UDP6-RECVFROM", "7003")] {
        let listen = format!("{kind}:{port},fork");
        lab.serve_outside(&["socat", &listen, "SYSTEM:echo $SOCAT_PEERADDR"]);
    }
    let seen = |target: &str| {
        // `-t 2` keeps socat reading for the answer after its input has ended.
        lab.exec(
            "client",
            &["sh", "-c", &format!("echo who | socat -t 2 - {target}")],
        )
        .stdout
    };
    for (target, expected) in [
        (format!("TCP4:{OUT4}:7000"), HOST4.to_owned()),
        (format!("TCP6:[{OUT6}]:7001"), full(HOST6)),
        (format!("UDP4:{OUT4}:7002"), HOST4.to_owned()),
        (format!("UDP6:[{OUT6}]:7003"), full(HOST6)),
    ] {
        // A forking UDP server of socat loses a question now and then: the answer counts.
        let mut answer = String::new();
        eventually(&target, || {
            answer = seen(&target);
            !answer.is_empty()
        });
        assert_eq!(answer.trim(), expected, "{target}");
    }
}

/// socat writes IPv6 addresses in full, in brackets.
fn full(addr: &str) -> String {
    let addr: std::net::Ipv6Addr = addr.parse().unwrap();
    let groups: Vec<String> = addr.segments().iter().map(|s| format!("{s:04x}")).collect();
    format!("[{}]", groups.join(":"))
}

#[test]
fn ping_goes_out_and_comes_back() {
    let lab = web();
    for target in [OUT4, OUT6] {
        lab.exec(
            "client",
            &["ping", "-c", "3", "-i", "0.2", "-W", "2", target],
        )
        .ok();
    }
    let flows = lab.json(&["flows"]);
    let protos: Vec<&str> = flows
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|f| f["proto"].as_str())
        .collect();
    assert!(
        protos.contains(&"icmp") && protos.contains(&"icmpv6"),
        "{flows}"
    );
}

#[test]
fn published_ports_are_reached_from_outside() {
    let lab = web();
    for url in [
        format!("http://{HOST4}:8080/hello"),
        format!("http://[{HOST6}]:8080/hello"),
    ] {
        let text = lab.outside(&["curl", "-gsSm5", &url]).ok();
        assert_eq!(text, "hello from the container\n", "{url}");
    }
    let flows = lab.json(&["flows"]);
    let published = flows
        .as_array()
        .unwrap()
        .iter()
        .filter(|f| f["kind"] == "published");
    assert_eq!(published.count(), 2, "{flows}");
}

#[test]
fn published_udp_ports_answer_from_the_address_that_was_asked() {
    let lab = Lab::new();
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
    lab.run(
        "echo",
        &["--network", "net", "-p", "5353:53/udp"],
        &[
            "socat",
            "UDP6-RECVFROM:53,fork",
            "SYSTEM:cat; echo from $SOCAT_PEERADDR",
        ],
    );
    // socat as a client takes answers from the address that it asked only.
    for target in [format!("UDP4:{HOST4}:5353"), format!("UDP6:[{HOST6}]:5353")] {
        let ask = || {
            lab.outside(&["sh", "-c", &format!("echo hello | socat -t 2 - {target}")])
                .stdout
        };
        let mut text = String::new();
        eventually(&target, || {
            text = ask();
            text.contains("hello")
        });
        // The container sees the client's own address.
        let client = if target.contains("UDP4") {
            OUT4.to_owned()
        } else {
            full(OUT6)
        };
        let mapped = text.contains(&client) || text.contains("c000:0202");
        assert!(mapped, "the client's address is not in {text:?}");
    }
}

#[test]
fn a_resolver_outside_answers_over_udp() {
    let mut lab = web();
    lab.serve_outside(&[
        "dnsmasq",
        "--no-daemon",
        "--no-resolv",
        "--no-hosts",
        "--pid-file=",
        "--address=/netpath.test/203.0.113.7",
    ]);
    for server in [OUT4, OUT6] {
        let server = format!("@{server}");
        let dig = [
            "dig",
            "+short",
            "+time=1",
            "+tries=1",
            &server,
            "netpath.test",
        ];
        eventually("the resolver answers", || {
            lab.exec("client", &dig).stdout == "203.0.113.7\n"
        });
    }
}

#[test]
fn host_and_container_talk_both_ways() {
    let lab = web();
    for v6 in [false, true] {
        let server = lab.address("web", v6);
        let url = if v6 {
            format!("http://[{server}]/hello")
        } else {
            format!("http://{server}/hello")
        };
        assert_eq!(
            lab.host(&["curl", "-gsSm5", &url]).ok(),
            "hello from the container\n"
        );
    }
    // The gateway and the host's other addresses.
    for target in ["10.88.0.1", "fd88::1", HOST4, HOST6] {
        lab.exec("client", &["ping", "-c", "1", "-W", "2", target])
            .ok();
    }
}

#[test]
fn strict_reverse_path_filtering_changes_nothing() {
    let lab = web();
    let sysctl = format!("net.ipv4.conf.{UPLINK}.rp_filter=1");
    lab.host(&["sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1", &sysctl])
        .ok();
    lab.exec("client", &["ping", "-c", "1", "-W", "2", "10.88.0.1"])
        .ok();
    lab.exec("client", &["ping", "-c", "1", "-W", "2", OUT4])
        .ok();
    lab.outside(&["curl", "-sSm5", &format!("http://{HOST4}:8080/hello")])
        .ok();
}

#[test]
fn iperf3_runs_between_containers_and_out() {
    let mut lab = web();
    lab.serve_outside(&["iperf3", "-s"]);
    lab.run("iperf", &["--network", "net"], &["iperf3", "-s"]);
    let inside = lab.address("iperf", false);
    for (target, extra) in [
        (inside.as_str(), "-P1"),
        (OUT4, "-P2"),
        (OUT6, "-R"),
        (OUT4, "-u"),
    ] {
        let mut report = String::new();
        eventually("iperf3 runs", || {
            let ran = lab.exec("client", &["iperf3", "-J", "-t", "1", "-c", target, extra]);
            report = ran.stdout;
            ran.code == Some(0)
        });
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        let bytes = &report["end"]["sum_received"]["bytes"];
        let udp = &report["end"]["sum"]["bytes"];
        assert!(
            bytes.as_u64().or(udp.as_u64()).unwrap_or(0) > 100_000,
            "{target} {extra}: {report}"
        );
    }
}

#[test]
fn a_container_cannot_use_an_address_that_is_not_its_own() {
    let lab = web();
    lab.exec(
        "client",
        &["ip", "addr", "add", "10.88.0.200/24", "dev", "eth0"],
    )
    .ok();
    lab.exec(
        "client",
        &["ip", "addr", "add", "fd88::200/64", "dev", "eth0", "nodad"],
    )
    .ok();
    let server = (lab.address("web", false), lab.address("web", true));
    for (source, target) in [
        ("10.88.0.200", server.0.as_str()),
        ("10.88.0.200", OUT4),
        ("fd88::200", server.1.as_str()),
        ("fd88::200", OUT6),
    ] {
        let ran = lab.exec(
            "client",
            &["ping", "-c", "1", "-W", "1", "-I", source, target],
        );
        assert_ne!(ran.code, Some(0), "{source} reached {target}");
    }
    assert!(drops(&lab, "spoofed_source") >= 2);
    // A foreign MAC is no better.
    lab.exec(
        "client",
        &["ip", "link", "set", "eth0", "address", "02:11:22:33:44:55"],
    )
    .ok();
    let ran = lab.exec("client", &["ping", "-c", "1", "-W", "1", &server.0]);
    assert_ne!(ran.code, Some(0));
}

fn drops(lab: &Lab, reason: &str) -> u64 {
    let rows = lab.json(&["drops"]);
    let rows = rows
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["reason"] == reason);
    rows.filter_map(|row| row["packets"].as_u64()).sum()
}

#[test]
fn nobody_outside_reaches_a_container_by_its_own_address() {
    let lab = web();
    lab.host(&[
        "sysctl",
        "-qw",
        "net.ipv4.ip_forward=1",
        "net.ipv6.conf.all.forwarding=1",
    ])
    .ok();
    lab.outside(&["ip", "route", "add", "10.88.0.0/24", "via", HOST4])
        .ok();
    lab.outside(&["ip", "-6", "route", "add", "fd88::/64", "via", HOST6])
        .ok();
    for v6 in [false, true] {
        let server = lab.address("web", v6);
        assert_ne!(
            lab.outside(&["ping", "-c", "1", "-W", "1", &server]).code,
            Some(0)
        );
        // Not even at a port that is published.
        let url = if v6 {
            format!("http://[{server}]/hello")
        } else {
            format!("http://{server}/hello")
        };
        assert_ne!(lab.outside(&["curl", "-gsSm1", &url]).code, Some(0));
    }
    assert!(drops(&lab, "direct_routing") >= 4);
}

#[test]
fn networks_are_isolated_from_each_other() {
    let lab = web();
    lab.netpath(&[
        "network",
        "create",
        "other",
        "--subnet",
        "10.89.0.0/24",
        "--subnet",
        "fd89::/64",
    ])
    .ok();
    lab.run("stranger", &["--network", "other"], &["sleep", "600"]);
    for v6 in [false, true] {
        let server = lab.address("web", v6);
        assert_ne!(
            lab.exec("stranger", &["ping", "-c", "1", "-W", "1", &server])
                .code,
            Some(0)
        );
    }
    assert!(drops(&lab, "other_network") >= 2);
}

#[test]
fn no_container_source_leaves_the_uplink() {
    let mut lab = web();
    lab.serve_outside(&["socat", "TCP-LISTEN:7000,fork,reuseaddr", "EXEC:cat"]);
    lab.serve_outside(&["socat", "TCP-LISTEN:7001,fork,reuseaddr", "SYSTEM:yes"]);
    let file = lab.dir().join("capture.pcap").display().to_string();
    let capture = start({
        let mut tcpdump = Command::new("nsenter");
        tcpdump.args([
            &format!("--net=/run/netns/{}", lab.host_namespace()),
            "timeout",
            "8",
        ]);
        tcpdump.args([
            "tcpdump", "-U", "-Z", "root", "-i", UPLINK, "-Q", "out", "-w", &file,
        ]);
        tcpdump
    });
    std::thread::sleep(Duration::from_secs(1));
    // Connections that end in every way: in order, by a reset (there is unread data when the
    // client goes), refused.
    let quiet = format!("echo x | timeout 2 socat -t 0.1 - TCP4:{OUT4}:7000");
    let reset = format!("exec 3<>/dev/tcp/{OUT4}/7001; sleep 0.05");
    let refused = format!("exec 3<>/dev/tcp/{OUT4}/9");
    for _ in 0..10 {
        for script in [&quiet, &reset, &refused] {
            lab.exec("client", &["timeout", "2", "bash", "-c", script]);
        }
    }
    for target in [OUT4, OUT6] {
        lab.exec(
            "client",
            &["ping", "-c", "2", "-i", "0.2", "-t", "1", target],
        );
    }
    let captured = finish(capture);
    assert!(captured.stderr.contains("listening on"), "{captured:?}");
    let read = |filter: &str| lab.host(&["tcpdump", "-nnr", &file, filter]).ok();
    // The capture did see what went out.
    assert!(
        read("src host 192.0.2.1 and tcp[tcpflags] & tcp-syn != 0")
            .lines()
            .count()
            >= 20
    );
    assert!(
        read("src host 192.0.2.1 and tcp[tcpflags] & tcp-rst != 0")
            .lines()
            .count()
            >= 1
    );
    assert_eq!(read("net 10.88.0.0/24 or net fd88::/64").trim(), "");
}

#[test]
fn the_host_has_no_bridge_no_rule_and_no_connection_entry() {
    let lab = web();
    lab.outside(&["curl", "-sSm5", &format!("http://{HOST4}:8080/hello")])
        .ok();
    lab.exec("client", &["ping", "-c", "1", "-W", "2", OUT4])
        .ok();
    assert_eq!(
        lab.host(&["ip", "-o", "link", "show", "type", "bridge"])
            .ok(),
        ""
    );
    assert_eq!(lab.host(&["nft", "list", "ruleset"]).ok(), "");
    assert_eq!(lab.host(&["iptables-save"]).ok(), "");
    assert_eq!(lab.host(&["conntrack", "-L"]).stdout, "");
}

#[test]
fn bpftool_shows_named_fields() {
    let lab = web();
    lab.outside(&["curl", "-sSm5", &format!("http://{HOST4}:8080/hello")])
        .ok();
    let dump = |map: &str| {
        let path = lab.bpffs().join(map).display().to_string();
        let text = lab
            .host(&["bpftool", "-j", "map", "dump", "pinned", &path])
            .ok();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    let flows = dump("flows");
    let flow = flows
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["formatted"])
        .find(|entry| entry["key"]["dst_port"] == 8080)
        .unwrap_or_else(|| panic!("no flow to port 8080 in host byte order: {flows}"));
    assert_eq!(flow["key"]["proto"], "Tcp");
    assert_eq!(flow["value"]["new_dst_port"], 80);
    assert_eq!(flow["value"]["kind"], "Published");
    let ports = dump("ports");
    assert!(
        ports
            .as_array()
            .unwrap()
            .iter()
            .all(|e| e["formatted"]["key"]["port"] == 8080)
    );
    let endpoints = dump("endpoints");
    assert!(
        endpoints
            .as_array()
            .unwrap()
            .iter()
            .all(|e| e["formatted"]["value"]["ifindex"].is_u64())
    );
}
