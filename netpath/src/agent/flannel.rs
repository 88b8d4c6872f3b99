//! Networks of driver `flannel`: this host is a member of a flannel network.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use ipnet::IpNet;
use tokio::task::JoinHandle;

use super::overlay::owner_of;
use super::{Agent, Held};
use crate::api::types::CreateNetwork;
use crate::cluster::etcd::Access;
use crate::cluster::flannel::config::Config;
use crate::cluster::flannel::lease::{self, Attributes, BACKEND, BackendData, subnet_env};
use crate::cluster::flannel::{self, Joined, Membership};
use crate::cluster::schema::Mac;
use crate::overlay::Peer;
use crate::policy;
use crate::problem::{conflict, invalid};
use crate::store::{FlannelRecord, NetworkRecord, OverlayRecord};

/// Memberships that are kept, by name of the network.
pub(super) type Memberships = HashMap<String, Kept>;

/// A membership, with what keeps it.
pub(super) struct Kept {
    membership: Arc<Membership>,
    task: JoinHandle<()>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where a flannel network is.
struct Options {
    prefix: String,
    subnet_file: PathBuf,
}

/// Takes this driver's options out of all that a user wrote.
fn take_options(all: &mut BTreeMap<String, String>) -> Result<Options> {
    let prefix = all.remove("etcd_prefix");
    let prefix = prefix.unwrap_or_else(|| flannel::PREFIX.into());
    let good = |c: char| c.is_ascii_graphic();
    if !prefix.starts_with('/') || prefix.ends_with('/') || !prefix.chars().all(good) {
        return Err(invalid(format!(
            "option etcd_prefix={}: write it like {}",
            prefix.escape_debug(),
            flannel::PREFIX
        )));
    }
    let subnet_file = all.remove("subnet_file");
    let subnet_file = PathBuf::from(subnet_file.unwrap_or_else(|| flannel::SUBNET_FILE.into()));
    if !subnet_file.is_absolute() {
        return Err(invalid(format!(
            "option subnet_file={}: name it by its whole path",
            subnet_file.display()
        )));
    }
    Ok(Options {
        prefix,
        subnet_file,
    })
}

impl Agent {
    /// Makes a network by becoming a member of a flannel network.
    pub(super) async fn create_flannel(
        &self,
        held: &mut Held,
        mut new: CreateNetwork,
    ) -> Result<NetworkRecord> {
        let access = self.access()?;
        if !new.subnets.is_empty() || !new.gateways.is_empty() || new.ipv6 {
            return Err(invalid(
                "a network of driver flannel has the subnet that flannel gives this host, leave \
                 out --subnet, --gateway and --ipv6",
            ));
        }
        let options = take_options(&mut new.options)?;
        let policy = policy::parse(new.internal, &new.options)?;
        let networks = self.store.networks()?;
        let of_flannel = |network: &&NetworkRecord| {
            let record = network.flannel.as_ref();
            record.is_some_and(|flannel| flannel.prefix == options.prefix)
        };
        if let Some(other) = networks.iter().find(of_flannel) {
            return Err(conflict(format!(
                "network {} is this host's part in the flannel network at {} already",
                other.name, options.prefix
            )));
        }
        let client = access.clone().connect().await;
        let client = client.with_context(|| {
            format!(
                "making network {} needs the store that flannel uses",
                new.name
            )
        })?;
        let config = flannel::read_config(&client, &options.prefix).await?;
        if let Some(other) = owner_of(&networks, config.vni, config.port) {
            return Err(conflict(format!(
                "the flannel network has VNI {} and port {}, as network {} of this host",
                config.vni, config.port, other.name
            )));
        }
        let own = self.own_attributes(&config)?;
        let joined = flannel::join(&client, &options.prefix, &own, &[]).await?;
        let made = self
            .make_flannel(held, new, &policy, &options, &joined)
            .await;
        match made {
            Ok(record) => {
                self.keep_membership(&record, own)?;
                Ok(record)
            }
            Err(error) => {
                let left = flannel::leave(&client, &options.prefix, &own, &joined.subnets).await;
                if let Err(second) = left {
                    log::error!("cannot give flannel's subnet back: {second:#}");
                }
                Err(error)
            }
        }
    }

    async fn make_flannel(
        &self,
        held: &mut Held,
        new: CreateNetwork,
        policy: &policy::Options,
        options: &Options,
        joined: &Joined,
    ) -> Result<NetworkRecord> {
        let config = &joined.config;
        let plain = CreateNetwork {
            driver: None,
            subnets: joined.subnets.iter().map(IpNet::to_string).collect(),
            mtu: Some(self.overlay_mtu(new.mtu.or(policy.mtu).or(config.mtu))?),
            options: new.options,
            ..new
        };
        let mut record = self.plan_network(plain).await?;
        record.driver = crate::store::Driver::Flannel;
        record.overlay = Some(OverlayRecord {
            vni: config.vni,
            port: config.port,
            peers: Vec::new(),
            told: true,
        });
        record.flannel = Some(FlannelRecord {
            prefix: options.prefix.clone(),
            subnet_file: options.subnet_file.clone(),
        });
        let masquerade = record.policy.masquerade;
        let text = subnet_env(config, &joined.subnets, record.mtu, masquerade);
        let record = self.finish_network(held, record).await?;
        if let Err(error) = write_subnet_file(&options.subnet_file, &text) {
            self.unmake_network(&record).await?;
            return Err(error);
        }
        Ok(record)
    }

    /// What this host's lease says.
    fn own_attributes(&self, config: &Config) -> Result<Attributes> {
        let cluster = self.cluster()?;
        let vtep = self.overlay_vtep()?;
        let needs = |family: &str| {
            invalid(format!(
                "the flannel network has {family}, and this host has no such address on its \
                 uplinks: name an uplink that has one"
            ))
        };
        let public_ip = match cluster.address() {
            Some(IpAddr::V4(address)) => address,
            _ => return Err(needs("IPv4")),
        };
        let data = BackendData {
            vni: config.vni,
            vtep_mac: Mac(vtep.mac),
        };
        let dual = config.ranges.len() > 1;
        let public_ipv6 = vtep.addresses.iter().find_map(|address| match address {
            IpAddr::V6(address) => Some(*address),
            IpAddr::V4(_) => None,
        });
        if dual && public_ipv6.is_none() {
            return Err(needs("IPv6"));
        }
        Ok(Attributes {
            public_ip,
            public_ipv6: public_ipv6.filter(|_| dual),
            backend_type: BACKEND.into(),
            backend_data: Some(data),
            backend_v6_data: dual.then_some(data),
        })
    }

    /// Keeps the lease of a network, and its peers in force.
    fn keep_membership(&self, record: &NetworkRecord, own: Attributes) -> Result<()> {
        let Some(flannel) = &record.flannel else {
            return Ok(());
        };
        let subnets = record.subnets.iter().map(|subnet| subnet.prefix).collect();
        let changed = self.cluster()?.changed();
        let membership = Membership::new(&record.name, &flannel.prefix, own, subnets, changed);
        let membership = Arc::new(membership);
        let kept = Kept {
            task: tokio::spawn(membership.clone().run(self.access()?.clone())),
            membership,
        };
        self.memberships().insert(record.name.clone(), kept);
        Ok(())
    }

    /// Goes on with the memberships of an earlier agent.
    pub(super) fn resume_memberships(&self) -> Result<()> {
        for record in self.store.networks()? {
            let Some(overlay) = record.overlay.as_ref().filter(|_| record.flannel.is_some()) else {
                continue;
            };
            if self.cluster.is_none() {
                log::warn!(
                    "network {} is flannel's, and nobody keeps its lease: start the agent with \
                     --cluster",
                    record.name
                );
                continue;
            }
            let ranges = record.subnets.iter().map(|subnet| flannel::config::Range {
                network: subnet.prefix,
                length: subnet.prefix.prefix_len(),
                first: subnet.prefix.network(),
                last: subnet.prefix.network(),
            });
            let config = Config {
                ranges: ranges.collect(),
                vni: overlay.vni,
                port: overlay.port,
                mtu: None,
            };
            let kept = self
                .own_attributes(&config)
                .and_then(|own| self.keep_membership(&record, own));
            if let Err(error) = kept {
                log::error!(
                    "the lease of network {} is not kept: {error:#}",
                    record.name
                );
            }
        }
        Ok(())
    }

    /// Puts the peers of flannel networks into force, of those that changed.
    pub(super) async fn follow_memberships(&self, held: &mut Held) -> Result<()> {
        let changed: Vec<(String, Vec<lease::Peer>)> = {
            let memberships = self.memberships();
            let changed = memberships
                .iter()
                .filter_map(|(name, kept)| Some((name.clone(), kept.membership.take_changed()?)));
            changed.collect()
        };
        for (name, peers) in changed {
            let Some(overlay) = self.store.network(&name)?.overlay else {
                continue;
            };
            let peers = peers.into_iter().map(|peer| Peer {
                destination: peer.subnet,
                vtep: peer.vtep,
                mac: peer.mac.0,
                vni: overlay.vni,
                port: overlay.port,
            });
            self.overlay_set_peers_held(held, &name, peers.collect())
                .await?;
        }
        Ok(())
    }

    fn memberships(&self) -> MutexGuard<'_, Memberships> {
        self.memberships
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends this host's part in a flannel network that was removed here.
    pub(super) async fn leave_flannel(&self, record: &NetworkRecord) {
        let Some(flannel) = &record.flannel else {
            return;
        };
        let kept = self.memberships().remove(&record.name);
        let _ = fs::remove_file(&flannel.subnet_file);
        let Some(kept) = kept else { return };
        let subnets: Vec<IpNet> = record.subnets.iter().map(|subnet| subnet.prefix).collect();
        let left = async {
            let client = self.access()?.clone().connect().await?;
            flannel::leave(&client, &flannel.prefix, kept.membership.own(), &subnets).await
        };
        if let Err(error) = left.await {
            log::warn!(
                "flannel's lease of network {} ends by itself within a day: {error:#}",
                record.name
            );
        }
    }

    /// How the store is reached.
    fn access(&self) -> Result<&Access> {
        self.cluster()?;
        self.access.as_ref().context("the store has no address")
    }
}

/// Other tools read the file at any moment: it is there as a whole or not at all.
fn write_subnet_file(path: &Path, text: &str) -> Result<()> {
    let failed = || format!("cannot write flannel's file {}", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(failed)?;
    }
    let new = path.with_extension("new");
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, path))
        .with_context(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_taken_or_refused() {
        let parse = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            let mut all: BTreeMap<String, String> = pairs
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect();
            take_options(&mut all)
        };
        let options = parse(&[]).unwrap();
        assert_eq!(options.prefix, "/coreos.com/network");
        assert_eq!(options.subnet_file, Path::new("/run/flannel/subnet.env"));
        for wrong in [
            ("etcd_prefix", "x"),
            ("etcd_prefix", "/x/"),
            ("etcd_prefix", "/x y"),
            ("subnet_file", "x"),
        ] {
            assert!(parse(&[wrong]).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_file_is_replaced_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flannel/subnet.env");
        write_subnet_file(&path, "A=1\n").unwrap();
        write_subnet_file(&path, "A=2\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "A=2\n");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
