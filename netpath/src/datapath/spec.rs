//! What the control plane asks of the datapath, in the control plane's words.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::IpNet;
use netpath_common::config::Timeouts;
use netpath_common::policy::Policy;
use netpath_common::tuple::Proto;

/// How to open the datapath.
#[derive(Clone, Debug)]
pub struct DatapathOptions {
    /// Folder on a bpffs where maps and links are pinned; made if missing.
    pub bpffs: PathBuf,
    /// Connections that the flow table can hold.
    pub max_flows: u32,
    /// Connections that one endpoint may have at a time; a quarter of all by default.
    pub max_flows_per_endpoint: Option<u32>,
    /// How long connections may be silent.
    pub timeouts: Timeouts,
    /// First and last port of masqueraded flows.
    pub snat_ports: (u16, u16),
    /// Level of the programs' own log messages; `None` keeps them out of the programs.
    pub log: Option<log::LevelFilter>,
}

/// A network: a gateway device and its subnets.
#[derive(Clone, Debug)]
pub struct NetworkSpec {
    /// Id in tuples and endpoint keys; never 0.
    pub id: u16,
    /// The gateway device, up.
    pub gateway_ifindex: u32,
    /// Its MAC address.
    pub gateway_mac: [u8; 6],
    /// Its subnets, at most one a family.
    pub subnets: Vec<IpNet>,
    /// What it lets in and out.
    pub policy: Policy,
}

/// A container's interface.
#[derive(Clone, Debug)]
pub struct EndpointSpec {
    /// Its network.
    pub network: u16,
    /// Host-side veth, up; the peer is in the container's namespace.
    pub ifindex: u32,
    /// MAC address of the container's interface.
    pub mac: [u8; 6],
    /// Its IPv4 address.
    pub addr4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub addr6: Option<Ipv6Addr>,
    /// Its IPv6 link-local address.
    pub link_local: Option<Ipv6Addr>,
    /// IPv4 subnet prefix length.
    pub prefix4: u8,
    /// IPv6 subnet prefix length.
    pub prefix6: u8,
    /// The network's gateways.
    pub gateway4: Option<Ipv4Addr>,
    /// The network's gateways.
    pub gateway6: Option<Ipv6Addr>,
    /// The network's gateway device.
    pub gateway_ifindex: u32,
    /// Its MAC address.
    pub gateway_mac: [u8; 6],
    /// Flags of the network's policy.
    pub flags: u8,
    /// Inode number of the network namespace of the container's interface; 0 if unknown.
    pub netns: u32,
}

/// A published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortSpec {
    /// Host address; the unspecified address of a family for all of it.
    pub host_ip: IpAddr,
    /// TCP or UDP.
    pub proto: Proto,
    /// Port on the host.
    pub host_port: u16,
    /// The container's host-side veth (an endpoint that was added).
    pub endpoint_ifindex: u32,
    /// The container's address, of the family of `host_ip`.
    pub container_ip: IpAddr,
    /// Port in the container.
    pub container_port: u16,
}

/// A port of a container that is reached by the container's own address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OpenPortSpec {
    /// The container's host-side veth (an endpoint that was added).
    pub endpoint_ifindex: u32,
    /// The container's network.
    pub network: u16,
    /// The container's address.
    pub addr: IpAddr,
    /// TCP or UDP.
    pub proto: Proto,
    /// Its port.
    pub port: u16,
}
