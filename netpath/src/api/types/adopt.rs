//! Docker's own networks, adopted.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::publish::Binding;

/// `POST /v1/adopt`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adopt {
    /// Docker's socket; without, `/var/run/docker.sock`.
    #[serde(default)]
    pub socket: Option<PathBuf>,
    /// Names of the networks to adopt; none means all.
    #[serde(default)]
    pub networks: Vec<String>,
    /// Rules of a firewall are no reason to refuse.
    #[serde(default)]
    pub ignore_firewall: bool,
}

/// `GET /v1/adopt`: what is adopted, and what is not.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Adopted {
    /// Docker's socket; `None` if nothing is adopted.
    pub socket: Option<PathBuf>,
    /// Rules of a firewall are no reason to refuse.
    pub ignore_firewall: bool,
    /// Why Docker cannot be asked at the moment.
    pub problem: Option<String>,
    /// Networks.
    pub networks: Vec<AdoptedNetworkRow>,
    /// Interfaces of containers.
    pub containers: Vec<AdoptedContainerRow>,
    /// What is left to Docker altogether.
    pub refused: Vec<RefusedRow>,
    /// Directions of connections that began before, which the kernel goes on translating.
    pub kernel_flows: usize,
}

/// An adopted network.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AdoptedNetworkRow {
    /// Its name.
    pub name: String,
    /// Its number in the datapath.
    pub id: u16,
    /// Its bridge.
    pub bridge: String,
    /// Why what its containers say to each other is left to the kernel; `None`: it is not.
    pub within: Option<String>,
    /// Why what they begin with others is left to the kernel; `None`: it is not.
    pub outward: Option<String>,
    /// Why what others begin at published ports is left to the kernel; `None`: it is not.
    pub inward: Option<String>,
}

/// An interface of a container in an adopted network.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AdoptedContainerRow {
    /// The container's name.
    pub name: String,
    /// Docker's number of the container.
    pub id: String,
    /// The network's name.
    pub network: String,
    /// The host's end of the interface.
    pub device: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Published ports that lead there.
    pub ports: Vec<Binding>,
}

/// Something that is left to Docker.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RefusedRow {
    /// Network, container or port.
    pub what: String,
    /// Why.
    pub why: String,
}
