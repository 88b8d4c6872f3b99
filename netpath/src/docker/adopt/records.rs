//! What the store remembers of an adoption.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::policy::Policy;
use crate::publish::{Binding, runs};

/// What is adopted of a Docker daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adoption {
    /// Docker's socket.
    pub socket: PathBuf,
    /// Names of the networks to adopt; none means all.
    #[serde(default)]
    pub only: Vec<String>,
    /// Rules of a firewall are no reason to refuse.
    #[serde(default)]
    pub ignore_firewall: bool,
    /// The networks that are adopted.
    #[serde(default)]
    pub networks: Vec<AdoptedNetwork>,
    /// Interfaces of containers in them.
    #[serde(default)]
    pub endpoints: Vec<AdoptedEndpoint>,
}

/// An adopted network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptedNetwork {
    /// Its number in the datapath; never 0.
    pub id: u16,
    /// Docker's number of it.
    pub docker_id: String,
    /// Its name.
    pub name: String,
    /// Name of its bridge.
    pub bridge: String,
    /// Index of its bridge.
    pub ifindex: u32,
    /// MAC address of the bridge.
    pub mac: [u8; 6],
    /// Addresses of the bridge with the length of their prefixes.
    pub gateways: Vec<(IpAddr, u8)>,
    /// What it lets in and out.
    pub policy: Policy,
    /// What is left to the kernel, each with the reason.
    #[serde(default)]
    pub refused: Refusals,
}

/// What traffic of a network is left to the kernel, each with the reason; `None` is served here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Refusals {
    /// Between containers of the network.
    pub within: Option<String>,
    /// What containers begin with anybody else.
    pub outward: Option<String>,
    /// What others begin with published ports.
    pub inward: Option<String>,
}

/// An interface of a container in an adopted network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptedEndpoint {
    /// The container's name.
    pub container: String,
    /// Docker's number of the container.
    pub docker_id: String,
    /// Number of the network in the datapath.
    pub network: u16,
    /// Name of the host-side veth.
    pub device: String,
    /// Index of the host-side veth.
    pub ifindex: u32,
    /// MAC address of the container's interface.
    pub mac: [u8; 6],
    /// Its IPv4 address with the length of its prefix.
    pub addr4: Option<(Ipv4Addr, u8)>,
    /// Its IPv6 address with the length of its prefix.
    pub addr6: Option<(Ipv6Addr, u8)>,
    /// Its IPv6 link-local address.
    pub link_local: Option<Ipv6Addr>,
    /// Inode number of its network namespace; 0 if unknown.
    #[serde(default)]
    pub netns: u32,
    /// Published ports that lead to it.
    #[serde(with = "runs")]
    pub ports: Vec<Binding>,
}

impl AdoptedNetwork {
    /// Its subnets.
    pub fn subnets(&self) -> Vec<IpNet> {
        subnets_of(&self.gateways)
    }

    /// The bridge's address in the subnet of an address of a container.
    pub fn gateway_of(&self, addr: IpAddr) -> Option<IpAddr> {
        let same = |(gateway, length): &&(IpAddr, u8)| {
            IpNet::new(*gateway, *length).is_ok_and(|net| net.contains(&addr))
        };
        self.gateways.iter().find(same).map(|(gateway, _)| *gateway)
    }
}

/// The subnets of a bridge's addresses.
pub(super) fn subnets_of(gateways: &[(IpAddr, u8)]) -> Vec<IpNet> {
    let of = |(gateway, length): &(IpAddr, u8)| IpNet::new(*gateway, *length).ok();
    gateways
        .iter()
        .filter_map(of)
        .map(|net| net.trunc())
        .collect()
}

impl AdoptedEndpoint {
    /// Its addresses, not the link-local one.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.addr4.map(|(addr, _)| IpAddr::V4(addr));
        v4.into_iter()
            .chain(self.addr6.map(|(addr, _)| IpAddr::V6(addr)))
    }
}
