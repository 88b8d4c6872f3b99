//! Nodes that die, and stores that are away.

use std::thread;
use std::time::{Duration, Instant};

use netpath_tests::command::{finish_within, start};
use netpath_tests::lab::eventually;

use super::world::World;

/// A network `blue` with a container on each of the first two nodes; returns their addresses.
#[track_caller]
fn two_containers(world: &mut World) -> [String; 2] {
    world
        .node("a")
        .netpath(&["network", "create", "-d", "overlay", "blue"])
        .ok();
    let mut addresses = Vec::new();
    for node in ["a", "b"] {
        let host = world.node(node);
        eventually("the network is known", || {
            host.netpath(&["network", "inspect", "blue"]).code == Some(0)
        });
        let name = format!("on-{node}");
        world.run(node, &name, "blue");
        addresses.push(world.node(node).address(&name, false));
    }
    let [first, second] = [addresses[0].clone(), addresses[1].clone()];
    eventually("both are told", || {
        world.pings("a", "on-a", &second) && world.pings("b", "on-b", &first)
    });
    [first, second]
}

/// Whether a node's agent says that the store is there.
fn sees_store(world: &mut World, node: &str) -> bool {
    world.node(node).json(&["nodes"])["cluster"]["problem"].is_null()
}

#[test]
fn a_dead_nodes_endpoints_go_with_its_lease_and_no_sooner() {
    let mut world = World::new(2, &["--cluster-lease", "4"]);
    let [_, second] = two_containers(&mut world);
    let key = format!("/netpath/v1/endpoints/blue/{second}");
    // An agent that comes back in time is not dead.
    world.node("b").kill_agent();
    thread::sleep(Duration::from_secs(1));
    assert!(!world.etcd.get(&key).is_empty());
    assert!(world.pings("a", "on-a", &second));
    world.node("b").start_agent();
    thread::sleep(Duration::from_secs(5));
    assert!(
        !world.etcd.get(&key).is_empty(),
        "{}",
        world.node("b").agent_log()
    );
    assert!(world.pings("a", "on-a", &second));
    world.node("b").kill_agent();
    eventually("its lease ends", || world.etcd.get(&key).is_empty());
    assert!(world.etcd.get("/netpath/v1/nodes/b").is_empty());
    eventually("its containers are forgotten", || {
        let nodes = world.node("a").json(&["nodes"]);
        nodes["nodes"].as_array().is_some_and(|all| all.len() == 1)
            && !world.pings("a", "on-a", &second)
    });
    // Back from the dead, it has its address as before.
    world.node("b").start_agent();
    eventually("it is back", || world.pings("a", "on-a", &second));
}

#[test]
fn while_the_store_is_away_traffic_goes_on_and_everything_catches_up() {
    let mut world = World::new(2, &["--cluster-lease", "4"]);
    let [_, second] = two_containers(&mut world);
    world.run("b", "goes", "blue");
    let goes = world.node("b").address("goes", false);
    eventually("it is reached", || world.pings("a", "on-a", &goes));
    let server = ["exec", "on-b", "--", "iperf3", "-s", "-1"];
    let server = start(world.node("b").netpath_command(&server));
    thread::sleep(Duration::from_millis(500));
    let client = [
        "exec", "on-a", "--", "iperf3", "-c", &second, "-t", "14", "-J",
    ];
    let client = start(world.node("a").netpath_command(&client));
    thread::sleep(Duration::from_secs(1));
    world.etcd.kill();
    eventually("the agents notice", || {
        !sees_store(&mut world, "a") && !sees_store(&mut world, "b")
    });
    // Longer than the lease: nobody can end it while the store is away.
    thread::sleep(Duration::from_secs(5));
    let run = ["run", "--network", "blue", "--rm", "--", "true"];
    let said = world.node("a").netpath(&run).refused();
    assert!(
        said.contains("needs the cluster's store") && said.contains("away"),
        "{said}"
    );
    let create = ["network", "create", "-d", "overlay", "red"];
    let said = world.node("a").netpath(&create).refused();
    assert!(said.contains("needs the cluster's store"), "{said}");
    world
        .node("a")
        .netpath(&["network", "create", "local"])
        .ok();
    world.run("a", "here", "local");
    world.node("b").netpath(&["rm", "-f", "goes"]).ok();
    world.etcd.start_again();
    eventually("the agents are back", || {
        sees_store(&mut world, "a") && sees_store(&mut world, "b")
    });
    let key = format!("/netpath/v1/endpoints/blue/{goes}");
    eventually("what was removed meanwhile is removed there", || {
        world.etcd.get(&key).is_empty()
    });
    assert_eq!(world.etcd.keys("/netpath/v1/endpoints/blue/").len(), 2);
    world.node("a").netpath(&run).ok();
    for child in [client, server] {
        finish_within(child, Duration::from_secs(60)).ok();
    }
    assert!(world.pings("a", "on-a", &second));
}

#[test]
fn a_node_that_was_cut_off_reads_everything_after_a_compaction() {
    let mut world = World::new(2, &["--cluster-lease", "60"]);
    let [first, _] = two_containers(&mut world);
    world.etcd.set_reachable("192.0.2.2", false);
    eventually("the node notices", || !sees_store(&mut world, "b"));
    world
        .node("a")
        .netpath(&["network", "create", "-d", "overlay", "red"])
        .ok();
    world.run("a", "later", "blue");
    let later = world.node("a").address("later", false);
    for nth in 0..20 {
        world.etcd.ctl(&["put", "/other", &nth.to_string()]).ok();
    }
    let revision = world.etcd.revision().to_string();
    world.etcd.ctl(&["compact", &revision]).ok();
    assert!(world.pings("b", "on-b", &first), "what was known goes on");
    assert!(!world.pings("b", "on-b", &later));
    world.etcd.set_reachable("192.0.2.2", true);
    eventually("the node is back", || sees_store(&mut world, "b"));
    eventually("it knows what happened meanwhile", || {
        world.pings("b", "on-b", &later)
            && world.node("b").netpath(&["network", "inspect", "red"]).code == Some(0)
    });
    let log = world.node("b").agent_log();
    assert!(log.contains("compacted"), "{log}");
}

/// Everybody is cut off from the store for a minute, which is many times the lease.
#[test]
fn all_nodes_cut_off_for_longer_than_their_leases_keep_their_traffic() {
    const CUT_OFF: Duration = Duration::from_secs(60);
    let mut world = World::new(2, &["--cluster-lease", "3"]);
    let [_, second] = two_containers(&mut world);
    let server = ["exec", "on-b", "--", "iperf3", "-s", "-1"];
    let server = start(world.node("b").netpath_command(&server));
    thread::sleep(Duration::from_millis(500));
    // Not as fast as it goes: other tests run beside it.
    let client = [
        "exec", "on-a", "--", "iperf3", "-c", &second, "-t", "70", "-b", "50M", "-J",
    ];
    let client = start(world.node("a").netpath_command(&client));
    let begin = Instant::now();
    for host in ["192.0.2.1", "192.0.2.2"] {
        world.etcd.set_reachable(host, false);
    }
    eventually("their leases end", || {
        world.etcd.keys("/netpath/v1/nodes/").is_empty()
    });
    assert!(world.etcd.keys("/netpath/v1/endpoints/").is_empty());
    thread::sleep(CUT_OFF.saturating_sub(begin.elapsed()));
    for host in ["192.0.2.1", "192.0.2.2"] {
        world.etcd.set_reachable(host, true);
    }
    eventually("they are back, with all that they have", || {
        world.etcd.keys("/netpath/v1/nodes/").len() == 2
            && world.etcd.keys("/netpath/v1/endpoints/blue/").len() == 2
    });
    // One connection from the first second to the last: a reset would have ended it.
    let report = finish_within(client, Duration::from_secs(90)).ok();
    finish_within(server, Duration::from_secs(60)).ok();
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON of iperf3");
    assert!(report["error"].is_null(), "{report}");
    let intervals = report["intervals"].as_array().expect("intervals");
    assert!(intervals.len() >= 70, "{report}");
    let silent = intervals
        .iter()
        .filter(|interval| interval["sum"]["bytes"] == 0);
    assert_eq!(silent.count(), 0, "a second without a byte: {report}");
}

#[test]
fn an_agent_that_starts_without_the_store_knows_its_networks() {
    let mut world = World::new(2, &[]);
    let [_, second] = two_containers(&mut world);
    world.etcd.kill();
    world.node("a").kill_agent();
    world.node("a").start_agent();
    let log = world.node("a").agent_log();
    assert!(log.contains("store") && log.contains("away"), "{log}");
    assert!(world.pings("a", "on-a", &second));
    let nodes = world.node("a").json(&["nodes"]);
    assert_eq!(nodes["nodes"].as_array().map(Vec::len), Some(2), "{nodes}");
    let networks = world.node("a").json(&["network", "ls"]);
    assert!(networks.to_string().contains("blue"), "{networks}");
    world.etcd.start_again();
    eventually("it is back", || sees_store(&mut world, "a"));
    world.run("a", "new", "blue");
    eventually("new containers reach the others", || {
        world.pings("a", "new", &second)
    });
}
