//! Networks, endpoints and ports of Docker's.

use netpath_tests::lab::{Lab, eventually};
use netpath_tests::plugin::{call, refused};
use serde_json::{Value, json};

use super::{devices, id, joined, new_endpoint, new_network, of, rows, with_ports};

#[test]
fn an_internal_network_names_no_gateway() {
    let lab = Lab::new();
    let (network, endpoint) = (id("ab"), id("cd"));
    call(
        &lab,
        "CreateNetwork",
        &new_network(&network, "10.7.0", true),
    );
    let made = call(
        &lab,
        "CreateEndpoint",
        &new_endpoint(&network, &endpoint, "10.7.0.2/24"),
    );
    assert!(made["Interface"]["MacAddress"].is_string(), "{made}");
    let answer = call(&lab, "Join", &of(&network, &endpoint));
    let name = answer["InterfaceName"]["SrcName"]
        .as_str()
        .expect("a name")
        .to_owned();
    assert_eq!(answer["InterfaceName"]["DstPrefix"], "eth");
    assert!(answer.get("Gateway").is_none(), "{answer}");
    // The interface waits for Docker on the host, with the MAC address that was told.
    let link = lab.host(&["ip", "-br", "link", "show", &name]).ok();
    assert!(
        link.contains(made["Interface"]["MacAddress"].as_str().unwrap()),
        "{link}"
    );
}

#[test]
fn an_isolated_network_of_two_addresses_has_room_for_two() {
    let mut lab = Lab::new();
    let network = id("ab");
    let options = json!({
        "com.docker.network.internal": true,
        "com.docker.network.generic": {
            "com.docker.network.bridge.gateway_mode_ipv4": "isolated",
        },
    });
    let skip = call(&lab, "GwAllocCheck", &json!({ "Options": options }));
    assert_eq!(skip["SkipIPv4"], true, "{skip}");
    let new = json!({
        "NetworkID": network,
        "Options": options,
        "IPv4Data": [{ "AddressSpace": "LocalDefault", "Pool": "10.7.0.0/31" }],
    });
    call(&lab, "CreateNetwork", &new);
    for (name, digits, address) in [
        ("left", "cd", "10.7.0.0/31"),
        ("right", "ef", "10.7.0.1/31"),
    ] {
        let new = new_endpoint(&network, &id(digits), address);
        call(&lab, "CreateEndpoint", &new);
        let answer = call(&lab, "Join", &of(&network, &id(digits)));
        assert!(answer.get("Gateway").is_none(), "{answer}");
        let interface = answer["InterfaceName"]["SrcName"].as_str().expect("a name");
        let netns = lab.add_namespace(name);
        let netns = netns.rsplit('/').next().expect("a name");
        for args in [
            &["link", "set", interface, "netns", netns, "name", "eth0"][..],
            &["-n", netns, "addr", "add", address, "dev", "eth0"],
            &["-n", netns, "link", "set", "eth0", "up"],
        ] {
            lab.host(&[&["ip"], args].concat()).ok();
        }
    }
    let host = lab.host_namespace();
    for (name, address) in [("left", "10.7.0.1"), ("right", "10.7.0.0")] {
        let netns = format!("--net=/run/netns/{host}-{name}");
        let ping = ["nsenter", &netns, "ping", "-c1", "-W2", address];
        lab.host(&ping).ok();
        let ping = ["ping", "-c1", "-W1", address];
        assert_ne!(lab.host(&ping).code, Some(0), "from the host");
    }
}

#[test]
fn the_list_of_ports_is_read_in_all_its_forms() {
    let lab = Lab::new();
    let (network, endpoint) = joined(&lab);
    let entry = |proto: u8, port: u16, ip: &str, low: u16, high: u16| {
        json!({ "Proto": proto, "IP": "", "Port": port, "HostIP": ip, "HostPort": low,
                "HostPortEnd": high })
    };
    let body = json!({
        "NetworkID": network,
        "EndpointID": endpoint,
        "Options": { "com.docker.network.portmap": [
            entry(6, 80, "", 8080, 8080),
            entry(17, 53, "127.0.0.1", 5353, 0),
            entry(6, 81, "192.0.2.1", 9000, 9010),
            entry(6, 82, "192.0.2.1", 9000, 9010),
            entry(6, 83, "", 0, 0),
        ] },
    });
    call(&lab, "ProgramExternalConnectivity", &body);
    let ports = lab.json(&["port", &endpoint[..12]]);
    let shown = |port: u64| {
        let all = ports.as_array().unwrap().iter();
        let of: Vec<&Value> = all.filter(|row| row["container_port"] == port).collect();
        assert_eq!(of.len(), 1, "{ports}");
        (
            of[0]["host_ip"].as_str().unwrap().to_owned(),
            of[0]["host_port"].as_u64().unwrap(),
        )
    };
    assert_eq!(shown(80), ("0.0.0.0".into(), 8080));
    assert_eq!(shown(53), ("127.0.0.1".into(), 5353));
    assert_eq!(shown(81), ("192.0.2.1".into(), 9000));
    assert_eq!(shown(82), ("192.0.2.1".into(), 9001));
    assert!(shown(83).1 >= 1024, "{ports}");
    for (wrong, part) in [
        (entry(47, 80, "", 1, 1), "protocol number 47"),
        (entry(6, 80, "banana", 1, 1), "banana"),
        (entry(6, 80, "203.0.113.1", 1, 1), "203.0.113.1"),
        (entry(6, 80, "::", 1, 1), "no IPv6 address"),
        (entry(6, 0, "", 1, 1), "port 0"),
        (entry(132, 80, "", 81, 81), "SCTP"),
    ] {
        let mut body = of(&network, &endpoint);
        body["Options"] = json!({ "com.docker.network.portmap": [wrong] });
        let sentence = refused(&lab, "ProgramExternalConnectivity", &body);
        assert!(sentence.contains(part), "{sentence}");
    }
}

#[test]
fn a_port_that_is_taken_is_named() {
    let lab = Lab::new();
    let (network, first) = joined(&lab);
    let second = id("ef");
    call(
        &lab,
        "CreateEndpoint",
        &new_endpoint(&network, &second, "10.7.0.3/24"),
    );
    call(
        &lab,
        "ProgramExternalConnectivity",
        &with_ports(&network, &first, &[(8080, 80)]),
    );
    let wanted = with_ports(&network, &second, &[(8081, 80), (8080, 81)]);
    let sentence = refused(&lab, "ProgramExternalConnectivity", &wanted);
    assert!(
        sentence.contains("8080/tcp") && sentence.contains(&first[..12]),
        "{sentence}"
    );
    // Neither of the two is taken.
    assert_eq!(rows(&lab, &["ports"]), 1);
    call(&lab, "RevokeExternalConnectivity", &of(&network, &first));
    call(&lab, "ProgramExternalConnectivity", &wanted);
    assert_eq!(rows(&lab, &["ports"]), 2);
    // Programmed twice, it is what was asked for last.
    call(
        &lab,
        "ProgramExternalConnectivity",
        &with_ports(&network, &second, &[(8081, 80)]),
    );
    assert_eq!(rows(&lab, &["ports"]), 1);
}

#[test]
fn ports_go_with_whatever_ends_them() {
    let lab = Lab::new();
    let (network, endpoint) = joined(&lab);
    let program = with_ports(&network, &endpoint, &[(8080, 80), (8081, 81)]);
    let which = of(&network, &endpoint);
    for method in ["RevokeExternalConnectivity", "Leave"] {
        call(&lab, "ProgramExternalConnectivity", &program);
        assert_eq!(rows(&lab, &["ports"]), 2);
        // Twice is fine.
        call(&lab, method, &which);
        call(&lab, method, &which);
        assert_eq!(rows(&lab, &["ports"]), 0, "{method}");
        lab.host(&["timeout", "1", "nc", "-l", "8080"]);
    }
    call(&lab, "ProgramExternalConnectivity", &program);
    call(&lab, "DeleteEndpoint", &which);
    call(&lab, "DeleteEndpoint", &which);
    assert_eq!((rows(&lab, &["ports"]), rows(&lab, &["ps"])), (0, 0));
    assert_eq!(devices(&lab), [""; 0]);
    for method in ["RevokeExternalConnectivity", "Leave", "EndpointOperInfo"] {
        call(&lab, method, &which);
    }
    // With the network go its endpoints, if Docker forgot them.
    call(
        &lab,
        "CreateEndpoint",
        &new_endpoint(&network, &endpoint, "10.7.0.2/24"),
    );
    call(&lab, "ProgramExternalConnectivity", &program);
    call(&lab, "DeleteNetwork", &which);
    call(&lab, "DeleteNetwork", &which);
    for listing in [
        &["ps"][..],
        &["ports"],
        &["endpoints"],
        &["network", "ls", "--filter", "type=custom"],
    ] {
        assert_eq!(rows(&lab, listing), 0, "{listing:?}");
    }
    assert_eq!(devices(&lab), [""; 0]);
}

#[test]
fn what_was_made_outlives_the_agent() {
    let mut lab = Lab::new();
    let (network, endpoint) = (id("ab"), id("cd"));
    let again = |lab: &mut Lab| {
        lab.kill_agent();
        lab.start_agent();
    };
    call(
        &lab,
        "CreateNetwork",
        &new_network(&network, "10.7.0", false),
    );
    again(&mut lab);
    call(
        &lab,
        "CreateEndpoint",
        &new_endpoint(&network, &endpoint, "10.7.0.2/24"),
    );
    again(&mut lab);
    let answer = call(&lab, "Join", &of(&network, &endpoint));
    assert_eq!(answer["Gateway"], "10.7.0.1");
    again(&mut lab);
    call(
        &lab,
        "ProgramExternalConnectivity",
        &with_ports(&network, &endpoint, &[(8080, 80)]),
    );
    let before = lab.json(&["ps"]);
    again(&mut lab);
    assert_eq!(lab.json(&["ps"]), before);
    assert_eq!(rows(&lab, &["ports"]), 1);
    // Still held: nobody else can have it.
    let taken = lab.host(&["timeout", "2", "socat", "TCP4-LISTEN:8080", "-"]);
    assert!(taken.stderr.contains("Address already in use"), "{taken:?}");
    call(&lab, "Leave", &of(&network, &endpoint));
    again(&mut lab);
    call(&lab, "DeleteEndpoint", &of(&network, &endpoint));
    again(&mut lab);
    call(&lab, "DeleteNetwork", &of(&network, ""));
    assert_eq!(rows(&lab, &["network", "ls", "--filter", "type=custom"]), 0);
}

#[test]
fn what_docker_has_forgotten_makes_room() {
    let lab = Lab::new();
    let (network, first) = joined(&lab);
    call(
        &lab,
        "ProgramExternalConnectivity",
        &with_ports(&network, &first, &[(8080, 80)]),
    );
    // The same address, though the interface of the other is there.
    let second = id("ef");
    call(
        &lab,
        "CreateEndpoint",
        &new_endpoint(&network, &second, "10.7.0.2/24"),
    );
    call(
        &lab,
        "ProgramExternalConnectivity",
        &with_ports(&network, &second, &[(8080, 80)]),
    );
    assert_eq!(rows(&lab, &["ps"]), 1);
    // The same number: Docker did not get the answer.
    call(
        &lab,
        "CreateEndpoint",
        &new_endpoint(&network, &second, "10.7.0.2/24"),
    );
    assert_eq!((rows(&lab, &["ps"]), rows(&lab, &["ports"])), (1, 0));
    // The same network: the same.
    call(
        &lab,
        "CreateNetwork",
        &new_network(&network, "10.7.0", false),
    );
    // Its subnet for another one: not while somebody is in it.
    let other = id("12");
    let sentence = refused(&lab, "CreateNetwork", &new_network(&other, "10.7.0", false));
    assert!(sentence.contains("overlaps"), "{sentence}");
    let device = lab.json(&["ps"])[0]["networks"][0]["device"]
        .as_str()
        .expect("a device")
        .to_owned();
    lab.host(&["ip", "link", "del", &device]).ok();
    eventually("it is gone", || rows(&lab, &["ps"]) == 0);
    call(&lab, "CreateNetwork", &new_network(&other, "10.7.0", false));
    assert_eq!(rows(&lab, &["network", "ls", "--filter", "type=custom"]), 1);
    let sentence = refused(
        &lab,
        "CreateEndpoint",
        &new_endpoint(&network, &first, "10.7.0.2/24"),
    );
    assert!(sentence.contains("docker network rm"), "{sentence}");
    let sentence = refused(&lab, "Join", &of(&other, &first));
    assert!(sentence.contains("does not know endpoint"), "{sentence}");
}

#[test]
fn what_cannot_be_is_refused_in_a_sentence() {
    let lab = Lab::new();
    let network = id("ab");
    lab.netpath(&["network", "create", "own", "--subnet", "10.99.0.0/24"])
        .ok();
    let sentence = refused(
        &lab,
        "CreateNetwork",
        &new_network(&network, "10.99.0", false),
    );
    assert!(sentence.contains("network own"), "{sentence}");
    call(
        &lab,
        "CreateNetwork",
        &new_network(&network, "10.7.0", false),
    );
    for (address, part) in [
        ("10.8.0.2/24", "no subnet"),
        ("10.7.0.1/24", "gateway"),
        ("", "without an address"),
        ("10.7.0.2", "prefix length"),
        ("fd00::1/64", "no IPv4 address"),
    ] {
        let sentence = refused(
            &lab,
            "CreateEndpoint",
            &new_endpoint(&network, &id("cd"), address),
        );
        assert!(sentence.contains(part), "{address}: {sentence}");
    }
    let mut body = new_endpoint(&network, &id("cd"), "10.7.0.2/24");
    body["Interface"]["MacAddress"] = json!("01:00:5e:00:00:01");
    assert!(refused(&lab, "CreateEndpoint", &body).contains("MAC"));
    assert_eq!(
        (
            rows(&lab, &["ps"]),
            rows(&lab, &["network", "ls", "--filter", "type=custom"])
        ),
        (0, 2)
    );
    assert_eq!(devices(&lab), [""; 0]);
}

#[test]
fn the_socket_is_roots_and_can_be_elsewhere_or_nowhere() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut lab = Lab::new();
    let socket = lab.dir().join("run/docker.sock");
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    lab.stop_agent();
    assert!(!socket.exists());
    let elsewhere = lab.dir().join("plugins/netpath.sock");
    lab.agent_options(&["--docker-plugin", &elsewhere.display().to_string()]);
    lab.start_agent();
    assert!(elsewhere.exists() && !socket.exists());
    lab.stop_agent();
    lab.agent_options(&["--docker-plugin", "off"]);
    lab.start_agent();
    assert!(!elsewhere.exists() && !socket.exists());
    assert!(lab.netpath(&["status"]).ok().contains("docker      off"));
    lab.stop_agent();
    std::fs::write(&elsewhere, "").unwrap();
    lab.agent_options(&["--docker-plugin", &elsewhere.display().to_string()]);
    let refused = netpath_tests::lab::run(lab.agent_command());
    assert_ne!(refused.code, Some(0));
    assert!(refused.stderr.contains("--docker-plugin"), "{refused:?}");
}
