//! Networks of several hosts: what the hosts of a cluster agree on, kept in an etcd.
//!
//! * [`schema`]: keys and values; [`state`]: this node's copy of them; [`own`]: what this node
//!   has there; [`plan`]: what a new network gets. All pure
//! * [`settings`]: where the store is; [`etcd`]: talking to it
//! * [`flannel`]: networks of flannel, which have keys of their own in the same store
//! * `session`: follows the store, keeps this node's lease, and begins anew after each outage
//! * `request`: what is decided in the store, in transactions: networks and addresses
//!
//! Nothing here is on the way of packets. While the store is away everything stays as it was;
//! only what needs an agreement cannot be had.

pub mod etcd;
pub mod flannel;
pub mod own;
pub mod plan;
mod request;
pub mod schema;
mod session;
pub mod settings;
pub mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow};
use etcd_client::Client;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use own::{Own, Place};
use schema::Endpoint;
use settings::Settings;
use state::{Effect, RemoteName, State};

pub use request::{Claim, NewNetwork};

/// How long an operation waits for the store to know what this node has done already. The
/// store hears of it later if need be.
const SOON: Duration = Duration::from_secs(2);

/// This node's part in a cluster.
pub struct Cluster {
    settings: Settings,
    identity: Identity,
    shared: Mutex<Shared>,
    /// Changes whenever the copy does.
    changed: watch::Sender<u64>,
    /// Version of this node's endpoints that there is.
    wanted: watch::Sender<u64>,
    /// Version of this node's endpoints that the store knows.
    written: watch::Sender<u64>,
}

/// Who this node is, for as long as its store lasts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Random.
    pub id: String,
}

struct Shared {
    state: State,
    own: Own,
    /// Where the others send packets to.
    address: Option<IpAddr>,
    connection: Option<Connection>,
    /// Why there is no connection.
    problem: String,
    /// Seconds since 1970, since when there is a connection, or none.
    since: u64,
    /// Networks that changed since somebody looked.
    touched: BTreeSet<String>,
    unsaved: Unsaved,
    /// The store's identity: with another one the copy is worth nothing.
    cluster: u64,
    /// Addresses that were complained about.
    lost: BTreeSet<Place>,
}

/// What has changed since the copy was written to disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unsaved {
    /// Everything before it is void.
    pub from_scratch: bool,
    /// Keys with their new values; `None` is gone.
    pub changes: BTreeMap<String, Option<Vec<u8>>>,
}

#[derive(Clone)]
struct Connection {
    client: Client,
    lease: i64,
}

/// How the cluster is, as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The store.
    pub store: String,
    /// This node's name.
    pub node: String,
    /// Where the others send packets to.
    pub address: Option<IpAddr>,
    /// Why the store is away; `None` if it is there.
    pub problem: Option<String>,
    /// Seconds since 1970, since when that is so.
    pub since: u64,
    /// Revision of the store that this node knows.
    pub revision: i64,
    /// Seconds that a node may be silent.
    pub lease: u32,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRow {
    /// Its name.
    pub name: String,
    /// Where packets for its containers go.
    pub address: IpAddr,
    /// `self`, `ready`, or `silent`: about to count as dead.
    pub state: String,
    /// Its endpoints in overlay networks.
    pub endpoints: usize,
    /// Version of its agent.
    pub version: String,
}

impl Cluster {
    /// A node that has not seen the store yet. `copy` is what an earlier agent knew.
    pub fn new(settings: Settings, identity: Identity, copy: Vec<(String, Vec<u8>)>) -> Self {
        let state = State::restored(copy);
        let shared = Shared {
            touched: state.names().collect(),
            state,
            own: Own::default(),
            address: settings.address,
            connection: None,
            problem: "it was not asked yet".into(),
            since: now(),
            unsaved: Unsaved::default(),
            cluster: 0,
            lost: BTreeSet::new(),
        };
        Self {
            settings,
            identity,
            shared: Mutex::new(shared),
            changed: watch::Sender::new(0),
            wanted: watch::Sender::new(0),
            written: watch::Sender::new(0),
        }
    }

    /// This node's name.
    pub fn node(&self) -> &str {
        &self.settings.node
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the copy.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.lock().state)
    }

    /// Changes whenever the copy does.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// For others whose changes are to be seen by those who look at [`Self::changes`].
    pub fn changed(&self) -> watch::Sender<u64> {
        self.changed.clone()
    }

    /// The networks that changed since the last call.
    pub fn take_touched(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.lock().touched)
    }

    /// Has a network looked at as if it had changed.
    pub fn touch(&self, network: &str) {
        self.lock().touched.insert(network.to_owned());
    }

    /// What is to be written to disk since the last call.
    pub fn take_unsaved(&self) -> Unsaved {
        std::mem::take(&mut self.lock().unsaved)
    }

    /// Notes an effect, outside of the lock that it came about under.
    fn tell(&self, effect: Effect) {
        for malformed in effect.malformed {
            log::warn!("the cluster's store has a key that is passed over: {malformed}");
        }
        if effect.networks.is_empty() {
            return;
        }
        self.lock().touched.extend(effect.networks);
        self.changed.send_modify(|count| *count += 1);
    }

    /// This node's address on its first uplink; ignored if the user named one.
    pub fn set_address(&self, address: Option<IpAddr>) {
        if self.settings.address.is_some() {
            return;
        }
        let mut shared = self.lock();
        if shared.address != address {
            shared.address = address;
            drop(shared);
            self.wanted.send_modify(|_| {});
        }
    }

    /// Where the others send packets to.
    pub fn address(&self) -> Option<IpAddr> {
        self.lock().address
    }

    /// These are all endpoints of this node in networks of the cluster; the store hears of it
    /// soon. Not to be called while a container is being made that has a [`Claim`].
    pub fn set_own(&self, endpoints: BTreeMap<Place, Endpoint>) {
        let mut shared = self.lock();
        shared.lost.retain(|place| endpoints.contains_key(place));
        let before = shared.own.version();
        shared.own.set(endpoints);
        let version = shared.own.version();
        drop(shared);
        if version != before {
            self.wanted.send_replace(version);
        }
    }

    /// Waits a moment for the store to know what this node did. Without a store it does not.
    pub async fn settle(&self) {
        let (version, connected) = {
            let shared = self.lock();
            (shared.own.version(), shared.connection.is_some())
        };
        if connected {
            let mut written = self.written.subscribe();
            let known = written.wait_for(|written| *written >= version);
            let _ = tokio::time::timeout(SOON, known).await;
        }
    }

    /// The names of containers of other nodes in a network.
    pub fn remote_names(&self, network: &str) -> Vec<RemoteName> {
        self.lock().state.remote_names(network, self.node())
    }

    /// How the cluster is.
    pub fn status(&self) -> ClusterStatus {
        let shared = self.lock();
        ClusterStatus {
            store: self.settings.url(),
            node: self.settings.node.clone(),
            address: shared.address,
            problem: shared.connection.is_none().then(|| shared.problem.clone()),
            since: shared.since,
            revision: shared.state.revision(),
            lease: self.settings.lease,
        }
    }

    /// All nodes that are known.
    pub fn nodes(&self) -> Vec<NodeRow> {
        let shared = self.lock();
        let mut endpoints: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, _, entry) in shared.state.all_endpoints() {
            *endpoints.entry(&entry.record.node).or_default() += 1;
        }
        let rows = shared.state.nodes().map(|(name, entry)| NodeRow {
            name: name.to_owned(),
            address: entry.record.address,
            state: match () {
                () if name == self.settings.node => "self",
                () if entry.doubtful => "silent",
                () => "ready",
            }
            .into(),
            endpoints: endpoints.get(name).copied().unwrap_or_default(),
            version: entry.record.version.clone(),
        });
        rows.collect()
    }

    /// The connection, for what cannot be had without.
    fn connection(&self, what: &str) -> Result<Connection> {
        let shared = self.lock();
        shared.connection.clone().ok_or_else(|| {
            anyhow!(
                "{what} needs the cluster's store {}, which is away ({}); containers that run and \
                 local networks go on without it",
                self.settings.url(),
                shared.problem
            )
        })
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}
