//! The way out, and what must not get in its way.

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use netpath_tests::inside::{ask_tcp, ask_udp, inside, serve};
use netpath_tests::lab::{HOST4, HOST6, Lab, OUT4, OUT6, UPLINK};

fn network(lab: &Lab, name: &str, options: &[&str]) {
    let create = ["network", "create", name];
    lab.netpath(&[&create[..], options].concat()).ok();
}

const BOTH: [&str; 4] = ["--subnet", "10.88.0.0/24", "--subnet", "fd88::/64"];

/// The MTU of a container's interface.
fn mtu(lab: &Lab, container: &str) -> u64 {
    let text = lab
        .exec(container, &["ip", "-j", "link", "show", "eth0"])
        .ok();
    let links: serde_json::Value = serde_json::from_str(&text).unwrap();
    links[0]["mtu"].as_u64().unwrap()
}

#[test]
fn networks_take_the_mtu_of_the_uplink() {
    for (uplink, smaller) in [("9000", "1450"), ("1450", "1400")] {
        let mut lab = Lab::without_agent();
        lab.host(&["ip", "link", "set", UPLINK, "mtu", uplink]).ok();
        lab.outside(&["ip", "link", "set", "eth0", "mtu", uplink])
            .ok();
        lab.start_agent();
        network(&lab, "net", &BOTH);
        network(
            &lab,
            "small",
            &["--subnet", "10.89.0.0/24", "--mtu", smaller],
        );
        lab.run("box", &["--network", "net"], &["sleep", "600"]);
        lab.run("smallbox", &["--network", "small"], &["sleep", "600"]);
        assert_eq!(mtu(&lab, "box").to_string(), uplink);
        assert_eq!(mtu(&lab, "smallbox").to_string(), smaller);
        let payload = (uplink.parse::<u32>().unwrap() - 28).to_string();
        let ping = [
            "ping", "-c", "1", "-W", "2", "-M", "do", "-s", &payload, OUT4,
        ];
        lab.exec("box", &ping).ok();
    }
}

#[test]
fn a_thousand_flows_to_one_server_do_not_mix() {
    const CONTAINERS: usize = 10;
    const SOCKETS: usize = 100;
    let lab = Lab::new();
    network(&lab, "net", &BOTH);
    let names: Vec<String> = (0..CONTAINERS).map(|nth| format!("c{nth}")).collect();
    for name in &names {
        lab.run(name, &["--network", "net"], &["sleep", "600"]);
    }
    for (server, any, first_port) in [(OUT4, "0.0.0.0", 20_000), (OUT6, "::", 21_000)] {
        let echo = inside(&lab.outside_netns(), || {
            UdpSocket::bind((server, 7)).unwrap()
        });
        let echoing = thread::spawn(move || {
            let mut clients = HashSet::new();
            let mut buffer = [0; 64];
            while let Ok((length, client)) = echo.recv_from(&mut buffer) {
                if &buffer[..length] == b"end" {
                    break;
                }
                clients.insert(client);
                let _ = echo.send_to(&buffer[..length], client);
            }
            clients
        });
        let mut sockets = Vec::new();
        for name in &names {
            // Who waits for a neighbour may lose datagrams.
            lab.exec(name, &["ping", "-c", "1", "-W", "2", server]).ok();
            inside(&lab.namespace_of(name), || {
                for nth in 0..SOCKETS {
                    // The same source ports in all containers.
                    let port = first_port + u16::try_from(nth).unwrap();
                    let socket = UdpSocket::bind((any, port)).unwrap();
                    socket.connect((server, 7)).unwrap();
                    socket
                        .set_read_timeout(Some(Duration::from_millis(500)))
                        .unwrap();
                    sockets.push((format!("{name} {nth}"), socket));
                }
            });
        }
        // In the second round all of them are open at once.
        for _ in 0..2 {
            for (text, socket) in &sockets {
                let mut buffer = [0; 64];
                let answer = (0..5).find_map(|_| {
                    socket.send(text.as_bytes()).unwrap();
                    socket.recv(&mut buffer).ok()
                });
                let length = answer.unwrap_or_else(|| panic!("{text} is not answered"));
                assert_eq!(&buffer[..length], text.as_bytes(), "somebody else's answer");
            }
        }
        inside(&lab.outside_netns(), || {
            UdpSocket::bind((any, 0))
                .unwrap()
                .send_to(b"end", (server, 7))
                .unwrap();
        });
        let clients = echoing.join().unwrap();
        assert_eq!(
            clients.len(),
            CONTAINERS * SOCKETS,
            "one port each, as the server sees them"
        );
    }
}

/// One connection each way, kept open: container to outside, outside to container.
fn long_connections(lab: &Lab) -> Vec<(TcpStream, TcpStream)> {
    let mut connections = Vec::new();
    for (out, host) in [(OUT4, HOST4), (OUT6, HOST6)] {
        for (server, client, at, dialled) in [
            (
                lab.outside_netns(),
                lab.namespace_of("web"),
                7000,
                (out, 7000),
            ),
            (
                lab.namespace_of("web"),
                lab.outside_netns(),
                80,
                (host, 8080),
            ),
        ] {
            let any = if out.contains(':') { "::" } else { "0.0.0.0" };
            let listener = inside(&server, || TcpListener::bind((any, at)).unwrap());
            let near = inside(&client, || TcpStream::connect(dialled).unwrap());
            let (far, _) = listener.accept().unwrap();
            for stream in [&near, &far] {
                stream
                    .set_read_timeout(Some(Duration::from_secs(10)))
                    .unwrap();
            }
            connections.push((near, far));
        }
    }
    connections
}

#[track_caller]
fn still_talk(connections: &mut [(TcpStream, TcpStream)]) {
    for (near, far) in connections {
        let mut buffer = [0; 4];
        near.write_all(b"ping").unwrap();
        far.read_exact(&mut buffer).unwrap();
        far.write_all(b"pong").unwrap();
        near.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"pong");
    }
}

#[test]
fn firewall_rules_and_their_removal_change_nothing() {
    let lab = Lab::new();
    network(&lab, "net", &BOTH);
    let publish = [
        "--network",
        "net",
        "-p",
        "8080:80",
        "-p",
        "8081:81",
        "-p",
        "8081:81/udp",
    ];
    lab.run("web", &publish, &["sleep", "600"]);
    lab.run("other", &["--network", "net"], &["sleep", "600"]);
    serve(&lab.namespace_of("web"), "web", [81]);
    serve(&lab.outside_netns(), "out", [9000]);
    let mut connections = long_connections(&lab);
    let new_ones = |when: &str| {
        let (outside, web) = (lab.outside_netns(), lab.namespace_of("web"));
        let mut asked = 0;
        for ask in [ask_tcp, ask_udp] {
            for (netns, address, port) in [
                (&outside, HOST4, 8081),
                (&outside, HOST6, 8081),
                (&web, OUT4, 9000),
                (&web, OUT6, 9000),
            ] {
                if let Err(error) = ask(netns, address, port) {
                    panic!("{when}: {address} {port} from {netns}: {error}");
                }
                asked += 1;
            }
        }
        let neighbour = lab.address("web", false);
        ask_tcp(&lab.namespace_of("other"), &neighbour, 81).unwrap();
        assert_eq!(asked, 8);
    };
    new_ones("before");
    still_talk(&mut connections);
    // What Docker and firewalls leave behind: nothing may be forwarded, published ports least.
    for iptables in ["iptables", "ip6tables"] {
        for rule in [
            &["-P", "FORWARD", "DROP"][..],
            &["-A", "FORWARD", "-j", "DROP"],
            &["-t", "nat", "-A", "POSTROUTING", "-j", "MASQUERADE"],
            &[
                "-t",
                "nat",
                "-A",
                "PREROUTING",
                "-p",
                "tcp",
                "--dport",
                "8081",
                "-j",
                "REDIRECT",
                "--to-ports",
                "9",
            ],
        ] {
            lab.host(&[&[iptables, "-w"], rule].concat()).ok();
        }
    }
    lab.host(&["nft", "add table inet strict; add chain inet strict f { type filter hook forward priority 0; policy drop; }"]).ok();
    new_ones("with rules");
    still_talk(&mut connections);
    lab.host(&["iptables", "-F"]).ok();
    lab.host(&["ip6tables", "-F"]).ok();
    lab.host(&["nft", "flush", "ruleset"]).ok();
    new_ones("after the flush");
    still_talk(&mut connections);
}

#[test]
fn an_address_that_changes_hands_is_reached_at_once() {
    let lab = Lab::new();
    network(&lab, "net", &BOTH);
    lab.run("peer", &["--network", "net"], &["sleep", "600"]);
    let options = [
        "--network",
        "net",
        "--ip",
        "10.88.0.50",
        "--ip6",
        "fd88::50",
    ];
    let mac = |name: &str| {
        lab.json(&["inspect", name])["networks"][0]["mac"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let mut macs = HashSet::new();
    for round in 0..3 {
        let name = format!("c{round}");
        lab.run(&name, &options, &["sleep", "600"]);
        assert!(macs.insert(mac(&name)), "a new MAC address");
        for (address, old) in [("10.88.0.50", "-4"), ("fd88::50", "-6")] {
            let ping = ["ping", "-c", "1", "-W", "1", address];
            let ran = lab.exec("peer", &ping);
            let known = lab
                .exec("peer", &["ip", old, "neigh", "show", address])
                .stdout;
            assert_eq!(ran.code, Some(0), "round {round}, {address}: {known}");
            assert!(known.contains(&mac(&name)), "{known}");
        }
        lab.netpath(&["rm", "-f", &name]).ok();
    }
}
