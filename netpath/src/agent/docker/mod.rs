//! Docker's networks and endpoints ([`crate::docker`] is the socket by which it asks for them).
//!
//! A network of Docker's is a network with Docker's number in its record. An endpoint is a
//! container whose origin is Docker: it is named by the endpoint's number, because Docker tells a
//! driver no other name, and lives in a namespace that is Docker's to make. All that looks after
//! containers looks after it as well.
//!
//! Docker hands out the addresses. It knows for certain that nobody else has what it gives, so
//! whoever is in the way here is somebody that Docker has forgotten: a daemon that was killed
//! never calls again for what it had.

mod endpoint;
mod network;
mod settle;

use std::sync::Arc;

use anyhow::Result;

use super::Agent;
use crate::docker::wire::{check_id, short};
use crate::problem::{conflict, not_found};
use crate::store::{ContainerRecord, NetworkRecord, Origin};

impl Agent {
    /// The network of Docker's with this number.
    fn find_docker_network(&self, id: &str) -> Result<Option<NetworkRecord>> {
        check_id("network", id)?;
        let is_it = |record: &NetworkRecord| record.docker.as_ref().is_some_and(|d| d.id == id);
        Ok(self.store.networks()?.into_iter().find(is_it))
    }

    fn docker_network(&self, id: &str) -> Result<NetworkRecord> {
        self.find_docker_network(id)?.ok_or_else(|| {
            not_found(format!(
                "netpath does not know network {} (was it purged?), remove it with \"docker \
                 network rm\" and create it again",
                short(id)
            ))
        })
    }

    /// The endpoint of Docker's with this number.
    fn find_docker_endpoint(&self, id: &str) -> Result<Option<ContainerRecord>> {
        check_id("endpoint", id)?;
        let is_it = |record: &Arc<ContainerRecord>| match &record.origin {
            Origin::Docker { endpoint, .. } => endpoint == id,
            Origin::Own | Origin::Attached { .. } => false,
        };
        let found = self.store.containers()?.into_iter().find(is_it);
        Ok(found.map(Arc::unwrap_or_clone))
    }

    fn docker_endpoint(&self, id: &str) -> Result<ContainerRecord> {
        self.find_docker_endpoint(id)?.ok_or_else(|| {
            not_found(format!(
                "netpath does not know endpoint {}, start the container again",
                short(id)
            ))
        })
    }
}

/// Refuses what only Docker may do to a network of Docker's.
///
/// # Errors
/// It is one.
pub(super) fn check_is_ours(network: &NetworkRecord) -> Result<()> {
    if network.docker.is_none() {
        return Ok(());
    }
    Err(conflict(format!(
        "network {} is Docker's, use \"docker network\" for it",
        network.name
    )))
}

/// Refuses what only Docker may do to a container of Docker's.
///
/// # Errors
/// It is one.
pub(super) fn check_is_not_dockers(container: &ContainerRecord) -> Result<()> {
    match &container.origin {
        Origin::Own | Origin::Attached { .. } => Ok(()),
        Origin::Docker { .. } => Err(conflict(format!(
            "{} is a container of Docker's, use \"docker\" for it",
            container.name
        ))),
    }
}
