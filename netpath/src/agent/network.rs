//! Networks.

use std::net::IpAddr;

use anyhow::{Context, Result, anyhow};
use ipnet::IpNet;

use super::{Agent, Held, docker, now, overlay};
use crate::api::types::{CreateNetwork, Network};
use crate::container::{files, names};
use crate::datapath::NetworkSpec;
use crate::ipam::{choose_pool, overlaps, parse_cidr, plan, random_ula};
use crate::netlink::{NewGateway, gateway_peer, sysctl};
use crate::policy;
use crate::problem::{conflict, invalid};
use crate::store::{Driver, NetworkRecord};

/// The network of containers that name none, made when it is first needed.
pub const DEFAULT_NETWORK: &str = "bridge";
/// Names that mean something else to people who know Docker.
const RESERVED: [&str; 3] = ["default", "host", "none"];
/// IPv4 demands 68 bytes, IPv6 1280 (RFC 8200); a packet has at most 65535.
const MTU: (u32, u32) = (68, 65_535);
const MTU_V6: u32 = 1280;
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
        let mut held = self.held.lock().await;
        let record = self.create_network_held(&mut held, new).await?;
        self.view_network(&record)
    }

    pub(super) async fn create_network_held(
        &self,
        held: &mut Held,
        new: CreateNetwork,
    ) -> Result<NetworkRecord> {
        let record = self.plan_network(new).await?;
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

    pub(super) async fn plan_network(&self, new: CreateNetwork) -> Result<NetworkRecord> {
        names::check("network", &new.name)?;
        if RESERVED.contains(&new.name.as_str()) {
            return Err(invalid(format!(
                "the name {} is reserved, choose another for the network",
                new.name
            )));
        }
        let driver = new
            .driver
            .as_deref()
            .map_or(Ok(Driver::default()), str::parse)?;
        check_driver(driver)?;
        let mut pairs = new.options.clone();
        let networks = self.store.networks()?;
        let overlay = match driver {
            Driver::Overlay => Some(overlay::plan(&mut pairs, &networks)?),
            _ => None,
        };
        let options = policy::parse(new.internal, &pairs)?;
        if networks.iter().any(|other| other.name == new.name) {
            return Err(conflict(format!(
                "a network named {} exists already, remove it first or choose another name",
                new.name
            )));
        }
        let mut prefixes = new
            .subnets
            .iter()
            .map(|text| parse_cidr(text))
            .collect::<Result<Vec<_>>>()?;
        let routes = self.host_routes(&networks).await?;
        let other_prefixes: Vec<(&str, IpNet)> = networks
            .iter()
            .flat_map(|other| {
                other
                    .subnets
                    .iter()
                    .map(|s| (other.name.as_str(), s.prefix))
            })
            .collect();
        if prefixes.is_empty() {
            let taken: Vec<IpNet> = other_prefixes
                .iter()
                .map(|(_, prefix)| *prefix)
                .chain(routes.iter().map(|(prefix, _)| *prefix))
                .collect();
            let servers: Vec<IpAddr> =
                files::nameservers(&files::host_resolv_conf(&self.settings.resolv_conf)).collect();
            prefixes.push(choose_pool(&taken, &servers)?);
        }
        if new.ipv6 && !prefixes.iter().any(|prefix| prefix.addr().is_ipv6()) {
            prefixes.push(random_ula(names::random()?));
        }
        for prefix in &prefixes {
            if let Some((other, theirs)) = other_prefixes
                .iter()
                .find(|(_, theirs)| overlaps(prefix, theirs))
            {
                return Err(conflict(format!(
                    "subnet {prefix} overlaps {theirs} of network {other}, choose another"
                )));
            }
            if let Some((theirs, device)) =
                routes.iter().find(|(theirs, _)| overlaps(prefix, theirs))
            {
                return Err(conflict(format!(
                    "subnet {prefix} overlaps the host's route {theirs}{device}, choose another"
                )));
            }
        }
        let policy = options.policy;
        let subnets = plan(&prefixes, &new.gateways, |v4| policy.is_isolated(v4))?;
        let has = |v4: bool| subnets.iter().any(|subnet| subnet.is_v4() == v4);
        policy.check_families(has(true), has(false))?;
        if let (Some(flag), Some(option)) = (new.mtu, options.mtu)
            && flag != option
        {
            return Err(invalid(format!(
                "--mtu {flag} and option mtu={option} contradict each other"
            )));
        }
        let mtu = new.mtu.or(options.mtu);
        let mtu = match &overlay {
            Some(_) => self.overlay_mtu(mtu)?,
            None => mtu.unwrap_or_else(|| self.default_mtu()),
        };
        if !(MTU.0..=MTU.1).contains(&mtu) {
            return Err(invalid(format!(
                "mtu {mtu} is out of range, choose {} to {}",
                MTU.0, MTU.1
            )));
        }
        if mtu < MTU_V6 && subnets.iter().any(|subnet| !subnet.is_v4()) {
            return Err(invalid(format!(
                "mtu {mtu} is too small for IPv6, which needs {MTU_V6}"
            )));
        }
        let id = self.free_network_id(&networks)?;
        Ok(NetworkRecord {
            name: new.name,
            driver,
            id,
            subnets,
            mtu,
            // Who names an MTU wants it everywhere; and neighbours on other hosts are on the link.
            local_mtu: match &overlay {
                Some(_) => mtu,
                None => new.mtu.or(options.mtu).unwrap_or(LOCAL_MTU),
            },
            device: format!("np-br{id}"),
            ifindex: 0,
            mac: names::random_mac()?,
            created: now(),
            ready: false,
            last_leases: Vec::new(),
            policy,
            overlay,
            docker: None,
        })
    }

    /// Numbers go round, so that flows of a network that is gone are not taken for a
    /// newer network's.
    fn free_network_id(&self, networks: &[NetworkRecord]) -> Result<u16> {
        for _ in 0..=networks.len() {
            let id = self.store.next_id("network")? % u64::from(u16::MAX) + 1;
            if let Ok(id) = u16::try_from(id)
                && networks.iter().all(|network| network.id != id)
            {
                return Ok(id);
            }
        }
        Err(conflict(
            "this host has as many networks as there are numbers for them",
        ))
    }

    /// The host's routes that a subnet must not overlap, each with the device's name in
    /// words. Those of our own networks are known better.
    async fn host_routes(&self, networks: &[NetworkRecord]) -> Result<Vec<(IpNet, String)>> {
        let links = self.netlink.links().await?;
        let routes = self.netlink.routes().await?;
        let addresses = self.netlink.addresses().await?;
        let own_devices: Vec<u32> = networks.iter().map(|network| network.ifindex).collect();
        let name_of = |index: u32| {
            let link = links.iter().find(|link| link.index == index);
            link.map(|link| format!(" on {}", link.name))
                .unwrap_or_default()
        };
        // An address without a subnet of its own (/32, /128) has no route in this sense.
        let addresses: Vec<(IpNet, String)> = addresses
            .iter()
            .filter(|address| address.is_global && !own_devices.contains(&address.index))
            .map(|address| (IpNet::from(address.ip), name_of(address.index)))
            .collect();
        Ok(routes
            .into_iter()
            .filter(|route| route.is_unicast && !is_default(&route.destination))
            .filter(|route| !is_everywhere(&route.destination))
            .filter(|route| {
                !networks
                    .iter()
                    .any(|network| route.devices.contains(&network.ifindex))
            })
            .map(|route| {
                let device = route.devices.first().copied().map(name_of);
                (route.destination, device.unwrap_or_default())
            })
            .chain(addresses)
            .collect())
    }

    /// Makes the kernel state of a network, as far as it is missing.
    pub(super) async fn make_network(&self, record: &mut NetworkRecord) -> Result<()> {
        match record.driver {
            Driver::Bridge => self.make_bridge(record).await,
            Driver::Overlay => {
                self.make_bridge(record).await?;
                self.make_overlay(record).await
            }
            other => check_driver(other),
        }
    }

    async fn make_bridge(&self, record: &mut NetworkRecord) -> Result<()> {
        let (name, netlink) = (record.device.as_str(), &self.netlink);
        let present = netlink.link(name).await?;
        if present.as_ref().is_some_and(|link| !link.is_ours()) {
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
        let mut spec = network_spec(record);
        if let Some(link) = self.netlink.link(&record.device).await?
            && link.is_ours()
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

    /// Removes a network that no container uses.
    ///
    /// # Errors
    /// A sentence: it does not exist, or is in use.
    pub async fn remove_network(&self, name: &str) -> Result<()> {
        let mut held = self.held.lock().await;
        let record = self.store.network(name)?;
        docker::check_is_ours(&record)?;
        let users: Vec<String> = self
            .store
            .containers()?
            .into_iter()
            .filter(|container| container.endpoint_in(name).is_some())
            .map(|container| container.name)
            .collect();
        if !users.is_empty() {
            return Err(conflict(format!(
                "network {name} is in use by {}, remove {} first",
                users.join(", "),
                if users.len() == 1 { "it" } else { "them" }
            )));
        }
        self.unmake_network(&record).await?;
        log::info!("network {name} is gone");
        self.look_around(&mut held).await
    }

    /// The network of a request; the default one is made if it is not there yet.
    pub(super) async fn network_for(&self, held: &mut Held, wanted: &str) -> Result<NetworkRecord> {
        let wanted = if wanted == "default" {
            DEFAULT_NETWORK
        } else {
            wanted
        };
        let known = self
            .store
            .networks()?
            .into_iter()
            .find(|network| network.name == wanted);
        match known {
            Some(network) => {
                docker::check_is_ours(&network)?;
                Ok(network)
            }
            None if wanted == DEFAULT_NETWORK => {
                let new = CreateNetwork {
                    name: wanted.into(),
                    ..CreateNetwork::default()
                };
                self.create_network_held(held, new).await
            }
            // For its error.
            None => self.store.network(wanted),
        }
    }
}

/// Refuses what no code carries packets for: a driver begins to exist here, and in
/// [`Agent::make_network`].
fn check_driver(driver: Driver) -> Result<()> {
    match driver {
        Driver::Bridge | Driver::Overlay => Ok(()),
        other => Err(invalid(format!(
            "this netpath cannot make networks of driver {other}, leave out --driver or write \
             --driver bridge or --driver overlay"
        ))),
    }
}

/// The default route, or a large part of it: VPNs take all traffic by two routes of half of
/// it each (0.0.0.0/1 and 128.0.0.0/1), and 2000::/3 is all of the global IPv6 addresses.
fn is_default(destination: &IpNet) -> bool {
    destination.prefix_len() < 4
}

/// Ranges that every host has routes for and that no subnet can be in anyway.
fn is_everywhere(destination: &IpNet) -> bool {
    match destination {
        IpNet::V4(net) => net.network().is_multicast(),
        IpNet::V6(net) => {
            let address = net.network();
            address.is_multicast() || address.is_unicast_link_local() || address.is_loopback()
        }
    }
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
