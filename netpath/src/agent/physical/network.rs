//! Networks of the drivers `macvlan`, `ipvlan` and `underlay`.

use std::fs::File;
use std::net::IpAddr;

use anyhow::Result;
use ipnet::IpNet;

use super::plug::{Plug, STACKED, in_runtime, refusal_of_parent};
use super::share::user_of_network;
use crate::agent::gateway::network_of;
use crate::agent::{Agent, blocking};
use crate::container::names;
use crate::netlink::{Link, Netlink, NewCard, device_name, netns};
use crate::physical::inside::{Interface, V6};
use crate::physical::record::{Mode, Sharing};
use crate::problem::{invalid, kind_of};
use crate::store::{ContainerRecord, Driver, EndpointRecord, NetworkRecord};

/// Name of a device that is made to see whether it can be.
const PROBE: &str = "probe";

impl Agent {
    /// Makes what of the network's card is missing. The network has no device of its own.
    ///
    /// # Errors
    /// The card is gone, or the kernel refuses.
    pub(in crate::agent) async fn make_physical(&self, record: &mut NetworkRecord) -> Result<()> {
        let Some(mut sharing) = record.sharing.clone() else {
            return Ok(());
        };
        let made = self.make_sharing(record.driver, &mut sharing).await;
        // Also if it fails: what the card was told is to be taken back.
        record.sharing = Some(sharing.clone());
        let link = made?;
        if !record.ready {
            self.probe(record.driver, &sharing, &link).await?;
        }
        record.ifindex = link.index;
        record.mac = link.mac.unwrap_or_default();
        Ok(())
    }

    /// Whether the kernel has devices of the kind that a network wants.
    ///
    /// # Errors
    /// A sentence: it has none.
    async fn probe(&self, driver: Driver, sharing: &Sharing, parent: &Link) -> Result<()> {
        // In the modes that harm nobody who shares the card already.
        let harmless = Sharing {
            flag: sharing.flag,
            ..Sharing::default()
        };
        let stacked = sharing.is_stacked(driver).then_some(STACKED);
        let Some(kind) = harmless.kind(driver).or(stacked) else {
            return Ok(());
        };
        let netns = blocking(netns::anonymous)?;
        let new = NewCard {
            name: PROBE,
            parent: parent.index,
            netns: netns::borrow(&netns),
            mac: names::random_mac()?,
            mtu: parent.mtu,
            kind,
            ifindex: None,
        };
        let made = self.netlink.add_card(&new).await;
        if let Err(error) = made {
            let error = refusal_of_parent(&parent.name, error);
            if kind_of(&error).is_some() {
                return Err(error);
            }
        }
        // It would go with its namespace, but later.
        blocking(|| {
            netns::inside(netns::borrow(&netns), || {
                in_runtime(async { Netlink::connect()?.delete_link(PROBE).await })
            })
        })
        .map(|_| ())
    }

    /// Refuses to explain packets of containers on a wire: nothing but MAC addresses is asked there.
    ///
    /// # Errors
    /// One of the addresses is that of such a container.
    pub(in crate::agent) fn refuse_wire(&self, addresses: [IpAddr; 2]) -> Result<()> {
        let networks = self.store.networks()?;
        for container in self.store.containers()? {
            for endpoint in &container.endpoints {
                let network = network_of(endpoint, &networks);
                let on_wire = network.filter(|network| network.sharing.is_some());
                let meant = endpoint.addresses().any(|own| addresses.contains(&own));
                if let Some(network) = on_wire.filter(|_| meant) {
                    return Err(invalid(format!(
                        "container {} is on the wire of {} (network {}): its packets go by MAC \
                         address, and all that is judged is whether their source is its own",
                        container.name, network.device, network.name
                    )));
                }
            }
        }
        Ok(())
    }

    /// What is to be told of published ports that have no effect.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(in crate::agent) fn warn_of_ports(
        &self,
        record: &ContainerRecord,
    ) -> Result<Option<String>> {
        let networks = self.store.networks()?;
        let on_wire = |endpoint: &EndpointRecord| {
            network_of(endpoint, &networks).is_some_and(|network| network.sharing.is_some())
        };
        let no_effect = !record.publish.is_empty() && record.endpoints.iter().all(on_wire);
        Ok(no_effect.then(|| {
            format!(
                "-p has no effect: in network {} the container has an address of its own, where \
                 all of its ports are reached",
                record.network_names().join(", ")
            )
        }))
    }

    /// Gives the network's card back.
    ///
    /// # Errors
    /// The kernel's.
    pub(in crate::agent) async fn unmake_physical(&self, record: &NetworkRecord) -> Result<()> {
        match &record.sharing {
            Some(sharing) => {
                let user = user_of_network(&record.name);
                self.unmake_sharing(record.driver, sharing, &user).await
            }
            None => Ok(()),
        }
    }

    /// Makes a container's interface in a physical network. `leads_out` says whether its default
    /// routes, IPv4 and IPv6, are to lead here.
    ///
    /// # Errors
    /// A sentence; [`Self::unplug_endpoint`] removes what is half made.
    pub(in crate::agent) async fn plug_endpoint(
        &self,
        owner: &str,
        network: &NetworkRecord,
        sharing: &Sharing,
        endpoint: &mut EndpointRecord,
        netns: &File,
        leads_out: [bool; 2],
    ) -> Result<()> {
        let plug = plug_of(owner, network, sharing, endpoint);
        let interface = inside_of(network, sharing, endpoint, leads_out);
        let plugged = self.plug(&plug, netns, interface).await?;
        endpoint.ifindex = plugged.ifindex;
        endpoint.mac = plugged.mac;
        Ok(())
    }

    /// Removes a container's interface in a physical network, as far as it is there.
    ///
    /// # Errors
    /// The kernel's.
    pub(in crate::agent) async fn unplug_endpoint(
        &self,
        record: &ContainerRecord,
        network: &NetworkRecord,
        sharing: &Sharing,
        endpoint: &EndpointRecord,
    ) -> Result<()> {
        let plug = plug_of(&record.name, network, sharing, endpoint);
        let netns = self.open_netns(record);
        self.unplug(&plug, endpoint.ifindex, netns.as_ref()).await
    }

    /// Takes a container's interface over, if it is there; false if it is not and can be made anew.
    ///
    /// # Errors
    /// The kernel's.
    pub(in crate::agent) async fn take_over_plug(
        &self,
        record: &ContainerRecord,
        network: &NetworkRecord,
        sharing: &Sharing,
        endpoint: &EndpointRecord,
    ) -> Result<bool> {
        let parent = self.netlink.link(&sharing.device).await?;
        let Some(parent) = parent.filter(|parent| parent.is_up) else {
            // Nothing can be made now. When the card is back its containers are looked at.
            return Ok(true);
        };
        let netns = self.open_netns(record);
        if sharing.kind(network.driver).is_some() {
            let Some(netns) = netns else { return Ok(false) };
            let found = links_in(&netns)?;
            return Ok(found.iter().any(|link| link.name == endpoint.interface));
        }
        let link = if sharing.is_stacked(network.driver) {
            stacked_in(netns.as_ref(), endpoint.ifindex, &parent)?
        } else {
            let link = self.netlink.link(&endpoint.device).await?;
            link.filter(|link| link.is_ours() && link.index == endpoint.ifindex)
        };
        let Some(link) = link else { return Ok(false) };
        let plug = plug_of(&record.name, network, sharing, endpoint);
        self.add_plug(&plug, link.index, &parent, netns.as_ref())
            .await?;
        Ok(true)
    }

    /// Whether the card of a network on the wire is another one than it was, or has another MAC
    /// address: containers' programs know both.
    pub(in crate::agent) fn has_new_parent(network: &NetworkRecord, links: &[Link]) -> bool {
        let Some(sharing) = &network.sharing else {
            return false;
        };
        let parent = links.iter().find(|link| link.name == sharing.device);
        parent.is_none_or(|parent| {
            let mac = parent.mac.unwrap_or_default();
            parent.index != network.ifindex || mac != network.mac
        })
    }

    /// Whether the card of a network is gone or down. Until it is back nothing can be done about
    /// its containers, and trying it would mark them as beyond repair. A device that netpath made
    /// is made anew.
    pub(in crate::agent) fn is_parent_away(network: &NetworkRecord, links: &[Link]) -> bool {
        let Some(sharing) = &network.sharing else {
            return false;
        };
        let is_up = |link: &Link| link.name == sharing.device && link.is_up;
        !sharing.made && !links.iter().any(is_up)
    }

    /// Whether a stacked device is gone, and its card is not: with that it goes as well, and can be made
    /// again only when that is back.
    pub(super) fn is_stacked_lost(&self, sharing: &Sharing, ifindex: u32, mac: [u8; 6]) -> bool {
        let there = self.with_datapath(|datapath| datapath.has_stacked(ifindex, mac));
        // Asked now and in this order: a list of devices may be older than the end of the card, which
        // the kernel forgets before the devices on it.
        there.is_ok_and(|there| !there)
            && device_name(sharing.ifindex).is_some_and(|name| name == sharing.device)
    }

    /// Whether the device of an endpoint, of which these are those of the host, is gone. Of devices
    /// of the kernel's in the container that have no program, it is not known.
    pub(in crate::agent) fn is_lost(
        &self,
        network: &NetworkRecord,
        endpoint: &EndpointRecord,
        links: &[Link],
    ) -> bool {
        let inside = network
            .sharing
            .as_ref()
            .is_some_and(|sharing| sharing.kind(network.driver).is_some());
        if let Some(sharing) = network.sharing.as_ref()
            && sharing.is_stacked(network.driver)
        {
            let (ifindex, mac) = (endpoint.ifindex, endpoint.mac);
            return self.is_stacked_lost(sharing, ifindex, mac);
        }
        !inside && !links.iter().any(|link| link.index == endpoint.ifindex)
    }
}

/// The interfaces in a namespace.
fn links_in(netns: &File) -> Result<Vec<Link>> {
    blocking(|| {
        netns::inside(netns::borrow(netns), || {
            in_runtime(async { Netlink::connect()?.links().await })
        })
    })
}

/// A stacked device in a namespace, whatever it is called there; `None` if it is not there, or on
/// another card than it should be.
pub(super) fn stacked_in(
    netns: Option<&File>,
    ifindex: u32,
    parent: &Link,
) -> Result<Option<Link>> {
    let Some(netns) = netns else { return Ok(None) };
    let mut links = links_in(netns)?.into_iter();
    Ok(links.find(|link| link.index == ifindex && link.peer == parent.index))
}

fn plug_of<'a>(
    owner: &'a str,
    network: &'a NetworkRecord,
    sharing: &'a Sharing,
    endpoint: &'a EndpointRecord,
) -> Plug<'a> {
    Plug {
        owner,
        driver: network.driver,
        sharing,
        interface: &endpoint.interface,
        device: &endpoint.device,
        mac: endpoint.mac,
        mtu: network.mtu,
        addr4: endpoint.addr4,
        addr6: endpoint.addr6,
        // Without a subnet its IPv6 addresses are those that routers advertise.
        any_source: (
            false,
            listens_to_routers(network) && endpoint.addr6.is_none(),
        ),
    }
}

/// Whether routers of the physical network may say where the way out is. Whoever named a gateway
/// has said it; and what routed containers send goes by the host's routes.
fn listens_to_routers(network: &NetworkRecord) -> bool {
    let sharing = network.sharing.as_ref();
    if sharing.is_some_and(|sharing| sharing.is_routed(network.driver)) {
        return false;
    }
    let gateway = network.subnet(false).and_then(|subnet| subnet.gateway);
    let v6 = network.ipv6 || network.subnet(false).is_some();
    v6 && gateway.is_none() && !network.policy.internal
}

fn inside_of(
    network: &NetworkRecord,
    sharing: &Sharing,
    endpoint: &EndpointRecord,
    [out4, out6]: [bool; 2],
) -> Interface {
    let mut addresses = Vec::new();
    let mut gateways = Vec::new();
    for address in endpoint.addresses() {
        if let Some(subnet) = network.subnet(address.is_ipv4()) {
            addresses.extend(IpNet::new(address, subnet.prefix.prefix_len()));
            gateways.extend(subnet.gateway);
        }
    }
    // Modes l3 have routes and no neighbours, so no router to send to.
    let routes_itself =
        network.driver == Driver::Ipvlan && matches!(sharing.mode, Mode::L3 | Mode::L3s);
    let leads = |gateway: &IpAddr| if gateway.is_ipv4() { out4 } else { out6 };
    gateways.retain(|gateway| !routes_itself && leads(gateway));
    let v6 = match (endpoint.addr6, listens_to_routers(network)) {
        (Some(_), routers) => V6::Fixed { routers },
        (None, true) => V6::Advertised,
        (None, false) => V6::Off,
    };
    Interface {
        name: endpoint.interface.clone(),
        addresses,
        gateways,
        routes_itself,
        routes: Vec::new(),
        v6,
    }
}
