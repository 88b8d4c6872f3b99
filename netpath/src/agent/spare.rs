//! Spare interfaces: namespaces with a veth pair whose program is attached before a container
//! wants them.
//!
//! Attaching a program waits for a grace period of the kernel (tcx, 5 to 20 ms), and so does
//! moving a device between namespaces. That is most of the time that connecting a container takes.
//! The namespaces go with the agent, and the pairs with them.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::Notify;

use super::endpoint::FIRST_INTERFACE;
use super::network::LOCAL_MTU;
use super::{Agent, blocking};
use crate::container::names;
use crate::netlink::{Netlink, NewVeth, netns, sysctl};

/// Making a spare holds the kernel's lock of network devices for milliseconds: not before the
/// containers that are being connected are done.
const QUIET: Duration = Duration::from_millis(100);
/// A kernel that refuses is asked again then.
const AFTER_FAILURE: Duration = Duration::from_secs(10);

/// The spare interfaces.
#[derive(Default)]
pub(super) struct Spares {
    ready: Mutex<Vec<Spare>>,
    taken: Notify,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Spare {
    /// Name of the host's end.
    pub(super) device: String,
    /// MAC address of the other end.
    pub(super) mac: [u8; 6],
    /// Where the other end is; it has its final name.
    netns: File,
    mtu: u32,
    local_mtu: u32,
}

impl Spares {
    /// Takes one for a network with these MTUs.
    fn take(&self, mtu: u32, local_mtu: u32) -> Option<Spare> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let at = ready
            .iter()
            .position(|spare| (spare.mtu, spare.local_mtu) == (mtu, local_mtu))?;
        let spare = ready.swap_remove(at);
        self.taken.notify_one();
        Some(spare)
    }

    fn put(&self, spare: Spare) {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        ready.push(spare);
    }

    fn count(&self) -> usize {
        let ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        ready.len()
    }
}

impl Spare {
    /// Makes its namespace a container's, mounted on `path`.
    ///
    /// # Errors
    /// The file exists, or the kernel refuses.
    pub(super) fn name(&self, path: &Path) -> Result<()> {
        netns::name(&self.netns, path)
    }

    /// Moves its other end into the namespace of a container.
    ///
    /// # Errors
    /// The kernel's: the namespace is gone, or has such an interface.
    fn hand_over(&self, new: &NewVeth<'_>) -> Result<()> {
        netns::inside(netns::borrow(&self.netns), || {
            tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build()
                .context("cannot start a runtime")?
                .block_on(async {
                    let netlink = Netlink::connect()?;
                    let link = netlink.link(FIRST_INTERFACE).await?;
                    let link = link.context("its other end is gone")?;
                    netlink.hand_over(link.index, new).await
                })
        })
    }
}

impl Agent {
    /// Makes spares when there are too few and nobody is being connected, forever.
    pub(super) async fn keep_spares(self: Arc<Self>) {
        loop {
            while self.spares.count() < self.settings.spares {
                let taken = self.spares.taken.notified();
                if tokio::time::timeout(QUIET, taken).await.is_ok() {
                    continue;
                }
                // Operations of users do not meet it halfway.
                let held = self.held.lock().await;
                match self.make_spare().await {
                    Ok(spare) => self.spares.put(spare),
                    Err(error) => {
                        drop(held);
                        log::warn!("cannot make a spare interface: {error:#}");
                        tokio::time::sleep(AFTER_FAILURE).await;
                    }
                }
            }
            self.spares.taken.notified().await;
        }
    }

    async fn make_spare(&self) -> Result<Spare> {
        let spare = Spare {
            device: self.new_device()?,
            mac: names::random_mac()?,
            netns: blocking(netns::anonymous)?,
            mtu: self.default_mtu(),
            local_mtu: LOCAL_MTU,
        };
        let device = spare.device.as_str();
        let made = async {
            self.netlink
                .add_veth(&NewVeth {
                    name: device,
                    peer_netns: netns::borrow(&spare.netns),
                    peer_name: FIRST_INTERFACE,
                    peer_mac: spare.mac,
                    mtu: spare.mtu,
                    local_mtu: spare.local_mtu,
                })
                .await?;
            let index = self.prepare_host_end(device, "netpath spare").await?;
            self.with_datapath(|datapath| datapath.prepare_endpoint(index))
        };
        if let Err(error) = made.await {
            // Best effort: what failed above is the error to tell.
            let _ = self.netlink.delete_link(device).await;
            return Err(error);
        }
        Ok(spare)
    }

    /// Takes a spare whose device nobody has removed.
    pub(super) async fn take_spare(&self, mtu: u32, local_mtu: u32) -> Option<Spare> {
        while let Some(spare) = self.spares.take(mtu, local_mtu) {
            if let Ok(Some(_)) = self.netlink.link(&spare.device).await {
                return Some(spare);
            }
        }
        None
    }

    /// Hands a spare over to a container that lives in a namespace of somebody else. False: it
    /// is of no use, and gone.
    pub(super) async fn hand_over(&self, spare: &Spare, new: &NewVeth<'_>) -> Result<bool> {
        if let Err(error) = blocking(|| spare.hand_over(new)) {
            log::debug!(
                "the spare interface {} cannot be used: {error:#}",
                spare.device
            );
            self.netlink.delete_link(&spare.device).await?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Sets up the host's end of a veth pair; returns its index.
    pub(super) async fn prepare_host_end(&self, device: &str, alias: &str) -> Result<u32> {
        let link =
            self.netlink.link(device).await?.with_context(|| {
                format!("device {device} was removed while it was being set up")
            })?;
        // It has no address, not even a link-local one.
        sysctl::set(&format!("ipv6/conf/{device}/disable_ipv6"), "1")?;
        self.netlink.set_alias(link.index, alias).await?;
        self.netlink.set_up(link.index).await?;
        Ok(link.index)
    }

    /// A name for another veth.
    pub(super) fn new_device(&self) -> Result<String> {
        Ok(format!("npv{:x}", self.store.next_id("endpoint")?))
    }
}
