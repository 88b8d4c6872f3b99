//! The shared logic over the maps as they are, without changing anything: what the programs
//! would do with a packet. Whatever the logic writes stays in an overlay of its own.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::Hash;

use anyhow::{Context as _, Result};
use aya::Pod;
use aya::maps::{HashMap as BpfHashMap, MapData};
use netpath_common::addr::Addr;
use netpath_common::config::Config;
use netpath_common::endpoint::{Endpoint, EndpointKey, Veth};
use netpath_common::env::{Env, InsertError, Repeat, Route, Scratch, Table};
use netpath_common::flow::Flow;
use netpath_common::fragment::{FragmentKey, FragmentPorts};
use netpath_common::icmp::Quoted;
use netpath_common::link::Receiver;
use netpath_common::network::{HostAddr, Uplink};
use netpath_common::packet::Packet;
use netpath_common::policy::{OpenPort, Policy, Trusted};
use netpath_common::port::{PortKey, PortTarget};
use netpath_common::reason::DropReason;
use netpath_common::socket::{Dialled, SocketPeer, Sockets};
use netpath_common::tunnel::Tunnel;
use netpath_common::tuple::Tuple;

use super::{Datapath, load, sweep, tables};

/// What the logic asked, and what it was told.
#[derive(Clone, Copy, Debug)]
pub enum Asked {
    /// An address: the host's own, on this device.
    HostAddr(Addr, u32),
    /// An address: in a subnet of this network.
    Subnet(Addr, u16),
    /// An address of a network: behind this veth.
    Endpoint(Addr, u32),
    /// A published port.
    Port(PortKey, PortTarget),
    /// The policy of a network, which is not the default.
    Policy(u32, Policy),
    /// A container's port is published at its own address.
    OpenPort(OpenPort),
    /// A network trusts a device.
    Trusted(Trusted),
    /// A connection of an adopted network whose translation is the kernel's.
    KernelFlow(Tuple),
    /// The route to an address.
    Route(Addr, Result<Route, DropReason>),
    /// Whether an endpoint may have one more flow.
    Refused(u32),
    /// A flow was made.
    NewFlow(Tuple, Flow),
    /// The packet was sent by its flow.
    Sent(Tuple, Flow),
    /// An address is on another host.
    Remote(Addr, Tunnel),
}

/// Finds the host's route from an address to another as seen from a device.
pub type RouteOf<'a> = dyn Fn(u32, &Addr, &Addr) -> Result<Route, DropReason> + 'a;

/// The maps as surroundings of one packet.
pub struct Live<'a> {
    datapath: &'a Datapath,
    route: &'a RouteOf<'a>,
    config: Config,
    now: u32,
    flows: Overlay<Tuple, Flow, BpfHashMap<MapData, Tuple, Flow>>,
    fragments: Overlay<FragmentKey, FragmentPorts, Nothing>,
    sock_nat: Overlay<SocketPeer, Dialled, Nothing>,
    scratch: RefCell<Scratch>,
    seed: Cell<u32>,
    asked: RefCell<Vec<Asked>>,
}

impl Datapath {
    /// The maps as they are.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn live<'a>(&'a self, route: &'a RouteOf<'a>) -> Result<Live<'a>> {
        let flows = aya::maps::Map::HashMap(load::pinned(&self.bpffs, "flows")?);
        let now = sweep::seconds_since_boot()?;
        Ok(Live {
            datapath: self,
            route,
            config: self.tables.config()?,
            now,
            flows: Overlay::over(BpfHashMap::try_from(flows).context("cannot read the flows")?),
            fragments: Overlay::over(Nothing),
            sock_nat: Overlay::over(Nothing),
            scratch: RefCell::new(empty_scratch()),
            seed: Cell::new(now.wrapping_mul(2_654_435_761)),
            asked: RefCell::default(),
        })
    }

    /// What a veth's container may send, if it is one of ours.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn veth(&self, ifindex: u32) -> Result<Option<Veth>> {
        self.tables.veths.get(&ifindex)
    }

    /// The network of an address, by the subnets.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn network_of(&self, addr: &Addr) -> Result<Option<u16>> {
        self.tables.network_of(addr)
    }

    /// The ifindex of the device that has an address of the host.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn host_addr(&self, addr: &Addr) -> Result<Option<u32>> {
        Ok(self.tables.host_addrs.get(addr)?.map(|host| host.ifindex))
    }

    /// Where an address of a network is.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn endpoint(&self, network: u16, addr: Addr) -> Result<Option<Endpoint>> {
        self.tables.endpoints.get(&EndpointKey::new(network, addr))
    }

    /// The id of the network whose gateway device this is, and its MAC address.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn network_behind(&self, gateway: u32) -> Result<Option<u16>> {
        Ok(self
            .tables
            .networks
            .get(&gateway)?
            .map(|network| network.id))
    }
}

impl Live<'_> {
    /// What was asked since the last call.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.take()
    }

    /// Whether there is a flow of this key.
    pub fn has_flow(&self, key: &Tuple) -> bool {
        self.flows.contains(key)
    }

    /// Ports of masqueraded flows.
    pub fn snat_ports(&self) -> (u16, u16) {
        (self.config.snat_port_min, self.config.snat_port_max)
    }

    fn note(&self, asked: Asked) {
        self.asked.borrow_mut().push(asked);
    }
}

impl Env for Live<'_> {
    fn flows(&self) -> impl Table<Tuple, Flow> {
        &self.flows
    }

    fn endpoints(&self) -> impl Table<EndpointKey, Endpoint> {
        Told(
            &self.datapath.tables.endpoints,
            |key: &EndpointKey, value: &Endpoint| {
                self.note(Asked::Endpoint(key.addr, value.ifindex));
            },
        )
    }

    fn ports(&self) -> impl Table<PortKey, PortTarget> {
        Told(
            &self.datapath.tables.ports,
            |key: &PortKey, value: &PortTarget| {
                self.note(Asked::Port(*key, *value));
            },
        )
    }

    fn uplinks(&self) -> impl Table<u32, Uplink> {
        Told(&self.datapath.tables.uplinks, |_: &u32, _: &Uplink| {})
    }

    fn host_addrs(&self) -> impl Table<Addr, HostAddr> {
        Told(
            &self.datapath.tables.host_addrs,
            |key: &Addr, value: &HostAddr| {
                self.note(Asked::HostAddr(*key, value.ifindex));
            },
        )
    }

    fn policies(&self) -> impl Table<u32, Policy> {
        Told(
            &self.datapath.tables.policies,
            |network: &u32, policy: &Policy| {
                self.note(Asked::Policy(*network, *policy));
            },
        )
    }

    fn open_ports(&self) -> impl Table<OpenPort, u32> {
        Told(
            &self.datapath.tables.open_ports,
            |key: &OpenPort, _: &u32| {
                self.note(Asked::OpenPort(*key));
            },
        )
    }

    fn trusted(&self) -> impl Table<Trusted, u32> {
        Told(&self.datapath.tables.trusted, |key: &Trusted, _: &u32| {
            self.note(Asked::Trusted(*key));
        })
    }

    fn kernel_flows(&self) -> impl Table<Tuple, u32> {
        Told(
            &self.datapath.tables.kernel_flows,
            |key: &Tuple, _: &u32| {
                self.note(Asked::KernelFlow(*key));
            },
        )
    }

    fn fragments(&self) -> impl Table<FragmentKey, FragmentPorts> {
        &self.fragments
    }

    fn network_of(&self, addr: &Addr) -> Option<u16> {
        let network = self.datapath.network_of(addr).ok().flatten()?;
        self.note(Asked::Subnet(*addr, network));
        Some(network)
    }

    fn generation(&self, slot: u32) -> u32 {
        self.datapath.tables.generation(slot).unwrap_or(0)
    }

    fn charge(&self, slot: u32) -> bool {
        let account = self.datapath.tables.slot(slot);
        let room = account.is_ok_and(|a| a.flows < self.config.max_flows_per_endpoint);
        if !room {
            self.note(Asked::Refused(slot));
        }
        room
    }

    fn refund(&self, _slot: u32) {}

    fn netns_of(&self, ifindex: u32) -> u32 {
        let veth = self.datapath.tables.veths.get(&ifindex);
        veth.ok().flatten().map_or(0, |veth| veth.netns)
    }

    fn receiver(&self, _: u32) -> Option<&Receiver> {
        // The short way ends where the long one does, which is asked about here.
        None
    }

    fn config(&self) -> &Config {
        &self.config
    }

    fn now(&self) -> u32 {
        self.now
    }

    fn random(&self) -> u32 {
        // A linear congruential generator: any port will do to show one.
        let next = self
            .seed
            .get()
            .wrapping_mul(1_664_525)
            .wrapping_add(1_013_904_223);
        self.seed.set(next);
        next
    }

    fn route(
        &self,
        gateway_ifindex: u32,
        src: &Addr,
        dst: &Addr,
        route: &mut Route,
    ) -> Result<(), DropReason> {
        let found = (self.route)(gateway_ifindex, src, dst);
        self.note(Asked::Route(*dst, found));
        *route = found?;
        Ok(())
    }

    fn send(&self, packet: &Packet, flow: &Flow) -> Result<(), DropReason> {
        if packet.ttl <= 1 {
            return Err(DropReason::TtlExpired);
        }
        self.note(Asked::Sent(packet.tuple, *flow));
        Ok(())
    }

    fn send_error(&self, packet: &Packet, _: &Quoted, flow: &Flow) -> Result<(), DropReason> {
        self.send(packet, flow)
    }

    fn with_tunnel<R>(&self, network: u16, addr: &Addr, f: impl FnOnce(&Tunnel) -> R) -> Option<R> {
        let tunnel = self.datapath.tunnel_to(network, addr)?;
        self.note(Asked::Remote(*addr, *tunnel));
        Some(f(tunnel))
    }

    fn send_by_tunnel(&self, _: &Packet, _: &Tunnel, _: Option<&Veth>) -> Result<(), DropReason> {
        // The packet that is asked about is small.
        Ok(())
    }

    fn quoted<R>(&self, _: &Packet, _: impl FnOnce(&Quoted) -> R) -> Result<R, DropReason> {
        // ICMP errors are not asked about.
        Err(DropReason::Malformed)
    }

    fn host_socket(&self, _: &Tuple) -> bool {
        // It decides which of the free ports is taken, and nothing else.
        false
    }

    fn count_search(&self, _: usize) {}

    fn flow_begins(&self, key: &Tuple, flow: &Flow) {
        self.note(Asked::NewFlow(*key, *flow));
    }

    fn flow_ends(&self, _key: &Tuple, _flow: &Flow) {}

    fn repeat<R: Repeat>(&self, times: u32, body: &mut R) {
        for round in 0..times {
            if !body.step(round) {
                break;
            }
        }
    }

    fn with_scratch<R>(&self, f: impl FnOnce(&mut Scratch) -> R) -> Option<R> {
        Some(f(&mut self.scratch.borrow_mut()))
    }
}

impl Sockets for Live<'_> {
    fn ports(&self) -> impl Table<PortKey, PortTarget> {
        Env::ports(self)
    }

    fn host_addrs(&self) -> impl Table<Addr, HostAddr> {
        Env::host_addrs(self)
    }

    fn sock_nat(&self) -> impl Table<SocketPeer, Dialled> {
        &self.sock_nat
    }

    fn cookie(&self) -> u64 {
        // No socket has it.
        0
    }
}

/// Where a table's values come from.
trait Source<K, V> {
    fn read(&self, key: &K) -> Option<V>;
}

/// No entries.
struct Nothing;

impl<K, V> Source<K, V> for Nothing {
    fn read(&self, _: &K) -> Option<V> {
        None
    }
}

impl<K: Pod, V: Pod> Source<K, V> for BpfHashMap<MapData, K, V> {
    fn read(&self, key: &K) -> Option<V> {
        self.get(key, 0).ok()
    }
}

/// A table whose changes stay here.
struct Overlay<K, V, S> {
    source: S,
    /// `None`: removed.
    changed: RefCell<HashMap<K, Option<V>>>,
}

impl<K: Eq + Hash + Copy, V: Copy, S: Source<K, V>> Overlay<K, V, S> {
    fn over(source: S) -> Self {
        Self {
            source,
            changed: RefCell::default(),
        }
    }

    fn value(&self, key: &K) -> Option<V> {
        let changed = self.changed.borrow().get(key).copied();
        changed.unwrap_or_else(|| self.source.read(key))
    }
}

impl<K: Eq + Hash + Copy, V: Copy, S: Source<K, V>> Table<K, V> for Overlay<K, V, S> {
    fn with<R>(&self, key: &K, f: impl FnOnce(&mut V) -> R) -> Option<R> {
        let mut value = self.value(key)?;
        let result = f(&mut value);
        self.changed.borrow_mut().insert(*key, Some(value));
        Some(result)
    }

    fn insert_new(&self, key: &K, value: &V) -> Result<(), InsertError> {
        if self.value(key).is_some() {
            return Err(InsertError::Exists);
        }
        self.replace(key, value)
    }

    fn replace(&self, key: &K, value: &V) -> Result<(), InsertError> {
        self.changed.borrow_mut().insert(*key, Some(*value));
        Ok(())
    }

    fn remove(&self, key: &K) {
        self.changed.borrow_mut().insert(*key, None);
    }
}

/// A table that nobody writes here, and that tells what was found.
struct Told<'a, K, V, F>(&'a tables::Table<K, V>, F);

impl<K: Pod, V: Pod, F: Fn(&K, &V)> Table<K, V> for Told<'_, K, V, F> {
    fn with<R>(&self, key: &K, f: impl FnOnce(&mut V) -> R) -> Option<R> {
        let mut value = self.0.get(key).ok().flatten()?;
        (self.1)(key, &value);
        Some(f(&mut value))
    }

    fn insert_new(&self, _: &K, _: &V) -> Result<(), InsertError> {
        Err(InsertError::Full)
    }

    fn replace(&self, _: &K, _: &V) -> Result<(), InsertError> {
        Err(InsertError::Full)
    }

    fn remove(&self, _: &K) {}
}

/// Room for a flow in the making.
fn empty_scratch() -> Scratch {
    // SAFETY: all bytes zero are a valid value, says its documentation.
    unsafe { core::mem::zeroed() }
}
