//! Addresses on a wire that this host knows to be somebody's: its own, and those of whoever it has
//! put there. Those of other machines it cannot know.

use std::net::IpAddr;

use anyhow::Result;

use super::share::user_of_card;
use crate::agent::Agent;
use crate::physical::record::Sharing;
use crate::problem::conflict;
use crate::store::{Driver, NetworkRecord};

/// An address, and whose it is.
pub(in crate::agent) struct Taken {
    pub(in crate::agent) address: IpAddr,
    owner: String,
}

impl Agent {
    /// Addresses on the wire of a network, but for those of the network's own containers.
    ///
    /// # Errors
    /// The kernel's, or the store cannot be read.
    pub(in crate::agent) async fn taken_beside(
        &self,
        network: &NetworkRecord,
    ) -> Result<Vec<Taken>> {
        match &network.sharing {
            // Without a parent there is no wire.
            Some(sharing) if !sharing.parent.is_empty() => {
                let mut taken = self.taken_by_host().await?;
                taken.extend(self.taken_by_cards(sharing)?);
                Ok(taken)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// All addresses on a wire.
    ///
    /// # Errors
    /// The kernel's, or the store cannot be read.
    pub(super) async fn taken_on(&self, sharing: &Sharing) -> Result<Vec<Taken>> {
        let mut taken = self.taken_by_host().await?;
        taken.extend(self.taken_by_cards(sharing)?);
        let mut networks = self.store.networks()?;
        networks.retain(|network| is_on(network.sharing.as_ref(), sharing));
        for container in self.store.containers()? {
            for network in &networks {
                let endpoint = container.endpoint_in(&network.name);
                let addresses = endpoint.into_iter().flat_map(|e| e.addresses());
                taken.extend(addresses.map(|address| Taken {
                    address,
                    owner: format!("container {}", container.name),
                }));
            }
        }
        Ok(taken)
    }

    /// Who has a MAC address on a device that is shared: the card itself, a container, or a card of
    /// somebody.
    ///
    /// # Errors
    /// The kernel's, or the store cannot be read.
    pub(in crate::agent) async fn owner_of_mac(
        &self,
        sharing: &Sharing,
        mac: [u8; 6],
    ) -> Result<Option<String>> {
        if let Some(link) = self.netlink.link(&sharing.device).await?
            && link.mac == Some(mac)
        {
            return Ok(Some(format!("{} itself", link.name)));
        }
        for card in self.store.cards()? {
            if card.mac == mac && is_beside(card.driver, &card.sharing, sharing) {
                return Ok(Some(user_of_card(&card.owner, &card.interface)));
            }
        }
        let mut networks = self.store.networks()?;
        networks.retain(|network| {
            let other = network.sharing.as_ref();
            other.is_some_and(|other| is_beside(network.driver, other, sharing))
        });
        for container in self.store.containers()? {
            let endpoints = networks
                .iter()
                .filter_map(|n| container.endpoint_in(&n.name));
            if endpoints.into_iter().any(|endpoint| endpoint.mac == mac) {
                return Ok(Some(format!("container {}", container.name)));
            }
        }
        Ok(None)
    }

    async fn taken_by_host(&self) -> Result<Vec<Taken>> {
        let addresses = self.netlink.addresses().await?;
        let global = addresses.into_iter().filter(|address| address.is_global);
        let taken = global.map(|address| Taken {
            address: address.ip,
            owner: "the host".to_owned(),
        });
        Ok(taken.collect())
    }

    fn taken_by_cards(&self, sharing: &Sharing) -> Result<Vec<Taken>> {
        let mut taken = Vec::new();
        for card in self.store.cards()? {
            if !is_on(Some(&card.sharing), sharing) {
                continue;
            }
            let leased = self.lease_of(&card).map(|lease| lease.address.addr());
            let fixed = card.addresses.iter().map(ipnet::IpNet::addr);
            for address in fixed.chain(leased.map(IpAddr::V4)) {
                let owner = user_of_card(&card.owner, &card.interface);
                taken.push(Taken { address, owner });
            }
        }
        Ok(taken)
    }
}

/// Whether somebody's card is on the same wire.
fn is_on(other: Option<&Sharing>, sharing: &Sharing) -> bool {
    other.is_some_and(|other| !other.parent.is_empty() && other.parent == sharing.parent)
}

/// Whether frames for somebody else's MAC address come by the same device and VLAN. All of ipvlan
/// have the card's.
fn is_beside(driver: Driver, other: &Sharing, sharing: &Sharing) -> bool {
    driver != Driver::Ipvlan && (&other.device, other.vlan) == (&sharing.device, sharing.vlan)
}

/// Checks that an address is nobody's.
///
/// # Errors
/// A sentence that says whose it is.
pub(in crate::agent) fn check_free(taken: &[Taken], address: IpAddr) -> Result<()> {
    match taken.iter().find(|taken| taken.address == address) {
        None => Ok(()),
        Some(taken) => Err(conflict(format!(
            "address {address} belongs to {}, choose another",
            taken.owner
        ))),
    }
}
