//! What bridges know of MAC addresses: their forwarding database.

use anyhow::{Context, Result};
use rtnetlink::packet_route::neighbour::{NeighbourFlags, NeighbourState};

use super::{Netlink, to_io};

/// The kernel's `NUD_REACHABLE`: an entry that ages.
const REACHABLE: u16 = 0x02;
/// The kernel's `NUD_NOARP`: one that does not.
const NO_ARP: u16 = 0x40;

impl Netlink {
    /// Tells a bridge for good that a MAC address is behind one of its ports. What a bridge has
    /// learnt it forgets when it sees no more frames from there.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn pin_mac(&self, port: u32, mac: [u8; 6]) -> Result<()> {
        let state = NeighbourState::Other(REACHABLE | NO_ARP);
        self.set_fdb(port, mac, state).await
    }

    /// Makes an entry of [`Self::pin_mac`] as if the bridge had just learnt it.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn unpin_mac(&self, port: u32, mac: [u8; 6]) -> Result<()> {
        self.set_fdb(port, mac, NeighbourState::Reachable).await
    }

    async fn set_fdb(&self, port: u32, mac: [u8; 6], state: NeighbourState) -> Result<()> {
        self.handle
            .neighbours()
            .add_bridge(port, &mac)
            .state(state)
            // The bridge's table, not the device's own.
            .flags(NeighbourFlags::Controller)
            .replace()
            .execute()
            .await
            .map_err(to_io)
            .with_context(|| format!("cannot tell the bridge of device {port} who is there"))
    }
}
