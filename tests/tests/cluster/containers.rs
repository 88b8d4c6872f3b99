//! Containers of a cluster's networks: found by name from everywhere, published, connected while
//! they run.

use netpath_tests::inside::{ask_tcp, serve};
use netpath_tests::lab::eventually;

use super::world::{NODES, World};

/// A network of both families that all nodes know.
#[track_caller]
fn network(world: &mut World, name: &str) {
    world
        .node("a")
        .netpath(&["network", "create", "-d", "overlay", "--ipv6", name])
        .ok();
    for node in NODES.iter().take(world.hosts.count()) {
        eventually("the network is known", || {
            world.node(node).netpath(&["network", "inspect", name]).code == Some(0)
        });
    }
}

/// Asks a server by its name, by TCP and UDP and in both families; prints what it answers.
const ASK: &str = "
import socket, sys
name, port = sys.argv[1], int(sys.argv[2])
for family in (socket.AF_INET, socket.AF_INET6):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        address = socket.getaddrinfo(name, port, family, kind)[0][4]
        with socket.socket(family, kind) as s:
            s.settimeout(5)
            s.connect(address)
            if kind == socket.SOCK_DGRAM:
                s.send(b'who?')
            print(s.recv(256).decode())
";

/// Every container finds every other by its name and by its alias, and talks with it by ping,
/// TCP and UDP, by IPv4 and by IPv6.
#[test]
fn all_pairs_talk_by_name() {
    let mut world = World::new(3, &[]);
    network(&mut world, "blue");
    let (name, alias) = (
        |node: &str| format!("on-{node}"),
        |node: &str| format!("alias-{node}"),
    );
    for node in NODES {
        let options = ["--network", "blue", "--network-alias", &alias(node)];
        world
            .node(node)
            .run(&name(node), &options, &["sleep", "600"]);
        let netns = world.node(node).namespace_of(&name(node));
        serve(&netns, &name(node), [80]);
    }
    for client in NODES {
        let host = world.node(client);
        let own = [false, true].map(|v6| host.address(&name(client), v6));
        for server in NODES.iter().filter(|server| **server != client) {
            for known in [name(server), alias(server)] {
                for family in ["-4", "-6"] {
                    let ping = ["ping", family, "-c", "1", "-W", "1", &known];
                    eventually(&format!("{known} answers {client} by {family}"), || {
                        host.exec(&name(client), &ping).code == Some(0)
                    });
                }
                let ask = ["python3", "-c", ASK, &known, "80"];
                let said = host.exec(&name(client), &ask).ok();
                // The server sees its client's own address: nobody translates on the way.
                let expected: Vec<String> = [&own[0], &own[0], &own[1], &own[1]]
                    .iter()
                    .map(|own| format!("{} 80 {own}", name(server)))
                    .collect();
                assert_eq!(said.lines().collect::<Vec<_>>(), expected, "{client}");
            }
        }
    }
    // A name goes with its container, everywhere.
    world.node("c").netpath(&["rm", "-f", "on-c"]).ok();
    eventually("the name is forgotten", || {
        let ask = ["getent", "hosts", "on-c"];
        world.node("a").exec("on-a", &ask).code != Some(0)
    });
}

/// A port is published where its container is: everybody reaches it there, and nobody elsewhere.
#[test]
fn ports_are_published_where_the_container_is() {
    let mut world = World::new(2, &[]);
    network(&mut world, "blue");
    world.run("a", "client", "blue");
    let options = ["--network", "blue", "-p", "8080:80"];
    world.node("b").run("server", &options, &["sleep", "600"]);
    let netns = world.node("b").namespace_of("server");
    serve(&netns, "server", [80]);
    let outside = world.hosts.switch_netns();
    for (address, seen) in [
        ("192.0.2.2", "192.0.2.254"),
        ("2001:db8:1::2", "2001:db8:1::fe"),
    ] {
        let said = ask_tcp(&outside, address, 8080).expect("an answer");
        assert_eq!(said, format!("server 80 {seen}"));
    }
    ask_tcp(&outside, "192.0.2.1", 8080).expect_err("the other node has no such port");
    // Nobody outside reaches a container by its own address.
    let own = world.node("b").address("server", false);
    ask_tcp(&outside, &own, 80).expect_err("no way there");
    // From the other node: the host, and a container of the network, which its node masquerades.
    let other = world.node("a").host_netns();
    let client = world.node("a").namespace_of("client");
    for netns in [&other, &client] {
        let said = ask_tcp(netns, "192.0.2.2", 8080).expect("an answer");
        assert_eq!(said, "server 80 192.0.2.1");
    }
    // And by its own address, past all that.
    let address = world.node("a").address("client", false);
    let said = ask_tcp(&client, &own, 80).expect("an answer");
    assert_eq!(said, format!("server 80 {address}"));
}

/// A container that runs is connected on whichever node it is, and disconnected again.
#[test]
fn running_containers_are_connected_on_any_node() {
    let mut world = World::new(2, &[]);
    network(&mut world, "blue");
    world.run("a", "far", "blue");
    let far = world.node("a").namespace_of("far");
    serve(&far, "far", [80]);
    let host = world.node("b");
    host.netpath(&["network", "create", "local"]).ok();
    host.run("box", &["--network", "local"], &["sleep", "600"]);
    let ping = ["ping", "-c", "1", "-W", "1", "far"];
    assert_ne!(host.exec("box", &ping).code, Some(0));
    let connect = [
        "network", "connect", "--alias", "crate", "--ip6", "fd00::1", "blue", "box",
    ];
    // Not an address of the network.
    assert!(host.netpath(&connect).refused().contains("fd00::1"));
    assert_eq!(world.etcd.keys("/netpath/v1/endpoints/blue/").len(), 2);
    let connect = ["network", "connect", "--alias", "crate", "blue", "box"];
    let host = world.node("b");
    host.netpath(&connect).ok();
    eventually("it reaches the other node's by name", || {
        host.exec("box", &ping).code == Some(0)
    });
    assert_eq!(world.etcd.keys("/netpath/v1/endpoints/blue/").len(), 4);
    for known in ["box", "crate"] {
        let ping = ["ping", "-c", "1", "-W", "1", known];
        eventually("it is known by name there", || {
            world.node("a").exec("far", &ping).code == Some(0)
        });
    }
    let record = world.node("b").json(&["inspect", "box"]);
    let all = record["networks"].as_array().expect("networks");
    let blue = all.iter().find(|one| one["network"] == "blue");
    let own = blue.expect("the network")["addresses"][0].as_str();
    let (own, _) = own.and_then(|own| own.split_once('/')).expect("an address");
    let netns = world.node("b").namespace_of("box");
    let target = world.node("a").address("far", false);
    let said = ask_tcp(&netns, &target, 80).expect("an answer");
    assert_eq!(said, format!("far 80 {own}"));
    let disconnect = ["network", "disconnect", "blue", "box"];
    world.node("b").netpath(&disconnect).ok();
    eventually("its addresses are free", || {
        world.etcd.keys("/netpath/v1/endpoints/blue/").len() == 2
    });
    assert_ne!(world.node("b").exec("box", &ping).code, Some(0));
}
