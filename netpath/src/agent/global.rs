//! Networks of the cluster: made and removed in its store, and on each node that uses them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use ipnet::IpNet;

use super::{Agent, Held, now};
use crate::api::types::CreateNetwork;
use crate::cluster::plan::{choose_pool, choose_vni, starting_point};
use crate::cluster::schema;
use crate::cluster::state::State;
use crate::cluster::{Claim, Cluster};
use crate::container::{files, names};
use crate::ipam::{allocate, check_wanted, overlaps, parse_cidr, parse_range, plan, random_ula};
use crate::overlay;
use crate::policy;
use crate::problem::{conflict, invalid};
use crate::store::{Driver, NetworkRecord};

impl Agent {
    /// Makes a network that this host shares with others; `None` if it is one of this host alone.
    pub(super) async fn create_shared(
        &self,
        held: &mut Held,
        new: &CreateNetwork,
    ) -> Result<Option<NetworkRecord>> {
        let driver = new.driver.as_deref().unwrap_or_default();
        match (driver.parse().unwrap_or_default(), &self.cluster) {
            (Driver::Overlay, Some(cluster)) => {
                self.create_global(cluster, new).await?;
                self.take_up(held, &new.name).await
            }
            (Driver::Flannel, _) => self.create_flannel(held, new.clone()).await.map(Some),
            _ => Ok(None),
        }
    }

    /// Makes a network of the cluster, in its store.
    async fn create_global(&self, cluster: &Cluster, new: &CreateNetwork) -> Result<()> {
        names::check("network", &new.name)?;
        let mut pairs = new.options.clone();
        let options = overlay::take_options(&mut pairs)?;
        let policy = policy::parse(new.internal, &pairs)?;
        let mtu = new.mtu.or(policy.mtu);
        self.overlay_mtu(mtu)?;
        let networks = self.store.networks()?;
        if networks.iter().any(|other| other.name == new.name) {
            return Err(conflict(format!(
                "a network named {} exists already, remove it first or choose another name",
                new.name
            )));
        }
        let prefixes = new
            .subnets
            .iter()
            .map(|text| parse_cidr(text))
            .collect::<Result<Vec<_>>>()?;
        let ranges = new
            .ranges
            .iter()
            .map(|text| parse_range(text))
            .collect::<Result<Vec<_>>>()?;
        if !new.aside.is_empty() {
            return Err(invalid(
                "networks of a cluster have no addresses set aside, leave out --aux-address",
            ));
        }
        let ula = random_ula(names::random()?);
        let id = names::uid()?;
        let here = self.taken_here(&networks).await?;
        let plan = |state: &State| {
            let mut prefixes = prefixes.clone();
            if prefixes.is_empty() {
                let taken: Vec<IpNet> = here
                    .iter()
                    .map(|(prefix, _)| *prefix)
                    .chain(prefixes_of(state).map(|(_, prefix)| prefix))
                    .collect();
                let servers: Vec<IpAddr> =
                    files::nameservers(&files::host_resolv_conf(&self.settings.resolv_conf))
                        .collect();
                prefixes.push(choose_pool(&taken, &servers)?);
            }
            if new.ipv6 && !prefixes.iter().any(|prefix| prefix.addr().is_ipv6()) {
                prefixes.push(ula);
            }
            check_free(&prefixes, state, &here)?;
            Ok(schema::Network {
                id: id.clone(),
                vni: choose_vni(state, options.vni)?,
                port: options.port.unwrap_or(overlay::PORT),
                subnets: plan(&prefixes, &ranges, &new.gateways, |v4| {
                    policy.policy.is_isolated(v4)
                })?,
                mtu,
                policy: policy.policy.clone(),
                labels: new.labels.clone(),
                created: now(),
            })
        };
        let network = cluster.create_network(&new.name, &plan).await?;
        log::info!(
            "network {} is in the cluster, with VNI {}",
            new.name,
            network.vni
        );
        Ok(())
    }

    /// Prefixes that no network of the cluster may overlap if this host is to use it, with whose
    /// they are.
    async fn taken_here(&self, networks: &[NetworkRecord]) -> Result<Vec<(IpNet, String)>> {
        let local = networks.iter().filter(|network| network.cluster.is_none());
        let mut taken: Vec<(IpNet, String)> = local
            .flat_map(|network| {
                let subnets = network.subnets.iter();
                subnets.map(|subnet| (subnet.prefix, format!("network {} here", network.name)))
            })
            .collect();
        let routes = self.host_routes(networks).await?.into_iter();
        taken.extend(routes.map(|(prefix, device)| (prefix, format!("this host's route{device}"))));
        Ok(taken)
    }

    /// Makes a network of the cluster on this node as well; `None` if the cluster has none of
    /// this name.
    ///
    /// # Errors
    /// It cannot be had here: something of this host's is in its way.
    pub(super) async fn take_up(
        &self,
        held: &mut Held,
        name: &str,
    ) -> Result<Option<NetworkRecord>> {
        let Some(cluster) = &self.cluster else {
            return Ok(None);
        };
        let Some(network) = cluster.read(|state| Some(state.network(name)?.record.clone())) else {
            return Ok(None);
        };
        let new = CreateNetwork {
            name: name.to_owned(),
            driver: Some(Driver::Overlay.name().into()),
            subnets: network
                .subnets
                .iter()
                .map(|s| s.prefix.to_string())
                .collect(),
            gateways: network.subnets.iter().filter_map(|s| s.gateway).collect(),
            mtu: network.mtu,
            options: [
                ("vni".to_owned(), network.vni.to_string()),
                ("port".to_owned(), network.port.to_string()),
            ]
            .into(),
            ..CreateNetwork::default()
        };
        let mut record = self.plan_network(new).await?;
        record.subnets.clone_from(&network.subnets);
        record.policy = network.policy;
        record.created = network.created;
        record.labels = network.labels;
        record.uid.clone_from(&network.id);
        record.cluster = Some(network.id);
        let record = self.finish_network(held, record).await?;
        cluster.touch(name);
        Ok(Some(record))
    }

    /// Does what is to be done elsewhere before a network is removed here, where nobody uses it.
    ///
    /// # Errors
    /// Another node uses it; or the cluster's store is away.
    pub(super) async fn remove_shared(&self, held: &Held, record: &NetworkRecord) -> Result<()> {
        self.leave_flannel(record).await;
        if record.cluster.is_none() {
            return Ok(());
        }
        let cluster = self.cluster()?;
        let is_there = cluster.read(|state| state.network(&record.name).is_some());
        if !is_there {
            // Removed by another node a moment ago.
            return Ok(());
        }
        // What was removed here just now does not use it any more.
        self.tell_cluster(held)?;
        cluster.settle().await;
        cluster.remove_network(&record.name).await
    }

    /// Gets addresses of a network of the cluster for a container that is to join it. In other
    /// networks it does nothing.
    pub(super) async fn claim_addresses(
        &self,
        network: &mut NetworkRecord,
        container: &str,
        ip: &mut Option<Ipv4Addr>,
        ip6: &mut Option<Ipv6Addr>,
    ) -> Result<()> {
        if network.cluster.is_none() {
            return Ok(());
        }
        let cluster = self.cluster()?;
        let local = self.store.leases(network.id)?;
        let (wanted4, wanted6) = (*ip, *ip6);
        let choose = |taken: &BTreeSet<IpAddr>| {
            let used: BTreeSet<IpAddr> = taken.union(&local).copied().collect();
            let mut chosen = Vec::new();
            for subnet in &network.subnets {
                let v4 = subnet.is_v4();
                let wanted = if v4 {
                    wanted4.map(IpAddr::V4)
                } else {
                    wanted6.map(IpAddr::V6)
                };
                chosen.push(match wanted {
                    Some(wanted) => {
                        check_wanted(subnet, &used, wanted)?;
                        wanted
                    }
                    None => {
                        let last = network.last_leases.iter().find(|last| last.is_ipv4() == v4);
                        let first = || starting_point(&subnet.prefix, cluster.node());
                        allocate(subnet, &used, Some(last.copied().unwrap_or_else(first)))?
                    }
                });
            }
            Ok(chosen)
        };
        let claim = Claim {
            choose: &choose,
            endpoint: schema::Endpoint {
                node: cluster.node().to_owned(),
                container: container.to_owned(),
                mac: None,
                aliases: Vec::new(),
            },
        };
        let addresses = cluster.claim(&network.name, &claim).await?;
        // Whatever becomes of the container: after this operation, what it has is told anew.
        self.announce_change();
        for address in &addresses {
            network
                .last_leases
                .retain(|last| last.is_ipv4() != address.is_ipv4());
            match address {
                IpAddr::V4(address) => *ip = Some(*address),
                IpAddr::V6(address) => *ip6 = Some(*address),
            }
        }
        network.last_leases.extend(&addresses);
        self.store.put_network(network)
    }

    /// Refuses a network of this host alone that has what one of the cluster has: its name, or
    /// addresses, which this host could then not reach there.
    pub(super) fn check_beside_cluster(&self, record: &NetworkRecord) -> Result<()> {
        let Some(cluster) = &self.cluster else {
            return Ok(());
        };
        let name = &record.name;
        let prefixes: Vec<IpNet> = record.subnets.iter().map(|subnet| subnet.prefix).collect();
        cluster.read(|state| {
            if state.network(name).is_some() {
                return Err(conflict(format!(
                    "a network named {name} exists in the cluster already, choose another name"
                )));
            }
            check_free(&prefixes, state, &[])
        })
    }

    /// The prefixes of the cluster's networks.
    pub(super) fn prefixes_of_cluster(&self) -> Vec<IpNet> {
        let Some(cluster) = &self.cluster else {
            return Vec::new();
        };
        cluster.read(|state| prefixes_of(state).map(|(_, prefix)| prefix).collect())
    }
}

fn prefixes_of(state: &State) -> impl Iterator<Item = (&str, IpNet)> {
    state.networks().flat_map(|(name, network)| {
        let subnets = network.subnets.iter();
        subnets.map(move |subnet| (name, subnet.prefix))
    })
}

fn check_free(prefixes: &[IpNet], state: &State, here: &[(IpNet, String)]) -> Result<()> {
    for prefix in prefixes {
        if let Some((other, theirs)) = prefixes_of(state).find(|(_, net)| overlaps(prefix, net)) {
            return Err(conflict(format!(
                "subnet {prefix} overlaps {theirs} of network {other} of the cluster, choose \
                 another"
            )));
        }
        if let Some((theirs, whose)) = here.iter().find(|(net, _)| overlaps(prefix, net)) {
            return Err(invalid(format!(
                "subnet {prefix} overlaps {theirs} of {whose}, choose another"
            )));
        }
    }
    Ok(())
}
