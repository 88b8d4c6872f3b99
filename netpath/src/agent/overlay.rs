//! Networks that reach across hosts: VXLAN devices, and the tunnels in the maps.
//!
//! Tunnels that users named are in the store. Those that somebody tells who knows a cluster
//! ([`Agent::overlay_set_peers`]) are in the maps only, where they outlive the agent: they stay
//! after a start until they are told anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, UdpSocket};
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use ipnet::IpNet;

use super::{Agent, Held};
use crate::container::names;
use crate::datapath::tunnels::{OverlaySpec, TunnelSpec};
use crate::netlink::{Link, NewVxlan, Route, sysctl};
use crate::overlay::{
    self, DEVICE_MTU, Device, FIRST_VNI, MIN_MTU, PORT, Peer, State, Vtep, Way, device_name,
    overhead,
};
use crate::problem::{conflict, invalid};
use crate::store::{NetworkRecord, OverlayRecord, Store};

/// How old what is known of a way to another host may be.
const ASK_EVERY: Duration = Duration::from_secs(25);
/// Name of the devices' MAC address in the store.
const OWN_MAC: &str = "vtep_mac";

/// Takes the options of driver `overlay` and makes the network's record of them.
///
/// # Errors
/// A sentence about an option, or that the number is another network's.
pub(super) fn plan(
    pairs: &mut BTreeMap<String, String>,
    networks: &[NetworkRecord],
) -> Result<OverlayRecord> {
    let options = overlay::take_options(pairs)?;
    let port = options.port.unwrap_or(PORT);
    let vni = match options.vni {
        Some(vni) => {
            if let Some(other) = owner_of(networks, vni, port) {
                return Err(conflict(format!(
                    "VNI {vni} belongs to network {}, choose another",
                    other.name
                )));
            }
            vni
        }
        None => (FIRST_VNI..=overlay::VNIS.1)
            .find(|vni| owner_of(networks, *vni, port).is_none())
            .ok_or_else(|| conflict("no VNI is free"))?,
    };
    Ok(OverlayRecord {
        vni,
        port,
        peers: Vec::new(),
        told: false,
    })
}

/// The network that a number belongs to.
pub(super) fn owner_of(networks: &[NetworkRecord], vni: u32, port: u16) -> Option<&NetworkRecord> {
    networks.iter().find(|network| {
        network.overlay.as_ref().is_some_and(|overlay| {
            let own = (overlay.vni, overlay.port);
            let peers = overlay.peers.iter().map(|peer| (peer.vni, peer.port));
            peers.chain([own]).any(|pair| pair == (vni, port))
        })
    })
}

impl Agent {
    /// This host as others see it.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn overlay_vtep(&self) -> Result<Vtep> {
        let uplinks = self.uplinks.lock().unwrap_or_else(PoisonError::into_inner);
        let there = uplinks.values().flatten();
        let addresses = there.flat_map(|uplink| {
            let v4 = uplink.addr4.map(IpAddr::V4);
            v4.into_iter().chain(uplink.addr6.map(IpAddr::V6))
        });
        let addresses = addresses.collect();
        drop(uplinks);
        Ok(Vtep {
            addresses,
            mac: self.own_mac()?,
            underlay_mtu: self.default_mtu(),
        })
    }

    /// Sets the peers of a network that somebody knows who knows all of them; what users named
    /// stays as well. Setting the same again changes nothing.
    ///
    /// # Errors
    /// There is no such network, or its tunnels cannot be set.
    pub async fn overlay_set_peers(&self, network: &str, peers: Vec<Peer>) -> Result<()> {
        let mut held = self.held.lock().await;
        self.overlay_set_peers_held(&mut held, network, peers).await
    }

    /// As [`Self::overlay_set_peers`], within an operation.
    pub(super) async fn overlay_set_peers_held(
        &self,
        _held: &mut Held,
        network: &str,
        peers: Vec<Peer>,
    ) -> Result<()> {
        let mut record = self.store.network(network)?;
        let overlay = record
            .overlay
            .as_mut()
            .with_context(|| format!("network {network} does not reach across hosts"))?;
        if !overlay.told {
            overlay.told = true;
            self.store.put_network(&record)?;
        }
        self.tunnels().told.insert(record.id, peers);
        self.set_tunnels(&record).await?;
        self.retain_overlay_devices().await
    }

    /// The MTU of a network within the underlay's, as wanted or as large as it can be.
    pub(super) fn overlay_mtu(&self, wanted: Option<u32>) -> Result<u32> {
        let v4 = {
            let uplinks = self.uplinks.lock().unwrap_or_else(PoisonError::into_inner);
            let mut there = uplinks.values().flatten().peekable();
            there.peek().is_none() || there.any(|uplink| uplink.addr4.is_some())
        };
        let (underlay, overhead) = (self.default_mtu(), overhead(v4));
        let room = underlay.saturating_sub(overhead);
        match wanted {
            Some(mtu) if mtu > room => Err(invalid(format!(
                "mtu {mtu} does not fit: of the uplinks' {underlay} bytes VXLAN takes {overhead}, \
                 choose {room} or less"
            ))),
            Some(mtu) if mtu < MIN_MTU => Err(invalid(format!(
                "mtu {mtu} is too small for a network across hosts, choose {MIN_MTU} to {room}"
            ))),
            Some(mtu) => Ok(mtu),
            None if room < MIN_MTU => Err(conflict(format!(
                "the uplinks' MTU {underlay} leaves no room for VXLAN"
            ))),
            None => Ok(room),
        }
    }

    /// Makes what a network across hosts has besides its gateway device, as far as it is missing.
    pub(super) async fn make_overlay(&self, record: &NetworkRecord) -> Result<()> {
        self.set_tunnels(record).await
    }

    /// Removes what nobody else needs, after the record of a network is gone.
    pub(super) async fn unmake_overlay(&self, record: &NetworkRecord) -> Result<()> {
        if record.overlay.is_none() {
            return Ok(());
        }
        self.tunnels().told.remove(&record.id);
        self.retain_overlay_devices().await
    }

    /// Puts the tunnels of a network into the maps, and what the host reaches by them into its
    /// routes.
    pub(super) async fn set_tunnels(&self, record: &NetworkRecord) -> Result<()> {
        let Some(overlay) = &record.overlay else {
            return Ok(());
        };
        let told = self.tunnels().told.get(&record.id).cloned();
        // What was told an earlier agent, nobody has told this one yet.
        let exact = told.is_some() || !overlay.told;
        // What users say comes last, and counts.
        let mut peers = told.unwrap_or_default();
        peers.extend(&overlay.peers);
        let own = self.overlay_device(overlay.port).await?;
        let mut tunnels = Vec::with_capacity(peers.len());
        for peer in &peers {
            let device = self.overlay_device(peer.port).await?;
            let way = self.way_to(peer.vtep).await?;
            tunnels.push(TunnelSpec {
                destination: peer.destination,
                vtep: peer.vtep,
                vni: peer.vni,
                ifindex: device.ifindex,
                mac: peer.mac,
                own_mac: device.mac,
                local: way.local,
                port: peer.port,
                mtu: way.mtu,
            });
        }
        let spec = OverlaySpec {
            network: record.id,
            gateway_ifindex: record.ifindex,
            gateway_mac: record.mac,
            flags: record.policy.record().flags,
            vni: overlay.vni,
            ifindex: own.ifindex,
            tunnels,
        };
        self.with_datapath(|datapath| datapath.set_tunnels(&spec, exact))
            .with_context(|| format!("cannot set the tunnels of network {}", record.name))?;
        self.set_routes(record, &peers, exact).await
    }

    /// The host reaches subnets of other hosts by the gateway device.
    async fn set_routes(&self, record: &NetworkRecord, peers: &[Peer], exact: bool) -> Result<()> {
        let is_own = |net: &IpNet| record.subnets.iter().any(|own| own.prefix.contains(net));
        let wanted: BTreeSet<IpNet> = peers
            .iter()
            .filter(|peer| !peer.is_host() && !is_own(&peer.destination))
            .map(|peer| peer.destination)
            .collect();
        let routes = self.netlink.routes().await?;
        let of_device = |route: &&Route| route.is_unicast && route.devices == [record.ifindex];
        let there: BTreeSet<IpNet> = routes
            .iter()
            .filter(of_device)
            .map(|route| route.destination)
            .filter(|net| !is_own(net) && net.max_prefix_len() != net.prefix_len())
            .filter(|net| !is_link_local(net))
            .collect();
        for net in wanted.difference(&there) {
            let v4 = net.addr().is_ipv4();
            let gateway = record.subnet(v4).and_then(|subnet| subnet.gateway);
            let Some(source) = gateway else { continue };
            self.netlink
                .add_link_route(record.ifindex, *net, source, record.mtu)
                .await?;
        }
        if exact {
            for net in there.difference(&wanted) {
                self.netlink.remove_link_route(record.ifindex, *net).await?;
            }
        }
        Ok(())
    }

    /// The way to another host, by the host's route there.
    async fn way_to(&self, vtep: IpAddr) -> Result<Way> {
        if let Some(known) = self.tunnels().ways.get(&vtep) {
            return Ok(*known);
        }
        let route = self.netlink.route_to(vtep).await?;
        let device = match route {
            Some((index, _)) => {
                let links = self.netlink.links().await?;
                let found = links.iter().find(|link| link.index == index);
                found.map(|link| link.mtu)
            }
            None => None,
        };
        let underlay = device.unwrap_or_else(|| self.default_mtu());
        let room = underlay.saturating_sub(overhead(vtep.is_ipv4()));
        let way = Way {
            mtu: u16::try_from(room).unwrap_or(u16::MAX),
            local: route.and_then(|_| source_towards(vtep)),
        };
        self.tunnels().ways.insert(vtep, way);
        Ok(way)
    }

    /// The VXLAN device of a port, made if it is not there, with the program attached.
    async fn overlay_device(&self, port: u16) -> Result<Device> {
        if let Some(known) = self.tunnels().devices.get(&port) {
            return Ok(*known);
        }
        let (name, mac) = (device_name(port), self.own_mac()?);
        let netlink = &self.netlink;
        let present = netlink.link(&name).await?;
        if present.as_ref().is_some_and(|link| !link.is_ours()) {
            return Err(conflict(format!(
                "a device named {name} exists and is not netpath's, rename or remove it"
            )));
        }
        if present.is_none() {
            let new = NewVxlan {
                name: &name,
                mac,
                port,
                mtu: DEVICE_MTU,
            };
            netlink.add_vxlan(&new).await.map_err(|error| {
                conflict(format!(
                    "UDP port {port} cannot be used for VXLAN, has another device it? choose \
                     another with --opt port=NUMBER: {error:#}"
                ))
            })?;
        }
        let made = self.set_up_device(&name, mac).await;
        match made {
            Ok(device) => {
                self.tunnels().devices.insert(port, device);
                self.set_tunnel_ports()?;
                Ok(device)
            }
            Err(error) => {
                if present.is_none() {
                    netlink.delete_link(&name).await?;
                }
                Err(error.context(format!("cannot use UDP port {port} for VXLAN")))
            }
        }
    }

    async fn set_up_device(&self, name: &str, mac: [u8; 6]) -> Result<Device> {
        let netlink = &self.netlink;
        let link = netlink
            .link(name)
            .await?
            .ok_or_else(|| anyhow!("device {name} was removed while it was being set up"))?;
        if link.mac != Some(mac) {
            netlink.set_mac_and_mtu(link.index, mac, DEVICE_MTU).await?;
        }
        // It has no address, not even a link-local one.
        sysctl::set(&format!("ipv6/conf/{name}/disable_ipv6"), "1")?;
        netlink
            .set_alias(link.index, "netpath tunnels to other hosts")
            .await?;
        // The program first: nothing that comes in shall reach the stack.
        self.with_datapath(|datapath| datapath.attach_overlay(link.index))?;
        netlink.set_up(link.index).await?;
        Ok(Device {
            ifindex: link.index,
            mac,
        })
    }

    /// Removes VXLAN devices that no network needs any more.
    pub(super) async fn retain_overlay_devices(&self) -> Result<()> {
        let needed = self.ports_needed(&self.store.networks()?);
        let gone: Vec<(u16, Device)> = {
            let devices = &self.tunnels().devices;
            let gone = devices.iter().filter(|(port, _)| !needed.contains(port));
            gone.map(|(port, device)| (*port, *device)).collect()
        };
        let some = !gone.is_empty();
        for (port, device) in gone {
            self.with_datapath(|datapath| datapath.detach_overlay(device.ifindex))?;
            self.netlink.delete_link(&device_name(port)).await?;
            self.tunnels().devices.remove(&port);
        }
        if some {
            self.set_tunnel_ports()
        } else {
            Ok(())
        }
    }

    fn set_tunnel_ports(&self) -> Result<()> {
        let ports: Vec<(u16, u32)> = {
            let tunnels = self.tunnels();
            let devices = tunnels.devices.iter();
            devices
                .map(|(port, device)| (*port, device.ifindex))
                .collect()
        };
        self.with_datapath(|datapath| datapath.set_tunnel_ports(&ports))
    }

    fn ports_needed(&self, networks: &[NetworkRecord]) -> BTreeSet<u16> {
        let tunnels = self.tunnels();
        let mut ports = BTreeSet::new();
        for network in networks {
            let Some(overlay) = &network.overlay else {
                continue;
            };
            ports.insert(overlay.port);
            let told = tunnels.told.get(&network.id).into_iter().flatten();
            ports.extend(overlay.peers.iter().chain(told).map(|peer| peer.port));
        }
        ports
    }

    /// Names of the VXLAN devices that networks need.
    pub(super) fn overlay_devices(&self, networks: &[NetworkRecord]) -> Vec<String> {
        let ports = self.ports_needed(networks);
        ports.into_iter().map(device_name).collect()
    }

    /// Indexes of the VXLAN devices.
    pub(super) fn overlay_ifindexes(&self) -> Vec<u32> {
        let tunnels = self.tunnels();
        let devices = tunnels.devices.values();
        devices.map(|device| device.ifindex).collect()
    }

    /// Makes VXLAN devices anew that somebody removed, and follows what happens to the
    /// underlay.
    pub(super) async fn look_at_tunnels(
        &self,
        links: &[Link],
        addresses: &[(IpAddr, u32)],
    ) -> Result<()> {
        let now: Vec<(u32, u32)> = links
            .iter()
            .filter(|link| !link.is_ours())
            .map(|link| (link.index, link.mtu))
            .collect();
        let changed = {
            let mut tunnels = self.tunnels();
            let known = tunnels.devices.len();
            let is_there = |device: &Device| links.iter().any(|l| l.index == device.ifindex);
            tunnels.devices.retain(|_, device| is_there(device));
            let lost = tunnels.devices.len() != known;
            if lost {
                log::warn!("a VXLAN device is gone, making it anew");
            }
            let moved = tunnels.underlay != now || tunnels.addresses != addresses;
            // Routes change without a word.
            let old = tunnels.asked.is_none_or(|at| at.elapsed() >= ASK_EVERY);
            if moved || old {
                tunnels.ways.clear();
                tunnels.asked = Some(Instant::now());
                tunnels.underlay = now;
                tunnels.addresses = addresses.to_vec();
            }
            lost || moved || old
        };
        if changed {
            for record in self.store.networks()? {
                if record.ready
                    && let Err(error) = self.set_tunnels(&record).await
                {
                    // The others are none the worse for it.
                    log::error!("tunnels of network {}: {error:#}", record.name);
                }
            }
        }
        Ok(())
    }

    /// An address for a container that is on no other host. `allocate` finds one that is not in
    /// use, behind the last one.
    pub(super) fn beside_tunnels(
        &self,
        record: &NetworkRecord,
        mut last: Option<IpAddr>,
        used: &BTreeSet<IpAddr>,
        allocate: impl Fn(Option<IpAddr>, &BTreeSet<IpAddr>) -> Result<IpAddr>,
    ) -> Result<IpAddr> {
        let elsewhere = self.elsewhere(record);
        let mut used = used.clone();
        loop {
            let address = allocate(last, &used)?;
            let Some(net) = elsewhere.iter().find(|net| net.contains(&address)) else {
                return Ok(address);
            };
            used.insert(address);
            last = Some(net.broadcast());
        }
    }

    /// Refuses an address that another host has.
    pub(super) fn check_not_elsewhere(
        &self,
        record: &NetworkRecord,
        address: IpAddr,
    ) -> Result<()> {
        let elsewhere = self.elsewhere(record);
        match elsewhere.iter().find(|net| net.contains(&address)) {
            Some(net) => Err(conflict(format!(
                "address {address} is on another host, which has {net}"
            ))),
            None => Ok(()),
        }
    }

    /// What of a network is on other hosts.
    fn elsewhere(&self, record: &NetworkRecord) -> Vec<IpNet> {
        let Some(overlay) = &record.overlay else {
            return Vec::new();
        };
        let tunnels = self.tunnels();
        let told = tunnels.told.get(&record.id).into_iter().flatten();
        let all = overlay.peers.iter().chain(told);
        all.map(|peer| peer.destination).collect()
    }

    /// MAC address of this host's VXLAN devices.
    fn own_mac(&self) -> Result<[u8; 6]> {
        let number = self.store.constant(OWN_MAC, || {
            let [a, b, c, d, e, f] = names::random_mac()?;
            Ok(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
        })?;
        Ok(mac_of(number))
    }

    pub(super) fn tunnels(&self) -> MutexGuard<'_, State> {
        self.tunnels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The address that this host has on its way to another: what the kernel would choose.
fn source_towards(vtep: IpAddr) -> Option<IpAddr> {
    let any = if vtep.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect((vtep, PORT)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified()).then_some(address)
}

fn mac_of(number: u64) -> [u8; 6] {
    let [_, _, mac @ ..] = number.to_be_bytes();
    mac
}

/// MAC address of the VXLAN devices that a store's agent has made, if it has made any.
pub(super) fn noted_mac(store: &Store) -> Result<Option<[u8; 6]>> {
    Ok(store.noted(OWN_MAC)?.map(mac_of))
}

fn is_link_local(net: &IpNet) -> bool {
    match net {
        IpNet::V4(_) => false,
        IpNet::V6(net) => net.network().is_unicast_link_local() || net.network().is_multicast(),
    }
}
