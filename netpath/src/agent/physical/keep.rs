//! What of physical networks and cards is to stay when an agent takes over, and what is to go
//! when there is none any more.

use std::sync::Arc;

use anyhow::Result;

use super::lease;
use super::plug::remove_device;
use super::target::open_home;
use crate::agent::Agent;
use crate::agent::gateway::network_of;
use crate::datapath::Keep;
use crate::netlink::{Link, Netlink, gateway_peer};
use crate::physical::record::{CardRecord, Home, Sharing};
use crate::store::{ContainerRecord, Driver, NetworkRecord, Origin};

impl Agent {
    /// Names of the host's devices that cards have, and of those that netpath made to be shared.
    pub(in crate::agent) fn card_devices(&self) -> Result<Vec<String>> {
        let mut devices = Vec::new();
        for card in self.store.cards()? {
            devices.push(card.device);
        }
        for user in self.card_users()? {
            if user.sharing.made {
                devices.push(gateway_peer(&user.sharing.device));
                devices.push(user.sharing.device);
            }
        }
        Ok(devices)
    }

    /// Adds what belongs to cards and wires to what is to stay in the maps.
    pub(in crate::agent) fn keep_cards(&self, keep: &mut Keep) -> Result<()> {
        for user in self.card_users()? {
            if user.driver == Driver::Underlay {
                keep.parents.push(user.sharing.ifindex);
            }
        }
        let cards = self.store.cards()?;
        keep.cards.extend(cards.iter().map(|card| card.ifindex));
        let networks = self.store.networks()?;
        for endpoint in self.store.containers()?.iter().flat_map(|c| &c.endpoints) {
            let network = network_of(endpoint, &networks);
            if network.is_some_and(|network| network.driver == Driver::Underlay) {
                keep.cards.push(endpoint.ifindex);
            }
        }
        Ok(())
    }
}

/// What a store knows of cards.
#[derive(Default)]
pub(in crate::agent) struct KnownCards {
    cards: Vec<CardRecord>,
    sharings: Vec<(Driver, Sharing)>,
    /// MAC addresses of containers on devices of the host, which are named.
    macs: Vec<(String, [u8; 6])>,
    /// Interfaces that the host does not see, in namespaces of somebody else.
    inside: Vec<Inside>,
}

/// An interface that the host does not see.
struct Inside {
    home: Home,
    interface: String,
    /// Index and MAC address of a stacked device.
    stacked: Option<(u32, [u8; 6])>,
}

impl KnownCards {
    pub(in crate::agent) fn new(
        cards: Vec<CardRecord>,
        networks: &[NetworkRecord],
        containers: &[Arc<ContainerRecord>],
    ) -> Self {
        let mut known = Self::default();
        for network in networks {
            let Some(sharing) = network.sharing.clone() else {
                continue;
            };
            for container in containers {
                let Some(endpoint) = container.endpoint_in(&network.name) else {
                    continue;
                };
                if sharing.is_routed(network.driver) {
                    // The card has let in nothing more for it.
                } else if sharing.has_veths(network.driver) {
                    known.macs.push((sharing.device.clone(), endpoint.mac));
                } else if let Origin::Attached { path, dev, ino } = &container.origin {
                    let home = Home {
                        path: path.clone(),
                        dev: *dev,
                        ino: *ino,
                        process: None,
                    };
                    let stacked = sharing.is_stacked(network.driver);
                    known.inside.push(Inside {
                        home,
                        interface: endpoint.interface.clone(),
                        stacked: stacked.then_some((endpoint.ifindex, endpoint.mac)),
                    });
                }
            }
            known.sharings.push((network.driver, sharing));
        }
        for card in &cards {
            if card.sharing.is_routed(card.driver) {
                // As above.
            } else if card.sharing.has_veths(card.driver) {
                known.macs.push((card.sharing.device.clone(), card.mac));
            } else {
                let stacked = card.sharing.is_stacked(card.driver);
                known.inside.push(Inside {
                    home: card.home.clone(),
                    interface: card.interface.clone(),
                    stacked: stacked.then_some((card.ifindex, card.mac)),
                });
            }
            known.sharings.push((card.driver, card.sharing.clone()));
        }
        known.cards = cards;
        known
    }

    /// Whether it is a device of a card, or one that netpath made to be shared.
    pub(in crate::agent) fn has(&self, link: &Link) -> bool {
        let own = self.cards.iter().any(|card| card.device == link.name);
        let made = self.sharings.iter().filter(|(_, sharing)| sharing.made);
        own || made
            .map(|(_, sharing)| &sharing.device)
            .any(|device| *device == link.name)
    }

    /// Ends DHCP clients, removes interfaces from namespaces of others, and has the host's cards
    /// accept no more than they did.
    pub(in crate::agent) async fn remove(&self) -> Result<()> {
        let netlink = Netlink::connect()?;
        for client in self.cards.iter().filter_map(|card| card.client.as_ref()) {
            lease::end(client);
        }
        for inside in &self.inside {
            if let Some(netns) = open_home(&inside.home) {
                remove_device(&inside.interface, inside.stacked, &netns)?;
            }
        }
        for (device, mac) in &self.macs {
            if let Some(link) = netlink.link(device).await? {
                netlink.refuse_mac(link.index, *mac).await?;
            }
        }
        for (_, sharing) in &self.sharings {
            let Some(link) = netlink.link(&sharing.device).await? else {
                continue;
            };
            if sharing.promiscuous && link.is_promiscuous {
                netlink.accept_everything(link.index, false).await?;
            }
            if sharing.allmulti && link.is_allmulti {
                netlink.accept_multicast(link.index, false).await?;
            }
        }
        Ok(())
    }
}
