//! A container's interface on a card of the host.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use netpath_common::underlay::is_stacked;
use rtnetlink::packet_route::link::MacVlanMode;

use crate::agent::announce;
use crate::agent::{Agent, blocking};
use crate::datapath::CardSpec;
use crate::netlink::{CardKind, GROUP, Link, Netlink, NewCard, NewVeth, netns};
use crate::physical::inside::{Announcement, Interface};
use crate::physical::record::Sharing;
use crate::problem::conflict;
use crate::store::Driver;

/// What is made for mode `macvlan`. Frames for each other come to our programs as well.
pub(super) const STACKED: CardKind = CardKind::Macvlan(MacVlanMode::Vepa);

/// An interface, and where it is plugged in.
#[derive(Clone, Copy, Debug)]
pub(in crate::agent) struct Plug<'a> {
    /// Whose it is.
    pub(in crate::agent) owner: &'a str,
    /// Who carries its packets.
    pub(in crate::agent) driver: Driver,
    /// On which card.
    pub(in crate::agent) sharing: &'a Sharing,
    /// Its name in the container.
    pub(in crate::agent) interface: &'a str,
    /// Name of the host-side veth, if the driver has one.
    pub(in crate::agent) device: &'a str,
    /// Its MAC address.
    pub(in crate::agent) mac: [u8; 6],
    /// Largest packet in bytes.
    pub(in crate::agent) mtu: u32,
    /// Its IPv4 address, if we know it.
    pub(in crate::agent) addr4: Option<Ipv4Addr>,
    /// Its IPv6 address, if we know it.
    pub(in crate::agent) addr6: Option<Ipv6Addr>,
    /// Somebody else gives it addresses of a family (IPv4, IPv6).
    pub(in crate::agent) any_source: (bool, bool),
}

impl Plug<'_> {
    /// Whether the wire knows it by the card's own MAC address.
    fn is_routed(&self) -> bool {
        self.sharing.is_routed(self.driver)
    }

    /// Whether its device is the kernel's, and the programs'.
    fn is_stacked(&self) -> bool {
        self.sharing.is_stacked(self.driver)
    }
}

/// A plug that is in.
pub(in crate::agent) struct Plugged {
    /// Index of the host-side veth, or of the stacked device; 0 if there is neither.
    pub(in crate::agent) ifindex: u32,
    /// MAC address of the interface: some modes have the card's.
    pub(in crate::agent) mac: [u8; 6],
}

impl Agent {
    /// Makes an interface in a namespace, and sets it up there.
    ///
    /// # Errors
    /// A sentence; [`Self::unplug`] removes what is half made.
    pub(in crate::agent) async fn plug(
        &self,
        plug: &Plug<'_>,
        netns: &File,
        interface: Interface,
    ) -> Result<Plugged> {
        let parent = self.parent_of(plug).await?;
        let mut plugged = Plugged {
            ifindex: 0,
            mac: plug.mac,
        };
        match plug.sharing.kind(plug.driver) {
            Some(kind) => self.add_device(plug, &parent, netns, kind, None).await?,
            None => {
                plugged.ifindex = match plug.is_stacked() {
                    true => self.stack(plug, &parent, netns).await?,
                    false => self.add_veth_of(plug, netns).await?,
                };
                self.add_plug(plug, plugged.ifindex, &parent, Some(netns))
                    .await?;
            }
        }
        let made = self.finish_plug(plug, &mut plugged, &parent, netns, interface);
        if made.is_err() && plug.is_stacked() {
            // Whoever made it does not know its number yet.
            let removed = self.unplug(plug, plugged.ifindex, Some(netns)).await;
            if let Err(second) = removed {
                log::error!("cannot clean up after {}: {second:#}", plug.owner);
            }
        }
        made.map(|()| plugged)
    }

    /// Sets an interface up that is made and plugged in.
    fn finish_plug(
        &self,
        plug: &Plug<'_>,
        plugged: &mut Plugged,
        parent: &Link,
        netns: &File,
        interface: Interface,
    ) -> Result<()> {
        let name = plug.interface;
        plugged.mac = blocking(|| {
            netns::inside(netns::borrow(netns), || {
                in_runtime(async {
                    interface.configure().await?;
                    let link = Netlink::connect()?.link(name).await?;
                    Ok(link.and_then(|link| link.mac).unwrap_or(plug.mac))
                })
            })
        })
        .with_context(|| format!("cannot set up {name} of {}", plug.owner))?;
        self.announce_on_wire(plug, parent, plugged.mac, netns)
    }

    /// Makes a device stacked on the parent. Returns its index.
    async fn stack(&self, plug: &Plug<'_>, parent: &Link, netns: &File) -> Result<u32> {
        let ifindex = self.with_datapath(|datapath| datapath.free_stacked(plug.mac))?;
        self.add_device(plug, parent, netns, STACKED, Some(ifindex))
            .await?;
        Ok(ifindex)
    }

    /// Makes a device of the kernel's on the parent, with this index or any.
    async fn add_device(
        &self,
        plug: &Plug<'_>,
        parent: &Link,
        netns: &File,
        kind: CardKind,
        ifindex: Option<u32>,
    ) -> Result<()> {
        let new = NewCard {
            name: plug.interface,
            parent: parent.index,
            netns: netns::borrow(netns),
            mac: plug.mac,
            mtu: plug.mtu,
            kind,
            ifindex,
        };
        let made = self.netlink.add_card(&new).await;
        made.map_err(|error| refusal(plug, error))
    }

    /// Makes a veth for a container on a wire. Returns the index of the host's end.
    async fn add_veth_of(&self, plug: &Plug<'_>, netns: &File) -> Result<u32> {
        let new = NewVeth {
            name: plug.device,
            peer_netns: netns::borrow(netns),
            peer_name: plug.interface,
            peer_mac: plug.mac,
            mtu: plug.mtu,
            local_mtu: plug.mtu,
        };
        self.netlink.add_veth(&new).await?;
        let alias = format!("netpath container {}", plug.owner);
        self.prepare_host_end(plug.device, &alias).await
    }

    /// Puts an interface that is there into the maps, and has the card let in its frames. A stacked
    /// device is in the namespace `inside`.
    ///
    /// # Errors
    /// The kernel's.
    pub(in crate::agent) async fn add_plug(
        &self,
        plug: &Plug<'_>,
        ifindex: u32,
        parent: &Link,
        inside: Option<&File>,
    ) -> Result<()> {
        let parent_mac = parent
            .mac
            .with_context(|| format!("{} has no MAC address", parent.name))?;
        let spec = CardSpec {
            ifindex,
            parent: parent.index,
            parent_mac,
            vlan: plug.sharing.vlan,
            mac: plug.mac,
            addr4: plug.addr4,
            addr6: plug.addr6,
            link_local: Some(link_local(plug.mac)),
            any_source: plug.any_source,
            routed: plug.is_routed(),
        };
        // For a stacked device the kernel has done it.
        if !spec.routed && !plug.is_stacked() {
            self.netlink.accept_mac(parent.index, plug.mac).await?;
        }
        self.with_datapath(|datapath| datapath.add_card(&spec, inside.map(netns::borrow)))
    }

    /// Removes all of an interface that there may be.
    ///
    /// # Errors
    /// The kernel's; what was never made or is gone already is fine.
    pub(in crate::agent) async fn unplug(
        &self,
        plug: &Plug<'_>,
        ifindex: u32,
        netns: Option<&File>,
    ) -> Result<()> {
        if plug.is_stacked() || plug.sharing.kind(plug.driver).is_some() {
            let removed = match netns {
                Some(netns) => remove_inside(plug, ifindex, netns)?,
                None => None,
            };
            let index = removed.unwrap_or(ifindex);
            if plug.is_stacked() && index != 0 {
                self.with_datapath(|datapath| datapath.remove_stacked(index, plug.mac))?;
            }
            return Ok(());
        }
        // An agent that was killed did not write down the index.
        let ours = self.netlink.link(plug.device).await?;
        let ours = ours.filter(Link::is_ours);
        let index = ours.as_ref().map_or(ifindex, |link| link.index);
        if index != 0 {
            self.with_datapath(|datapath| datapath.remove_card(index))?;
        }
        if !plug.is_routed()
            && let Some(parent) = self.netlink.link(&plug.sharing.device).await?
        {
            self.netlink.refuse_mac(parent.index, plug.mac).await?;
        }
        if ours.is_some() {
            self.netlink.delete_link(plug.device).await?;
        }
        Ok(())
    }

    /// The device that a plug goes into; it must be up.
    async fn parent_of(&self, plug: &Plug<'_>) -> Result<Link> {
        let device = &plug.sharing.device;
        let parent = self.netlink.link(device).await?;
        match parent {
            Some(parent) if parent.is_up => Ok(parent),
            Some(_) => Err(conflict(format!(
                "the parent {device} is down, set it up first (\"ip link set {device} up\")"
            ))),
            None => Err(conflict(format!(
                "the parent {device} is gone, plug it in again or remove the network"
            ))),
        }
    }

    /// Tells the neighbours on the wire; nobody waits for it.
    fn announce_on_wire(
        &self,
        plug: &Plug<'_>,
        parent: &Link,
        mac: [u8; 6],
        netns: &File,
    ) -> Result<()> {
        let addresses = plug.addr4.map(IpAddr::V4);
        let addresses = addresses.into_iter().chain(plug.addr6.map(IpAddr::V6));
        let addresses: Vec<IpAddr> = addresses.collect();
        if addresses.is_empty() {
            return Ok(());
        }
        let announcement = |interface: &str, owner: &str, mac| Announcement {
            interface: interface.to_owned(),
            owner: owner.to_owned(),
            frames: announce::frames(mac, addresses.iter().copied()),
        };
        let inside = announcement(plug.interface, plug.interface, mac);
        // What a routed container says stays on the host. The wire is told the card's address, past
        // the programs: they would copy it to the containers, which know better.
        let outside = parent.mac.filter(|_| plug.is_routed());
        let outside = outside.map(|mac| announcement(&parent.name, plug.device, mac));
        let (netns, owner) = (netns.try_clone()?, plug.owner.to_owned());
        let complain = move |told: Result<()>| {
            if let Err(error) = told {
                log::debug!("{owner} is not announced any more: {error:#}");
            }
        };
        if let Some(outside) = outside {
            let complain = complain.clone();
            tokio::task::spawn_blocking(move || complain(tell(&outside, true)));
        }
        tokio::task::spawn_blocking(move || {
            complain(netns::inside(netns::borrow(&netns), || {
                tell(&inside, false)
            }));
        });
        Ok(())
    }
}

/// Removes a container's device on top of a card, if it is there. Returns its index. A stacked one
/// may have got another name inside, and an agent that was killed did not write down its index. A
/// device that is somebody else's stays.
fn remove_inside(plug: &Plug<'_>, ifindex: u32, netns: &File) -> Result<Option<u32>> {
    let stacked = plug.is_stacked().then_some((ifindex, plug.mac));
    blocking(|| remove_device(plug.interface, stacked, netns))
}

/// See [`remove_inside`].
pub(super) fn remove_device(
    name: &str,
    stacked: Option<(u32, [u8; 6])>,
    netns: &File,
) -> Result<Option<u32>> {
    netns::inside(netns::borrow(netns), || {
        in_runtime(async {
            let netlink = Netlink::connect()?;
            let links = netlink.links().await.context("cannot look inside")?;
            let is_it = |link: &Link| match stacked {
                Some((ifindex, mac)) => {
                    is_stacked(link.index) && (link.index == ifindex || link.mac == Some(mac))
                }
                None => link.name == name,
            };
            let mut ours = links.into_iter().filter(|link| link.group == GROUP);
            let Some(link) = ours.find(is_it) else {
                return Ok(None);
            };
            netlink.delete_link(&link.name).await?;
            Ok(Some(link.index))
        })
    })
}

/// Makes an announcement in the caller's namespace, past the programs of the device if need be.
fn tell(announcement: &Announcement, past_programs: bool) -> Result<()> {
    let socket = announce::packet_socket().context("cannot make a packet socket")?;
    if past_programs {
        announce::bypass(&socket).context("cannot send past the programs")?;
    }
    announcement.tell(|index, frame| announce::send(&socket, index, frame))
}

/// What the kernel's refusal means.
fn refusal(plug: &Plug<'_>, error: anyhow::Error) -> anyhow::Error {
    let device = &plug.sharing.device;
    match code_of(&error) {
        Some(libc::EINVAL | libc::EBUSY) if plug.sharing.is_exclusive() => conflict(format!(
            "the parent {device} has a container already, or a device that is not netpath's, and \
             with macvlan_mode=passthru it is for one alone"
        )),
        Some(libc::EADDRINUSE) => conflict(format!(
            "another interface on {device} has this MAC address, choose another"
        )),
        Some(libc::EEXIST) => conflict(format!(
            "{} has an interface {} already, choose another name with --interface",
            plug.owner, plug.interface
        )),
        _ => refusal_of_parent(device, error),
    }
}

/// What it means that the kernel refuses any device on a card.
pub(super) fn refusal_of_parent(device: &str, error: anyhow::Error) -> anyhow::Error {
    match code_of(&error) {
        Some(libc::EBUSY) => conflict(format!(
            "the parent {device} is used by another device of the host (a bridge, or macvlan \
             beside ipvlan), choose another parent"
        )),
        Some(libc::EINVAL) => conflict(format!(
            "the parent {device} is used by a device of the host that is no network of netpath's \
             and has it for itself (macvlan in mode passthru), choose another parent"
        )),
        _ => error,
    }
}

/// The kernel's number of an error.
fn code_of(error: &anyhow::Error) -> Option<i32> {
    error
        .chain()
        .find_map(|cause| cause.downcast_ref::<std::io::Error>()?.raw_os_error())
}

/// To be called on a thread inside a namespace.
pub(super) fn in_runtime<T>(action: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("cannot start a runtime")?
        .block_on(action)
}

/// The link-local address that the kernel makes of a MAC address (EUI-64).
pub(super) fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    let (high, low) = ([a ^ 2, b, c, 0xff], [0xfe, d, e, f]);
    let mut octets = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    octets[8..12].copy_from_slice(&high);
    octets[12..].copy_from_slice(&low);
    octets.into()
}
