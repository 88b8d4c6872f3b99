//! Requests and answers, shared by client and server.

mod adopt;
mod container;
mod network;
mod observe;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cluster::{ClusterStatus, NodeRow};
use crate::datapath::gate;

pub use adopt::*;
pub use container::*;
pub use network::*;
pub use observe::*;

/// `GET /v1/status`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Version of the agent.
    pub version: String,
    /// The agent's process.
    pub pid: u32,
    /// Seconds since its start.
    pub uptime: u64,
    /// Uplinks.
    pub uplinks: Vec<UplinkStatus>,
    /// Number of networks.
    pub networks: usize,
    /// Number of containers with a network, attached namespaces among them.
    pub running: usize,
    /// Number of containers that ended and were not removed.
    pub exited: usize,
    /// Ports of masqueraded connections, first and last.
    pub snat_ports: (u16, u16),
    /// Connections that the flow table can hold.
    pub max_flows: u32,
    /// Connections that one container can have.
    pub max_flows_per_container: u32,
    /// How long connections may be silent, in seconds.
    pub timeouts: BTreeMap<String, u32>,
    /// Folder of sockets, logs and namespaces.
    pub run_dir: PathBuf,
    /// Folder of the store.
    pub state_dir: PathBuf,
    /// Folder of the pinned maps and links.
    pub bpffs: PathBuf,
    /// The socket on which Docker finds its network driver, if it is to.
    #[serde(default)]
    pub docker_plugin: Option<PathBuf>,
    /// What is adopted of Docker.
    #[serde(default)]
    pub adopted: Adopted,
    /// The cluster that it is a node of.
    #[serde(default)]
    pub cluster: Option<ClusterStatus>,
}

/// An uplink.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UplinkStatus {
    /// Its name.
    pub name: String,
    /// Its index; `None` while there is no such device.
    pub ifindex: Option<u32>,
    /// Source of masqueraded IPv4 packets.
    pub addr4: Option<Ipv4Addr>,
    /// Source of masqueraded IPv6 packets.
    pub addr6: Option<Ipv6Addr>,
    /// Where malformed packets and denied sources are dropped.
    #[serde(default)]
    pub xdp: gate::Place,
    /// Why they are not dropped where they should be.
    #[serde(default)]
    pub xdp_problem: Option<String>,
}

/// `GET /v1/nodes`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Nodes {
    /// The cluster, as the node that was asked sees it.
    pub cluster: ClusterStatus,
    /// Its nodes.
    pub nodes: Vec<NodeRow>,
}

/// An error.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// One sentence.
    pub error: String,
}
