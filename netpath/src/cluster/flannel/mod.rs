//! Membership in a flannel network: this host has one of its subnets, and knows who has the
//! others.
//!
//! * [`config`]: the network's configuration; [`lease`]: leases and the choice of a subnet. Pure
//! * this file: reading and writing them in etcd, for as long as the network is there

pub mod config;
pub mod lease;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use etcd_client::{Client, Compare, CompareOp, PutOptions, Txn, TxnOp};
use ipnet::IpNet;
use tokio::sync::watch;

use super::etcd::{self, Access, Told, in_time, in_words};
use super::schema::encode;
use super::state::Change;
use crate::problem::{conflict, not_found};
use config::Config;
use lease::{Attributes, Lease, Peer, Step, choose, key_of};

/// Where flannel's keys are unless told otherwise.
pub const PREFIX: &str = "/coreos.com/network";
/// Where flannel's other tools look for this host's subnet.
pub const SUBNET_FILE: &str = "/run/flannel/subnet.env";

/// A lease lasts a day, as flannel's.
const LEASE: u32 = 86_400;
/// A day has room for many attempts.
const RENEW_EVERY: Duration = Duration::from_secs(3600);
/// Attempts at a subnet that others are after as well.
const ATTEMPTS: usize = 10;
/// The first pause after an outage; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// See [`FIRST_PAUSE`].
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A subnet that this host got.
#[derive(Clone, Debug)]
pub struct Joined {
    /// The network's configuration.
    pub config: Config,
    /// This host's subnets, IPv4 first.
    pub subnets: Vec<IpNet>,
    /// etcd's lease; 0 for a reservation, which never ends.
    lease: i64,
}

/// Reads a network's configuration.
///
/// # Errors
/// A sentence: there is none, or netpath cannot be a member.
pub async fn read_config(client: &Client, prefix: &str) -> Result<Config> {
    let key = format!("{prefix}/config");
    let got = in_time(client.kv_client().get(key.clone(), None)).await?;
    let Some(kv) = got.kvs().first() else {
        return Err(not_found(format!(
            "the cluster's store has no flannel network at {prefix}, write its configuration to \
             {key} first"
        )));
    };
    Config::parse(kv.value())
}

/// Gets a subnet: the one this host has, had last, or a free one.
///
/// # Errors
/// As [`read_config`] and [`choose`]; the store is away.
pub async fn join(
    client: &Client,
    prefix: &str,
    own: &Attributes,
    previous: &[IpNet],
) -> Result<Joined> {
    let config = read_config(client, prefix).await?;
    for _ in 0..ATTEMPTS {
        let (all, _) = etcd::list(client, &folder(prefix)).await?;
        let leases: Vec<Lease> = all
            .iter()
            .filter_map(|change| parse(prefix, change)?.ok())
            .collect();
        let random = u64::from_ne_bytes(crate::container::names::random()?);
        let (subnets, revision) = match choose(&config, &leases, own, previous, random)? {
            Step::Renew(subnets, revision) => (subnets, revision),
            Step::Take(subnets) => (subnets, 0),
            Step::GiveBack(subnets, revision) => {
                let key = format!("{}{}", folder(prefix), key_of(&subnets));
                delete(client, key, revision).await?;
                continue;
            }
        };
        let reserved = leases
            .iter()
            .any(|lease| lease.revision == revision && lease.lease == 0);
        let lease = if reserved && revision != 0 {
            0
        } else {
            etcd::grant(client, LEASE).await?
        };
        let key = format!("{}{}", folder(prefix), key_of(&subnets));
        let same = Compare::mod_revision(key.clone(), CompareOp::Equal, revision);
        let put = TxnOp::put(key, encode(own)?, Some(PutOptions::new().with_lease(lease)));
        let txn = Txn::new().when(vec![same]).and_then(vec![put]);
        let done = in_time(client.kv_client().txn(txn)).await?;
        if done.succeeded() {
            return Ok(Joined {
                config,
                subnets,
                lease,
            });
        }
        // Nothing belongs to it; it would end by itself, tomorrow.
        let _ = in_time(client.lease_client().revoke(lease)).await;
    }
    Err(conflict(format!(
        "other hosts were faster at {ATTEMPTS} subnets of the flannel network at {prefix}, try \
         again"
    )))
}

/// Gives this host's subnets back.
///
/// # Errors
/// The store is away.
pub async fn leave(
    client: &Client,
    prefix: &str,
    own: &Attributes,
    subnets: &[IpNet],
) -> Result<()> {
    let key = format!("{}{}", folder(prefix), key_of(subnets));
    let got = in_time(client.kv_client().get(key.clone(), None)).await?;
    let Some(kv) = got.kvs().first() else {
        return Ok(());
    };
    let there = Lease::parse(&key_of(subnets), kv.value(), kv.mod_revision(), kv.lease());
    if there.is_ok_and(|there| there.attributes == *own) {
        delete(client, key, kv.mod_revision()).await?;
    }
    Ok(())
}

async fn delete(client: &Client, key: String, revision: i64) -> Result<()> {
    let same = Compare::mod_revision(key.clone(), CompareOp::Equal, revision);
    let delete = TxnOp::delete(key, None);
    let txn = Txn::new().when(vec![same]).and_then(vec![delete]);
    in_time(client.kv_client().txn(txn)).await.map(drop)
}

fn folder(prefix: &str) -> String {
    format!("{prefix}/subnets/")
}

/// A lease, if the key is one's.
fn parse(prefix: &str, change: &Change) -> Option<Result<Lease>> {
    let key = change.key.strip_prefix(&folder(prefix))?;
    let value = change.value.as_ref()?;
    Some(Lease::parse(key, value, change.revision, change.lease))
}

/// This host's part in a flannel network.
pub struct Membership {
    /// Name of netpath's network, for messages.
    name: String,
    prefix: String,
    own: Attributes,
    subnets: Vec<IpNet>,
    shared: Mutex<Shared>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Shared {
    /// Where packets go, by the last part of the lease's key; `None` before the first look.
    peers: Option<BTreeMap<String, Vec<Peer>>>,
    /// Nobody has looked at them yet.
    is_new: bool,
    /// Why the store is away, or the lease is.
    problem: Option<String>,
    /// Leases that were complained about.
    named: BTreeSet<String>,
}

impl Membership {
    /// Of a network that was joined; `changed` counts the changes of its peers.
    pub fn new(
        name: &str,
        prefix: &str,
        own: Attributes,
        subnets: Vec<IpNet>,
        changed: watch::Sender<u64>,
    ) -> Self {
        Self {
            name: name.into(),
            prefix: prefix.into(),
            own,
            subnets,
            shared: Mutex::default(),
            changed,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What its lease says.
    pub fn own(&self) -> &Attributes {
        &self.own
    }

    /// Where packets for the subnets of other hosts go; `None` if the store was not seen yet, or
    /// they are as they were at the last call.
    pub fn take_changed(&self) -> Option<Vec<Peer>> {
        let mut shared = self.lock();
        if !std::mem::take(&mut shared.is_new) {
            return None;
        }
        let peers = shared.peers.as_ref()?;
        Some(peers.values().flatten().copied().collect())
    }

    /// Keeps the lease and follows the others, forever.
    pub async fn run(self: Arc<Self>, mut access: Access) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.session(&mut access).await {
                // The lease is gone: to be had again at once.
                Ok(()) => pause = FIRST_PAUSE,
                Err(error) => {
                    let text = format!("{error:#}");
                    let mut shared = self.lock();
                    if shared.problem.as_ref() != Some(&text) {
                        log::warn!(
                            "flannel network {}: {text}; traffic goes on as it was",
                            self.name
                        );
                        shared.problem = Some(text);
                    } else {
                        pause = (pause * 2).min(LONGEST_PAUSE);
                    }
                }
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Ends well if the lease has to be had anew.
    async fn session(&self, access: &mut Access) -> Result<()> {
        let client = access.connect().await?;
        let joined = join(&client, &self.prefix, &self.own, &self.subnets).await?;
        if joined.subnets != self.subnets {
            leave(&client, &self.prefix, &self.own, &joined.subnets).await?;
            bail!(
                "the subnet {} of this host is not to be had any more, remove the network and \
                 make it anew",
                key_of(&self.subnets)
            );
        }
        let (all, revision) = etcd::list(&client, &folder(&self.prefix)).await?;
        self.replace(&all);
        self.lock().problem = None;
        log::info!(
            "flannel network {}: this host has {}",
            self.name,
            key_of(&self.subnets)
        );
        let mut watch = etcd::watch(&client, &folder(&self.prefix), revision + 1).await?;
        let mut renew = tokio::time::interval(RENEW_EVERY);
        loop {
            tokio::select! {
                message = watch.message() => {
                    let message = message.map_err(in_words)?;
                    let message = message.context("the store has closed the watch")?;
                    match etcd::read_message(&message)? {
                        Told::Changes(changes, _) => {
                            if self.take(&changes) {
                                log::warn!(
                                    "flannel network {}: this host's lease is gone, taking it again",
                                    self.name
                                );
                                return Ok(());
                            }
                        }
                        // All is read again.
                        Told::Compacted => return Ok(()),
                    }
                }
                _ = renew.tick() => {
                    if joined.lease != 0 {
                        let mut leases = client.lease_client();
                        in_time(leases.keep_alive(joined.lease)).await.map(drop)?;
                    }
                }
            }
        }
    }

    /// Everybody, after this host did not look for a while.
    fn replace(&self, all: &[Change]) {
        let mut shared = self.lock();
        let peers = all.iter().filter_map(|change| {
            let key = change.key.strip_prefix(&folder(&self.prefix))?;
            Some((key.to_owned(), self.peers_of(key, change, &mut shared)?))
        });
        let peers: BTreeMap<String, Vec<Peer>> = peers.collect();
        shared.is_new |= shared.peers.as_ref() != Some(&peers);
        shared.peers = Some(peers);
        drop(shared);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Takes in what the store tells of; true if this host's own lease is gone, or somebody
    /// else's by now.
    fn take(&self, changes: &[Change]) -> bool {
        let mut lost = false;
        let mut shared = self.lock();
        for change in changes {
            let Some(key) = change.key.strip_prefix(&folder(&self.prefix)) else {
                continue;
            };
            if key == key_of(&self.subnets) {
                let there = parse(&self.prefix, change).and_then(Result::ok);
                lost = there.is_none_or(|there| there.attributes != self.own);
                continue;
            }
            let peers = self.peers_of(key, change, &mut shared);
            let all = shared.peers.get_or_insert_default();
            match peers {
                Some(peers) => drop(all.insert(key.to_owned(), peers)),
                None => drop(all.remove(key)),
            }
        }
        shared.is_new = true;
        drop(shared);
        self.changed.send_modify(|count| *count += 1);
        lost
    }

    /// Where packets for a lease's subnets go. This host's own is no peer, and what makes no
    /// sense is named once and passed over.
    fn peers_of(&self, key: &str, change: &Change, shared: &mut Shared) -> Option<Vec<Peer>> {
        if key == key_of(&self.subnets) {
            return None;
        }
        let peers = parse(&self.prefix, change)?.and_then(|lease| {
            let mut peers = lease.peers()?;
            if let Some(own) = peers.iter().find(|peer| self.is_own(peer)) {
                bail!("it has this host's address {}", own.vtep);
            }
            peers.retain(|peer| !self.subnets.contains(&peer.subnet));
            Ok(peers)
        });
        match peers {
            Ok(peers) => Some(peers),
            Err(error) => {
                if shared.named.insert(key.to_owned()) {
                    log::warn!(
                        "flannel network {}: lease {} is passed over: {error:#}",
                        self.name,
                        key.escape_debug()
                    );
                }
                None
            }
        }
    }

    fn is_own(&self, peer: &Peer) -> bool {
        peer.vtep == std::net::IpAddr::V4(self.own.public_ip)
            || self
                .own
                .public_ipv6
                .is_some_and(|own| peer.vtep == std::net::IpAddr::V6(own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(subnet: &str, value: Option<&str>) -> Change {
        Change {
            key: format!("{PREFIX}/subnets/{subnet}"),
            value: value.map(|value| value.as_bytes().to_vec()),
            revision: 1,
            lease: 1,
        }
    }

    fn value(last: u8, backend: &str) -> String {
        format!(
            r#"{{"PublicIP":"192.0.2.{last}","PublicIPv6":null,"BackendType":"{backend}",
                "BackendData":{{"VNI":1,"VtepMAC":"02:00:00:00:00:{last:02x}"}}}}"#
        )
    }

    fn member() -> Membership {
        let own = serde_json::from_str(&value(1, "vxlan")).unwrap();
        let subnets = vec!["10.5.1.0/24".parse().unwrap()];
        Membership::new("n", PREFIX, own, subnets, watch::Sender::new(0))
    }

    #[test]
    fn others_are_followed() {
        let member = member();
        assert_eq!(member.take_changed(), None);
        member.replace(&[
            change("10.5.1.0-24", Some(&value(1, "vxlan"))),
            change("10.5.2.0-24", Some(&value(2, "vxlan"))),
            change("10.5.3.0-24", Some(&value(3, "host-gw"))),
            change("10.5.4.0-24", Some("{")),
            // Somebody with this host's address gets none of its packets.
            change("10.5.5.0-24", Some(&value(1, "vxlan"))),
        ]);
        let subnets = |member: &Membership| -> Vec<String> {
            let peers = member.take_changed().unwrap();
            peers.iter().map(|peer| peer.subnet.to_string()).collect()
        };
        assert_eq!(subnets(&member), ["10.5.2.0/24"]);
        assert_eq!(member.take_changed(), None);
        let lost = member.take(&[
            change("10.5.6.0-24", Some(&value(6, "vxlan"))),
            change("10.5.2.0-24", None),
        ]);
        assert!(!lost);
        assert_eq!(subnets(&member), ["10.5.6.0/24"]);
    }

    #[test]
    fn a_lost_lease_is_noticed() {
        let member = member();
        member.replace(&[]);
        assert!(!member.take(&[change("10.5.1.0-24", Some(&value(1, "vxlan")))]));
        assert!(member.take(&[change("10.5.1.0-24", Some(&value(9, "vxlan")))]));
        assert!(member.take(&[change("10.5.1.0-24", None)]));
        assert_eq!(member.take_changed(), Some(vec![]));
    }
}
