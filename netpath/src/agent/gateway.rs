//! Which of a container's networks leads out of it: by default routes, and in by published ports.

use std::cmp::Reverse;

use crate::store::{EndpointRecord, NetworkRecord};

/// The endpoints that lead out, as places in the list of a container's endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Gateways {
    /// For IPv4.
    pub(super) v4: Option<usize>,
    /// For IPv6.
    pub(super) v6: Option<usize>,
}

impl Gateways {
    /// Chooses among a container's endpoints as Docker does: the highest priority wins, then
    /// who has more families, then the first name of a network; the families are chosen for on
    /// their own. Internal networks lead nowhere, and neither does one without a gateway.
    pub(super) fn choose(endpoints: &[EndpointRecord], networks: &[NetworkRecord]) -> Self {
        let best = |v4: bool| {
            let leads = |endpoint: &EndpointRecord| {
                let has = endpoint.addresses().any(|address| address.is_ipv4() == v4);
                let network = network_of(endpoint, networks);
                has && network.is_some_and(|network| {
                    let gateway = network.subnet(v4).and_then(|subnet| subnet.gateway);
                    !network.policy.internal && gateway.is_some()
                })
            };
            let candidates = (0..).zip(endpoints).filter(|(_, e)| leads(e));
            let first = candidates.min_by_key(|(_, endpoint)| {
                let families = endpoint.addresses().count();
                (
                    Reverse(endpoint.gw_priority),
                    Reverse(families),
                    &endpoint.network,
                )
            });
            first.map(|(place, _)| place)
        };
        Self {
            v4: best(true),
            v6: best(false),
        }
    }

    /// For a family.
    pub(super) fn of(self, v4: bool) -> Option<usize> {
        if v4 { self.v4 } else { self.v6 }
    }

    /// Whether the endpoint at `place` leads out, for IPv4 and for IPv6.
    pub(super) fn families(self, place: usize) -> [bool; 2] {
        [self.v4 == Some(place), self.v6 == Some(place)]
    }
}

/// The network that an endpoint is in.
pub(super) fn network_of<'a>(
    endpoint: &EndpointRecord,
    networks: &'a [NetworkRecord],
) -> Option<&'a NetworkRecord> {
    networks
        .iter()
        .find(|network| network.id == endpoint.network_id)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn network(id: u16, name: &str, v6: bool, internal: bool) -> NetworkRecord {
        let mut subnets = vec![json!({"prefix": "10.0.0.0/24", "gateway": "10.0.0.1"})];
        if v6 {
            subnets.push(json!({"prefix": "fd00::/64", "gateway": "fd00::1"}));
        }
        let mut network: NetworkRecord = serde_json::from_value(json!({
            "name": name, "id": id, "subnets": subnets, "mtu": 1500, "local_mtu": 1500,
            "device": "", "ifindex": 0, "mac": [0, 0, 0, 0, 0, 0], "created": 0, "ready": true,
        }))
        .unwrap();
        network.policy.internal = internal;
        network
    }

    fn endpoint(network: &NetworkRecord, gw_priority: i32) -> EndpointRecord {
        EndpointRecord {
            network: network.name.clone(),
            network_id: network.id,
            addr4: Some("10.0.0.2".parse().unwrap()),
            addr6: network.subnet(false).map(|_| "fd00::2".parse().unwrap()),
            gw_priority,
            ..EndpointRecord::default()
        }
    }

    fn chosen(of: &[(&NetworkRecord, i32)]) -> (Option<usize>, Option<usize>) {
        let endpoints: Vec<_> = of
            .iter()
            .map(|(n, priority)| endpoint(n, *priority))
            .collect();
        let networks: Vec<_> = of.iter().map(|(network, _)| (*network).clone()).collect();
        let gateways = Gateways::choose(&endpoints, &networks);
        (gateways.v4, gateways.v6)
    }

    #[test]
    fn priority_then_families_then_name() {
        let (a, b) = (network(1, "a", false, false), network(2, "b", false, false));
        let (dual, inside) = (
            network(3, "dual", true, false),
            network(4, "in", true, true),
        );
        assert_eq!(chosen(&[]), (None, None));
        assert_eq!(chosen(&[(&b, 0), (&a, 0)]), (Some(1), None));
        assert_eq!(chosen(&[(&a, 0), (&b, 1)]), (Some(1), None));
        assert_eq!(chosen(&[(&a, -1), (&b, 0)]), (Some(1), None));
        assert_eq!(chosen(&[(&a, 0), (&dual, 0)]), (Some(1), Some(1)));
        // Each family has its own way.
        assert_eq!(chosen(&[(&a, 5), (&dual, 0)]), (Some(0), Some(1)));
        // However high its priority, an internal network leads nowhere.
        assert_eq!(chosen(&[(&inside, 9), (&b, 0)]), (Some(1), None));
        assert_eq!(chosen(&[(&inside, 0)]), (None, None));
    }

    #[test]
    fn who_leads_out_is_told_by_family() {
        let gateways = Gateways {
            v4: Some(1),
            v6: None,
        };
        assert_eq!(gateways.families(1), [true, false]);
        assert_eq!(gateways.families(0), [false, false]);
        assert_eq!((gateways.of(true), gateways.of(false)), (Some(1), None));
    }
}
