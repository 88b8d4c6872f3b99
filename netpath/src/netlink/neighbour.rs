//! Neighbours: who has an address on a link.

use std::net::IpAddr;

use anyhow::{Context, Result};

use super::{Netlink, to_io};

impl Netlink {
    /// Tells the kernel for good who has an address. Such an entry is never asked for, never
    /// forgotten, and does not count towards the limit of the table.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn pin_neighbour(&self, index: u32, address: IpAddr, mac: [u8; 6]) -> Result<()> {
        self.handle
            .neighbours()
            .add(index, address)
            .link_layer_address(&mac)
            .replace()
            .execute()
            .await
            .map_err(to_io)
            .with_context(|| format!("cannot tell the kernel who has {address}"))
    }
}
