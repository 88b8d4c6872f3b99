//! Networks that are internal, isolated, or whose containers do not talk with each other.

use netpath_tests::lab::{HOST4, HOST6, Lab, OUT4, OUT6};

use crate::{Client, Server, create, drops, ping, serve, web};

#[test]
fn an_internal_network_is_closed_both_ways() {
    let lab = Lab::new();
    create(&lab, "inner", 91, &["--internal"]);
    create(&lab, "other", 89, &[]);
    let server = Server {
        name: "inner",
        number: 91,
        host_port: 8091,
    };
    serve(&lab, &server, false);
    lab.run("client", &["--network", "inner"], &["sleep", "600"]);
    lab.run("stranger", &["--network", "other"], &["sleep", "600"]);
    lab.host(&["sysctl", "-qw", "net.ipv4.ip_forward=1"]).ok();
    lab.outside(&["ip", "route", "add", "10.91.0.0/24", "via", HOST4])
        .ok();
    lab.outside(&["ip", "route", "add", "fd91::/64", "via", HOST6])
        .ok();
    let inside = Client::Container("client");
    for (v6, gateway) in [(false, "10.91.0.1"), (true, "fd91::1")] {
        let address = server.address(v6);
        web(&lab, inside, &address, 80, true);
        ping(&lab, inside, &address, true);
        ping(&lab, inside, gateway, true);
        web(&lab, Client::Host, &address, 80, true);
        for client in [Client::Outside, Client::Container("stranger")] {
            ping(&lab, client, &address, false);
            web(&lab, client, &address, 80, false);
        }
    }
    for out in [OUT4, OUT6, HOST4, HOST6] {
        let ran = lab.exec("client", &["ping", "-c", "1", "-W", "1", out]);
        let text = format!("{}{}", ran.stdout, ran.stderr);
        assert!(text.contains("Network is unreachable"), "{out}: {text}");
    }
    assert_eq!(
        lab.exec("client", &["ip", "route", "show", "default"])
            .stdout,
        ""
    );
    // With a route of its own making a container is no further.
    let route = ["ip", "route", "add", "default", "via", "10.91.0.1"];
    lab.exec("client", &route).ok();
    for out in [OUT4, HOST4] {
        ping(&lab, inside, out, false);
    }
    assert!(drops(&lab, "internal_network") > 0);
    // Link-local traffic is traffic within the network.
    let local = lab.exec(
        "inner",
        &["ip", "-o", "-6", "addr", "show", "scope", "link"],
    );
    let local = local.ok();
    let local = local
        .split_whitespace()
        .find(|word| word.starts_with("fe80"));
    let local = format!("{}%eth0", local.unwrap().split('/').next().unwrap());
    ping(&lab, inside, &local, true);
}

#[test]
fn published_ports_on_an_internal_network_are_refused() {
    let lab = Lab::new();
    create(&lab, "inner", 91, &["--internal"]);
    let run = ["run", "-d", "--name", "web", "--network", "inner"];
    let run = [&run[..], &["-p", "8080:80", "--", "sleep", "9"]].concat();
    let error = lab.netpath(&run).refused();
    assert!(error.contains("network inner is internal"), "{error}");
    assert_eq!(lab.json(&["ps", "-a"]).as_array().map(Vec::len), Some(0));
}

#[test]
fn without_icc_containers_meet_by_published_ports_only() {
    let mut lab = Lab::new();
    let option = "com.docker.network.bridge.enable_icc=false";
    create(&lab, "apart", 92, &["-o", option]);
    let server = Server {
        name: "apart",
        number: 92,
        host_port: 8092,
    };
    serve(&lab, &server, true);
    lab.run("client", &["--network", "apart"], &["sleep", "600"]);
    lab.serve_outside(&["busybox", "httpd", "-f", "-p", "[::]:80", "-h", "/etc"]);
    let inside = Client::Container("client");
    for v6 in [false, true] {
        let address = server.address(v6);
        ping(&lab, inside, &address, false);
        web(&lab, inside, &address, 80, false);
        web(&lab, Client::Host, &address, 80, true);
    }
    for host in [HOST4, HOST6, "10.92.0.1", "fd92::1"] {
        web(&lab, inside, host, 8092, true);
    }
    for host in [HOST4, HOST6] {
        web(&lab, Client::Outside, host, 8092, true);
    }
    for out in [OUT4, OUT6] {
        ping(&lab, inside, out, true);
    }
    assert!(drops(&lab, "icc_off") >= 4);
}

#[test]
fn an_isolated_network_is_without_the_host() {
    let lab = Lab::new();
    let modes = ["gateway_mode_ipv4=isolated", "gateway_mode_ipv6=isolated"];
    lab.netpath(&[
        "network",
        "create",
        "pair",
        "--internal",
        "-o",
        modes[0],
        "-o",
        modes[1],
        "--subnet",
        "10.93.0.0/31",
        "--subnet",
        "fd93::/127",
    ])
    .ok();
    // There is room for two, and for no gateway.
    lab.run("left", &["--network", "pair"], &["sleep", "600"]);
    lab.run("right", &["--network", "pair"], &["sleep", "600"]);
    let third = ["run", "-d", "--network", "pair", "--", "sleep", "9"];
    let error = lab.netpath(&third).refused();
    assert!(error.contains("10.93.0.0/31"), "{error}");
    for v6 in [false, true] {
        let (left, right) = (lab.address("left", v6), lab.address("right", v6));
        ping(&lab, Client::Container("left"), &right, true);
        ping(&lab, Client::Container("right"), &left, true);
        // Not even with a route of the host's own, which IPv6 has no use for there.
        let network = lab.json(&["network", "inspect", "pair"]);
        let device = network[0]["Netpath"]["Device"].as_str().unwrap().to_owned();
        lab.host(&["ip", "route", "add", left.as_str(), "dev", &device]);
        ping(&lab, Client::Host, &left, false);
        let addresses = lab.host(&["ip", "-o", "addr", "show", "dev", &device]).ok();
        assert_eq!(addresses, "");
    }
    let network = lab.json(&["network", "inspect", "pair"]);
    for subnet in network[0]["IPAM"]["Config"].as_array().unwrap() {
        assert_eq!(subnet.get("Gateway"), None, "{network}");
    }
}
