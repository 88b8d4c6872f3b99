//! Flannel's leases: which host has which subnet, and how it is reached. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::config::Config;
use crate::cluster::schema::{Mac, check_vtep};
use crate::ipam::overlaps;
use crate::problem::conflict;

/// The backend that netpath is a peer of.
pub const BACKEND: &str = "vxlan";
/// Flannel chooses among the first hundred free subnets, so that two hosts that begin at the
/// same moment seldom choose the same.
const CHOICE: usize = 100;

/// The value of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// The host's address; unspecified if it has none of IPv4.
    #[serde(rename = "PublicIP")]
    pub public_ip: Ipv4Addr,
    /// Its IPv6 address, if it has one.
    #[serde(rename = "PublicIPv6", default)]
    pub public_ipv6: Option<Ipv6Addr>,
    /// Kind of tunnel.
    #[serde(rename = "BackendType")]
    pub backend_type: String,
    /// Tunnel for IPv4 packets.
    #[serde(rename = "BackendData", default)]
    pub backend_data: Option<BackendData>,
    /// Tunnel for IPv6 packets.
    #[serde(
        rename = "BackendV6Data",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub backend_v6_data: Option<BackendData>,
}

/// A tunnel's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendData {
    /// Number of the network on the wire; 0 in leases of old versions.
    #[serde(rename = "VNI", default)]
    pub vni: u32,
    /// MAC address of the tunnel's device.
    #[serde(rename = "VtepMAC")]
    pub vtep_mac: Mac,
}

/// A lease as it lies in etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The host's subnets, IPv4 first.
    pub subnets: Vec<IpNet>,
    /// How it is reached.
    pub attributes: Attributes,
    /// Revision of its last change.
    pub revision: i64,
    /// etcd's lease; 0 is a reservation, which never ends.
    pub lease: i64,
}

/// Where packets for a subnet go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// The subnet.
    pub subnet: IpNet,
    /// Address of the host that has it.
    pub vtep: IpAddr,
    /// MAC address of that host's tunnel.
    pub mac: Mac,
}

/// The last part of a lease's key: `10.5.34.0-24`, or with IPv6 `10.5.34.0-24&fc00:0:0:22::-64`.
pub fn key_of(subnets: &[IpNet]) -> String {
    let parts = subnets
        .iter()
        .map(|subnet| format!("{}-{}", subnet.network(), subnet.prefix_len()));
    parts.collect::<Vec<_>>().join("&")
}

/// Reads the last part of a lease's key.
///
/// # Errors
/// It is none.
pub fn parse_key(text: &str) -> Result<Vec<IpNet>> {
    let subnets = text
        .split('&')
        .map(|part| {
            let (address, length) = part.rsplit_once('-').context("it has no prefix length")?;
            let subnet = IpNet::new(
                address.parse().context("it has no address")?,
                length.parse().context("its prefix length is no number")?,
            )?;
            ensure!(subnet.addr() == subnet.network(), "it has host bits set");
            Ok(subnet)
        })
        .collect::<Result<Vec<IpNet>>>()?;
    let families: Vec<bool> = subnets.iter().map(|s| s.addr().is_ipv4()).collect();
    ensure!(
        families == [true] || families == [true, false],
        "it is no subnet of IPv4, alone or with one of IPv6"
    );
    Ok(subnets)
}

impl Lease {
    /// Reads a lease; `key` is the last part of its key.
    ///
    /// # Errors
    /// It makes no sense: why.
    pub fn parse(key: &str, value: &[u8], revision: i64, lease: i64) -> Result<Self> {
        Ok(Self {
            subnets: parse_key(key)?,
            attributes: serde_json::from_slice(value)?,
            revision,
            lease,
        })
    }

    /// Where packets for its subnets go.
    ///
    /// # Errors
    /// They cannot go there: it is of another backend, or lacks something.
    pub fn peers(&self) -> Result<Vec<Peer>> {
        let of = &self.attributes;
        ensure!(
            of.backend_type == BACKEND,
            "its backend is \"{}\"",
            of.backend_type.escape_debug()
        );
        self.subnets
            .iter()
            .map(|subnet| {
                let (vtep, data) = if subnet.addr().is_ipv4() {
                    (Some(IpAddr::V4(of.public_ip)), &of.backend_data)
                } else {
                    (of.public_ipv6.map(IpAddr::V6), &of.backend_v6_data)
                };
                let vtep = vtep.context("its host has no address")?;
                check_vtep(vtep)?;
                let mac = data.as_ref().context("it has no BackendData")?.vtep_mac;
                ensure!(mac.is_unicast(), "{mac} is no tunnel's MAC address");
                Ok(Peer {
                    subnet: *subnet,
                    vtep,
                    mac,
                })
            })
            .collect()
    }
}

/// What this host does to have a subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It has these already: the lease is written anew, if it is still the one of this revision.
    Renew(Vec<IpNet>, i64),
    /// It takes these, if nobody was faster.
    Take(Vec<IpNet>),
    /// It gives these back, which do not belong to the network any more, and looks again.
    GiveBack(Vec<IpNet>, i64),
}

/// Finds a subnet for this host. `own` is what its lease says (the addresses tell whose a lease
/// is, the MAC addresses whether it is really this host's), `previous` the subnets it had last,
/// `random` any number.
///
/// # Errors
/// Somebody else on this host has a lease, or no subnet is free.
pub fn choose(
    config: &Config,
    leases: &[Lease],
    own: &Attributes,
    previous: &[IpNet],
    random: u64,
) -> Result<Step> {
    let fits = |subnets: &[IpNet]| {
        subnets.len() == config.ranges.len()
            && subnets
                .iter()
                .zip(&config.ranges)
                .all(|(subnet, range)| range.has(subnet))
    };
    let here = leases
        .iter()
        .find(|lease| lease.attributes.public_ip == own.public_ip);
    if let Some(lease) = here {
        let mac = |of: &Attributes| of.backend_data.map(|data| data.vtep_mac);
        let is_ours =
            lease.attributes.backend_type == BACKEND && mac(&lease.attributes) == mac(own);
        if !is_ours {
            return Err(conflict(format!(
                "flannel's lease {} has this host's address {}: flanneld serves this host \
                 already, stop it and delete its lease, or give this node another --node-address",
                key_of(&lease.subnets),
                own.public_ip
            )));
        }
        let (subnets, revision) = (lease.subnets.clone(), lease.revision);
        return Ok(if fits(&subnets) {
            Step::Renew(subnets, revision)
        } else {
            Step::GiveBack(subnets, revision)
        });
    }
    let is_free = |subnet: &IpNet| {
        let mut taken = leases.iter().flat_map(|lease| &lease.subnets);
        !taken.any(|other| overlaps(other, subnet))
    };
    if fits(previous) && previous.iter().all(is_free) {
        return Ok(Step::Take(previous.to_vec()));
    }
    let chosen = config.ranges.iter().map(|range| {
        let free: Vec<IpNet> = range.subnets().filter(is_free).take(CHOICE).collect();
        let nth = random % u64::try_from(free.len().max(1)).unwrap_or(1);
        let nth = usize::try_from(nth).unwrap_or_default();
        free.get(nth).copied().ok_or_else(|| {
            conflict(format!(
                "no subnet of flannel's network {} is free, remove leases of hosts that are gone",
                range.network
            ))
        })
    });
    Ok(Step::Take(chosen.collect::<Result<_>>()?))
}

/// The text of `subnet.env`, which flannel's other tools read.
pub fn subnet_env(config: &Config, subnets: &[IpNet], mtu: u32, masquerade: bool) -> String {
    let mut text = String::new();
    for (range, subnet) in config.ranges.iter().zip(subnets) {
        let v = if subnet.addr().is_ipv4() { "" } else { "IPV6_" };
        let first = match subnet.network() {
            IpAddr::V4(address) => IpAddr::V4((u32::from(address) + 1).into()),
            IpAddr::V6(address) => IpAddr::V6((u128::from(address) + 1).into()),
        };
        text.push_str(&format!(
            "FLANNEL_{v}NETWORK={}\nFLANNEL_{v}SUBNET={first}/{}\n",
            range.network,
            subnet.prefix_len()
        ));
    }
    text.push_str(&format!("FLANNEL_MTU={mtu}\nFLANNEL_IPMASQ={masquerade}\n"));
    text
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
