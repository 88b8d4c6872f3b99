//! Containers, their places in networks, and interfaces on the host's cards.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Dockers;
use crate::dns::options::Wishes;
use crate::publish::{Binding, Opened};
use crate::store::Driver;

/// `POST /v1/containers`: prepares a container; its supervisor then starts the command
/// and reports with [`Started`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateContainer {
    /// How it is connected.
    pub connect: Connect,
    /// Its host name; without, its name.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Runs in the background.
    #[serde(default)]
    pub detached: bool,
    /// Remove it as soon as the command ends.
    #[serde(default)]
    pub remove: bool,
    /// Settings of the kernel for its network namespace, by their names in sysctl(8).
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// The process that will start the command and wait for it. If it ends before the
    /// command was started, the container is removed.
    pub supervisor: u32,
}

/// How a container is connected.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connect {
    /// Its name; without, the agent chooses one.
    #[serde(default)]
    pub name: Option<String>,
    /// Its networks; without any, `bridge`, which is made when it is first needed. Or alone
    /// `host`, `none` or `container:NAME`.
    #[serde(default)]
    pub networks: Vec<Join>,
    /// Published ports in the grammar of `-p`.
    #[serde(default)]
    pub publish: Vec<String>,
    /// Options about names.
    #[serde(default)]
    pub names: Wishes,
}

/// A network, and how a container is to be in it. Also `POST /v1/containers/{name}/networks`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// Its name.
    pub network: String,
    /// The container's IPv4 address; without, the agent chooses one.
    #[serde(default)]
    pub ip: Option<Ipv4Addr>,
    /// The container's IPv6 address; without, the agent chooses one if the network has IPv6.
    #[serde(default)]
    pub ip6: Option<Ipv6Addr>,
    /// MAC address of its interface; without, a random one.
    #[serde(default)]
    pub mac: Option<String>,
    /// More names that it has in this network.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Of several networks the one with the highest number leads out.
    #[serde(default)]
    pub gw_priority: i32,
    /// Options of the interface: its name, settings of the kernel.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// Answer to [`CreateContainer`]: what the supervisor needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Created {
    /// Its name.
    pub name: String,
    /// File of its network namespace.
    pub netns: PathBuf,
    /// Device and inode number of that namespace, if it is somebody else's: the file may name
    /// another by now.
    #[serde(default)]
    pub netns_id: Option<(u64, u64)>,
    /// What was not done of what was asked for.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The agent's process: if it lives in another mount namespace, paths are found under
    /// `/proc/PID/root`.
    pub agent: u32,
    /// Its host name.
    pub hostname: String,
    /// To be mounted on `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// To be mounted on `/etc/hosts`.
    pub hosts: PathBuf,
    /// To be mounted on `/etc/hostname`.
    pub hostname_file: PathBuf,
    /// Where a detached container's output goes.
    pub log: PathBuf,
    /// Where the supervisor writes the exit code, in case the agent is not there.
    pub exit_file: PathBuf,
}

/// `POST /v1/containers/{name}/started`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Started {
    /// The command's process.
    pub pid: u32,
}

/// `POST /v1/containers/{name}/exited`: the answer comes when its network is gone.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exited {
    /// The command's process: another container may have the name by now.
    pub pid: u32,
    /// Exit code; 128 + the number of the signal that killed it.
    pub code: i32,
}

/// `POST /v1/attach`: an interface in a namespace that is somebody else's.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// How it is connected; the name must be given.
    pub connect: Connect,
    /// File of the namespace.
    #[serde(default)]
    pub netns: Option<PathBuf>,
    /// Or a process in the namespace.
    #[serde(default)]
    pub pid: Option<u32>,
}

/// `POST /v1/cards`: an interface on a card of the host, beside the networks of whoever gets it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachCard {
    /// A container of netpath's; or, beside a process or a file, what to call it.
    #[serde(default)]
    pub name: Option<String>,
    /// File of the namespace.
    #[serde(default)]
    pub netns: Option<PathBuf>,
    /// Or a process in the namespace.
    #[serde(default)]
    pub pid: Option<u32>,
    /// The card, with its VLAN.
    pub parent: String,
    /// `underlay`, `macvlan` or `ipvlan`; without, `underlay`.
    #[serde(default)]
    pub driver: Option<String>,
    /// Options of the driver.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Name of the interface; without, the first free of `eth1`, `eth2`, ….
    #[serde(default)]
    pub interface: Option<String>,
    /// Addresses, one a family: `ADDRESS/LENGTH[@ROUTER]`, `dhcp`, or `0/0` for none.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// More routes: `PREFIX[@ROUTER]`.
    #[serde(default)]
    pub routes: Vec<String>,
    /// Its MAC address, or `U:TEXT`; without, a random one.
    #[serde(default)]
    pub mac: Option<String>,
    /// Largest packet in bytes; without, that of the card.
    #[serde(default)]
    pub mtu: Option<u32>,
}

/// An interface that was added to somebody.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Card {
    /// Whose it is.
    pub owner: String,
    /// Its name there.
    pub interface: String,
    /// Who carries its packets.
    pub driver: Driver,
    /// The card of the host.
    pub parent: String,
    /// Its MAC address.
    pub mac: String,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Its addresses with the prefix length of their subnet.
    pub addresses: Vec<String>,
    /// Routers of its default routes.
    pub gateways: Vec<IpAddr>,
    /// More routes.
    pub routes: Vec<String>,
    /// A server gives its IPv4 address.
    pub dhcp: bool,
    /// How long the server lets it have the address without asking again.
    pub lease_seconds: Option<u64>,
    /// File of the namespace.
    pub netns: PathBuf,
    /// Seconds since 1970.
    pub created: u64,
}

/// `POST /v1/containers/{name}/stop`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// Seconds between asking the command to end and killing it.
    pub timeout: u32,
}

/// A container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Its id: 64 hexadecimal digits; nothing for an endpoint of Docker's.
    #[serde(default)]
    pub id: String,
    /// `created`, `running`, `attached`, `exited`, or `docker`: its life is Docker's to know.
    pub state: String,
    /// `networks`, or where else it has its network from: `host`, `none`, `container:NAME`.
    pub mode: String,
    /// Its networks. Of a container that ended they have names only.
    pub networks: Vec<Connection>,
    /// Published ports.
    pub ports: Vec<Binding>,
    /// Ports that are published at its own addresses, and not at the host's.
    #[serde(default)]
    pub opened: Vec<OpenedAt>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Its host name.
    pub hostname: Option<String>,
    /// The command's process.
    pub pid: Option<u32>,
    /// When that process started, in clock ticks since boot: with it a reused number is
    /// told from the process that was meant.
    pub start_time: Option<u64>,
    /// Exit code, if it ended and somebody saw it.
    pub exit_code: Option<i32>,
    /// File of its network namespace.
    pub netns: PathBuf,
    /// Device and inode number of an attached namespace: its file may name another by now.
    #[serde(default)]
    pub netns_id: Option<(u64, u64)>,
    /// Its log, if it was detached.
    pub log: Option<PathBuf>,
    /// Seconds since 1970.
    pub created: u64,
    /// Seconds since 1970, once it ended.
    pub ended: Option<u64>,
    /// What Docker calls it, if it is a container of Docker's; the number is the endpoint's.
    #[serde(default)]
    pub docker: Option<Dockers>,
}

/// A port that is published at an address of the container itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenedAt {
    /// The address.
    pub ip: IpAddr,
    /// The port.
    #[serde(flatten)]
    pub port: Opened,
}

/// A container's interface in one of its networks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Connection {
    /// The network.
    pub network: String,
    /// The network's id; nothing of a container that has ended.
    pub network_id: String,
    /// The id of the interface, as long.
    pub endpoint: String,
    /// Name of the interface in the container.
    pub interface: String,
    /// Its addresses with the prefix length of their subnet.
    pub addresses: Vec<String>,
    /// MAC address of the interface.
    pub mac: Option<String>,
    /// The host's end of the interface.
    pub device: Option<String>,
    /// The network's gateways, if it leads anywhere.
    pub gateways: Vec<IpAddr>,
    /// The gateways by which the container's default routes lead, as far as they are in this
    /// network.
    pub default_gateways: Vec<IpAddr>,
    /// Names that it has here beside its own.
    pub aliases: Vec<String>,
    /// Of several networks the one with the highest number leads out.
    pub gw_priority: i32,
    /// Options of the interface.
    pub options: BTreeMap<String, String>,
}

impl Connection {
    /// Its addresses without prefix lengths.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> {
        let plain = |text: &String| text.split('/').next()?.parse().ok();
        self.addresses.iter().filter_map(plain)
    }
}
