//! Containers' interfaces in networks of netpath's: who is where, and who is gone.

use std::collections::HashSet;

use anyhow::{Result, bail};
use netpath_common::addr::Mac;
use netpath_common::endpoint::{Endpoint, EndpointKey, MAX_ENDPOINTS, Veth};
use netpath_common::policy::{ADOPTED, ICC_OFF, INTERNAL, OVERLAY};
use netpath_common::port::PortKey;

use super::{Datapath, EndpointSpec, Hook, MAPPED_BITS, attach, optional};

impl Datapath {
    /// Attaches the container program to a veth that has no endpoint yet; its packets are
    /// dropped. [`Self::add_endpoint`] is faster then.
    ///
    /// # Errors
    /// If the device is missing or the kernel refuses.
    pub fn prepare_endpoint(&mut self, ifindex: u32) -> Result<()> {
        attach::attach(&mut self.programs, &self.bpffs, Hook::Container, ifindex)
    }

    /// Adds an endpoint, or takes it over.
    ///
    /// # Errors
    /// If the device is missing, the host has [`MAX_ENDPOINTS`] already, or the kernel refuses.
    pub fn add_endpoint(&mut self, spec: &EndpointSpec) -> Result<()> {
        let slot = match self.slots.get(&spec.ifindex) {
            Some(&slot) => slot,
            None => self.free_slot()?,
        };
        let endpoint = Endpoint {
            ifindex: spec.ifindex,
            slot,
            gateway_ifindex: spec.gateway_ifindex,
            mac: Mac::new(spec.mac),
            gateway_mac: Mac::new(spec.gateway_mac),
        };
        let veth = veth_record(spec, slot);
        self.slots.insert(spec.ifindex, slot);
        self.tables.veths.insert(spec.ifindex, veth)?;
        for addr in veth.addrs() {
            self.tables
                .endpoints
                .insert(EndpointKey::new(spec.network, addr), endpoint)?;
        }
        // The short way asks no questions.
        if veth.flags & ICC_OFF == 0 {
            self.tables.open_link(spec.ifindex, &veth)?;
        } else {
            self.tables.close_link(spec.ifindex, &veth)?;
        }
        let attached = attach::attach(
            &mut self.programs,
            &self.bpffs,
            Hook::Container,
            spec.ifindex,
        );
        if attached.is_err() {
            self.remove_endpoint(spec.ifindex)?;
        }
        attached
    }

    /// Notes in which network namespace a container's interface is, by its inode number. Without
    /// an endpoint there is nothing to note.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_netns(&mut self, ifindex: u32, netns: u32) -> Result<()> {
        match self.tables.veths.get(&ifindex)? {
            Some(veth) => self.tables.veths.insert(ifindex, Veth { netns, ..veth }),
            None => Ok(()),
        }
    }

    /// Removes an endpoint and its published ports. Its flows die at once: their slot gets
    /// a new generation.
    ///
    /// # Errors
    /// If the kernel refuses; what is gone already is fine.
    pub fn remove_endpoint(&mut self, ifindex: u32) -> Result<()> {
        let slot = self.slots.remove(&ifindex);
        if let Some(slot) = slot {
            // The map itself would have to be read as a whole, whoever's ports are in it.
            let own = self.ports.iter().filter(|(_, owner)| **owner == slot);
            let keys: Vec<PortKey> = own.map(|(key, _)| *key).collect();
            self.unpublish_keys(&keys)?;
            self.tables
                .open_ports
                .retain_values(|owner| *owner != slot)?;
            self.tables.bump_generation(slot)?;
        }
        if let Some(veth) = self.tables.veths.get(&ifindex)? {
            // What it sends is dropped from when its record is gone; an adopted container goes
            // on without us.
            if veth.is_adopted() {
                attach::detach(&self.bpffs, Hook::Container, ifindex)?;
            }
            self.tables.close_link(ifindex, &veth)?;
            for addr in veth.addrs() {
                let key = EndpointKey::new(veth.network, addr);
                // The address may have a new owner already.
                if self
                    .tables
                    .endpoints
                    .get(&key)?
                    .is_some_and(|e| e.ifindex == ifindex)
                {
                    self.tables.endpoints.remove(&key)?;
                }
            }
        }
        self.tables.veths.remove(&ifindex)?;
        attach::detach(&self.bpffs, Hook::Container, ifindex)
    }

    fn free_slot(&self) -> Result<u32> {
        let taken: HashSet<u32> = self.slots.values().copied().collect();
        match (0..MAX_ENDPOINTS).find(|slot| !taken.contains(slot)) {
            Some(slot) => Ok(slot),
            None => bail!("this host has {MAX_ENDPOINTS} endpoints already"),
        }
    }
}

pub(super) fn veth_record(spec: &EndpointSpec, slot: u32) -> Veth {
    Veth {
        addr4: optional(spec.addr4),
        addr6: optional(spec.addr6),
        link_local: optional(spec.link_local),
        gateway4: optional(spec.gateway4),
        gateway6: optional(spec.gateway6),
        slot,
        gateway_ifindex: spec.gateway_ifindex,
        network: spec.network,
        prefix4: spec.addr4.map_or(0, |_| spec.prefix4 + MAPPED_BITS),
        prefix6: spec.addr6.map_or(0, |_| spec.prefix6),
        mac: Mac::new(spec.mac),
        gateway_mac: Mac::new(spec.gateway_mac),
        flags: spec.flags & (INTERNAL | ICC_OFF | OVERLAY | ADOPTED),
        reserved: [0; 3],
        netns: spec.netns,
    }
}
