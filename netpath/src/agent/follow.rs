//! Keeping up with the host's devices and addresses.

use std::fs::File;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use anyhow::{Context, Result};

use super::endpoint::{Occasion, Source};
use super::gateway::network_of;
use super::{Agent, Held, Uplink};
use crate::netlink::{Address, Link};
use crate::store::{ContainerRecord, State};

impl Agent {
    /// Looks at all devices and addresses, tells the datapath what changed, and repairs
    /// what of ours somebody removed.
    pub(super) async fn look_around(&self, held: &mut Held) -> Result<()> {
        let links = self.netlink.links().await?;
        let addresses = self.netlink.addresses().await?;
        for name in &self.settings.uplinks {
            self.look_at_uplink(name, &links, &addresses)?;
        }
        self.tell_address();
        let mut host: Vec<(IpAddr, u32)> = addresses
            .iter()
            .filter(|address| address.is_global)
            .map(|address| (address.ip, address.index))
            .collect();
        host.sort_unstable();
        if host != held.host_addresses {
            self.with_datapath(|datapath| datapath.set_host_addrs(&host))
                .context("cannot tell the datapath the host's addresses")?;
            held.host_addresses = host;
        }
        self.look_at_trusted(held, &links)?;
        self.look_at_tunnels(&links, &held.host_addresses).await?;
        self.look_at_cards(held, &links).await?;
        self.repair(held, &links).await
    }

    /// Tells the datapath which of the devices are there that networks trust.
    fn look_at_trusted(&self, held: &mut Held, links: &[Link]) -> Result<()> {
        let mut trusted = Vec::new();
        for network in self.store.networks()? {
            for name in &network.policy.trusted_host_interfaces {
                let link = links.iter().find(|link| link.name == *name);
                trusted.extend(link.map(|link| (network.id, link.index)));
            }
        }
        trusted.sort_unstable();
        if held.trusted.as_ref() != Some(&trusted) {
            self.with_datapath(|datapath| datapath.set_trusted(&trusted))
                .context("cannot tell the datapath the trusted devices")?;
            held.trusted = Some(trusted);
        }
        Ok(())
    }

    fn look_at_uplink(&self, name: &str, links: &[Link], addresses: &[Address]) -> Result<()> {
        let now = links.iter().find(|link| link.name == name).map(|link| {
            let mut of_link = addresses
                .iter()
                .filter(|a| a.index == link.index && a.is_global && !a.is_secondary);
            let addr4 = of_link.clone().find_map(|address| match address.ip {
                IpAddr::V4(ip) => Some(ip),
                IpAddr::V6(_) => None,
            });
            let addr6 = of_link.find_map(|address| match address.ip {
                IpAddr::V6(ip) if address.is_usable => Some(ip),
                _ => None,
            });
            Uplink {
                ifindex: link.index,
                mtu: link.mtu,
                addr4,
                addr6,
            }
        });
        let before = {
            let uplinks = self.uplinks.lock().unwrap_or_else(PoisonError::into_inner);
            uplinks.get(name).copied().flatten()
        };
        if now == before {
            return Ok(());
        }
        let index = |uplink: Option<Uplink>| uplink.map(|uplink| uplink.ifindex);
        self.with_datapath(|datapath| {
            if let Some(old) = before
                && index(before) != index(now)
            {
                log::warn!("uplink {name} is gone");
                // With the device its programs went.
                if let Err(error) = datapath.detach_uplink(old.ifindex) {
                    log::debug!("cannot detach from uplink {name}: {error:#}");
                }
            }
            let Some(new) = now else { return Ok(()) };
            if index(before) != index(now) {
                datapath.attach_uplink(new.ifindex)?;
                log::info!("attached to uplink {name}");
            }
            datapath.set_uplink_addrs(new.ifindex, new.addr4, new.addr6)
        })
        .with_context(|| format!("cannot use uplink {name}"))?;
        let mut uplinks = self.uplinks.lock().unwrap_or_else(PoisonError::into_inner);
        uplinks.insert(name.to_owned(), now);
        drop(uplinks);
        if let Some(new) = now
            && before.is_none_or(|old| (old.ifindex, old.mtu) != (new.ifindex, new.mtu))
        {
            self.set_gate(name, new.ifindex);
        }
        Ok(())
    }

    /// Makes gateway devices and interfaces anew that somebody removed.
    async fn repair(&self, held: &mut Held, links: &[Link]) -> Result<()> {
        let is_there = |index: u32| links.iter().any(|link| link.index == index);
        let containers = self.store.containers()?;
        let mut remade = Vec::new();
        for mut network in self.store.networks()? {
            let changed = Self::has_new_parent(&network, links);
            let is_fine = is_there(network.ifindex) && !changed;
            if !network.ready || is_fine || Self::is_parent_away(&network, links) {
                continue;
            }
            if changed {
                log::info!("the parent of network {} has changed", network.name);
            } else {
                log::warn!(
                    "the gateway device of network {} is gone, making it anew",
                    network.name
                );
            }
            let made = self.make_network(&mut network).await;
            if let Err(error) = made.and_then(|()| self.store.put_network(&network)) {
                // The others are none the worse for it.
                log::error!("network {} stays without: {error:#}", network.name);
                continue;
            }
            remade.push(network.name);
        }
        let networks = self.store.networks()?;
        for record in containers {
            if record.state == State::Creating || held.beyond_repair.contains(&record.name) {
                continue;
            }
            let mut lost = Vec::new();
            for (place, endpoint) in record.endpoints.iter().enumerate() {
                let Some(network) = network_of(endpoint, &networks) else {
                    continue;
                };
                if Self::is_parent_away(network, links) {
                    continue;
                }
                if self.is_lost(network, endpoint, links) {
                    lost.push(place);
                } else if !remade.contains(&endpoint.network) {
                    continue;
                } else if let Some(sharing) = &network.sharing {
                    if !self
                        .take_over_plug(&record, network, sharing, endpoint)
                        .await?
                    {
                        lost.push(place);
                    }
                } else {
                    let netns = self.open_netns(&record);
                    self.add_to_datapath(network, endpoint, netns.as_ref())?;
                }
            }
            if !lost.is_empty() {
                self.repair_container(held, Arc::unwrap_or_clone(record), lost)
                    .await;
            }
        }
        Ok(())
    }

    async fn repair_container(&self, held: &mut Held, record: ContainerRecord, lost: Vec<usize>) {
        let name = record.name.clone();
        let netns = self.open_netns(&record);
        if netns.is_none() && !record.is_own() {
            log::info!("the namespace of {name} is gone, it is detached");
            if let Err(error) = self.unmake_container(held, &record).await {
                log::error!("cannot clean up after {name}: {error:#}");
            }
            self.forget(&name);
            return;
        }
        let alive = match &record.state {
            State::Running { process, .. } => process.is_alive(),
            _ => true,
        };
        if !alive {
            // Its end is being dealt with.
            return;
        }
        self.remake(held, record, lost, netns).await;
    }

    /// Makes lost interfaces of a container anew in the namespace it has: those at the given
    /// places in the list of its endpoints.
    pub(super) async fn remake(
        &self,
        held: &mut Held,
        record: ContainerRecord,
        lost: Vec<usize>,
        netns: Option<File>,
    ) {
        let name = record.name.clone();
        log::warn!("an interface of container {name} is gone, making it anew");
        if let Err(error) = self.try_remake(record, lost, netns).await {
            // Trying again at once would fail again, and each try makes and removes a
            // device, which is a reason to look around.
            held.beyond_repair.insert(name.clone());
            log::error!("container {name} stays without a network: {error:#}");
        }
    }

    async fn try_remake(
        &self,
        mut record: ContainerRecord,
        lost: Vec<usize>,
        netns: Option<File>,
    ) -> Result<()> {
        let netns = netns.context("its namespace is gone")?;
        let networks = self.store.networks()?;
        let lost_ones = || lost.iter().filter_map(|place| record.endpoints.get(*place));
        let devices: Vec<String> = lost_ones().map(|e| e.device.clone()).collect();
        for endpoint in lost_ones() {
            let network = network_of(endpoint, &networks);
            if let Some((network, sharing)) = network.and_then(|n| Some((n, n.sharing.as_ref()?))) {
                self.unplug_endpoint(&record, network, sharing, endpoint)
                    .await?;
            } else if endpoint.ifindex != 0 {
                self.with_datapath(|datapath| datapath.remove_endpoint(endpoint.ifindex))?;
            }
        }
        let places = lost.iter().map(|place| (*place, Source::New)).collect();
        let made = async {
            self.make_endpoints(&mut record, &networks, &netns, Occasion::Later, places)
                .await?;
            self.route_out(&record, &record, &netns, &networks)?;
            self.publish_all(&record, &networks)
        };
        if let Err(error) = made.await {
            for device in devices {
                self.netlink.delete_link(&device).await?;
            }
            return Err(error);
        }
        self.store.put_container(&record)
    }
}
