//! Hosts with an etcd beside them.

use netpath_tests::etcd::Etcd;
use netpath_tests::inside::{ask_tcp, ask_udp, serve};
use netpath_tests::lab::Lab;
use netpath_tests::lab::hosts::{Hosts, SWITCH4};

/// Names of the nodes.
pub const NODES: [&str; 3] = ["a", "b", "c"];

/// Hosts, the first ones of which are nodes of a cluster; the etcd is on the switch.
pub struct World {
    pub etcd: Etcd,
    pub hosts: Hosts,
}

impl World {
    /// So many nodes, whose agents have these options besides.
    #[track_caller]
    pub fn new(count: u8, options: &[&str]) -> Self {
        let mut world = Self::without_agents(count, options);
        for nth in 0..usize::from(count) {
            world.hosts.lab(nth).start_agent();
        }
        world
    }

    /// See [`Self::new`].
    #[track_caller]
    pub fn without_agents(count: u8, options: &[&str]) -> Self {
        let hosts = Hosts::new(count);
        let etcd = Etcd::start(&hosts.switch_netns(), SWITCH4);
        let mut world = Self { etcd, hosts };
        let url = world.etcd.url();
        for (nth, node) in NODES.iter().enumerate().take(count.into()) {
            let mut all = vec!["--cluster", &url, "--node", node];
            all.extend(options);
            world.hosts.lab(nth).agent_options(&all);
        }
        world
    }

    /// A node's host.
    pub fn node(&mut self, name: &str) -> &mut Lab {
        let nth = NODES.iter().position(|node| *node == name);
        self.hosts.lab(nth.expect("a node"))
    }

    /// Starts a container that waits.
    #[track_caller]
    pub fn run(&mut self, node: &str, name: &str, network: &str) {
        self.node(node)
            .run(name, &["--network", network], &["sleep", "600"]);
    }

    /// Whether one container reaches the other's address by ping.
    pub fn pings(&mut self, node: &str, from: &str, address: &str) -> bool {
        let ping = ["ping", "-c", "1", "-W", "1", address];
        self.node(node).exec(from, &ping).code == Some(0)
    }
}

/// Serves in a container, and asks it from another by TCP and UDP.
#[track_caller]
pub fn talk(server: &str, name: &str, address: &str, port: u16, clients: &[String]) {
    serve(server, name, [port]);
    for client in clients {
        for (proto, answer) in [
            ("tcp", ask_tcp(client, address, port)),
            ("udp", ask_udp(client, address, port)),
        ] {
            let answer = answer.unwrap_or_else(|e| panic!("{proto} {client} {address}: {e}"));
            assert!(answer.starts_with(&format!("{name} {port} ")), "{answer}");
        }
    }
}
