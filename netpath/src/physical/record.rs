//! What the store remembers of physical networks and of cards.

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::link::{IpVlanFlags, IpVlanMode, MacVlanMode};
use serde::{Deserialize, Serialize};

use super::address::Route;
use crate::netlink::CardKind;
use crate::store::{Driver, ProcessId};

/// How the containers on one card meet each other and the world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// macvlan: they talk to each other on the host. underlay: each has a MAC address of its own.
    #[default]
    Bridge,
    /// macvlan: they do not talk to each other.
    Private,
    /// macvlan: they talk to each other by way of the switch.
    Vepa,
    /// macvlan: one has the card to itself.
    Passthru,
    /// underlay: their devices are the kernel's (macvlan), which the programs judge and join to the
    /// host.
    Stacked,
    /// ipvlan: by MAC addresses.
    L2,
    /// ipvlan: by routes. underlay: the wire knows them by the card's MAC address.
    L3,
    /// ipvlan: by routes, through the host's firewall.
    L3s,
}

/// Whether containers on one ipvlan card talk to each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flag {
    /// They do.
    #[default]
    Bridge,
    /// They do not.
    Private,
    /// By way of the switch.
    Vepa,
}

/// A card of the host and how containers share it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sharing {
    /// The card as the user named it, with its VLAN; empty for none, so that the containers are
    /// among themselves.
    pub parent: String,
    /// The device that they share: the card, a device of a VLAN, or one of netpath's own.
    pub device: String,
    /// Its index; 0 until it was seen.
    #[serde(default)]
    pub ifindex: u32,
    /// The tag that the programs put on frames; 0 for none.
    #[serde(default)]
    pub vlan: u16,
    /// netpath made the device, and removes it with the last who uses it.
    #[serde(default)]
    pub made: bool,
    /// Of all drivers.
    #[serde(default)]
    pub mode: Mode,
    /// Of ipvlan.
    #[serde(default)]
    pub flag: Flag,
    /// netpath has the device accept all multicast.
    #[serde(default)]
    pub allmulti: bool,
    /// netpath has the device accept everything.
    #[serde(default)]
    pub promiscuous: bool,
}

impl Sharing {
    /// The kernel's kind of device for a driver; `None` if it is the programs that share the card.
    pub fn kind(&self, driver: Driver) -> Option<CardKind> {
        match driver {
            Driver::Macvlan => Some(CardKind::Macvlan(match self.mode {
                Mode::Private => MacVlanMode::Private,
                Mode::Vepa => MacVlanMode::Vepa,
                Mode::Passthru => MacVlanMode::Passthrough,
                _ => MacVlanMode::Bridge,
            })),
            Driver::Ipvlan => {
                let mode = match self.mode {
                    Mode::L3 => IpVlanMode::L3,
                    Mode::L3s => IpVlanMode::L3S,
                    _ => IpVlanMode::L2,
                };
                let flags = match self.flag {
                    Flag::Bridge => IpVlanFlags::empty(),
                    Flag::Private => IpVlanFlags::Private,
                    Flag::Vepa => IpVlanFlags::Vepa,
                };
                Some(CardKind::Ipvlan(mode, flags))
            }
            _ => None,
        }
    }

    /// Whether the wire knows the containers by the card's own MAC address.
    pub fn is_routed(&self, driver: Driver) -> bool {
        driver == Driver::Underlay && self.mode == Mode::L3
    }

    /// Whether the containers' devices are the kernel's, stacked on the card, and the programs'.
    pub fn is_stacked(&self, driver: Driver) -> bool {
        driver == Driver::Underlay && self.mode == Mode::Stacked
    }

    /// Whether the containers are behind veths, which the host has.
    pub fn has_veths(&self, driver: Driver) -> bool {
        self.kind(driver).is_none() && !self.is_stacked(driver)
    }

    /// Whether nobody else may use the device.
    pub fn is_exclusive(&self) -> bool {
        self.mode == Mode::Passthru
    }
}

/// Where the interface of a card is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    /// File of the namespace.
    pub path: String,
    /// Device number of its inode.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// The process by which the namespace was named; with it the card ends.
    #[serde(default)]
    pub process: Option<ProcessId>,
}

/// An interface that was added to a container, beside its networks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardRecord {
    /// Whose it is: the container's name, or what else named the namespace.
    pub owner: String,
    /// Name of the interface in its namespace.
    pub interface: String,
    /// The namespace.
    pub home: Home,
    /// Who carries its packets.
    pub driver: Driver,
    /// On which card.
    pub sharing: Sharing,
    /// The card's own MAC address when it was seen last.
    #[serde(default)]
    pub parent_mac: Option<[u8; 6]>,
    /// Name of the host-side veth, if there is one.
    #[serde(default)]
    pub device: String,
    /// Its index; 0 until it was made.
    #[serde(default)]
    pub ifindex: u32,
    /// MAC address of the interface.
    pub mac: [u8; 6],
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Addresses with their subnets.
    #[serde(default)]
    pub addresses: Vec<IpNet>,
    /// Routers of its default routes.
    #[serde(default)]
    pub gateways: Vec<IpAddr>,
    /// More routes.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Its IPv4 address is a server's to give.
    #[serde(default)]
    pub dhcp: bool,
    /// The client that asks for it.
    #[serde(default)]
    pub client: Option<ProcessId>,
    /// False from the intent to make it until everything is in place.
    #[serde(default)]
    pub ready: bool,
    /// Seconds since 1970.
    pub created: u64,
}

impl CardRecord {
    /// Its key in the store: owner and interface. Neither has a slash in it.
    pub fn key(&self) -> String {
        key(&self.owner, &self.interface)
    }
}

/// See [`CardRecord::key`].
pub fn key(owner: &str, interface: &str) -> String {
    format!("{owner}/{interface}")
}
