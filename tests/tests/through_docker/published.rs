//! Published ports: the scenarios of group C.

use std::io;
use std::net::UdpSocket;
use std::time::Duration;

use netpath_tests::docker::IMAGE;
use netpath_tests::inside::{self, ask_tcp};
use netpath_tests::lab::{HOST4, Lab, OUT4, eventually};

use super::{Mode, Site, at_last};

/// One more address of the host.
const SECOND: &str = "192.0.2.9";
const NET: &str = "10.77.0";
const OTHER: &str = "10.78.0";

/// A host with strict reverse path filtering, two addresses and two networks.
fn site(mode: Mode) -> Site {
    let lab = Lab::new();
    let address = format!("{SECOND}/24");
    lab.host(&["ip", "addr", "add", &address, "dev", "uplink0"])
        .ok();
    for which in ["all", "default"] {
        let setting = format!("net.ipv4.conf.{which}.rp_filter=1");
        lab.host(&["sysctl", "-qw", &setting]).ok();
    }
    let site = Site::on(mode, lab);
    for (name, prefix) in [("net", NET), ("other", OTHER)] {
        site.network(name, &["--subnet", &format!("{prefix}.0/24")]);
    }
    site
}

#[test]
fn ports_of_the_driver_are_reached_by_everybody() {
    everybody(Mode::Plugin);
}

#[test]
fn ports_of_adopted_networks_are_reached_by_everybody() {
    everybody(Mode::Adopted);
}

fn everybody(mode: Mode) {
    let site = site(mode);
    let ports = [
        "-p",
        "8080:80",
        "-p",
        "8080:80/udp",
        "-p",
        "127.0.0.1:8081:80",
        "-p",
        "127.0.0.1:8081:80/udp",
        "-p",
        "192.0.2.1:8082:80",
        "-p",
        "192.0.2.1:8082:80/udp",
        "-p",
        "9000-9009:9000-9009",
        "-p",
        "9000-9009:9000-9009/udp",
    ];
    site.container("web", "net", &ports);
    site.container("near", "net", &[]);
    site.container("far", "other", &[]);
    site.serve("web", (9000..9010).chain([80]));
    let (outside, host) = (site.lab.outside_netns(), site.lab.host_netns());

    // From outside, which the server sees as it is; each port leads to its own, and answers come
    // from the address that was asked.
    let flows = site.new_flows();
    let seen = format!("web 80 {OUT4}");
    assert_eq!(ask_tcp(&outside, HOST4, 8080).expect("an answer"), seen);
    assert_eq!(
        inside::ask_udp(&outside, SECOND, 8080).expect("an answer"),
        seen
    );
    assert_eq!(site.new_flows(), flows + 2, "somebody else did it");
    for port in 9000..9010 {
        let answer = Site::ask_from(&outside, HOST4, port);
        assert_eq!(answer, format!("web {port}"));
    }
    assert_eq!(Site::ask_from(&outside, HOST4, 8082), "web 80");
    for (address, port) in [(HOST4, 8081), (SECOND, 8082), (HOST4, 9010)] {
        assert_eq!(
            Site::ask_from(&outside, address, port),
            "",
            "{address} {port}"
        );
    }
    // From the host.
    for (address, port) in [
        ("127.0.0.1", 8080),
        (HOST4, 8080),
        (SECOND, 8080),
        ("127.0.0.1", 8081),
        (HOST4, 8082),
    ] {
        assert_eq!(
            Site::ask_from(&host, address, port),
            "web 80",
            "{address} {port}"
        );
    }
    for (address, port) in [(HOST4, 8081), ("127.0.0.1", 8082)] {
        assert_eq!(Site::ask_from(&host, address, port), "", "{address} {port}");
    }
    // From the container itself, a neighbour, another network; by other gateways, too.
    for client in ["web", "near", "far"] {
        for address in [HOST4, SECOND, &format!("{NET}.1"), &format!("{OTHER}.1")] {
            assert_eq!(
                site.ask(client, address, 8080),
                "web 80",
                "{client} {address}"
            );
        }
    }

    // In a second network as well, by which its neighbours there are answered, with the address
    // that they asked. (A UDP server would have to see to that itself.)
    site.docker
        .run(&["network", "connect", "other", "web"])
        .ok();
    site.has_interfaces(1);
    for client in ["near", "far"] {
        let netns = site.docker.netns_of(client);
        for address in [HOST4, &format!("{NET}.1"), &format!("{OTHER}.1")] {
            at_last(&format!("{client} reaches {address}"), || {
                ask_tcp(&netns, address, 8080).is_ok_and(|said| said.starts_with("web 80"))
            });
        }
    }
    assert_eq!(Site::ask_from(&outside, HOST4, 8080), "web 80");
    assert_eq!(Site::ask_from(&host, "127.0.0.1", 8080), "web 80");
    // Without the first network, its ports are the second's.
    site.docker
        .run(&["network", "disconnect", "net", "web"])
        .ok();
    site.has_interfaces(-1);
    for (netns, address) in [(&outside, HOST4), (&host, "127.0.0.1")] {
        at_last("ports move", || {
            Site::ask_from(netns, address, 8080) == "web 80"
        });
    }
    site.remove("web");
    for netns in [&outside, &host] {
        let refused = ask_tcp(netns, HOST4, 8080).expect_err("nobody is there");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
    let ports = site.lab.json(&["ports"]);
    assert_eq!(ports.as_array().map(Vec::len), Some(0), "{ports}");
}

#[test]
fn containers_are_not_reached_by_their_own_addresses() {
    let site = site(Mode::Plugin);
    assert_eq!(direct(&site), (false, false, false));
    assert_eq!(by_loopback(&site, HERE), [false; 2]);
    assert_eq!(by_loopback(&site, HERE_UDP), [false; 2]);
}

#[test]
fn adopted_containers_are_reached_by_their_own_addresses_as_before() {
    let site = site(Mode::Adopted);
    let adopted = (direct(&site), by_loopback(&site, HERE));
    site.lab.netpath(&["adopt", "--release"]).ok();
    // Docker before 28 does answer what is sent to its ports of 127.0.0.1 from outside.
    assert_eq!((direct(&site), by_loopback(&site, HERE)), adopted);
}

type Ask = fn(&str, &str, u16) -> inside::Answer;
/// Ports of 127.0.0.1, and how they are asked.
const HERE: (u16, Ask) = (8096, ask_tcp);
const HERE_UDP: (u16, Ask) = (8096, inside::ask_udp);
/// Where the host serves itself.
const OWN: u16 = 8097;

/// Whether a machine outside that sends what is for 127.0.0.1 to the host reaches a port that is
/// published there: on a usual host, and on one that takes such packets from its uplink.
fn by_loopback(site: &Site, (port, ask): (u16, Ask)) -> [bool; 2] {
    let (host, outside) = (site.lab.host_netns(), site.lab.outside_netns());
    let said = ask(&host, "127.0.0.1", port).expect("the host itself reaches it");
    assert!(said.starts_with("web 80"), "{said}");
    // The machine outside has no 127.0.0.1 of its own, and a way there.
    let script = "ip addr del 127.0.0.1/8 dev lo; sysctl -qw net.ipv4.conf.all.route_localnet=1; \
                  ip route replace 127.0.0.0/8 via 192.0.2.1 src 192.0.2.2";
    site.lab.outside(&["sh", "-c", script]).ok();
    let takes = |answer: u8| {
        let setting = format!("net.ipv4.conf.uplink0.route_localnet={answer}");
        site.lab.host(&["sysctl", "-qw", &setting]).ok();
    };
    let usual = ask(&outside, "127.0.0.1", port).is_ok();
    takes(1);
    // They do arrive: the host's own servers answer.
    let arrives = ask_tcp(&outside, "127.0.0.1", OWN).expect("an answer");
    assert!(arrives.starts_with("host"), "{arrives}");
    let reached = ask(&outside, "127.0.0.1", port).is_ok();
    takes(0);
    [usual, reached]
}

/// Whether a machine outside with a route reaches a published port, another one and the container
/// itself by its address.
fn direct(site: &Site) -> (bool, bool, bool) {
    let there = site.docker.run(&["inspect", "web"]).code == Some(0);
    if !there {
        let ports = ["8080:80", "127.0.0.1:8096:80", "127.0.0.1:8096:80/udp"];
        let ports: Vec<&str> = ports.iter().flat_map(|port| ["-p", *port]).collect();
        site.container("web", "net", &ports);
        site.serve("web", [80, 81]);
        inside::serve(&site.lab.host_netns(), "host", [OWN]);
        let route = ["ip", "route", "add", "10.77.0.0/24", "via", HOST4];
        site.lab.outside(&route).ok();
    }
    let (address, outside) = (site.docker.address("web", "net"), site.lab.outside_netns());
    let reached = |port| ask_tcp(&outside, &address, port).is_ok();
    let ping = ["ping", "-c1", "-W1", &address];
    (
        reached(80),
        reached(81),
        site.lab.outside(&ping).code == Some(0),
    )
}

#[test]
fn ports_of_the_driver_come_and_go() {
    come_and_go(Mode::Plugin);
}

#[test]
fn ports_of_adopted_networks_come_and_go() {
    come_and_go(Mode::Adopted);
}

fn come_and_go(mode: Mode) {
    let mut site = site(mode);
    let listener = site
        .lab
        .host_command(&["socat", "TCP4-LISTEN:8090,fork", "EXEC:cat"]);
    site.lab.spawn(listener);
    let outside = site.lab.outside_netns();
    eventually("the host's own server listens", || {
        inside::inside(&outside, || {
            std::net::TcpStream::connect((HOST4, 8090)).is_ok()
        })
    });
    // A range is used up; who comes too late, and who wants what the host has or has not, is told.
    for name in ["first", "second"] {
        site.container(name, "net", &["-p", "9100-9101:80"]);
        site.serve(name, [80]);
    }
    for (nth, name) in ["first", "second"].iter().enumerate() {
        let port = 9100 + u16::try_from(nth).expect("a port");
        assert!(
            Site::ask_from(&outside, HOST4, port).contains(name),
            "{port}"
        );
    }
    for (publish, parts) in [
        // Docker's own words are "all ports are allocated".
        ("9100-9101:80", ["9100-9101", "all ports"]),
        ("8090:80", ["8090"; 2]),
        ("203.0.113.1:8091:80", ["203.0.113.1"; 2]),
        ("192.0.2.1:9100:80", ["9100"; 2]),
        ("8000-8002:80-90", ["range", "Range"]),
    ] {
        let run = [
            "run",
            "-d",
            "--name",
            "late",
            "--network",
            "net",
            "-p",
            publish,
        ];
        let refused = site
            .docker
            .run(&[&run[..], &[IMAGE, "sleep", "600"]].concat());
        assert_ne!(refused.code, Some(0), "{publish}");
        let named = |part: &&str| refused.stderr.contains(*part);
        assert!(parts.iter().any(named), "{publish}: {refused:?}");
        site.docker.run(&["rm", "-f", "late"]);
    }
    // Two loopback addresses are two.
    for (name, address) in [("one", "127.0.0.1"), ("two", "127.0.0.2")] {
        site.container(name, "net", &["-p", &format!("{address}:8095:80")]);
        site.serve(name, [80]);
        let answer = ask_tcp(&site.lab.host_netns(), address, 8095).expect("an answer");
        assert!(answer.starts_with(name), "{answer}");
    }
    // Published ports are really held.
    let taken = site
        .lab
        .host(&["timeout", "2", "socat", "TCP4-LISTEN:9100", "-"]);
    assert!(taken.stderr.contains("Address already in use"), "{taken:?}");
    let own = ["run", "-p", "9100:80", "--", "true"];
    assert!(site.lab.netpath(&own).refused().contains("9100"));
    // Ephemeral ones are the kernel's.
    site.container("any", "net", &["-p", "80", "-p", "81"]);
    site.serve("any", [80, 81]);
    let rows = site.lab.json(&["ports"]);
    let address = site.docker.address("any", "net");
    let own = |row: &&serde_json::Value| {
        let to = row["container"].as_str();
        to.is_some_and(|to| to.starts_with(&format!("{address}:")))
    };
    let host = |row: &serde_json::Value| row["host"].as_str()?.rsplit_once(':')?.1.parse().ok();
    let rows = rows.as_array().expect("rows");
    let mut ports: Vec<u16> = rows.iter().filter(own).filter_map(host).collect();
    ports.sort_unstable();
    ports.dedup();
    assert!(
        ports.len() >= 2 && ports.iter().all(|port| (32_768..61_000).contains(port)),
        "{rows:?}"
    );
    for port in ports {
        assert!(
            Site::ask_from(&outside, HOST4, port).contains("any"),
            "{port}"
        );
    }
    // A client that never stops sending reaches whoever has the port, and is told again and again.
    let stream = || -> io::Result<String> {
        inside::inside(&outside, || {
            let socket = UdpSocket::bind(("0.0.0.0", 4444))?;
            socket.connect((HOST4, 6000))?;
            socket.set_read_timeout(Some(Duration::from_millis(300)))?;
            socket.send(b"who?")?;
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer)?;
            Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
        })
    };
    for name in ["red", "green", "blue"] {
        site.container(name, "net", &["-p", "6000:80/udp", "-p", "6001:80"]);
        site.serve(name, [80]);
        eventually(name, || stream().is_ok_and(|said| said.starts_with(name)));
        let answer = ask_tcp(&outside, HOST4, 6001).expect("an answer");
        assert!(answer.starts_with(name), "{answer}");
        site.remove(name);
        assert!(stream().is_err());
    }
}
