//! Networks: made, found, removed.

mod plan;

use anyhow::{Context, Result, anyhow};
use ipnet::IpNet;

use super::called::pick_network;
use super::{Agent, Held, docker};
use crate::api::types::{CreateNetwork, Network};
use crate::datapath::NetworkSpec;
use crate::netlink::{NewGateway, gateway_peer, sysctl};
use crate::problem::{conflict, invalid};
use crate::store::{Driver, NetworkRecord};

/// The network of containers that name none, made at the agent's first start.
pub const DEFAULT_NETWORK: &str = "bridge";
/// What Docker's users may call it, too.
const DEFAULT_ALIAS: &str = "default";
/// Networks that are no networks but ways to live without one, with their drivers in Docker.
pub(super) const PREDEFINED: [(&str, &str); 2] = [("host", "host"), ("none", "null")];
/// Packets between containers of one host never meet a cable, so they may be as large as the
/// kernel lets a route have them (65535 less 15). Fewer, larger packets: a stream of 16 KB
/// writes is several times faster than with an MTU of 1500.
pub(super) const LOCAL_MTU: u32 = 65_520;

impl Agent {
    /// Makes a network.
    ///
    /// # Errors
    /// A sentence; nothing is left of it.
    pub async fn create_network(&self, new: CreateNetwork) -> Result<Network> {
        if is_predefined(&new.name) {
            return Err(invalid(format!(
                "the name {} is reserved, choose another for the network",
                new.name
            )));
        }
        let mut held = self.held.lock().await;
        let record = self.create_network_held(&mut held, new).await?;
        self.view_network(&record)
    }

    /// Makes the default network if it is not there yet. A host on which it cannot be made is
    /// served all the same.
    pub(super) async fn make_default_network(&self) {
        let mut held = self.held.lock().await;
        if let Err(error) = self.network_for(&mut held, DEFAULT_NETWORK).await {
            log::warn!("there is no network {DEFAULT_NETWORK}: {error:#}");
        }
    }

    pub(super) async fn create_network_held(
        &self,
        held: &mut Held,
        new: CreateNetwork,
    ) -> Result<NetworkRecord> {
        if let Some(record) = self.create_shared(held, &new).await? {
            return Ok(record);
        }
        let record = self.plan_network(new).await?;
        self.check_beside_cluster(&record)?;
        self.finish_network(held, record).await
    }

    /// Writes down a planned network and makes it.
    pub(super) async fn finish_network(
        &self,
        held: &mut Held,
        mut record: NetworkRecord,
    ) -> Result<NetworkRecord> {
        self.store.put_network(&record)?;
        let made = self.make_network(&mut record).await.and_then(|()| {
            record.ready = true;
            self.store.put_network(&record)
        });
        if let Err(error) = made {
            if let Err(second) = self.unmake_network(&record).await {
                log::error!("cannot clean up after network {}: {second:#}", record.name);
            }
            return Err(error);
        }
        // The gateway's addresses are the host's own from now on.
        if let Err(error) = self.look_around(held).await {
            if let Err(second) = self.unmake_network(&record).await {
                log::error!("cannot clean up after network {}: {second:#}", record.name);
            }
            return Err(error);
        }
        log::info!("network {} is there", record.name);
        Ok(record)
    }

    /// Makes the kernel state of a network, as far as it is missing.
    pub(super) async fn make_network(&self, record: &mut NetworkRecord) -> Result<()> {
        match record.driver {
            Driver::Bridge => self.make_bridge(record).await,
            Driver::Overlay | Driver::Flannel => {
                self.make_bridge(record).await?;
                self.make_overlay(record).await
            }
            Driver::Macvlan | Driver::Ipvlan | Driver::Underlay => self.make_physical(record).await,
        }
    }

    async fn make_bridge(&self, record: &mut NetworkRecord) -> Result<()> {
        let (name, netlink) = (record.device.as_str(), &self.netlink);
        let present = netlink.link(name).await?;
        if present.as_ref().is_some_and(|link| !link.is_gateway()) {
            return Err(conflict(format!(
                "a device named {name} exists and is not netpath's, rename or remove it"
            )));
        }
        if present.is_none() {
            netlink
                .add_gateway(&NewGateway {
                    name,
                    mac: record.mac,
                    mtu: record.mtu,
                })
                .await?;
        }
        let link = netlink
            .link(name)
            .await?
            .ok_or_else(|| anyhow!("device {name} was removed while it was being set up"))?;
        record.ifindex = link.index;
        if link.mac != Some(record.mac) || link.mtu != record.mtu {
            netlink
                .set_mac_and_mtu(link.index, record.mac, record.mtu)
                .await?;
        }
        // Forwarding on this device only: the programs' route look-ups need it, the host
        // does not become a router by it. Before the addresses: switching it drops some.
        sysctl::set(&format!("ipv4/conf/{name}/forwarding"), "1")?;
        for (setting, value) in [("accept_ra", "0"), ("accept_dad", "0"), ("forwarding", "1")] {
            sysctl::set(&format!("ipv6/conf/{name}/{setting}"), value)?;
        }
        if record.policy.is_isolated(false) {
            // Not even a link-local address.
            sysctl::set(&format!("ipv6/conf/{name}/disable_ipv6"), "1")?;
        }
        // Nobody lives at the other end; it is up for the gateway to have a carrier.
        let peer = gateway_peer(name);
        sysctl::set(&format!("ipv6/conf/{peer}/disable_ipv6"), "1")?;
        let peer = netlink
            .link(&peer)
            .await?
            .with_context(|| format!("device {peer} is gone"))?;
        netlink.set_up(peer.index).await?;
        netlink
            .set_alias(link.index, &format!("netpath network {}", record.name))
            .await?;
        for subnet in &record.subnets {
            let Some(gateway) = subnet.gateway else {
                continue;
            };
            let address = IpNet::new(gateway, subnet.prefix.prefix_len())?;
            netlink.add_address(link.index, address).await?;
        }
        netlink.set_up(link.index).await?;
        self.with_datapath(|datapath| datapath.add_network(&network_spec(record)))
    }

    /// Removes all of a network that there may be.
    pub(super) async fn unmake_network(&self, record: &NetworkRecord) -> Result<()> {
        if record.driver.shares_card() {
            self.unmake_physical(record).await?;
            return self.store.remove_network(&record.name);
        }
        let mut spec = network_spec(record);
        if let Some(link) = self.netlink.link(&record.device).await?
            && link.is_gateway()
        {
            spec.gateway_ifindex = link.index;
            self.with_datapath(|datapath| datapath.remove_network(&spec))?;
            self.netlink.delete_link(&record.device).await?;
        } else {
            self.with_datapath(|datapath| datapath.remove_network(&spec))?;
        }
        self.store.remove_network(&record.name)?;
        self.unmake_overlay(record).await
    }

    /// Removes a network that no container uses, by its id, its name or the beginning of its id.
    ///
    /// # Errors
    /// A sentence: it does not exist, is always there, or is in use.
    pub async fn remove_network(&self, word: &str) -> Result<()> {
        let mut held = self.held.lock().await;
        let name = &self.network_name(word)?;
        if is_predefined(name) {
            return Err(invalid(format!(
                "network {name} is always there and cannot be removed"
            )));
        }
        let record = self.store.network(name)?;
        docker::check_is_ours(&record)?;
        let users = self.users_of(name)?;
        if !users.is_empty() {
            return Err(conflict(format!(
                "network {name} is in use by {}, remove {} first",
                users.join(", "),
                if users.len() == 1 { "it" } else { "them" }
            )));
        }
        self.remove_shared(&held, &record).await?;
        self.unmake_network(&record).await?;
        log::info!("network {name} is gone");
        self.look_around(&mut held).await
    }

    /// The containers that are in a network.
    pub(super) fn users_of(&self, name: &str) -> Result<Vec<String>> {
        let containers = self.store.containers()?;
        let users = containers.iter().filter(|c| c.endpoint_in(name).is_some());
        Ok(users.map(|container| container.name.clone()).collect())
    }

    /// The network of a request; the default one is made if it could not be made at the start.
    pub(super) async fn network_for(&self, held: &mut Held, word: &str) -> Result<NetworkRecord> {
        let wanted = match word {
            DEFAULT_ALIAS => DEFAULT_NETWORK,
            word => word,
        };
        let networks = self.store.networks()?;
        if wanted == DEFAULT_NETWORK && networks.iter().all(|network| network.name != wanted) {
            let new = CreateNetwork {
                name: wanted.into(),
                ..CreateNetwork::default()
            };
            return self.create_network_held(held, new).await;
        }
        let name = match self.network_name(wanted) {
            Ok(name) => name,
            Err(error) => return self.take_up(held, wanted).await?.ok_or(error),
        };
        let network = self.store.network(&name)?;
        docker::check_is_ours(&network)?;
        Ok(network)
    }

    /// The name of the network that somebody means by an id, a name, or the beginning of an id,
    /// tried in this order.
    ///
    /// # Errors
    /// There is none, or several ids begin so.
    pub(super) fn network_name(&self, word: &str) -> Result<String> {
        let records = self.store.networks()?;
        let mut known: Vec<(String, String)> = records
            .into_iter()
            .map(|record| (record.name, record.uid))
            .collect();
        for (name, _) in PREDEFINED {
            known.push((name.into(), self.predefined_id(name)?));
        }
        pick_network(word, &known)
    }

    /// The id of a network that has no record.
    pub(super) fn predefined_id(&self, name: &str) -> Result<String> {
        self.store.id_of(&format!("network {name}"))
    }
}

/// Whether it is the name of a network that is always there.
fn is_predefined(name: &str) -> bool {
    [DEFAULT_NETWORK, DEFAULT_ALIAS].contains(&name)
        || PREDEFINED.iter().any(|(other, _)| *other == name)
}

pub(super) fn network_spec(record: &NetworkRecord) -> NetworkSpec {
    NetworkSpec {
        id: record.id,
        gateway_ifindex: record.ifindex,
        gateway_mac: record.mac,
        subnets: record.subnets.iter().map(|subnet| subnet.prefix).collect(),
        policy: record.policy.record(),
    }
}
