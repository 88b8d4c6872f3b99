//! What is decided in the store, in transactions, so that no two nodes decide differently.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, Result, anyhow};
use etcd_client::{Client, Compare, CompareOp, GetOptions, PutOptions, Txn, TxnOp, TxnOpResponse};

use super::etcd::{self, in_time};
use super::own::Place;
use super::schema::{Endpoint, Key, Network, PREFIX, encode};
use super::state::{Change, State};
use super::{Cluster, Connection};
use crate::problem::{conflict, not_found};

/// Attempts at something that others are after as well. Each failure means that somebody else
/// succeeded.
const ATTEMPTS: usize = 64;

/// A network to be made: what it is, given the networks that there are.
pub type NewNetwork<'a> = dyn Fn(&State) -> Result<Network> + Send + Sync + 'a;

/// Addresses that a container wants in a network.
pub struct Claim<'a> {
    /// Chooses them, at most one a family, given those that are taken.
    pub choose: &'a (dyn Fn(&BTreeSet<IpAddr>) -> Result<Vec<IpAddr>> + Send + Sync),
    /// Who gets them.
    pub endpoint: Endpoint,
}

impl Cluster {
    /// Makes a network of the cluster. `plan` may be called several times: whenever somebody
    /// else was faster.
    ///
    /// # Errors
    /// The plan's; the name is taken; the store is away.
    pub async fn create_network(&self, name: &str, plan: &NewNetwork<'_>) -> Result<Network> {
        let what = format!("making network {name}");
        let Connection { client, .. } = self.connection(&what)?;
        for _ in 0..ATTEMPTS {
            let made = self.try_network(&client, name, plan).await;
            if let Some(network) = made.map_err(|error| self.failed(&what, error))? {
                return Ok(network);
            }
        }
        Err(anyhow!(
            "{what} did not succeed, others make and remove networks all the time; try again"
        ))
    }

    /// `None` if somebody else was faster.
    async fn try_network(
        &self,
        client: &Client,
        name: &str,
        plan: &NewNetwork<'_>,
    ) -> Result<Option<Network>> {
        let catalogue = Key::Catalogue.to_string();
        // First: what is read after it is at least as new, and shows if it was changed since.
        let got = in_time(client.kv_client().get(catalogue.clone(), None)).await?;
        let known = got.kvs().first().map_or(0, |kv| kv.mod_revision());
        let mut all = Vec::new();
        for folder in ["networks/", "vnis/"] {
            let (found, _) = etcd::list(client, &format!("{PREFIX}{folder}")).await?;
            all.extend(found);
        }
        let mut state = State::default();
        state.replace(all, 0, 0, 0);
        if state.network(name).is_some() {
            return Err(taken(name));
        }
        let network = plan(&state)?;
        let (key, vni) = (
            Key::Network(name.into()).to_string(),
            Key::Vni(network.vni).to_string(),
        );
        let value = encode(&network)?;
        let txn = Txn::new()
            .when(vec![
                Compare::mod_revision(catalogue.clone(), CompareOp::Equal, known),
                Compare::version(key.clone(), CompareOp::Equal, 0),
                Compare::version(vni.clone(), CompareOp::Equal, 0),
            ])
            .and_then(vec![
                TxnOp::put(key.clone(), value.clone(), None),
                TxnOp::put(vni, name, None),
                TxnOp::put(catalogue, name, None),
            ]);
        let done = in_time(client.kv_client().txn(txn)).await?;
        if !done.succeeded() {
            return Ok(None);
        }
        self.take_own(key, Some(value), &done, 0);
        Ok(Some(network))
    }

    /// Removes a network of the cluster that no container of any node uses.
    ///
    /// # Errors
    /// A sentence: it is in use, there is none, or the store is away.
    pub async fn remove_network(&self, name: &str) -> Result<()> {
        let what = format!("removing network {name}");
        let Connection { client, .. } = self.connection(&what)?;
        let removed = self.try_remove(&client, name).await;
        removed.map_err(|error| self.failed(&what, error))
    }

    async fn try_remove(&self, client: &Client, name: &str) -> Result<()> {
        let key = Key::Network(name.into());
        let text = key.to_string();
        let got = in_time(client.kv_client().get(text.clone(), None)).await?;
        let Some(kv) = got.kvs().first() else {
            return Err(not_found(format!(
                "no network of the cluster is named {name}, see \"netpath network ls\""
            )));
        };
        let (value, revision) = (kv.value().to_vec(), kv.mod_revision());
        let folder = Key::endpoints_of(name);
        let mut remove = vec![
            TxnOp::delete(text.clone(), None),
            TxnOp::put(Key::Catalogue.to_string(), name, None),
        ];
        if let Ok(super::schema::Value::Network(network)) = super::schema::decode(&key, &value) {
            remove.push(TxnOp::delete(Key::Vni(network.vni).to_string(), None));
        }
        let few = GetOptions::new().with_prefix().with_limit(5);
        let txn = Txn::new()
            .when(vec![
                Compare::mod_revision(text.clone(), CompareOp::Equal, revision),
                // Holds for every key of the folder, hence for none only.
                Compare::version(folder.clone(), CompareOp::Equal, 0).with_prefix(),
            ])
            .and_then(remove)
            .or_else(vec![TxnOp::get(folder, Some(few))]);
        let done = in_time(client.kv_client().txn(txn)).await?;
        if done.succeeded() {
            self.take_own(text, None, &done, 0);
            return Ok(());
        }
        let mut users = BTreeSet::new();
        for answer in done.op_responses() {
            let TxnOpResponse::Get(got) = answer else {
                continue;
            };
            users.extend(got.kvs().iter().filter_map(|kv| {
                let endpoint: Endpoint = serde_json::from_slice(kv.value()).ok()?;
                Some(format!("{} on node {}", endpoint.container, endpoint.node))
            }));
        }
        let users: Vec<String> = users.into_iter().collect();
        Err(conflict(format!(
            "network {name} is in use by {}, remove {} first",
            if users.is_empty() {
                "somebody".into()
            } else {
                users.join(", ")
            },
            if users.len() == 1 { "it" } else { "them" }
        )))
    }

    /// Gets addresses in a network for a container of this node.
    ///
    /// # Errors
    /// The choice's; the network is gone; the store is away.
    pub async fn claim(&self, network: &str, claim: &Claim<'_>) -> Result<Vec<IpAddr>> {
        let what = format!("a new container in network {network}");
        let connection = self.connection(&what)?;
        // Taken, though the copy does not know it yet.
        let mut taken_by_others = BTreeSet::new();
        for _ in 0..ATTEMPTS {
            let (addresses, revision, places) = {
                let mut shared = self.lock();
                let Some(entry) = shared.state.network(network) else {
                    return Err(gone(network));
                };
                let revision = entry.revision;
                let mut taken = shared.own.taken(&shared.state, network);
                taken.extend(&taken_by_others);
                let addresses = (claim.choose)(&taken)?;
                let places: Vec<Place> = addresses
                    .iter()
                    .map(|address| (network.to_owned(), *address))
                    .collect();
                shared.own.ask(&places);
                (addresses, revision, places)
            };
            let asked = self
                .ask(&connection, network, revision, &places, &claim.endpoint)
                .await;
            let mut shared = self.lock();
            match asked {
                Ok(None) => return Ok(addresses),
                Ok(Some(others)) => {
                    shared.own.give_up(&places);
                    taken_by_others.extend(others);
                }
                Err(error) => {
                    // Written or not: the session sees what is there, and makes it agree.
                    shared.own.give_up(&places);
                    drop(shared);
                    return Err(self.failed(&what, error));
                }
            }
        }
        Err(anyhow!(
            "{what} got no address, others were faster {ATTEMPTS} times; try again"
        ))
    }

    /// One attempt; those of the addresses that are taken, if it fails.
    async fn ask(
        &self,
        connection: &Connection,
        network: &str,
        revision: i64,
        places: &[Place],
        endpoint: &Endpoint,
    ) -> Result<Option<Vec<IpAddr>>> {
        let value = encode(endpoint)?;
        let network_key = Key::Network(network.into()).to_string();
        let keys: Vec<(IpAddr, String)> = places
            .iter()
            .map(|(network, address)| {
                let key = Key::Endpoint {
                    network: network.clone(),
                    address: *address,
                };
                (*address, key.to_string())
            })
            .collect();
        let mut when = vec![Compare::mod_revision(
            network_key.clone(),
            CompareOp::Equal,
            revision,
        )];
        when.extend(
            keys.iter()
                .map(|(_, key)| Compare::version(key.clone(), CompareOp::Equal, 0)),
        );
        let put = |key: &String| {
            let options = PutOptions::new().with_lease(connection.lease);
            TxnOp::put(key.clone(), value.clone(), Some(options))
        };
        let get = |key: &String| TxnOp::get(key.clone(), None);
        let txn = Txn::new()
            .when(when)
            .and_then(keys.iter().map(|(_, key)| put(key)).collect::<Vec<_>>())
            .or_else(
                keys.iter()
                    .map(|(_, key)| get(key))
                    .chain([get(&network_key)])
                    .collect::<Vec<_>>(),
            );
        let done = in_time(connection.client.kv_client().txn(txn)).await?;
        if done.succeeded() {
            for (_, key) in keys {
                self.take_own(key, Some(value.clone()), &done, connection.lease);
            }
            return Ok(None);
        }
        let there: BTreeSet<Vec<u8>> = done
            .op_responses()
            .iter()
            .flat_map(|answer| match answer {
                TxnOpResponse::Get(got) => got.kvs().iter().map(|kv| kv.key().to_vec()).collect(),
                _ => Vec::new(),
            })
            .collect();
        if !there.contains(network_key.as_bytes()) {
            return Err(gone(network));
        }
        let taken: Vec<IpAddr> = keys
            .iter()
            .filter(|(_, key)| there.contains(key.as_bytes()))
            .map(|(address, _)| *address)
            .collect();
        if taken.is_empty() {
            // Removed and made anew, and the watch has not told of it yet.
            self.refresh(&connection.client, &network_key).await?;
        }
        Ok(Some(taken))
    }

    /// Reads one key.
    async fn refresh(&self, client: &Client, key: &str) -> Result<()> {
        let got = in_time(client.kv_client().get(key, None)).await?;
        let kv = got.kvs().first().context("the network was removed")?;
        let change = Change {
            key: key.to_owned(),
            value: Some(kv.value().to_vec()),
            revision: kv.mod_revision(),
            lease: 0,
        };
        let effect = self.lock().state.apply_own(change);
        self.tell(effect);
        Ok(())
    }

    /// An error of the store, as the sentence of what failed by it; a user's mistake stays what
    /// it is.
    fn failed(&self, what: &str, error: anyhow::Error) -> anyhow::Error {
        if crate::problem::kind_of(&error).is_some() {
            return error;
        }
        anyhow!(
            "{what} needs the cluster's store {}, which does not do it: {error:#}",
            self.settings.url()
        )
    }
}

fn taken(name: &str) -> anyhow::Error {
    conflict(format!(
        "a network named {name} exists in the cluster already, remove it first or choose another \
         name"
    ))
}

fn gone(name: &str) -> anyhow::Error {
    conflict(format!(
        "network {name} was removed from the cluster, make it anew or choose another network"
    ))
}
