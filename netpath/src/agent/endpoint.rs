//! The kernel state of containers' interfaces: veth pairs, addresses, routes, maps.

use std::fs::File;
use std::net::IpAddr;

use anyhow::{Context, Result};
use netpath_common::policy::OVERLAY;

use super::gateway::{Gateways, network_of};
use super::inside::{Inside, Interface};
use super::ports::{open_port_specs, port_specs};
use super::spare::Spare;
use super::{Agent, Held, blocking, interface};
use crate::container::sysctls;
use crate::datapath::{EndpointSpec, PortSpec};
use crate::netlink::{NewVeth, netns};
use crate::store::{ContainerRecord, EndpointRecord, NetworkRecord};

/// What the names of interfaces in containers begin with.
const PREFIX: &str = "eth";
/// Name of the first interface in a container.
pub const FIRST_INTERFACE: &str = "eth0";

/// Where a container's interface comes from.
#[derive(Debug)]
pub(super) enum Source {
    /// It is to be made.
    New,
    /// It is a spare one.
    Spare(Spare),
    /// It is a spare one, and its namespace is the container's.
    InPlace(Spare),
}

/// When a container gets interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occasion {
    /// Its namespace is the agent's own, and new.
    NewNamespace,
    /// The namespace of somebody else is attached.
    Attach,
    /// It has been there for a while, perhaps with other interfaces: default routes are set by
    /// [`Agent::route_out`].
    Later,
}

impl Source {
    /// The spare whose namespace is the container's.
    pub(super) fn in_place(&self) -> Option<&Spare> {
        match self {
            Self::New | Self::Spare(_) => None,
            Self::InPlace(spare) => Some(spare),
        }
    }
}

impl Agent {
    /// Makes interfaces of a container in `netns`, and all that belongs to them but the published
    /// ports: those at the given places in the list of its endpoints.
    pub(super) async fn make_endpoints(
        &self,
        record: &mut ContainerRecord,
        networks: &[NetworkRecord],
        netns: &File,
        occasion: Occasion,
        places: Vec<(usize, Source)>,
    ) -> Result<()> {
        let name = record.name.clone();
        let gateways = Gateways::choose(&record.endpoints, networks);
        let new = occasion == Occasion::NewNamespace;
        let mut inside = Inside {
            new,
            first: if new {
                sysctls::parse(&record.sysctls)?
            } else {
                Vec::new()
            },
            ..Inside::default()
        };
        let mut made = Vec::new();
        for (place, source) in places {
            let endpoint = record.endpoints.get_mut(place).context("no such place")?;
            let network = network_of(endpoint, networks)
                .with_context(|| format!("network {} is gone", endpoint.network))?;
            inside.last.extend(interface::settings(endpoint)?);
            let leads_out = match occasion {
                Occasion::NewNamespace | Occasion::Attach => gateways.families(place),
                Occasion::Later => [false; 2],
            };
            if let Some(sharing) = &network.sharing {
                self.plug_endpoint(&name, network, sharing, endpoint, netns, leads_out)
                    .await?;
                continue;
            }
            self.make_device(&name, network, endpoint, netns, &source)
                .await?;
            inside
                .interfaces
                .push(Interface::new(network, endpoint, leads_out));
            made.push(endpoint.clone());
        }
        self.set_up_inside(&name, netns, &inside)?;
        for endpoint in &made {
            self.announce(endpoint);
        }
        Ok(())
    }

    async fn make_device(
        &self,
        name: &str,
        network: &NetworkRecord,
        endpoint: &mut EndpointRecord,
        netns: &File,
        source: &Source,
    ) -> Result<()> {
        let device = endpoint.device.as_str();
        let new = NewVeth {
            name: device,
            peer_netns: netns::borrow(netns),
            peer_name: &endpoint.interface,
            peer_mac: endpoint.mac,
            mtu: network.mtu,
            local_mtu: network.local_mtu,
        };
        let there = match source {
            Source::InPlace(_) => true,
            Source::Spare(spare) => self.hand_over(spare, &new).await?,
            Source::New => false,
        };
        if !there {
            self.netlink.add_veth(&new).await?;
        }
        let alias = format!("netpath container {name}");
        endpoint.ifindex = self.prepare_host_end(device, &alias).await?;
        // The programs must be there before the first packet is.
        let netns = netns::number(netns).context("cannot look at a namespace")?;
        let spec = endpoint_spec(network, endpoint, netns);
        self.with_datapath(|datapath| datapath.add_endpoint(&spec))
    }

    /// Puts an endpoint whose device is there, and its ports, into the maps. Its namespace is
    /// `netns`, or the one that its record tells.
    pub(super) fn add_to_datapath(
        &self,
        network: &NetworkRecord,
        endpoint: &EndpointRecord,
        netns: Option<&File>,
    ) -> Result<()> {
        let netns = netns.map_or(Ok(endpoint.netns), netns::number);
        let netns = netns.context("cannot look at a namespace")?;
        let spec = endpoint_spec(network, endpoint, netns);
        let ports: Vec<PortSpec> = port_specs(endpoint).collect();
        self.with_datapath(|datapath| {
            datapath.add_endpoint(&spec)?;
            datapath.publish(&ports)?;
            open_port_specs(network, endpoint).try_for_each(|port| datapath.open_port(&port))
        })
    }

    /// Removes all of an interface's kernel state that there may be. What was never made or
    /// is gone already is fine. All of it is tried; returns what failed.
    pub(super) async fn unmake_endpoint(
        &self,
        record: &ContainerRecord,
        endpoint: &EndpointRecord,
    ) -> Vec<anyhow::Error> {
        let mut problems = Vec::new();
        let networks = match self.store.networks() {
            Ok(networks) => networks,
            Err(error) => return vec![error],
        };
        if let Some(network) = network_of(endpoint, &networks)
            && let Some(sharing) = &network.sharing
        {
            let unplugged = self
                .unplug_endpoint(record, network, sharing, endpoint)
                .await;
            return unplugged.err().into_iter().collect();
        }
        // An agent that was killed did not write down the index.
        let ours = match self.netlink.link(&endpoint.device).await {
            Ok(link) => link.filter(|link| link.is_ours()),
            Err(error) => return vec![error],
        };
        let index = ours.as_ref().map_or(endpoint.ifindex, |link| link.index);
        let ports: Vec<PortSpec> = port_specs(endpoint).collect();
        problems.extend(
            self.with_datapath(|datapath| {
                datapath.unpublish(&ports)?;
                if index != 0 {
                    datapath.remove_endpoint(index)
                } else {
                    Ok(())
                }
            })
            .err(),
        );
        if ours.is_some() {
            problems.extend(self.netlink.delete_link(&endpoint.device).await.err());
        }
        problems
    }

    /// Removes all of a container's kernel state that there may be. What was never made
    /// or is gone already is fine.
    pub(super) async fn unmake_container(
        &self,
        held: &mut Held,
        record: &ContainerRecord,
    ) -> Result<()> {
        self.unname_container(&record.name);
        self.remove_cards_of(record).await;
        let mut problems = Vec::new();
        for endpoint in &record.endpoints {
            problems.extend(self.unmake_endpoint(record, endpoint).await);
        }
        if record.has_own_namespace() {
            problems.extend(blocking(|| netns::remove(&self.netns_path(&record.name))).err());
        } else {
            problems.extend(self.forget_processes(&record.name).err());
        }
        held.reservations.remove(&record.name);
        held.beyond_repair.remove(&record.name);
        // All of it was tried; the first problem is told.
        let mut problems = problems.into_iter();
        let first = problems.next();
        for other in problems {
            log::error!(
                "while cleaning up after container {}: {other:#}",
                record.name
            );
        }
        first.map_or(Ok(()), Err)
    }
}

/// A name for another interface of a container that has these: what the network's names begin
/// with, and the first number that is free, counting from 0.
pub(super) fn free_interface(prefix: Option<&str>, taken: &[&str]) -> String {
    let prefix = prefix.unwrap_or(PREFIX);
    let mut number = 0u32;
    loop {
        let name = format!("{prefix}{number}");
        if !taken.contains(&name.as_str()) {
            return name;
        }
        number += 1;
    }
}

fn endpoint_spec(network: &NetworkRecord, endpoint: &EndpointRecord, netns: u32) -> EndpointSpec {
    let (subnet4, subnet6) = (network.subnet(true), network.subnet(false));
    let length = |subnet: Option<&crate::ipam::Subnet>| {
        subnet.map_or(0, |subnet| subnet.prefix.prefix_len())
    };
    EndpointSpec {
        network: network.id,
        ifindex: endpoint.ifindex,
        mac: endpoint.mac,
        addr4: endpoint.addr4,
        addr6: endpoint.addr6,
        link_local: endpoint.link_local(),
        prefix4: length(subnet4),
        prefix6: length(subnet6),
        gateway4: subnet4.and_then(|subnet| match subnet.gateway? {
            IpAddr::V4(gateway) => Some(gateway),
            IpAddr::V6(_) => None,
        }),
        gateway6: subnet6.and_then(|subnet| match subnet.gateway? {
            IpAddr::V6(gateway) => Some(gateway),
            IpAddr::V4(_) => None,
        }),
        gateway_ifindex: network.ifindex,
        gateway_mac: network.mac,
        flags: network.policy.record().flags
            | if network.overlay.is_some() {
                OVERLAY
            } else {
                0
            },
        netns,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_free_name_is_taken() {
        assert_eq!(free_interface(None, &[]), FIRST_INTERFACE);
        assert_eq!(free_interface(None, &["lo", "eth0", "eth2"]), "eth1");
        assert_eq!(free_interface(Some("lan"), &["eth0", "lan0"]), "lan1");
    }
}
