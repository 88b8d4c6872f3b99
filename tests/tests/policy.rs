//! What networks let in and out: gateway modes, internal networks, networks whose containers do
//! not talk, source addresses; with real clients.

use std::fs;

use netpath_tests::lab::{HOST4, HOST6, Lab, OUT4, OUT6, UPLINK, eventually};

/// A network with a web server: port 80 is published as `host_port`, port 81 is not.
struct Server<'a> {
    name: &'a str,
    number: u8,
    host_port: u16,
}

impl Server<'_> {
    fn address(&self, v6: bool) -> String {
        if v6 {
            format!("fd{}::2", self.number)
        } else {
            format!("10.{}.0.2", self.number)
        }
    }
}

fn create(lab: &Lab, name: &str, number: u8, options: &[&str]) {
    let subnets = [format!("10.{number}.0.0/24"), format!("fd{number}::/64")];
    let mut args = vec!["network", "create", name];
    args.extend(["--subnet", &subnets[0], "--subnet", &subnets[1]]);
    args.extend(options);
    lab.netpath(&args).ok();
}

fn serve(lab: &Lab, server: &Server<'_>, publish: bool) {
    let www = lab.dir().join("www");
    if !www.exists() {
        fs::create_dir(&www).unwrap();
        fs::write(www.join("hello"), "hello\n").unwrap();
    }
    let www = www.display().to_string();
    let command = format!(
        "busybox httpd -p '[::]:80' -h {www}; busybox httpd -p '[::]:81' -h {www}; \
         exec sleep 600"
    );
    let port = format!("{}:80", server.host_port);
    let mut options = vec!["--network", server.name];
    if publish {
        options.extend(["-p", &port]);
    }
    lab.run(server.name, &options, &["sh", "-c", &command]);
    eventually("the web server answers", || {
        let ran = lab.exec(server.name, &["curl", "-sm2", "http://127.0.0.1:81/hello"]);
        ran.stdout == "hello\n"
    });
}

fn url(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("http://[{host}]:{port}/hello")
    } else {
        format!("http://{host}:{port}/hello")
    }
}

/// Who tries to reach something.
#[derive(Clone, Copy, Debug)]
enum Client<'a> {
    Host,
    Outside,
    Far,
    Container(&'a str),
}

fn ran(lab: &Lab, client: Client<'_>, args: &[&str]) -> netpath_tests::lab::Ran {
    match client {
        Client::Host => lab.host(args),
        Client::Outside => lab.outside(args),
        Client::Far => lab.far(args),
        Client::Container(name) => lab.exec(name, args),
    }
}

/// Asserts that the client gets, or does not get, the page.
fn web(lab: &Lab, client: Client<'_>, host: &str, port: u16, expected: bool) {
    let url = url(host, port);
    let get = |time| {
        let args = ["curl", "-gs", "-m", time, &url];
        ran(lab, client, &args).stdout == "hello\n"
    };
    if expected {
        eventually(&format!("{client:?} gets {url}"), || get("3"));
    } else {
        assert!(!get("1"), "{client:?} gets {url}");
    }
}

/// Asserts that the client's ping is, or is not, answered.
fn ping(lab: &Lab, client: Client<'_>, host: &str, expected: bool) {
    let ping = |time| {
        let args = ["ping", "-c", "1", "-W", time, host];
        ran(lab, client, &args).code == Some(0)
    };
    if expected {
        eventually(&format!("{client:?} pings {host}"), || ping("3"));
    } else {
        assert!(!ping("1"), "{client:?} pings {host}");
    }
}

fn drops(lab: &Lab, reason: &str) -> u64 {
    let rows = lab.json(&["drops"]);
    let rows = rows.as_array().unwrap().iter();
    rows.filter(|row| row["reason"] == reason)
        .filter_map(|row| row["packets"].as_u64())
        .sum()
}

/// Networks in the three modes that have an outside, each with a server, and a client in a
/// network of its own; the outside machine has routes to all.
fn modes() -> (Lab, [Server<'static>; 3]) {
    let lab = Lab::new();
    let servers =
        [("nat", 81), ("routed", 82), ("nat-unprotected", 83)].map(|(name, number)| Server {
            name,
            number,
            host_port: 8000 + u16::from(number),
        });
    for server in &servers {
        let options = [4, 6].map(|family| format!("gateway_mode_ipv{family}={}", server.name));
        create(
            &lab,
            server.name,
            server.number,
            &["-o", &options[0], "-o", &options[1]],
        );
        serve(&lab, server, true);
        let number = server.number;
        let v4 = format!("10.{number}.0.0/24");
        let v6 = format!("fd{number}::/64");
        lab.outside(&["ip", "route", "add", &v4, "via", HOST4]).ok();
        lab.outside(&["ip", "route", "add", &v6, "via", HOST6]).ok();
    }
    create(&lab, "other", 89, &[]);
    lab.run("stranger", &["--network", "other"], &["sleep", "600"]);
    (lab, servers)
}

fn assert_matrix(lab: &Lab, servers: &[Server<'_>], client: Client<'_>) {
    for server in servers {
        let [reached, published, unpublished] = match server.name {
            "nat" => [false; 3],
            "routed" => [true, true, false],
            _ => [true; 3],
        };
        for v6 in [false, true] {
            let address = server.address(v6);
            ping(lab, client, &address, reached);
            web(lab, client, &address, 80, published);
            web(lab, client, &address, 81, unpublished);
        }
    }
}

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
        ping(&lab, Client::Host, &left, false);
        // Not even with a route of the host's own.
        let network = lab.json(&["network", "inspect", "pair"]);
        let device = network["device"].as_str().unwrap().to_owned();
        let route = ["ip", "route", "add", left.as_str(), "dev", &device];
        lab.host(&route).ok();
        let addresses = lab.host(&["ip", "-o", "addr", "show", "dev", &device]).ok();
        assert!(!addresses.contains("10.93.") && !addresses.contains("fd93:"));
    }
    let network = lab.json(&["network", "inspect", "pair"]);
    assert_eq!(network["gateways"].as_array().map(Vec::len), Some(0));
}

/// Starts servers outside that say whom they see, TCP and UDP, at ports 7000 to 7003.
fn mirrors(lab: &mut Lab) {
    let say = "SYSTEM:echo $SOCAT_PEERADDR";
    for (kind, port) in [("TCP4-LISTEN", 7000), ("TCP6-LISTEN", 7001)] {
        lab.serve_outside(&["socat", &format!("{kind}:{port},fork,reuseaddr"), say]);
    }
    for (kind, port) in [("UDP4-RECVFROM", 7002), ("UDP6-RECVFROM", 7003)] {
        lab.serve_outside(&["socat", &format!("{kind}:{port},fork"), say]);
    }
}

/// Asserts which source addresses the outside machine sees of a container.
fn assert_seen(lab: &Lab, container: &str, v4: &str, v6: &str) {
    let v6: std::net::Ipv6Addr = v6.parse().unwrap();
    let full: Vec<String> = v6.segments().iter().map(|s| format!("{s:04x}")).collect();
    let full = format!("[{}]", full.join(":"));
    for (target, expected) in [
        (format!("TCP4:{OUT4}:7000"), v4),
        (format!("TCP6:[{OUT6}]:7001"), &full),
        (format!("UDP4:{OUT4}:7002"), v4),
        (format!("UDP6:[{OUT6}]:7003"), &full),
    ] {
        let ask = format!("echo who | socat -t 2 - {target}");
        let mut answer = String::new();
        eventually(&format!("{container} hears from {target}"), || {
            answer = lab.exec(container, &["sh", "-c", &ask]).stdout;
            !answer.is_empty()
        });
        assert_eq!(answer.trim(), expected, "{container} at {target}");
    }
}

#[test]
fn without_masquerade_the_outside_sees_the_container() {
    let mut lab = Lab::new();
    mirrors(&mut lab);
    create(&lab, "plain", 94, &["-o", "masquerade=false"]);
    let routed = ["gateway_mode_ipv4=routed", "gateway_mode_ipv6=routed"];
    create(&lab, "routed", 95, &["-o", routed[0], "-o", routed[1]]);
    for (name, number) in [("plain", 94), ("routed", 95)] {
        lab.run(name, &["--network", name], &["sleep", "600"]);
        let (v4, v6) = (format!("10.{number}.0.0/24"), format!("fd{number}::/64"));
        lab.outside(&["ip", "route", "add", &v4, "via", HOST4]).ok();
        lab.outside(&["ip", "route", "add", &v6, "via", HOST6]).ok();
        let (v4, v6) = (format!("10.{number}.0.2"), format!("fd{number}::2"));
        assert_seen(&lab, name, &v4, &v6);
        for out in [OUT4, OUT6] {
            ping(&lab, Client::Container(name), out, true);
            // A closed port outside refuses it: errors come back, too.
            let url = url(out, 9);
            let refused = lab.exec(name, &["curl", "-gsm5", &url]);
            assert_eq!(refused.code, Some(7), "{refused:?}");
        }
    }
    // Nobody gets in that was not asked, in mode nat.
    ping(&lab, Client::Outside, "10.94.0.2", false);
    ping(&lab, Client::Outside, "fd94::2", false);
}

#[test]
fn the_outside_sees_the_chosen_source_address() {
    let mut lab = Lab::new();
    mirrors(&mut lab);
    for address in ["192.0.2.77/24", "2001:db8:1::77/64"] {
        lab.host(&["ip", "addr", "add", address, "dev", UPLINK, "nodad"])
            .ok();
    }
    let options = [
        "host_ipv4=192.0.2.77",
        "com.docker.network.host_ipv6=2001:db8:1::77",
    ];
    create(&lab, "chosen", 96, &["-o", options[0], "-o", options[1]]);
    create(&lab, "usual", 97, &[]);
    lab.run("chosen", &["--network", "chosen"], &["sleep", "600"]);
    lab.run("usual", &["--network", "usual"], &["sleep", "600"]);
    assert_seen(&lab, "chosen", "192.0.2.77", "2001:db8:1::77");
    assert_seen(&lab, "usual", HOST4, HOST6);
    ping(&lab, Client::Container("chosen"), OUT4, true);
    ping(&lab, Client::Container("chosen"), OUT6, true);
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

#[test]
fn ports_without_an_address_are_published_at_the_networks() {
    let lab = Lab::new();
    let option = format!("com.docker.network.bridge.host_binding_ipv4={HOST4}");
    create(&lab, "bound", 90, &["-o", &option]);
    let server = Server {
        name: "bound",
        number: 90,
        host_port: 8090,
    };
    serve(&lab, &server, true);
    web(&lab, Client::Outside, HOST4, 8090, true);
    web(&lab, Client::Outside, HOST6, 8090, false);
    web(&lab, Client::Host, "10.90.0.1", 8090, false);
    let port = lab.netpath(&["port", "bound"]).ok();
    assert_eq!(port, format!("80/tcp -> {HOST4}:8090\n"));
    // One that names an address has that.
    let run = ["run", "-d", "--network", "bound", "--name", "own"];
    let run = [&run[..], &["-p", "127.0.0.1:8089:80", "--", "sleep", "600"]].concat();
    lab.netpath(&run).ok();
    let port = lab.netpath(&["port", "own"]).ok();
    assert_eq!(port, "80/tcp -> 127.0.0.1:8089\n");
}

#[test]
fn the_policy_is_shown() {
    let lab = Lab::new();
    create(
        &lab,
        "net",
        88,
        &["--internal", "-o", "icc=false", "-o", "mtu=1400"],
    );
    create(&lab, "usual", 89, &[]);
    let network = lab.json(&["network", "inspect", "net"]);
    assert_eq!(network["mtu"], 1400);
    assert_eq!(network["policy"]["internal"], true);
    assert_eq!(network["policy"]["icc"], false);
    assert_eq!(network["policy"]["gateway_mode_ipv4"], "nat");
    let list = lab.netpath(&["network", "ls"]).ok();
    assert!(list.contains("internal, icc off"), "{list}");
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let lab = Lab::new();
    let before = lab.json(&["network", "ls"]);
    let v4 = ["network", "create", "n", "--subnet", "10.99.0.0/24"];
    for (args, part) in [
        (&["-o", "color=blue"][..], "option color is unknown"),
        (&["-o", "icc=perhaps"], "icc=perhaps"),
        (&["-o", "icc=true", "-o", "icc=false"], "given twice"),
        (&["-o", "gateway_mode_ipv4=bridge"], "nat-unprotected"),
        (&["-o", "gateway_mode_ipv4=isolated"], "--internal"),
        (
            &["--internal", "-o", "gateway_mode_ipv4=routed"],
            "--internal",
        ),
        (&["-o", "gateway_mode_ipv6=routed"], "IPv6"),
        (&["-o", "host_ipv4=fd00::1"], "host_ipv4=fd00::1"),
        (&["-o", "host_ipv4=everything"], "host_ipv4=everything"),
        (&["-o", "host_ipv6=fd00::1"], "host_ipv6"),
        (&["-o", "host_binding_ipv4=here"], "host_binding_ipv4=here"),
        (&["-o", "trusted_host_interfaces=a/b"], "a/b"),
        (&["-o", "mtu=many"], "mtu=many"),
        (&["-o", "mtu=1400", "--mtu", "1300"], "contradict"),
        (&["--opt", "icc"], "KEY=VALUE"),
        (
            &[
                "--internal",
                "-o",
                "gateway_mode_ipv4=isolated",
                "--gateway",
                "10.99.0.1",
            ],
            "10.99.0.1 cannot be had",
        ),
    ] {
        let error = lab.netpath(&[&v4, args].concat()).refused();
        assert!(error.contains(part), "{args:?}: {error}");
    }
    let small = [
        "network",
        "create",
        "n",
        "--internal",
        "--subnet",
        "10.99.0.0/31",
    ];
    let error = lab.netpath(&small).refused();
    assert!(error.contains("10.99.0.0/31 is too small"), "{error}");
    assert_eq!(lab.json(&["network", "ls"]), before);
}
