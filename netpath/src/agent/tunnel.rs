//! Tunnels that users name: to hosts that run no netpath, or know no cluster.

use std::net::IpAddr;

use anyhow::Result;
use ipnet::IpNet;

use super::Agent;
use super::overlay::owner_of;
use crate::api::types::{AddTunnel, Tunnel, TunnelTraffic};
use crate::overlay::{self, ANY_MAC, Peer};
use crate::problem::{conflict, invalid, not_found};
use crate::store::{Driver, NetworkRecord, OverlayRecord};

impl Agent {
    /// Adds a tunnel to a network.
    ///
    /// # Errors
    /// A sentence; nothing is left of it.
    pub async fn add_tunnel(&self, new: AddTunnel) -> Result<Tunnel> {
        let held = self.held.lock().await;
        let mut record = self.store.network(&new.network)?;
        let before = record.clone();
        let overlay = overlay_of(&record)?;
        let peer = self.plan_tunnel(&new, &record, overlay)?;
        let host: Vec<IpAddr> = held.host_addresses.iter().map(|(ip, _)| *ip).collect();
        if host.contains(&peer.vtep) {
            return Err(invalid(format!(
                "{} is this host's own address, name the other host's",
                peer.vtep
            )));
        }
        if let Some(overlay) = &mut record.overlay {
            overlay.peers.push(peer);
        }
        self.store.put_network(&record)?;
        if let Err(error) = self.set_tunnels(&record).await {
            self.store.put_network(&before)?;
            if let Err(second) = self.set_tunnels(&before).await {
                log::error!("cannot clean up after the tunnel: {second:#}");
            }
            self.retain_overlay_devices().await?;
            return Err(error);
        }
        log::info!(
            "network {}: {} is behind {}",
            record.name,
            peer.destination,
            peer.vtep
        );
        Ok(view(&record, &peer))
    }

    fn plan_tunnel(
        &self,
        new: &AddTunnel,
        record: &NetworkRecord,
        overlay: &OverlayRecord,
    ) -> Result<Peer> {
        let destination = overlay::parse_destination(&new.destination)?;
        let vtep = new.remote.to_canonical();
        if vtep.is_unspecified() || vtep.is_loopback() || vtep.is_multicast() {
            return Err(invalid(format!("{vtep} is no address of another host")));
        }
        let mut peer = Peer {
            destination,
            vtep,
            mac: ANY_MAC,
            vni: new.vni.map_or(Ok(overlay.vni), overlay::check_vni)?,
            port: new.port.unwrap_or(overlay.port),
        };
        if peer.port == 0 {
            return Err(invalid("0 is no port, choose 1 to 65535"));
        }
        match &new.mac {
            Some(text) => peer.mac = overlay::parse_mac(text)?,
            None if peer.is_host() => {
                return Err(invalid(format!(
                    "a tunnel to a single address needs its MAC address, add --mac, or name the \
                     subnet that {} is in",
                    destination.addr()
                )));
            }
            None => {}
        }
        self.check_destination(&peer, record, overlay)?;
        let networks = self.store.networks()?;
        if let Some(other) = owner_of(&networks, peer.vni, peer.port)
            && other.id != record.id
        {
            return Err(conflict(format!(
                "VNI {} belongs to network {}",
                peer.vni, other.name
            )));
        }
        Ok(peer)
    }

    fn check_destination(
        &self,
        peer: &Peer,
        record: &NetworkRecord,
        overlay: &OverlayRecord,
    ) -> Result<()> {
        let (net, name) = (peer.destination, &record.name);
        if let Some(other) = overlay.peers.iter().find(|other| other.destination == net) {
            return Err(conflict(format!(
                "{net} is behind {} already, remove that tunnel first",
                other.vtep
            )));
        }
        let Some(subnet) = record.subnet(net.addr().is_ipv4()) else {
            let family = if net.addr().is_ipv4() { "IPv4" } else { "IPv6" };
            return Err(invalid(format!("network {name} has no {family} subnet")));
        };
        if net.contains(&subnet.prefix) {
            return Err(invalid(format!(
                "{net} has all of network {name}'s own subnet {} in it, name a part of it or \
                 another subnet",
                subnet.prefix
            )));
        }
        if peer.is_host() && !subnet.prefix.contains(&net) {
            return Err(invalid(format!(
                "{} is not in the subnet {} of network {name}",
                net.addr(),
                subnet.prefix
            )));
        }
        let mut here = self.store.leases(record.id)?;
        here.extend(subnet.gateway);
        if let Some(taken) = here.iter().find(|address| net.contains(*address)) {
            return Err(conflict(format!(
                "{taken} of network {name} is on this host, so {net} cannot be behind {}",
                peer.vtep
            )));
        }
        let networks = self.store.networks()?;
        let others = networks.iter().filter(|other| other.id != record.id);
        for other in others {
            if let Some(theirs) = other
                .subnets
                .iter()
                .find(|s| crate::ipam::overlaps(&s.prefix, &net))
            {
                return Err(conflict(format!(
                    "{net} overlaps {} of network {}",
                    theirs.prefix, other.name
                )));
            }
        }
        Ok(())
    }

    /// Removes a tunnel that a user added.
    ///
    /// # Errors
    /// There is none to that destination.
    pub async fn remove_tunnel(&self, network: &str, destination: &str) -> Result<()> {
        let _held = self.held.lock().await;
        let mut record = self.store.network(network)?;
        overlay_of(&record)?;
        let destination = overlay::parse_destination(destination)?;
        let removed = record.overlay.as_mut().is_some_and(|overlay| {
            let before = overlay.peers.len();
            let other = |peer: &Peer| peer.destination != destination;
            overlay.peers.retain(other);
            overlay.peers.len() != before
        });
        if !removed {
            return Err(not_found(format!(
                "network {network} has no tunnel to {destination}, see \"netpath tunnel ls\""
            )));
        }
        self.store.put_network(&record)?;
        self.set_tunnels(&record).await?;
        self.retain_overlay_devices().await
    }

    /// All tunnels that users added.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn list_tunnels(&self) -> Result<Vec<Tunnel>> {
        let networks = self.store.networks()?;
        let of_network = |record: &NetworkRecord| -> Vec<Tunnel> {
            let peers = record.overlay.iter().flat_map(|overlay| &overlay.peers);
            peers.map(|peer| view(record, peer)).collect()
        };
        Ok(networks.iter().flat_map(of_network).collect())
    }

    /// All hosts that take part in networks, with what went there and came from there.
    ///
    /// # Errors
    /// Store or maps cannot be read.
    pub fn list_vteps(&self) -> Result<Vec<TunnelTraffic>> {
        let networks = self.store.networks()?;
        let rows = self.with_datapath(|datapath| datapath.vteps())?;
        let tunnels = self.tunnels();
        let port_of = |ifindex: u32| {
            let mut devices = tunnels.devices.iter();
            let found = devices.find(|(_, device)| device.ifindex == ifindex);
            found.map_or(0, |(port, _)| *port)
        };
        let rows = rows.into_iter().map(|row| {
            let network = networks.iter().find(|network| network.id == row.network);
            TunnelTraffic {
                network: network.map_or_else(|| row.network.to_string(), |n| n.name.clone()),
                vtep: row.vtep,
                vni: row.vni,
                port: port_of(row.ifindex),
                destinations: row.destinations.iter().map(|(net, _)| show(net)).collect(),
                sent_packets: row.sent.packets,
                sent_bytes: row.sent.bytes,
                received_packets: row.received.packets,
                received_bytes: row.received.bytes,
            }
        });
        Ok(rows.collect())
    }
}

fn overlay_of(record: &NetworkRecord) -> Result<&OverlayRecord> {
    record.overlay.as_ref().ok_or_else(|| {
        invalid(format!(
            "network {} is of driver {}, tunnels are for networks of driver {}",
            record.name,
            record.driver,
            Driver::Overlay
        ))
    })
}

fn view(record: &NetworkRecord, peer: &Peer) -> Tunnel {
    Tunnel {
        network: record.name.clone(),
        destination: show(&peer.destination),
        remote: peer.vtep,
        mac: (peer.mac != ANY_MAC).then(|| super::view::show_mac(peer.mac)),
        vni: peer.vni,
        port: peer.port,
    }
}

/// A single address without its length.
fn show(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() {
        net.addr().to_string()
    } else {
        net.to_string()
    }
}
