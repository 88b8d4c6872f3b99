//! Several hosts on one wire: laboratories whose uplinks meet in a switch.
//!
//! Host number 0 has the address `192.0.2.1` and `2001:db8:1::1`, number 1 `.2` and `::2`, and
//! so on. The switch is a machine as well, `192.0.2.254`: it sees all frames and can send any.

use super::sweep::{remove_leftovers, remove_namespace};
use super::{Lab, NUMBER, SWEEP, UPLINK, ip};
use crate::command::{Ran, run};
use std::ops::Index;
use std::process::Command;
use std::sync::atomic::Ordering;

/// The switch's bridge.
pub const SWITCH: &str = "br0";
/// Its addresses.
pub const SWITCH4: &str = "192.0.2.254";
/// See [`SWITCH4`].
pub const SWITCH6: &str = "2001:db8:1::fe";

/// Hosts on one wire.
pub struct Hosts {
    labs: Vec<Lab>,
    switch: String,
}

impl Hosts {
    /// That many hosts without agents.
    pub fn new(count: u8) -> Self {
        SWEEP.call_once(remove_leftovers);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let switch = format!("np-test-{}-{number}-switch", std::process::id());
        ip(&["netns", "add", &switch]);
        let mut hosts = Self {
            labs: Vec::new(),
            switch,
        };
        hosts.on_switch(&[
            "link",
            "add",
            SWITCH,
            "type",
            "bridge",
            "forward_delay",
            "0",
        ]);
        hosts.on_switch(&["addr", "add", &format!("{SWITCH4}/24"), "dev", SWITCH]);
        let v6 = format!("{SWITCH6}/64");
        hosts.on_switch(&["addr", "add", &v6, "dev", SWITCH, "nodad"]);
        for device in ["lo", SWITCH] {
            hosts.on_switch(&["link", "set", device, "up"]);
        }
        for nth in 0..count {
            let lab = Lab::of_namespaces(hosts.switch.clone());
            hosts.plug(&lab, nth);
            hosts.labs.push(lab);
        }
        hosts
    }

    /// Joins a host to the switch.
    fn plug(&self, lab: &Lab, nth: u8) {
        let (host, port) = (lab.host_namespace(), port(nth));
        ip(&[
            "link",
            "add",
            UPLINK,
            "netns",
            host,
            "type",
            "veth",
            "peer",
            "name",
            &port,
            "netns",
            &self.switch,
        ]);
        self.on_switch(&["link", "set", &port, "master", SWITCH]);
        self.on_switch(&["link", "set", &port, "up"]);
        let (v4, v6) = (format!("{}/24", v4(nth)), format!("{}/64", v6(nth)));
        let on_host = |args: &[&str]| ip(&[&["-n", host], args].concat());
        on_host(&["addr", "add", &v4, "dev", UPLINK]);
        on_host(&["addr", "add", &v6, "dev", UPLINK, "nodad"]);
        on_host(&["link", "set", UPLINK, "up"]);
        on_host(&["route", "add", "default", "via", SWITCH4]);
        on_host(&["-6", "route", "add", "default", "via", SWITCH6]);
    }

    fn on_switch(&self, args: &[&str]) {
        ip(&[&["-n", &self.switch], args].concat());
    }

    /// Sets the MTU of all uplinks, and of the switch.
    pub fn set_mtu(&self, mtu: &str) {
        for (nth, lab) in self.labs.iter().enumerate() {
            let host = lab.host_namespace();
            ip(&["-n", host, "link", "set", UPLINK, "mtu", mtu]);
            let nth = u8::try_from(nth).expect("few hosts");
            self.on_switch(&["link", "set", &port(nth), "mtu", mtu]);
        }
        self.on_switch(&["link", "set", SWITCH, "mtu", mtu]);
    }

    /// Cuts a host off, or joins it again.
    pub fn set_link(&self, nth: u8, up: bool) {
        let state = if up { "up" } else { "down" };
        self.on_switch(&["link", "set", &port(nth), state]);
    }

    /// Starts the agents of some hosts.
    #[track_caller]
    pub fn start_agents(&mut self, which: &[usize]) {
        for nth in which {
            self.labs[*nth].start_agent();
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.labs.len()
    }

    /// One of the hosts.
    pub fn lab(&mut self, nth: usize) -> &mut Lab {
        &mut self.labs[nth]
    }

    /// Runs a command on the switch.
    pub fn switch(&self, args: &[&str]) -> Ran {
        run(self.switch_command(args))
    }

    /// A command on the switch.
    pub fn switch_command(&self, args: &[&str]) -> Command {
        super::in_namespace(&self.switch, args)
    }

    /// File of the switch's namespace.
    pub fn switch_netns(&self) -> String {
        format!("/run/netns/{}", self.switch)
    }
}

impl Index<usize> for Hosts {
    type Output = Lab;

    fn index(&self, nth: usize) -> &Lab {
        &self.labs[nth]
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.labs.clear();
        remove_namespace(&self.switch);
    }
}

/// A host's IPv4 address.
pub fn v4(nth: u8) -> String {
    format!("192.0.2.{}", nth + 1)
}

/// A host's IPv6 address.
pub fn v6(nth: u8) -> String {
    format!("2001:db8:1::{}", nth + 1)
}

/// The switch's device to a host.
pub fn port(nth: u8) -> String {
    format!("port{nth}")
}
