//! Published ports of networks whose containers are reached by their own addresses: nothing of
//! the host is taken for them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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

/// The policies of the networks that lead a container out, for IPv4 and for IPv6: these are where
/// its ports are published.
#[derive(Clone, Copy, Debug, Default)]
pub struct WaysOut<'a> {
    /// For IPv4; `None` without one.
    pub v4: Option<&'a Policy>,
    /// For IPv6; `None` without one.
    pub v6: Option<&'a Policy>,
}

/// What is published at addresses of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// The mappings.
    pub of_host: Vec<Mapping>,
    /// Whether ports of the host are published for IPv4, and for IPv6.
    pub families: (bool, bool),
}

/// The ports of a container that are published at its own address in a network of this policy;
/// the address and the port of the host in a mapping mean nothing then.
pub fn opened(policy: &Policy, v4: bool, mappings: &[Mapping]) -> Vec<Opened> {
    let mut opened = Vec::new();
    if !policy.is_routed(v4) || policy.internal {
        return opened;
    }
    for mapping in mappings {
        let chosen = mapping.host_ip.or(policy.host_binding);
        let port = Opened {
            v4,
            proto: mapping.proto,
            port: mapping.container,
        };
        if chosen.is_none_or(|ip| ip.is_ipv4() == v4) && !opened.contains(&port) {
            opened.push(port);
        }
    }
    opened
}

/// Picks what takes ports of the host. Host addresses of a family for which there is no way out
/// stay in it, to be complained of where ports are reserved.
///
/// A mapping that names no address of the host gets the choice of the network.
pub fn split(ways: WaysOut<'_>, mappings: &[Mapping]) -> Split {
    let routed = |v4: bool, policy: Option<&Policy>| policy.is_some_and(|p| p.is_routed(v4));
    let families = (
        ways.v4.is_some() && !routed(true, ways.v4),
        ways.v6.is_some() && !routed(false, ways.v6),
    );
    let mut split = Split {
        families,
        ..Split::default()
    };
    for mapping in mappings {
        // The addresses at which it is published, if not at all of all families.
        let mut some = Vec::new();
        let mut everywhere = mapping.host_ip.is_none();
        for (v4, policy) in [(true, ways.v4), (false, ways.v6)] {
            let chosen = mapping.host_ip.or(policy.and_then(|p| p.host_binding));
            let covered = chosen.is_none_or(|ip| ip.is_ipv4() == v4);
            if covered && routed(v4, policy) {
                continue;
            }
            if covered && (policy.is_some() || mapping.host_ip.is_some()) {
                let any = IpAddr::from(Ipv4Addr::UNSPECIFIED);
                let any = if v4 {
                    any
                } else {
                    Ipv6Addr::UNSPECIFIED.into()
                };
                some.push(chosen.unwrap_or(any));
                everywhere &= chosen.is_none();
            } else if !covered && policy.is_some() {
                everywhere = false;
                // The network's choice may be of a family that has no way out at all.
                let other = if v4 { ways.v6 } else { ways.v4 };
                some.extend(chosen.filter(|_| mapping.host_ip.is_none() && other.is_none()));
            }
        }
        if everywhere && !some.is_empty() {
            split.of_host.push(*mapping);
        } else {
            let at = |ip: IpAddr| Mapping {
                host_ip: Some(ip),
                ..*mapping
            };
            split.of_host.extend(some.into_iter().map(at));
        }
    }
    split
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::GatewayMode;
    use crate::publish::parse;

    fn both(policy: &Policy) -> WaysOut<'_> {
        WaysOut {
            v4: Some(policy),
            v6: Some(policy),
        }
    }

    fn split_of(policy: &Policy, texts: &[&str]) -> (usize, Vec<String>, (bool, bool)) {
        let mappings: Vec<Mapping> = texts.iter().flat_map(|t| parse(t).unwrap()).collect();
        let split = split(both(policy), &mappings);
        let opened = [true, false]
            .map(|v4| opened(policy, v4, &mappings))
            .concat();
        let opened = opened.iter().map(|port| format!("{} {port}", port.v4));
        (split.of_host.len(), opened.collect(), split.families)
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

    fn hosts(ways: WaysOut<'_>, texts: &[&str]) -> Vec<String> {
        let mappings: Vec<Mapping> = texts.iter().flat_map(|t| parse(t).unwrap()).collect();
        let split = split(ways, &mappings);
        let host = |m: &Mapping| m.host_ip.map_or("all".into(), |ip| ip.to_string());
        split.of_host.iter().map(host).collect()
    }

    #[test]
    fn the_networks_address_is_for_mappings_without_one() {
        let policy = Policy {
            host_binding: Some("192.0.2.7".parse().unwrap()),
            ..Policy::default()
        };
        let texts = ["8080:80", "127.0.0.1:1:1"];
        assert_eq!(hosts(both(&policy), &texts), ["192.0.2.7", "127.0.0.1"]);
        // There is no IPv4: that is complained of later, by this address.
        let only6 = WaysOut {
            v4: None,
            v6: Some(&policy),
        };
        assert_eq!(hosts(only6, &texts), ["192.0.2.7", "127.0.0.1"]);
    }

    #[test]
    fn the_families_may_leave_by_different_networks() {
        let plain = Policy::default();
        let bound = Policy {
            host_binding: Some("192.0.2.7".parse().unwrap()),
            ..Policy::default()
        };
        let ways = WaysOut {
            v4: Some(&bound),
            v6: Some(&plain),
        };
        assert_eq!(hosts(ways, &["80"]), ["192.0.2.7", "::"]);
        assert_eq!(hosts(both(&plain), &["80"]), ["all"]);
        let only4 = WaysOut {
            v4: Some(&plain),
            v6: None,
        };
        assert_eq!(hosts(only4, &["80", "[::1]:81:81"]), ["all", "::1"]);
        assert_eq!(hosts(WaysOut::default(), &["80"]), Vec::<String>::new());
    }
}
