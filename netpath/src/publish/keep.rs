//! Which of its ports a container keeps when its way out changes.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Binding, HostPorts, Mapping};

/// What becomes of the ports that a container has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// They stay.
    pub kept: Vec<Binding>,
    /// They are not wanted any more.
    pub released: Vec<Binding>,
    /// These are still to be reserved. A mapping that keeps its port at one address is to have
    /// the same at the other.
    pub missing: Vec<Mapping>,
}

/// Compares what is wanted with what is there. `families` are those that ports are published for
/// at all addresses.
pub fn keep(mappings: &[Mapping], families: (bool, bool), present: &[Binding]) -> Kept {
    let mut there: HashMap<_, Vec<Binding>> = HashMap::new();
    for binding in present {
        let key = (binding.proto, binding.container_port, binding.host_ip);
        there.entry(key).or_default().push(*binding);
    }
    let mut result = Kept::default();
    // Nobody is given what another mapping needs.
    let mut mappings: Vec<&Mapping> = mappings.iter().collect();
    mappings.sort_by_key(|mapping| mapping.host.choice());
    for mapping in mappings {
        let mut port = None;
        let mut missing = Vec::new();
        let addresses = addresses(mapping, families);
        for address in &addresses {
            let key = (mapping.proto, mapping.container, *address);
            let found = there.get_mut(&key).and_then(|bindings| {
                let fits = |binding: &Binding| match (port, mapping.host) {
                    (Some(port), _) => binding.host_port == port,
                    (None, HostPorts::Ephemeral) => true,
                    (None, HostPorts::Range(low, high)) => {
                        (low..=high).contains(&binding.host_port)
                    }
                };
                let at = bindings.iter().position(fits)?;
                Some(bindings.remove(at))
            });
            match found {
                Some(binding) => {
                    port = Some(binding.host_port);
                    result.kept.push(binding);
                }
                None => missing.push(*address),
            }
        }
        let Some(port) = port else {
            if !addresses.is_empty() {
                result.missing.push(*mapping);
            }
            continue;
        };
        result
            .missing
            .extend(missing.into_iter().map(|address| Mapping {
                host_ip: Some(address),
                host: HostPorts::Range(port, port),
                ..*mapping
            }));
    }
    let is_left = |binding: &&Binding| {
        let key = (binding.proto, binding.container_port, binding.host_ip);
        there.get(&key).is_some_and(|left| left.contains(binding))
    };
    result.released = present.iter().filter(is_left).copied().collect();
    result
}

/// The addresses of the host at which a mapping is published.
fn addresses(mapping: &Mapping, (v4, v6): (bool, bool)) -> Vec<IpAddr> {
    if let Some(address) = mapping.host_ip {
        return vec![address];
    }
    let any4 = v4.then_some(IpAddr::from(Ipv4Addr::UNSPECIFIED));
    let any6 = v6.then_some(IpAddr::from(Ipv6Addr::UNSPECIFIED));
    any4.into_iter().chain(any6).collect()
}

#[cfg(test)]
mod tests {
    use netpath_common::tuple::Proto;

    use super::*;
    use crate::publish::parse;

    fn binding(host_ip: &str, host_port: u16, container_port: u16) -> Binding {
        Binding {
            host_ip: host_ip.parse().unwrap(),
            host_port,
            container_port,
            proto: Proto::Tcp,
        }
    }

    fn mappings(texts: &[&str]) -> Vec<Mapping> {
        texts.iter().flat_map(|text| parse(text).unwrap()).collect()
    }

    #[test]
    fn what_fits_is_kept() {
        let present = [
            binding("0.0.0.0", 8080, 80),
            binding("::", 8080, 80),
            binding("0.0.0.0", 32768, 81),
            binding("::", 32768, 81),
        ];
        let result = keep(&mappings(&["8080:80", "81"]), (true, true), &present);
        assert_eq!(result.kept, present);
        assert!(result.released.is_empty() && result.missing.is_empty());
    }

    #[test]
    fn a_family_that_comes_gets_the_same_number() {
        let present = [binding("0.0.0.0", 32768, 80)];
        let result = keep(&mappings(&["80"]), (true, true), &present);
        assert_eq!(result.kept, present);
        let [missing] = result.missing[..] else {
            panic!("{result:?}")
        };
        assert_eq!(missing.host_ip, Some("::".parse().unwrap()));
        assert_eq!(missing.host, HostPorts::Range(32768, 32768));
    }

    #[test]
    fn a_family_that_goes_is_released() {
        let present = [binding("0.0.0.0", 1, 80), binding("::", 1, 80)];
        let result = keep(&mappings(&["80"]), (false, true), &present);
        assert_eq!(result.kept, present[1..]);
        assert_eq!(result.released, present[..1]);
        let result = keep(&mappings(&["80"]), (false, false), &present);
        assert_eq!((result.kept.len(), result.released.len()), (0, 2));
        assert!(result.missing.is_empty());
    }

    #[test]
    fn another_address_is_another_port() {
        let present = [binding("0.0.0.0", 32768, 80)];
        let wanted = mappings(&["127.0.0.1::80"]);
        let result = keep(&wanted, (true, false), &present);
        assert_eq!(
            (&result.missing, &result.released[..]),
            (&wanted, &present[..])
        );
    }

    #[test]
    fn two_mappings_of_one_port_keep_one_each() {
        let present = [binding("0.0.0.0", 1, 80), binding("0.0.0.0", 2, 80)];
        let result = keep(&mappings(&["80", "80"]), (true, false), &present);
        assert_eq!(result.kept, present);
        let result = keep(&mappings(&["80", "1:80"]), (true, false), &present);
        assert_eq!(result.kept, present);
        let result = keep(&mappings(&["2:80", "5:80"]), (true, false), &present);
        assert_eq!(result.kept, present[1..]);
        assert_eq!(result.released, present[..1]);
        assert_eq!(result.missing, mappings(&["5:80"]));
    }
}
