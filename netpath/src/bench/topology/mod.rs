//! What is compared: each variant is a way of connecting containers, built in network
//! namespaces of its own. All of them stand side by side while the measurements go from one
//! to the next.
//!
//! * [`plain`]: a bare veth pair and the loopback device, as limits
//! * [`docker`]: docker0 with Docker's rules, in iptables and in nftables, without Docker
//! * [`dockerd`]: a real Docker daemon
//! * [`vxlan`]: the kernel's overlay
//! * [`wire`]: containers on the wire of the host's card, ours among them
//! * [`ours`] is netpath

pub mod docker;
pub mod dockerd;
mod host;
pub mod ours;
pub mod plain;
pub mod vxlan;
pub mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::namespace::{Namespace, Service};

/// From where to where packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Path {
    /// From container to container on one host.
    Containers,
    /// From a container to a machine outside.
    Outside,
    /// From outside to a published port.
    Published,
    /// From the container's host to a published port, by 127.0.0.1.
    Local,
    /// From container to container on another host.
    Overlay,
    /// From a container on the wire of the host's card to a machine there.
    Wire,
    /// From outside to the first or the last of many published ports.
    Scaling(u32, Which),
}

/// One of many ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Which {
    /// The one that was published first.
    First,
    /// The one that was published last.
    Last,
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Containers => f.write_str("container-container"),
            Self::Outside => f.write_str("container-outside"),
            Self::Published => f.write_str("outside-published"),
            Self::Local => f.write_str("host-published"),
            Self::Overlay => f.write_str("overlay"),
            Self::Wire => f.write_str("container-wire"),
            Self::Scaling(ports, Which::First) => write!(f, "published-{ports}-first"),
            Self::Scaling(ports, Which::Last) => write!(f, "published-{ports}-last"),
        }
    }
}

/// The two ends of a path.
#[derive(Clone, Debug)]
pub struct Ends {
    /// Where the client runs.
    pub client: Namespace,
    /// Where the server runs.
    pub server: Namespace,
    /// Where the server listens.
    pub listen: SocketAddr,
    /// What the client dials.
    pub dial: SocketAddr,
}

impl Ends {
    /// A server that is dialled by its own address.
    pub fn direct(client: &Namespace, server: &Namespace, ip: impl Into<IpAddr>) -> Self {
        let address = SocketAddr::new(ip.into(), SERVICE);
        Self {
            client: client.clone(),
            server: server.clone(),
            listen: address,
            dial: address,
        }
    }
}

/// The port that servers listen on, where the path does not ask for another.
pub const SERVICE: u16 = 5000;
/// The host's port behind which [`SERVICE`] of the first container is published.
pub const PUBLISHED: u16 = 8080;
/// The first of many published ports; the container's port has the same number.
pub const MANY: u16 = 40_000;

/// A variant, alive as long as this is.
#[derive(Debug)]
pub struct Variant {
    /// Its name in tables and files.
    pub name: String,
    /// What it is, in a sentence.
    pub what: String,
    /// Published ports.
    pub ports: u32,
    /// Rules of the firewall, where there is one.
    pub rules: u64,
    /// MTU of a container's interface.
    pub mtu: u32,
    /// Paths that it has.
    pub paths: BTreeMap<Path, Ends>,
    /// Where the environment looks for settings of the host.
    pub host: Option<Namespace>,
    /// Processes that belong to it; they end before the namespaces do.
    pub services: Vec<Service>,
}

impl Variant {
    /// A variant without paths.
    pub fn new(name: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            what: what.into(),
            ports: 0,
            rules: 0,
            mtu: 1500,
            paths: BTreeMap::new(),
            host: None,
            services: Vec::new(),
        }
    }
}

/// A program of the system, if it is installed. Debian keeps some of them out of a plain
/// user's PATH.
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}
