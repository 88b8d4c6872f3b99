//! What a network lets in and out, as a user asks for it: `--internal` and `-o KEY=VALUE`.
//!
//! The keys are Docker's; each also has a short name.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
pub use netpath_common::policy::GatewayMode;
use netpath_common::policy::{self as record, ICC_OFF, INTERNAL, MASQUERADE_OFF};
use serde::{Deserialize, Serialize};

use crate::problem::invalid;

/// A network's policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// Nothing leaves the network, nothing from elsewhere comes in; the host and its containers
    /// reach each other by the gateway.
    pub internal: bool,
    /// Containers of the network reach each other.
    pub icc: bool,
    /// Containers leave by an address of the host (not in mode `routed`).
    pub masquerade: bool,
    /// How the network meets the world by IPv4.
    pub gateway_mode_ipv4: GatewayMode,
    /// How the network meets the world by IPv6.
    pub gateway_mode_ipv6: GatewayMode,
    /// The source of masqueraded IPv4 packets; `None` for the uplink's.
    pub host_ipv4: Option<Ipv4Addr>,
    /// The source of masqueraded IPv6 packets; `None` for the uplink's.
    pub host_ipv6: Option<Ipv6Addr>,
    /// Where ports are published that name no address of the host; `None` for everywhere.
    pub host_binding: Option<IpAddr>,
    /// Devices of the host from which published ports are reached by the containers' own
    /// addresses, too.
    pub trusted_host_interfaces: Vec<String>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            internal: false,
            icc: true,
            masquerade: true,
            gateway_mode_ipv4: GatewayMode::Nat,
            gateway_mode_ipv6: GatewayMode::Nat,
            host_ipv4: None,
            host_ipv6: None,
            host_binding: None,
            trusted_host_interfaces: Vec::new(),
        }
    }
}

/// What options say: a policy, and what else there is a Docker option for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The policy.
    pub policy: Policy,
    /// Largest packet in bytes.
    pub mtu: Option<u32>,
    /// Name of the gateway device.
    pub device: Option<String>,
    /// What the names of interfaces in containers begin with; a number follows.
    pub interface_prefix: Option<String>,
    /// Whether the network has IPv4.
    pub ipv4: Option<bool>,
    /// Whether the network has IPv6.
    pub ipv6: Option<bool>,
}

/// The options: short names, then Docker's, in the order of the sentence that lists them.
const KEYS: [(&[&str], &str); 13] = [
    (
        &["gateway_mode_ipv4"],
        "com.docker.network.bridge.gateway_mode_ipv4",
    ),
    (
        &["gateway_mode_ipv6"],
        "com.docker.network.bridge.gateway_mode_ipv6",
    ),
    (
        &["icc", "enable_icc"],
        "com.docker.network.bridge.enable_icc",
    ),
    (
        &["masquerade", "enable_ip_masquerade"],
        "com.docker.network.bridge.enable_ip_masquerade",
    ),
    (&["host_ipv4"], "com.docker.network.host_ipv4"),
    (&["host_ipv6"], "com.docker.network.host_ipv6"),
    (
        &["host_binding_ipv4"],
        "com.docker.network.bridge.host_binding_ipv4",
    ),
    (
        &["trusted_host_interfaces"],
        "com.docker.network.bridge.trusted_host_interfaces",
    ),
    (&["mtu"], "com.docker.network.driver.mtu"),
    (&["name"], "com.docker.network.bridge.name"),
    (
        &["iface_prefix"],
        "com.docker.network.container_iface_prefix",
    ),
    (&["ipv4", "enable_ipv4"], "com.docker.network.enable_ipv4"),
    (&["ipv6", "enable_ipv6"], "com.docker.network.enable_ipv6"),
];
/// The other end of a gateway device has two bytes more in its name, and a device's name has at
/// most 15.
const LONGEST_DEVICE: usize = 13;
/// Two digits follow.
const LONGEST_PREFIX: usize = 13;

/// Reads `--internal` and the options of a request.
///
/// # Errors
/// A sentence about the first option that is unknown or makes no sense, alone or with the others.
pub fn parse(internal: bool, options: &BTreeMap<String, String>) -> Result<Options> {
    let mut parsed = Options {
        policy: Policy {
            internal,
            ..Policy::default()
        },
        ..Options::default()
    };
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for (key, value) in options {
        let name = canonical(key)?;
        if let Some(other) = seen.insert(name, key)
            && options.get(other) != Some(value)
        {
            return Err(invalid(format!(
                "options {other} and {key} mean the same and contradict each other"
            )));
        }
        apply(&mut parsed, name, value)
            .map_err(|reason| invalid(format!("option {key}={value}: {reason}")))?;
    }
    check(&parsed.policy)?;
    Ok(parsed)
}

/// Docker's name of an option, which may be given by a short one; what is unknown stays.
pub fn docker_name(key: &str) -> &str {
    let found = KEYS.iter().find(|(short, _)| short.contains(&key));
    found.map_or(key, |(_, docker)| docker)
}

/// The first of the short names of an option.
fn canonical(key: &str) -> Result<&'static str> {
    let found = KEYS
        .iter()
        .find(|(short, docker)| short.contains(&key) || *docker == key);
    match found.and_then(|(short, _)| short.first()) {
        Some(name) => Ok(name),
        None => {
            let known: Vec<&str> = KEYS
                .iter()
                .filter_map(|(s, _)| s.first().copied())
                .collect();
            Err(invalid(format!(
                "option {key} is unknown, there are: {}",
                known.join(", ")
            )))
        }
    }
}

fn apply(options: &mut Options, name: &str, value: &str) -> Result<(), String> {
    let policy = &mut options.policy;
    match name {
        "gateway_mode_ipv4" => policy.gateway_mode_ipv4 = mode(value)?,
        "gateway_mode_ipv6" => policy.gateway_mode_ipv6 = mode(value)?,
        "icc" => policy.icc = switch(value)?,
        "masquerade" => policy.masquerade = switch(value)?,
        "host_ipv4" => policy.host_ipv4 = Some(source(value, "an IPv4", Ipv4Addr::UNSPECIFIED)?),
        "host_ipv6" => policy.host_ipv6 = Some(source(value, "an IPv6", Ipv6Addr::UNSPECIFIED)?),
        "host_binding_ipv4" => {
            let address: IpAddr = value
                .parse()
                .map_err(|_| "that is not an IP address".to_owned())?;
            // Everywhere is the default.
            policy.host_binding = Some(address).filter(|address| !is_everywhere_v4(address));
        }
        "trusted_host_interfaces" => policy.trusted_host_interfaces = interfaces(value)?,
        "name" => {
            check_interface(value)?;
            if value.len() > LONGEST_DEVICE {
                return Err(format!("the name is longer than {LONGEST_DEVICE} bytes"));
            }
            options.device = Some(value.to_owned());
        }
        "iface_prefix" => {
            check_interface(value)?;
            if value.len() > LONGEST_PREFIX {
                return Err(format!("the prefix is longer than {LONGEST_PREFIX} bytes"));
            }
            options.interface_prefix = Some(value.to_owned());
        }
        "ipv4" => options.ipv4 = Some(switch(value)?),
        "ipv6" => options.ipv6 = Some(switch(value)?),
        _ => {
            let mtu = value.parse();
            options.mtu = Some(mtu.map_err(|_| "that is not a number of bytes".to_owned())?);
        }
    }
    Ok(())
}

fn is_everywhere_v4(address: &IpAddr) -> bool {
    *address == IpAddr::V4(Ipv4Addr::UNSPECIFIED)
}

fn mode(text: &str) -> Result<GatewayMode, String> {
    Ok(match text {
        "nat" => GatewayMode::Nat,
        "routed" => GatewayMode::Routed,
        "nat-unprotected" => GatewayMode::NatUnprotected,
        "isolated" => GatewayMode::Isolated,
        _ => return Err("the modes are nat, routed, nat-unprotected and isolated".into()),
    })
}

/// The words that Docker takes for yes and no.
///
/// # Errors
/// It is neither.
pub fn switch(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("write true or false".into()),
    }
}

/// A source address of a family, of which `none` is not one.
fn source<T: std::str::FromStr + PartialEq>(
    text: &str,
    family: &str,
    none: T,
) -> Result<T, String> {
    let address: IpAddr = text
        .parse()
        .map_err(|_| format!("that is not {family} address"))?;
    let usable = !(address.is_unspecified() || address.is_loopback() || address.is_multicast());
    match text.parse::<T>() {
        Ok(address) if usable && address != none => Ok(address),
        Ok(_) => Err("packets cannot leave with that address".into()),
        Err(_) => Err(format!("that is not {family} address")),
    }
}

/// Names of devices, which need not exist (yet).
fn interfaces(text: &str) -> Result<Vec<String>, String> {
    let mut names: Vec<String> = Vec::new();
    for name in text.split(':') {
        check_interface(name)
            .map_err(|reason| format!("{reason} (names are separated by colons)"))?;
        if !names.iter().any(|other| other == name) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Checks the name of an interface: the kernel's own rule (dev_valid_name), and a colon is for
/// other things.
///
/// # Errors
/// A sentence that quotes it.
pub fn check_interface(name: &str) -> Result<(), String> {
    let valid = (1..16).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(|c: char| "/:".contains(c) || c.is_whitespace() || c.is_control());
    if valid {
        return Ok(());
    }
    Err(format!(
        "\"{}\" is not the name of an interface",
        name.escape_debug()
    ))
}

fn check(policy: &Policy) -> Result<()> {
    for (v4, key) in [(true, "gateway_mode_ipv4"), (false, "gateway_mode_ipv6")] {
        match policy.mode(v4) {
            GatewayMode::Isolated if !policy.internal => {
                return Err(invalid(format!(
                    "option {key}=isolated is for internal networks, add --internal"
                )));
            }
            GatewayMode::Routed | GatewayMode::NatUnprotected if policy.internal => {
                return Err(invalid(format!(
                    "option {key}={} contradicts --internal, which lets nothing in or out",
                    mode_name(policy.mode(v4))
                )));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A mode as users write it.
pub fn mode_name(mode: GatewayMode) -> &'static str {
    match mode {
        GatewayMode::Nat => "nat",
        GatewayMode::Routed => "routed",
        GatewayMode::NatUnprotected => "nat-unprotected",
        GatewayMode::Isolated => "isolated",
    }
}

impl Policy {
    /// The gateway mode of a family.
    pub fn mode(&self, v4: bool) -> GatewayMode {
        if v4 {
            self.gateway_mode_ipv4
        } else {
            self.gateway_mode_ipv6
        }
    }

    /// Whether the host is outside the network in a family.
    pub fn is_isolated(&self, v4: bool) -> bool {
        self.mode(v4) == GatewayMode::Isolated
    }

    /// Whether published ports of a family are ports of the containers' own addresses, and not
    /// of the host.
    pub fn is_routed(&self, v4: bool) -> bool {
        self.mode(v4) == GatewayMode::Routed
    }

    /// Whether anybody asks which ports of the containers are published.
    pub fn needs_open_ports(&self, v4: bool) -> bool {
        self.is_routed(v4) || !self.trusted_host_interfaces.is_empty()
    }

    /// Checks it against the families that the network has.
    ///
    /// # Errors
    /// A sentence about an option for a family that the network does not have.
    pub fn check_families(&self, v4: bool, v6: bool) -> Result<()> {
        let binding = |family: bool| self.host_binding.is_some_and(|ip| ip.is_ipv4() == family);
        let default = GatewayMode::Nat;
        for (there, family, flag, used) in [
            (
                v4,
                "IPv4",
                "an IPv4 --subnet",
                [
                    (self.host_ipv4.is_some(), "host_ipv4"),
                    (self.gateway_mode_ipv4 != default, "gateway_mode_ipv4"),
                    (binding(true), "host_binding_ipv4"),
                ],
            ),
            (
                v6,
                "IPv6",
                "--ipv6",
                [
                    (self.host_ipv6.is_some(), "host_ipv6"),
                    (self.gateway_mode_ipv6 != default, "gateway_mode_ipv6"),
                    (binding(false), "host_binding_ipv4"),
                ],
            ),
        ] {
            if let Some((_, key)) = used.iter().find(|(used, _)| *used && !there) {
                return Err(invalid(format!(
                    "option {key} is about {family}, which the network does not have, add {flag}"
                )));
            }
        }
        Ok(())
    }

    /// As the programs read it.
    pub fn record(&self) -> record::Policy {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        record::Policy {
            snat4: self
                .host_ipv4
                .map_or(record::Policy::default().snat4, Into::into),
            snat6: self
                .host_ipv6
                .map_or(record::Policy::default().snat6, Into::into),
            mode4: self.gateway_mode_ipv4,
            mode6: self.gateway_mode_ipv6,
            flags: flag(self.internal, INTERNAL)
                | flag(!self.icc, ICC_OFF)
                | flag(!self.masquerade, MASQUERADE_OFF),
            reserved: [0; 5],
        }
    }

    /// What is not as usual, in a few words; empty if all is.
    pub fn summary(&self) -> String {
        let mut words = Vec::new();
        if self.internal {
            words.push("internal".to_owned());
        }
        let modes = [true, false].map(|v4| mode_name(self.mode(v4)));
        match modes {
            ["nat", "nat"] => {}
            [v4, v6] if v4 == v6 => words.push(v4.to_owned()),
            [v4, v6] => words.push(format!("{v4}/{v6}")),
        }
        if !self.icc {
            words.push("icc off".to_owned());
        }
        if !self.masquerade {
            words.push("masquerade off".to_owned());
        }
        let addresses = self.host_ipv4.map(IpAddr::V4).into_iter();
        for address in addresses.chain(self.host_ipv6.map(IpAddr::V6)) {
            words.push(format!("source {address}"));
        }
        if let Some(address) = self.host_binding {
            words.push(format!("ports at {address}"));
        }
        if !self.trusted_host_interfaces.is_empty() {
            words.push(format!("trusts {}", self.trusted_host_interfaces.join(":")));
        }
        words.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        owned.collect()
    }

    #[test]
    fn short_and_long_names_mean_the_same() {
        for (short, docker) in KEYS {
            let value = match short[0] {
                "gateway_mode_ipv4" | "gateway_mode_ipv6" => "nat-unprotected",
                "icc" | "masquerade" => "false",
                "host_ipv4" | "host_binding_ipv4" => "192.0.2.7",
                "host_ipv6" => "2001:db8::7",
                "trusted_host_interfaces" => "eth1:wg0",
                "name" | "iface_prefix" => "lan",
                "ipv4" | "ipv6" => "true",
                _ => "1400",
            };
            let expected = parse(false, &options(&[(docker, value)])).unwrap();
            assert_ne!(expected, Options::default(), "{docker}");
            for name in short {
                let parsed = parse(false, &options(&[(name, value)])).unwrap();
                assert_eq!(parsed, expected, "{name}");
            }
        }
    }

    #[test]
    fn refusals_name_the_option() {
        for (internal, pairs, part) in [
            (false, &[("color", "blue")][..], "option color is unknown"),
            (false, &[("color", "blue")], "trusted_host_interfaces"),
            (false, &[("icc", "maybe")], "icc=maybe"),
            (
                false,
                &[("icc", "true"), ("enable_icc", "false")],
                "contradict each other",
            ),
            (
                false,
                &[("gateway_mode_ipv4", "bridge")],
                "nat, routed, nat-unprotected and isolated",
            ),
            (false, &[("gateway_mode_ipv6", "isolated")], "--internal"),
            (true, &[("gateway_mode_ipv4", "routed")], "--internal"),
            (
                false,
                &[("host_ipv4", "2001:db8::1")],
                "not an IPv4 address",
            ),
            (false, &[("host_ipv4", "banana")], "not an IPv4 address"),
            (false, &[("host_ipv6", "192.0.2.1")], "not an IPv6 address"),
            (false, &[("host_ipv4", "0.0.0.0")], "cannot leave"),
            (false, &[("host_ipv6", "::1")], "cannot leave"),
            (false, &[("host_binding_ipv4", "x")], "not an IP address"),
            (false, &[("trusted_host_interfaces", "eth0:")], "\"\""),
            (
                false,
                &[("trusted_host_interfaces", "a-name-that-is-long")],
                "a-name-that-is-long",
            ),
            (false, &[("mtu", "big")], "mtu=big"),
            (false, &[("name", "a/b")], "\"a/b\""),
            (false, &[("name", "fourteen-bytes")], "longer than 13"),
            (false, &[("iface_prefix", "")], "\"\""),
            (false, &[("ipv4", "off")], "write true or false"),
        ] {
            let error = parse(internal, &options(pairs)).unwrap_err().to_string();
            assert!(error.contains(part), "{pairs:?}: {error}");
        }
    }

    #[test]
    fn options_of_a_missing_family_are_refused() {
        let policy = |pair| parse(false, &options(&[pair])).unwrap().policy;
        let v6 = policy(("host_ipv6", "2001:db8::1"));
        assert!(v6.check_families(true, true).is_ok());
        let error = v6.check_families(true, false).unwrap_err().to_string();
        assert!(
            error.contains("host_ipv6") && error.contains("--ipv6"),
            "{error}"
        );
        let v4 = policy(("host_binding_ipv4", "192.0.2.1"));
        assert!(v4.check_families(false, true).is_err());
    }

    #[test]
    fn a_record_without_a_policy_has_the_usual_one() {
        assert_eq!(
            serde_json::from_str::<Policy>("{}").unwrap(),
            Policy::default()
        );
        let json = serde_json::to_value(Policy {
            gateway_mode_ipv4: GatewayMode::NatUnprotected,
            ..Policy::default()
        });
        assert_eq!(json.unwrap()["gateway_mode_ipv4"], "nat-unprotected");
        assert_eq!(Policy::default().summary(), "");
    }
}
