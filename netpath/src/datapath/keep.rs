//! What stays in the maps and on the devices when an agent takes over, and what goes.

use std::collections::HashSet;

use anyhow::Result;
use netpath_common::policy::OpenPort;
use netpath_common::port::PortKey;

use super::ports::{open_key, port_key};
use super::{Datapath, Hook, OpenPortSpec, PortSpec, attach, stages};

/// What is to stay when an agent takes over; see [`Datapath::retain`].
#[derive(Clone, Debug, Default)]
pub struct Keep {
    /// Uplinks by ifindex.
    pub uplinks: Vec<u32>,
    /// Gateway devices by ifindex.
    pub gateways: Vec<u32>,
    /// Host-side veths by ifindex.
    pub veths: Vec<u32>,
    /// VXLAN devices by ifindex.
    pub overlays: Vec<u32>,
    /// Devices whose wire containers share, by ifindex.
    pub parents: Vec<u32>,
    /// Host-side veths on such wires, and stacked devices, by ifindex.
    pub cards: Vec<u32>,
    /// Published ports.
    pub ports: Vec<PortSpec>,
    /// Ports that are reached by containers' own addresses.
    pub open_ports: Vec<OpenPortSpec>,
    /// Ids of adopted networks; their veths and ports are among the others.
    pub adopted: Vec<u16>,
}

impl Datapath {
    /// Removes all that an earlier agent left and nobody owns any more.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn retain(&mut self, keep: &Keep) -> Result<()> {
        let ports: HashSet<PortKey> = keep.ports.iter().map(port_key).collect();
        let foreign = self.ports.keys().filter(|key| !ports.contains(key));
        let foreign: Vec<PortKey> = foreign.copied().collect();
        self.unpublish_keys(&foreign)?;
        let open: HashSet<OpenPort> = keep.open_ports.iter().map(open_key).collect();
        self.tables.open_ports.retain(|key| open.contains(key))?;
        let veths: Vec<u32> = self.tables.veths.keys()?;
        for ifindex in veths.into_iter().filter(|i| !keep.veths.contains(i)) {
            self.remove_endpoint(ifindex)?;
        }
        self.retain_cards(&keep.cards)?;
        let owned: HashSet<u32> = self.slots.values().copied().collect();
        self.tables
            .endpoints
            .retain_values(|endpoint| owned.contains(&endpoint.slot))?;
        self.tables
            .uplinks
            .retain(|ifindex| keep.uplinks.contains(ifindex))?;
        self.tables
            .networks
            .retain(|ifindex| keep.gateways.contains(ifindex))?;
        let networks: HashSet<u16> = self
            .tables
            .networks
            .iter()?
            .map(|(_, network)| network.id)
            .chain(keep.adopted.iter().copied())
            .collect();
        self.tables
            .policies
            .retain(|id| u16::try_from(*id).is_ok_and(|id| networks.contains(&id)))?;
        self.tables.retain_subnets(|id| networks.contains(&id))?;
        self.retain_tunnels_of(|id| networks.contains(&id))?;
        attach::retain(&self.bpffs, |hook, ifindex| match hook {
            Hook::Container => keep.veths.contains(&ifindex),
            Hook::Uplink | Hook::XdpNative | Hook::XdpGeneric => keep.uplinks.contains(&ifindex),
            Hook::Gateway => keep.gateways.contains(&ifindex),
            Hook::Overlay => keep.overlays.contains(&ifindex),
            Hook::WireIn | Hook::WireOut => keep.parents.contains(&ifindex),
            Hook::Card => keep.cards.contains(&ifindex),
            // As long as its device is there: see `remove_card`.
            Hook::Guard => attach::has_device(&self.bpffs, hook, ifindex),
        })?;
        // No device has a program of an earlier agent any more.
        stages::retain(&self.bpffs, &self.programs)
    }
}
