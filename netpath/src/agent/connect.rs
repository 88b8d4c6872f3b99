//! Connecting containers that run to more networks, and disconnecting them.
//!
//! An endpoint that is not ready is an intent, either way: the next start of an agent that was
//! killed in between takes it away and has the container's way out as it is without it.

use std::fs::File;
use std::sync::Arc;

use anyhow::Result;

use super::attach::look_inside;
use super::endpoint::{Occasion, Source};
use super::ports::Missing;
use super::{Agent, Held, docker};
use crate::api::types::{Container, Join};
use crate::problem::{conflict, invalid, not_found};
use crate::store::{ContainerRecord, EndpointRecord, Mode, NetworkRecord, State};

impl Agent {
    /// Gives a container an interface in one more network.
    ///
    /// # Errors
    /// A sentence; nothing has changed.
    pub async fn connect(self: &Arc<Self>, word: &str, join: Join) -> Result<Container> {
        let mut held = self.held.lock().await;
        let record = self.called(word)?;
        let name = record.name.clone();
        docker::check_is_not_dockers(&record)?;
        check_connectable(&record)?;
        if matches!(join.network.as_str(), "host" | "none") || join.network.contains(':') {
            return Err(invalid(format!(
                "\"{}\" is no network that a container can be connected to",
                join.network
            )));
        }
        let netns = self.open_netns(&record).ok_or_else(|| {
            conflict(format!("the network namespace of container {name} is gone"))
        })?;
        let known = self.store.networks()?.len();
        let network = self.network_for(&mut held, &join.network).await?;
        let made = (self.store.networks()?.len() > known).then(|| network.clone());
        let connected = self
            .connect_held(&mut held, record, network, &netns, &join)
            .await;
        if let Err(error) = connected {
            self.unmake_made(made.as_ref()).await;
            return Err(error);
        }
        log::info!("container {name} is connected to {}", join.network);
        self.announce_change();
        self.show_container(&name)
    }

    async fn connect_held(
        &self,
        held: &mut Held,
        before: ContainerRecord,
        network: NetworkRecord,
        netns: &File,
        join: &Join,
    ) -> Result<()> {
        let there = look_inside(netns)?;
        let mut endpoint = self.plan_endpoint(&before, &network, join, &there).await?;
        let source = self.plan_device(&mut endpoint, &network, false).await?;
        let mut record = before.clone();
        let place = record.endpoints.len();
        record.endpoints.push(endpoint);
        self.store.put_container(&record)?;
        let made = self
            .make_connection(held, &before, &mut record, (place, source), netns)
            .await;
        let Err(error) = made else { return Ok(()) };
        if let Some(endpoint) = record.endpoints.pop() {
            log_problems(
                &record.name,
                self.unmake_endpoint(&before, &bare(&endpoint)).await,
            );
        }
        if let Err(second) = self.go_back(held, &before, Some(netns)) {
            log::error!("container {} is not as it was: {second:#}", before.name);
        }
        Err(error)
    }

    async fn make_connection(
        &self,
        held: &mut Held,
        before: &ContainerRecord,
        record: &mut ContainerRecord,
        new: (usize, Source),
        netns: &File,
    ) -> Result<()> {
        let networks = self.store.networks()?;
        let place = new.0;
        self.make_endpoints(record, &networks, netns, Occasion::Later, vec![new])
            .await?;
        if let Some(endpoint) = record.endpoints.get_mut(place) {
            endpoint.ready = true;
        }
        self.settle_ports(held, record, &networks, Missing::Refuse)?;
        self.lead_out(before, record, &networks, Some(netns))?;
        self.store.put_container(record)?;
        self.name_container(record);
        Ok(())
    }

    /// Has default routes, published ports and files of a container follow its record.
    fn lead_out(
        &self,
        before: &ContainerRecord,
        record: &ContainerRecord,
        networks: &[NetworkRecord],
        netns: Option<&File>,
    ) -> Result<()> {
        if let Some(netns) = netns {
            self.route_out(before, record, netns, networks)?;
        }
        self.publish_all(record, networks)?;
        self.unpublish_rest(before, record, networks)?;
        self.refresh_files(before, record)
    }

    /// Has everything as it was before an attempt that failed.
    fn go_back(
        &self,
        held: &mut Held,
        before: &ContainerRecord,
        netns: Option<&File>,
    ) -> Result<()> {
        let networks = self.store.networks()?;
        let mut record = before.clone();
        self.settle_ports(held, &mut record, &networks, Missing::Warn)?;
        self.lead_out(before, &record, &networks, netns)?;
        self.store.put_container(&record)
    }

    /// Takes a container's interface in a network away. With `force` it is fine if there is
    /// none.
    ///
    /// # Errors
    /// There is no such interface, or the store cannot be written.
    pub async fn disconnect(&self, word: &str, network: &str, force: bool) -> Result<()> {
        let mut held = self.held.lock().await;
        let record = match self.find_called(word)? {
            Some(record) => record,
            None if force => return Ok(()),
            None => self.store.container(word)?,
        };
        let name = record.name.clone();
        docker::check_is_not_dockers(&record)?;
        // By its id, perhaps; what is not there has a sentence of its own below.
        let named = self.network_name(network);
        let network = named.as_deref().unwrap_or(network);
        let place = record.endpoints.iter().position(|e| e.network == network);
        let Some(place) = place else {
            if force {
                return Ok(());
            }
            check_connectable(&record)?;
            // For its error, if there is no such network at all.
            self.store.network(network)?;
            return Err(not_found(format!(
                "container {name} is not in network {network}, see \"netpath inspect {name}\""
            )));
        };
        self.take_away(&mut held, record, place).await?;
        log::info!("container {name} is disconnected from {network}");
        self.announce_change();
        drop(held);
        self.settle_cluster().await;
        Ok(())
    }

    /// Takes away the interface at a place in the list of a container's endpoints; returns the
    /// record without it.
    pub(super) async fn take_away(
        &self,
        held: &mut Held,
        mut record: ContainerRecord,
        place: usize,
    ) -> Result<ContainerRecord> {
        let networks = self.store.networks()?;
        if let Some(endpoint) = record.endpoints.get_mut(place) {
            endpoint.ready = false;
        }
        self.store.put_container(&record)?;
        // Nobody is to be sent there any more.
        self.name_container(&record);
        let netns = self.open_netns(&record);
        let mut after = record.clone();
        let endpoint = without(&mut after, place);
        self.settle_ports(held, &mut after, &networks, Missing::Warn)?;
        // The new way out is there before the old one goes.
        let led = self.lead_out(&record, &after, &networks, netns.as_ref());
        let mut problems = self.unmake_endpoint(&after, &bare(&endpoint)).await;
        problems.extend(led.err());
        self.store.put_container(&after)?;
        if after.endpoints.is_empty() {
            held.beyond_repair.remove(&after.name);
        }
        log_problems(&after.name, problems);
        Ok(after)
    }
}

/// The endpoint at a place, taken out of the record; its ports go to another one, which settles
/// where they stay.
fn without(record: &mut ContainerRecord, place: usize) -> EndpointRecord {
    if place >= record.endpoints.len() {
        return EndpointRecord::default();
    }
    let mut endpoint = record.endpoints.remove(place);
    let ports = std::mem::take(&mut endpoint.ports);
    endpoint.opened.clear();
    if let Some(other) = record.endpoints.first_mut() {
        other.ports.extend(ports);
    }
    endpoint
}

/// An endpoint without its ports, which lead elsewhere by now.
fn bare(endpoint: &EndpointRecord) -> EndpointRecord {
    EndpointRecord {
        ports: Vec::new(),
        opened: Vec::new(),
        ..endpoint.clone()
    }
}

fn log_problems(name: &str, problems: Vec<anyhow::Error>) {
    for problem in problems {
        // The next start finds what is left, as nobody's.
        log::error!("while disconnecting container {name}: {problem:#}");
    }
}

/// Whether a container can have more interfaces, or fewer.
fn check_connectable(record: &ContainerRecord) -> Result<()> {
    let name = &record.name;
    let refuse = |why: String| Err(conflict(why));
    match &record.mode {
        Mode::Networks => {}
        Mode::Host => {
            return refuse(format!(
                "container {name} is in the host's network and can be in no other"
            ));
        }
        Mode::None => {
            return refuse(format!(
                "container {name} was started with --network none and can be in no network"
            ));
        }
        Mode::Container(other) => {
            return refuse(format!(
                "container {name} shares the network of {other}: connect {other} instead"
            ));
        }
    }
    match &record.state {
        State::Exited { .. } => refuse(format!(
            "container {name} has ended, start a new one with \"netpath run\""
        )),
        State::Creating => refuse(format!("container {name} is only just being made")),
        State::Created | State::Running { .. } => Ok(()),
    }
}
