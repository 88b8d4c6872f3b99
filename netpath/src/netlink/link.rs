//! Network devices.

use std::os::fd::{AsRawFd, BorrowedFd};

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType,
    LinkMessage,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan};

use super::{Netlink, to_io};

/// Device group of everything that netpath makes (`ip link show group 28272`). Unlike an
/// alias it is set in the same message that makes the device: whatever the agent dies
/// of, its devices are known as its own. The value is "np" in ASCII.
pub const GROUP: u32 = 0x6e70;

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Driver kind, like `veth`; `None` for hardware.
    pub kind: Option<String>,
    /// MAC address, if it has one of six bytes.
    pub mac: Option<[u8; 6]>,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Device group.
    pub group: u32,
    /// Index of the other end of a veth, in whatever namespace that is; 0 if it has none.
    pub peer: u32,
    /// Administratively up.
    pub is_up: bool,
    /// The loopback device.
    pub is_loopback: bool,
    /// Frames have an Ethernet header.
    pub is_ethernet: bool,
    /// Index of the device that it is a port of: a bridge, a bond.
    pub master: Option<u32>,
    /// Somebody has it accept all multicast.
    pub is_allmulti: bool,
    /// Somebody has it accept everything.
    pub is_promiscuous: bool,
}

impl Link {
    /// Whether netpath made it: name, kind and group are as netpath gives them.
    pub fn is_ours(&self) -> bool {
        self.group == GROUP
            && match self.kind.as_deref() {
                Some("veth") => self.name.starts_with("npv") || self.name.starts_with("np-"),
                Some("vxlan") => self.name.starts_with("np-vxlan"),
                // On the user's own cards, so they have the names that users know.
                Some("vlan") => true,
                _ => false,
            }
    }

    /// Whether it is the gateway device of a network of netpath's, if it has the name of one: that
    /// may be the user's choice.
    pub fn is_gateway(&self) -> bool {
        self.group == GROUP && self.kind.as_deref() == Some("veth")
    }
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            kind: None,
            mac: None,
            mtu: 0,
            group: 0,
            peer: 0,
            is_up: message.header.flags.contains(LinkFlags::Up),
            is_loopback: message.header.flags.contains(LinkFlags::Loopback),
            is_ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            master: None,
            is_allmulti: message.header.flags.contains(LinkFlags::Allmulti),
            is_promiscuous: message.header.flags.contains(LinkFlags::Promisc),
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(mac) => link.mac = mac.try_into().ok(),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Group(group) => link.group = group,
                LinkAttribute::Link(peer) => link.peer = peer,
                LinkAttribute::Controller(master) => link.master = Some(master),
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos.into_iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        link
    }
}

/// A gateway device to make: one end of a veth pair whose other end nobody uses. (A dummy
/// device would do, but many kernels have none: CONFIG_DUMMY is not set on this project's own
/// test machines.)
#[derive(Clone, Copy, Debug)]
pub struct NewGateway<'a> {
    /// Its name, at most 13 bytes: the other end is called the same with `.p`.
    pub name: &'a str,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Largest packet in bytes.
    pub mtu: u32,
}

/// A pair of veth devices to make.
#[derive(Clone, Copy, Debug)]
pub struct NewVeth<'a> {
    /// Name of the end in this namespace.
    pub name: &'a str,
    /// Namespace of the other end.
    pub peer_netns: BorrowedFd<'a>,
    /// Name of the other end.
    pub peer_name: &'a str,
    /// MAC address of the other end.
    pub peer_mac: [u8; 6],
    /// Largest packet of the other end in bytes.
    pub mtu: u32,
    /// Largest packet in bytes that the other end may send by a route that says so.
    pub local_mtu: u32,
}

/// A VXLAN device to make, which sends where each packet's metadata says.
#[derive(Clone, Copy, Debug)]
pub struct NewVxlan<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// UDP port that it listens on and sends to.
    pub port: u16,
    /// Largest packet in bytes.
    pub mtu: u32,
}

/// Name of the other end of a gateway device.
pub fn gateway_peer(name: &str) -> String {
    format!("{name}.p")
}

impl Netlink {
    /// All devices.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn links(&self) -> Result<Vec<Link>> {
        let _alone = self.lists.lock().await;
        self.handle
            .link()
            .get()
            .execute()
            .map_ok(Link::from)
            .try_collect()
            .await
            .map_err(to_io)
            .context("cannot list network devices")
    }

    /// The device of this name, if there.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn link(&self, name: &str) -> Result<Option<Link>> {
        let mut answers = Box::pin(self.handle.link().get().match_name(name).execute());
        match answers.next().await.transpose().map_err(to_io) {
            Ok(message) => Ok(message.map(Link::from)),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot look for device {name}")),
        }
    }

    /// Makes a gateway device, without ARP; both ends are down.
    ///
    /// # Errors
    /// The kernel's; it says so if the name is taken.
    pub async fn add_gateway(&self, new: &NewGateway<'_>) -> Result<()> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(gateway_peer(new.name))
            .mtu(new.mtu)
            .append_extra_attribute(LinkAttribute::Group(GROUP))
            .build();
        let mut message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(new.name)
            .address(new.mac.to_vec())
            .mtu(new.mtu)
            .append_extra_attribute(LinkAttribute::Group(GROUP))
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        message.header.flags |= LinkFlags::Noarp;
        message.header.change_mask |= LinkFlags::Noarp;
        self.handle
            .link()
            .add(message)
            .execute()
            .await
            .map_err(to_io)
            .with_context(|| format!("cannot make device {}", new.name))
    }

    /// Makes a VXLAN device that learns nothing; it is down.
    ///
    /// # Errors
    /// The kernel's; it says so if the name or the port is taken.
    pub async fn add_vxlan(&self, new: &NewVxlan<'_>) -> Result<()> {
        let settings = vec![
            InfoVxlan::CollectMetadata(true),
            InfoVxlan::Learning(false),
            InfoVxlan::Port(new.port),
            // Some senders leave out the checksum over IPv6 as well (RFC 6935).
            InfoVxlan::UDPZeroCsumRX(true),
        ];
        let message = LinkMessageBuilder::<LinkVxlan>::new_with_info_kind(InfoKind::Vxlan)
            .name(new.name)
            .address(new.mac.to_vec())
            .mtu(new.mtu)
            .append_extra_attribute(LinkAttribute::Group(GROUP))
            .set_info_data(InfoData::Vxlan(settings))
            .build();
        self.handle
            .link()
            .add(message)
            .execute()
            .await
            .map_err(to_io)
            .with_context(|| format!("cannot make device {}", new.name))
    }

    /// Makes a pair of veth devices; both are down.
    ///
    /// # Errors
    /// The kernel's; it says so if one of the names is taken.
    pub async fn add_veth(&self, new: &NewVeth<'_>) -> Result<()> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(new.peer_name)
            .address(new.peer_mac.to_vec())
            .mtu(new.mtu)
            .append_extra_attribute(LinkAttribute::Group(GROUP))
            .setns_by_fd(new.peer_netns.as_raw_fd())
            .build();
        let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(new.name)
            .mtu(new.local_mtu)
            .append_extra_attribute(LinkAttribute::Group(GROUP))
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        self.handle
            .link()
            .add(message)
            .execute()
            .await
            .map_err(to_io)
            .with_context(|| format!("cannot make the veth pair {}", new.name))
    }

    /// Moves a device into another namespace, with the name, MAC address and MTU that the other
    /// end of `new` is to have.
    ///
    /// # Errors
    /// The kernel's; it says so if the name is taken there.
    pub async fn hand_over(&self, index: u32, new: &NewVeth<'_>) -> Result<()> {
        let message = LinkUnspec::new_with_index(index)
            .name(new.peer_name)
            .address(new.peer_mac.to_vec())
            .mtu(new.mtu)
            .setns_by_fd(new.peer_netns.as_raw_fd())
            .build();
        self.change(message, index).await
    }

    /// Sets a device up.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn set_up(&self, index: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).up().build();
        self.change(message, index).await
    }

    /// Gives a device a text for people who look at it with `ip link`.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn set_alias(&self, index: u32, alias: &str) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).alias(alias).build();
        self.change(message, index).await
    }

    /// Sets MAC address and MTU (bytes).
    ///
    /// # Errors
    /// The kernel's.
    pub async fn set_mac_and_mtu(&self, index: u32, mac: [u8; 6], mtu: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(index)
            .address(mac.to_vec())
            .mtu(mtu)
            .build();
        self.change(message, index).await
    }

    pub(super) async fn change(&self, message: LinkMessage, index: u32) -> Result<()> {
        self.handle
            .link()
            .change(message)
            .execute()
            .await
            .map_err(to_io)
            .with_context(|| format!("cannot change the device with index {index}"))
    }

    /// Removes the device of this name, and with a veth its peer; true if it was there.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn delete_link(&self, name: &str) -> Result<bool> {
        let Some(link) = self.link(name).await? else {
            return Ok(false);
        };
        match self
            .handle
            .link()
            .del(link.index)
            .execute()
            .await
            .map_err(to_io)
        {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("cannot remove device {name}")),
        }
    }
}
