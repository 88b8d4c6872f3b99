//! The records of the store.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::dns::options::NameOptions;
use crate::ipam::Subnet;
use crate::overlay::Peer;
use crate::physical::record::Sharing;
use crate::policy::Policy;
use crate::problem::invalid;
use crate::publish::{Binding, Opened, runs};

/// How the containers of a network reach each other and the world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Driver {
    /// Within this host, and by its uplinks out of it.
    #[default]
    Bridge,
    /// Across hosts, through tunnels.
    Overlay,
    /// Across hosts, as a member of a flannel network.
    Flannel,
    /// By interfaces of their own on a device of the host.
    Macvlan,
    /// The same with the device's MAC address.
    Ipvlan,
    /// By addresses of the network that the host itself is in.
    Underlay,
}

impl Driver {
    /// All drivers, in the order of the sentence that lists them.
    pub const ALL: [Self; 6] = [
        Self::Bridge,
        Self::Overlay,
        Self::Flannel,
        Self::Macvlan,
        Self::Ipvlan,
        Self::Underlay,
    ];

    /// Whether its containers share a card of the host.
    pub fn shares_card(self) -> bool {
        matches!(self, Self::Macvlan | Self::Ipvlan | Self::Underlay)
    }

    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Overlay => "overlay",
            Self::Flannel => "flannel",
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
            Self::Underlay => "underlay",
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Driver {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let found = Self::ALL.into_iter().find(|driver| driver.name() == text);
        found.ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            invalid(format!(
                "there is no network driver \"{}\", choose one of {known}",
                text.escape_debug()
            ))
        })
    }
}

/// What a network has that reaches across hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayRecord {
    /// Its number (VNI), 24 bits.
    pub vni: u32,
    /// Its UDP port.
    pub port: u16,
    /// Tunnels that users named.
    #[serde(default)]
    pub peers: Vec<Peer>,
    /// Somebody tells the agent of further tunnels, which last until then.
    #[serde(default)]
    pub told: bool,
}

/// What a network has that is this host's part in a flannel network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlannelRecord {
    /// Folder of flannel's keys.
    pub prefix: String,
    /// Where flannel's other tools look for this host's subnet.
    pub subnet_file: PathBuf,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// Its name.
    pub name: String,
    /// What carries its packets.
    #[serde(default)]
    pub driver: Driver,
    /// What it is called beside its name: 64 hexadecimal digits that no other network ever had.
    #[serde(default)]
    pub uid: String,
    /// Its number in the datapath; never 0.
    pub id: u16,
    /// Its subnets, at most one a family.
    pub subnets: Vec<Subnet>,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Largest packet in bytes between containers of the network.
    pub local_mtu: u32,
    /// Name of the gateway device.
    pub device: String,
    /// Index of the gateway device; 0 until it was made.
    pub ifindex: u32,
    /// MAC address of the gateway device.
    pub mac: [u8; 6],
    /// Seconds since 1970.
    pub created: u64,
    /// False from the intent to make it until everything is in place.
    pub ready: bool,
    /// Addresses that were leased last, one a family: the next are looked for behind them.
    #[serde(default)]
    pub last_leases: Vec<IpAddr>,
    /// What it lets in and out.
    #[serde(default)]
    pub policy: Policy,
    /// The options that it was made with, by their names in Docker.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// What people note at it.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Addresses that no container gets, and what they are set aside for.
    #[serde(default)]
    pub aside: BTreeMap<String, IpAddr>,
    /// Noted for Docker's users: any container may join any network here.
    #[serde(default)]
    pub attachable: bool,
    /// What the names of its containers' interfaces begin with; `None` is `eth`.
    #[serde(default)]
    pub interface_prefix: Option<String>,
    /// It is a network of Docker's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker: Option<DockerNetwork>,
    /// What it has of driver `overlay`.
    #[serde(default)]
    pub overlay: Option<OverlayRecord>,
    /// It was asked for IPv6.
    #[serde(default)]
    pub ipv6: bool,
    /// The card that its containers share, with drivers that share one.
    #[serde(default)]
    pub sharing: Option<Sharing>,
    /// Its id in the cluster, if it is a network of the cluster.
    #[serde(default)]
    pub cluster: Option<String>,
    /// What it has of driver `flannel`.
    #[serde(default)]
    pub flannel: Option<FlannelRecord>,
}

/// What is Docker's about a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DockerNetwork {
    /// Docker's number of it.
    pub id: String,
    /// What its containers' interfaces are called, less the number.
    pub prefix: String,
}

impl NetworkRecord {
    /// Its subnet of a family.
    pub fn subnet(&self, v4: bool) -> Option<&Subnet> {
        self.subnets.iter().find(|subnet| subnet.is_v4() == v4)
    }
}

/// Whose network namespace a container lives in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The agent made it, and it ends with the container.
    Own,
    /// Somebody else's: the agent only put an interface into it.
    Attached {
        /// Path that the user named, or `/proc/PID/ns/net`.
        path: String,
        /// Device number of the namespace's inode.
        dev: u64,
        /// Inode number of the namespace.
        ino: u64,
    },
    /// Docker's: it asked for an interface and puts it into a container.
    Docker {
        /// Docker's number of the endpoint.
        endpoint: String,
        /// Name of the interface until Docker takes it.
        peer: String,
        /// File of the namespace, if Docker told.
        sandbox: Option<String>,
        /// Number of the daemon's process when it told, in whose mount namespace that file is; 0
        /// if unknown.
        #[serde(default)]
        daemon: u32,
    },
}

/// A process, safe against the reuse of its number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: u32,
    /// When it started, clock ticks since boot.
    pub start_time: u64,
    /// `/proc/sys/kernel/random/boot_id` of that boot.
    pub boot_id: String,
}

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// Intent only: kernel state is being made.
    Creating,
    /// Has its network; the supervisor is about to start the command. An attached
    /// container stays here: there is no command.
    Created,
    /// The command runs.
    Running {
        /// The command's process.
        process: ProcessId,
        /// Seconds since 1970.
        since: u64,
    },
    /// The command ended; network and namespace are gone.
    Exited {
        /// Exit code, 128 + the signal's number for a killed process; `None` if nobody
        /// was there to see it.
        code: Option<i32>,
        /// Seconds since 1970.
        at: u64,
        /// The networks that it was in.
        #[serde(default)]
        networks: Vec<String>,
    },
}

/// Where a container has its network from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// From the networks that its endpoints are in; there may be none at the moment.
    #[default]
    Networks,
    /// It is in the host's own network namespace.
    Host,
    /// It has a loopback device and nothing else, for good.
    None,
    /// It is in the namespace of the container of this name.
    Container(String),
}

impl Mode {
    /// The word after `--network`; `None` for networks, which have names of their own.
    pub fn word(&self) -> Option<String> {
        match self {
            Self::Networks => None,
            Self::Host => Some("host".into()),
            Self::None => Some("none".into()),
            Self::Container(name) => Some(format!("container:{name}")),
        }
    }
}

/// What a container runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Runs in the background; its output is in a log file.
    pub detached: bool,
    /// Remove the container as soon as it ended.
    pub remove: bool,
    /// Its host name.
    pub hostname: String,
}

/// A container's interface in one of its networks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// Name of the network.
    pub network: String,
    /// Number of the network.
    pub network_id: u16,
    /// Name of the interface in the container.
    pub interface: String,
    /// False from the intent to connect until everything is in place, and again from the
    /// intent to disconnect. (That of a container as a whole is its state.)
    #[serde(default)]
    pub ready: bool,
    /// Name of the host-side veth.
    pub device: String,
    /// Index of the host-side veth; 0 until it was made.
    pub ifindex: u32,
    /// MAC address of the container's interface.
    pub mac: [u8; 6],
    /// Its IPv4 address.
    pub addr4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub addr6: Option<Ipv6Addr>,
    /// Published ports.
    #[serde(with = "runs")]
    pub ports: Vec<Binding>,
    /// Ports that are published at its own addresses, and not at the host's.
    #[serde(default)]
    pub opened: Vec<Opened>,
    /// Names that it has in this network beside its own.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Of several networks the one with the highest number leads out.
    #[serde(default)]
    pub gw_priority: i32,
    /// Options for the network's driver.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Inode number of the network namespace that it is in, where no file of ours names it: in a
    /// container of Docker's. 0 until it is known.
    #[serde(default)]
    pub netns: u32,
}

impl EndpointRecord {
    /// Its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addr4
            .map(IpAddr::V4)
            .into_iter()
            .chain(self.addr6.map(IpAddr::V6))
    }

    /// Its link-local address: the one that EUI-64 makes of its MAC address.
    pub fn link_local(&self) -> Option<Ipv6Addr> {
        self.addr6?;
        let [a, b, c, d, e, f] = self.mac;
        let (high, low) = ([a ^ 2, b, c, 0xff], [0xfe, d, e, f]);
        let mut octets = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        octets[8..12].copy_from_slice(&high);
        octets[12..].copy_from_slice(&low);
        Some(octets.into())
    }
}

/// A container, or a foreign namespace that is attached to a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Its name.
    pub name: String,
    /// Its id: 64 hexadecimal digits that no other container ever had.
    #[serde(default)]
    pub uid: String,
    /// Where it has its network from.
    #[serde(default)]
    pub mode: Mode,
    /// Whose namespace it is.
    pub origin: Origin,
    /// Where it is in its life.
    pub state: State,
    /// What it runs; `None` for an attached namespace.
    pub command: Option<Command>,
    /// The process that starts the command, waits for it and writes its exit code.
    pub supervisor: Option<ProcessId>,
    /// Its interfaces, one a network; none once it has ended.
    #[serde(default)]
    pub endpoints: Vec<EndpointRecord>,
    /// What it publishes, in the grammar of `-p`. Which ports that are, and at which endpoint, is
    /// in the endpoints.
    #[serde(default)]
    pub publish: Vec<String>,
    /// What it was given about names.
    #[serde(default)]
    pub names: NameOptions,
    /// Settings of the kernel that its network namespace was made with.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    /// Seconds since 1970.
    pub created: u64,
}

impl ContainerRecord {
    /// A record of intent without endpoints and command.
    pub fn new(name: &str, origin: Origin) -> Self {
        Self {
            name: name.to_owned(),
            uid: String::new(),
            mode: Mode::Networks,
            origin,
            state: State::Creating,
            command: None,
            supervisor: None,
            endpoints: Vec::new(),
            publish: Vec::new(),
            names: NameOptions::default(),
            sysctls: BTreeMap::new(),
            created: 0,
        }
    }

    /// Whether its command is over.
    pub fn is_exited(&self) -> bool {
        matches!(self.state, State::Exited { .. })
    }

    /// Whether it is another container than `earlier`, a record of the same name. (The
    /// supervisor is forgotten as a container ends.)
    pub fn is_another_than(&self, earlier: &Self) -> bool {
        self.created != earlier.created
            || self.origin != earlier.origin
            || self.supervisor.is_some() && self.supervisor != earlier.supervisor
    }

    /// The process of its command, while it runs.
    pub fn process(&self) -> Option<&ProcessId> {
        match &self.state {
            State::Running { process, .. } => Some(process),
            State::Creating | State::Created | State::Exited { .. } => None,
        }
    }

    /// Whether the agent has made it, and not only attached it.
    pub fn is_own(&self) -> bool {
        self.origin == Origin::Own
    }

    /// Whether the agent has made a namespace for it.
    pub fn has_own_namespace(&self) -> bool {
        self.is_own() && matches!(self.mode, Mode::Networks | Mode::None)
    }

    /// Its interface in a network.
    pub fn endpoint_in(&self, network: &str) -> Option<&EndpointRecord> {
        self.endpoints
            .iter()
            .find(|endpoint| endpoint.network == network)
    }

    /// The addresses of all of its interfaces.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.endpoints.iter().flat_map(EndpointRecord::addresses)
    }

    /// The published ports of all of its interfaces.
    pub fn ports(&self) -> impl Iterator<Item = &Binding> {
        self.endpoints.iter().flat_map(|endpoint| &endpoint.ports)
    }

    /// The names of its networks; of one that has ended, those that it was in.
    pub fn network_names(&self) -> Vec<String> {
        match &self.state {
            State::Exited { networks, .. } => networks.clone(),
            State::Creating | State::Created | State::Running { .. } => {
                let names = self.endpoints.iter().map(|e| e.network.clone());
                names.collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_addresses_are_eui_64() {
        let endpoint = EndpointRecord {
            mac: [0x02, 0x42, 0xac, 0x11, 0x00, 0x02],
            addr6: Some(Ipv6Addr::LOCALHOST),
            ..EndpointRecord::default()
        };
        assert_eq!(
            endpoint.link_local().unwrap().to_string(),
            "fe80::42:acff:fe11:2"
        );
        assert_eq!(
            EndpointRecord {
                addr6: None,
                ..endpoint
            }
            .link_local(),
            None
        );
    }

    #[test]
    fn drivers_are_found_by_name() {
        for driver in Driver::ALL {
            assert_eq!(driver.to_string().parse::<Driver>().unwrap(), driver);
            assert_eq!(serde_json::to_value(driver).unwrap(), driver.name());
        }
        let error = "Bridge".parse::<Driver>().unwrap_err().to_string();
        assert!(
            error.contains("\"Bridge\"") && error.contains("bridge, overlay"),
            "{error}"
        );
    }

    #[test]
    fn states_are_readable_json() {
        let state = State::Exited {
            code: Some(3),
            at: 5,
            networks: vec!["net".into()],
        };
        let json = serde_json::to_string(&state).unwrap();
        assert_eq!(
            json,
            r#"{"state":"exited","code":3,"at":5,"networks":["net"]}"#
        );
        assert_eq!(serde_json::from_str::<State>(&json).unwrap(), state);
    }

    #[test]
    fn modes_are_readable_json() {
        for (mode, json) in [
            (Mode::Networks, r#""networks""#),
            (Mode::None, r#""none""#),
            (Mode::Container("web".into()), r#"{"container":"web"}"#),
        ] {
            assert_eq!(serde_json::to_string(&mode).unwrap(), json);
            assert_eq!(serde_json::from_str::<Mode>(json).unwrap(), mode);
        }
    }
}
