//! Docker's own bridges: adopting them, keeping up with Docker, and giving them back.
//!
//! `docker/adopt` knows what is to be adopted; here it is put into the maps. Every pass looks at
//! everything, so that nothing depends on an event that was missed.
//!
//! * `follow`: when to look; `pass`: what is made of it; `show`: what the API tells

mod follow;
mod pass;
mod show;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use netpath_common::policy::{ADOPTED, ICC_OFF, INTERNAL};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Agent;
use crate::api::types::{Adopt, Adopted};
use crate::datapath::{EndpointSpec, Keep, PortSpec};
use crate::docker::adopt::client::{Client, Snapshot};
use crate::docker::adopt::firewall::Rules;
use crate::docker::adopt::plan::{Refused, still_there};
use crate::docker::adopt::sandbox::Sandbox;
use crate::docker::adopt::{self, AdoptedEndpoint, AdoptedNetwork, Adoption};
use crate::netlink::Link;
use crate::problem::{conflict, not_found};
use follow::look;

/// Docker is asked for everything this often even if it tells of no change.
const ASK_EVERY: Duration = Duration::from_secs(30);

/// What the agent knows of the adoption beside the store.
#[derive(Default)]
pub(super) struct Keeper {
    /// Held by the one pass that runs: the rules of the firewall as it last read them, and when.
    running: tokio::sync::Mutex<Option<(Instant, Rules)>>,
    /// The adoption has begun, changed or ended.
    changed: Notify,
    told: Mutex<Told>,
    /// When the kernel's connections were listed last, and how long that took.
    listed: Mutex<Option<(Instant, Duration)>>,
}

/// What `status` says.
#[derive(Default)]
struct Told {
    refused: Vec<Refused>,
    problem: Option<String>,
}

/// What Docker and the containers' namespaces told when they were last asked.
struct Seen {
    snapshot: Snapshot,
    sandboxes: HashMap<String, Result<Option<Sandbox>, String>>,
    since: Instant,
}

impl Agent {
    /// Adopts Docker's bridges.
    ///
    /// # Errors
    /// A sentence; then nothing has changed.
    pub async fn adopt(&self, new: Adopt) -> Result<Adopted> {
        let socket = new.socket.unwrap_or_else(|| adopt::SOCKET.into());
        let socket = std::path::absolute(&socket)
            .with_context(|| format!("{} is not a usable path", socket.display()))?;
        check_is_same(self.store.adoption()?.as_ref(), &socket)?;
        let client = Client::connect(&socket).await?;
        let seen = look(&client).await?;
        for name in &new.networks {
            if !seen
                .snapshot
                .networks
                .iter()
                .any(|network| network.name == *name)
            {
                return Err(not_found(format!(
                    "Docker has no bridge network {name}, see \"docker network ls\""
                )));
            }
        }
        {
            // Else a pass that runs would write what was wanted before, and this what it had found
            // before.
            let _running = self.adoption.running.lock().await;
            let before = self.store.adoption()?;
            check_is_same(before.as_ref(), &socket)?;
            let (networks, endpoints) = before
                .map(|before| (before.networks, before.endpoints))
                .unwrap_or_default();
            self.store.put_adoption(&Adoption {
                socket,
                only: new.networks,
                ignore_firewall: new.ignore_firewall,
                networks,
                endpoints,
            })?;
        }
        let passed = self.pass(&seen, false).await;
        self.adoption.changed.notify_one();
        passed?;
        self.adopted()
    }

    /// Gives Docker's bridges back.
    ///
    /// # Errors
    /// Nothing is adopted, or the kernel refuses.
    pub async fn release(&self) -> Result<()> {
        let _running = self.adoption.running.lock().await;
        let Some(adoption) = self.store.adoption()? else {
            return Err(not_found("nothing is adopted"));
        };
        let links = self.netlink.links().await?;
        for endpoint in &adoption.endpoints {
            self.give_back(&adoption.networks, endpoint, &links).await?;
        }
        self.with_datapath(|datapath| {
            for network in &adoption.networks {
                datapath.remove_adopted(network.id)?;
            }
            datapath.retain_kernel_flows(&HashSet::new()).map(drop)
        })?;
        self.store.remove_adoption()?;
        self.tell_adoption(|told| *told = Told::default());
        self.adoption.changed.notify_one();
        log::info!("Docker's networks are given back");
        Ok(())
    }

    /// At the start: takes over what an earlier agent adopted, as far as it is still there, and
    /// begins an adoption that the settings ask for. Docker is not asked: it may be away.
    pub(super) async fn take_over_adopted(&self) -> Result<()> {
        let mut adoption = self.store.adoption()?;
        if let Some(socket) = &self.settings.adopt {
            if let Some(other) = adoption.as_ref().filter(|other| other.socket != *socket) {
                return Err(conflict(format!(
                    "the networks of Docker on {} are adopted already, start without --adopt and \
                     give them back first: netpath adopt --release",
                    other.socket.display()
                )));
            }
            adoption.get_or_insert_with(|| Adoption {
                socket: socket.clone(),
                only: Vec::new(),
                ignore_firewall: false,
                networks: Vec::new(),
                endpoints: Vec::new(),
            });
        }
        let Some(mut adoption) = adoption else {
            return Ok(());
        };
        let links = self.netlink.links().await?;
        let networks = &adoption.networks;
        adoption
            .endpoints
            .retain(|endpoint| is_port(endpoint, networks, &links));
        self.with_datapath(|datapath| {
            for network in networks {
                datapath.add_adopted(network.id, policy(network), &network.subnets())?;
            }
            for endpoint in &adoption.endpoints {
                let Some(network) = find(networks, endpoint.network) else {
                    continue;
                };
                // Open as far as it was; what is new is opened when Docker has been asked.
                let flags = datapath
                    .veth(endpoint.ifindex)?
                    .map_or(CLOSED, |veth| veth.flags);
                datapath.add_endpoint(&spec(network, endpoint, flags))?;
            }
            Ok(())
        })?;
        self.store.put_adoption(&adoption)
    }

    /// What of an adoption is to stay in the maps.
    pub(super) fn keep_adoption(&self, keep: &mut Keep) -> Result<()> {
        let Some(adoption) = self.store.adoption()? else {
            return Ok(());
        };
        keep.adopted = adoption.networks.iter().map(|network| network.id).collect();
        for endpoint in &adoption.endpoints {
            keep.veths.push(endpoint.ifindex);
            keep.ports.extend(port_specs(endpoint));
        }
        Ok(())
    }

    /// At the end of an agent that was asked to end: new connections are Docker's again, for
    /// nobody would notice what Docker does from now on. Those that there are go on.
    pub(super) async fn stand_by(&self) -> Result<()> {
        let _running = self.adoption.running.lock().await;
        let Some(adoption) = self.store.adoption()? else {
            return Ok(());
        };
        self.with_datapath(|datapath| {
            for endpoint in &adoption.endpoints {
                let network = find(&adoption.networks, endpoint.network);
                let there = datapath.veth(endpoint.ifindex)?.is_some();
                if let (Some(network), true) = (network, there) {
                    datapath.keep_ports(endpoint.ifindex, &[])?;
                    datapath.add_endpoint(&spec(network, endpoint, CLOSED))?;
                }
            }
            Ok(())
        })
    }

    /// Takes an endpoint out of the maps, and the program from its device.
    async fn give_back(
        &self,
        networks: &[AdoptedNetwork],
        endpoint: &AdoptedEndpoint,
        links: &[Link],
    ) -> Result<()> {
        self.with_datapath(|datapath| datapath.remove_endpoint(endpoint.ifindex))?;
        if is_port(endpoint, networks, links)
            && let Err(error) = self.netlink.unpin_mac(endpoint.ifindex, endpoint.mac).await
        {
            log::debug!("container {}: {error:#}", endpoint.container);
        }
        Ok(())
    }

    fn tell_adoption<T>(&self, action: impl FnOnce(&mut Told) -> T) -> T {
        action(
            &mut self
                .adoption
                .told
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

/// Checks that no other daemon's networks are adopted.
fn check_is_same(before: Option<&Adoption>, socket: &Path) -> Result<()> {
    match before {
        Some(before) if before.socket != socket => Err(conflict(format!(
            "the networks of Docker on {} are adopted already, give them back first: netpath adopt \
             --release",
            before.socket.display()
        ))),
        _ => Ok(()),
    }
}

/// Nothing new begins here: all of it goes up to the stack.
const CLOSED: u8 = ADOPTED | INTERNAL | ICC_OFF;

/// The flags of a network's endpoints. What is refused looks like what must not be; and what must
/// not be in an adopted network goes up to the stack.
fn flags(network: &AdoptedNetwork) -> u8 {
    let within = network.refused.within.as_ref().map_or(0, |_| ICC_OFF);
    let outward = network.refused.outward.as_ref().map_or(0, |_| INTERNAL);
    ADOPTED | within | outward
}

fn policy(network: &AdoptedNetwork) -> netpath_common::policy::Policy {
    let mut policy = network.policy.record();
    policy.flags |= ADOPTED;
    policy
}

fn find(networks: &[AdoptedNetwork], id: u16) -> Option<&AdoptedNetwork> {
    networks.iter().find(|network| network.id == id)
}

/// Whether the device of an endpoint is there, at its bridge.
fn is_port(endpoint: &AdoptedEndpoint, networks: &[AdoptedNetwork], links: &[Link]) -> bool {
    let network = find(networks, endpoint.network);
    network.is_some_and(|network| still_there(endpoint, network.ifindex, links))
}

/// Whether a record is still of the same interface with the same addresses; ports may differ. A
/// link-local address may come after the others.
fn is_same(before: &AdoptedEndpoint, now: &AdoptedEndpoint) -> bool {
    (before.ifindex, &before.device, &before.docker_id)
        == (now.ifindex, &now.device, &now.docker_id)
        && (before.network, before.mac) == (now.network, now.mac)
        && (before.addr4, before.addr6) == (now.addr4, now.addr6)
        && before
            .link_local
            .is_none_or(|known| now.link_local == Some(known))
}

fn spec(network: &AdoptedNetwork, endpoint: &AdoptedEndpoint, flags: u8) -> EndpointSpec {
    let gateway = |addr: Option<IpAddr>| network.gateway_of(addr?);
    EndpointSpec {
        network: network.id,
        ifindex: endpoint.ifindex,
        mac: endpoint.mac,
        addr4: endpoint.addr4.map(|(addr, _)| addr),
        addr6: endpoint.addr6.map(|(addr, _)| addr),
        link_local: endpoint.link_local,
        prefix4: endpoint.addr4.map_or(0, |(_, length)| length),
        prefix6: endpoint.addr6.map_or(0, |(_, length)| length),
        gateway4: match gateway(endpoint.addr4.map(|(addr, _)| addr.into())) {
            Some(IpAddr::V4(gateway)) => Some(gateway),
            _ => None,
        },
        gateway6: match gateway(endpoint.addr6.map(|(addr, _)| addr.into())) {
            Some(IpAddr::V6(gateway)) => Some(gateway),
            _ => None,
        },
        gateway_ifindex: network.ifindex,
        gateway_mac: network.mac,
        flags,
        netns: endpoint.netns,
    }
}

/// Published ports as the datapath wants them.
fn port_specs(endpoint: &AdoptedEndpoint) -> impl Iterator<Item = PortSpec> {
    endpoint.ports.iter().filter_map(|binding| {
        let own = |addr: &IpAddr| addr.is_ipv4() == binding.host_ip.is_ipv4();
        Some(PortSpec {
            host_ip: binding.host_ip,
            proto: binding.proto,
            host_port: binding.host_port,
            endpoint_ifindex: endpoint.ifindex,
            container_ip: endpoint.addresses().find(own)?,
            container_port: binding.container_port,
        })
    })
}
