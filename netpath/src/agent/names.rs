//! Names: the server that containers ask is told who is where, and its port is made to look
//! like 53. What fails here fails no container: it is tried again until it succeeds.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use super::network::DEFAULT_NETWORK;
use super::{Agent, blocking};
use crate::cluster::state::RemoteName;
use crate::container::names::short_id;
use crate::dns::client::Link;
use crate::dns::control::{Change, Report};
use crate::dns::tables::{Client, Forward, Membership, Place};
use crate::store::{ContainerRecord, EndpointRecord, NetworkRecord, Origin, State};

/// How often the agent looks whether the server is there.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What fails again and again is tried again this seldom.
const SELDOM: Duration = Duration::from_secs(60);

/// What the agent knows about the server.
#[derive(Default)]
pub(super) struct Names(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// `None` as long as nobody needs it.
    link: Option<Link>,
    /// Cookies of the namespaces whose port 53 is exchanged, by container.
    rows: HashMap<String, u64>,
    /// The programs exchange ports; otherwise the server must have port 53 itself.
    exchanging: bool,
    /// Something failed: all is to be told again.
    stale: bool,
    /// Containers on other hosts, by network.
    remotes: HashMap<u16, Vec<Client>>,
}

impl Names {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The programs for sockets are attached where all containers' processes are.
    pub(super) fn exchange_ports(&self) {
        self.lock().exchanging = true;
    }
}

/// Whether a container of these networks asks netpath for names. The default network has none,
/// as in Docker.
pub(super) fn has_names(record: &ContainerRecord) -> bool {
    memberships(record).next().is_some()
}

fn memberships(record: &ContainerRecord) -> impl Iterator<Item = &EndpointRecord> {
    let named = |endpoint: &&EndpointRecord| endpoint.ready && endpoint.network != DEFAULT_NETWORK;
    record.endpoints.iter().filter(named)
}

impl Agent {
    /// Tells the server about a container that is new, or in other networks than before.
    pub(super) fn name_container(&self, record: &ContainerRecord) {
        let told = blocking(|| {
            let networks = self.store.networks()?;
            let mut known = self.names.lock();
            match client(self, &known, record, &networks) {
                Some(client) => self.tell(&mut known, vec![client], Vec::new()),
                None => self.untell(&mut known, &record.name),
            }
        });
        self.note(told);
    }

    /// Tells the server that a container is gone, before anything of it is taken away: nobody
    /// is to be sent to it any more, and the server's sockets keep its namespace alive.
    pub(super) fn unname_container(&self, name: &str) {
        let told = blocking(|| self.untell(&mut self.names.lock(), name));
        self.note(told);
    }

    /// Tells the server of the containers that other hosts have in a network.
    pub(super) fn name_remotes(&self, network: &NetworkRecord, names: Vec<RemoteName>) {
        let clients: Vec<Client> = names
            .into_iter()
            .map(|remote| remote_client(network, remote))
            .collect();
        let told = blocking(|| {
            let mut known = self.names.lock();
            let before = known.remotes.insert(network.id, clients.clone());
            let mut before: HashMap<String, Client> = before
                .unwrap_or_default()
                .into_iter()
                .map(|client| (client.name.clone(), client))
                .collect();
            let is_new = |client: &Client| before.remove(&client.name).as_ref() != Some(client);
            let put: Vec<Client> = clients.into_iter().filter(is_new).collect();
            let gone = before.into_keys().collect();
            match known.link {
                // Whoever is told of next is told of these as well.
                None => Ok(()),
                Some(_) => self.tell(&mut known, put, gone),
            }
        });
        self.note(told);
    }

    fn note(&self, told: Result<()>) {
        if let Err(error) = told {
            let mut known = self.names.lock();
            if !known.stale {
                log::warn!("containers' names are not right at the moment: {error:#}");
            }
            known.stale = true;
            known.link = None;
        }
    }

    fn untell(&self, known: &mut Known, name: &str) -> Result<()> {
        if let Some(netns) = known.rows.remove(name) {
            self.with_datapath(|datapath| datapath.remove_resolver(netns))?;
        }
        if known.link.is_none() {
            return Ok(());
        }
        self.tell(known, Vec::new(), vec![name.to_owned()])
    }

    fn tell(&self, known: &mut Known, put: Vec<Client>, remove: Vec<String>) -> Result<()> {
        if known.link.is_none() {
            // A new server knows nobody.
            return self.tell_everything(known);
        }
        let change = Change {
            reset: false,
            put,
            remove,
            resolv_conf: self.settings.resolv_conf.clone(),
        };
        let link = known.link.as_mut().context("there is no server")?;
        let report = link.change(change)?;
        self.take_in(known, report)
    }

    /// Tells the server everything; starts it if there is somebody to be told of.
    fn tell_everything(&self, known: &mut Known) -> Result<()> {
        let networks = self.store.networks()?;
        let containers = self.store.containers()?;
        let clients: Vec<Client> = containers
            .iter()
            .filter_map(|record| client(self, known, record, &networks))
            .collect();
        let run_dir = &self.settings.run_dir;
        let link = if clients.is_empty() {
            // One of an earlier agent ends when nobody is left to be answered.
            Link::connect(run_dir).context("cannot use the server for names")?
        } else {
            Some(Link::open(run_dir)?)
        };
        known.rows.clear();
        if let Some(mut link) = link {
            let remotes = known.remotes.values().flatten().cloned();
            let report = link.change(Change {
                reset: true,
                put: clients.into_iter().chain(remotes).collect(),
                remove: Vec::new(),
                resolv_conf: self.settings.resolv_conf.clone(),
            })?;
            known.link = Some(link);
            self.take_in(known, report)?;
        }
        let rows: HashSet<u64> = known.rows.values().copied().collect();
        self.with_datapath(|datapath| datapath.retain_resolvers(|netns| rows.contains(&netns)))?;
        known.stale = false;
        Ok(())
    }

    /// Has the programs exchange ports as the server says.
    fn take_in(&self, known: &mut Known, report: Report) -> Result<()> {
        for (name, reason) in report.failed {
            log::warn!("container {name} has no names: {reason}");
        }
        if !known.exchanging {
            return Ok(());
        }
        self.with_datapath(|datapath| {
            for listening in report.listening {
                datapath.set_resolver(listening.netns, listening.port)?;
                let earlier = known.rows.insert(listening.name, listening.netns);
                if let Some(earlier) = earlier.filter(|earlier| *earlier != listening.netns) {
                    datapath.remove_resolver(earlier)?;
                }
            }
            Ok(())
        })
    }

    /// At the start: takes the server of an earlier agent over.
    pub(super) fn restore_names(&self) {
        let told = blocking(|| self.tell_everything(&mut self.names.lock()));
        self.note(told);
    }

    /// Sees to it that there is a server as long as somebody needs it, forever.
    pub(super) async fn keep_names(self: Arc<Self>) {
        let mut pause = LOOK_EVERY;
        loop {
            tokio::time::sleep(pause).await;
            let lost = {
                let mut known = self.names.lock();
                let gone = known.link.as_mut().is_some_and(Link::is_gone);
                if gone {
                    log::warn!("the server for names is gone, starting another");
                    known.link = None;
                }
                gone || known.stale
            };
            if lost {
                // Not in the middle of an operation, whose container is half there.
                let _held = self.held.lock().await;
                self.restore_names();
            }
            pause = match self.names.lock().stale {
                true => SELDOM.min(pause * 2),
                false => LOOK_EVERY,
            };
        }
    }
}

/// What the server is told about a container; `None` if it has no names.
/// A container of another host, as the server for names wants it.
fn remote_client(network: &NetworkRecord, remote: RemoteName) -> Client {
    let names = std::iter::once(remote.name.clone()).chain(remote.aliases);
    Client {
        // Containers have no slash in their names, so nobody here is called so.
        name: format!("{}/{}/{}", network.name, remote.node, remote.name),
        networks: vec![Membership {
            id: network.id,
            network: network.name.clone(),
            names: names.collect(),
            addresses: remote.addresses,
        }],
        ..Client::default()
    }
}

fn client(
    agent: &Agent,
    known: &Known,
    record: &ContainerRecord,
    networks: &[NetworkRecord],
) -> Option<Client> {
    if matches!(record.state, State::Creating | State::Exited { .. }) || !has_names(record) {
        return None;
    }
    let mut endpoints: Vec<&EndpointRecord> = memberships(record).collect();
    endpoints.sort_by_key(|endpoint| (Reverse(endpoint.gw_priority), &endpoint.network));
    let hostname = record
        .command
        .iter()
        .map(|command| command.hostname.as_str());
    // Docker's order: the name, the beginning of the id, the host name.
    let everywhere: Vec<&str> = std::iter::once(record.name.as_str())
        .chain(short_id(&record.uid))
        .chain(hostname)
        .collect();
    let membership = |endpoint: &EndpointRecord| Membership {
        id: endpoint.network_id,
        network: endpoint.network.clone(),
        names: everywhere
            .iter()
            .copied()
            .chain(endpoint.aliases.iter().map(String::as_str))
            .map(str::to_owned)
            .collect(),
        addresses: endpoint.addresses().collect(),
    };
    let foreign = match &record.origin {
        Origin::Own => None,
        // Docker answers its containers itself, at the same address.
        Origin::Docker { .. } => return None,
        Origin::Attached { dev, ino, .. } => Some((*dev, *ino)),
    };
    let links = record.names.links.iter();
    Some(Client {
        name: record.name.clone(),
        networks: endpoints.into_iter().map(membership).collect(),
        links: links
            .map(|link| (link.alias.to_ascii_lowercase(), link.container.clone()))
            .collect(),
        place: Place {
            path: agent.netns_file(record),
            foreign,
            port_53: !known.exchanging,
        },
        forward: Forward {
            servers: record.names.servers.clone(),
            internal: record.endpoints.iter().all(|endpoint| {
                let network = super::gateway::network_of(endpoint, networks);
                network.is_some_and(|network| network.policy.internal)
            }),
            dotted_only: record.names.wants_dots(),
        },
    })
}

/// The addresses by which a container reaches the host: the gateways of its first network that
/// has any.
pub(super) fn host_gateways(record: &ContainerRecord, networks: &[NetworkRecord]) -> Vec<IpAddr> {
    let gateways = |endpoint: &EndpointRecord| {
        let network = super::gateway::network_of(endpoint, networks)?;
        let own = network.subnets.iter().filter_map(|subnet| subnet.gateway);
        let own: Vec<IpAddr> = own
            .filter(|gateway| !network.policy.is_isolated(gateway.is_ipv4()))
            .collect();
        (!own.is_empty()).then_some(own)
    };
    record
        .endpoints
        .iter()
        .find_map(gateways)
        .unwrap_or_default()
}
