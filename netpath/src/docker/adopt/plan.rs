//! What is adopted: from what Docker tells, what the kernel has, and what the firewall says.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::client::{DockerContainer, DockerNetwork, Snapshot};
use super::firewall::{Rules, Scope};
use super::records::subnets_of;
use super::sandbox::Sandbox;
use super::{AdoptedEndpoint, AdoptedNetwork, Refusals};
use crate::netlink::{Address, Link};
use crate::policy::{self, GatewayMode};
use crate::publish::Binding;

/// Options of Docker's that say what a network lets in and out.
const OPTIONS: [&str; 6] = [
    "com.docker.network.bridge.enable_icc",
    "com.docker.network.bridge.enable_ip_masquerade",
    "com.docker.network.bridge.gateway_mode_ipv4",
    "com.docker.network.bridge.gateway_mode_ipv6",
    "com.docker.network.host_ipv4",
    "com.docker.network.host_ipv6",
];
/// Swarm's bridge towards the outside: who is connected to it Docker does not tell.
const SWARM: &str = "docker_gwbridge";

/// Why traffic within a network is refused until connections have ended.
pub const WAITING: &str = "containers talk by a published port since before the adoption";

/// Something that is not adopted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refused {
    /// Network, container or port.
    pub what: String,
    /// The reason.
    pub why: String,
}

/// All that there is to know.
#[derive(Debug)]
pub struct Facts<'a> {
    /// What Docker tells.
    pub snapshot: &'a Snapshot,
    /// Names of networks to adopt; none means all.
    pub only: &'a [String],
    /// Networks that are adopted already.
    pub known: &'a [AdoptedNetwork],
    /// What is in the containers, by Docker's number, or why it could not be seen. The host's own
    /// namespace is `None`.
    pub sandboxes: &'a HashMap<String, Result<Option<Sandbox>, String>>,
    /// The host's devices.
    pub links: &'a [Link],
    /// The host's addresses.
    pub addresses: &'a [Address],
    /// Names of the uplinks.
    pub uplinks: &'a [String],
    /// The rules of the firewall; `None` if they are to be ignored.
    pub rules: Option<&'a Rules>,
    /// Whether what passes a bridge passes rules of iptables.
    pub bridged: bool,
}

/// What is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Networks; those that are new have the number 0.
    pub networks: Vec<AdoptedNetwork>,
    /// Interfaces of containers, each with the name of the network.
    pub endpoints: Vec<(String, AdoptedEndpoint)>,
    /// What is not adopted.
    pub refused: Vec<Refused>,
}

impl Plan {
    /// Makes the plan.
    pub fn new(facts: &Facts<'_>) -> Self {
        let mut plan = Self::default();
        for name in facts.only {
            if !facts
                .snapshot
                .networks
                .iter()
                .any(|network| network.name == *name)
            {
                plan.refuse(
                    format!("network {name}"),
                    "Docker has no bridge network of this name",
                );
            }
        }
        let mut networks: Vec<&DockerNetwork> = facts
            .snapshot
            .networks
            .iter()
            .filter(|network| facts.only.is_empty() || facts.only.contains(&network.name))
            .collect();
        networks.sort_by(|a, b| a.name.cmp(&b.name));
        for network in networks {
            match plan_network(facts, network) {
                Ok(network) => plan.networks.push(network),
                Err(why) => plan.refuse(format!("network {}", network.name), why),
            }
        }
        let mut containers: Vec<&DockerContainer> = facts.snapshot.containers.iter().collect();
        containers.sort_by(|a, b| a.name.cmp(&b.name));
        for container in containers {
            plan.add_container(facts, container);
        }
        plan
    }

    /// Notes that something is not adopted.
    pub fn refuse(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.refused.push(Refused {
            what: what.into(),
            why: why.into(),
        });
    }

    fn add_container(&mut self, facts: &Facts<'_>, container: &DockerContainer) {
        let sandbox = match facts.sandboxes.get(&container.id) {
            Some(Ok(Some(sandbox))) => sandbox,
            // The host's own namespace; or it has just begun, and is looked at next time.
            Some(Ok(None)) | None => return,
            Some(Err(why)) => {
                self.refuse(format!("container {}", container.name), why.clone());
                return;
            }
        };
        let is_veth = |link: &&Link| link.kind.as_deref() == Some("veth") && link.peer != 0;
        for card in sandbox.links.iter().filter(is_veth) {
            // A container may have a Docker in it, and veths of that.
            let (addresses, _) = sandbox.addresses_of(card.index);
            if !addresses
                .iter()
                .any(|(ip, _)| container.addresses.contains(ip))
            {
                continue;
            }
            // Both ends say who the other is; an index alone may be another namespace's.
            let veth = facts.links.iter().find(|link| {
                link.index == card.peer
                    && link.peer == card.index
                    && link.kind.as_deref() == Some("veth")
                    && link.master.is_some()
            });
            let Some(veth) = veth else { continue };
            let network = self
                .networks
                .iter()
                .find(|network| Some(network.ifindex) == veth.master);
            if let (Some(network), Some(mac)) = (network, card.mac) {
                let planned = endpoint(container, network, sandbox, card, veth, mac);
                let name = network.name.clone();
                self.endpoints.push((name, planned));
            }
        }
    }
}

fn plan_network(facts: &Facts<'_>, network: &DockerNetwork) -> Result<AdoptedNetwork, String> {
    if network.name == SWARM {
        return Err("Swarm's way out is left to Docker".to_owned());
    }
    let bridge = facts
        .links
        .iter()
        .find(|link| link.name == network.bridge)
        .ok_or_else(|| {
            format!(
                "its bridge {} is not in this network namespace",
                network.bridge
            )
        })?;
    let mac = bridge
        .mac
        .ok_or_else(|| format!("its bridge {} has no MAC address", network.bridge))?;
    if bridge.kind.as_deref() != Some("bridge") {
        return Err(format!("{} is not a bridge", network.bridge));
    }
    let options: BTreeMap<String, String> = network
        .options
        .iter()
        .filter(|(key, value)| OPTIONS.contains(&key.as_str()) && !value.is_empty())
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let mut policy = policy::parse(network.internal, &options)
        .map_err(|error| format!("{error:#}"))?
        .policy;
    let gateways: Vec<(IpAddr, u8)> = facts
        .addresses
        .iter()
        .filter(|address| address.index == bridge.index && address.is_global)
        .map(|address| (address.ip, address.prefix_len))
        .collect();
    let known = facts
        .known
        .iter()
        .find(|known| known.docker_id == network.id);
    let mut refused = Refusals::default();
    if policy.internal {
        let why = "the network is internal";
        refused.add(false, true, true, why);
    } else {
        // Docker may have been told to leave a family alone; then so do we.
        if facts.rules.is_some_and(|rules| !rules.has_docker(false)) {
            policy.gateway_mode_ipv6 = GatewayMode::Routed;
        }
        if facts.rules.is_some_and(|rules| !rules.has_docker(true)) {
            let why = "Docker has no rules of its own in the firewall (--iptables=false?)";
            refused.add(false, true, true, why);
        }
        if !policy.masquerade || policy.gateway_mode_ipv4 == GatewayMode::Routed {
            refused.add(
                false,
                true,
                false,
                "its containers leave by their own addresses",
            );
        }
        if let Some(why) = too_large(facts, bridge) {
            refused.add(false, true, true, &why);
        }
    }
    if !policy.icc {
        refused.add(
            true,
            false,
            false,
            "its containers do not talk with each other",
        );
    }
    if let Some(rules) = facts.rules {
        let subnets = subnets_of(&gateways);
        let others = facts.snapshot.networks.iter().map(|other| &other.bridge);
        let elsewhere: Vec<String> = facts
            .uplinks
            .iter()
            .chain(others.filter(|other| **other != network.bridge))
            .cloned()
            .collect();
        let found = rules.judge(&Scope {
            bridge: &network.bridge,
            subnets: &subnets,
            elsewhere: &elsewhere,
            bridged: facts.bridged,
        });
        refused.within = refused.within.or(found.within);
        refused.outward = refused.outward.or(found.outward);
        refused.inward = refused.inward.or(found.inward);
        // Else answers between neighbours would go around the translation of their questions.
        let beyond = refused.outward.is_some() || refused.inward.is_some();
        if beyond && !policy.internal && rules.translates_within(&network.bridge) {
            let why = "the kernel translates published ports between its containers";
            refused.add(true, false, false, why);
        }
    }
    Ok(AdoptedNetwork {
        id: known.map_or(0, |known| known.id),
        docker_id: network.id.clone(),
        name: network.name.clone(),
        bridge: network.bridge.clone(),
        ifindex: bridge.index,
        mac,
        gateways,
        policy,
        refused,
    })
}

/// Packets that leave by a narrower way are the stack's: it tells the sender that they are too
/// big.
fn too_large(facts: &Facts<'_>, bridge: &Link) -> Option<String> {
    let narrow = facts
        .links
        .iter()
        .find(|link| facts.uplinks.contains(&link.name) && link.mtu < bridge.mtu)?;
    Some(format!(
        "its MTU {} is larger than {} of uplink {} (create it with \
         --opt com.docker.network.driver.mtu={})",
        bridge.mtu, narrow.mtu, narrow.name, narrow.mtu
    ))
}

fn endpoint(
    container: &DockerContainer,
    network: &AdoptedNetwork,
    sandbox: &Sandbox,
    card: &Link,
    veth: &Link,
    mac: [u8; 6],
) -> AdoptedEndpoint {
    let (addresses, link_local) = sandbox.addresses_of(card.index);
    let v4: Option<(Ipv4Addr, u8)> = addresses.iter().find_map(|(ip, length)| match ip {
        IpAddr::V4(ip) => Some((*ip, *length)),
        IpAddr::V6(_) => None,
    });
    let v6: Option<(Ipv6Addr, u8)> = addresses.iter().find_map(|(ip, length)| match ip {
        IpAddr::V6(ip) => Some((*ip, *length)),
        IpAddr::V4(_) => None,
    });
    let [out4, out6] = sandbox.ways_out;
    let leads_here = |binding: &&Binding| {
        if binding.host_ip.is_ipv4() {
            v4.is_some() && out4 == Some(card.index)
        } else {
            v6.is_some()
                && out6 == Some(card.index)
                && network.policy.gateway_mode_ipv6 != GatewayMode::Routed
        }
    };
    let ports = container.ports.iter().filter(leads_here).copied().collect();
    AdoptedEndpoint {
        container: container.name.clone(),
        docker_id: container.id.clone(),
        network: network.id,
        device: veth.name.clone(),
        ifindex: veth.index,
        mac,
        addr4: v4,
        addr6: v6,
        link_local,
        netns: sandbox.netns,
        ports,
    }
}

/// Devices that are there as an endpoint has them.
pub fn still_there(endpoint: &AdoptedEndpoint, bridge: u32, links: &[Link]) -> bool {
    links.iter().any(|link| {
        link.index == endpoint.ifindex
            && link.name == endpoint.device
            && link.master == Some(bridge)
    })
}

/// Addresses of adopted containers with their networks.
pub fn owners(endpoints: &[AdoptedEndpoint]) -> HashMap<IpAddr, u16> {
    endpoints
        .iter()
        .flat_map(|endpoint| endpoint.addresses().map(|addr| (addr, endpoint.network)))
        .collect()
}

/// Leaves what neighbours say to each other to the kernel, as long as it translates some of it.
pub fn wait_for_neighbours(networks: &mut [AdoptedNetwork], within: &HashSet<u16>) {
    for network in networks
        .iter_mut()
        .filter(|network| within.contains(&network.id))
    {
        network.refused.add(true, false, false, WAITING);
    }
}
