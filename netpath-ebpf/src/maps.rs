//! The maps. Operators read them with `bpftool`: keys and values are records with named
//! fields, names fit into the kernel's 15 characters.

use core::cell::UnsafeCell;

use aya_ebpf::btf_maps::{
    Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, ProgramArray, RingBuf,
};
use aya_ebpf::macros::btf_map;
use aya_ebpf::{Global, bindings::BPF_F_NO_PREALLOC};
use netpath_common::addr::Addr;
use netpath_common::config::Config;
use netpath_common::counter::{Count, DropKey, HookCounters};
use netpath_common::deny::{Denied, MAX_DENIED};
use netpath_common::endpoint::{Endpoint, EndpointKey, MAX_ENDPOINTS, Slot, Veth};
use netpath_common::env::Scratch;
use netpath_common::event::{EVENTS_BYTES, Event};
use netpath_common::flow::Flow;
use netpath_common::fragment::{FragmentKey, FragmentPorts};
use netpath_common::icmp::Quoted;
use netpath_common::link::{PLACES, Receiver, Sender};
use netpath_common::network::{HostAddr, Network, Uplink};
use netpath_common::packet::Packet;
use netpath_common::policy::{OpenPort, Policy, Trusted};
use netpath_common::port::{PortKey, PortTarget};
use netpath_common::search::Searches;
use netpath_common::socket::{Dialled, Resolver, SocketPeer};
use netpath_common::tunnel::{
    BULK_PLACES, MAX_REMOTES, MAX_TUNNELS, MAX_VTEPS, Prefix, Tunnel, Underlay, Vni, Vtep,
    VtepCounts, VtepKey,
};
use netpath_common::tuple::{MAX_KERNEL_FLOWS, Tuple};
use netpath_common::underlay::{Card, CardAddr, CardMac, MAX_CARDS, SegmentPlace};

use crate::host_socket::SockKey;

const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

/// Each endpoint has up to three addresses: IPv4, IPv6, link-local.
const ENDPOINT_ADDRS: usize = 3 * MAX_ENDPOINTS as usize;

/// Both directions of each connection. Preallocated: a packet must not wait for memory,
/// nor fail for want of it before the table is full. The agent sets the size.
#[btf_map(name = "flows")]
pub static FLOWS: HashMap<Tuple, Flow, 262_144> = HashMap::new();

/// Where an address of a network is.
#[btf_map(name = "endpoints")]
pub static ENDPOINTS: HashMap<EndpointKey, Endpoint, ENDPOINT_ADDRS, NO_PREALLOC> = HashMap::new();

/// Who is behind a host-side veth, by ifindex.
#[btf_map(name = "veths")]
pub static VETHS: HashMap<u32, Veth, { MAX_ENDPOINTS as usize }, NO_PREALLOC> = HashMap::new();

/// Who may send what, by the place of the veth: the short way's copy of `veths`.
#[btf_map(name = "senders")]
pub static SENDERS: Array<Sender, { PLACES as usize }> = Array::new();

/// Who has an address, by the address's place: the short way's copy of `endpoints`.
#[btf_map(name = "receivers")]
pub static RECEIVERS: Array<Receiver, { PLACES as usize }> = Array::new();

/// The account of each endpoint. An array: looking it up is a few instructions.
#[btf_map(name = "slots")]
pub static SLOTS: Array<Slot, { MAX_ENDPOINTS as usize }> = Array::new();

/// Published ports.
#[btf_map(name = "ports")]
pub static PORTS: HashMap<PortKey, PortTarget, 131_072, NO_PREALLOC> = HashMap::new();

/// Networks, by the ifindex of their gateway device.
#[btf_map(name = "networks")]
pub static NETWORKS: HashMap<u32, Network, 4096, NO_PREALLOC> = HashMap::new();

/// The network of each subnet.
#[btf_map(name = "subnets")]
pub static SUBNETS: LpmTrie<Addr, u16, 8192> = LpmTrie::new();

/// What each network lets in and out, by its id.
#[btf_map(name = "policies")]
pub static POLICIES: HashMap<u32, Policy, 65_536, NO_PREALLOC> = HashMap::new();

/// Ports of containers that are reached by the containers' own addresses.
#[btf_map(name = "open_ports")]
pub static OPEN_PORTS: HashMap<OpenPort, u32, 131_072, NO_PREALLOC> = HashMap::new();

/// Devices from which published ports are reached by the containers' own addresses.
#[btf_map(name = "trusted")]
pub static TRUSTED: HashMap<Trusted, u32, 4096, NO_PREALLOC> = HashMap::new();

/// On which other host an address of a network is.
#[btf_map(name = "remotes")]
pub static REMOTES: HashMap<EndpointKey, Tunnel, { MAX_REMOTES as usize }, NO_PREALLOC> =
    HashMap::new();

/// On which other host a subnet of a network is.
#[btf_map(name = "tunnels")]
pub static TUNNELS: LpmTrie<Prefix, Tunnel, { MAX_TUNNELS as usize }> = LpmTrie::new();

/// The other hosts that take part in networks.
#[btf_map(name = "vteps")]
pub static VTEPS: HashMap<VtepKey, Vtep, { MAX_VTEPS as usize }, NO_PREALLOC> = HashMap::new();

/// The network of each number that a VXLAN device knows.
#[btf_map(name = "vnis")]
pub static VNIS: HashMap<Vni, u32, 4096, NO_PREALLOC> = HashMap::new();

/// What went to and came from each other host, by its place.
#[btf_map(name = "vtep_counts")]
pub static VTEP_COUNTS: PerCpuArray<VtepCounts, { MAX_VTEPS as usize }> = PerCpuArray::new();

/// The host's route to each other host, by the VTEP's place.
#[btf_map(name = "underlay")]
pub static UNDERLAY: Array<Underlay, { MAX_VTEPS as usize }> = Array::new();

/// What is known of aggregates out of tunnels, see `aggregate.rs`.
#[btf_map(name = "aggregates")]
pub static AGGREGATES: Array<u32, 2> = Array::new();

/// When an aggregate came last by a flow of the underlay.
#[btf_map(name = "bulk")]
pub static BULK: Array<u32, { BULK_PLACES as usize }> = Array::new();

/// Connections of adopted networks whose translation is the kernel's.
#[btf_map(name = "kernel_flows")]
pub static KERNEL_FLOWS: HashMap<Tuple, u32, { MAX_KERNEL_FLOWS as usize }, NO_PREALLOC> =
    HashMap::new();

/// Uplinks, by ifindex.
#[btf_map(name = "uplinks")]
pub static UPLINKS: HashMap<u32, Uplink, 64, NO_PREALLOC> = HashMap::new();

/// The host's own addresses.
#[btf_map(name = "host_addrs")]
pub static HOST_ADDRS: HashMap<Addr, HostAddr, 8192, NO_PREALLOC> = HashMap::new();

/// The configuration: one record.
#[btf_map(name = "config")]
pub static CONFIG: Array<Config, 1> = Array::new();

/// The ports of fragmented datagrams under way. The oldest make room: a flood of first parts
/// costs fragmented datagrams, and nothing else.
#[btf_map(name = "fragments")]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts, 16_384> = LruHashMap::new();

/// What the host's own sockets dialled, by socket and container. Sockets go without telling
/// us: the oldest entries make room for new ones.
#[btf_map(name = "sock_nat")]
pub static SOCK_NAT: LruHashMap<SocketPeer, Dialled, 65_536> = LruHashMap::new();

/// Where containers' server for names listens, by the cookie of their network namespace.
#[btf_map(name = "resolvers")]
pub static RESOLVERS: HashMap<u64, Resolver, { MAX_ENDPOINTS as usize }, NO_PREALLOC> =
    HashMap::new();

/// Who is behind a host-side veth of a card, by ifindex.
#[btf_map(name = "cards")]
pub static CARDS: HashMap<u32, Card, { MAX_CARDS as usize }, NO_PREALLOC> = HashMap::new();

/// Stacked cards once more, where they are found without a search: see
/// [`netpath_common::underlay::stacked_place`]. A place with parent 0 is free.
#[btf_map(name = "stacked")]
pub static STACKED: Array<Card, { MAX_CARDS as usize }> = Array::new();

/// The host-side veth of a card by its MAC address on its segment; and
/// [`netpath_common::underlay::ROUTED_PARENT`].
#[btf_map(name = "card_macs")]
pub static CARD_MACS: HashMap<CardMac, u32, { MAX_CARDS as usize }, NO_PREALLOC> = HashMap::new();

/// The host-side veth of a routed card by its address: IPv4, IPv6, link-local.
#[btf_map(name = "card_addrs")]
pub static CARD_ADDRS: HashMap<CardAddr, u32, { 3 * MAX_CARDS as usize }, NO_PREALLOC> =
    HashMap::new();

/// The members of each segment, and how many there are.
#[btf_map(name = "segments")]
pub static SEGMENTS: HashMap<SegmentPlace, u32, { 2 * MAX_CARDS as usize }, NO_PREALLOC> =
    HashMap::new();

/// Programs that others go on in, by [`netpath_common::link::BEYOND`] and its like. Each load of
/// the object has an array of its own: programs and what they go on in are of one version.
#[btf_map(name = "stages")]
pub static STAGES: ProgramArray<3> = ProgramArray::new();

/// Memory for what is learnt of the packet at hand.
#[btf_map(name = "packet")]
pub static PACKET: PerCpuArray<Packet, 1> = PerCpuArray::new();

/// Memory for what an ICMP error quotes.
#[btf_map(name = "quoted")]
pub static QUOTED: PerCpuArray<Quoted, 1> = PerCpuArray::new();

/// Memory for making a flow.
#[btf_map(name = "scratch")]
pub static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// Memory for what a socket of the host is looked up by.
#[btf_map(name = "sock_key")]
pub static SOCK_KEY: PerCpuArray<SockKey, 1> = PerCpuArray::new();

/// Counters, one record a hook.
#[btf_map(name = "counters")]
pub static COUNTERS: PerCpuArray<HookCounters, 6> = PerCpuArray::new();

/// How long the searches for source ports were.
#[btf_map(name = "snat_retries")]
pub static SNAT_RETRIES: PerCpuArray<Searches, 1> = PerCpuArray::new();

/// Drops by reason and hook.
#[btf_map(name = "drops")]
pub static DROPS: PerCpuHashMap<DropKey, Count, 256> = PerCpuHashMap::new();

/// Sources that uplinks do not let in. The cell is for the counters in the values.
#[btf_map(name = "denied")]
pub static DENIED: LpmTrie<Addr, UnsafeCell<Denied>, MAX_DENIED> = LpmTrie::new();

/// What is told to those who watch.
#[btf_map(name = "events")]
pub static EVENTS: RingBuf<Event, EVENTS_BYTES> = RingBuf::new();

/// Events for which there was no room.
#[btf_map(name = "lost_events")]
pub static LOST_EVENTS: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Whether the kernel knows `BPF_F_IPV6` of `bpf_l4_csum_replace` (6.16 and later); set at load.
#[unsafe(no_mangle)]
pub static CSUM_IPV6_FLAG: Global<u8> = Global::new(0);

/// Whether the kernel makes frames the receiver's own when it redirects them to a container
/// (6.15 and later); set at load.
#[unsafe(no_mangle)]
pub static REDIRECT_CLAIMS: Global<u8> = Global::new(0);

/// The cookie of the agent's network namespace; set at load. No namespace has the cookie 0.
#[unsafe(no_mangle)]
pub static HOST_NETNS: Global<u64> = Global::new(0);
