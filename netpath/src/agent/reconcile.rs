//! The start: kernel state and store are made to agree.
//!
//! What the store knows and the kernel has is taken over; what the store knows and the
//! kernel lacks is made or, if its process is gone, written off; what the kernel has of
//! ours and the store does not know is removed.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use anyhow::{Context, Result};

use super::gateway::network_of;
use super::ports::{bindings, open_port_specs, port_specs};
use super::share::UTS;
use super::watch::Role;
use super::{Agent, Held, blocking};
use crate::datapath::Keep;
use crate::netlink::{gateway_peer, netns};
use crate::publish::Binding;
use crate::store::{ContainerRecord, State};

impl Agent {
    /// See the module.
    pub(super) async fn reconcile(self: &Arc<Self>) -> Result<()> {
        let mut guard = self.held.lock().await;
        let held = &mut *guard;
        for mut network in self.store.networks()? {
            if network.ready {
                match self.make_network(&mut network).await {
                    // A card can be plugged out; the other networks are none the worse for it. As
                    // another one it is taken notice of when it is back.
                    Err(error) if network.sharing.is_some() => {
                        log::error!(
                            "network {} stays without its parent: {error:#}",
                            network.name
                        );
                        network.ifindex = 0;
                    }
                    made => {
                        made.with_context(|| format!("cannot take over network {}", network.name))?
                    }
                }
                self.store.put_network(&network)?;
            } else {
                log::info!("network {} was not finished, removing it", network.name);
                self.unmake_network(&network).await?;
            }
        }
        for record in self.store.containers()? {
            let name = record.name.clone();
            self.take_over(held, Arc::unwrap_or_clone(record))
                .await
                .with_context(|| format!("cannot take over container {name}"))?;
        }
        self.take_over_cards().await?;
        self.take_over_adopted()
            .await
            .context("cannot take over Docker's networks")?;
        self.remove_orphans().await?;
        self.reserve_missing(held)?;
        self.complain_about_ports(held)?;
        self.restore_denied()?;
        self.look_around(held).await?;
        let keep = self.keep()?;
        self.with_datapath(|datapath| datapath.retain(&keep))
            .context("cannot clean the maps of an earlier agent")
    }

    async fn take_over(self: &Arc<Self>, held: &mut Held, record: ContainerRecord) -> Result<()> {
        let name = record.name.clone();
        // Somebody to watch, or the reason why there is nobody.
        let process = match &record.state {
            State::Exited { .. } => return Ok(()),
            State::Creating => {
                log::info!("container {name} was not finished, removing it");
                return self.drop_container(held, &record).await;
            }
            State::Created if !record.is_own() => None,
            State::Created => match &record.supervisor {
                Some(supervisor) if supervisor.is_alive() => {
                    Some((supervisor.clone(), Role::Supervisor))
                }
                _ => {
                    log::info!("container {name} was never started, removing it");
                    return self.drop_container(held, &record).await;
                }
            },
            State::Running { process, .. } if process.is_alive() => {
                Some((process.clone(), Role::Main))
            }
            State::Running { process, .. } => {
                let code = self.read_exit_file(&name, process);
                return self.finish(held, record, code).await;
            }
        };
        let mut record = record;
        while let Some(place) = record.endpoints.iter().position(|endpoint| !endpoint.ready) {
            log::info!("container {name}: an interface was not finished, removing it");
            record = self.take_away(held, record, place).await?;
        }
        let networks = self.store.networks()?;
        let netns = self.open_netns(&record);
        let mut lost = Vec::new();
        for (place, endpoint) in record.endpoints.iter().enumerate() {
            if let Some(network) = network_of(endpoint, &networks)
                && let Some(sharing) = &network.sharing
            {
                if !self
                    .take_over_plug(&record, network, sharing, endpoint)
                    .await?
                {
                    lost.push(place);
                }
                continue;
            }
            let link = self.netlink.link(&endpoint.device).await?;
            if link.is_some_and(|link| link.is_ours() && link.index == endpoint.ifindex) {
                // As long as our end is there, so is the namespace of the other.
                let network = network_of(endpoint, &networks)
                    .with_context(|| format!("network {} is gone", endpoint.network))?;
                self.add_to_datapath(network, endpoint, netns.as_ref())?;
            } else {
                lost.push(place);
            }
        }
        if !lost.is_empty() {
            if netns.is_none() && !record.is_own() {
                log::info!("the namespace of {name} is gone, it is detached");
                return self.drop_container(held, &record).await;
            }
            self.remake(held, record, lost, netns).await;
        }
        if let Some((process, role)) = process {
            self.watch(&name, process, role);
        }
        Ok(())
    }

    /// Removes a container that is nobody's any more.
    pub(super) async fn drop_container(
        &self,
        held: &mut Held,
        record: &ContainerRecord,
    ) -> Result<()> {
        self.kill_processes(record);
        self.unmake_container(held, record).await?;
        self.forget(&record.name);
        Ok(())
    }

    /// Removes devices, namespaces and files of ours that the store does not know.
    async fn remove_orphans(&self) -> Result<()> {
        let networks = self.store.networks()?;
        let containers = self.store.containers()?;
        let devices: HashSet<String> = networks
            .iter()
            .flat_map(|network| [network.device.clone(), gateway_peer(&network.device)])
            .chain(self.overlay_devices(&networks))
            .chain(
                containers
                    .iter()
                    .flat_map(|container| &container.endpoints)
                    .map(|endpoint| endpoint.device.clone()),
            )
            .chain(self.card_devices()?)
            .collect();
        for link in self.netlink.links().await? {
            if link.is_ours() && !devices.contains(&link.name) {
                log::info!("removing device {}, which nobody owns", link.name);
                self.netlink.delete_link(&link.name).await?;
            }
        }
        let living = |own: bool| -> HashSet<&str> {
            let living = containers
                .iter()
                .filter(|c| c.is_own() && !c.is_exited() && c.has_own_namespace() == own);
            living.map(|container| container.name.as_str()).collect()
        };
        let (with_own, sharing) = (living(true), living(false));
        for name in names_in(&self.settings.run_dir.join("netns")) {
            if !with_own.contains(name.as_str()) {
                log::info!("removing namespace {name}, which nobody owns");
                blocking(|| netns::remove(&self.netns_path(&name)))?;
            }
        }
        for name in names_in(&self.settings.run_dir.join(UTS)) {
            if !sharing.contains(name.as_str()) {
                blocking(|| self.forget_processes(&name))?;
            }
        }
        let known: HashSet<&str> = containers.iter().map(|c| c.name.as_str()).collect();
        for name in names_in(&self.settings.run_dir.join("containers")) {
            if !known.contains(name.as_str()) {
                let _ = fs::remove_dir_all(self.files_path(&name));
            }
        }
        Ok(())
    }

    /// Ports that somebody else took while no agent was there stay published: the
    /// datapath sees packets first. But whoever took them should know.
    fn complain_about_ports(&self, held: &Held) -> Result<()> {
        for container in self.store.containers()? {
            let reservations = held.reservations.get(&container.name);
            let reserved: HashSet<Binding> = reservations
                .into_iter()
                .flat_map(|held| bindings(held))
                .collect();
            for port in container.ports() {
                if !reserved.contains(port) {
                    let by = crate::publish::find_holder(port.proto, port.host_ip, port.host_port);
                    let by = by.map(|holder| format!(" {holder}")).unwrap_or_default();
                    log::warn!(
                        "port {port} of container {} was taken{by} while no agent was there; \
                         packets from outside go to the container",
                        container.name
                    );
                }
            }
        }
        Ok(())
    }

    /// What is to stay in the maps.
    fn keep(&self) -> Result<Keep> {
        let uplinks = self.uplinks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut keep = Keep {
            uplinks: uplinks
                .values()
                .flatten()
                .map(|uplink| uplink.ifindex)
                .collect(),
            overlays: self.overlay_ifindexes(),
            gateways: self
                .store
                .networks()?
                .iter()
                .map(|network| network.ifindex)
                .collect(),
            ..Keep::default()
        };
        let networks = self.store.networks()?;
        self.keep_cards(&mut keep)?;
        for container in self.store.containers()? {
            for endpoint in &container.endpoints {
                keep.veths.push(endpoint.ifindex);
                keep.ports.extend(port_specs(endpoint));
                if let Some(network) = network_of(endpoint, &networks) {
                    keep.open_ports.extend(open_port_specs(network, endpoint));
                }
            }
        }
        self.keep_adoption(&mut keep)?;
        Ok(keep)
    }
}

/// The names in a folder; none if it cannot be read.
fn names_in(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}
