//! What the driver does when Docker has connected a container. A route of its own to the subnet
//! with an MTU is how that shows.

use netpath_tests::lab::{Lab, eventually, run};
use netpath_tests::plugin::call;
use serde_json::{Value, json};

use super::{id, new_endpoint, new_network};

/// An endpoint of a network, and the namespace that Docker puts its interface into.
struct Connected {
    lab: Lab,
    network: String,
    endpoint: String,
    /// Path of the namespace.
    netns: String,
    interface: String,
}

impl Connected {
    /// Makes it as far as Docker's question how to connect it.
    fn new() -> Self {
        let mut lab = Lab::new();
        let (network, endpoint) = (id("ab"), id("cd"));
        let mut new = new_network(&network, "10.7.0", false);
        new["IPv6Data"] = json!([{ "Pool": "fd07::/64", "Gateway": "fd07::1/64" }]);
        call(&lab, "CreateNetwork", &new);
        let mut new = new_endpoint(&network, &endpoint, "10.7.0.2/24");
        new["Interface"]["AddressIPv6"] = json!("fd07::2/64");
        call(&lab, "CreateEndpoint", &new);
        let netns = lab.add_namespace("box");
        Self {
            lab,
            network,
            endpoint,
            netns,
            interface: String::new(),
        }
    }

    /// Asks how to connect it, as a daemon that ends right after.
    fn join(&mut self) {
        let socket = self.lab.dir().join("run/docker.sock").display().to_string();
        let body = json!({
            "NetworkID": self.network,
            "EndpointID": self.endpoint,
            "SandboxKey": self.netns,
        });
        let (body, url) = (body.to_string(), "http://netpath/NetworkDriver.Join");
        let ask = ["curl", "-sSf", "--unix-socket", &socket, "-d", &body, url];
        let answer: Value = serde_json::from_str(&self.lab.host(&ask).ok()).expect("an answer");
        let name = answer["InterfaceName"]["SrcName"].as_str();
        name.expect("a name").clone_into(&mut self.interface);
    }

    /// Puts the interface into the namespace, as Docker does.
    fn connect(&self, addresses: &[&str]) {
        let name = self.netns.rsplit('/').next().expect("a name");
        let take = [
            "link",
            "set",
            &self.interface,
            "netns",
            name,
            "name",
            "eth0",
        ];
        self.lab.host(&[&["ip"], &take[..]].concat()).ok();
        for address in addresses {
            self.inside(&["ip", "addr", "add", address, "dev", "eth0"]);
        }
        self.inside(&["ip", "link", "set", "eth0", "up"]);
    }

    #[track_caller]
    fn inside(&self, args: &[&str]) -> String {
        let mut command = std::process::Command::new("nsenter");
        command.arg(format!("--net={}", self.netns)).args(args);
        run(command).ok()
    }

    #[track_caller]
    fn settles(&self, family: &str, subnet: &str) {
        eventually(&format!("neighbours of {subnet} get large packets"), || {
            let routes = self.inside(&["ip", family, "route", "show", subnet]);
            routes.contains("mtu 65520")
        });
    }
}

#[test]
fn the_next_agent_settles_what_a_killed_one_did_not_come_to() {
    let mut it = Connected::new();
    it.join();
    it.lab.kill_agent();
    it.connect(&["10.7.0.2/24", "fd07::2/64"]);
    it.lab.start_agent();
    it.settles("-4", "10.7.0.0/24");
    it.settles("-6", "fd07::/64");
}

#[test]
fn a_container_without_one_of_its_families_is_settled() {
    let mut it = Connected::new();
    it.join();
    let off = "net.ipv6.conf.all.disable_ipv6=1";
    it.inside(&["sysctl", "-qw", off, &off.replace("all", "default")]);
    it.connect(&["10.7.0.2/24"]);
    it.settles("-4", "10.7.0.0/24");
}
