//! Requests and answers, shared by client and server.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cluster::{ClusterStatus, NodeRow};
use crate::datapath::gate;
use crate::dns::options::Wishes;
use crate::policy::Policy;
use crate::publish::{Binding, Opened};
use crate::store::Driver;

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

/// `POST /v1/denied`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deny {
    /// A prefix, or an address.
    pub prefix: String,
    /// Even if it cuts something off.
    #[serde(default)]
    pub force: bool,
}

/// Answer to [`Deny`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DenialMade {
    /// The prefix.
    pub prefix: String,
    /// Uplinks that let it in all the same, each with the reason.
    pub warnings: Vec<String>,
}

/// A denied prefix.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Denial {
    /// The prefix.
    pub prefix: String,
    /// Packets dropped.
    pub packets: u64,
    /// Their bytes, with Ethernet headers.
    pub bytes: u64,
}

/// `GET /v1/events`: what somebody wants to see; empty fields want all. The answer is one
/// [`EventRow`] a line, as long as the connection lasts.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// Drops; without any choice both.
    pub drops: bool,
    /// Flows that begin and end.
    pub flows: bool,
    /// Protocols.
    pub proto: Vec<String>,
    /// Addresses or prefixes.
    pub addr: Vec<String>,
    /// Ports.
    pub port: Vec<u16>,
    /// A container.
    pub container: Option<String>,
    /// Reasons of drops.
    pub reason: Vec<String>,
}

/// Something that happened.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EventRow {
    /// `drop`, `new_flow`, `flow_end`; or `lost`: events that came too fast to be told.
    pub event: String,
    /// Milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<u64>,
    /// `container`, `uplink`, `gateway` or `xdp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
    /// Name of the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Why it was dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the reason means.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meaning: Option<String>,
    /// `masquerade` or `published`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// State of the flow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Protocol; missing if the packet could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proto: Option<String>,
    /// Source with port, as far as it could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Destination with port, as far as it could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// The flow's source after the translation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub translated_source: Option<String>,
    /// The flow's destination after the translation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub translated_destination: Option<String>,
    /// Length of the dropped packet with its Ethernet header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u32>,
    /// How many events were lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// `POST /v1/explain`: what would become of a packet?
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explain {
    /// Who sends: a container, an address, or `host`.
    pub source: String,
    /// Whom it dials: a container or an address.
    pub destination: String,
    /// `tcp:PORT`, `udp:PORT`, `icmp`, or a number.
    pub proto: String,
    /// The packet's source address, if it is not the sender's own.
    #[serde(default)]
    pub source_address: Option<IpAddr>,
    /// The packet's source port or echo identifier; without, one of a new connection.
    #[serde(default)]
    pub source_port: Option<u16>,
}

/// Answer to [`Explain`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Explanation {
    /// The packet's source address.
    pub source: String,
    /// The packet's destination address.
    pub destination: String,
    /// As it was asked.
    pub proto: String,
    /// What is decided where.
    pub steps: Vec<Step>,
    /// `delivered` (to a container), `sent` (out of an uplink), `host` (to the host's stack),
    /// `local` (never leaves the container) or `dropped`.
    pub verdict: String,
    /// The verdict in words.
    pub text: String,
    /// The reason of a drop, as in `netpath drops`.
    pub reason: Option<String>,
    /// The way out, where there is one.
    pub hint: Option<String>,
    /// The container that gets it.
    pub to_container: Option<String>,
    /// The device by which it goes there.
    pub to_device: Option<String>,
    /// Source after the translation, if that is another.
    pub translated_source: Option<String>,
    /// Destination after the translation, if that is another.
    pub translated_destination: Option<String>,
    /// What will become of the answers.
    pub warnings: Vec<String>,
}

/// A step of an [`Explanation`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Step {
    /// The program, or what else decides.
    pub hook: String,
    /// The device at which it does.
    pub device: Option<String>,
    /// What it finds.
    pub text: String,
}

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

/// `GET /v1/nodes`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Nodes {
    /// The cluster, as the node that was asked sees it.
    pub cluster: ClusterStatus,
    /// Its nodes.
    pub nodes: Vec<NodeRow>,
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
    /// Options for the network's driver.
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
    /// Name of the interface in the container.
    pub interface: String,
    /// Its addresses with the prefix length of their subnet.
    pub addresses: Vec<String>,
    /// MAC address of the interface.
    pub mac: Option<String>,
    /// The host's end of the interface.
    pub device: Option<String>,
    /// The gateways by which the container's default routes lead, as far as they are in this
    /// network.
    pub default_gateways: Vec<IpAddr>,
    /// Names that it has here beside its own.
    pub aliases: Vec<String>,
    /// Of several networks the one with the highest number leads out.
    pub gw_priority: i32,
    /// Options for the network's driver.
    pub options: BTreeMap<String, String>,
}

impl Connection {
    /// Its addresses without prefix lengths.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> {
        let plain = |text: &String| text.split('/').next()?.parse().ok();
        self.addresses.iter().filter_map(plain)
    }
}

/// An error.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// One sentence.
    pub error: String,
}
