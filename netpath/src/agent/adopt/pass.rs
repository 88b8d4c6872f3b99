//! A pass: from what was seen to what is in the maps.

use anyhow::Result;
use std::sync::PoisonError;
use tokio::time::Instant;

use super::{ASK_EVERY, CLOSED, Seen, find, flags, is_same, policy, port_specs, spec};
use crate::agent::{Agent, blocking};
use crate::datapath::PortSpec;
use crate::docker::adopt::firewall::Rules;
use crate::docker::adopt::plan::{Facts, Plan, WAITING, owners, wait_for_neighbours};
use crate::docker::adopt::{AdoptedEndpoint, AdoptedNetwork, Adoption, kernel};
use crate::netlink::{netfilter, sysctl};

/// To list the kernel's connections takes long where there are many: only this part of the time
/// goes into that, once what began before the adoption is known.
const LISTING_SHARE: u32 = 100;

impl Agent {
    /// Makes the maps agree with what was seen.
    ///
    /// Nobody has told of changed rules if `quiet`.
    pub(super) async fn pass(&self, seen: &Seen, quiet: bool) -> Result<()> {
        let mut running = self.adoption.running.lock().await;
        let Some(mut adoption) = self.store.adoption()? else {
            return Ok(());
        };
        let links = self.netlink.links().await?;
        let addresses = self.netlink.addresses().await?;
        let known = running.take().filter(|(when, rules)| {
            quiet && when.elapsed() < ASK_EVERY && rules.changes_are_told()
        });
        let known = match known {
            Some(known) => known,
            None => (Instant::now(), Rules::read().await),
        };
        let (_, rules) = running.insert(known);
        let facts = Facts {
            snapshot: &seen.snapshot,
            only: &adoption.only,
            known: &adoption.networks,
            sandboxes: &seen.sandboxes,
            links: &links,
            addresses: &addresses,
            uplinks: &self.settings.uplinks,
            rules: (!adoption.ignore_firewall).then_some(&*rules),
            bridged: is_bridged(),
        };
        let mut plan = Plan::new(&facts);
        self.number(&mut plan)?;
        let mut networks = std::mem::take(&mut plan.networks);
        let endpoints: Vec<AdoptedEndpoint> = std::mem::take(&mut plan.endpoints)
            .into_iter()
            .map(|(_, endpoint)| endpoint)
            .collect();
        for gone in &adoption.endpoints {
            let same = |endpoint: &AdoptedEndpoint| is_same(gone, endpoint);
            if !endpoints.iter().any(same) {
                self.give_back(&adoption.networks, gone, &links).await?;
                log::info!(
                    "container {} of Docker's is not adopted any more",
                    gone.container
                );
            }
        }
        let (opening, kernel_flows) = self.with_datapath(|datapath| {
            let mut opening = adoption.networks.iter().any(|before| {
                let now = find(&networks, before.id);
                before.refused.inward.is_some()
                    && now.is_some_and(|now| now.refused.inward.is_none())
            });
            for gone in &adoption.networks {
                let same = |now: &AdoptedNetwork| now.gateways == gone.gateways;
                if !find(&networks, gone.id).is_some_and(same) {
                    datapath.remove_adopted(gone.id)?;
                }
            }
            for network in &networks {
                datapath.add_adopted(network.id, policy(network), &network.subnets())?;
            }
            for endpoint in &endpoints {
                let network = find(&networks, endpoint.network);
                let veth = datapath.veth(endpoint.ifindex)?;
                let wanted = network.map_or(CLOSED, flags);
                opening |= veth.is_none_or(|veth| veth.flags & !wanted != 0);
            }
            Ok((opening, datapath.kernel_flows()?))
        })?;
        let waiting = |network: &AdoptedNetwork| network.refused.within.as_deref() == Some(WAITING);
        let waiting = adoption.networks.iter().any(waiting);
        if opening || waiting || kernel_flows > 0 && self.may_list() {
            let owned = self.kernels_own(&endpoints)?;
            wait_for_neighbours(&mut networks, &owned.within);
        }
        // The intent: if we are killed, the next agent knows what may have been made.
        let changed = adoption.networks != networks || adoption.endpoints != endpoints;
        let before = std::mem::replace(&mut adoption.endpoints, endpoints);
        adoption.networks = networks;
        if changed {
            self.store.put_adoption(&adoption)?;
        }
        let taken = self.put_into_datapath(&adoption)?;
        for port in taken {
            let name = format!(
                "port {}/{}",
                port.host_port,
                crate::publish::proto_name(port.proto)
            );
            plan.refuse(name, "a container of netpath's own has it");
        }
        if opening {
            // Connections that began in between.
            self.kernels_own(&adoption.endpoints)?;
        }
        for endpoint in &adoption.endpoints {
            if before.iter().any(|known| is_same(known, endpoint)) {
                continue;
            }
            // A bridge that was told too late only sends a frame to everybody.
            if let Err(error) = self.netlink.pin_mac(endpoint.ifindex, endpoint.mac).await {
                log::debug!("container {}: {error:#}", endpoint.container);
            }
            log::info!("container {} of Docker's is adopted", endpoint.container);
        }
        self.tell_adoption(|told| told.refused = plan.refused);
        Ok(())
    }

    /// Gives new networks their numbers, and endpoints those of their networks.
    fn number(&self, plan: &mut Plan) -> Result<()> {
        for network in plan.networks.iter_mut().filter(|network| network.id == 0) {
            network.id = self.free_network_id(&self.store.networks()?)?;
        }
        for (name, endpoint) in &mut plan.endpoints {
            let network = plan.networks.iter().find(|network| network.name == *name);
            endpoint.network = network.map_or(0, |network| network.id);
        }
        Ok(())
    }

    /// Whether it is time to list the kernel's connections again.
    fn may_list(&self) -> bool {
        let listed = self
            .adoption
            .listed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        listed.is_none_or(|(when, took)| when.elapsed() > took * LISTING_SHARE)
    }

    /// Leaves to the kernel what it has begun to translate, and forgets what has ended.
    fn kernels_own(&self, endpoints: &[AdoptedEndpoint]) -> Result<kernel::Owned> {
        let began = Instant::now();
        let tracked = blocking(netfilter::tracked)?;
        *self
            .adoption
            .listed
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), began.elapsed()));
        let owned = kernel::owned(&tracked, &owners(endpoints));
        let left_out = self.with_datapath(|datapath| {
            datapath.retain_kernel_flows(&owned.tuples)?;
            datapath.leave_to_kernel(&owned.tuples)
        })?;
        if left_out > 0 {
            log::warn!(
                "{left_out} connections of Docker's are too many to be noted, they may break"
            );
        }
        Ok(owned)
    }

    /// Attaches programs and fills the maps. Returns the ports that somebody else has.
    fn put_into_datapath(&self, adoption: &Adoption) -> Result<Vec<PortSpec>> {
        self.with_datapath(|datapath| {
            let ports = |endpoint: &AdoptedEndpoint| -> Vec<PortSpec> {
                let network = find(&adoption.networks, endpoint.network);
                match network {
                    Some(network) if network.refused.inward.is_none() => {
                        port_specs(endpoint).collect()
                    }
                    _ => Vec::new(),
                }
            };
            let mut taken = Vec::new();
            for endpoint in &adoption.endpoints {
                datapath.keep_ports(endpoint.ifindex, &ports(endpoint))?;
            }
            for endpoint in &adoption.endpoints {
                let Some(network) = find(&adoption.networks, endpoint.network) else {
                    continue;
                };
                let wanted = spec(network, endpoint, flags(network));
                let added = datapath
                    .ensure_endpoint(&wanted)
                    .and_then(|()| datapath.publish_free(&ports(endpoint)));
                match added {
                    Ok(theirs) => taken.extend(theirs),
                    // It ends just now: the next pass knows.
                    Err(error) => {
                        log::debug!("container {}: {error:#}", endpoint.container);
                    }
                }
            }
            Ok(taken)
        })
    }
}

/// Whether what passes a bridge passes rules of iptables: br_netfilter is there and on.
fn is_bridged() -> bool {
    sysctl::get("bridge/bridge-nf-call-iptables").is_some_and(|value| value != "0")
        || sysctl::get("bridge/bridge-nf-call-ip6tables").is_some_and(|value| value != "0")
}
