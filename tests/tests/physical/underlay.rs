//! Driver `underlay`: containers as neighbours of the machines on the wire.

use std::thread;
use std::time::Duration;

use netpath_tests::inside::{ask_tcp, ask_udp, inside, serve};
use netpath_tests::lab::{HOST4, HOST6, Lab, OUT4, OUT6, UPLINK, eventually};
use netpath_tests::packets::arp;
use netpath_tests::wire::Wire;

use super::{STACKED, container, has_flag, mac_of, mac_on, network, networks, ping, short_ping};

#[test]
fn containers_are_neighbours_of_the_machines_on_the_wire() {
    containers_are_neighbours_of_the_machines(&[]);
}

#[test]
fn containers_with_the_kernels_devices_are_neighbours_of_the_machines() {
    containers_are_neighbours_of_the_machines(&STACKED);
}

fn containers_are_neighbours_of_the_machines(options: &[&str]) {
    let lab = Lab::new();
    network(&lab, "lan", "underlay", options);
    container(&lab, "a", "lan", 10);
    container(&lab, "b", "lan", 11);
    for address in ["192.0.2.10", "2001:db8:1::10"] {
        lab.outside(&ping(address)).ok();
        lab.host(&ping(address)).ok();
        lab.exec("b", &ping(address)).ok();
    }
    for address in [OUT4, OUT6, HOST4, HOST6] {
        lab.exec("a", &ping(address)).ok();
    }
    // With its own MAC address, as on any wire.
    let neighbours = lab.outside(&["ip", "neigh", "show", "192.0.2.10"]).ok();
    assert!(
        neighbours.contains(&mac_of(&lab, "a", "eth0")),
        "{neighbours}"
    );
    // What the host's own card was stays.
    lab.host(&ping(OUT4)).ok();
    let addresses = lab.host(&["ip", "addr", "show", UPLINK]).ok();
    assert!(
        addresses.contains(HOST4) && addresses.contains(HOST6),
        "{addresses}"
    );
    serve(&lab.namespace_of("a"), "a", [7000]);
    for (address, client4, client6) in [
        (lab.outside_netns(), OUT4, OUT6),
        (lab.host_netns(), HOST4, HOST6),
        (lab.namespace_of("b"), "192.0.2.11", "2001:db8:1::11"),
    ] {
        for (server, client) in [("192.0.2.10", client4), ("2001:db8:1::10", client6)] {
            let said = format!("a 7000 {client}");
            assert_eq!(ask_tcp(&address, server, 7000).unwrap(), said);
            assert_eq!(ask_udp(&address, server, 7000).unwrap(), said);
        }
    }
}

#[test]
fn a_published_port_of_the_host_is_reached_from_the_wire() {
    // A container on the wire and one behind the host's own addresses.
    let lab = Lab::new();
    network(&lab, "lan", "underlay", &[]);
    container(&lab, "a", "lan", 10);
    lab.netpath(&["network", "create", "net", "--subnet", "10.88.0.0/24"])
        .ok();
    lab.run(
        "web",
        &["--network", "net", "-p", "8080:80"],
        &["sleep", "600"],
    );
    serve(&lab.namespace_of("web"), "web", [80]);
    let said = ask_tcp(&lab.namespace_of("a"), HOST4, 8080).unwrap();
    assert_eq!(said, "web 80 192.0.2.10");
    // The outside is reached by both, the one by NAT, the other by itself.
    lab.exec("web", &ping(OUT4)).ok();
    lab.exec("web", &ping("192.0.2.10")).ok();
}

#[test]
fn published_ports_have_no_effect_and_are_warned_of() {
    let lab = Lab::new();
    network(&lab, "lan", "underlay", &[]);
    let ran = lab.netpath(&[
        "run",
        "-d",
        "--name",
        "a",
        "--network",
        "lan",
        "-p",
        "8080:80",
        "--",
        "sleep",
        "600",
    ]);
    assert!(
        ran.stderr.contains("-p") && ran.stderr.contains("lan"),
        "{ran:?}"
    );
    ran.ok();
    assert_eq!(lab.json(&["ports"]).as_array().map(Vec::len), Some(0));
}

#[test]
fn nobody_speaks_for_others_on_the_wire() {
    nobody_speaks_for_others(&[]);
}

#[test]
fn nobody_speaks_for_others_with_the_kernels_devices() {
    nobody_speaks_for_others(&STACKED);
}

fn nobody_speaks_for_others(options: &[&str]) {
    let lab = Lab::new();
    network(&lab, "lan", "underlay", options);
    container(&lab, "a", "lan", 10);
    container(&lab, "b", "lan", 11);
    let octets = |text: String| -> [u8; 6] {
        let parts: Vec<u8> = text
            .split(':')
            .map(|part| u8::from_str_radix(part, 16).unwrap())
            .collect();
        parts.try_into().unwrap()
    };
    let (a, b) = (
        octets(mac_of(&lab, "a", "eth0")),
        octets(mac_of(&lab, "b", "eth0")),
    );
    lab.outside(&ping("192.0.2.10")).ok();
    lab.outside(&ping("192.0.2.11")).ok();
    inside(&lab.namespace_of("a"), || {
        let wire = Wire::open("eth0");
        // The neighbour's address, the router's, and the neighbour's MAC address.
        for frame in [
            arp(2, a, "192.0.2.11", [0xff; 6], "192.0.2.11"),
            arp(1, a, OUT4, [0; 6], "192.0.2.1"),
            arp(1, b, "192.0.2.11", [0; 6], "192.0.2.1"),
        ] {
            let sent = wire.try_send(&frame).map_err(|error| error.raw_os_error());
            // Where its own device refuses it, the sender is told.
            let wanted = match options {
                [] => Ok(frame.len()),
                _ => Err(Some(libc::ENOBUFS)),
            };
            assert_eq!(sent, wanted);
        }
    });
    let spoofed = || {
        let drops = lab.json(&["drops"]);
        let rows = drops.as_array().unwrap().clone();
        let row = rows
            .into_iter()
            .find(|row| row["hook"] == "underlay" && row["reason"] == "spoofed_source");
        row.and_then(|row| row["packets"].as_u64()).unwrap_or(0)
    };
    eventually("three drops", || spoofed() == 3);
    lab.exec("a", &["ip", "addr", "add", "192.0.2.77/24", "dev", "eth0"])
        .ok();
    let ran = lab.exec(
        "a",
        &["ping", "-c", "1", "-W", "1", "-I", "192.0.2.77", OUT4],
    );
    assert_ne!(ran.code, Some(0), "{ran:?}");
    let neighbours = lab.outside(&["ip", "neigh", "show", "192.0.2.11"]).ok();
    assert!(
        neighbours.contains(&mac_of(&lab, "b", "eth0")),
        "{neighbours}"
    );
}

#[test]
fn it_outlives_the_agent_and_leaves_nothing() {
    outlives_the_agent_and_leaves_nothing(&[]);
}

#[test]
fn the_kernels_devices_outlive_the_agent_and_leave_nothing() {
    outlives_the_agent_and_leaves_nothing(&STACKED);
}

fn outlives_the_agent_and_leaves_nothing(options: &[&str]) {
    let mut lab = Lab::new();
    let before = lab.host(&["ip", "-d", "link", "show", UPLINK]).ok();
    network(&lab, "lan", "underlay", options);
    container(&lab, "a", "lan", 10);
    lab.outside(&ping("192.0.2.10")).ok();
    assert!(has_flag(&lab, UPLINK, "ALLMULTI"));
    let mac = mac_of(&lab, "a", "eth0");
    let filter = |lab: &Lab| lab.host(&["bridge", "fdb", "show", "dev", UPLINK]).ok();
    assert!(filter(&lab).contains(&mac), "{}", filter(&lab));
    lab.kill_agent();
    lab.outside(&ping("192.0.2.10")).ok();
    lab.start_agent();
    lab.outside(&ping("192.0.2.10")).ok();
    lab.exec("a", &ping(OUT4)).ok();
    container(&lab, "b", "lan", 11);
    lab.exec("b", &ping("192.0.2.10")).ok();
    lab.netpath(&["rm", "-f", "a"]).ok();
    assert!(!filter(&lab).contains(&mac), "{}", filter(&lab));
    let ran = lab.outside(&short_ping("192.0.2.10"));
    assert_ne!(ran.code, Some(0), "{ran:?}");
    lab.netpath(&["rm", "-f", "b"]).ok();
    lab.netpath(&["network", "rm", "lan"]).ok();
    assert!(!has_flag(&lab, UPLINK, "ALLMULTI"));
    assert_eq!(lab.host(&["ip", "-d", "link", "show", UPLINK]).ok(), before);
}

#[test]
fn a_purge_gives_the_card_back() {
    purge_gives_the_card_back(&[]);
}

#[test]
fn a_purge_gives_the_card_back_by_which_the_kernels_devices_were() {
    purge_gives_the_card_back(&STACKED);
}

fn purge_gives_the_card_back(options: &[&str]) {
    let mut lab = Lab::new();
    network(&lab, "lan", "underlay", options);
    container(&lab, "a", "lan", 10);
    let mac = mac_of(&lab, "a", "eth0");
    lab.purge().ok();
    assert!(!has_flag(&lab, UPLINK, "ALLMULTI"));
    // The kernel removes namespaces, and what is in them, in its own time.
    eventually("the card has forgotten the container", || {
        let filter = lab.host(&["bridge", "fdb", "show", "dev", UPLINK]).ok();
        !filter.contains(&mac)
    });
    lab.host(&ping(OUT4)).ok();
}

#[test]
fn large_frames_pass_whole() {
    let mut lab = Lab::without_agent();
    lab.host(&["ip", "link", "set", UPLINK, "mtu", "9000"]).ok();
    lab.outside(&["ip", "link", "set", "eth0", "mtu", "9000"])
        .ok();
    lab.start_agent();
    network(&lab, "lan", "underlay", &[]);
    container(&lab, "a", "lan", 10);
    container(&lab, "b", "lan", 11);
    let link = lab.exec("a", &["ip", "link", "show", "eth0"]).ok();
    assert!(link.contains("mtu 9000"), "{link}");
    for to in [OUT4, HOST4, "192.0.2.11"] {
        let large = ["ping", "-c", "1", "-W", "2", "-M", "do", "-s", "8972", to];
        lab.exec("a", &large).ok();
    }
    // And streams, whose aggregates are larger still.
    lab.serve_outside(&["iperf3", "-s"]);
    thread::sleep(Duration::from_millis(300));
    let report = lab.exec("a", &["iperf3", "-J", "-t", "1", "-c", OUT4]).ok();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert!(report["end"]["sum_received"]["bytes"].as_u64() > Some(1_000_000));
}

#[test]
fn frames_of_others_arrive_bit_by_bit() {
    const TYPE: u16 = 0x88b5;
    let lab = Lab::new();
    for (name, mode) in [("lan", "mode=l2"), ("routed", "mode=l3")] {
        let parent = format!("parent={UPLINK}");
        let subnet = if name == "lan" {
            "10.24.0.0/24"
        } else {
            "192.0.2.0/24"
        };
        lab.netpath(&[
            "network", "create", name, "-d", "underlay", "-o", &parent, "-o", mode, "--subnet",
            subnet,
        ])
        .ok();
        lab.run(name, &["--network", name], &["sleep", "600"]);
    }
    let octets = |text: String| -> Vec<u8> {
        let parts = text.split(':');
        parts
            .map(|part| u8::from_str_radix(part, 16).unwrap())
            .collect()
    };
    let host = octets(mac_on(&lab, UPLINK));
    // Addresses: the host's, somebody's, a group, everybody. Types: an experiment's and IPv4, the
    // latter with any content.
    let targets = [
        &host[..],
        &[2, 0, 0, 0, 9, 9],
        &[1, 0x80, 0xc2, 0, 0, 0x0e],
        &[0xff; 6],
    ];
    for (protocol, payload) in [(TYPE, 0xa5), (0x0800, 0x45), (0x0806, 0x01)] {
        for (from, to, devices) in [
            (lab.outside_netns(), lab.host_netns(), ["eth0", UPLINK]),
            (lab.host_netns(), lab.outside_netns(), [UPLINK, "eth0"]),
        ] {
            let ear = inside(&to, || Wire::listen(devices[1], protocol));
            let mouth = inside(&from, || Wire::open(devices[0]));
            for target in targets {
                for length in [60, 333, 1514] {
                    let mut frame = [target, &[2, 0, 0, 0, 8, 8]].concat();
                    frame.extend(protocol.to_be_bytes());
                    frame.extend((frame.len()..length).map(|i| payload ^ (i / 7) as u8));
                    mouth.send(&frame);
                    // The machines' own traffic goes on meanwhile.
                    let own = |frame: &Vec<u8>| frame.get(6..12) != Some(&[2, 0, 0, 0, 8, 8]);
                    let mut heard = ear.receive();
                    while heard.as_ref().is_some_and(own) {
                        heard = ear.receive();
                    }
                    assert_eq!(heard, Some(frame), "to {target:02x?}");
                }
            }
        }
    }
}

#[test]
fn a_card_with_another_mac_address_goes_on() {
    for options in [&[][..], &["-o", "mode=l3"]] {
        let lab = Lab::new();
        network(&lab, "lan", "underlay", options);
        container(&lab, "a", "lan", 10);
        lab.exec("a", &ping(HOST4)).ok();
        let set = ["ip", "link", "set", UPLINK, "address", "02:00:00:00:77:01"];
        lab.host(&set).ok();
        eventually("the container reaches the host", || {
            lab.exec("a", &["ip", "neigh", "flush", "all"]).ok();
            lab.exec("a", &short_ping(HOST4)).code == Some(0)
        });
        eventually("the wire reaches the container", || {
            lab.outside(&["ip", "neigh", "flush", "all"]).ok();
            lab.outside(&short_ping("192.0.2.10")).code == Some(0)
        });
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let lab = Lab::new();
    lab.host(&["ip", "link", "add", "br9", "type", "bridge"])
        .ok();
    lab.host(&[
        "ip", "link", "add", "p9", "type", "veth", "peer", "name", "q9",
    ])
    .ok();
    lab.host(&["ip", "link", "set", "p9", "master", "br9"]).ok();
    for (options, part) in [
        (&[][..], "-o parent="),
        (&["-o", "parent=nowhere0"], "no device nowhere0"),
        (&["-o", "parent=lo"], "no Ethernet"),
        (&["-o", "parent=p9"], "a port of br9"),
        (&["-o", "parent=uplink0.0"], "1 to 4094"),
        (&["-o", "parent=uplink0.4095"], "1 to 4094"),
        (
            &["-o", "parent=uplink0", "-o", "icc=false"],
            "unknown to driver underlay",
        ),
        (&["-o", "parent=uplink0", "--mtu", "9000"], "mtu 9000"),
        (
            &["-o", "parent=uplink0", "--gateway", "192.0.3.1"],
            "outside the subnet",
        ),
    ] {
        let create = [
            "network",
            "create",
            "x",
            "-d",
            "underlay",
            "--subnet",
            "192.0.2.0/24",
        ];
        let refused = lab.netpath(&[&create[..], options].concat()).refused();
        assert!(refused.contains(part), "{options:?}: {refused}");
    }
    assert_eq!(networks(&lab), 0);
    network(&lab, "lan", "underlay", &[]);
    let parent = format!("parent={UPLINK}");
    let create = ["network", "create", "x", "-d", "macvlan", "-o", &parent];
    let refused = lab.netpath(&create).refused();
    assert!(
        refused.contains("network lan with driver underlay"),
        "{refused}"
    );
    let overlaps = ["--subnet", "192.0.2.128/25"];
    let create = ["network", "create", "x", "-d", "underlay", "-o", &parent];
    let refused = lab.netpath(&[&create[..], &overlaps].concat()).refused();
    assert!(refused.contains("of network lan"), "{refused}");
    for (ip, part) in [("192.0.3.9", "192.0.3.9"), ("192.0.2.2", "192.0.2.2")] {
        let run = ["run", "-d", "--name", "x", "--network", "lan", "--ip", ip];
        let refused = lab
            .netpath(&[&run[..], &["--", "sleep", "600"]].concat())
            .refused();
        assert!(refused.contains(part), "{refused}");
    }
    assert_eq!(lab.json(&["ps", "-a"]).as_array().map(Vec::len), Some(0));
}
