//! Networks, and the tunnels of those that reach across hosts.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::policy::Policy;

/// `POST /v1/networks`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateNetwork {
    /// Its name.
    pub name: String,
    /// Name of its driver; without, `bridge`.
    #[serde(default)]
    pub driver: Option<String>,
    /// Prefixes, at most one a family; without any the agent chooses an IPv4 one.
    #[serde(default)]
    pub subnets: Vec<String>,
    /// Parts of the subnets that containers get addresses of, at most one a subnet.
    #[serde(default)]
    pub ranges: Vec<String>,
    /// Gateways, at most one a subnet; without, the first address is the gateway.
    #[serde(default)]
    pub gateways: Vec<IpAddr>,
    /// Addresses that no container gets, and what they are set aside for.
    #[serde(default)]
    pub aside: BTreeMap<String, IpAddr>,
    /// Whether it has IPv4; without, unless all subnets that are named are of IPv6.
    #[serde(default)]
    pub ipv4: Option<bool>,
    /// Add an IPv6 subnet if none is named, and an IPv4 one.
    #[serde(default)]
    pub ipv6: bool,
    /// Largest packet in bytes; without, the smallest of the uplinks' MTUs.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Nothing leaves it, nothing from elsewhere comes in.
    #[serde(default)]
    pub internal: bool,
    /// Options by key, Docker's or short ([`crate::policy`]).
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// What people note at it.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Noted for Docker's users.
    #[serde(default)]
    pub attachable: bool,
}

/// A network.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Its id: 64 hexadecimal digits.
    pub id: String,
    /// Its number in the datapath; 0 for those that have none: `host` and `none`.
    pub number: u16,
    /// What carries its packets; `host` and `null` for those that have no driver.
    pub driver: String,
    /// `local`: of this host; `global`: of the cluster.
    pub scope: String,
    /// Its subnets.
    pub subnets: Vec<String>,
    /// Its gateways, in the order of the subnets that have one.
    pub gateways: Vec<IpAddr>,
    /// The same by subnet, with ranges and addresses that are set aside.
    pub addresses: Vec<SubnetView>,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Its gateway device.
    pub device: String,
    /// MAC address of the gateway device.
    pub mac: String,
    /// What it lets in and out.
    pub policy: Policy,
    /// What it has of driver `overlay`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<Overlay>,
    /// The options that it was made with, by their names in Docker.
    pub options: BTreeMap<String, String>,
    /// What people note at it.
    pub labels: BTreeMap<String, String>,
    /// Noted for Docker's users.
    pub attachable: bool,
    /// Seconds since 1970.
    pub created: u64,
    /// Containers that are connected to it.
    pub containers: Vec<String>,
    /// Their interfaces in it.
    pub members: Vec<Member>,
    /// What Docker calls it, if it is Docker's.
    #[serde(default)]
    pub docker: Option<Dockers>,
}

/// What Docker calls something of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dockers {
    /// Its number.
    pub id: String,
    /// Its name. The agent does not know it; the command line asks Docker.
    #[serde(default)]
    pub name: Option<String>,
}

impl From<&str> for Dockers {
    fn from(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            name: None,
        }
    }
}

/// What a network has that reaches across hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    /// Its number (VNI).
    pub vni: u32,
    /// Its UDP port.
    pub port: u16,
}

/// `POST /v1/tunnels`: which addresses of a network are behind another host.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddTunnel {
    /// Name of a network of driver `overlay`.
    pub network: String,
    /// Address of the other host in the underlay.
    pub remote: IpAddr,
    /// A subnet for which the other host is a router, or the address of a container there.
    pub destination: String,
    /// MAC address of the router or of the container. A router that is netpath needs none.
    #[serde(default)]
    pub mac: Option<String>,
    /// The network's number there; without, as here.
    #[serde(default)]
    pub vni: Option<u32>,
    /// The UDP port there; without, the network's.
    #[serde(default)]
    pub port: Option<u16>,
}

/// A tunnel that a user added.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tunnel {
    /// Name of its network.
    pub network: String,
    /// What is reached by it.
    pub destination: String,
    /// Address of the other host.
    pub remote: IpAddr,
    /// MAC address of the router or the container, if one was named.
    pub mac: Option<String>,
    /// The network's number there.
    pub vni: u32,
    /// The UDP port there.
    pub port: u16,
}

/// `GET /v1/vteps`: another host that takes part in a network. Bytes are those of inner frames.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TunnelTraffic {
    /// Name of the network.
    pub network: String,
    /// Address of the other host in the underlay.
    pub vtep: IpAddr,
    /// The network's number there.
    pub vni: u32,
    /// The UDP port.
    pub port: u16,
    /// What is behind it.
    pub destinations: Vec<String>,
    /// Packets sent there; aggregates of segments count as one.
    pub sent_packets: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Packets that came from there and were not dropped.
    pub received_packets: u64,
    /// Their bytes.
    pub received_bytes: u64,
}

/// A subnet of a network.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SubnetView {
    /// Its prefix.
    pub subnet: String,
    /// The part of it that containers get addresses of.
    pub range: Option<String>,
    /// Its gateway.
    pub gateway: Option<IpAddr>,
    /// Addresses that no container gets, and what they are set aside for.
    pub aside: BTreeMap<String, IpAddr>,
}

/// A container's interface in a network.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Member {
    /// The container's name.
    pub container: String,
    /// The container's id: 64 hexadecimal digits.
    pub id: String,
    /// The interface's, as long.
    pub endpoint: String,
    /// MAC address of the interface.
    pub mac: String,
    /// Its addresses with the prefix length of their subnet.
    pub addresses: Vec<String>,
}
