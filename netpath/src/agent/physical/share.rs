//! The card of the host that containers share.

use anyhow::{Context as _, Result};
use ipnet::IpNet;

use crate::agent::Agent;
use crate::container::names;
use crate::ipam::overlaps;
use crate::netlink::{Link, NewGateway, Route, gateway_peer, sysctl};
use crate::physical::record::Sharing;
use crate::physical::{Named, Wanted};
use crate::problem::{conflict, invalid};
use crate::store::Driver;

/// Kinds of devices on top of others. What is stacked on such a device the kernel stacks on the one
/// below, whose frames our programs do not see.
const STACKED_KINDS: [&str; 3] = ["macvlan", "macvtap", "ipvlan"];

/// Somebody who shares a card.
pub(super) struct User {
    /// `network NAME`, or `the card eth1 of NAME`.
    pub(super) name: String,
    pub(super) driver: Driver,
    pub(super) sharing: Sharing,
}

impl Agent {
    /// Everybody who shares a card.
    pub(super) fn card_users(&self) -> Result<Vec<User>> {
        let networks = self.store.networks()?.into_iter().filter_map(|network| {
            Some(User {
                name: user_of_network(&network.name),
                driver: network.driver,
                sharing: network.sharing?,
            })
        });
        let cards = self.store.cards()?.into_iter().map(|card| User {
            name: user_of_card(&card.owner, &card.interface),
            driver: card.driver,
            sharing: card.sharing,
        });
        Ok(networks.chain(cards).collect())
    }

    /// Finds the card that somebody wants to share, and checks that it can be had.
    ///
    /// # Errors
    /// A sentence: there is none, or it is somebody else's.
    pub(in crate::agent) async fn plan_sharing(
        &self,
        driver: Driver,
        wanted: &Wanted,
    ) -> Result<Sharing> {
        let mut sharing = Sharing {
            mode: wanted.mode,
            flag: wanted.flag,
            ..Sharing::default()
        };
        let Some(parent) = &wanted.parent else {
            sharing.device = format!("np-lan{}", self.store.next_id("lan")?);
            sharing.made = true;
            return Ok(sharing);
        };
        sharing.parent.clone_from(parent);
        let links = self.netlink.links().await?;
        let named = Named::find(&links, parent)?;
        if named.vlan == 0 {
            sharing.device.clone_from(&named.device.name);
            // A device that we made for one network is kept for the other.
            sharing.made = named.device.is_ours();
        } else if sharing.is_stacked(driver) {
            return Err(invalid(format!(
                "with mode=macvlan no VLAN can be tagged: leave mode out, or make {parent} first \
                 (\"ip link add link {} name {parent} type vlan id {}\")",
                named.device.name, named.vlan
            )));
        } else if sharing.is_routed(driver) {
            return Err(invalid(format!(
                "with mode=l3 the kernel finds the neighbours, in a VLAN it needs a device for \
                 that: make {parent} first (\"ip link add link {} name {parent} type vlan id {}\")",
                named.device.name, named.vlan
            )));
        } else if driver == Driver::Underlay {
            sharing.device.clone_from(&named.device.name);
            sharing.vlan = named.vlan;
        } else {
            sharing.device = named.vlan_device()?;
            sharing.made = true;
        }
        let kind = named.device.kind.as_deref().unwrap_or_default();
        if sharing.is_stacked(driver) && STACKED_KINDS.contains(&kind) {
            return Err(invalid(format!(
                "with mode=macvlan the parent {parent} cannot be a {kind} device: the kernel would \
                 stack on the one below; leave mode out, or choose that one"
            )));
        }
        for other in self.card_users()? {
            check_other(driver, &sharing, &other)?;
        }
        if sharing.is_exclusive() {
            check_hosts_own(&sharing, &links, named.device.index)?;
        }
        Ok(sharing)
    }

    /// Checks that the host's routes lead to the subnets of routed containers by their card, for
    /// that is how their packets find the next hop.
    ///
    /// # Errors
    /// A sentence about the first to which none leads.
    pub(in crate::agent) async fn check_routes(
        &self,
        driver: Driver,
        sharing: &Sharing,
        prefixes: impl Iterator<Item = IpNet>,
    ) -> Result<()> {
        if !sharing.is_routed(driver) {
            return Ok(());
        }
        let device = &sharing.device;
        let link = self.netlink.link(device).await?;
        let index = link.map(|link| link.index);
        let index = index.with_context(|| format!("there is no device {device}"))?;
        let routes = self.netlink.routes().await?;
        for prefix in prefixes {
            let leads = |route: &Route| {
                let by_it = route.is_unicast && route.devices.contains(&index);
                by_it && overlaps(&route.destination, &prefix)
            };
            if !routes.iter().any(leads) {
                return Err(conflict(format!(
                    "with mode=l3 packets go by the host's routes, and none leads to {prefix} by \
                     {device}: give {device} an address there, or add a route"
                )));
            }
        }
        Ok(())
    }

    /// The largest packet of a card that is there, in bytes.
    ///
    /// # Errors
    /// The kernel's.
    pub(in crate::agent) async fn mtu_of(&self, sharing: &Sharing) -> Result<Option<u32>> {
        if sharing.parent.is_empty() {
            return Ok(None);
        }
        let links = self.netlink.links().await?;
        Ok(Some(Named::find(&links, &sharing.parent)?.device.mtu))
    }

    /// Makes what of a shared card is missing, and attaches the programs if they carry the
    /// packets. Returns the device.
    ///
    /// # Errors
    /// The card is gone, or the kernel refuses.
    pub(super) async fn make_sharing(&self, driver: Driver, sharing: &mut Sharing) -> Result<Link> {
        let name = sharing.device.clone();
        if self.netlink.link(&name).await?.is_none() {
            if sharing.parent.is_empty() {
                self.make_lan(&name).await?;
            } else {
                let links = self.netlink.links().await?;
                let named = Named::find(&links, &sharing.parent)?;
                if sharing.made && named.vlan != 0 {
                    self.netlink
                        .add_vlan(&name, named.device.index, named.vlan)
                        .await?;
                }
            }
        }
        let link = self.netlink.link(&name).await?;
        let link = link.with_context(|| format!("there is no device {name}"))?;
        sharing.ifindex = link.index;
        if driver == Driver::Underlay {
            let others = self.others_on(&name, &link)?;
            if !link.is_allmulti {
                self.netlink.accept_multicast(link.index, true).await?;
            }
            sharing.allmulti |= !link.is_allmulti || others.0;
            // Tagged frames are let in by a card that has such a VLAN's device, or that lets in
            // everything; we have no such device.
            if sharing.vlan != 0 {
                if !link.is_promiscuous {
                    self.netlink.accept_everything(link.index, true).await?;
                }
                sharing.promiscuous |= !link.is_promiscuous || others.1;
            }
            self.with_datapath(|datapath| datapath.add_parent(link.index))
                .with_context(|| format!("cannot carry packets of containers on {name}"))?;
        }
        Ok(link)
    }

    /// Whether it was we who had a card accept all multicast, and everything.
    fn others_on(&self, device: &str, link: &Link) -> Result<(bool, bool)> {
        let users = self.card_users()?;
        let on = users.iter().filter(|user| user.sharing.device == device);
        Ok(on.fold((false, false), |(multicast, all), user| {
            (
                multicast || user.sharing.allmulti && link.is_allmulti,
                all || user.sharing.promiscuous && link.is_promiscuous,
            )
        }))
    }

    /// A link without a card: a pair of devices of which nobody uses the other end.
    async fn make_lan(&self, name: &str) -> Result<()> {
        let new = NewGateway {
            name,
            mac: names::random_mac()?,
            mtu: self.default_mtu(),
        };
        self.netlink.add_gateway(&new).await?;
        for end in [name.to_owned(), gateway_peer(name)] {
            sysctl::set(&format!("ipv6/conf/{end}/disable_ipv6"), "1")?;
            let link = self.netlink.link(&end).await?;
            let link = link.with_context(|| format!("device {end} is gone"))?;
            self.netlink.set_up(link.index).await?;
        }
        Ok(())
    }

    /// Gives a card back, unless somebody other than `user` still shares it.
    ///
    /// # Errors
    /// The kernel's; what is gone already is fine.
    pub(super) async fn unmake_sharing(
        &self,
        driver: Driver,
        sharing: &Sharing,
        user: &str,
    ) -> Result<()> {
        let users = self.card_users()?;
        let others: Vec<&User> = users
            .iter()
            .filter(|other| other.name != user && other.sharing.device == sharing.device)
            .collect();
        let link = self.netlink.link(&sharing.device).await?;
        if driver == Driver::Underlay {
            let others = others.iter().filter(|other| other.driver == driver);
            let others: Vec<&Sharing> = others.map(|other| &other.sharing).collect();
            if let Some(link) = &link {
                if sharing.promiscuous && others.iter().all(|other| !other.promiscuous) {
                    self.netlink.accept_everything(link.index, false).await?;
                }
                if others.is_empty() {
                    if sharing.allmulti {
                        self.netlink.accept_multicast(link.index, false).await?;
                    }
                    self.with_datapath(|datapath| datapath.remove_parent(link.index))?;
                }
            } else if others.is_empty() && sharing.ifindex != 0 {
                self.with_datapath(|datapath| datapath.remove_parent(sharing.ifindex))?;
            }
        }
        if sharing.made && others.is_empty() && link.is_some_and(|link| link.is_ours()) {
            self.netlink.delete_link(&sharing.device).await?;
        }
        Ok(())
    }
}

/// What a network is called among those who share a card.
pub(super) fn user_of_network(name: &str) -> String {
    format!("network {name}")
}

/// What an interface of somebody is called among those who share a card.
pub(super) fn user_of_card(owner: &str, interface: &str) -> String {
    format!("the card {interface} of {owner}")
}

/// Whether somebody can share a card with somebody else who has it already: the kernel gives all
/// frames of a device to one driver, and a card in mode passthru to one container.
fn check_other(driver: Driver, sharing: &Sharing, other: &User) -> Result<()> {
    if other.sharing.parent != sharing.parent {
        return Ok(());
    }
    let (parent, name) = (&sharing.parent, &other.name);
    if other.driver != driver {
        return Err(conflict(format!(
            "parent {parent} is used by {name} with driver {}, remove that first or choose another \
             parent",
            other.driver
        )));
    }
    if driver == Driver::Ipvlan {
        return Err(conflict(format!(
            "parent {parent} is used by {name}, and ipvlan has one network a parent; choose \
             another parent"
        )));
    }
    if sharing.is_exclusive() || other.sharing.is_exclusive() {
        return Err(conflict(format!(
            "parent {parent} is used by {name}, and with macvlan_mode=passthru it is for one \
             network alone; choose another parent"
        )));
    }
    Ok(())
}

/// Checks that no device that netpath did not make shares a card that is to be for one alone. Those
/// in other namespaces are not seen from here; the kernel refuses when a container comes.
fn check_hosts_own(sharing: &Sharing, links: &[Link], parent: u32) -> Result<()> {
    let shares = |link: &&Link| {
        let kind = link.kind.as_deref();
        link.peer == parent && matches!(kind, Some("macvlan" | "macvtap"))
    };
    match links.iter().find(shares) {
        None => Ok(()),
        Some(link) => Err(conflict(format!(
            "parent {} is used by {}, a device of the host that is no network of netpath's, and \
             with macvlan_mode=passthru it is for one alone; remove that (\"ip link del {}\") or \
             choose another parent",
            sharing.parent, link.name, link.name
        ))),
    }
}
