//! netpath on both ends.

use netpath_tests::lab::hosts::{Hosts, SWITCH4, SWITCH6, v4, v6};

use crate::set_up::{self, WIDE};
use crate::{Place, mac, make_big, run_server};

/// Two hosts, each with a subnet of its own, each the other's router.
fn routed(underlay_v6: bool) -> Hosts {
    let mut hosts = Hosts::new(2);
    set_up::route(&mut hosts, 50, underlay_v6, &["--opt", "vni=77"]);
    hosts
}

#[test]
fn subnets_of_two_hosts_reach_each_other() {
    let hosts = routed(false);
    let folder = hosts[0].dir().to_path_buf();
    let sum = make_big(&folder);
    for nth in [0, 1] {
        run_server(&hosts[nth], "server", "wide", &folder, &[]);
        hosts[nth].run("client", &["--network", "wide"], &["sleep", "600"]);
    }
    for (client, server) in [(0, 1), (1, 0)] {
        let place = Place::Container(&hosts[client], "client");
        for family_v6 in [false, true] {
            let address = hosts[server].address("server", family_v6);
            place.talks_to(&address, &sum);
        }
    }
    // Within a host nothing leaves it.
    let before = hosts[0].json(&["tunnels"]);
    let neighbour = hosts[0].address("server", false);
    Place::Container(&hosts[0], "client").pings(&neighbour);
    assert_eq!(hosts[0].json(&["tunnels"]), before);
    // Large packets stay large until the wire.
    let row = &before[0];
    let (packets, bytes) = (&row["sent_packets"], &row["sent_bytes"]);
    let each = bytes.as_u64().unwrap() / packets.as_u64().unwrap();
    assert!(each > 2000, "{before}");
    assert!(row["received_packets"].as_u64().unwrap() > 0, "{before}");
}

#[test]
fn the_underlay_may_be_ipv6() {
    let hosts = routed(true);
    let folder = hosts[0].dir().to_path_buf();
    let sum = make_big(&folder);
    run_server(&hosts[1], "server", "wide", &folder, &[]);
    hosts[0].run("client", &["--network", "wide"], &["sleep", "600"]);
    let place = Place::Container(&hosts[0], "client");
    for family_v6 in [false, true] {
        place.talks_to(&hosts[1].address("server", family_v6), &sum);
    }
}

/// The host itself reaches containers of other hosts, and is reached by them.
#[test]
fn hosts_reach_containers_of_the_other_host() {
    let hosts = routed(false);
    for nth in [0, 1] {
        hosts[nth].run("box", &["--network", "wide"], &["sleep", "600"]);
    }
    for family_v6 in [false, true] {
        let there = hosts[1].address("box", family_v6);
        netpath_tests::lab::eventually("the host is answered", || {
            let ping = ["ping", "-c", "1", "-W", "1", &there];
            hosts[0].host(&ping).code == Some(0)
        });
        let gateway = if family_v6 { "fd50:2::1" } else { "10.50.2.1" };
        Place::Container(&hosts[0], "box").pings(gateway);
    }
}

/// One subnet on both hosts: neighbours that are told by address and MAC address.
#[test]
fn one_subnet_on_two_hosts() {
    let mut hosts = Hosts::new(2);
    hosts.start_agents(&[0, 1]);
    let addresses = [("10.51.0.10", "fd51::10"), ("10.51.0.20", "fd51::20")];
    for (nth, (ip4, ip6)) in addresses.iter().enumerate() {
        set_up::network(
            &hosts[nth],
            ["10.51.0.0/24", "fd51::/64"],
            &["--opt", "vni=51"],
        );
        let options = ["--network", WIDE, "--ip", ip4, "--ip6", ip6];
        hosts[nth].run("box", &options, &["sleep", "600"]);
    }
    for (nth, far) in [(0, 1u8), (1, 0)] {
        let (ip4, ip6) = addresses[usize::from(far)];
        let mac = mac(&hosts[far.into()], "box");
        set_up::neighbour(&hosts[nth], &v4(far), &mac, [ip4, ip6]);
    }
    for nth in [0, 1] {
        let (ip4, ip6) = addresses[1 - nth];
        let place = Place::Container(&hosts[nth], "box");
        place.pings(ip4);
        place.pings(ip6);
        // The neighbour is who it is, not a router.
        let neighbours = place.run(&["ip", "neigh", "show", "dev", "eth0"]).ok();
        let theirs = mac(&hosts[1 - nth], "box");
        assert!(neighbours.matches(&theirs).count() >= 2, "{neighbours}");
        // What another host has is not given out here.
        let taken = hosts[nth].netpath(&[
            "run",
            "-d",
            "--name",
            "thief",
            "--network",
            WIDE,
            "--ip",
            ip4,
            "--",
            "sleep",
            "1",
        ]);
        assert!(taken.refused().contains("another host"));
    }
    // A neighbour costs no time to live.
    let place = Place::Container(&hosts[0], "box");
    place
        .run(&["ping", "-t", "1", "-c", "1", "-W", "2", addresses[1].0])
        .ok();
    // And somebody whom nobody told of is nowhere.
    let nobody = place.run(&["ping", "-c", "1", "-W", "1", "10.51.0.30"]);
    assert_ne!(nobody.code, Some(0));
}

/// Containers leave and are published as on any other network.
#[test]
fn the_world_beyond_is_reached_by_the_own_host() {
    let hosts = routed(false);
    let etc = std::path::PathBuf::from("/etc");
    run_server(&hosts[0], "server", "wide", &etc, &["-p", "8080:80"]);
    for far in [SWITCH4, SWITCH6] {
        Place::Container(&hosts[0], "server").pings(far);
    }
    let (own4, own6) = (v4(0), v6(0));
    for address in [own4, format!("[{own6}]")] {
        let url = format!("http://{address}:8080/hostname");
        netpath_tests::lab::eventually("the published port answers", || {
            hosts.switch(&["curl", "-sS", "--max-time", "2", &url]).code == Some(0)
        });
    }
    let flows = hosts[0].json(&["flows"]);
    let kinds: Vec<_> = flows
        .as_array()
        .unwrap()
        .iter()
        .map(|f| &f["kind"])
        .collect();
    assert!(kinds.iter().any(|kind| *kind == "published"), "{flows}");
}

/// What explains a packet knows where it goes.
#[test]
fn tunnels_are_explained() {
    let hosts = routed(false);
    hosts[0].run("box", &["--network", "wide"], &["sleep", "600"]);
    let said = hosts[0].json(&["explain", "box", "10.50.2.9", "tcp:80"]);
    assert_eq!(said["verdict"], "sent", "{said}");
    assert!(said["text"].as_str().unwrap().contains(&v4(1)), "{said}");
    let said = hosts[0].json(&["explain", "host", "10.50.2.9", "tcp:80"]);
    assert_eq!(said["verdict"], "sent", "{said}");
}
