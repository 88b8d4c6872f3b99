//! Typed access to the maps.

use std::borrow::Borrow;

use anyhow::{Context as _, Result};
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, MapData, MapError, PerCpuArray, PerCpuHashMap};
use aya::{Ebpf, Pod};
use netpath_common::addr::Addr;
use netpath_common::config::Config;
use netpath_common::counter::{Count, DropKey, HookCounters};
use netpath_common::deny::Denied;
use netpath_common::endpoint::{Endpoint, EndpointKey, Slot, Veth};
use netpath_common::flow::Flow;
use netpath_common::link::{Receiver, Sender, receiver_place, sender_place};
use netpath_common::network::{HostAddr, Network, Uplink};
use netpath_common::policy::{OpenPort, Policy, Trusted};
use netpath_common::port::{PortKey, PortTarget};
use netpath_common::search::Searches;
use netpath_common::socket::{Dialled, Resolver, SocketPeer};
use netpath_common::tunnel::{Prefix, Tunnel, Vni, Vtep, VtepCounts, VtepKey};
use netpath_common::tuple::Tuple;
use netpath_common::underlay::{Card, CardAddr, CardMac, SegmentPlace};

/// All maps that the agent writes or reads.
pub struct Tables {
    pub endpoints: Table<EndpointKey, Endpoint>,
    pub veths: Table<u32, Veth>,
    pub ports: Table<PortKey, PortTarget>,
    pub networks: Table<u32, Network>,
    pub policies: Table<u32, Policy>,
    pub open_ports: Table<OpenPort, u32>,
    pub trusted: Table<Trusted, u32>,
    pub kernel_flows: Table<Tuple, u32>,
    pub uplinks: Table<u32, Uplink>,
    pub host_addrs: Table<Addr, HostAddr>,
    pub resolvers: Table<u64, Resolver>,
    pub cards: Table<u32, Card>,
    pub stacked: Array<MapData, Card>,
    pub card_macs: Table<CardMac, u32>,
    pub card_addrs: Table<CardAddr, u32>,
    pub segments: Table<SegmentPlace, u32>,
    pub counters: PerCpuArray<MapData, HookCounters>,
    pub drops: PerCpuHashMap<MapData, DropKey, Count>,
    pub denied: LpmTrie<MapData, Addr, Denied>,
    pub snat_retries: PerCpuArray<MapData, Searches>,
    pub remotes: Table<EndpointKey, Tunnel>,
    pub tunnels: LpmTrie<MapData, Prefix, Tunnel>,
    pub vteps: Table<VtepKey, Vtep>,
    pub vnis: Table<Vni, u32>,
    pub vtep_counts: PerCpuArray<MapData, VtepCounts>,
    subnets: LpmTrie<MapData, Addr, u16>,
    senders: Array<MapData, Sender>,
    receivers: Array<MapData, Receiver>,
    slots: Array<MapData, Slot>,
    config: Array<MapData, Config>,
}

impl Tables {
    /// Takes the maps out of a loaded object.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self> {
        let mut take = |name: &str| {
            ebpf.take_map(name)
                .with_context(|| format!("the object lacks the map {name}"))
        };
        Ok(Self {
            endpoints: Table(HashMap::try_from(take("endpoints")?)?),
            veths: Table(HashMap::try_from(take("veths")?)?),
            ports: Table(HashMap::try_from(take("ports")?)?),
            networks: Table(HashMap::try_from(take("networks")?)?),
            policies: Table(HashMap::try_from(take("policies")?)?),
            open_ports: Table(HashMap::try_from(take("open_ports")?)?),
            trusted: Table(HashMap::try_from(take("trusted")?)?),
            kernel_flows: Table(HashMap::try_from(take("kernel_flows")?)?),
            uplinks: Table(HashMap::try_from(take("uplinks")?)?),
            host_addrs: Table(HashMap::try_from(take("host_addrs")?)?),
            resolvers: Table(HashMap::try_from(take("resolvers")?)?),
            cards: Table(HashMap::try_from(take("cards")?)?),
            card_macs: Table(HashMap::try_from(take("card_macs")?)?),
            card_addrs: Table(HashMap::try_from(take("card_addrs")?)?),
            segments: Table(HashMap::try_from(take("segments")?)?),
            counters: PerCpuArray::try_from(take("counters")?)?,
            drops: PerCpuHashMap::try_from(take("drops")?)?,
            denied: LpmTrie::try_from(take("denied")?)?,
            snat_retries: PerCpuArray::try_from(take("snat_retries")?)?,
            remotes: Table(HashMap::try_from(take("remotes")?)?),
            tunnels: LpmTrie::try_from(take("tunnels")?)?,
            vteps: Table(HashMap::try_from(take("vteps")?)?),
            vnis: Table(HashMap::try_from(take("vnis")?)?),
            vtep_counts: PerCpuArray::try_from(take("vtep_counts")?)?,
            subnets: LpmTrie::try_from(take("subnets")?)?,
            stacked: Array::try_from(take("stacked")?)?,
            senders: Array::try_from(take("senders")?)?,
            receivers: Array::try_from(take("receivers")?)?,
            slots: Array::try_from(take("slots")?)?,
            config: Array::try_from(take("config")?)?,
        })
    }

    /// Sizes of a map's key and value as this version has them.
    pub fn layout(name: &str) -> Option<(u32, u32)> {
        const fn sizes<K, V>() -> (u32, u32) {
            (size_of::<K>() as u32, size_of::<V>() as u32)
        }
        Some(match name {
            "flows" => sizes::<Tuple, Flow>(),
            "endpoints" => sizes::<EndpointKey, Endpoint>(),
            "veths" => sizes::<u32, Veth>(),
            "ports" => sizes::<PortKey, PortTarget>(),
            "networks" => sizes::<u32, Network>(),
            "policies" => sizes::<u32, Policy>(),
            "open_ports" => sizes::<OpenPort, u32>(),
            "trusted" => sizes::<Trusted, u32>(),
            "kernel_flows" => sizes::<Tuple, u32>(),
            "uplinks" => sizes::<u32, Uplink>(),
            "host_addrs" => sizes::<Addr, HostAddr>(),
            "cards" => sizes::<u32, Card>(),
            "stacked" => sizes::<u32, Card>(),
            "card_macs" => sizes::<CardMac, u32>(),
            "card_addrs" => sizes::<CardAddr, u32>(),
            "segments" => sizes::<SegmentPlace, u32>(),
            "counters" => sizes::<u32, HookCounters>(),
            "drops" => sizes::<DropKey, Count>(),
            "snat_retries" => sizes::<u32, Searches>(),
            "slots" => sizes::<u32, Slot>(),
            "senders" => sizes::<u32, Sender>(),
            "receivers" => sizes::<u32, Receiver>(),
            "sock_nat" => sizes::<SocketPeer, Dialled>(),
            "resolvers" => sizes::<u64, Resolver>(),
            "denied" => sizes::<Key<Addr>, Denied>(),
            "remotes" => sizes::<EndpointKey, Tunnel>(),
            "tunnels" => sizes::<Key<Prefix>, Tunnel>(),
            "vteps" => sizes::<VtepKey, Vtep>(),
            "vnis" => sizes::<Vni, u32>(),
            "vtep_counts" => sizes::<u32, VtepCounts>(),
            "config" => sizes::<u32, Config>(),
            _ => return None,
        })
    }

    /// Writes the configuration.
    pub fn set_config(&mut self, config: &Config) -> Result<()> {
        self.config
            .set(0, config, 0)
            .context("cannot write the configuration")
    }

    /// The configuration in force.
    pub fn config(&self) -> Result<Config> {
        self.config
            .get(&0, 0)
            .context("cannot read the configuration")
    }

    /// Notes the network of a subnet; `bits` counts in the 128-bit form.
    pub fn insert_subnet(&mut self, addr: Addr, bits: u8, network: u16) -> Result<()> {
        self.subnets
            .insert(&Key::new(bits.into(), addr), network, 0)
            .context("cannot add a subnet")
    }

    /// Forgets a subnet.
    pub fn remove_subnet(&mut self, addr: Addr, bits: u8) -> Result<()> {
        absent_is_fine(self.subnets.remove(&Key::new(bits.into(), addr)))
    }

    /// Forgets the subnets of all networks but those for which `keep` says so.
    pub fn retain_subnets(&mut self, keep: impl Fn(u16) -> bool) -> Result<()> {
        let all: Vec<_> = self.subnets.iter().collect::<Result<_, _>>()?;
        for (key, _) in all.into_iter().filter(|(_, network)| !keep(*network)) {
            absent_is_fine(self.subnets.remove(&key))?;
        }
        Ok(())
    }

    /// Opens the short way from and to an endpoint; places of others are taken over.
    pub fn open_link(&mut self, ifindex: u32, veth: &Veth) -> Result<()> {
        let sender = Sender {
            addr4: veth.addr4,
            addr6: veth.addr6,
            link_local: veth.link_local,
            ifindex,
            network: veth.network,
            mac: veth.mac,
            reserved: 0,
        };
        for addr in veth.addrs() {
            let receiver = Receiver {
                addr,
                ifindex,
                network: veth.network,
                reserved: 0,
            };
            let place = receiver_place(veth.network, &addr);
            self.receivers
                .set(place, receiver, 0)
                .context("cannot write a receiver")?;
        }
        self.senders
            .set(sender_place(ifindex), sender, 0)
            .context("cannot write a sender")
    }

    /// Closes the short way from and to an endpoint, as far as its places are still its own.
    pub fn close_link(&mut self, ifindex: u32, veth: &Veth) -> Result<()> {
        let place = sender_place(ifindex);
        if self.senders.get(&place, 0)?.ifindex == ifindex {
            self.senders
                .set(place, Sender::NONE, 0)
                .context("cannot clear a sender")?;
        }
        for addr in veth.addrs() {
            let place = receiver_place(veth.network, &addr);
            if self.receivers.get(&place, 0)?.ifindex == ifindex {
                self.receivers
                    .set(place, Receiver::NONE, 0)
                    .context("cannot clear a receiver")?;
            }
        }
        Ok(())
    }

    /// The network whose subnet has an address.
    pub fn network_of(&self, addr: &Addr) -> Result<Option<u16>> {
        match self.subnets.get(&Key::new(128, *addr), 0) {
            Ok(network) => Ok(Some(network)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error).context("cannot read the subnets"),
        }
    }

    /// The account of an endpoint's slot.
    pub fn slot(&self, slot: u32) -> Result<Slot> {
        Ok(self.slots.get(&slot, 0)?)
    }

    /// The generation of an endpoint's slot.
    pub fn generation(&self, slot: u32) -> Result<u32> {
        Ok(self.slots.get(&slot, 0)?.generation)
    }

    /// Corrects the count of a slot's connections.
    pub fn set_flow_count(&mut self, slot: u32, flows: u32) -> Result<()> {
        let generation = self.generation(slot)?;
        self.slots
            .set(slot, Slot { generation, flows }, 0)
            .context("cannot write a count of flows")
    }

    /// Makes all flows of a slot's endpoint stale, and its account empty.
    pub fn bump_generation(&mut self, slot: u32) -> Result<()> {
        let next = Slot {
            generation: self.generation(slot)?.wrapping_add(1),
            flows: 0,
        };
        self.slots
            .set(slot, next, 0)
            .context("cannot write a generation")
    }
}

/// A hash map.
pub struct Table<K, V>(pub HashMap<MapData, K, V>);

impl<K: Pod, V: Pod> Table<K, V> {
    /// The value of a key.
    pub fn get(&self, key: &K) -> Result<Option<V>> {
        match self.0.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Inserts or overwrites.
    pub fn insert(&mut self, key: impl Borrow<K>, value: impl Borrow<V>) -> Result<()> {
        self.0.insert(key, value, 0).map_err(|error| match &error {
            MapError::SyscallError(e) if e.io_error.raw_os_error() == Some(nix::libc::E2BIG) => {
                anyhow::anyhow!("the BPF map is full")
            }
            _ => anyhow::Error::new(error).context("cannot write to the BPF map"),
        })
    }

    /// Removes a key; a missing one is fine.
    pub fn remove(&mut self, key: &K) -> Result<()> {
        absent_is_fine(self.0.remove(key))
    }

    /// All entries. The walk may begin anew when somebody removes the entry it stands on.
    pub fn iter(&self) -> Result<impl Iterator<Item = (K, V)>> {
        Ok(self.0.iter().collect::<Result<Vec<_>, _>>()?.into_iter())
    }

    /// All keys.
    pub fn keys(&self) -> Result<Vec<K>> {
        Ok(self.0.keys().collect::<Result<_, _>>()?)
    }

    /// Removes the keys for which `keep` is false. Keys are collected first: removing the
    /// key that a walk stands on sends it back to the beginning.
    pub fn retain(&mut self, keep: impl Fn(&K) -> bool) -> Result<()> {
        for key in self.keys()?.into_iter().filter(|key| !keep(key)) {
            self.remove(&key)?;
        }
        Ok(())
    }

    /// Removes the entries for whose values `keep` is false.
    pub fn retain_values(&mut self, keep: impl Fn(&V) -> bool) -> Result<()> {
        let unwanted: Vec<K> = self
            .iter()?
            .filter(|(_, v)| !keep(v))
            .map(|(key, _)| key)
            .collect();
        for key in unwanted {
            self.remove(&key)?;
        }
        Ok(())
    }
}

pub(super) fn absent_is_fine(result: Result<(), MapError>) -> Result<()> {
    match result {
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(nix::libc::ENOENT) =>
        {
            Ok(())
        }
        Err(MapError::KeyNotFound) => Ok(()),
        other => other.context("cannot remove from the BPF map"),
    }
}
