//! This node's copy of the cluster store, and what follows from it. Pure: callers bring the
//! events and the time.
//!
//! A node that vanishes has died, or was merely cut off from the store for longer than its
//! lease. As long as this node can see the store, the store decides. But for the length of one
//! lease (and a little more, for their attempts to begin anew) after this node itself was cut
//! off, others that vanished get the benefit of the doubt:
//! whatever cut this node off may have cut them off as well, and they are about to return with
//! the same containers. Their entries stay until then, as *doubtful* ones.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::schema::{self, Endpoint, Key, Mac, Network, Node, Value};

/// Something that happened to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// Its new value; `None` if it is gone.
    pub value: Option<Vec<u8>>,
    /// Revision of the store that it happened in.
    pub revision: i64,
    /// The lease that it belongs to; 0 is none.
    pub lease: i64,
}

/// A record with what the store says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<T> {
    /// The record.
    pub record: T,
    /// Revision of its last change.
    pub revision: i64,
    /// The lease that it belongs to; 0 is none.
    pub lease: i64,
    /// It is gone from the store, but its node may be back soon.
    pub doubtful: bool,
}

/// Where a container of another node is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Remote {
    /// Its address.
    pub address: IpAddr,
    /// MAC address of its interface.
    pub mac: Mac,
    /// Address of its node.
    pub vtep: IpAddr,
}

/// How a container of another node is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RemoteName {
    /// Its node.
    pub node: String,
    /// Its name.
    pub name: String,
    /// Other names.
    pub aliases: Vec<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// What a change means for this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// Networks of which an endpoint changed, or that did themselves.
    pub networks: BTreeSet<String>,
    /// Keys that make no sense, with the reason.
    pub malformed: Vec<String>,
}

/// The copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The store's revision that it is a copy of.
    revision: i64,
    nodes: BTreeMap<String, Entry<Node>>,
    networks: BTreeMap<String, Entry<Network>>,
    endpoints: BTreeMap<String, BTreeMap<IpAddr, Entry<Endpoint>>>,
    vnis: BTreeSet<u32>,
    /// Seconds; until then, nodes that vanish are doubtful.
    settled_at: u64,
}

impl State {
    /// The revision that it is a copy of.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// A copy that an earlier agent kept. All of it is good until the store says otherwise.
    pub fn restored(entries: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        let mut state = Self::default();
        let mut effect = Effect::default();
        for (key, value) in entries {
            let change = Change {
                key,
                value: Some(value),
                revision: 0,
                lease: 0,
            };
            state.put(change, &mut effect);
        }
        state
    }

    /// The store was read as a whole, at `revision`, after this node had not seen it. `now` and
    /// `patience` (how long others may take to be back) are seconds.
    pub fn replace(&mut self, all: Vec<Change>, revision: i64, now: u64, patience: u64) -> Effect {
        let before = std::mem::take(self);
        self.settled_at = now.saturating_add(patience);
        let mut effect = Effect::default();
        for change in all {
            self.put(change, &mut effect);
        }
        for (name, entry) in &before.nodes {
            if !self.nodes.contains_key(name) {
                self.nodes.insert(
                    name.clone(),
                    Entry {
                        doubtful: true,
                        ..entry.clone()
                    },
                );
            }
        }
        // A node whose key is there has put all its endpoints before.
        for (network, endpoints) in &before.endpoints {
            for (address, entry) in endpoints {
                let lost = self.is_doubtful(&entry.record.node);
                let here = self.endpoints.entry(network.clone()).or_default();
                if lost && !here.contains_key(address) {
                    here.insert(
                        *address,
                        Entry {
                            doubtful: true,
                            ..entry.clone()
                        },
                    );
                }
            }
        }
        self.endpoints.retain(|_, endpoints| !endpoints.is_empty());
        self.revision = revision;
        // Whoever looks finds out that most of it is as it was.
        for network in before.names().chain(self.names()) {
            effect.networks.insert(network);
        }
        effect
    }

    /// The store is seen again, and tells of everything since [`Self::revision`]. `now` and
    /// `patience` as in [`Self::replace`].
    pub fn resume(&mut self, now: u64, patience: u64) {
        self.settled_at = now.saturating_add(patience);
    }

    /// Changes that the store told of, in its order; those of one revision come together.
    pub fn apply(&mut self, changes: Vec<Change>, now: u64) -> Effect {
        let mut effect = Effect::default();
        // A lease that ends takes a node and its endpoints in one revision, endpoints first.
        let dying: BTreeSet<String> = changes
            .iter()
            .filter(|change| change.value.is_none())
            .filter_map(|change| match Key::parse(&change.key) {
                Ok(Key::Node(name)) => Some(name),
                _ => None,
            })
            .collect();
        for change in changes {
            self.revision = self.revision.max(change.revision);
            if change.value.is_some() {
                self.put(change, &mut effect);
            } else {
                self.delete(&change, &dying, now, &mut effect);
            }
        }
        effect
    }

    /// A change that this node made itself: it shows before the store tells of it.
    pub fn apply_own(&mut self, change: Change) -> Effect {
        let mut effect = Effect::default();
        // Else the store has told of it already, and perhaps of what came after it.
        if change.revision > self.revision {
            if change.value.is_some() {
                self.put(change, &mut effect);
            } else {
                self.delete(&change, &BTreeSet::new(), u64::MAX, &mut effect);
            }
        }
        effect
    }

    /// Forgets doubtful entries once their time is over.
    pub fn expire(&mut self, now: u64) -> Effect {
        let mut effect = Effect::default();
        if now < self.settled_at {
            return effect;
        }
        self.nodes.retain(|_, entry| !entry.doubtful);
        for (network, endpoints) in &mut self.endpoints {
            let before = endpoints.len();
            endpoints.retain(|_, entry| !entry.doubtful);
            if endpoints.len() != before {
                effect.networks.insert(network.clone());
            }
        }
        self.endpoints.retain(|_, endpoints| !endpoints.is_empty());
        effect
    }

    fn put(&mut self, change: Change, effect: &mut Effect) {
        let Some(value) = &change.value else { return };
        let decoded = Key::parse(&change.key).and_then(|key| {
            let value = schema::decode(&key, value)?;
            Ok((key, value))
        });
        let (key, value) = match decoded {
            Ok(decoded) => decoded,
            Err(error) => {
                let key = change.key.escape_debug();
                effect.malformed.push(format!("{key}: {error:#}"));
                // What was there before is not what is there now.
                if let Ok(key) = Key::parse(&change.key) {
                    self.forget(&key, effect);
                }
                return;
            }
        };
        let (revision, lease) = (change.revision, change.lease);
        match (key, value) {
            (Key::Node(name), Value::Node(record)) => {
                self.touch_networks_of(&name, effect);
                // A node puts its own key last: what is not back by now is gone.
                for endpoints in self.endpoints.values_mut() {
                    endpoints.retain(|_, entry| !entry.doubtful || entry.record.node != name);
                }
                self.nodes.insert(name, entry(record, revision, lease));
            }
            (Key::Network(name), Value::Network(record)) => {
                effect.networks.insert(name.clone());
                self.networks.insert(name, entry(record, revision, lease));
            }
            (Key::Endpoint { network, address }, Value::Endpoint(record)) => {
                effect.networks.insert(network.clone());
                let endpoints = self.endpoints.entry(network).or_default();
                endpoints.insert(address, entry(record, revision, lease));
            }
            (Key::Vni(vni), _) => {
                self.vnis.insert(vni);
            }
            _ => {}
        }
    }

    fn delete(&mut self, change: &Change, dying: &BTreeSet<String>, now: u64, effect: &mut Effect) {
        let Ok(key) = Key::parse(&change.key) else {
            return;
        };
        if now < self.settled_at {
            match &key {
                Key::Node(name) => {
                    if let Some(entry) = self.nodes.get_mut(name) {
                        entry.doubtful = true;
                    }
                    return;
                }
                Key::Endpoint { network, address } => {
                    let doubtful = |node: &str| dying.contains(node) || self.is_doubtful(node);
                    let lost = self
                        .endpoint(network, *address)
                        .is_some_and(|entry| doubtful(&entry.record.node));
                    if lost {
                        if let Some(entry) = self
                            .endpoints
                            .get_mut(network)
                            .and_then(|endpoints| endpoints.get_mut(address))
                        {
                            entry.doubtful = true;
                        }
                        return;
                    }
                }
                Key::Network(_) | Key::Vni(_) | Key::Catalogue => {}
            }
        }
        self.forget(&key, effect);
    }

    fn forget(&mut self, key: &Key, effect: &mut Effect) {
        match key {
            Key::Node(name) => {
                self.touch_networks_of(name, effect);
                self.nodes.remove(name);
            }
            Key::Network(name) => {
                effect.networks.insert(name.clone());
                self.networks.remove(name);
            }
            Key::Endpoint { network, address } => {
                effect.networks.insert(network.clone());
                if let Some(endpoints) = self.endpoints.get_mut(network) {
                    endpoints.remove(address);
                    if endpoints.is_empty() {
                        self.endpoints.remove(network);
                    }
                }
            }
            Key::Vni(vni) => {
                self.vnis.remove(vni);
            }
            Key::Catalogue => {}
        }
    }

    fn touch_networks_of(&self, node: &str, effect: &mut Effect) {
        for (network, endpoints) in &self.endpoints {
            if endpoints.values().any(|entry| entry.record.node == node) {
                effect.networks.insert(network.clone());
            }
        }
    }

    fn is_doubtful(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|entry| entry.doubtful)
    }

    /// The networks that there are, or of which there are endpoints.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let names = self.networks.keys().chain(self.endpoints.keys());
        names.cloned()
    }

    /// A network.
    pub fn network(&self, name: &str) -> Option<&Entry<Network>> {
        self.networks.get(name)
    }

    /// All networks, by name.
    pub fn networks(&self) -> impl Iterator<Item = (&str, &Network)> {
        let networks = self.networks.iter();
        networks.map(|(name, entry)| (name.as_str(), &entry.record))
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, &Entry<Node>)> {
        self.nodes
            .iter()
            .map(|(name, entry)| (name.as_str(), entry))
    }

    /// A node.
    pub fn node(&self, name: &str) -> Option<&Entry<Node>> {
        self.nodes.get(name)
    }

    /// Who has an address.
    pub fn endpoint(&self, network: &str, address: IpAddr) -> Option<&Entry<Endpoint>> {
        self.endpoints.get(network)?.get(&address)
    }

    /// The endpoints of a network.
    pub fn endpoints(&self, network: &str) -> impl Iterator<Item = (IpAddr, &Entry<Endpoint>)> {
        let endpoints = self.endpoints.get(network).into_iter().flatten();
        endpoints.map(|(address, entry)| (*address, entry))
    }

    /// All endpoints.
    pub fn all_endpoints(&self) -> impl Iterator<Item = (&str, IpAddr, &Entry<Endpoint>)> {
        self.endpoints.iter().flat_map(|(network, endpoints)| {
            let endpoints = endpoints.iter();
            endpoints.map(|(address, entry)| (network.as_str(), *address, entry))
        })
    }

    /// Whether a VNI is a network's.
    pub fn is_vni_taken(&self, vni: u32) -> bool {
        self.vnis.contains(&vni) || self.networks().any(|(_, network)| network.vni == vni)
    }

    /// The containers of a network on other nodes than `own`, as far as they can be reached.
    pub fn remotes(&self, network: &str, own: &str) -> Vec<Remote> {
        self.endpoints(network)
            .filter(|(_, entry)| entry.record.node != own)
            .filter_map(|(address, entry)| {
                let node = &self.nodes.get(&entry.record.node)?.record;
                Some(Remote {
                    address,
                    mac: entry.record.mac?,
                    vtep: node.address,
                })
            })
            .collect()
    }

    /// The names of the containers of other nodes than `own` in a network.
    pub fn remote_names(&self, network: &str, own: &str) -> Vec<RemoteName> {
        let mut names: BTreeMap<(&str, &str), RemoteName> = BTreeMap::new();
        for (address, entry) in self.endpoints(network) {
            let record = &entry.record;
            if record.node == own || record.mac.is_none() {
                continue;
            }
            let name = names
                .entry((&record.node, &record.container))
                .or_insert_with(|| RemoteName {
                    node: record.node.clone(),
                    name: record.container.clone(),
                    aliases: record.aliases.clone(),
                    addresses: Vec::new(),
                });
            name.addresses.push(address);
        }
        names.into_values().collect()
    }
}

fn entry<T>(record: T, revision: i64, lease: i64) -> Entry<T> {
    Entry {
        record,
        revision,
        lease,
        doubtful: false,
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
