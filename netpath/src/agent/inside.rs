//! What is done inside a container's network namespace: addresses, routes, settings.

use std::fs::File;
use std::net::IpAddr;

use anyhow::{Context, Result};
use ipnet::IpNet;

use super::gateway::{Gateways, network_of};
use super::{Agent, blocking};
use crate::container::sysctls::{Setting, ipv6_is_off};
use crate::netlink::{Link, Netlink, netns, sysctl};
use crate::store::{ContainerRecord, EndpointRecord, NetworkRecord};

/// What is to be done inside a container's namespace that is new, or gets new interfaces.
#[derive(Default)]
pub(super) struct Inside {
    /// The namespace is the agent's own and new.
    pub(super) new: bool,
    /// Settings of the whole namespace, which come before all interfaces.
    pub(super) first: Vec<Setting>,
    /// Interfaces that are there and have nothing yet.
    pub(super) interfaces: Vec<Interface>,
    /// Settings of interfaces, which come after them.
    pub(super) last: Vec<Setting>,
}

/// An interface of a container.
pub(super) struct Interface {
    name: String,
    /// Addresses with their subnets.
    addresses: Vec<IpNet>,
    link_local: Option<IpNet>,
    gateways: Vec<IpAddr>,
    /// Their MAC address.
    gateway_mac: [u8; 6],
    /// The gateways that a default route leads to.
    defaults: Vec<IpAddr>,
    mtu: u32,
    local_mtu: u32,
    v6: bool,
}

/// The default routes that a container is to have, and which others are ours.
struct DefaultRoutes {
    wanted: Vec<Way>,
    /// What may be there of ours.
    known: Vec<Way>,
}

/// A default route by an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Way {
    interface: String,
    gateway: IpAddr,
}

impl Agent {
    /// Does it in the namespace `netns` of container `name`.
    pub(super) fn set_up_inside(&self, name: &str, netns: &File, inside: &Inside) -> Result<()> {
        blocking(|| netns::inside(netns::borrow(netns), || in_runtime(inside.configure())))
            .with_context(|| format!("cannot set up the network of container {name}"))
    }

    /// Has a container's default routes lead where they should, as far as they are ours.
    /// `before` has the interfaces that it may have had beside those in its record.
    pub(super) fn route_out(
        &self,
        before: &ContainerRecord,
        record: &ContainerRecord,
        netns: &File,
        networks: &[NetworkRecord],
    ) -> Result<()> {
        let mut routes = DefaultRoutes::of(&record.endpoints, networks);
        routes
            .known
            .extend(DefaultRoutes::of(&before.endpoints, networks).known);
        blocking(|| netns::inside(netns::borrow(netns), || in_runtime(routes.settle())))
            .with_context(|| format!("cannot set the default routes of container {}", record.name))
    }
}

/// To be called on a thread inside the namespace.
pub(super) fn in_runtime<T>(action: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("cannot start a runtime")?;
    runtime.block_on(action)
}

impl Inside {
    async fn configure(&self) -> Result<()> {
        let netlink = Netlink::connect()?;
        let links = netlink.links().await?;
        // A namespace of somebody else has the loopback that its owner wants.
        if self.new {
            netlink.set_up(find(&links, "lo")?).await?;
            // As in Docker's containers: programs need no privilege for the ports of
            // a namespace of their own, nor for ping.
            sysctl::set("ipv4/ip_unprivileged_port_start", "0")?;
            sysctl::set("ipv4/ping_group_range", "0 2147483647")?;
        }
        self.first.iter().try_for_each(Setting::apply)?;
        for interface in &self.interfaces {
            interface.configure(&netlink, &links).await?;
        }
        self.last.iter().try_for_each(Setting::apply)
    }
}

impl Interface {
    /// `leads_out`: whether the container's default routes, IPv4 and IPv6, are to lead here.
    pub(super) fn new(
        network: &NetworkRecord,
        endpoint: &EndpointRecord,
        leads_out: [bool; 2],
    ) -> Self {
        let mut addresses = Vec::new();
        let mut gateways = Vec::new();
        for address in endpoint.addresses() {
            if let Some(subnet) = network.subnet(address.is_ipv4()) {
                addresses.extend(IpNet::new(address, subnet.prefix.prefix_len()));
                gateways.extend(subnet.gateway);
            }
        }
        let [out4, out6] = leads_out;
        let leads = |gateway: &&IpAddr| if gateway.is_ipv4() { out4 } else { out6 };
        // Given by us, so that the datapath knows it; /64 is what link-local means.
        let link_local = endpoint.link_local();
        let link_local = link_local.and_then(|address| IpNet::new(address.into(), 64).ok());
        Self {
            name: endpoint.interface.clone(),
            addresses,
            link_local,
            defaults: gateways.iter().filter(leads).copied().collect(),
            gateways,
            gateway_mac: network.mac,
            mtu: network.mtu,
            local_mtu: network.local_mtu,
            v6: endpoint.addr6.is_some(),
        }
    }

    async fn configure(&self, netlink: &Netlink, links: &[Link]) -> Result<()> {
        let index = find(links, &self.name)?;
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
            sysctl::set(&format!("ipv6/conf/{}/{setting}", self.name), value)?;
        }
        if let Some(address) = self.link_local {
            netlink.add_address(index, address).await?;
        }
        for address in &self.addresses {
            netlink.add_address_alone(index, *address).await?;
        }
        netlink.set_up(index).await?;
        self.add_routes(netlink, index).await
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
            }
        }
        // For good: the kernel's table of neighbours is one for all containers, and one of them
        // that fills it must not cut the others off from the world.
        for gateway in &self.gateways {
            netlink
                .pin_neighbour(index, *gateway, self.gateway_mac)
                .await?;
        }
        for gateway in &self.defaults {
            netlink.add_default_route(index, *gateway).await?;
        }
        Ok(())
    }
}

impl DefaultRoutes {
    fn of(endpoints: &[EndpointRecord], networks: &[NetworkRecord]) -> Self {
        let chosen = Gateways::choose(endpoints, networks);
        let mut routes = Self {
            wanted: Vec::new(),
            known: Vec::new(),
        };
        for (place, endpoint) in endpoints.iter().enumerate() {
            let Some(network) = network_of(endpoint, networks) else {
                continue;
            };
            for gateway in network.subnets.iter().filter_map(|subnet| subnet.gateway) {
                let way = Way {
                    interface: endpoint.interface.clone(),
                    gateway,
                };
                if chosen.of(gateway.is_ipv4()) == Some(place) {
                    routes.wanted.push(way.clone());
                }
                routes.known.push(way);
            }
        }
        routes
    }

    /// Routes by other devices or routers are their owner's.
    async fn settle(&self) -> Result<()> {
        let netlink = Netlink::connect()?;
        let links = netlink.links().await?;
        let routes = netlink.routes().await?;
        let there = |way: &&Way| {
            find(&links, &way.interface).is_ok_and(|index| {
                let same = routes.iter().filter(|route| {
                    route.destination.prefix_len() == 0
                        && route.devices == [index]
                        && route.gateways == [way.gateway]
                });
                same.count() > 0
            })
        };
        for v4 in [true, false] {
            if !v4 && ipv6_is_off() {
                // Its command may have done so, and with the addresses all routes went.
                continue;
            }
            let of_family = |way: &&Way| way.gateway.is_ipv4() == v4;
            let present: Vec<&Way> = self.known.iter().filter(of_family).filter(there).collect();
            let wanted = self.wanted.iter().find(of_family);
            let mut replaced = None;
            if let Some(wanted) = wanted
                && !present.contains(&wanted)
            {
                let index = find(&links, &wanted.interface)?;
                replaced = present.first().copied();
                if replaced.is_some() {
                    netlink.replace_default_route(index, wanted.gateway).await?;
                } else {
                    netlink.add_default_route(index, wanted.gateway).await?;
                }
            }
            for way in present {
                if Some(way) != wanted && Some(way) != replaced {
                    let index = find(&links, &way.interface)?;
                    netlink.remove_default_route(index, way.gateway).await?;
                }
            }
        }
        Ok(())
    }
}

fn find(links: &[Link], name: &str) -> Result<u32> {
    let link = links.iter().find(|link| link.name == name);
    link.map(|link| link.index)
        .with_context(|| format!("there is no device {name}"))
}
