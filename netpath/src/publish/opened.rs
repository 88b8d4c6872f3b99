//! Published ports of networks whose containers are reached by their own addresses: nothing of
//! the host is taken for them.

use std::fmt;
use std::net::IpAddr;

use netpath_common::tuple::Proto;
use serde::{Deserialize, Serialize};

use super::{Mapping, proto_name};
use crate::policy::Policy;

/// A port of a container that is published at the container's own address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Opened {
    /// At its IPv4 address; else at its IPv6 address.
    pub v4: bool,
    /// TCP or UDP.
    pub proto: Proto,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Opened {
    /// As `docker ps` prints a port without one of the host: `80/tcp`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, proto_name(self.proto))
    }
}

/// Divides what is to be published into ports of the host, which stay in `mappings`, and ports
/// of the container itself, which are returned. `families` are those that the container has
/// and the host publishes for; the routed ones are taken out of it.
///
/// A mapping that names no address of the host gets the network's own choice.
pub fn split(
    policy: &Policy,
    mappings: &mut Vec<Mapping>,
    families: &mut (bool, bool),
) -> Vec<Opened> {
    let (v4, v6) = *families;
    let mut opened = Vec::new();
    mappings.retain_mut(|mapping| {
        mapping.host_ip = mapping.host_ip.or(policy.host_binding);
        let covers = |family: bool| {
            mapping
                .host_ip
                .is_none_or(|ip: IpAddr| ip.is_ipv4() == family)
        };
        let mut of_host = false;
        for (family, there) in [(true, v4), (false, v6)] {
            if !covers(family) {
                continue;
            }
            if there && policy.is_routed(family) {
                let port = Opened {
                    v4: family,
                    proto: mapping.proto,
                    port: mapping.container,
                };
                if !opened.contains(&port) {
                    opened.push(port);
                }
            } else {
                // A family that is missing is complained of where ports are reserved.
                of_host |= there || mapping.host_ip.is_some();
            }
        }
        of_host
    });
    *families = (
        v4 && !policy.is_routed(true),
        v6 && !policy.is_routed(false),
    );
    opened
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::GatewayMode;
    use crate::publish::parse;

    fn split_of(policy: &Policy, texts: &[&str]) -> (usize, Vec<String>, (bool, bool)) {
        let mut mappings: Vec<Mapping> = texts.iter().flat_map(|t| parse(t).unwrap()).collect();
        let mut families = (true, true);
        let opened = split(policy, &mut mappings, &mut families);
        let opened = opened.iter().map(|port| format!("{} {port}", port.v4));
        (mappings.len(), opened.collect(), families)
    }

    #[test]
    fn routed_families_take_nothing_of_the_host() {
        let mut policy = Policy {
            gateway_mode_ipv6: GatewayMode::Routed,
            ..Policy::default()
        };
        let (left, opened, families) = split_of(&policy, &["8080:80", "[2001:db8::1]:81:81/udp"]);
        // The address and the port of the host mean nothing to a routed family.
        assert_eq!((left, families), (1, (true, false)));
        assert_eq!(opened, ["false 80/tcp", "false 81/udp"]);
        policy.gateway_mode_ipv4 = GatewayMode::Routed;
        let (left, opened, families) = split_of(&policy, &["8080:80", "8081:80"]);
        assert_eq!((left, families), (0, (false, false)));
        assert_eq!(opened, ["true 80/tcp", "false 80/tcp"]);
    }

    #[test]
    fn the_networks_address_is_for_mappings_without_one() {
        let policy = Policy {
            host_binding: Some("192.0.2.7".parse().unwrap()),
            ..Policy::default()
        };
        let mut mappings = [parse("8080:80").unwrap(), parse("127.0.0.1:1:1").unwrap()].concat();
        assert_eq!(split(&policy, &mut mappings, &mut (true, true)), []);
        let hosts: Vec<String> = mappings
            .iter()
            .map(|m| m.host_ip.unwrap().to_string())
            .collect();
        assert_eq!(hosts, ["192.0.2.7", "127.0.0.1"]);
    }
}
