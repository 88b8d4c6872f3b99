//! Networks and containers come and go.

use netpath_tests::docker::Docker;
use netpath_tests::lab::{HOST4, HOST6, Lab, OUT4, OUT6, eventually};

use super::{answers, fetch, fetch_here, fetch_in, network, no_endpoints, no_gwbridge};

#[test]
fn a_container_is_connected_reached_and_gone() {
    let mut lab = Lab::new();
    lab.serve_outside(&[
        "socat",
        "TCP4-LISTEN:7000,fork,reuseaddr",
        "SYSTEM:echo $SOCAT_PEERADDR",
    ]);
    let docker = Docker::start(&lab);
    let before = gateways(&lab);
    network(&docker, "net", &["--subnet", "10.77.0.0/24"]);
    docker.web("web", &["--network", "net", "-p", "8080:80"]);
    docker.container("client", &["--network", "net"], &["sleep", "600"]);
    no_gwbridge(&docker);

    // What Docker says of it.
    let address = docker.address("web", "net");
    assert!(address.starts_with("10.77.0."), "{address}");
    assert_eq!(
        docker.inspect("{{.Driver}} {{.Scope}}", "net"),
        "netpath local"
    );
    let containers = docker.inspect("{{range .Containers}}{{.Name}} {{end}}", "net");
    assert!(
        containers.contains("web") && containers.contains("client"),
        "{containers}"
    );
    let gateway = "{{.NetworkSettings.Networks.net.Gateway}}";
    assert_eq!(docker.inspect(gateway, "web"), "10.77.0.1");

    // Neighbours, by address and by the names of Docker's own DNS.
    docker
        .exec("client", &["ping", "-c", "1", "-W", "3", &address])
        .ok();
    eventually("the server is up", || {
        fetch_in(&docker, "client", "web", 80) == "web"
    });
    // To the outside, with the host's address.
    let ask = format!("nc {OUT4} 7000 < /dev/null");
    assert_eq!(
        docker.exec("client", &["sh", "-c", &ask]).ok().trim(),
        HOST4
    );
    docker
        .exec("client", &["ping", "-c", "1", "-W", "3", OUT4])
        .ok();
    // The published port: from outside, from the host itself, from a neighbour and from itself.
    answers(&lab, HOST4, 8080, "web");
    for address in ["127.0.0.1", HOST4, "10.77.0.1"] {
        assert_eq!(fetch_here(&lab, address, 8080), "web", "{address}");
    }
    for client in ["client", "web"] {
        for address in [HOST4, "10.77.0.1"] {
            assert_eq!(
                fetch_in(&docker, client, address, 8080),
                "web",
                "{client} {address}"
            );
        }
    }
    // There is no process for it.
    let processes = netpath_tests::lab::run(docker.inside(&["ps", "-eo", "args"])).ok();
    assert!(!processes.contains("docker-proxy"), "{processes}");

    docker.run(&["rm", "-f", "web", "client"]).ok();
    assert_eq!(fetch(&lab, HOST4, 8080), "");
    no_endpoints(&lab);
    docker.run(&["network", "rm", "net"]).ok();
    assert_eq!(
        lab.json(&["network", "ls", "--filter", "type=custom"])
            .as_array()
            .map(Vec::len),
        Some(0)
    );
    assert_eq!(gateways(&lab), before);
}

/// The devices of networks.
fn gateways(lab: &Lab) -> Vec<String> {
    let links = lab.host(&["ip", "-br", "link"]).ok();
    let names = links
        .lines()
        .filter_map(|line| line.split(['@', ' ']).next());
    names
        .filter(|name| name.starts_with("np-br"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_running_container_is_connected_to_a_second_network() {
    let lab = Lab::new();
    let docker = Docker::start(&lab);
    network(&docker, "one", &["--subnet", "10.77.0.0/24"]);
    network(&docker, "two", &["--subnet", "10.78.0.0/24"]);
    docker.web("web", &["--network", "two", "-p", "8080:80"]);
    docker.container("client", &["--network", "one"], &["sleep", "600"]);
    // Networks meet at the host's ports.
    for address in [HOST4, "10.77.0.1", "10.78.0.1"] {
        eventually(address, || {
            fetch_in(&docker, "client", address, 8080) == "web"
        });
    }
    // A container in the network of another one is Docker's business alone.
    docker.container(
        "inner",
        &["--network", "container:client"],
        &["sleep", "600"],
    );
    docker
        .exec("inner", &["ping", "-c", "1", "-W", "3", OUT4])
        .ok();
    docker.run(&["rm", "-f", "inner"]).ok();
    let address = docker.address("web", "two");
    let ping = ["ping", "-c", "1", "-W", "1", &address];
    assert_ne!(
        docker.exec("client", &ping).code,
        Some(0),
        "networks are apart"
    );

    docker.run(&["network", "connect", "two", "client"]).ok();
    docker.exec("client", &["ip", "addr", "show", "eth1"]).ok();
    docker.exec("client", &ping).ok();
    eventually("by name", || {
        fetch_in(&docker, "client", "web", 80) == "web"
    });
    assert_eq!(lab.json(&["ps"]).as_array().map(Vec::len), Some(3));

    docker.run(&["network", "disconnect", "two", "client"]).ok();
    assert_ne!(
        docker.exec("client", &["ip", "addr", "show", "eth1"]).code,
        Some(0)
    );
    assert_ne!(docker.exec("client", &ping).code, Some(0));
    docker
        .exec("client", &["ping", "-c", "1", "-W", "3", OUT4])
        .ok();
    assert_eq!(lab.json(&["ps"]).as_array().map(Vec::len), Some(2));
    no_gwbridge(&docker);
    // Stopped and started, it has one endpoint again.
    docker.run(&["restart", "-t", "0", "client"]).ok();
    docker
        .exec("client", &["ping", "-c", "1", "-W", "3", OUT4])
        .ok();
    docker.run(&["rm", "-f", "web", "client"]).ok();
    no_endpoints(&lab);
}

#[test]
fn both_families_work() {
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
    docker.web("web", &["--network", "net", "-p", "8080:80"]);
    docker.container(
        "client",
        &["--network", "net", "--ip", "10.77.0.9", "--ip6", "fd77::9"],
        &["sleep", "600"],
    );
    let address = docker.inspect("{{.NetworkSettings.Networks.net.GlobalIPv6Address}}", "web");
    docker
        .exec("client", &["ping6", "-c", "1", "-W", "3", &address])
        .ok();
    docker
        .exec("client", &["ping6", "-c", "1", "-W", "3", OUT6])
        .ok();
    for address in [HOST4, HOST6] {
        answers(&lab, address, 8080, "web");
    }
    for address in ["127.0.0.1", "::1"] {
        assert_eq!(fetch_here(&lab, address, 8080), "web", "{address}");
    }
    let shown = lab.netpath(&["ps"]).ok();
    assert!(shown.contains("10.77.0.9, fd77::9"), "{shown}");
    no_gwbridge(&docker);
}

#[test]
fn the_address_and_the_mac_are_what_docker_says() {
    let lab = Lab::new();
    let docker = Docker::start(&lab);
    network(&docker, "net", &["--subnet", "10.77.0.0/24"]);
    // By the daemon's API: clients of today cannot say it to the daemons of then.
    let body = serde_json::json!({
        "Image": netpath_tests::docker::IMAGE,
        "Cmd": ["sleep", "600"],
        "MacAddress": "02:42:00:00:00:50",
        "HostConfig": { "NetworkMode": "net" },
        "NetworkingConfig": {
            "EndpointsConfig": { "net": { "IPAMConfig": { "IPv4Address": "10.77.0.50" } } },
        },
    });
    let socket = docker.socket().replace("unix://", "");
    let url = "http://docker/v1.41/containers/create?name=fixed";
    let json = "content-type: application/json";
    lab.host(&[
        "curl",
        "-sSf",
        "--unix-socket",
        &socket,
        "-H",
        json,
        "-d",
        &body.to_string(),
        url,
    ])
    .ok();
    docker.run(&["start", "fixed"]).ok();
    docker.container("other", &["--network", "net"], &["sleep", "600"]);
    for (name, mac) in [("fixed", Some("02:42:00:00:00:50")), ("other", None)] {
        let said = docker.inspect("{{.NetworkSettings.Networks.net.MacAddress}}", name);
        let link = docker
            .exec(name, &["cat", "/sys/class/net/eth0/address"])
            .ok();
        assert_eq!(link.trim(), said);
        assert_eq!(mac.unwrap_or(&said), said);
        let rows = lab.json(&["ps"]);
        let macs: Vec<&str> = rows
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|row| row["networks"][0]["mac"].as_str())
            .collect();
        assert!(macs.contains(&said.as_str()), "{rows}");
    }
    docker
        .exec("other", &["ping", "-c", "1", "-W", "3", "10.77.0.50"])
        .ok();
    // The address changes hands.
    docker.run(&["rm", "-f", "fixed"]).ok();
    docker.container(
        "third",
        &["--network", "net", "--ip", "10.77.0.50"],
        &["sleep", "600"],
    );
    docker
        .exec("other", &["ping", "-c", "1", "-W", "3", "10.77.0.50"])
        .ok();
}

#[test]
fn what_is_dockers_is_shown_and_left_alone() {
    let lab = Lab::new();
    let docker = Docker::start(&lab);
    network(&docker, "net", &["--subnet", "10.77.0.0/24"]);
    docker.web("web", &["--network", "net", "-p", "8080:80"]);
    let id = docker.inspect("{{.Id}}", "net");
    let (short, _) = id.split_at(12);

    let networks = lab.json(&["network", "ls", "--filter", "type=custom"]);
    assert_eq!(networks[0]["docker"]["id"], id.as_str(), "{networks}");
    let containers = lab.json(&["ps"]);
    assert_eq!(containers[0]["state"], "docker");
    let endpoint = docker.inspect("{{.NetworkSettings.Networks.net.EndpointID}}", "web");
    assert_eq!(containers[0]["docker"]["id"], endpoint.as_str());
    // Names are Docker's, if it answers.
    let named = |args: &[&str]| {
        let mut command = lab.netpath_command(args);
        command.env("DOCKER_HOST", docker.socket());
        netpath_tests::lab::run(command).ok()
    };
    assert!(named(&["ps"]).contains("web"), "{}", named(&["ps"]));
    let listed = named(&["network", "ls", "--long", "--filter", "type=custom"]);
    assert!(
        listed
            .lines()
            .any(|line| line.contains(" net ") && line.contains("Docker's")),
        "{listed}"
    );
    assert_eq!(named(&["port", "web"]), "80/tcp -> 0.0.0.0:8080\n");
    let short_endpoint = &endpoint[..12];
    assert_eq!(
        lab.netpath(&["port", short_endpoint]).ok(),
        "80/tcp -> 0.0.0.0:8080\n"
    );
    // Docker does not know what its driver publishes.
    assert_eq!(docker.run(&["port", "web"]).ok(), "");

    for (args, part) in [
        (&["network", "rm", short][..], "docker network"),
        (&["rm", "-f", short_endpoint], "use \"docker\""),
        (&["stop", short_endpoint], "use \"docker\""),
        (&["exec", short_endpoint, "--", "true"], "docker exec"),
        (&["run", "--network", short, "--", "true"], "docker network"),
    ] {
        let refused = lab.netpath(args).refused();
        assert!(
            refused.contains(part) && refused.contains("Docker's"),
            "{args:?}: {refused}"
        );
    }
    answers(&lab, HOST4, 8080, "web");
    // Names of another kind meet at one host: our own network beside Docker's.
    lab.netpath(&["network", "create", "own", "--subnet", "10.99.0.0/24"])
        .ok();
    lab.run("mine", &["--network", "own"], &["sleep", "600"]);
    let address = docker.address("web", "net");
    assert_ne!(
        lab.exec("mine", &["ping", "-c", "1", "-W", "1", &address])
            .code,
        Some(0)
    );
    let refused = docker.run(&[
        "network",
        "create",
        "-d",
        "netpath",
        "--subnet",
        "10.99.0.0/16",
        "x",
    ]);
    assert!(refused.stderr.contains("overlaps"), "{refused:?}");
}
