//! Cards that are added to running containers, one by one.

use std::fs::File;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ipnet::IpNet;

use super::network::stacked_in;
use super::plug::Plug;
use super::share::user_of_card;
use super::taken::check_free;
use super::target::{Target, open_home};
use crate::agent::watch::wait_for;
use crate::agent::{Agent, Held, attach, blocking, now};
use crate::api::types::{AttachCard, Card};
use crate::netlink::{Link, netns};
use crate::physical::address::{self, Wanted as Address};
use crate::physical::inside::{Interface, V6};
use crate::physical::record::CardRecord;
use crate::physical::{Wanted, take};
use crate::problem::{conflict, invalid, not_found};
use crate::store::{ContainerRecord, Driver, ProcessId};

/// Interfaces of a container that are looked for when none is named.
const MOST: u32 = 100;
/// How often whoever waits for the end of a card's owner sees whether there is still a card.
const SELDOM: Duration = Duration::from_secs(60);
/// Longest name of an interface in bytes (IFNAMSIZ less the zero).
const LONGEST_NAME: usize = 15;

impl Agent {
    /// Adds an interface on a card of the host to a namespace.
    ///
    /// # Errors
    /// A sentence; nothing is left of it.
    pub async fn attach_card(self: &Arc<Self>, new: AttachCard) -> Result<Card> {
        let held = self.held.lock().await;
        let target = self.find_target(&new)?;
        let mut card = self.plan_card(&new, &target).await?;
        self.store.put_card(&card)?;
        let mut made = self.make_card(&mut card, &target.netns).await;
        if made.is_ok() && card.dhcp {
            made = self
                .start_client(&mut card, &target.netns)
                .and_then(|()| self.store.put_card(&card));
        }
        // Others need not wait for a server.
        drop(held);
        if made.is_ok() && card.dhcp {
            made = self.wait_for_lease(&card).await.map(|_| ());
        }
        let _held = self.held.lock().await;
        // Whoever has detached it has removed all of it, and another one may have its name now.
        let now = self.store.find_card(&card.key())?;
        if card.client.is_some() && now.and_then(|now| now.client) != card.client {
            return Err(conflict(format!(
                "{} was detached meanwhile",
                name_of(&card)
            )));
        }
        let made = made.and_then(|()| {
            card.ready = true;
            self.store.put_card(&card)
        });
        if let Err(error) = made {
            if let Err(second) = self.unmake_card(&card, Some(&target.netns)).await {
                log::error!("cannot clean up after {}: {second:#}", name_of(&card));
            }
            return Err(error);
        }
        log::info!("{} is on {}", name_of(&card), card.sharing.parent);
        self.watch_card(&card, target.netns);
        Ok(self.view_card(&card))
    }

    /// Takes a card away as soon as the process ends by which its namespace was named. The
    /// namespace may live on, so the file of it is kept until then. Of namespaces that were named
    /// otherwise the end is seen by a look now and then.
    fn watch_card(self: &Arc<Self>, card: &CardRecord, netns: File) {
        let Some(process) = card.home.process.clone() else {
            return;
        };
        let (agent, key) = (self.clone(), card.key());
        tokio::spawn(async move {
            let ended = wait_for(&process);
            tokio::pin!(ended);
            let ended = loop {
                if let Ok(ended) = tokio::time::timeout(SELDOM, &mut ended).await {
                    break ended;
                }
                let found = agent.store.find_card(&key).ok().flatten();
                if found.is_none_or(|card| card.home.process.as_ref() != Some(&process)) {
                    return;
                }
            };
            if let Err(error) = ended {
                log::error!("cannot wait for the owner of {key}: {error:#}");
                return;
            }
            loop {
                let mut held = agent.held.lock().await;
                let removed = agent.process_ended(&mut held, &key, &process, &netns).await;
                drop(held);
                let Err(error) = removed else { return };
                log::error!("cannot remove the card {key}: {error:#}");
                tokio::time::sleep(SELDOM).await;
            }
        });
    }

    async fn process_ended(
        &self,
        held: &mut Held,
        key: &str,
        process: &ProcessId,
        netns: &File,
    ) -> Result<()> {
        match self.store.find_card(key)? {
            Some(card) if card.home.process.as_ref() == Some(process) => {
                log::info!("{} is gone with its process", name_of(&card));
                held.beyond_repair.remove(key);
                self.unmake_card(&card, Some(netns)).await
            }
            // It was detached, and perhaps another one has been made.
            _ => Ok(()),
        }
    }

    /// Takes an interface, or all of them, from somebody.
    ///
    /// # Errors
    /// There is none of this name, or the kernel's.
    pub async fn detach_card(&self, owner: &str, interface: Option<&str>) -> Result<()> {
        let _held = self.held.lock().await;
        let mut cards = self.store.cards()?;
        let called = match cards.iter().any(|card| card.owner == owner) {
            true => None,
            false => self.find_called(owner)?.map(|record| record.name),
        };
        let owner = called.as_deref().unwrap_or(owner);
        cards.retain(|card| card.owner == owner);
        if cards.is_empty() {
            return Err(not_found(format!(
                "nothing was added to {owner}, see \"netpath cards\""
            )));
        }
        if let Some(interface) = interface {
            cards.retain(|card| card.interface == interface);
            if cards.is_empty() {
                return Err(not_found(format!(
                    "{owner} has no card {interface}, see \"netpath cards\""
                )));
            }
        }
        for card in &cards {
            self.unmake_card(card, open_home(&card.home).as_ref())
                .await?;
            log::info!("{} is gone", name_of(card));
        }
        // The card may have been its way out.
        if let Some(record) = self.store.find_container(owner)?
            && let Some(netns) = self.open_netns(&record)
            && cards.iter().any(|card| !card.gateways.is_empty())
        {
            self.route_out(&record, &record, &netns, &self.store.networks()?)?;
        }
        Ok(())
    }

    /// All cards.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn list_cards(&self) -> Result<Vec<Card>> {
        let cards = self.store.cards()?;
        Ok(cards.iter().map(|card| self.view_card(card)).collect())
    }

    fn view_card(&self, card: &CardRecord) -> Card {
        let mut addresses: Vec<String> = card.addresses.iter().map(ToString::to_string).collect();
        let mut gateways = card.gateways.clone();
        let lease = self.lease_of(card);
        if let Some(lease) = &lease {
            addresses.insert(0, lease.address.to_string());
            gateways.extend(lease.routers.first().copied().map(IpAddr::V4));
        }
        Card {
            owner: card.owner.clone(),
            interface: card.interface.clone(),
            driver: card.driver,
            parent: card.sharing.parent.clone(),
            mac: card.mac.map(|byte| format!("{byte:02x}")).join(":"),
            mtu: card.mtu,
            addresses,
            gateways,
            routes: card.routes.iter().map(ToString::to_string).collect(),
            dhcp: card.dhcp,
            lease_seconds: lease.map(|lease| lease.seconds),
            netns: card.home.path.clone().into(),
            created: card.created,
        }
    }

    async fn plan_card(&self, new: &AttachCard, target: &Target) -> Result<CardRecord> {
        let driver = new.driver.as_deref().unwrap_or("underlay").parse()?;
        if !matches!(driver, Driver::Underlay | Driver::Macvlan | Driver::Ipvlan) {
            return Err(invalid(format!(
                "driver {driver} shares no card, choose underlay, macvlan or ipvlan"
            )));
        }
        // pipework writes VLANs behind an at sign.
        let parent = new.parent.replacen('@', ".", 1);
        let mut options = new.options.clone();
        options.insert("parent".into(), parent);
        let wanted: Wanted = take(driver, &mut options)?;
        let mac = address::mac_or_random(new.mac.as_deref())?;
        let mut card = CardRecord {
            owner: target.owner.clone(),
            home: target.home.clone(),
            driver,
            mac,
            created: now(),
            ..CardRecord::default()
        };
        read_addresses(&mut card, &new.addresses)?;
        for route in &new.routes {
            card.routes.push(route.parse()?);
        }
        let names = interfaces(&target.netns)?;
        card.interface = match &new.interface {
            Some(name) => check_interface(name, &names, &target.owner)?,
            None => free_interface(&names)
                .with_context(|| format!("{} has {MOST} interfaces already", target.owner))?,
        };
        card.sharing = self.plan_sharing(driver, &wanted).await?;
        if card.sharing.is_routed(driver) && (card.dhcp || card.addresses.is_empty()) {
            return Err(invalid(
                "with mode=l3 the wire finds an interface by its address, which nobody else can \
                 give: name it with --ip ADDRESS/LENGTH",
            ));
        }
        let subnets = card.addresses.iter().map(IpNet::trunc);
        self.check_routes(driver, &card.sharing, subnets).await?;
        if !card.addresses.is_empty() {
            let taken = self.taken_on(&card.sharing).await?;
            for net in &card.addresses {
                check_free(&taken, net.addr())?;
            }
        }
        if let Some(owner) = self.owner_of_mac(&card.sharing, card.mac).await? {
            return Err(conflict(format!(
                "MAC address {} belongs to {owner} on {}, choose another",
                card.mac.map(|byte| format!("{byte:02x}")).join(":"),
                card.sharing.parent
            )));
        }
        card.mtu = new.mtu.unwrap_or(0);
        if card.sharing.has_veths(driver) {
            card.device = self.new_device()?;
        }
        Ok(card)
    }

    async fn make_card(&self, card: &mut CardRecord, netns: &File) -> Result<()> {
        let parent = self.make_sharing(card.driver, &mut card.sharing).await?;
        card.parent_mac = parent.mac;
        if card.mtu == 0 {
            card.mtu = parent.mtu;
        } else if !(68..=parent.mtu).contains(&card.mtu) {
            return Err(invalid(format!(
                "mtu {} is out of range, {} has {}",
                card.mtu, parent.name, parent.mtu
            )));
        }
        self.store.put_card(card)?;
        let plugged = self.plug(&plug_of(card), netns, inside_of(card)).await?;
        card.ifindex = plugged.ifindex;
        card.mac = plugged.mac;
        Ok(())
    }

    async fn unmake_card(&self, card: &CardRecord, netns: Option<&File>) -> Result<()> {
        self.end_client(card);
        self.unplug(&plug_of(card), card.ifindex, netns).await?;
        let user = user_of_card(&card.owner, &card.interface);
        self.unmake_sharing(card.driver, &card.sharing, &user)
            .await?;
        self.store.remove_card(&card.key())
    }

    /// Removes what was added to a container of ours that ends; its namespace is still there. What
    /// fails is tried again by the next look.
    pub(in crate::agent) async fn remove_cards_of(&self, record: &ContainerRecord) {
        if !record.is_own() || !record.has_own_namespace() {
            return;
        }
        let path = self.netns_path(&record.name);
        let cards = self.store.cards().unwrap_or_default();
        for card in cards
            .iter()
            .filter(|card| path == Path::new(&card.home.path))
        {
            let netns = open_home(&card.home);
            if let Err(error) = self.unmake_card(card, netns.as_ref()).await {
                log::error!("cannot remove {}: {error:#}", name_of(card));
            }
        }
    }

    /// Takes over the cards of an earlier agent.
    pub(in crate::agent) async fn take_over_cards(self: &Arc<Self>) -> Result<()> {
        for mut card in self.store.cards()? {
            let netns = open_home(&card.home);
            let Some(netns) = netns.filter(|_| card.ready) else {
                log::info!("{} is removed, nobody has it any more", name_of(&card));
                self.unmake_card(&card, open_home(&card.home).as_ref())
                    .await?;
                continue;
            };
            if let Err(error) = self.take_over_card(&mut card, &netns).await {
                log::error!("{} stays as it is: {error:#}", name_of(&card));
            }
            self.watch_card(&card, netns);
        }
        Ok(())
    }

    async fn take_over_card(&self, card: &mut CardRecord, netns: &File) -> Result<()> {
        let parent = self.make_sharing(card.driver, &mut card.sharing).await?;
        card.parent_mac = parent.mac;
        if card.driver == Driver::Underlay {
            let link = if card.sharing.is_stacked(card.driver) {
                stacked_in(Some(netns), card.ifindex, &parent)?
            } else {
                let link = self.netlink.link(&card.device).await?;
                link.filter(Link::is_ours)
            };
            match link {
                Some(link) => {
                    self.add_plug(&plug_of(card), link.index, &parent, Some(netns))
                        .await?;
                }
                None => self.plug_again(card, netns).await?,
            }
        } else if !interfaces(netns)?.contains(&card.interface) {
            self.plug_again(card, netns).await?;
        }
        let lives = card.client.as_ref().is_some_and(|client| client.is_alive());
        if card.dhcp && !lives {
            self.start_client(card, netns)?;
        }
        self.store.put_card(card)
    }

    async fn plug_again(&self, card: &mut CardRecord, netns: &File) -> Result<()> {
        log::warn!("{} is gone, making it anew", name_of(card));
        self.unplug(&plug_of(card), card.ifindex, Some(netns))
            .await?;
        let plugged = self.plug(&plug_of(card), netns, inside_of(card)).await?;
        card.ifindex = plugged.ifindex;
        self.store.put_card(card)
    }

    /// Removes the cards of those who have ended, and repairs what somebody removed.
    pub(in crate::agent) async fn look_at_cards(
        &self,
        held: &mut Held,
        links: &[Link],
    ) -> Result<()> {
        for mut card in self.store.cards()?.into_iter().filter(|card| card.ready) {
            let Some(netns) = open_home(&card.home) else {
                if card.home.process.is_some() {
                    // Whoever waits for its end has the namespace, which may live on with the device.
                    continue;
                }
                log::info!("{} is gone with its namespace", name_of(&card));
                held.beyond_repair.remove(&card.key());
                self.unmake_card(&card, None).await?;
                continue;
            };
            let parent = links.iter().find(|link| link.name == card.sharing.device);
            let is_there = |index: u32| links.iter().any(|link| link.index == index);
            let moved = parent.is_some_and(|parent| {
                parent.index != card.sharing.ifindex || parent.mac != card.parent_mac
            });
            let lost = match card.driver {
                Driver::Underlay if card.sharing.is_stacked(card.driver) => {
                    self.is_stacked_lost(&card.sharing, card.ifindex, card.mac)
                }
                Driver::Underlay => !is_there(card.ifindex),
                _ => false,
            };
            let ended = card
                .client
                .as_ref()
                .is_some_and(|client| !client.is_alive());
            let is_fine = !(moved || lost || card.dhcp && ended);
            // A card that is just being plugged in again: its end as a device, or its being set up,
            // is a reason to look again.
            let is_away = parent.is_none_or(|parent| !parent.is_up) && !card.sharing.made;
            if is_fine || is_away || held.beyond_repair.contains(&card.key()) {
                continue;
            }
            if let Err(error) = self.take_over_card(&mut card, &netns).await {
                // Trying again at once would fail again.
                held.beyond_repair.insert(card.key());
                log::error!("{} stays as it is: {error:#}", name_of(&card));
            }
        }
        Ok(())
    }
}

fn name_of(card: &CardRecord) -> String {
    user_of_card(&card.owner, &card.interface)
}

/// Reads the addresses of a request.
fn read_addresses(card: &mut CardRecord, texts: &[String]) -> Result<()> {
    for text in texts {
        match address::wanted(text)? {
            Address::Nothing if texts.len() > 1 => {
                return Err(invalid(format!(
                    "\"{text}\" means no address, leave the others out"
                )));
            }
            Address::Nothing => {}
            Address::Dhcp => card.dhcp = true,
            Address::Fixed(net, router) => {
                card.addresses.push(net);
                card.gateways.extend(router);
            }
        }
    }
    for v4 in [true, false] {
        let fixed = card
            .addresses
            .iter()
            .filter(|net| net.addr().is_ipv4() == v4);
        if fixed.count() + usize::from(v4 && card.dhcp) > 1 {
            return Err(invalid(format!(
                "an interface has one {} address, give one --ip of each family",
                if v4 { "IPv4" } else { "IPv6" }
            )));
        }
    }
    if card.dhcp && card.driver == Driver::Ipvlan {
        return Err(invalid(
            "DHCP servers tell interfaces by their MAC addresses, and with ipvlan all have the \
             parent's; choose --driver underlay or an address with --ip",
        ));
    }
    Ok(())
}

fn plug_of(card: &CardRecord) -> Plug<'_> {
    let fixed = |v4: bool| card.addresses.iter().find(|net| net.addr().is_ipv4() == v4);
    Plug {
        owner: &card.owner,
        driver: card.driver,
        sharing: &card.sharing,
        interface: &card.interface,
        device: &card.device,
        mac: card.mac,
        mtu: card.mtu,
        addr4: fixed(true).and_then(|net| match net {
            IpNet::V4(net) => Some(net.addr()),
            IpNet::V6(_) => None,
        }),
        addr6: fixed(false).and_then(|net| match net {
            IpNet::V6(net) => Some(net.addr()),
            IpNet::V4(_) => None,
        }),
        any_source: match card.sharing.is_routed(card.driver) {
            true => (false, false),
            false => (fixed(true).is_none(), fixed(false).is_none()),
        },
    }
}

fn inside_of(card: &CardRecord) -> Interface {
    let v6 = card.addresses.iter().any(|net| net.addr().is_ipv6());
    let routed = card.sharing.is_routed(card.driver);
    Interface {
        name: card.interface.clone(),
        addresses: card.addresses.clone(),
        gateways: card.gateways.clone(),
        routes_itself: false,
        routes: card.routes.clone(),
        v6: if v6 {
            V6::Fixed {
                routers: !routed && !card.gateways.iter().any(IpAddr::is_ipv6),
            }
        } else if routed {
            V6::Off
        } else {
            V6::AsIs
        },
    }
}

/// Names of the interfaces in a namespace.
fn interfaces(netns: &File) -> Result<Vec<String>> {
    blocking(|| netns::inside(netns::borrow(netns), attach::interfaces))
}

fn free_interface(taken: &[String]) -> Option<String> {
    let names = (1..MOST).map(|number| format!("eth{number}"));
    names.into_iter().find(|name| !taken.contains(name))
}

fn check_interface(name: &str, taken: &[String], owner: &str) -> Result<String> {
    let legal = |c: char| c.is_ascii_graphic() && !"/:".contains(c);
    if name.is_empty()
        || name.len() > LONGEST_NAME
        || !name.chars().all(legal)
        || [".", ".."].contains(&name)
    {
        return Err(invalid(format!(
            "\"{}\" cannot name an interface: use up to {LONGEST_NAME} letters and digits",
            name.escape_debug()
        )));
    }
    if taken.iter().any(|other| other == name) {
        return Err(conflict(format!(
            "{owner} has an interface {name} already, choose another name with --interface"
        )));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_free_name_is_taken() {
        let taken = ["lo", "eth0", "eth1", "eth3"].map(str::to_owned);
        assert_eq!(free_interface(&taken).as_deref(), Some("eth2"));
        assert!(check_interface("lan0", &taken, "x").is_ok());
        for wrong in ["eth1", "", "a/b", "a b", "0123456789abcdef", ".."] {
            assert!(check_interface(wrong, &taken, "x").is_err(), "{wrong}");
        }
    }

    #[test]
    fn one_address_of_each_family() {
        let read = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
            let mut card = CardRecord::default();
            read_addresses(&mut card, &texts).map(|()| card)
        };
        let card = read(&["10.0.0.5/24@10.0.0.1", "fd00::5/64"]).unwrap();
        assert_eq!((card.addresses.len(), card.gateways.len()), (2, 1));
        assert!(read(&["dhcp", "fd00::5/64"]).unwrap().dhcp);
        assert!(read(&["0/0"]).unwrap().addresses.is_empty());
        for wrong in [
            &["10.0.0.5/24", "10.0.1.5/24"][..],
            &["dhcp", "10.0.0.5/24"],
            &["0/0", "10.0.0.5/24"],
        ] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
