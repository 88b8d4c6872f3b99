//! Devices on top of a card of the host, and what the card itself lets in.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use anyhow::{Context, Result};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{InfoData, InfoKind, LinkMessage};
use rtnetlink::packet_route::link::{
    InfoIpVlan, IpVlanFlags, IpVlanMode, LinkAttribute, MacVlanMode,
};
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage};
use rtnetlink::{LinkIpVlan, LinkMacVlan, LinkMessageBuilder, LinkUnspec, LinkVlan};

use super::link::GROUP;
use super::{Netlink, to_io};
use crate::problem::invalid;

/// A device of the kernel's that shares a card with the host.
#[derive(Clone, Copy, Debug)]
pub struct NewCard<'a> {
    /// Its name in the namespace that it is for.
    pub name: &'a str,
    /// The card, in this namespace.
    pub parent: u32,
    /// The namespace that it is for.
    pub netns: BorrowedFd<'a>,
    /// Its MAC address; ipvlan has the card's.
    pub mac: [u8; 6],
    /// Largest packet in bytes.
    pub mtu: u32,
    /// What it is.
    pub kind: CardKind,
    /// Its index, if that is not the kernel's to choose.
    pub ifindex: Option<u32>,
}

/// Kinds of such devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CardKind {
    /// With a MAC address of its own.
    Macvlan(MacVlanMode),
    /// With the card's MAC address.
    Ipvlan(IpVlanMode, IpVlanFlags),
}

impl CardKind {
    fn name(self) -> &'static str {
        match self {
            Self::Macvlan(_) => "macvlan",
            Self::Ipvlan(..) => "ipvlan",
        }
    }
}

impl Netlink {
    /// Makes a device on top of a card, in another namespace; it is down.
    ///
    /// # Errors
    /// The kernel's; a sentence if it has no such devices.
    pub async fn add_card(&self, new: &NewCard<'_>) -> Result<()> {
        let mut message = match new.kind {
            CardKind::Macvlan(mode) => finish(LinkMacVlan::new(new.name, new.parent, mode), new)
                .address(new.mac.to_vec())
                .build(),
            CardKind::Ipvlan(mode, flags) => {
                let data = vec![InfoIpVlan::Mode(mode), InfoIpVlan::Flags(flags)];
                let builder =
                    LinkMessageBuilder::<LinkIpVlan>::new_with_info_kind(InfoKind::IpVlan)
                        .name(new.name)
                        .link(new.parent)
                        .set_info_data(InfoData::IpVlan(data));
                finish(builder, new).build()
            }
        };
        message.header.index = new.ifindex.unwrap_or_default();
        self.make(message, new.kind.name())
            .await?
            .with_context(|| format!("cannot make the {} device {}", new.kind.name(), new.name))
    }

    /// Makes a device for one VLAN of a card, and sets it up.
    ///
    /// # Errors
    /// The kernel's; a sentence if it has no such devices.
    pub async fn add_vlan(&self, name: &str, parent: u32, vlan: u16) -> Result<()> {
        let message = LinkVlan::new(name, parent, vlan)
            .append_extra_attribute(LinkAttribute::Group(GROUP))
            .up()
            .build();
        self.make(message, "VLAN")
            .await?
            .with_context(|| format!("cannot make the VLAN device {name}"))
    }

    /// The outer error is that the kernel has no devices of the kind.
    async fn make(&self, message: LinkMessage, kind: &str) -> Result<std::io::Result<()>> {
        let made = self.handle.link().add(message).execute().await;
        match made.map_err(to_io) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                let setting = if kind == "VLAN" {
                    "VLAN_8021Q".to_owned()
                } else {
                    kind.to_uppercase()
                };
                Err(invalid(format!(
                    "this kernel makes no {kind} devices (CONFIG_{setting}); driver underlay does \
                     without"
                )))
            }
            made => Ok(made),
        }
    }

    /// Has a card accept frames for one more MAC address. What is there already is fine.
    ///
    /// The entry is the kernel's own: it stays when this process goes, and is in the filter of
    /// the hardware where that has one; where not, the kernel makes the card promiscuous.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn accept_mac(&self, index: u32, mac: [u8; 6]) -> Result<()> {
        let request = self
            .handle
            .neighbours()
            .add_bridge(index, &mac)
            .state(NeighbourState::Permanent)
            .flags(NeighbourFlags::Own);
        match request.execute().await.map_err(to_io) {
            Err(error) if error.raw_os_error() != Some(libc::EEXIST) => {
                Err(error).context("the card does not take another MAC address")
            }
            _ => Ok(()),
        }
    }

    /// Takes [`Self::accept_mac`] back. What is gone already is fine, and so is a card that is.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn refuse_mac(&self, index: u32, mac: [u8; 6]) -> Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.header.flags = NeighbourFlags::Own;
        message
            .attributes
            .push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        match self
            .handle
            .neighbours()
            .del(message)
            .execute()
            .await
            .map_err(to_io)
        {
            Err(error)
                if !matches!(
                    error.raw_os_error(),
                    Some(libc::ENOENT | libc::ENODEV | libc::EINVAL)
                ) =>
            {
                Err(error).context("the card does not forget a MAC address")
            }
            _ => Ok(()),
        }
    }

    /// Has a card accept all multicast, or no more than the host's own.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn accept_multicast(&self, index: u32, all: bool) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).allmulticast(all).build();
        self.change(message, index).await
    }

    /// Has a card accept everything, or what it should. Filters for VLANs are off then.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn accept_everything(&self, index: u32, all: bool) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).promiscuous(all).build();
        self.change(message, index).await
    }
}

fn finish<T>(builder: LinkMessageBuilder<T>, new: &NewCard<'_>) -> LinkMessageBuilder<T> {
    builder
        .mtu(new.mtu)
        .append_extra_attribute(LinkAttribute::Group(GROUP))
        .setns_by_fd(new.netns.as_raw_fd())
}
