//! Addresses of devices.

use std::net::IpAddr;

use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope,
};

use super::{Netlink, to_io};

/// An address of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Index of the device.
    pub index: u32,
    /// The address itself.
    pub ip: IpAddr,
    /// Length of its on-link prefix.
    pub prefix_len: u8,
    /// Global or site scope: neither link-local nor loopback.
    pub is_global: bool,
    /// A second address of its IPv4 subnet, or a temporary IPv6 address (RFC 8981): both
    /// have the same flag.
    pub is_secondary: bool,
    /// Usable as the source of new connections: not deprecated, tentative or a duplicate.
    pub is_usable: bool,
}

impl Address {
    fn from_message(message: &AddressMessage) -> Option<Self> {
        let mut ip = None;
        let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
        for attribute in &message.attributes {
            match attribute {
                // On a point-to-point link IFA_ADDRESS is the peer's.
                AddressAttribute::Local(local) => ip = Some(*local),
                AddressAttribute::Address(address) => ip = ip.or(Some(*address)),
                AddressAttribute::Flags(all) => flags = *all,
                _ => {}
            }
        }
        let unusable = AddressFlags::Deprecated | AddressFlags::Tentative | AddressFlags::Dadfailed;
        Some(Self {
            index: message.header.index,
            ip: ip?,
            prefix_len: message.header.prefix_len,
            is_global: matches!(
                message.header.scope,
                AddressScope::Universe | AddressScope::Site
            ),
            is_secondary: flags.contains(AddressFlags::Secondary),
            is_usable: !flags.intersects(unusable),
        })
    }
}

impl Netlink {
    /// All addresses of all devices.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn addresses(&self) -> Result<Vec<Address>> {
        let _alone = self.lists.lock().await;
        self.handle
            .address()
            .get()
            .execute()
            .try_filter_map(|message| async move { Ok(Address::from_message(&message)) })
            .try_collect()
            .await
            .map_err(to_io)
            .context("cannot list addresses")
    }

    /// Gives a device an address, unless it has it. IPv6 addresses are not probed for
    /// duplicates: all addresses of our networks are assigned by one agent.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn add_address(&self, index: u32, address: IpNet) -> Result<()> {
        self.add_address_with(index, address, AddressFlags::empty())
            .await
    }

    /// As [`Self::add_address`], but the kernel adds no route to the address's subnet.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn add_address_alone(&self, index: u32, address: IpNet) -> Result<()> {
        self.add_address_with(index, address, AddressFlags::Noprefixroute)
            .await
    }

    /// Takes an address from a device; one that is gone is fine.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn remove_address(&self, index: u32, address: IpNet) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.prefix_len = address.prefix_len();
        message.header.family = match address {
            IpNet::V4(_) => AddressFamily::Inet,
            IpNet::V6(_) => AddressFamily::Inet6,
        };
        let local = AddressAttribute::Local(address.addr());
        message.attributes.push(local);
        let removed = self.handle.address().del(message).execute().await;
        match removed.map_err(to_io) {
            Err(error)
                if !matches!(
                    error.raw_os_error(),
                    Some(libc::EADDRNOTAVAIL | libc::ENODEV)
                ) =>
            {
                Err(error).with_context(|| format!("cannot remove address {address}"))
            }
            _ => Ok(()),
        }
    }

    async fn add_address_with(
        &self,
        index: u32,
        address: IpNet,
        mut flags: AddressFlags,
    ) -> Result<()> {
        let mut request = self
            .handle
            .address()
            .add(index, address.addr(), address.prefix_len());
        if address.addr().is_ipv6() {
            flags |= AddressFlags::Nodad;
        }
        if !flags.is_empty() {
            let attributes = &mut request.message_mut().attributes;
            attributes.push(AddressAttribute::Flags(flags));
        }
        match request.execute().await.map_err(to_io) {
            Err(error) if error.raw_os_error() != Some(libc::EEXIST) => {
                Err(error).with_context(|| format!("cannot set address {address}"))
            }
            _ => Ok(()),
        }
    }
}
