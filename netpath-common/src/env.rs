//! What the logic needs of its surroundings: BPF maps and helpers in the kernel,
//! hash maps and a seed in the tests of the host.

use crate::addr::Addr;
use crate::config::Config;
use crate::endpoint::{Endpoint, EndpointKey, Veth};
use crate::flow::Flow;
use crate::fragment::{FragmentKey, FragmentPorts};
use crate::icmp::Quoted;
use crate::link::Receiver;
use crate::network::{HostAddr, Uplink};
use crate::packet::Packet;
use crate::policy::{OpenPort, Policy, Trusted};
use crate::port::{PortKey, PortTarget};
use crate::reason::DropReason;
use crate::snat::Opening;
use crate::tunnel::Tunnel;
use crate::tuple::Tuple;

/// A map.
pub trait Table<K, V: Copy> {
    /// Calls `f` with the value of `key`, in place. Other CPUs may change it at the same
    /// time: fields are single words and whoever writes last wins.
    fn with<R>(&self, key: &K, f: impl FnOnce(&mut V) -> R) -> Option<R>;

    /// A copy of the value of `key`.
    #[inline(always)]
    fn get(&self, key: &K) -> Option<V> {
        self.with(key, |value| *value)
    }

    /// Whether there is `key`.
    #[inline(always)]
    fn contains(&self, key: &K) -> bool {
        self.with(key, |_| ()).is_some()
    }

    /// Inserts `key`, which must not exist: one of two that try at once fails.
    fn insert_new(&self, key: &K, value: &V) -> Result<(), InsertError>;

    /// Inserts or overwrites `key`.
    fn replace(&self, key: &K, value: &V) -> Result<(), InsertError>;

    /// Removes `key` if it is there.
    fn remove(&self, key: &K);
}

impl<K, V: Copy, T: Table<K, V>> Table<K, V> for &T {
    #[inline(always)]
    fn with<R>(&self, key: &K, f: impl FnOnce(&mut V) -> R) -> Option<R> {
        T::with(self, key, f)
    }

    #[inline(always)]
    fn insert_new(&self, key: &K, value: &V) -> Result<(), InsertError> {
        T::insert_new(self, key, value)
    }

    #[inline(always)]
    fn replace(&self, key: &K, value: &V) -> Result<(), InsertError> {
        T::replace(self, key, value)
    }

    #[inline(always)]
    fn remove(&self, key: &K) {
        T::remove(self, key);
    }
}

/// Why an insertion failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InsertError {
    /// The key is taken.
    Exists,
    /// The map is full (or the kernel has no memory for it).
    Full,
}

/// Where a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// To be delivered unchanged into the container behind this host-side veth.
    Deliver {
        /// The host-side veth.
        ifindex: u32,
    },
    /// Rewritten and on its way by its flow.
    Sent,
    /// For the host's own stack.
    Host,
}

/// A way out of the host.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// The next hop, of either family; the destination itself if it is on link.
    pub next_hop: Addr,
    /// The device to leave by.
    pub ifindex: u32,
}

/// The surroundings of one packet.
pub trait Env {
    /// Map `flows`.
    fn flows(&self) -> impl Table<Tuple, Flow>;
    /// Map `endpoints`.
    fn endpoints(&self) -> impl Table<EndpointKey, Endpoint>;
    /// Map `ports`.
    fn ports(&self) -> impl Table<PortKey, PortTarget>;
    /// Map `uplinks`, keyed by ifindex.
    fn uplinks(&self) -> impl Table<u32, Uplink>;
    /// Map `host_addrs`.
    fn host_addrs(&self) -> impl Table<Addr, HostAddr>;
    /// Map `policies`, keyed by network id.
    fn policies(&self) -> impl Table<u32, Policy>;
    /// Map `open_ports`.
    fn open_ports(&self) -> impl Table<OpenPort, u32>;
    /// Map `trusted`.
    fn trusted(&self) -> impl Table<Trusted, u32>;
    /// Map `kernel_flows`: connections of adopted networks that began before these were, each
    /// direction as it appears at our hooks. Their translation is the kernel's until they end.
    /// The value is always 1.
    fn kernel_flows(&self) -> impl Table<Tuple, u32>;
    /// Map `fragments`, which forgets the oldest when it is full.
    fn fragments(&self) -> impl Table<FragmentKey, FragmentPorts>;
    /// The network namespace of a veth's container, by map `veths`: 0 if there is no such veth.
    fn netns_of(&self, ifindex: u32) -> u32;
    /// What is at a place of map `receivers`.
    fn receiver(&self, place: u32) -> Option<&Receiver>;
    /// The network whose subnet has `addr`, by map `subnets`.
    fn network_of(&self, addr: &Addr) -> Option<u16>;
    /// The generation of an endpoint's slot; changes when the slot changes hands.
    fn generation(&self, slot: u32) -> u32;
    /// Puts one more connection on the account of a slot, unless that is full.
    fn charge(&self, slot: u32) -> bool;
    /// Takes one off the account of a slot.
    fn refund(&self, slot: u32);
    /// The configuration in force.
    fn config(&self) -> &Config;
    /// Seconds since boot.
    fn now(&self) -> u32;
    /// A random number.
    fn random(&self) -> u32;
    /// Whether a socket of the host itself would receive packets of this tuple: then no flow may
    /// have them for its answers. Asked for first packets only.
    fn host_socket(&self, tuple: &Tuple) -> bool;
    /// Finds the host's route from `src` to `dst` as seen from a network's gateway device.
    ///
    /// # Errors
    /// [`DropReason::NoRoute`] or [`DropReason::TooBig`]; then `route` means nothing.
    fn route(
        &self,
        gateway_ifindex: u32,
        src: &Addr,
        dst: &Addr,
        route: &mut Route,
    ) -> Result<(), DropReason>;
    /// Rewrites the packet at hand as `flow` says, lowers its time to live and sends it.
    ///
    /// # Errors
    /// [`DropReason::RewriteFailed`], or [`DropReason::TtlExpired`] if there is nothing to lower.
    fn send(&self, packet: &Packet, flow: &Flow) -> Result<(), DropReason>;
    /// Rewrites the ICMP error at hand, outside and inside, for the flow of the packet that it
    /// quotes, lowers its time to live and sends it.
    ///
    /// # Errors
    /// As [`Self::send`].
    fn send_error(&self, packet: &Packet, quoted: &Quoted, flow: &Flow) -> Result<(), DropReason>;
    /// Calls `f` with the tunnel to the host that has an address of a network: by map `remotes`,
    /// or else by the longest prefix in map `tunnels`.
    fn with_tunnel<R>(&self, network: u16, addr: &Addr, f: impl FnOnce(&Tunnel) -> R) -> Option<R>;
    /// Sends the packet at hand through a tunnel, for a container or (without one) for the host
    /// itself. A container's that is too big is answered by an ICMP error instead.
    ///
    /// # Errors
    /// [`DropReason::RewriteFailed`] or [`DropReason::TooBig`].
    fn send_by_tunnel(
        &self,
        packet: &Packet,
        tunnel: &Tunnel,
        sender: Option<&Veth>,
    ) -> Result<(), DropReason>;
    /// Calls `f` with what the ICMP error at hand quotes, read by [`crate::icmp::read`].
    ///
    /// # Errors
    /// As [`crate::icmp::read`].
    fn quoted<R>(&self, packet: &Packet, f: impl FnOnce(&Quoted) -> R) -> Result<R, DropReason>;
    /// Counts a new flow, and tells of it. `key` and `flow` are its original direction's entry.
    fn flow_begins(&self, key: &Tuple, flow: &Flow);
    /// Tells that a flow is about to be removed. `key` and `flow` are either of its entries.
    fn flow_ends(&self, key: &Tuple, flow: &Flow);
    /// Counts a search for a source port in its bucket; see [`crate::search::Searches`].
    fn count_search(&self, bucket: usize);
    /// Calls `body` up to `times` times, until it says that it has enough. A plain loop
    /// would have the verifier walk through every round.
    fn repeat<R: Repeat>(&self, times: u32, body: &mut R);
    /// Lends memory for making a flow: a BPF stack has 512 bytes in all.
    fn with_scratch<R>(&self, f: impl FnOnce(&mut Scratch) -> R) -> Option<R>;
}

/// The body of a loop.
pub trait Repeat {
    /// One round, numbered from 0; false ends the loop.
    fn step(&mut self, round: u32) -> bool;
}

/// Where a new flow is put together; one a CPU. Its content means nothing between packets.
/// All bytes zero are a valid value, which is how the kernel makes it.
#[repr(C)]
pub struct Scratch {
    /// What is wanted.
    pub opening: Opening,
    /// The entry in the making.
    pub flow: Flow,
}
