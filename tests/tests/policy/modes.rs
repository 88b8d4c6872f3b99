//! Gateway modes: who reaches a container by its own address.

use netpath_tests::lab::{HOST4, HOST6, Lab, eventually};

use crate::{Client, Server, assert_matrix, create, drops, modes, ping, ran, serve, web};

#[test]
fn from_outside_each_mode_is_as_open_as_it_says() {
    let (lab, servers) = modes();
    assert_matrix(&lab, &servers, Client::Outside);
    // By the host's address: published ports, but in mode routed nothing of the host is taken.
    for server in &servers {
        for host in [HOST4, HOST6] {
            let there = server.name != "routed";
            web(&lab, Client::Outside, host, server.host_port, there);
            web(&lab, Client::Host, host, server.host_port, there);
        }
    }
    let routed = lab.json(&["inspect", "routed"]);
    assert_eq!(
        routed["ports"].as_array().map(Vec::len),
        Some(0),
        "{routed}"
    );
    assert_eq!(
        routed["opened"].as_array().map(Vec::len),
        Some(2),
        "{routed}"
    );
    let ps = lab.netpath(&["ps"]).ok();
    assert!(ps.contains(" 80/tcp "), "{ps}");
    let port = lab.netpath(&["port", "routed"]).ok();
    assert_eq!(port, "80/tcp -> 10.82.0.2:80\n80/tcp -> [fd82::2]:80\n");
    // The host itself is no stranger anywhere.
    for server in &servers {
        web(&lab, Client::Host, &server.address(false), 81, true);
        web(&lab, Client::Host, &server.address(true), 81, true);
    }
    assert!(drops(&lab, "direct_routing") > 0 && drops(&lab, "not_published") > 0);
}

#[test]
fn from_another_network_each_mode_is_as_open_as_it_says() {
    let (mut lab, servers) = modes();
    assert_matrix(&lab, &servers, Client::Container("stranger"));
    // The other way round: who is reached by everybody reaches nobody for that.
    for v6 in [false, true] {
        let address = servers[0].address(v6);
        for client in ["routed", "nat-unprotected"] {
            let client = Client::Container(client);
            ping(&lab, client, &address, false);
            web(&lab, client, &address, 80, false);
        }
    }
    // By the host's addresses they all meet.
    for host in [HOST4, HOST6, "10.81.0.1", "fd81::1"] {
        web(&lab, Client::Container("routed"), host, 8081, true);
    }
    // The next agent finds it all in force, and leaves it so.
    lab.kill_agent();
    web(&lab, Client::Outside, &servers[1].address(false), 80, true);
    lab.start_agent();
    for v6 in [false, true] {
        let address = servers[1].address(v6);
        web(&lab, Client::Outside, &address, 80, true);
        web(&lab, Client::Outside, &address, 81, false);
    }
}

/// A machine beside the host, on a link that is no uplink of the agent: 203.0.113.2 and
/// 2001:db8:5::2, with routes to the servers by the host's 203.0.113.1 and 2001:db8:5::1.
fn add_side_machine(lab: &mut Lab, servers: &[Server<'_>]) {
    let far = lab.add_far_machine("198.51.100", "2001:db8:2:", 1500);
    let link = [
        "ip", "link", "add", "side0", "type", "veth", "peer", "name", "side0",
    ];
    lab.host(&[&link[..], &["netns", &far]].concat()).ok();
    for (client, end) in [(Client::Host, 1), (Client::Far, 2)] {
        let (v4, v6) = (
            format!("203.0.113.{end}/24"),
            format!("2001:db8:5::{end}/64"),
        );
        ran(lab, client, &["ip", "addr", "add", &v4, "dev", "side0"]).ok();
        ran(
            lab,
            client,
            &["ip", "addr", "add", &v6, "dev", "side0", "nodad"],
        )
        .ok();
        ran(lab, client, &["ip", "link", "set", "side0", "up"]).ok();
    }
    for server in servers {
        let number = server.number;
        let (v4, v6) = (format!("10.{number}.0.0/24"), format!("fd{number}::/64"));
        lab.far(&["ip", "route", "add", &v4, "via", "203.0.113.1"])
            .ok();
        lab.far(&["ip", "route", "add", &v6, "via", "2001:db8:5::1"])
            .ok();
    }
    // The host is a router there, by its administrator's will.
    let forward = [
        "sysctl",
        "-qw",
        "net.ipv4.ip_forward=1",
        "net.ipv6.conf.all.forwarding=1",
    ];
    lab.host(&forward).ok();
}

#[test]
fn by_a_device_that_is_no_uplink_the_modes_are_the_same() {
    let (mut lab, servers) = modes();
    add_side_machine(&mut lab, &servers);
    assert_matrix(&lab, &servers, Client::Far);
    // And containers with their own address find their way there.
    lab.serve_far(&["busybox", "httpd", "-f", "-p", "[::]:8000", "-h", "/etc"]);
    for there in ["203.0.113.2", "2001:db8:5::2"] {
        ping(&lab, Client::Container("routed"), there, true);
        let url = if there.contains(':') {
            format!("http://[{there}]:8000/hostname")
        } else {
            format!("http://{there}:8000/hostname")
        };
        eventually(&url, || {
            lab.exec("routed", &["curl", "-gsm3", &url]).code == Some(0)
        });
        // A masqueraded one would need an address there.
        ping(&lab, Client::Container("nat"), there, false);
    }
}

#[test]
fn trusted_interfaces_reach_published_ports_only() {
    let mut lab = Lab::new();
    let servers = ["trusting", "plain"].map(|name| Server {
        name,
        number: if name == "plain" { 99 } else { 98 },
        host_port: if name == "plain" { 8099 } else { 8098 },
    });
    // The interface comes later.
    let option = "com.docker.network.bridge.trusted_host_interfaces=side0:side1";
    create(&lab, "trusting", 98, &["-o", option]);
    create(&lab, "plain", 99, &[]);
    for server in &servers {
        serve(&lab, server, true);
    }
    add_side_machine(&mut lab, &servers);
    lab.outside(&["ip", "route", "add", "10.98.0.0/24", "via", HOST4])
        .ok();
    for v6 in [false, true] {
        let address = servers[0].address(v6);
        web(&lab, Client::Far, &address, 80, true);
        web(&lab, Client::Far, &address, 81, false);
        ping(&lab, Client::Far, &address, false);
        web(&lab, Client::Far, &servers[1].address(v6), 80, false);
    }
    // A port for the host alone is not theirs.
    let options = ["--network", "trusting", "-p", "127.0.0.1:8097:80"];
    let httpd = ["busybox", "httpd", "-f", "-p", "80", "-h", "/etc"];
    lab.run("own", &options, &httpd);
    let own = lab.address("own", false);
    let get = |client, host: &str| {
        let url = format!("http://{host}/hostname");
        ran(&lab, client, &["curl", "-sm1", &url]).code == Some(0)
    };
    eventually("the host gets it", || get(Client::Host, "127.0.0.1:8097"));
    assert!(!get(Client::Far, &own));
    // The uplink is another interface.
    web(&lab, Client::Outside, "10.98.0.2", 80, false);
    // Trust goes with the interface.
    lab.host(&["ip", "link", "del", "side0"]).ok();
    eventually("the interface is forgotten", || {
        let path = lab.bpffs().join("trusted").display().to_string();
        let map = lab.host(&["bpftool", "-j", "map", "dump", "pinned", &path]);
        map.ok().trim() == "[]"
    });
}
