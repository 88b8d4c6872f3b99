//! Networks whose owner is somebody else: there is no program on their bridge, by which the kernel
//! forwards the connections that are its own. What is for their addresses is the stack's unless a
//! neighbour sent it; their subnets are in the maps only to tell whose an address is.

use std::collections::HashSet;

use anyhow::Result;
use ipnet::IpNet;
use netpath_common::policy::Policy;
use netpath_common::port::PortKey;
use netpath_common::tuple::{MAX_KERNEL_FLOWS, Tuple};

use super::endpoints::veth_record;
use super::ports::port_key;
use super::{Datapath, EndpointSpec, Hook, PortSpec, attach, prefix};

impl Datapath {
    /// Adds an adopted network with its subnets, or takes it over.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn add_adopted(&mut self, id: u16, policy: Policy, subnets: &[IpNet]) -> Result<()> {
        // Before the subnets: they alone would pass for a network of our own.
        self.tables.policies.insert(u32::from(id), policy)?;
        for subnet in subnets {
            let (addr, bits) = prefix(*subnet);
            // Docker can be told to use a subnet that is ours.
            if self
                .tables
                .network_of(&addr)?
                .is_none_or(|owner| owner == id)
            {
                self.tables.insert_subnet(addr, bits, id)?;
            }
        }
        Ok(())
    }

    /// Removes an adopted network.
    ///
    /// # Errors
    /// If the kernel refuses; what is gone already is fine.
    pub fn remove_adopted(&mut self, id: u16) -> Result<()> {
        self.tables.retain_subnets(|network| network != id)?;
        self.tables.policies.remove(&u32::from(id))
    }

    /// Adds an endpoint, or changes it, unless it is as it should be: there may be many, and
    /// mostly nothing has changed.
    ///
    /// # Errors
    /// As [`Self::add_endpoint`].
    pub fn ensure_endpoint(&mut self, spec: &EndpointSpec) -> Result<()> {
        if let Some(&slot) = self.slots.get(&spec.ifindex)
            && self.tables.veths.get(&spec.ifindex)? == Some(veth_record(spec, slot))
            && attach::is_attached(&self.bpffs, Hook::Container, spec.ifindex)
        {
            return Ok(());
        }
        self.add_endpoint(spec)
    }

    /// Takes back the published ports of an endpoint that are not among these.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn keep_ports(&mut self, ifindex: u32, ports: &[PortSpec]) -> Result<()> {
        let Some(&slot) = self.slots.get(&ifindex) else {
            return Ok(());
        };
        let kept: HashSet<PortKey> = ports.iter().map(port_key).collect();
        let own = self.ports.iter().filter(|(_, owner)| **owner == slot);
        let unwanted: Vec<PortKey> = own
            .map(|(key, _)| *key)
            .filter(|key| !kept.contains(key))
            .collect();
        self.unpublish_keys(&unwanted)
    }

    /// Publishes those of the ports that are not published yet. Returns those that lead to
    /// another endpoint already, which are left alone.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub fn publish_free(&mut self, ports: &[PortSpec]) -> Result<Vec<PortSpec>> {
        let (mut free, mut taken) = (Vec::new(), Vec::new());
        for port in ports {
            match self.ports.get(&port_key(port)) {
                None => free.push(*port),
                Some(slot) if self.slots.get(&port.endpoint_ifindex) == Some(slot) => {}
                Some(_) => taken.push(*port),
            }
        }
        self.publish(&free)?;
        Ok(taken)
    }

    /// Leaves connections to the kernel, each direction given as it appears at our hooks. Returns
    /// how many there was no room for.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn leave_to_kernel(&mut self, flows: &HashSet<Tuple>) -> Result<usize> {
        let room =
            (MAX_KERNEL_FLOWS as usize).saturating_sub(self.tables.kernel_flows.keys()?.len());
        for flow in flows.iter().take(room) {
            self.tables.kernel_flows.insert(flow, 1)?;
        }
        Ok(flows.len().saturating_sub(room))
    }

    /// Forgets those connections of the kernel's that are not among `alive`; the number of those
    /// that are left.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn retain_kernel_flows(&mut self, alive: &HashSet<Tuple>) -> Result<usize> {
        self.tables
            .kernel_flows
            .retain(|flow| alive.contains(flow))?;
        self.kernel_flows()
    }

    /// Directions of connections that are the kernel's.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn kernel_flows(&self) -> Result<usize> {
        Ok(self.tables.kernel_flows.keys()?.len())
    }
}
