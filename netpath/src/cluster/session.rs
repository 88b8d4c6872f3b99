//! Following the store: connect, keep the lease, tell of this node, watch; and begin anew
//! whenever one of these fails.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use etcd_client::{
    Client, Compare, CompareOp, Error, GetOptions, LeaseKeepAliveStream, LeaseKeeper, PutOptions,
    Txn, TxnOp, TxnOpResponse, TxnResponse,
};
use tokio::time::MissedTickBehavior;

use super::etcd::{self, Access, PATIENCE, Told, in_time, in_words};
use super::own::Place;
use super::schema::{self, Endpoint, Key, Node, PREFIX, encode};
use super::state::Change;
use super::{Cluster, Connection, now};
use crate::problem::conflict;

/// The first pause after an outage; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Nodes that come back all at once after an outage shall find a store that still answers.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A session that held so long was no failed attempt.
const HELD: Duration = Duration::from_secs(10);
/// How often doubtful entries are looked at, and what was not written is tried again.
const TICK: Duration = Duration::from_secs(1);

/// A lease, with the stream that keeps it.
struct Kept {
    lease: i64,
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

impl Cluster {
    /// One attempt to reach the store, before the agent serves: what will never work is told at
    /// once, and what this node may have to do is known.
    ///
    /// # Errors
    /// The store is there, and refuses this node.
    pub async fn introduce(&self, access: &mut Access) -> Result<()> {
        let introduced = async {
            let client = access.connect().await?;
            self.catch_up(&client).await?;
            self.check_name(&client).await
        };
        match introduced.await {
            Ok(_) => Ok(()),
            Err(error) if crate::problem::kind_of(&error).is_some() => Err(error),
            Err(error) => {
                log::warn!(
                    "the cluster's store {} is away: {error:#}",
                    self.settings.url()
                );
                self.lock().problem = format!("{error:#}");
                Ok(())
            }
        }
    }

    /// Follows the store, forever.
    pub async fn run(self: Arc<Self>, mut access: Access) {
        let mut lease = None;
        let mut pause = FIRST_PAUSE;
        // Whoever is away for longer than the others have patience is taken for dead.
        let longest = LONGEST_PAUSE.min(self.lease() / 3);
        loop {
            let began = Instant::now();
            let Err(error) = self.session(&mut access, &mut lease).await;
            self.lose(&error);
            if began.elapsed() > HELD {
                pause = FIRST_PAUSE;
            }
            // Not all nodes at one moment.
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
            pause = (pause * 2).min(longest);
        }
    }

    /// How long a node may be silent.
    fn lease(&self) -> Duration {
        Duration::from_secs(self.settings.lease.into())
    }

    fn lose(&self, error: &anyhow::Error) {
        let mut shared = self.lock();
        let was = shared.connection.take().is_some();
        if was {
            shared.since = now();
        }
        let text = format!("{error:#}");
        if was || shared.problem != text {
            log::warn!(
                "the cluster's store {} is away: {text}; traffic goes on as it was",
                self.settings.url()
            );
        }
        shared.problem = text;
    }

    /// Ends with an error only.
    async fn session(&self, access: &mut Access, lease: &mut Option<i64>) -> Result<Infallible> {
        let client = access.connect().await?;
        let mut kept = self.keep_lease(&client, *lease).await?;
        *lease = Some(kept.lease);
        let revision = self.catch_up(&client).await?;
        let mut watch = etcd::watch(&client, PREFIX, revision + 1).await?;
        let mut published = self.publish(&client, kept.lease).await?;
        {
            let mut shared = self.lock();
            shared.connection = Some(Connection {
                client: client.clone(),
                lease: kept.lease,
            });
            shared.since = now();
            shared.problem.clear();
        }
        log::info!("the cluster's store {} is there", self.settings.url());
        let mut wanted = self.wanted.subscribe();
        let mut beat = interval(self.lease() / 3);
        let mut tick = interval(TICK);
        let mut unanswered = false;
        loop {
            tokio::select! {
                message = watch.message() => {
                    let message = message.map_err(in_words)?;
                    let message = message.context("it has closed the watch")?;
                    match etcd::read_message(&message)? {
                        Told::Changes(changes, _) => self.take(changes),
                        Told::Compacted => {
                            // Reading everything is what a store with another history needs, too.
                            self.lock().cluster = 0;
                            bail!("its history was compacted, reading all of it anew");
                        }
                    }
                }
                answer = kept.answers.message() => {
                    let answer = answer.map_err(in_words)?;
                    let answer = answer.context("it has closed the lease's stream")?;
                    if answer.ttl() <= 0 {
                        *lease = None;
                        bail!("it took this node for dead");
                    }
                    unanswered = false;
                }
                _ = beat.tick() => {
                    if unanswered {
                        bail!("it does not answer");
                    }
                    unanswered = true;
                    kept.keeper.keep_alive().await.map_err(in_words)?;
                }
                _ = tick.tick() => {
                    let effect = self.lock().state.expire(now());
                    self.tell(effect);
                    published = self.publish_again(&client, kept.lease, published).await?;
                }
                changed = wanted.changed() => {
                    changed.context("nobody is there any more")?;
                    published = self.publish_again(&client, kept.lease, published).await?;
                }
            }
        }
    }

    /// Goes on with the lease there was, or gets another one.
    async fn keep_lease(&self, client: &Client, earlier: Option<i64>) -> Result<Kept> {
        if let Some(lease) = earlier
            && let Some(kept) = keep(client, lease).await?
        {
            return Ok(kept);
        }
        let lease = etcd::grant(client, self.settings.lease).await?;
        let kept = keep(client, lease).await?;
        kept.context("its new lease is gone")
    }

    /// Brings the copy up to date, or finds that the watch can do so, and returns the revision
    /// that the copy is of.
    async fn catch_up(&self, client: &Client) -> Result<i64> {
        let head = in_time(client.kv_client().get(Key::Catalogue.to_string(), None)).await?;
        let head = head.header().context("it does not say its revision")?;
        let cluster = head.cluster_id();
        // The others may have begun an attempt just before the store was back.
        let patience = (self.lease() + PATIENCE).as_secs();
        {
            let mut shared = self.lock();
            let known = shared.state.revision();
            if shared.cluster == cluster && known > 0 && known <= head.revision() {
                shared.state.resume(now(), patience);
                return Ok(known);
            }
        }
        let (all, revision) = etcd::list(client, PREFIX).await?;
        let mut shared = self.lock();
        let values = all.iter().map(|c| (c.key.clone(), c.value.clone()));
        shared.unsaved.changes = values.collect();
        shared.unsaved.from_scratch = true;
        let effect = shared.state.replace(all, revision, now(), patience);
        shared.cluster = cluster;
        drop(shared);
        self.tell(effect);
        Ok(revision)
    }

    /// Takes in what the store tells of.
    fn take(&self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        let mut shared = self.lock();
        for change in &changes {
            let changes = &mut shared.unsaved.changes;
            changes.insert(change.key.clone(), change.value.clone());
        }
        let effect = shared.state.apply(changes, now());
        drop(shared);
        self.tell(effect);
    }

    /// Whether the name of this node is free or its own, with the revision of its key.
    ///
    /// # Errors
    /// It is another host's.
    async fn check_name(&self, client: &Client) -> Result<Option<(i64, Option<Node>)>> {
        let name = self.node();
        let key = Key::Node(name.to_owned());
        let there = in_time(client.kv_client().get(key.to_string(), None)).await?;
        let Some(kv) = there.kvs().first() else {
            return Ok(None);
        };
        let revision = kv.mod_revision();
        let Ok(schema::Value::Node(node)) = schema::decode(&key, kv.value()) else {
            // Whoever wrote it is no node.
            return Ok(Some((revision, None)));
        };
        // A host that lost its store is the same host: two cannot have one address.
        if node.id != self.identity.id && Some(node.address) != self.address() {
            return Err(conflict(format!(
                "the node name {name} is in use by the host {} of the cluster, choose another \
                 one with --node",
                node.address
            )));
        }
        Ok(Some((revision, Some(node))))
    }

    /// Writes what this node has, and at last the node's own key: whoever sees it sees all.
    /// Returns the node as it was written.
    async fn publish(&self, client: &Client, lease: i64) -> Result<Node> {
        let found = self.check_name(client).await?;
        let address = self.address().context(
            "this node has no address that the others could send to, name one with --node-address",
        )?;
        let node = Node {
            id: self.identity.id.clone(),
            address,
            version: env!("CARGO_PKG_VERSION").into(),
        };
        self.write_endpoints(client, lease).await?;
        let key = Key::Node(self.node().to_owned()).to_string();
        let same = Compare::mod_revision(
            key.clone(),
            CompareOp::Equal,
            found.map_or(0, |(revision, _)| revision),
        );
        let put = TxnOp::put(
            key,
            encode(&node)?,
            Some(PutOptions::new().with_lease(lease)),
        );
        let txn = Txn::new().when(vec![same]).and_then(vec![put]);
        let done = in_time(client.kv_client().txn(txn)).await?;
        if !done.succeeded() {
            return Err(anyhow!("somebody else wrote this node's key"));
        }
        Ok(node)
    }

    /// What of this node has changed since.
    async fn publish_again(&self, client: &Client, lease: i64, published: Node) -> Result<Node> {
        if self
            .address()
            .is_some_and(|address| address != published.address)
        {
            return self.publish(client, lease).await;
        }
        self.write_endpoints(client, lease).await?;
        Ok(published)
    }

    /// Makes the store agree with this node's endpoints.
    async fn write_endpoints(&self, client: &Client, lease: i64) -> Result<()> {
        let (todo, version) = {
            let shared = self.lock();
            let todo = shared.own.difference(&shared.state, self.node(), lease);
            (todo, shared.own.version())
        };
        for (place, endpoint) in todo.write {
            self.write_endpoint(client, lease, place, &endpoint).await?;
        }
        for ((network, address), revision) in todo.delete {
            let key = Key::Endpoint { network, address }.to_string();
            let same = Compare::mod_revision(key.clone(), CompareOp::Equal, revision);
            let delete = TxnOp::delete(key.clone(), None);
            let txn = Txn::new().when(vec![same]).and_then(vec![delete]);
            let done = in_time(client.kv_client().txn(txn)).await?;
            if done.succeeded() {
                self.take_own(key, None, &done, 0);
            }
        }
        self.complain_about_lost();
        self.written.send_replace(version);
        Ok(())
    }

    async fn write_endpoint(
        &self,
        client: &Client,
        lease: i64,
        place: Place,
        endpoint: &Endpoint,
    ) -> Result<()> {
        let (network, address) = place.clone();
        let network_key = Key::Network(network.clone()).to_string();
        let key = Key::Endpoint { network, address }.to_string();
        let value = encode(endpoint)?;
        // Whose it is shows in the answer; then once more, knowing it.
        let mut known = 0;
        for _ in 0..2 {
            let put = TxnOp::put(
                key.clone(),
                value.clone(),
                Some(PutOptions::new().with_lease(lease)),
            );
            let txn = Txn::new()
                .when(vec![
                    Compare::version(network_key.clone(), CompareOp::Greater, 0),
                    Compare::mod_revision(key.clone(), CompareOp::Equal, known),
                ])
                .and_then(vec![put])
                .or_else(vec![TxnOp::get(key.clone(), Some(GetOptions::new()))]);
            let done = in_time(client.kv_client().txn(txn)).await?;
            if done.succeeded() {
                self.take_own(key, Some(value), &done, lease);
                return Ok(());
            }
            match holder(&done, &key) {
                Some((holder, revision)) if holder == self.node() => known = revision,
                // Another node's, or the network is gone: to be seen in the copy.
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    /// Takes in an own change before the store tells of it.
    pub(super) fn take_own(
        &self,
        key: String,
        value: Option<Vec<u8>>,
        done: &TxnResponse,
        lease: i64,
    ) {
        let revision = done.header().map_or(0, |header| header.revision());
        let change = Change {
            key,
            value,
            revision,
            lease,
        };
        let effect = self.lock().state.apply_own(change);
        self.tell(effect);
    }

    /// Tells once of each address that went to another node while this one counted as dead.
    fn complain_about_lost(&self) {
        let mut shared = self.lock();
        for (place, node) in shared.own.lost(&shared.state, self.node()) {
            if shared.lost.insert(place.clone()) {
                log::error!(
                    "address {} of network {} went to node {node} while this node was away for \
                     longer than its lease: stop the container that has it here",
                    place.1,
                    place.0
                );
            }
        }
    }
}

/// The node that holds an endpoint's key, and the key's revision, from the answer to a
/// transaction that asked for it.
pub(super) fn holder(done: &TxnResponse, key: &str) -> Option<(String, i64)> {
    let parsed = Key::parse(key).ok()?;
    done.op_responses().iter().find_map(|answer| {
        let TxnOpResponse::Get(got) = answer else {
            return None;
        };
        let kv = got.kvs().iter().find(|kv| kv.key() == key.as_bytes())?;
        match schema::decode(&parsed, kv.value()) {
            Ok(schema::Value::Endpoint(endpoint)) => Some((endpoint.node, kv.mod_revision())),
            _ => Some((String::new(), kv.mod_revision())),
        }
    })
}

/// Begins to keep a lease; `None` if it is gone.
async fn keep(client: &Client, lease: i64) -> Result<Option<Kept>> {
    let mut leases = client.lease_client();
    match tokio::time::timeout(PATIENCE, leases.keep_alive(lease)).await {
        Ok(Ok((keeper, answers))) => Ok(Some(Kept {
            lease,
            keeper,
            answers,
        })),
        Ok(Err(Error::LeaseKeepAliveError(_))) => Ok(None),
        Ok(Err(error)) => Err(in_words(error)),
        Err(_) => bail!("no answer within {} s", PATIENCE.as_secs()),
    }
}

fn interval(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
