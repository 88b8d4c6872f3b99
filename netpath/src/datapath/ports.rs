//! How containers are reached from elsewhere: published ports, and open ones of their own
//! addresses.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapData;
use netpath_common::endpoint::Veth;
use netpath_common::policy::{OpenPort, Trusted};
use netpath_common::port::{PortKey, PortTarget};

use super::{Datapath, OpenPortSpec, PortSpec, batch, load};

impl Datapath {
    /// Publishes ports of one endpoint or several; a thousand cost hardly more than one.
    ///
    /// # Errors
    /// If an endpoint is unknown or the families of addresses differ, none is published; if
    /// the map is full, some may be.
    pub fn publish(&mut self, ports: &[PortSpec]) -> Result<()> {
        let mut veths = HashMap::new();
        let mut entries = Vec::with_capacity(ports.len());
        for port in ports {
            ensure!(
                port.host_ip.is_ipv4() == port.container_ip.is_ipv4(),
                "cannot publish {} at {}: the families of the addresses differ",
                port.container_ip,
                port.host_ip
            );
            let ifindex = port.endpoint_ifindex;
            let veth: Veth = match veths.get(&ifindex) {
                Some(veth) => *veth,
                None => {
                    let veth = self.tables.veths.get(&ifindex)?;
                    let veth =
                        veth.with_context(|| format!("no endpoint behind device {ifindex}"))?;
                    veths.insert(ifindex, veth);
                    veth
                }
            };
            let target = PortTarget {
                addr: port.container_ip.into(),
                port: port.container_port,
                network: veth.network,
                slot: veth.slot,
            };
            entries.push((port_key(port), target));
        }
        let owners = entries.iter().map(|(key, target)| (*key, target.slot));
        self.ports.extend(owners);
        batch::write(self.ports_map()?.fd().as_fd(), &entries)
    }

    /// Takes published ports back.
    ///
    /// # Errors
    /// If the kernel refuses; what is gone already is fine.
    pub fn unpublish(&mut self, ports: &[PortSpec]) -> Result<()> {
        let keys: Vec<PortKey> = ports.iter().map(port_key).collect();
        self.unpublish_keys(&keys)
    }

    pub(super) fn unpublish_keys(&mut self, keys: &[PortKey]) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        batch::remove(self.ports_map()?.fd().as_fd(), keys)?;
        for key in keys {
            self.ports.remove(key);
        }
        Ok(())
    }

    /// Map `ports` for batches: aya does not lend the descriptor of a typed map.
    fn ports_map(&self) -> Result<MapData> {
        load::pinned(&self.bpffs, "ports")
    }

    /// Opens a port of an endpoint to those who reach the container by its own address, as far
    /// as its network's policy lets them.
    ///
    /// # Errors
    /// If the endpoint is unknown.
    pub fn open_port(&mut self, port: &OpenPortSpec) -> Result<()> {
        let slot = self
            .slots
            .get(&port.endpoint_ifindex)
            .with_context(|| format!("no endpoint behind device {}", port.endpoint_ifindex))?;
        self.tables.open_ports.insert(open_key(port), slot)
    }

    /// Closes such a port.
    ///
    /// # Errors
    /// If the kernel refuses; what is closed already is fine.
    pub fn close_port(&mut self, port: &OpenPortSpec) -> Result<()> {
        self.tables.open_ports.remove(&open_key(port))
    }

    /// Sets the devices from which published ports are reached by the containers' own
    /// addresses: pairs of network id and ifindex.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_trusted(&mut self, pairs: &[(u16, u32)]) -> Result<()> {
        let wanted: HashSet<Trusted> = pairs
            .iter()
            .map(|&(network, ifindex)| Trusted::new(network, ifindex))
            .collect();
        for key in &wanted {
            self.tables.trusted.insert(key, 1)?;
        }
        self.tables.trusted.retain(|key| wanted.contains(key))
    }
}

pub(super) fn port_key(port: &PortSpec) -> PortKey {
    PortKey::new(port.proto, port.host_ip.into(), port.host_port)
}

pub(super) fn open_key(port: &OpenPortSpec) -> OpenPort {
    OpenPort::new(port.network, port.proto, port.addr.into(), port.port)
}
