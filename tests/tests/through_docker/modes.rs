//! What options of networks let in and out.

use std::collections::BTreeMap;
use std::process::Command;
use std::thread;

use netpath_tests::inside::{self, ask_tcp};
use netpath_tests::lab::{HOST4, OUT4, eventually, run};

use super::{Mode, Site};

const MODE: &str = "com.docker.network.bridge.gateway_mode_ipv4";
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade=false";
const MTU: &str = "com.docker.network.driver.mtu";

/// Who reaches which server by its own address: at its published port, at another port, and by
/// ping.
type Reached = BTreeMap<(String, &'static str), [bool; 3]>;

/// Makes a network with a server in it for each name and options, and a way there for the machine
/// outside.
fn with_servers(site: &Site, servers: &[(&'static str, &[&str])]) {
    for (nth, (name, options)) in servers.iter().enumerate() {
        let subnet = format!("10.{}.0.0/24", 81 + nth);
        site.network(name, &[*options, &["--subnet", &subnet]].concat());
        site.container(name, name, &["-p", &format!("{}:80", 8081 + nth)]);
        site.serve(name, [80, 81]);
        let route = ["ip", "route", "add", &subnet, "via", HOST4];
        site.lab.outside(&route).ok();
    }
}

/// Asks every server from the host, from outside and from every other network.
fn reached(site: &Site, servers: &[(&'static str, &[&str])]) -> Reached {
    let names = || servers.iter().map(|(name, _)| *name);
    let mut clients: Vec<(&str, String)> = names()
        .map(|name| (name, site.docker.netns_of(name)))
        .collect();
    clients.push(("outside", site.lab.outside_netns()));
    clients.push(("host", site.lab.host_netns()));
    thread::scope(|scope| {
        let mut asking = Vec::new();
        for server in names() {
            let address = site.docker.address(server, server);
            for (client, netns) in clients.iter().filter(|(client, _)| *client != server) {
                let address = address.clone();
                let asks = scope.spawn(move || {
                    let mut ping = Command::new("nsenter");
                    ping.arg(format!("--net={netns}"))
                        .args(["ping", "-c1", "-W2", &address]);
                    let web = |port| ask_tcp(netns, &address, port).is_ok();
                    [web(80), web(81), run(ping).code == Some(0)]
                });
                asking.push((((*client).to_owned(), server), asks));
            }
        }
        let answers = asking.into_iter();
        answers
            .map(|(who, asks)| (who, asks.join().expect("an answer")))
            .collect()
    })
}

#[test]
fn networks_of_the_driver_are_as_open_as_their_modes() {
    let site = Site::new(Mode::Plugin);
    let (routed, open) = (format!("{MODE}=routed"), format!("{MODE}=nat-unprotected"));
    let servers: [(&'static str, &[&str]); 3] = [
        ("nat", &[]),
        ("routed", &["-o", &routed]),
        ("open", &["-o", &open]),
    ];
    with_servers(&site, &servers);
    for ((client, server), reached) in reached(&site, &servers) {
        let wanted = match (client.as_str(), server) {
            ("host", _) | (_, "open") => [true; 3],
            (_, "routed") => [true, false, true],
            _ => [false; 3],
        };
        assert_eq!(reached, wanted, "{server} from {client}");
    }
    // By the host's addresses all meet, but there is no port of the host in mode routed.
    for (port, server) in [(8081, "nat 80"), (8082, ""), (8083, "open 80")] {
        let answer = ask_tcp(&site.docker.netns_of("routed"), HOST4, port).unwrap_or_default();
        assert!(answer.starts_with(server), "{port}: {answer}");
        assert_eq!(answer.is_empty(), server.is_empty(), "{port}: {answer}");
    }
    isolated(&site);
    narrow(&site);
}

#[test]
fn adopted_networks_are_as_open_as_dockers() {
    let site = Site::new(Mode::Adopted);
    // Docker before 27 has no modes, and makes nothing of the option; nor do we.
    let mode = format!("{MODE}=routed");
    let servers: [(&'static str, &[&str]); 3] = [
        ("nat", &[]),
        ("mode", &["-o", &mode]),
        ("own", &["-o", MASQUERADE]),
    ];
    with_servers(&site, &servers);
    let adopted = reached(&site, &servers);
    site.lab.netpath(&["adopt", "--release"]).ok();
    assert_eq!(reached(&site, &servers), adopted);
    for server in ["nat", "mode", "own"] {
        assert_eq!(adopted[&("host".to_owned(), server)], [true; 3]);
    }
    site.adopt();
    narrow(&site);
    too_wide(&site);
}

/// Containers without the host.
fn isolated(site: &Site) {
    let mode = format!("{MODE}=isolated");
    let options = ["--internal", "-o", &mode, "--subnet", "10.92.0.0/29"];
    site.network("alone", &options);
    for name in ["left", "right"] {
        site.container(name, "alone", &[]);
    }
    site.serve("right", [80]);
    let address = site.docker.address("right", "alone");
    assert_eq!(site.ask("left", &address, 80), "right 80");
    assert_eq!(
        site.inside("left", &["ip", "route", "show", "default"])
            .ok(),
        ""
    );
    let addresses = site.lab.host(&["ip", "-o", "addr"]).ok();
    assert!(!addresses.contains(" 10.92.0."), "{addresses}");
    let host = site.lab.host_netns();
    ask_tcp(&host, &address, 80).expect_err("the host has no way there");
    let gateway = ["ping", "-c1", "-W1", "10.92.0.1"];
    assert_ne!(site.inside("left", &gateway).code, Some(0));
}

/// Whether a container's echo requests of a size, headers included, are answered in one piece.
fn passes(site: &Site, name: &str, size: u32, address: &str) -> bool {
    let payload = (size - 28).to_string();
    let ping = ["ping", "-M", "do", "-c1", "-W2", "-s", &payload, address];
    site.inside(name, &ping).code == Some(0)
}

/// The MTU that a network is given is its containers', and everybody keeps to it.
fn narrow(site: &Site) {
    let mtu = format!("{MTU}=1400");
    site.network("narrow", &["-o", &mtu, "--subnet", "10.93.0.0/24"]);
    site.container("thin", "narrow", &["-p", "8093:80/udp"]);
    site.container("lean", "narrow", &[]);
    site.serve("thin", [80]);
    let seen = ["cat", "/sys/class/net/eth0/mtu"];
    assert_eq!(site.docker.exec("thin", &seen).ok().trim(), "1400");
    let flows = site.new_flows();
    for address in [OUT4, &site.docker.address("lean", "narrow")] {
        assert!(passes(site, "thin", 1400, address), "{address}");
        assert!(!passes(site, "thin", 1401, address), "{address}");
    }
    assert_eq!(site.new_flows(), flows + 1, "somebody else did it");
    // Whoever sends more is told, and sends less.
    let ask = format!("head -c 1450 /dev/zero | socat -b 2000 -t 1 - UDP4:{HOST4}:8093");
    eventually("a datagram that is too large comes in pieces", || {
        let answer = site.lab.outside(&["sh", "-c", &ask]).stdout;
        answer.starts_with("thin 80")
    });
}

/// What is larger than the uplink's is left to Docker, but for neighbours.
fn too_wide(site: &Site) {
    let mtu = format!("{MTU}=9000");
    site.network("wide", &["-o", &mtu, "--subnet", "10.94.0.0/24"]);
    for name in ["broad", "vast"] {
        site.container(name, "wide", &[]);
    }
    let why = || {
        let adopted = site.lab.json(&["adopt", "ls"]);
        let rows = adopted["networks"].as_array().expect("rows");
        let row = rows.iter().find(|row| row["name"] == "wide");
        row.map(|row| row["outward"].to_string())
            .unwrap_or_default()
    };
    eventually("its way out is left to Docker", || {
        why().contains("its MTU 9000 is larger than 1500 of uplink uplink0")
    });
    let near = site.docker.address("vast", "wide");
    assert!(passes(site, "broad", 9000, &near));
    inside::serve(&site.lab.outside_netns(), "outside", [7000]);
    let flows = site.new_flows();
    assert_eq!(site.ask("broad", OUT4, 7000), "outside 7000");
    assert_eq!(site.new_flows(), flows, "it was left to Docker");
}
