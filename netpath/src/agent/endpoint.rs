//! The kernel state of a container's interface: a veth pair, addresses, routes, maps.

use std::collections::HashSet;
use std::fs::File;
use std::net::IpAddr;

use anyhow::{Context, Result};
use ipnet::IpNet;
use netpath_common::policy::OVERLAY;

use super::container::bindings;
use super::spare::Spare;
use super::{Agent, Held, blocking};
use crate::datapath::{EndpointSpec, OpenPortSpec, PortSpec};
use crate::netlink::{Netlink, NewVeth, netns, sysctl};
use crate::publish::{Binding, Opened, reserve_each};
use crate::store::{ContainerRecord, EndpointRecord, NetworkRecord};

/// Name of the interface in the container.
pub const INTERFACE: &str = "eth0";

impl Agent {
    /// Makes a container's interface in `netns` and everything that belongs to it.
    pub(super) async fn make_endpoint(
        &self,
        name: &str,
        network: &NetworkRecord,
        endpoint: &mut EndpointRecord,
        netns: &File,
        own: bool,
        spare: Option<&Spare>,
    ) -> Result<()> {
        let device = endpoint.device.as_str();
        let new = NewVeth {
            name: device,
            peer_netns: netns::borrow(netns),
            peer_name: INTERFACE,
            peer_mac: endpoint.mac,
            mtu: network.mtu,
            local_mtu: network.local_mtu,
        };
        let there = match spare {
            Some(_) if own => true,
            Some(spare) => self.hand_over(spare, &new).await?,
            None => false,
        };
        if !there {
            self.netlink.add_veth(&new).await?;
        }
        let alias = format!("netpath container {name}");
        endpoint.ifindex = self.prepare_host_end(device, &alias).await?;
        // The programs must be there before the first packet is.
        self.add_to_datapath(network, endpoint)?;
        let inside = Inside::new(network, endpoint, own);
        blocking(|| netns::inside(netns::borrow(netns), || inside.configure()))
            .with_context(|| format!("cannot set up {INTERFACE} of container {name}"))?;
        self.announce(endpoint);
        Ok(())
    }

    /// Puts an endpoint whose device is there, and its ports, into the maps.
    pub(super) fn add_to_datapath(
        &self,
        network: &NetworkRecord,
        endpoint: &EndpointRecord,
    ) -> Result<()> {
        let spec = endpoint_spec(network, endpoint);
        let ports: Vec<PortSpec> = port_specs(endpoint).collect();
        self.with_datapath(|datapath| {
            datapath.add_endpoint(&spec)?;
            datapath.publish(&ports)?;
            open_port_specs(network, endpoint).try_for_each(|port| datapath.open_port(&port))
        })
    }

    /// Removes all of a container's kernel state that there may be. What was never made
    /// or is gone already is fine.
    pub(super) async fn unmake_endpoint(
        &self,
        held: &mut Held,
        record: &ContainerRecord,
    ) -> Result<()> {
        let mut problems = Vec::new();
        if let Some(endpoint) = &record.endpoint {
            // An agent that was killed did not write down the index.
            let present = self.netlink.link(&endpoint.device).await?;
            let ours = present.filter(|link| link.is_ours());
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
        }
        if record.is_own() {
            problems.extend(blocking(|| netns::remove(&self.netns_path(&record.name))).err());
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

    /// Reserves the published ports that nobody holds for us: after a start, or because
    /// somebody else had them then.
    pub(super) fn reserve_missing(&self, held: &mut Held) -> Result<()> {
        for container in self.store.containers()? {
            let Some(endpoint) = &container.endpoint else {
                continue;
            };
            let reservations = held.reservations.entry(container.name.clone()).or_default();
            if bindings(reservations).count() == endpoint.ports.len() {
                continue;
            }
            let reserved: HashSet<Binding> = bindings(reservations).collect();
            let missing = endpoint
                .ports
                .iter()
                .filter(|port| !reserved.contains(port));
            reservations.extend(reserve_each(missing.copied()));
        }
        Ok(())
    }
}

/// What is to be done inside a container's namespace.
struct Inside {
    /// Addresses with their subnets.
    addresses: Vec<IpNet>,
    link_local: Option<IpNet>,
    gateways: Vec<IpAddr>,
    /// Whether the gateways lead anywhere.
    internal: bool,
    mtu: u32,
    local_mtu: u32,
    v6: bool,
    own: bool,
}

impl Inside {
    fn new(network: &NetworkRecord, endpoint: &EndpointRecord, own: bool) -> Self {
        let mut addresses = Vec::new();
        let mut gateways = Vec::new();
        for address in endpoint.addresses() {
            if let Some(subnet) = network.subnet(address.is_ipv4()) {
                addresses.extend(IpNet::new(address, subnet.prefix.prefix_len()));
                gateways.extend(subnet.gateway);
            }
        }
        // Given by us, so that the datapath knows it; /64 is what link-local means.
        let link_local = endpoint.link_local();
        let link_local = link_local.and_then(|address| IpNet::new(address.into(), 64).ok());
        Self {
            addresses,
            link_local,
            gateways,
            internal: network.policy.internal,
            mtu: network.mtu,
            local_mtu: network.local_mtu,
            v6: endpoint.addr6.is_some(),
            own,
        }
    }

    /// To be called on a thread inside the namespace.
    fn configure(&self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context("cannot start a runtime")?;
        runtime.block_on(async {
            let netlink = Netlink::connect()?;
            let links = netlink.links().await?;
            let find = |name: &str| {
                let link = links.iter().find(|link| link.name == name);
                link.map(|link| link.index)
                    .with_context(|| format!("there is no device {name}"))
            };
            // A namespace of somebody else has the loopback that its owner wants.
            if self.own {
                netlink.set_up(find("lo")?).await?;
                // As in Docker's containers: programs need no privilege for the ports of
                // a namespace of their own, nor for ping.
                sysctl::set("ipv4/ip_unprivileged_port_start", "0")?;
                sysctl::set("ipv4/ping_group_range", "0 2147483647")?;
            }
            let index = find(INTERFACE)?;
            let settings: &[(&str, &str)] = if self.v6 {
                // No address but ours, from nobody: gen mode 1 is "none".
                &[
                    ("disable_ipv6", "0"),
                    ("accept_ra", "0"),
                    ("autoconf", "0"),
                    ("accept_dad", "0"),
                    ("dad_transmits", "0"),
                    ("addr_gen_mode", "1"),
                ]
            } else {
                &[("disable_ipv6", "1")]
            };
            for (setting, value) in settings {
                sysctl::set(&format!("ipv6/conf/{INTERFACE}/{setting}"), value)?;
            }
            if let Some(address) = self.link_local {
                netlink.add_address(index, address).await?;
            }
            for address in &self.addresses {
                netlink.add_address_alone(index, *address).await?;
            }
            netlink.set_up(index).await?;
            self.add_routes(&netlink, index).await
        })
    }

    /// Neighbours are reached with larger packets than everybody else. The interface keeps the
    /// MTU of the way out: programs look at it.
    async fn add_routes(&self, netlink: &Netlink, index: u32) -> Result<()> {
        for address in &self.addresses {
            let (subnet, source) = (address.trunc(), address.addr());
            netlink
                .add_link_route(index, subnet, source, self.local_mtu)
                .await?;
            let own = |gateway: &&IpAddr| gateway.is_ipv4() == source.is_ipv4();
            for gateway in self.gateways.iter().filter(own) {
                netlink
                    .add_link_route(index, (*gateway).into(), source, self.mtu)
                    .await?;
                if !self.internal {
                    netlink.add_default_route(index, *gateway).await?;
                }
            }
        }
        Ok(())
    }
}

fn endpoint_spec(network: &NetworkRecord, endpoint: &EndpointRecord) -> EndpointSpec {
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
    }
}

/// The published ports of an endpoint as the datapath wants them.
pub(super) fn port_specs(endpoint: &EndpointRecord) -> impl Iterator<Item = PortSpec> {
    endpoint.ports.iter().filter_map(|binding: &Binding| {
        let container_ip = if binding.host_ip.is_ipv4() {
            IpAddr::V4(endpoint.addr4?)
        } else {
            IpAddr::V6(endpoint.addr6?)
        };
        Some(PortSpec {
            host_ip: binding.host_ip,
            proto: binding.proto,
            host_port: binding.host_port,
            endpoint_ifindex: endpoint.ifindex,
            container_ip,
            container_port: binding.container_port,
        })
    })
}

/// The ports at which an endpoint is reached by its own addresses, as far as the policy of its
/// network makes use of them.
pub(super) fn open_port_specs(
    network: &NetworkRecord,
    endpoint: &EndpointRecord,
) -> impl Iterator<Item = OpenPortSpec> {
    // What is published at a loopback address is for the host alone.
    let beyond = |binding: &&Binding| !binding.host_ip.is_loopback();
    let published = endpoint.ports.iter().filter(beyond).map(|binding| Opened {
        v4: binding.host_ip.is_ipv4(),
        proto: binding.proto,
        port: binding.container_port,
    });
    let all: HashSet<Opened> = published.chain(endpoint.opened.iter().copied()).collect();
    all.into_iter()
        .filter(|opened| network.policy.needs_open_ports(opened.v4))
        .filter_map(|opened| {
            let addr = if opened.v4 {
                IpAddr::V4(endpoint.addr4?)
            } else {
                IpAddr::V6(endpoint.addr6?)
            };
            Some(OpenPortSpec {
                endpoint_ifindex: endpoint.ifindex,
                network: endpoint.network_id,
                addr,
                proto: opened.proto,
                port: opened.port,
            })
        })
}
