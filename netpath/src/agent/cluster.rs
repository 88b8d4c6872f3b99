//! This node's part in a cluster: the others are told what it has, and what they tell comes into
//! force.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use anyhow::Result;
use ipnet::IpNet;

use super::settings::Settings;
use super::{Agent, BURST, Held};
use crate::api::types::Nodes;
use crate::cluster::Cluster;
use crate::cluster::etcd::Access;
use crate::cluster::own::Place;
use crate::cluster::schema::{Endpoint, Mac};
use crate::container::names::short_id;
use crate::overlay::Peer;
use crate::problem::not_found;
use crate::store::{ContainerRecord, EndpointRecord, Store};

/// What an endpoint is called on other nodes, beside its container's name.
fn names_elsewhere(container: &ContainerRecord, endpoint: &EndpointRecord) -> Vec<String> {
    let short = short_id(&container.uid).map(str::to_owned);
    endpoint.aliases.iter().cloned().chain(short).collect()
}

/// This node's part in a cluster, and how to reach its store; `None` if there is to be none.
///
/// # Errors
/// A file of the settings cannot be read, or the store cannot.
pub(super) fn open(settings: &Settings, store: &Store) -> Result<Option<(Arc<Cluster>, Access)>> {
    let Some(wanted) = &settings.cluster else {
        return Ok(None);
    };
    let access = Access::new(wanted)?;
    let cluster = Cluster::new(wanted.clone(), store.identity()?, store.cluster()?);
    Ok(Some((Arc::new(cluster), access)))
}

impl Agent {
    /// The cluster, for what makes no sense without one.
    pub(super) fn cluster(&self) -> Result<&Arc<Cluster>> {
        self.cluster.as_ref().ok_or_else(|| {
            not_found(
                "this agent is in no cluster, start it with --cluster etcd://HOST:PORT to make it \
                 a node of one",
            )
        })
    }

    /// The cluster's nodes.
    ///
    /// # Errors
    /// This agent is in no cluster.
    pub fn nodes(&self) -> Result<Nodes> {
        let cluster = self.cluster()?;
        Ok(Nodes {
            cluster: cluster.status(),
            nodes: cluster.nodes(),
        })
    }

    /// Looks at the cluster once, before this agent serves.
    ///
    /// # Errors
    /// The cluster is there and does not want this node.
    pub(super) async fn join_cluster(&self, mut access: Access) -> Result<()> {
        let Some(cluster) = &self.cluster else {
            return Ok(());
        };
        self.tell_address();
        {
            let held = self.held.lock().await;
            self.tell_cluster(&held)?;
        }
        cluster.introduce(&mut access).await?;
        tokio::spawn(cluster.clone().run(access));
        Ok(())
    }

    /// Tells the cluster where packets for this node go.
    pub(super) fn tell_address(&self) {
        let Some(cluster) = &self.cluster else {
            return;
        };
        let uplinks = self.uplinks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut there = self
            .settings
            .uplinks
            .iter()
            .filter_map(|name| uplinks.get(name)?.as_ref());
        let address = there
            .clone()
            .find_map(|uplink| uplink.addr4.map(IpAddr::V4));
        cluster.set_address(address.or_else(|| there.find_map(|u| u.addr6.map(IpAddr::V6))));
    }

    /// Tells the cluster which addresses this node's containers have.
    pub(super) fn tell_cluster(&self, _held: &Held) -> Result<()> {
        let Some(cluster) = &self.cluster else {
            return Ok(());
        };
        let networks = self.store.networks()?;
        let of_cluster = |name: &str| {
            let network = networks.iter().find(|network| network.name == name);
            network.is_some_and(|network| network.cluster.is_some())
        };
        let mut own: BTreeMap<Place, Endpoint> = BTreeMap::new();
        for container in self.store.containers()? {
            for endpoint in &container.endpoints {
                if !of_cluster(&endpoint.network) {
                    continue;
                }
                let mac = Mac(endpoint.mac);
                let record = Endpoint {
                    node: cluster.node().to_owned(),
                    container: container.name.clone(),
                    mac: mac.is_unicast().then_some(mac),
                    aliases: names_elsewhere(&container, endpoint),
                };
                for address in endpoint.addresses() {
                    own.insert((endpoint.network.clone(), address), record.clone());
                }
            }
        }
        cluster.set_own(own);
        Ok(())
    }

    /// Has the cluster know what was taken away here before the user hears that it is done: who
    /// removes a network on another node next shall not be told of a container that is gone.
    pub(super) async fn settle_cluster(&self) {
        let Some(cluster) = &self.cluster else {
            return;
        };
        let told = self.tell_cluster(&*self.held.lock().await);
        if let Err(error) = told {
            log::error!("cannot tell the cluster: {error:#}");
        }
        cluster.settle().await;
    }

    /// Keeps the cluster and this node in step, forever.
    pub(super) async fn keep_cluster(self: Arc<Self>) {
        let Some(cluster) = self.cluster.clone() else {
            return;
        };
        let mut of_cluster = cluster.changes();
        let mut of_containers = self.changes.subscribe();
        // An earlier agent's copy is in force until the store says otherwise.
        of_cluster.mark_changed();
        loop {
            let changed = tokio::select! {
                changed = of_cluster.changed() => changed,
                changed = of_containers.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
            tokio::time::sleep(BURST).await;
            of_cluster.mark_unchanged();
            of_containers.mark_unchanged();
            let mut held = self.held.lock().await;
            if let Err(error) = self.follow_cluster(&mut held, &cluster).await {
                log::error!("cannot follow the cluster: {error:#}");
            }
        }
    }

    async fn follow_cluster(&self, held: &mut Held, cluster: &Cluster) -> Result<()> {
        self.tell_cluster(held)?;
        self.store.save_cluster(&cluster.take_unsaved())?;
        self.follow_memberships(held).await?;
        for name in cluster.take_touched() {
            if let Err(error) = self.follow_network(held, cluster, &name).await {
                // The other networks are none the worse for it.
                log::error!("cannot follow network {name} of the cluster: {error:#}");
            }
        }
        Ok(())
    }

    /// Puts into force what the cluster says of a network.
    async fn follow_network(&self, held: &mut Held, cluster: &Cluster, name: &str) -> Result<()> {
        let local = self.store.networks()?.into_iter().find(|n| n.name == name);
        let record = match local {
            Some(record) if record.cluster.is_none() => {
                log::warn!(
                    "network {name} of the cluster cannot be had here, where another has its name"
                );
                return Ok(());
            }
            Some(record) => record,
            None => {
                if let Some(record) = self.take_up(held, name).await? {
                    log::info!("network {} of the cluster is here as well", record.name);
                }
                return Ok(());
            }
        };
        let is_there = cluster.read(|state| {
            let network = state.network(name);
            network.is_some_and(|entry| Some(&entry.record.id) == record.cluster.as_ref())
        });
        if !is_there {
            if self.users_of(name)?.is_empty() {
                self.unmake_network(&record).await?;
                log::info!("network {name} was removed from the cluster");
                // Another one may have its name by now.
                cluster.touch(name);
                self.announce_change();
                return self.look_around(held).await;
            }
            log::error!(
                "network {name} is no network of the cluster any more, its containers on this \
                 node reach only each other"
            );
        }
        let Some(overlay) = &record.overlay else {
            return Ok(());
        };
        self.name_remotes(&record, cluster.remote_names(name));
        let remotes = cluster.read(|state| state.remotes(name, cluster.node()));
        let peers = remotes.into_iter().map(|remote| Peer {
            destination: IpNet::from(remote.address),
            vtep: remote.vtep,
            mac: remote.mac.0,
            vni: overlay.vni,
            port: overlay.port,
        });
        self.overlay_set_peers_held(held, name, peers.collect())
            .await
    }
}
