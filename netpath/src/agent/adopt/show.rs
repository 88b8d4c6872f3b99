//! What of Docker is adopted, as the API shows it.

use std::sync::PoisonError;

use anyhow::Result;

use crate::agent::Agent;
use crate::api::types::{Adopted, AdoptedContainerRow, AdoptedNetworkRow, RefusedRow};

impl Agent {
    /// What is adopted, and what is not.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn adopted(&self) -> Result<Adopted> {
        let Some(adoption) = self.store.adoption()? else {
            return Ok(Adopted::default());
        };
        let kernel_flows = self.with_datapath(|datapath| datapath.kernel_flows())?;
        let told = self
            .adoption
            .told
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let name_of = |id: u16| {
            let network = adoption.networks.iter().find(|network| network.id == id);
            network
                .map(|network| network.name.clone())
                .unwrap_or_default()
        };
        Ok(Adopted {
            containers: adoption
                .endpoints
                .iter()
                .map(|endpoint| AdoptedContainerRow {
                    name: endpoint.container.clone(),
                    id: endpoint.docker_id.clone(),
                    network: name_of(endpoint.network),
                    device: endpoint.device.clone(),
                    addresses: endpoint.addresses().collect(),
                    ports: endpoint.ports.clone(),
                })
                .collect(),
            networks: adoption
                .networks
                .iter()
                .map(|network| AdoptedNetworkRow {
                    name: network.name.clone(),
                    id: network.id,
                    bridge: network.bridge.clone(),
                    within: network.refused.within.clone(),
                    outward: network.refused.outward.clone(),
                    inward: network.refused.inward.clone(),
                })
                .collect(),
            socket: Some(adoption.socket),
            ignore_firewall: adoption.ignore_firewall,
            problem: told.problem.clone(),
            refused: told
                .refused
                .iter()
                .map(|refused| RefusedRow {
                    what: refused.what.clone(),
                    why: refused.why.clone(),
                })
                .collect(),
            kernel_flows,
        })
    }
}
