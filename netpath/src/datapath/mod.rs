//! The datapath as the control plane sees it: load or adopt, attach, fill, read, clean.
//!
//! * [`load`]: the object, its maps and pins
//! * [`adopted`]: networks whose owner is somebody else, like Docker
//! * [`attach`]: programs and devices (the only place that knows how); [`cgroup`]: programs
//!   and sockets; [`link`]: the pinned links of both
//! * [`tables`]: typed access to the maps; [`batch`]: reading a large one quickly
//! * [`gate`]: XDP on uplinks, and the sources that it denies
//! * [`events`]: what the programs tell; [`live`]: the shared logic over the maps as they are
//! * [`rows`]: what is shown to people and programs
//! * [`stages`]: programs that go on in others
//! * [`sweep`]: removal of idle flows
//! * [`tunnels`]: other hosts
//! * [`underlay`]: containers on the wire of a device of the host
//!
//! Everything that must outlive the agent is pinned under one folder of a bpffs: maps by
//! their names, links under `links/`. An agent that starts finds them there and goes on.

mod adopted;
mod attach;
mod batch;
pub mod cgroup;
pub mod events;
pub mod gate;
mod link;
pub mod live;
mod load;
pub mod rows;
mod spec;
mod stages;
mod sweep;
mod tables;
pub mod tunnels;
mod underlay;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::MapData;
use netpath_common::addr::{Addr, Mac};
use netpath_common::config::Config;
use netpath_common::endpoint::{Endpoint, EndpointKey, MAX_ENDPOINTS, Veth};
use netpath_common::network::{HostAddr, Network, Uplink};
use netpath_common::policy::{ADOPTED, ICC_OFF, INTERNAL, OVERLAY, OpenPort, Trusted};
use netpath_common::port::{PortKey, PortTarget};
use netpath_common::socket::Resolver;

pub use attach::Hook;
pub use load::{OBJECT, Programs, purge};
pub use spec::{DatapathOptions, EndpointSpec, NetworkSpec, OpenPortSpec, PortSpec};
pub use sweep::SweepReport;
pub use underlay::CardSpec;

use tables::Tables;

/// The loaded programs and their maps.
pub struct Datapath {
    programs: Programs,
    tables: Tables,
    bpffs: PathBuf,
    /// The slot of each endpoint, by ifindex of its veth.
    slots: HashMap<u32, u32>,
    /// What is in map `ports`, with the slot of its endpoint.
    ports: HashMap<PortKey, u32>,
    /// What is in the maps of tunnels.
    tunnels: tunnels::Known,
}

/// What is to stay when an agent takes over; see [`Datapath::retain`].
#[derive(Clone, Debug, Default)]
pub struct Keep {
    /// Uplinks by ifindex.
    pub uplinks: Vec<u32>,
    /// Gateway devices by ifindex.
    pub gateways: Vec<u32>,
    /// Host-side veths by ifindex.
    pub veths: Vec<u32>,
    /// VXLAN devices by ifindex.
    pub overlays: Vec<u32>,
    /// Devices whose wire containers share, by ifindex.
    pub parents: Vec<u32>,
    /// Host-side veths on such wires, by ifindex.
    pub cards: Vec<u32>,
    /// Published ports.
    pub ports: Vec<PortSpec>,
    /// Ports that are reached by containers' own addresses.
    pub open_ports: Vec<OpenPortSpec>,
    /// Ids of adopted networks; their veths and ports are among the others.
    pub adopted: Vec<u16>,
}

/// Bits that an IPv4 prefix has more in the mapped form.
const MAPPED_BITS: u8 = 96;

impl Datapath {
    /// Loads the programs. Maps that are pinned already are taken over with their content,
    /// and so are attached links, by [`Self::add_endpoint`] and its like.
    ///
    /// # Errors
    /// If the folder is not on a bpffs, the kernel refuses a program, or pinned maps have
    /// another layout. Nothing is left behind that was not there before.
    pub fn open(options: &DatapathOptions) -> Result<Self> {
        let (programs, tables) = load::open(options)?;
        let slots = tables
            .veths
            .iter()?
            .map(|(ifindex, veth)| (ifindex, veth.slot))
            .collect();
        let ports = tables
            .ports
            .iter()?
            .map(|(key, target)| (key, target.slot))
            .collect();
        let tunnels = tunnels::Known::read(&tables)?;
        Ok(Self {
            programs,
            tables,
            bpffs: options.bpffs.clone(),
            slots,
            ports,
            tunnels,
        })
    }

    /// The folder of the pins.
    pub fn pins(&self) -> &Path {
        &self.bpffs
    }

    /// The programs, for tests and measurements that run them by hand.
    pub fn programs(&mut self) -> &mut Programs {
        &mut self.programs
    }

    /// Attaches the uplink program to a device. Attaching twice is fine.
    ///
    /// # Errors
    /// If there is no such device.
    pub fn attach_uplink(&mut self, ifindex: u32) -> Result<()> {
        if self.tables.uplinks.get(&ifindex)?.is_none() {
            let none = Uplink {
                addr4: Addr::UNSPECIFIED,
                addr6: Addr::UNSPECIFIED,
            };
            self.tables.uplinks.insert(ifindex, none)?;
        }
        attach::attach(&mut self.programs, &self.bpffs, Hook::Uplink, ifindex)
    }

    /// Detaches the uplink program.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn detach_uplink(&mut self, ifindex: u32) -> Result<()> {
        attach::detach(&self.bpffs, Hook::Uplink, ifindex)?;
        self.shut_gate(ifindex)?;
        self.tables.uplinks.remove(&ifindex)
    }

    /// Lets the host's own processes reach published ports: attaches the programs for sockets
    /// to a control group. Attaching twice is fine.
    ///
    /// # Errors
    /// If the folder is no control group, or the kernel has no such programs.
    pub fn attach_sockets(&mut self, cgroup: &Path) -> Result<()> {
        cgroup::attach(&mut self.programs, &self.bpffs, cgroup)
    }

    /// Sets the addresses that masqueraded packets carry on an uplink.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_uplink_addrs(
        &mut self,
        ifindex: u32,
        v4: Option<Ipv4Addr>,
        v6: Option<Ipv6Addr>,
    ) -> Result<()> {
        let uplink = Uplink {
            addr4: optional(v4),
            addr6: optional(v6),
        };
        self.tables.uplinks.insert(ifindex, uplink)
    }

    /// Makes the given addresses, each with the ifindex of its device, the host's own.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_host_addrs(&mut self, addrs: &[(IpAddr, u32)]) -> Result<()> {
        let wanted: HashMap<Addr, HostAddr> = addrs
            .iter()
            .map(|&(ip, ifindex)| (Addr::from(ip), HostAddr { ifindex }))
            .collect();
        for (addr, host) in &wanted {
            self.tables.host_addrs.insert(addr, host)?;
        }
        self.tables
            .host_addrs
            .retain(|addr| wanted.contains_key(addr))
    }

    /// Adds a network, or takes it over: its gateway device and its subnets.
    ///
    /// # Errors
    /// If the device is missing or the kernel refuses.
    pub fn add_network(&mut self, network: &NetworkSpec) -> Result<()> {
        let record = Network {
            id: network.id,
            mac: Mac::new(network.gateway_mac),
        };
        self.tables
            .networks
            .insert(network.gateway_ifindex, record)?;
        // Before the subnets, which open the way to it.
        self.tables
            .policies
            .insert(u32::from(network.id), network.policy)?;
        for subnet in &network.subnets {
            let (addr, bits) = prefix(*subnet);
            self.tables.insert_subnet(addr, bits, network.id)?;
        }
        attach::attach(
            &mut self.programs,
            &self.bpffs,
            Hook::Gateway,
            network.gateway_ifindex,
        )
    }

    /// Removes a network.
    ///
    /// # Errors
    /// If the kernel refuses; what is gone already is fine.
    pub fn remove_network(&mut self, network: &NetworkSpec) -> Result<()> {
        for subnet in &network.subnets {
            let (addr, bits) = prefix(*subnet);
            self.tables.remove_subnet(addr, bits)?;
        }
        self.tables.networks.remove(&network.gateway_ifindex)?;
        self.tables.policies.remove(&u32::from(network.id))?;
        let id = network.id;
        self.tables.trusted.retain(|key| key.network != id)?;
        self.remove_tunnels(id)?;
        attach::detach(&self.bpffs, Hook::Gateway, network.gateway_ifindex)
    }

    /// Attaches the container program to a veth that has no endpoint yet; its packets are
    /// dropped. [`Self::add_endpoint`] is faster then.
    ///
    /// # Errors
    /// If the device is missing or the kernel refuses.
    pub fn prepare_endpoint(&mut self, ifindex: u32) -> Result<()> {
        attach::attach(&mut self.programs, &self.bpffs, Hook::Container, ifindex)
    }

    /// Adds an endpoint, or takes it over.
    ///
    /// # Errors
    /// If the device is missing, the host has [`MAX_ENDPOINTS`] already, or the kernel refuses.
    pub fn add_endpoint(&mut self, spec: &EndpointSpec) -> Result<()> {
        let slot = match self.slots.get(&spec.ifindex) {
            Some(&slot) => slot,
            None => self.free_slot()?,
        };
        let endpoint = Endpoint {
            ifindex: spec.ifindex,
            slot,
            gateway_ifindex: spec.gateway_ifindex,
            mac: Mac::new(spec.mac),
            gateway_mac: Mac::new(spec.gateway_mac),
        };
        let veth = veth_record(spec, slot);
        self.slots.insert(spec.ifindex, slot);
        self.tables.veths.insert(spec.ifindex, veth)?;
        for addr in veth.addrs() {
            self.tables
                .endpoints
                .insert(EndpointKey::new(spec.network, addr), endpoint)?;
        }
        // The short way asks no questions.
        if veth.flags & ICC_OFF == 0 {
            self.tables.open_link(spec.ifindex, &veth)?;
        } else {
            self.tables.close_link(spec.ifindex, &veth)?;
        }
        let attached = attach::attach(
            &mut self.programs,
            &self.bpffs,
            Hook::Container,
            spec.ifindex,
        );
        if attached.is_err() {
            self.remove_endpoint(spec.ifindex)?;
        }
        attached
    }

    /// Notes in which network namespace a container's interface is, by its inode number. Without
    /// an endpoint there is nothing to note.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_netns(&mut self, ifindex: u32, netns: u32) -> Result<()> {
        match self.tables.veths.get(&ifindex)? {
            Some(veth) => self.tables.veths.insert(ifindex, Veth { netns, ..veth }),
            None => Ok(()),
        }
    }

    /// Removes an endpoint and its published ports. Its flows die at once: their slot gets
    /// a new generation.
    ///
    /// # Errors
    /// If the kernel refuses; what is gone already is fine.
    pub fn remove_endpoint(&mut self, ifindex: u32) -> Result<()> {
        let slot = self.slots.remove(&ifindex);
        if let Some(slot) = slot {
            // The map itself would have to be read as a whole, whoever's ports are in it.
            let own = self.ports.iter().filter(|(_, owner)| **owner == slot);
            let keys: Vec<PortKey> = own.map(|(key, _)| *key).collect();
            self.unpublish_keys(&keys)?;
            self.tables
                .open_ports
                .retain_values(|owner| *owner != slot)?;
            self.tables.bump_generation(slot)?;
        }
        if let Some(veth) = self.tables.veths.get(&ifindex)? {
            // What it sends is dropped from when its record is gone; an adopted container goes
            // on without us.
            if veth.is_adopted() {
                attach::detach(&self.bpffs, Hook::Container, ifindex)?;
            }
            self.tables.close_link(ifindex, &veth)?;
            for addr in veth.addrs() {
                let key = EndpointKey::new(veth.network, addr);
                // The address may have a new owner already.
                if self
                    .tables
                    .endpoints
                    .get(&key)?
                    .is_some_and(|e| e.ifindex == ifindex)
                {
                    self.tables.endpoints.remove(&key)?;
                }
            }
        }
        self.tables.veths.remove(&ifindex)?;
        attach::detach(&self.bpffs, Hook::Container, ifindex)
    }

    /// Publishes ports of one endpoint or several; a thousand cost hardly more than one.
    ///
    /// # Errors
    /// If an endpoint is unknown or the families of addresses differ, none is published; if
    /// the map is full, some may be.
    pub fn publish(&mut self, ports: &[PortSpec]) -> Result<()> {
        let mut veths = HashMap::new();
        let mut entries = Vec::with_capacity(ports.len());
        for port in ports {
            ensure!(
                port.host_ip.is_ipv4() == port.container_ip.is_ipv4(),
                "cannot publish {} at {}: the families of the addresses differ",
                port.container_ip,
                port.host_ip
            );
            let ifindex = port.endpoint_ifindex;
            let veth: Veth = match veths.get(&ifindex) {
                Some(veth) => *veth,
                None => {
                    let veth = self.tables.veths.get(&ifindex)?;
                    let veth =
                        veth.with_context(|| format!("no endpoint behind device {ifindex}"))?;
                    veths.insert(ifindex, veth);
                    veth
                }
            };
            let target = PortTarget {
                addr: port.container_ip.into(),
                port: port.container_port,
                network: veth.network,
                slot: veth.slot,
            };
            entries.push((port_key(port), target));
        }
        let owners = entries.iter().map(|(key, target)| (*key, target.slot));
        self.ports.extend(owners);
        batch::write(self.ports_map()?.fd().as_fd(), &entries)
    }

    /// Takes published ports back.
    ///
    /// # Errors
    /// If the kernel refuses; what is gone already is fine.
    pub fn unpublish(&mut self, ports: &[PortSpec]) -> Result<()> {
        let keys: Vec<PortKey> = ports.iter().map(port_key).collect();
        self.unpublish_keys(&keys)
    }

    fn unpublish_keys(&mut self, keys: &[PortKey]) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        batch::remove(self.ports_map()?.fd().as_fd(), keys)?;
        for key in keys {
            self.ports.remove(key);
        }
        Ok(())
    }

    /// Map `ports` for batches: aya does not lend the descriptor of a typed map.
    fn ports_map(&self) -> Result<MapData> {
        load::pinned(&self.bpffs, "ports")
    }

    /// Opens a port of an endpoint to those who reach the container by its own address, as far
    /// as its network's policy lets them.
    ///
    /// # Errors
    /// If the endpoint is unknown.
    pub fn open_port(&mut self, port: &OpenPortSpec) -> Result<()> {
        let slot = self
            .slots
            .get(&port.endpoint_ifindex)
            .with_context(|| format!("no endpoint behind device {}", port.endpoint_ifindex))?;
        self.tables.open_ports.insert(open_key(port), slot)
    }

    /// Closes such a port.
    ///
    /// # Errors
    /// If the kernel refuses; what is closed already is fine.
    pub fn close_port(&mut self, port: &OpenPortSpec) -> Result<()> {
        self.tables.open_ports.remove(&open_key(port))
    }

    /// Sets the devices from which published ports are reached by the containers' own
    /// addresses: pairs of network id and ifindex.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_trusted(&mut self, pairs: &[(u16, u32)]) -> Result<()> {
        let wanted: HashSet<Trusted> = pairs
            .iter()
            .map(|&(network, ifindex)| Trusted::new(network, ifindex))
            .collect();
        for key in &wanted {
            self.tables.trusted.insert(key, 1)?;
        }
        self.tables.trusted.retain(|key| wanted.contains(key))
    }

    /// Says at which port of 127.0.0.11 the server for names listens in the network namespace
    /// with this cookie; whoever dials port 53 there comes to it.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_resolver(&mut self, netns: u64, port: u16) -> Result<()> {
        let resolver = Resolver {
            port,
            reserved: [0; 6],
        };
        self.tables.resolvers.insert(netns, resolver)
    }

    /// Leaves port 53 alone again in all namespaces but those for which `keep` says so.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn retain_resolvers(&mut self, keep: impl Fn(u64) -> bool) -> Result<()> {
        self.tables.resolvers.retain(|netns| keep(*netns))
    }

    /// Leaves port 53 alone again in a namespace; if it is so already, that is fine.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove_resolver(&mut self, netns: u64) -> Result<()> {
        self.tables.resolvers.remove(&netns)
    }

    /// Removes all that an earlier agent left and nobody owns any more.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn retain(&mut self, keep: &Keep) -> Result<()> {
        let ports: HashSet<PortKey> = keep.ports.iter().map(port_key).collect();
        let foreign = self.ports.keys().filter(|key| !ports.contains(key));
        let foreign: Vec<PortKey> = foreign.copied().collect();
        self.unpublish_keys(&foreign)?;
        let open: HashSet<OpenPort> = keep.open_ports.iter().map(open_key).collect();
        self.tables.open_ports.retain(|key| open.contains(key))?;
        let veths: Vec<u32> = self.tables.veths.keys()?;
        for ifindex in veths.into_iter().filter(|i| !keep.veths.contains(i)) {
            self.remove_endpoint(ifindex)?;
        }
        self.retain_cards(&keep.cards)?;
        let owned: HashSet<u32> = self.slots.values().copied().collect();
        self.tables
            .endpoints
            .retain_values(|endpoint| owned.contains(&endpoint.slot))?;
        self.tables
            .uplinks
            .retain(|ifindex| keep.uplinks.contains(ifindex))?;
        self.tables
            .networks
            .retain(|ifindex| keep.gateways.contains(ifindex))?;
        let networks: HashSet<u16> = self
            .tables
            .networks
            .iter()?
            .map(|(_, network)| network.id)
            .chain(keep.adopted.iter().copied())
            .collect();
        self.tables
            .policies
            .retain(|id| u16::try_from(*id).is_ok_and(|id| networks.contains(&id)))?;
        self.tables.retain_subnets(|id| networks.contains(&id))?;
        self.retain_tunnels_of(|id| networks.contains(&id))?;
        attach::retain(&self.bpffs, |hook, ifindex| match hook {
            Hook::Container => keep.veths.contains(&ifindex),
            Hook::Uplink | Hook::XdpNative | Hook::XdpGeneric => keep.uplinks.contains(&ifindex),
            Hook::Gateway => keep.gateways.contains(&ifindex),
            Hook::Overlay => keep.overlays.contains(&ifindex),
            Hook::WireIn | Hook::WireOut => keep.parents.contains(&ifindex),
            Hook::Card => keep.cards.contains(&ifindex),
        })?;
        // No device has a program of an earlier agent any more.
        stages::retain(&self.bpffs, &self.programs)
    }

    /// What the programs go by.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn config(&self) -> Result<Config> {
        self.tables.config()
    }

    /// Connections that the flow table can hold.
    ///
    /// # Errors
    /// If its pin is gone.
    pub fn flow_capacity(&self) -> Result<u32> {
        load::flow_capacity(&self.bpffs)
    }

    /// The messages of the programs themselves, if they were asked for; drain it whenever
    /// its file descriptor is readable.
    ///
    /// # Errors
    /// If the object has no log.
    pub fn log(&mut self) -> Result<Option<aya_log::EbpfLogger<&'static dyn log::Log>>> {
        self.programs.log()
    }

    fn free_slot(&self) -> Result<u32> {
        let taken: HashSet<u32> = self.slots.values().copied().collect();
        match (0..MAX_ENDPOINTS).find(|slot| !taken.contains(slot)) {
            Some(slot) => Ok(slot),
            None => bail!("this host has {MAX_ENDPOINTS} endpoints already"),
        }
    }

    /// Removes every pin under the folder, which detaches all programs, and the folder.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn purge(bpffs: &Path) -> Result<()> {
        load::purge(bpffs)
    }
}

fn veth_record(spec: &EndpointSpec, slot: u32) -> Veth {
    Veth {
        addr4: optional(spec.addr4),
        addr6: optional(spec.addr6),
        link_local: optional(spec.link_local),
        gateway4: optional(spec.gateway4),
        gateway6: optional(spec.gateway6),
        slot,
        gateway_ifindex: spec.gateway_ifindex,
        network: spec.network,
        prefix4: spec.addr4.map_or(0, |_| spec.prefix4 + MAPPED_BITS),
        prefix6: spec.addr6.map_or(0, |_| spec.prefix6),
        mac: Mac::new(spec.mac),
        gateway_mac: Mac::new(spec.gateway_mac),
        flags: spec.flags & (INTERNAL | ICC_OFF | OVERLAY | ADOPTED),
        reserved: [0; 3],
        netns: spec.netns,
    }
}

fn optional<T: Into<Addr>>(addr: Option<T>) -> Addr {
    addr.map_or(Addr::UNSPECIFIED, Into::into)
}

fn port_key(port: &PortSpec) -> PortKey {
    PortKey::new(port.proto, port.host_ip.into(), port.host_port)
}

fn open_key(port: &OpenPortSpec) -> OpenPort {
    OpenPort::new(port.network, port.proto, port.addr.into(), port.port)
}

/// A subnet's prefix in the 128-bit form.
pub(crate) fn prefix(subnet: ipnet::IpNet) -> (Addr, u8) {
    let bits = match subnet {
        ipnet::IpNet::V4(v4) => v4.prefix_len() + MAPPED_BITS,
        ipnet::IpNet::V6(v6) => v6.prefix_len(),
    };
    (subnet.network().into(), bits)
}
