//! Plans: what a container is to get is looked for before anything is made.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Result;

use super::attach::There;
use super::endpoint::{FIRST_INTERFACE, Source, free_interface};
use super::network::DEFAULT_NETWORK;
use super::physical::{Taken, check_free};
use super::ports::Missing;
use super::{Agent, Held, interface};
use crate::api::types::{Connect, Join};
use crate::container::names;
use crate::ipam::{allocate, check_wanted};
use crate::problem::{conflict, invalid};
use crate::publish;
use crate::store::{ContainerRecord, EndpointRecord, Mode, NetworkRecord};

impl Agent {
    /// Finds networks, addresses and ports for a new container and notes them in its record.
    /// `there` is what its namespace has. Returns the network that was made for it, if one was.
    pub(super) async fn plan_container(
        &self,
        held: &mut Held,
        record: &mut ContainerRecord,
        connect: &Connect,
        there: &There,
    ) -> Result<Option<NetworkRecord>> {
        // All of the request is checked before a network is made for it.
        for text in &connect.publish {
            publish::parse(text)?;
        }
        for join in &connect.networks {
            check(join)?;
        }
        let default = Join {
            network: DEFAULT_NETWORK.into(),
            ..Join::default()
        };
        let joins = match &connect.networks[..] {
            [] => std::slice::from_ref(&default),
            some => some,
        };
        let known = self.store.networks()?.len();
        let mut made = None;
        let planned = async {
            for join in joins {
                let network = self.network_for(held, &join.network).await?;
                if self.store.networks()?.len() > known {
                    made = Some(network.clone());
                }
                let endpoint = self.plan_endpoint(record, &network, join, there).await?;
                record.endpoints.push(endpoint);
            }
            record.publish.clone_from(&connect.publish);
            let networks = self.store.networks()?;
            self.check_links(record)?;
            self.check_way_out(record, &networks)?;
            self.settle_ports(held, record, &networks, Missing::New)
        };
        match planned.await {
            Ok(()) => Ok(made),
            Err(error) => {
                self.unmake_made(made.as_ref()).await;
                Err(error)
            }
        }
    }

    /// Removes a network that was made for a container which is not to be.
    pub(super) async fn unmake_made(&self, network: Option<&NetworkRecord>) {
        if let Some(network) = network
            && let Err(error) = self.unmake_network(network).await
        {
            log::error!("cannot clean up after network {}: {error:#}", network.name);
        }
    }

    /// Ports can only be published where somebody could reach them.
    fn check_way_out(&self, record: &ContainerRecord, networks: &[NetworkRecord]) -> Result<()> {
        let inside = |endpoint: &EndpointRecord| {
            let network = super::gateway::network_of(endpoint, networks);
            network.is_some_and(|network| network.policy.internal)
        };
        if record.publish.is_empty() || !record.endpoints.iter().all(inside) {
            return Ok(());
        }
        let names = record.network_names();
        let (networks, are) = match names.len() {
            1 => ("network", "is"),
            _ => ("networks", "are"),
        };
        Err(invalid(format!(
            "{networks} {} {are} internal, so nobody outside could reach a published port, leave \
             out -p or choose another network",
            names.join(", ")
        )))
    }

    /// Finds an interface, a MAC address and addresses for a container in one more network.
    pub(super) async fn plan_endpoint(
        &self,
        record: &ContainerRecord,
        network: &NetworkRecord,
        join: &Join,
        there: &There,
    ) -> Result<EndpointRecord> {
        check(join)?;
        if record.endpoint_in(&network.name).is_some() {
            return Err(conflict(format!(
                "container {} is in network {} already",
                record.name, network.name
            )));
        }
        if network.name == DEFAULT_NETWORK && !join.aliases.is_empty() {
            return Err(invalid(format!(
                "network {DEFAULT_NETWORK} has no names for its containers, so an alias would be \
                 of no use: make a network of your own"
            )));
        }
        let own = record.endpoints.iter().map(|e| e.interface.as_str());
        let taken = there.interfaces.iter().map(String::as_str).chain(own);
        let taken: Vec<&str> = taken.collect();
        let interface = match interface::check(&join.options)? {
            Some(name) if taken.contains(&name) => {
                return Err(conflict(format!(
                    "container {} has an interface {name} already, choose another name",
                    record.name
                )));
            }
            Some(name) => name.to_owned(),
            None => free_interface(network.interface_prefix.as_deref(), &taken),
        };
        let mac = match &join.mac {
            Some(text) => {
                self.check_mac(network, names::parse_mac(text)?, text)
                    .await?
            }
            // Its device brings one.
            None => [0; 6],
        };
        let mut endpoint = EndpointRecord {
            network: network.name.clone(),
            network_id: network.id,
            interface,
            mac,
            aliases: join.aliases.clone(),
            gw_priority: join.gw_priority,
            options: join.options.clone(),
            ..EndpointRecord::default()
        };
        if there.ipv6_off {
            // As with Docker: it has IPv4 alone, and nobody is told otherwise.
            if join.ip6.is_some() || network.subnet(true).is_none() {
                return Err(conflict(format!(
                    "IPv6 is switched off in container {} (net.ipv6.conf.all.disable_ipv6), so it \
                     can have no IPv6 address in network {}",
                    record.name, network.name
                )));
            }
        }
        let (mut network, mut join) = (network.clone(), join.clone());
        let Join { ip, ip6, .. } = &mut join;
        self.claim_addresses(&mut network, &record.name, ip, ip6)
            .await?;
        let taken = self.taken_beside(&network).await?;
        for address in self.plan_addresses(network, &join, !there.ipv6_off, &taken)? {
            match address {
                IpAddr::V4(address) => endpoint.addr4 = Some(address),
                IpAddr::V6(address) => endpoint.addr6 = Some(address),
            }
        }
        Ok(endpoint)
    }

    /// Checks that nobody in a network, or on its wire, has a MAC address.
    async fn check_mac(
        &self,
        network: &NetworkRecord,
        mac: [u8; 6],
        text: &str,
    ) -> Result<[u8; 6]> {
        let containers = self.store.containers()?;
        let has = |container: &&Arc<ContainerRecord>| {
            let endpoint = container.endpoint_in(&network.name);
            endpoint.is_some_and(|endpoint| endpoint.mac == mac)
        };
        let owner = match containers.iter().find(has) {
            Some(container) => format!("container {}", container.name),
            None if network.mac == mac && network.sharing.is_none() => "its gateway".into(),
            None => {
                let on_wire = match &network.sharing {
                    Some(sharing) => self.owner_of_mac(sharing, mac).await?,
                    None => None,
                };
                match on_wire {
                    Some(owner) => owner,
                    None => return Ok(mac),
                }
            }
        };
        Err(conflict(format!(
            "MAC address {text} belongs to {owner} in network {}, choose another",
            network.name
        )))
    }

    /// `v6`: whether it is to have an IPv6 address if the network has any. `taken`: what is
    /// somebody's beside the network's containers.
    fn plan_addresses(
        &self,
        mut network: NetworkRecord,
        join: &Join,
        v6: bool,
        taken: &[Taken],
    ) -> Result<Vec<IpAddr>> {
        let mut used = self.store.leases(network.id)?;
        used.extend(network.aside.values());
        used.extend(taken.iter().map(|taken| taken.address));
        let mut addresses = Vec::new();
        for (v4, wanted) in [
            (true, join.ip.map(IpAddr::V4)),
            (false, join.ip6.map(IpAddr::V6)),
        ] {
            let address = match (network.subnet(v4), wanted) {
                (None, None) => continue,
                _ if !v4 && !v6 => continue,
                (None, Some(wanted)) => {
                    let family = if v4 { "IPv4" } else { "IPv6" };
                    return Err(invalid(format!(
                        "address {wanted} cannot be had: network {} has no {family} subnet",
                        network.name
                    )));
                }
                (Some(subnet), Some(wanted)) => {
                    check_free(taken, wanted)?;
                    check_wanted(subnet, &used, wanted)?;
                    self.check_not_elsewhere(&network, wanted)?;
                    wanted
                }
                (Some(subnet), None) => {
                    let last = network.last_leases.iter().find(|last| last.is_ipv4() == v4);
                    let address =
                        self.beside_tunnels(&network, last.copied(), &used, |last, used| {
                            allocate(subnet, used, last)
                        })?;
                    network.last_leases.retain(|last| last.is_ipv4() != v4);
                    network.last_leases.push(address);
                    address
                }
            };
            addresses.push(address);
        }
        self.store.put_network(&network)?;
        Ok(addresses)
    }

    /// Finds a device for an endpoint: a spare one, or a name for one that is to be made. With
    /// `in_place` the spare's namespace becomes the container's.
    pub(super) async fn plan_device(
        &self,
        endpoint: &mut EndpointRecord,
        network: &NetworkRecord,
        in_place: bool,
    ) -> Result<Source> {
        let chosen = endpoint.mac != [0; 6];
        if let Some(sharing) = &network.sharing {
            if sharing.has_veths(network.driver) {
                endpoint.device = self.new_device()?;
            }
            if !chosen {
                endpoint.mac = names::random_mac()?;
            }
            return Ok(Source::New);
        }
        // A spare that stays where it is keeps its name and its address.
        let as_it_is = !chosen && endpoint.interface == FIRST_INTERFACE;
        if (!in_place || as_it_is)
            && let Some(spare) = self.take_spare(network.mtu, network.local_mtu).await
        {
            endpoint.device.clone_from(&spare.device);
            if !chosen {
                endpoint.mac = spare.mac;
            }
            return Ok(if in_place {
                Source::InPlace(spare)
            } else {
                Source::Spare(spare)
            });
        }
        endpoint.device = self.new_device()?;
        if !chosen {
            endpoint.mac = names::random_mac()?;
        }
        Ok(Source::New)
    }
}

/// What a request says about a network that can be judged without knowing it.
fn check(join: &Join) -> Result<()> {
    for alias in &join.aliases {
        names::check("container", alias)?;
    }
    if let Some(mac) = &join.mac {
        names::parse_mac(mac)?;
    }
    Ok(())
}

/// What a request says about where a container has its network from.
///
/// # Errors
/// It contradicts itself.
pub(super) fn mode(connect: &Connect) -> Result<Mode> {
    let word = |join: &Join| match join.network.as_str() {
        "host" => Some(Mode::Host),
        "none" => Some(Mode::None),
        other => {
            let name = other.strip_prefix("container:")?;
            Some(Mode::Container(name.to_owned()))
        }
    };
    let Some((join, mode)) = connect.networks.iter().find_map(|j| Some((j, word(j)?))) else {
        let mut seen: Vec<&str> = Vec::new();
        for join in &connect.networks {
            if seen.contains(&join.network.as_str()) {
                return Err(invalid(format!("network {} is named twice", join.network)));
            }
            seen.push(&join.network);
        }
        return Ok(Mode::Networks);
    };
    if connect.networks.len() > 1 {
        return Err(invalid(format!(
            "--network {} stands alone: a container that has it is in no other network",
            join.network
        )));
    }
    let plain = Join {
        network: join.network.clone(),
        ..Join::default()
    };
    if *join != plain {
        return Err(invalid(format!(
            "addresses, MAC address, aliases and gateway priority are those of an interface, and \
             with --network {} a container has none of its own",
            join.network
        )));
    }
    if let Mode::Container(name) = &mode {
        names::check_word("container", name)?;
        if !connect.publish.is_empty() {
            return Err(invalid(format!(
                "ports are published by container {name}, whose network this one shares, not by \
                 those that share it: leave out -p"
            )));
        }
    }
    Ok(mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(networks: &[&str]) -> Connect {
        let join = |name: &&str| Join {
            network: (*name).to_owned(),
            ..Join::default()
        };
        Connect {
            networks: networks.iter().map(join).collect(),
            ..Connect::default()
        }
    }

    #[test]
    fn modes_are_told_from_networks() {
        for (networks, expected) in [
            (&[][..], Mode::Networks),
            (&["net"], Mode::Networks),
            (&["bridge", "net"], Mode::Networks),
            (&["host"], Mode::Host),
            (&["none"], Mode::None),
            (&["container:web"], Mode::Container("web".into())),
        ] {
            assert_eq!(mode(&connect(networks)).unwrap(), expected);
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for (networks, part) in [
            (&["net", "host"][..], "--network host stands alone"),
            (&["none", "none"], "stands alone"),
            (&["net", "net"], "network net is named twice"),
            (&["container:"], "cannot name a container"),
            (&["container:a b"], "cannot name a container"),
        ] {
            let error = mode(&connect(networks)).unwrap_err().to_string();
            assert!(error.contains(part), "{networks:?}: {error}");
        }
        let mut shared = connect(&["container:web"]);
        shared.publish.push("80:80".into());
        let error = mode(&shared).unwrap_err().to_string();
        assert!(error.contains("published by container web"), "{error}");
        let mut host = connect(&["host"]);
        host.networks[0].gw_priority = 1;
        assert!(mode(&host).is_err());
    }
}
