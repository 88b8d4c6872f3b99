//! Two hosts on one switch: their containers are in one segment, and VLANs stay apart.

use std::time::Duration;

use netpath_tests::inside::inside;
use netpath_tests::lab::{Lab, eventually};

use super::{mac_of, mac_on, ping, short_ping};

/// The hosts' cable to the switch.
pub(super) const TRUNK: &str = "lan0";

/// Two hosts and a switch; the switch is the first laboratory's.
pub(super) fn two_hosts() -> (Lab, Lab, String) {
    let (mut one, two) = (Lab::without_agent(), Lab::without_agent());
    let path = one.add_namespace("switch");
    let switch = path.rsplit('/').next().unwrap().to_owned();
    let ip = |words: &[&str]| one.host(&[&["ip"], words].concat()).ok();
    let on_switch = |words: &[&str]| one.host(&[&["ip", "-n", &switch], words].concat());
    // A switch that knows VLANs, where the kernel has such a thing; or else one that passes
    // tagged frames on as they are: then nobody keeps the VLANs apart but the hosts.
    let aware = on_switch(&[
        "link",
        "add",
        "br0",
        "type",
        "bridge",
        "vlan_filtering",
        "1",
    ]);
    let aware = aware.code == Some(0);
    if !aware {
        on_switch(&["link", "add", "br0", "type", "bridge"]).ok();
    }
    on_switch(&["link", "set", "br0", "type", "bridge", "forward_delay", "0"]).ok();
    on_switch(&["link", "set", "br0", "up"]).ok();
    for (port, host) in [("port1", &one), ("port2", &two)] {
        let namespace = host.host_namespace();
        ip(&[
            "link", "add", TRUNK, "netns", namespace, "type", "veth", "peer", "name", port,
            "netns", &switch,
        ]);
        ip(&["-n", namespace, "link", "set", TRUNK, "up"]);
        on_switch(&["link", "set", port, "master", "br0", "up"]).ok();
        if aware {
            for vlan in ["101", "102"] {
                let add = [
                    "bridge", "-n", &switch, "vlan", "add", "dev", port, "vid", vlan,
                ];
                one.host(&add).ok();
            }
        }
    }
    let (mut one, mut two) = (one, two);
    one.start_agent();
    two.start_agent();
    (one, two, switch)
}

/// Makes a network on a VLAN of the trunk; 0 for none.
#[track_caller]
fn network(lab: &Lab, name: &str, vlan: u16) {
    network_with(lab, name, vlan, &[]);
}

#[track_caller]
fn network_with(lab: &Lab, name: &str, vlan: u16, options: &[&str]) {
    let parent = match vlan {
        0 => format!("parent={TRUNK}"),
        vlan => format!("parent={TRUNK}.{vlan}"),
    };
    let create = [
        "network",
        "create",
        name,
        "-d",
        "underlay",
        "-o",
        &parent,
        "--subnet",
        "10.101.0.0/24",
        "--subnet",
        "fd00:101::/64",
    ];
    lab.netpath(&[&create[..], options].concat()).ok();
}

#[track_caller]
pub(super) fn container(lab: &Lab, name: &str, network: &str, number: u8) {
    let v4 = format!("10.101.0.{number}");
    let v6 = format!("fd00:101::{number}");
    let options = ["--network", network, "--ip", &v4, "--ip6", &v6];
    lab.run(name, &options, &["sleep", "600"]);
}

#[test]
fn a_vlan_is_one_segment_across_hosts_and_another_stays_apart() {
    let (one, two, _) = two_hosts();
    for lab in [&one, &two] {
        // The same subnet in both: only the tag tells them apart.
        network(lab, "red", 101);
        network(lab, "blue", 102);
    }
    container(&one, "red1", "red", 1);
    container(&two, "red2", "red", 2);
    container(&one, "blue3", "blue", 3);
    container(&two, "blue4", "blue", 4);
    // And the same address in the other VLAN.
    container(&two, "blue1", "blue", 1);
    for address in ["10.101.0.2", "fd00:101::2"] {
        one.exec("red1", &ping(address)).ok();
    }
    two.exec("red2", &ping("10.101.0.1")).ok();
    one.exec("blue3", &ping("10.101.0.4")).ok();
    for (lab, from, to) in [
        (&one, "red1", "10.101.0.4"),
        (&one, "red1", "10.101.0.3"),
        (&two, "blue4", "10.101.0.2"),
        (&two, "blue4", "fd00:101::2"),
    ] {
        let ran = lab.exec(from, &short_ping(to));
        assert_ne!(ran.code, Some(0), "{from} met {to}");
    }
    // Whoever answers for .1 in VLAN 102 is blue.
    one.exec("blue3", &ping("10.101.0.1")).ok();
    let neighbours = one
        .exec("blue3", &["ip", "neigh", "show", "10.101.0.1"])
        .ok();
    assert!(
        neighbours.contains(&mac_of(&two, "blue1", "eth0")),
        "{neighbours}"
    );
    // What is on the cable has the tag, and what is in a container has none.
    let mut capture = one.host_command(&[
        "timeout",
        "5",
        "tcpdump",
        "-lnne",
        "-i",
        TRUNK,
        "-c",
        "1",
        "vlan 101 and icmp",
    ]);
    capture.stdout(std::process::Stdio::piped());
    let capture = netpath_tests::lab::start(capture);
    std::thread::sleep(Duration::from_millis(700));
    one.exec("red1", &ping("10.101.0.2")).ok();
    let text = netpath_tests::lab::finish(capture).stdout;
    assert!(text.contains("vlan 101"), "{text}");
}

#[test]
fn untagged_containers_of_two_hosts_and_a_machine_meet() {
    let (one, two, switch) = two_hosts();
    for lab in [&one, &two] {
        network(lab, "lan", 0);
    }
    container(&one, "a", "lan", 1);
    container(&two, "b", "lan", 2);
    one.exec("a", &ping("10.101.0.2")).ok();
    two.exec("b", &ping("fd00:101::1")).ok();
    // A card that is added to a container, in a VLAN, and one that is not.
    one.netpath(&["attach", "--parent", "lan0@101", "--ip", "10.7.0.1/24", "a"])
        .ok();
    two.netpath(&["attach", "--parent", "lan0.101", "--ip", "10.7.0.2/24", "b"])
        .ok();
    one.exec("a", &ping("10.7.0.2")).ok();
    drop(switch);
}

#[test]
fn a_container_that_moves_is_found_by_its_neighbours() {
    a_container_moves(&[]);
}

#[test]
fn a_routed_container_that_moves_is_found_by_its_neighbours() {
    a_container_moves(&["-o", "mode=l3"]);
}

fn a_container_moves(options: &[&str]) {
    let routed = !options.is_empty();
    let (one, two, switch) = two_hosts();
    for (lab, number) in [(&one, 251), (&two, 252)] {
        if routed {
            // Their packets go by the host's routes.
            let v4 = format!("10.101.0.{number}/24");
            let v6 = format!("fd00:101::{number}/64");
            lab.host(&["ip", "addr", "add", &v4, "dev", TRUNK]).ok();
            lab.host(&["ip", "addr", "add", &v6, "dev", TRUNK, "nodad"])
                .ok();
        }
        network_with(lab, "lan", 0, options);
    }
    // The switch is a machine of the segment, too.
    let machine = |words: &[&str]| {
        one.host(&[&["nsenter", &format!("--net=/run/netns/{switch}")], words].concat())
    };
    machine(&["ip", "addr", "add", "10.101.0.9/24", "dev", "br0"]).ok();
    machine(&["ip", "addr", "add", "fd00:101::9/64", "dev", "br0", "nodad"]).ok();
    container(&one, "web", "lan", 1);
    container(&two, "b", "lan", 2);
    for address in ["10.101.0.1", "fd00:101::1"] {
        machine(&ping(address)).ok();
        two.exec("b", &ping(address)).ok();
    }
    // What the wire takes for its MAC address.
    let mac = |lab: &Lab| match routed {
        true => mac_on(lab, TRUNK),
        false => mac_of(lab, "web", "eth0"),
    };
    let old = mac(&one);
    one.netpath(&["rm", "-f", "web"]).ok();
    container(&two, "web", "lan", 1);
    let new = mac(&two);
    assert_ne!(old, new);
    // The neighbour on its new host has it at its own MAC address in any case.
    let near = mac_of(&two, "web", "eth0");
    // Neither of them sends anything to it: they are told.
    for address in ["10.101.0.1", "fd00:101::1"] {
        eventually("the machine has learnt", || {
            machine(&["ip", "neigh", "show", address])
                .stdout
                .contains(&new)
        });
        eventually("the container has learnt", || {
            two.exec("b", &["ip", "neigh", "show", address])
                .stdout
                .contains(&near)
        });
        // The way back may have to be asked for first.
        eventually("the machine reaches it", || {
            machine(&ping(address)).code == Some(0)
        });
        eventually("the container reaches it", || {
            two.exec("b", &ping(address)).code == Some(0)
        });
    }
    // A socket of the machine reaches it where it is now.
    let path = format!("/run/netns/{switch}");
    let sent = inside(&path, || {
        let socket = std::net::UdpSocket::bind("10.101.0.9:0").unwrap();
        socket.send_to(b"x", "10.101.0.1:9")
    });
    assert!(sent.is_ok());
}
