//! Settings of the kernel that a container is given: those of its network namespace
//! (`--sysctl`), and those of one interface (an option of its connection to a network).

use std::collections::BTreeMap;

use anyhow::Result;

use crate::netlink::sysctl;
use crate::problem::{conflict, invalid, quoted};

/// What stands for the interface's name in a setting of an interface, as with Docker.
const INTERFACE: &str = "IFNAME";
/// Nothing that the kernel takes is longer.
const LONGEST: usize = 256;
/// Without which nothing of a network namespace is set.
const PREFIX: &str = "net.";
/// A namespace with this one on has no IPv6.
const IPV6_OFF: &str = "net.ipv6.conf.all.disable_ipv6";

/// A setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    key: String,
    /// Below `/proc/sys/net`.
    path: String,
    value: String,
}

impl Setting {
    /// Reads a key and a value.
    ///
    /// # Errors
    /// A sentence: it is none of a network namespace.
    pub fn parse(key: &str, value: &str) -> Result<Self> {
        let Some(rest) = key.strip_prefix(PREFIX) else {
            return Err(invalid(format!(
                "setting {} cannot be a container's: only settings of its network, net.…, are its own",
                quoted(key)
            )));
        };
        // As sysctl(8) has it: a dot in a name is written as a slash.
        let swap = |c| match c {
            '.' => '/',
            '/' => '.',
            other => other,
        };
        let path: String = rest.chars().map(swap).collect();
        let is_part = |part: &str| {
            let legal = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
            !part.is_empty() && part != "." && part != ".." && part.chars().all(legal)
        };
        if path.len() > LONGEST || !path.split('/').all(is_part) {
            return Err(invalid(format!(
                "{} is not the name of a setting, write one like net.ipv4.tcp_keepalive_time",
                quoted(key)
            )));
        }
        let legal = !value.is_empty()
            && value.len() <= LONGEST
            && !value.contains(|c: char| c.is_control() && c != '\t');
        if !legal {
            return Err(invalid(format!(
                "{} cannot be the value of {key}",
                quoted(value)
            )));
        }
        Ok(Self {
            key: key.to_owned(),
            path,
            value: value.to_owned(),
        })
    }

    /// Sets it in the network namespace of the calling thread.
    ///
    /// # Errors
    /// A sentence: the kernel has no such setting there, or does not take the value.
    pub fn apply(&self) -> Result<()> {
        let Self { key, path, value } = self;
        match sysctl::set(path, value) {
            Ok(true) => Ok(()),
            Ok(false) => Err(conflict(format!(
                "the kernel has no setting {key} in this container's network"
            ))),
            Err(error) => Err(conflict(format!(
                "the kernel does not take {} for {key} ({})",
                quoted(value),
                error.root_cause()
            ))),
        }
    }
}

/// The settings of a container.
///
/// # Errors
/// See [`Setting::parse`].
pub fn parse(settings: &BTreeMap<String, String>) -> Result<Vec<Setting>> {
    let parsed = settings.iter().map(|(k, v)| Setting::parse(k, v));
    parsed.collect()
}

/// Whether the settings of a container leave it without IPv6.
pub fn switch_ipv6_off(settings: &BTreeMap<String, String>) -> bool {
    settings
        .get(IPV6_OFF)
        .is_some_and(|value| value.trim() != "0")
}

/// Whether the network namespace of the calling thread is without IPv6.
pub fn ipv6_is_off() -> bool {
    sysctl::get("ipv6/conf/all/disable_ipv6").is_none_or(|value| value != "0")
}

/// The settings of an interface, separated by commas: `net.ipv4.conf.IFNAME.KEY=VALUE`.
///
/// # Errors
/// A sentence: one of them is none of an interface.
pub fn of_interface(text: &str, interface: &str) -> Result<Vec<Setting>> {
    let one = |text: &str| {
        let Some((key, value)) = text.split_once('=') else {
            return Err(invalid(format!(
                "{} is no setting of an interface, write net.ipv4.conf.{INTERFACE}.KEY=VALUE",
                quoted(text)
            )));
        };
        let mut parts = key.split('.');
        let is_interfaces = parts.next() == Some("net")
            && parts.next().is_some()
            && matches!(parts.next(), Some("conf" | "neigh"))
            && parts.next() == Some(INTERFACE)
            && parts.next().is_some();
        if !is_interfaces {
            return Err(invalid(format!(
                "setting {} is none of an interface, write net.ipv4.conf.{INTERFACE}.KEY=VALUE (the \
                 word {INTERFACE} stands for its name)",
                quoted(key)
            )));
        }
        // A dot in the name would be a separator.
        let name = interface.replace('.', "/");
        Setting::parse(&key.replacen(INTERFACE, &name, 1), value)
    };
    text.split(',').map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_those_of_the_network() {
        let setting = Setting::parse("net.ipv4.conf.eth0/7.forwarding", "1").unwrap();
        assert_eq!(setting.path, "ipv4/conf/eth0.7/forwarding");
        for (key, value, part) in [
            ("kernel.shmmax", "1", "kernel.shmmax"),
            ("net.", "1", "net."),
            ("net.ipv4", "", "\"\""),
            ("net.ipv4.x", "a\nb", "net.ipv4.x"),
            ("net.//.x", "1", "net.//.x"),
            ("net.a..b", "1", "net.a..b"),
            ("net.a b", "1", "net.a b"),
            ("", "1", "\"\""),
        ] {
            let error = Setting::parse(key, value).unwrap_err().to_string();
            assert!(error.contains(part), "{key}={value}: {error}");
        }
        let long = "x".repeat(64 << 10);
        assert!(Setting::parse(&format!("net.{long}"), "1").is_err());
        assert!(Setting::parse("net.ipv4.x", &long).is_err());
    }

    #[test]
    fn settings_of_an_interface_name_it() {
        let text = "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.neigh.IFNAME.mcast_solicit=7";
        let settings = of_interface(text, "eth1.5").unwrap();
        let paths: Vec<&str> = settings.iter().map(|s| s.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "ipv4/conf/eth1.5/log_martians",
                "ipv6/neigh/eth1.5/mcast_solicit"
            ]
        );
        for text in [
            "",
            "net.ipv4.conf.IFNAME.x",
            "net.ipv4.conf.eth0.x=1",
            "net.ipv4.conf.all.x=1",
            "net.ipv4.ip_forward=1",
            "net.ipv4.conf.IFNAME=1",
            "net.ipv4.conf.IFNAME.x=1,",
            "net.ipv4.conf.IFNAME...=1",
        ] {
            assert!(of_interface(text, "eth0").is_err(), "{text}");
        }
    }
}
