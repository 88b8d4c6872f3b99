//! The datapath as the control plane sees it: load or adopt, attach, fill, read, clean.
//!
//! * [`load`]: the object, its maps and pins
//! * [`adopted`]: networks whose owner is somebody else, like Docker
//! * [`attach`]: programs and devices (the only place that knows how); [`cgroup`]: programs
//!   and sockets; [`link`]: the pinned links of both
//! * [`tables`]: typed access to the maps; [`batch`]: reading a large one quickly
//! * [`gate`]: XDP on uplinks, and the sources that it denies
//! * [`endpoints`]: containers' interfaces; [`ports`]: how they are reached from elsewhere
//! * [`events`]: what the programs tell; [`live`]: the shared logic over the maps as they are
//! * [`keep`]: what stays when an agent takes over
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
mod endpoints;
pub mod events;
pub mod gate;
mod keep;
mod link;
pub mod live;
mod load;
mod ports;
pub mod rows;
mod spec;
mod stages;
mod sweep;
mod tables;
pub mod tunnels;
mod underlay;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use anyhow::Result;
use netpath_common::addr::{Addr, Mac};
use netpath_common::config::Config;
use netpath_common::network::{HostAddr, Network, Uplink};
use netpath_common::port::PortKey;
use netpath_common::socket::Resolver;

pub use attach::Hook;
pub use keep::Keep;
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

    /// Removes every pin under the folder, which detaches all programs, and the folder.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn purge(bpffs: &Path) -> Result<()> {
        load::purge(bpffs)
    }
}

fn optional<T: Into<Addr>>(addr: Option<T>) -> Addr {
    addr.map_or(Addr::UNSPECIFIED, Into::into)
}

/// A subnet's prefix in the 128-bit form.
pub(crate) fn prefix(subnet: ipnet::IpNet) -> (Addr, u8) {
    let bits = match subnet {
        ipnet::IpNet::V4(v4) => v4.prefix_len() + MAPPED_BITS,
        ipnet::IpNet::V6(v6) => v6.prefix_len(),
    };
    (subnet.network().into(), bits)
}
