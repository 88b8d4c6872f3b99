//! Tunnels to other hosts: maps `remotes`, `tunnels`, `vteps` and `vnis`.
//!
//! What is in the maps is known here as well, so that a network of thousands of tunnels costs
//! no more than what changed of it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use aya::maps::PerCpuValues;
use aya::maps::lpm_trie::Key;
use aya::util::nr_cpus;
use ipnet::IpNet;
use netpath_common::addr::{Addr, Mac};
use netpath_common::config::TunnelPort;
use netpath_common::counter::Count;
use netpath_common::endpoint::EndpointKey;
use netpath_common::policy::{ICC_OFF, INTERNAL};
use netpath_common::tunnel::{MAX_VTEPS, Prefix, ROUTED, Tunnel, Vni, Vtep, VtepCounts, VtepKey};

use super::tables::Tables;
use super::{Datapath, Hook, attach, prefix};

/// VXLAN's port, and the one that the kernel had before there was one; flannel has it still.
const USUAL_PORTS: [u16; 2] = [4789, 8472];

/// A network that reaches across hosts.
#[derive(Clone, Debug)]
pub struct OverlaySpec {
    /// The network's id.
    pub network: u16,
    /// Its gateway device.
    pub gateway_ifindex: u32,
    /// MAC address of the gateway device.
    pub gateway_mac: [u8; 6],
    /// Flags of its policy.
    pub flags: u8,
    /// Its own number.
    pub vni: u32,
    /// Its own VXLAN device.
    pub ifindex: u32,
    /// Where the addresses of other hosts are.
    pub tunnels: Vec<TunnelSpec>,
}

/// A tunnel to the host that has some addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelSpec {
    /// The addresses: a container's own, which is then a neighbour on the link; or a subnet, for
    /// which the other host is a router.
    pub destination: IpNet,
    /// The other host's address in the underlay.
    pub vtep: IpAddr,
    /// The network's number there.
    pub vni: u32,
    /// The VXLAN device to leave by.
    pub ifindex: u32,
    /// The container's MAC address, or the router's.
    pub mac: [u8; 6],
    /// MAC address of the VXLAN device.
    pub own_mac: [u8; 6],
    /// This host's address towards it, if that is known.
    pub local: Option<IpAddr>,
    /// The UDP port there.
    pub port: u16,
    /// Largest IP packet in bytes that fits through.
    pub mtu: u16,
}

/// A host that takes part in a network, with what went there and came from there.
#[derive(Clone, Debug)]
pub struct VtepRow {
    /// The network's id.
    pub network: u16,
    /// Its address in the underlay.
    pub vtep: IpAddr,
    /// The network's number there.
    pub vni: u32,
    /// The VXLAN device.
    pub ifindex: u32,
    /// What is reached there, with its MAC address.
    pub destinations: Vec<(IpNet, [u8; 6])>,
    /// Sent there.
    pub sent: Count,
    /// Received from there.
    pub received: Count,
}

/// What is in the maps.
#[derive(Default)]
pub(super) struct Known {
    remotes: HashMap<EndpointKey, Tunnel>,
    /// By network, prefix and bits in the 128-bit form.
    tunnels: HashMap<(u16, Addr, u8), Tunnel>,
    vteps: HashMap<VtepKey, Vtep>,
    vnis: HashMap<Vni, u32>,
}

impl Known {
    /// Reads the maps.
    pub(super) fn read(tables: &Tables) -> Result<Self> {
        let mut known = Self {
            remotes: tables.remotes.iter()?.collect(),
            vteps: tables.vteps.iter()?.collect(),
            vnis: tables.vnis.iter()?.collect(),
            ..Self::default()
        };
        for entry in tables.tunnels.iter() {
            let (key, tunnel) = entry.context("cannot read the tunnels")?;
            let Prefix { network, addr, .. } = key.data();
            let bits = key.prefix_len().saturating_sub(Prefix::NETWORK_BITS);
            if let (Ok(network), Ok(bits)) = (u16::try_from(network), u8::try_from(bits)) {
                known.tunnels.insert((network, addr, bits), tunnel);
            }
        }
        Ok(known)
    }
}

impl Datapath {
    /// Attaches the overlay program to a VXLAN device. Attaching twice is fine.
    ///
    /// # Errors
    /// If there is no such device.
    pub fn attach_overlay(&mut self, ifindex: u32) -> Result<()> {
        attach::attach(&mut self.programs, &self.bpffs, Hook::Overlay, ifindex)
    }

    /// Detaches the overlay program.
    ///
    /// # Errors
    /// If the kernel refuses; a device that is gone is fine.
    pub fn detach_overlay(&mut self, ifindex: u32) -> Result<()> {
        attach::detach(&self.bpffs, Hook::Overlay, ifindex)
    }

    /// Sets the VXLAN devices, by port. The usual ports are known to the uplinks' programs.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_tunnel_ports(&mut self, ports: &[(u16, u32)]) -> Result<()> {
        let mut config = self.tables.config()?;
        let of = |wanted: u16| {
            let found = ports.iter().find(|(port, _)| *port == wanted);
            found.map_or(TunnelPort::NONE, |(port, ifindex)| TunnelPort {
                ifindex: *ifindex,
                port: *port,
                reserved: 0,
            })
        };
        config.tunnels = USUAL_PORTS.map(of);
        self.tables.set_config(&config)
    }

    /// Sets the tunnels of a network. With `exact` those that are not named are removed; else
    /// they stay until somebody who knows them says so.
    ///
    /// # Errors
    /// If the host knows too many VTEPs, or a map is full.
    pub fn set_tunnels(&mut self, spec: &OverlaySpec, exact: bool) -> Result<()> {
        let mut vteps = HashMap::new();
        let mut free = self.free_places().into_iter();
        for tunnel in &spec.tunnels {
            let key = vtep_key(tunnel);
            if let Some(other) = self.tunnels.vteps.get(&key)
                && other.network != spec.network
            {
                bail!(
                    "VNI {} of {} belongs to another network",
                    tunnel.vni,
                    tunnel.vtep
                );
            }
            if let Entry::Vacant(entry) = vteps.entry(key) {
                let place = match self.tunnels.vteps.get(&key) {
                    Some(known) => known.place,
                    None => free
                        .next()
                        .with_context(|| format!("this host knows {MAX_VTEPS} VTEPs already"))?,
                };
                entry.insert(vtep_record(spec, place));
            }
        }
        let (mut remotes, mut tunnels) = (HashMap::new(), HashMap::new());
        for tunnel in &spec.tunnels {
            let Some(vtep) = vteps.get(&vtep_key(tunnel)) else {
                continue;
            };
            let (addr, bits) = prefix(tunnel.destination);
            let record = tunnel_record(tunnel, vtep.place, spec.gateway_ifindex);
            if bits == 128 {
                remotes.insert(EndpointKey::new(spec.network, addr), record);
            } else {
                tunnels.insert((spec.network, addr, bits), record);
            }
        }
        let mut vnis: HashSet<Vni> = vteps.keys().map(vni_of).collect();
        vnis.insert(Vni {
            vni: spec.vni,
            ifindex: spec.ifindex,
        });
        // What is told of a VTEP comes before what leads there, and goes after it.
        for vni in &vnis {
            self.insert_vni(*vni, spec.network)?;
        }
        for (key, vtep) in &vteps {
            self.insert_vtep(*key, *vtep)?;
        }
        for (key, tunnel) in &remotes {
            if self.tunnels.remotes.get(key) != Some(tunnel) {
                self.tables.remotes.insert(key, tunnel)?;
                self.tunnels.remotes.insert(*key, *tunnel);
            }
        }
        for (key, tunnel) in &tunnels {
            if self.tunnels.tunnels.get(key) != Some(tunnel) {
                self.tables
                    .tunnels
                    .insert(&lpm_key(*key), tunnel, 0)
                    .context("cannot add a tunnel")?;
                self.tunnels.tunnels.insert(*key, *tunnel);
            }
        }
        if exact {
            let network = spec.network;
            self.retain_tunnels(
                |key| key.network != network || remotes.contains_key(key),
                |key| key.0 != network || tunnels.contains_key(key),
                |key, vtep| vtep.network != network || vteps.contains_key(key),
                |key, id| id != u32::from(network) || vnis.contains(key),
            )?;
        }
        Ok(())
    }

    /// Removes all tunnels of a network.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove_tunnels(&mut self, network: u16) -> Result<()> {
        self.retain_tunnels_of(|id| id != network)
    }

    /// Removes the tunnels of all networks but those for which `keep` says so.
    pub(super) fn retain_tunnels_of(&mut self, keep: impl Fn(u16) -> bool) -> Result<()> {
        self.retain_tunnels(
            |key| keep(key.network),
            |key| keep(key.0),
            |_, vtep| keep(vtep.network),
            |_, id| u16::try_from(id).is_ok_and(&keep),
        )
    }

    fn retain_tunnels(
        &mut self,
        remote: impl Fn(&EndpointKey) -> bool,
        tunnel: impl Fn(&(u16, Addr, u8)) -> bool,
        vtep: impl Fn(&VtepKey, &Vtep) -> bool,
        vni: impl Fn(&Vni, u32) -> bool,
    ) -> Result<()> {
        let known = &mut self.tunnels;
        let gone = |key: &&EndpointKey| !remote(key);
        let gone: Vec<EndpointKey> = known.remotes.keys().filter(gone).copied().collect();
        for key in gone {
            self.tables.remotes.remove(&key)?;
            known.remotes.remove(&key);
        }
        let gone = |key: &&(u16, Addr, u8)| !tunnel(key);
        let gone: Vec<_> = known.tunnels.keys().filter(gone).copied().collect();
        for key in gone {
            super::tables::absent_is_fine(self.tables.tunnels.remove(&lpm_key(key)))?;
            known.tunnels.remove(&key);
        }
        let gone = known.vteps.iter().filter(|(key, value)| !vtep(key, value));
        let gone: Vec<VtepKey> = gone.map(|(key, _)| *key).collect();
        for key in gone {
            self.tables.vteps.remove(&key)?;
            known.vteps.remove(&key);
        }
        let gone = known.vnis.iter().filter(|(key, id)| !vni(key, **id));
        let gone: Vec<Vni> = gone.map(|(key, _)| *key).collect();
        for key in gone {
            self.tables.vnis.remove(&key)?;
            known.vnis.remove(&key);
        }
        Ok(())
    }

    fn insert_vni(&mut self, vni: Vni, network: u16) -> Result<()> {
        let id = u32::from(network);
        if self.tunnels.vnis.get(&vni) != Some(&id) {
            self.tables.vnis.insert(vni, id)?;
            self.tunnels.vnis.insert(vni, id);
        }
        Ok(())
    }

    fn insert_vtep(&mut self, key: VtepKey, vtep: Vtep) -> Result<()> {
        match self.tunnels.vteps.get(&key) {
            Some(known) if *known == vtep => return Ok(()),
            Some(_) => {}
            // Its place may have been another's.
            None => {
                let cpus = nr_cpus().map_err(|(_, error)| error)?;
                let zero = PerCpuValues::try_from(vec![VtepCounts::default(); cpus])?;
                self.tables
                    .vtep_counts
                    .set(vtep.place, zero, 0)
                    .context("cannot clear the counters of a VTEP")?;
            }
        }
        self.tables.vteps.insert(key, vtep)?;
        self.tunnels.vteps.insert(key, vtep);
        Ok(())
    }

    /// Places in the counters that no VTEP has, the lowest first.
    fn free_places(&self) -> Vec<u32> {
        let taken: HashSet<u32> = self.tunnels.vteps.values().map(|v| v.place).collect();
        (0..MAX_VTEPS)
            .filter(|place| !taken.contains(place))
            .collect()
    }

    /// All VTEPs with what went there and came from there.
    ///
    /// # Errors
    /// If the counters cannot be read.
    pub fn vteps(&self) -> Result<Vec<VtepRow>> {
        let mut destinations: HashMap<u32, Vec<(IpNet, [u8; 6])>> = HashMap::new();
        let remotes = self.tunnels.remotes.iter();
        let remotes = remotes.map(|(key, tunnel)| (key.addr, 128, tunnel));
        let tunnels = self.tunnels.tunnels.iter();
        let tunnels = tunnels.map(|((_, addr, bits), tunnel)| (*addr, *bits, tunnel));
        for (addr, bits, tunnel) in remotes.chain(tunnels) {
            let of_place = destinations.entry(tunnel.place).or_default();
            of_place.extend(subnet(addr, bits).map(|net| (net, tunnel.mac.octets)));
        }
        let mut rows = Vec::new();
        for (key, vtep) in &self.tunnels.vteps {
            let mut destinations = destinations.remove(&vtep.place).unwrap_or_default();
            destinations.sort_unstable();
            let mut row = VtepRow {
                network: vtep.network,
                vtep: key.addr.to_ip(),
                vni: key.vni,
                ifindex: key.ifindex,
                destinations,
                sent: Count::default(),
                received: Count::default(),
            };
            for cpu in self.tables.vtep_counts.get(&vtep.place, 0)?.iter() {
                add(&mut row.sent, &cpu.sent);
                add(&mut row.received, &cpu.received);
            }
            rows.push(row);
        }
        rows.sort_by_key(|row| (row.network, row.vtep, row.vni, row.ifindex));
        Ok(rows)
    }

    /// The tunnel to an address of a network.
    pub(super) fn tunnel_to(&self, network: u16, addr: &Addr) -> Option<&Tunnel> {
        let exact = self.tunnels.remotes.get(&EndpointKey::new(network, *addr));
        exact.or_else(|| {
            let all = self.tunnels.tunnels.iter();
            let matching = all.filter(|((of, prefix, bits), _)| {
                *of == network && prefix.same_prefix(addr, *bits)
            });
            let longest = matching.max_by_key(|((_, _, bits), _)| *bits);
            longest.map(|(_, tunnel)| tunnel)
        })
    }
}

fn add(sum: &mut Count, more: &Count) {
    sum.packets += more.packets;
    sum.bytes += more.bytes;
}

fn vtep_key(tunnel: &TunnelSpec) -> VtepKey {
    VtepKey {
        addr: tunnel.vtep.into(),
        vni: tunnel.vni,
        ifindex: tunnel.ifindex,
    }
}

fn vni_of(key: &VtepKey) -> Vni {
    Vni {
        vni: key.vni,
        ifindex: key.ifindex,
    }
}

fn vtep_record(spec: &OverlaySpec, place: u32) -> Vtep {
    Vtep {
        place,
        gateway_ifindex: spec.gateway_ifindex,
        network: spec.network,
        gateway_mac: Mac::new(spec.gateway_mac),
        flags: spec.flags & (INTERNAL | ICC_OFF),
        reserved: [0; 7],
    }
}

fn tunnel_record(tunnel: &TunnelSpec, place: u32, gateway_ifindex: u32) -> Tunnel {
    let (_, bits) = prefix(tunnel.destination);
    // Over IPv6 the outer header has a checksum, which the device computes.
    let local = tunnel.local.filter(|_| tunnel.vtep.is_ipv4());
    Tunnel {
        vtep: tunnel.vtep.into(),
        local: local.map_or(Addr::UNSPECIFIED, Into::into),
        gateway_ifindex,
        port: tunnel.port,
        vni: tunnel.vni,
        ifindex: tunnel.ifindex,
        place,
        mac: Mac::new(tunnel.mac),
        own_mac: Mac::new(tunnel.own_mac),
        mtu: tunnel.mtu,
        flags: if bits == 128 { 0 } else { ROUTED },
        reserved: [0; 7],
    }
}

fn lpm_key((network, addr, bits): (u16, Addr, u8)) -> Key<Prefix> {
    let bits = Prefix::NETWORK_BITS + u32::from(bits);
    Key::new(bits, Prefix::new(network, addr))
}

/// A subnet from its 128-bit form.
fn subnet(addr: Addr, bits: u8) -> Option<IpNet> {
    let bits = if addr.is_v4() {
        bits.checked_sub(super::MAPPED_BITS)?
    } else {
        bits
    };
    IpNet::new(addr.to_ip(), bits).ok()
}
