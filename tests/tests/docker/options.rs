//! Options of networks.

use netpath_tests::docker::Docker;
use netpath_tests::lab::{HOST4, Lab, OUT4, eventually};

use super::{answers, fetch, fetch_in, network, no_gwbridge};

const ICC: &str = "com.docker.network.bridge.enable_icc=false";

#[test]
fn an_internal_network_has_no_way_out() {
    let lab = Lab::new();
    let docker = Docker::start(&lab);
    network(
        &docker,
        "closed",
        &["--internal", "--subnet", "10.77.0.0/24"],
    );
    docker.web("web", &["--network", "closed", "-p", "8080:80"]);
    docker.container("client", &["--network", "closed"], &["sleep", "600"]);
    let routes = docker.exec("client", &["ip", "route"]).ok();
    assert!(!routes.contains("default"), "{routes}");
    eventually("the neighbour answers", || {
        fetch_in(&docker, "client", "web", 80) == "web"
    });
    docker
        .exec("client", &["ping", "-c", "1", "-W", "3", "10.77.0.1"])
        .ok();
    let out = docker.exec("client", &["ping", "-c", "1", "-W", "1", OUT4]);
    assert_ne!(out.code, Some(0));
    // As with Docker's own networks, -p is ignored.
    assert_eq!(fetch(&lab, HOST4, 8080), "");
    no_gwbridge(&docker);
}

#[test]
fn containers_that_do_not_talk_meet_at_published_ports() {
    let lab = Lab::new();
    let docker = Docker::start(&lab);
    network(&docker, "net", &["-o", ICC, "--subnet", "10.77.0.0/24"]);
    docker.web("web", &["--network", "net", "-p", "8080:80"]);
    docker.container("client", &["--network", "net"], &["sleep", "600"]);
    answers(&lab, HOST4, 8080, "web");
    let address = docker.address("web", "net");
    assert_eq!(fetch_in(&docker, "client", &address, 80), "");
    assert_eq!(fetch_in(&docker, "client", HOST4, 8080), "web");
    docker
        .exec("client", &["ping", "-c", "1", "-W", "3", OUT4])
        .ok();
}

#[test]
fn a_routed_network_is_reached_by_the_containers_addresses() {
    let lab = Lab::new();
    let docker = Docker::start(&lab);
    let mode = "com.docker.network.bridge.gateway_mode_ipv4=routed";
    network(&docker, "net", &["-o", mode, "--subnet", "10.77.0.0/24"]);
    docker.web(
        "web",
        &["--network", "net", "-p", "8080:80", "--expose", "81"],
    );
    lab.outside(&["ip", "route", "add", "10.77.0.0/24", "via", HOST4])
        .ok();
    let address = docker.address("web", "net");
    answers(&lab, &address, 80, "web");
    assert_eq!(fetch(&lab, HOST4, 8080), "", "no port of the host");
    docker.run(&["rm", "-f", "web"]).ok();
    assert_eq!(fetch(&lab, &address, 80), "");
}

#[test]
fn names_and_sizes_of_interfaces_are_options() {
    let lab = Lab::new();
    lab.host(&["ip", "link", "set", "uplink0", "mtu", "1450"])
        .ok();
    let docker = Docker::start(&lab);
    network(&docker, "usual", &["--subnet", "10.77.0.0/24"]);
    let options = [
        "-o",
        "com.docker.network.driver.mtu=1400",
        "-o",
        "com.docker.network.container_iface_prefix=lan",
        "--subnet",
        "10.78.0.0/24",
    ];
    network(&docker, "special", &options);
    for (name, net, interface, mtu) in [
        ("first", "usual", "eth0", "1450"),
        ("second", "special", "lan0", "1400"),
    ] {
        docker.container(name, &["--network", net], &["sleep", "600"]);
        let file = format!("/sys/class/net/{interface}/mtu");
        eventually("the uplink's MTU is seen", || {
            docker.exec(name, &["cat", &file]).stdout.trim() == mtu
        });
        docker
            .exec(name, &["ping", "-c", "1", "-W", "3", OUT4])
            .ok();
    }
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let lab = Lab::new();
    let docker = Docker::start(&lab);
    for (options, part) in [
        (&["-o", "color=blue"][..], "option color is unknown"),
        (&["-o", "icc=maybe"], "icc=maybe"),
        (
            &["-o", "com.docker.network.container_iface_prefix=a/b"],
            "a/b",
        ),
        (&["-o", "gateway_mode_ipv4=isolated"], "--internal"),
        (&["--subnet", "192.0.2.0/24"], "192.0.2"),
        (
            &["--subnet", "10.77.0.0/24", "--subnet", "10.78.0.0/24"],
            "one IPv4 subnet",
        ),
        (&["--ipam-driver", "null"], "IPAM"),
    ] {
        let mut args = vec!["network", "create", "-d", "netpath"];
        args.extend(options);
        args.push("net");
        let ran = docker.run(&args);
        assert_ne!(ran.code, Some(0), "{options:?}");
        assert!(ran.stderr.contains(part), "{options:?}: {}", ran.stderr);
        let names = docker.run(&["network", "ls", "--format", "{{.Name}}"]).ok();
        assert!(!names.lines().any(|name| name == "net"), "{names}");
    }
    assert_eq!(
        lab.json(&["network", "ls", "--filter", "type=custom"])
            .as_array()
            .map(Vec::len),
        Some(0)
    );
}

#[test]
fn neighbours_get_large_packets_and_nobody_else_does() {
    let lab = Lab::new();
    let docker = Docker::start(&lab);
    let options = [
        "--ipv6",
        "--subnet",
        "10.77.0.0/24",
        "--subnet",
        "fd77::/64",
    ];
    network(&docker, "net", &options);
    docker.container("sender", &["--network", "net"], &["sleep", "600"]);
    docker.container("other", &["--network", "net"], &["sleep", "600"]);
    let pid = docker.pid("sender");
    let inside = |args: &[&str]| netpath_tests::lab::run(docker.in_network_of(&pid, args));
    for (family, subnet) in [("-4", "10.77.0.0/24"), ("-6", "fd77::/64")] {
        eventually("the route says so", || {
            let routes = inside(&["ip", family, "route", "show", subnet]).stdout;
            routes.lines().count() == 1 && routes.contains("mtu 65520")
        });
    }
    let v6 = docker.inspect(
        "{{.NetworkSettings.Networks.net.GlobalIPv6Address}}",
        "other",
    );
    // Of one piece, and answered.
    for address in [&docker.address("other", "net"), &v6] {
        inside(&[
            "ping", "-M", "do", "-s", "60000", "-c", "1", "-W", "3", address,
        ])
        .ok();
    }
    for address in ["10.77.0.1", OUT4] {
        let large = [
            "ping", "-M", "do", "-s", "2000", "-c", "1", "-W", "1", address,
        ];
        assert_ne!(inside(&large).code, Some(0), "{address}");
        let usual = [
            "ping", "-M", "do", "-s", "1400", "-c", "1", "-W", "3", address,
        ];
        inside(&usual).ok();
    }
}
