//! Networks of the cluster and who may use them.

use netpath_tests::lab::eventually;

use super::world::{NODES, World, talk};

#[test]
fn a_network_made_on_one_node_serves_all() {
    let mut world = World::new(3, &[]);
    world
        .node("a")
        .netpath(&["network", "create", "-d", "overlay", "--ipv6", "blue"])
        .ok();
    for node in NODES {
        let host = world.node(node);
        eventually("the network is known", || {
            host.json(&["network", "ls"])
                .as_array()
                .is_some_and(|all| all.iter().any(|network| network["name"] == "blue"))
        });
        let networks = host.json(&["network", "ls"]);
        let all = networks.as_array().expect("networks");
        let blue = all.iter().find(|network| network["name"] == "blue");
        let blue = blue.expect("the network");
        assert_eq!(blue["scope"], "global", "{blue}");
        assert_eq!(blue["driver"], "overlay", "{blue}");
    }
    // Somebody else's network of the name would be in its way everywhere.
    let said = world
        .node("b")
        .netpath(&["network", "create", "blue"])
        .refused();
    assert!(said.contains("a network named blue exists"), "{said}");
    for node in NODES {
        world.run(node, &format!("on-{node}"), "blue");
    }
    let mut addresses = Vec::new();
    for node in NODES {
        let host = world.node(node);
        let name = format!("on-{node}");
        addresses.push([host.address(&name, false), host.address(&name, true)]);
    }
    for (nth, node) in NODES.iter().enumerate() {
        for (other, target) in addresses.iter().enumerate() {
            for address in target {
                if nth != other {
                    eventually("all pairs are told", || {
                        world.pings(node, &format!("on-{node}"), address)
                    });
                }
            }
        }
    }
    let spaces: Vec<String> = NODES
        .iter()
        .map(|node| world.node(node).namespace_of(&format!("on-{node}")))
        .collect();
    for (nth, target) in addresses.iter().enumerate() {
        let clients: Vec<String> = (0..3)
            .filter(|n| *n != nth)
            .map(|n| spaces[n].clone())
            .collect();
        for (address, port) in target.iter().zip([80, 81]) {
            talk(&spaces[nth], NODES[nth], address, port, &clients);
        }
    }
    // By name as well.
    for (nth, node) in NODES.iter().enumerate() {
        let other = format!("on-{}", NODES[(nth + 1) % 3]);
        eventually("names are known across hosts", || {
            world.pings(node, &format!("on-{node}"), &other)
        });
    }
    // Outwards each node masquerades for itself.
    let out = "192.0.2.254";
    eventually("the outside is reached", || world.pings("b", "on-b", out));

    let nodes = world.node("c").json(&["nodes"]);
    let rows = nodes["nodes"].as_array().expect("nodes");
    assert_eq!(rows.len(), 3, "{nodes}");
    assert_eq!(rows[2]["state"], "self", "{nodes}");
    assert_eq!(rows[0]["address"], "192.0.2.1", "{nodes}");
}

#[test]
fn a_network_that_a_node_uses_stays() {
    let mut world = World::new(2, &[]);
    let create = [
        "network",
        "create",
        "-d",
        "overlay",
        "blue",
        "--subnet",
        "10.77.0.0/24",
    ];
    world.node("a").netpath(&create).ok();
    let said = world.node("b").netpath(&create).refused();
    assert!(said.contains("a network named blue exists"), "{said}");
    eventually("the network is known", || {
        world
            .node("b")
            .netpath(&["network", "inspect", "blue"])
            .code
            == Some(0)
    });
    world.run("b", "user", "blue");
    let networks = world.node("b").json(&["network", "ls"]);
    let mut networks = networks.as_array().expect("networks").iter();
    let blue = networks.find(|network| network["name"] == "blue");
    let device = blue.and_then(|network| network["device"].as_str());
    let device = device.expect("its device").to_owned();
    let said = world
        .node("a")
        .netpath(&["network", "rm", "blue"])
        .refused();
    assert!(said.contains("in use by user on node b"), "{said}");
    world.node("b").netpath(&["rm", "-f", "user"]).ok();
    world.node("a").netpath(&["network", "rm", "blue"]).ok();
    assert!(world.etcd.keys("/netpath/v1/networks/").is_empty());
    assert!(world.etcd.keys("/netpath/v1/vnis/").is_empty());
    eventually("it is gone from the other node", || {
        let host = world.node("b");
        host.netpath(&["network", "inspect", "blue"]).code != Some(0)
            && !host.host(&["ip", "link"]).ok().contains(&device)
    });
}

#[test]
fn networks_of_the_cluster_are_apart() {
    let mut world = World::new(2, &[]);
    for (name, vni) in [("blue", "7001"), ("red", "7002")] {
        let vni = format!("vni={vni}");
        world
            .node("a")
            .netpath(&["network", "create", "-d", "overlay", "--opt", &vni, name])
            .ok();
    }
    let said = world
        .node("b")
        .netpath(&[
            "network", "create", "-d", "overlay", "--opt", "vni=7001", "green",
        ])
        .refused();
    assert!(said.contains("7001") && said.contains("blue"), "{said}");
    eventually("the networks are known", || {
        world.node("b").netpath(&["network", "inspect", "red"]).code == Some(0)
    });
    world.run("a", "blue-a", "blue");
    world.run("b", "blue-b", "blue");
    world.run("b", "red-b", "red");
    let blue = world.node("b").address("blue-b", false);
    let red = world.node("b").address("red-b", false);
    eventually("one's own network is reached", || {
        world.pings("a", "blue-a", &blue)
    });
    assert!(!world.pings("a", "blue-a", &red));
    assert!(!world.pings("b", "red-b", &blue));
}

#[test]
fn what_makes_no_sense_in_the_store_is_named_and_passed_over() {
    let mut world = World::new(2, &[]);
    world
        .node("a")
        .netpath(&["network", "create", "-d", "overlay", "blue"])
        .ok();
    for (key, value) in [
        ("/netpath/v1/networks/red", "{"),
        ("/netpath/v1/endpoints/blue/10.0.1.77", r#"{"node":1}"#),
        ("/netpath/v1/endpoints/blue/nowhere", "{}"),
        ("/netpath/v1/nodes/x", r#"{"id":"x","address":"127.0.0.1"}"#),
        ("/netpath/v1/what", "?"),
    ] {
        world.etcd.ctl(&["put", key, value]).ok();
    }
    eventually("they are named", || {
        let log = world.node("b").agent_log();
        [
            "networks/red",
            "10.0.1.77",
            "blue/nowhere",
            "nodes/x",
            "v1/what",
        ]
        .iter()
        .all(|key| log.contains(key))
    });
    world.run("a", "on-a", "blue");
    world.run("b", "on-b", "blue");
    let address = world.node("b").address("on-b", false);
    eventually("the others go on", || world.pings("a", "on-a", &address));
}
