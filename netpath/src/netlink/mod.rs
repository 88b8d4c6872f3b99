//! The kernel's devices, addresses and routes, by rtnetlink; namespaces and sysctls.
//!
//! Thin wrappers that speak this crate's types and turn netlink errors into [`std::io`]
//! errors. A [`Netlink`] belongs to the network namespace of the thread that made it.

mod address;
mod card;
pub mod ethtool;
mod fdb;
mod link;
pub mod monitor;
mod neighbour;
pub mod netfilter;
pub mod netns;
mod route;
pub mod sysctl;

use std::io;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::sync::Mutex;

pub use address::Address;
pub use card::{CardKind, NewCard};
pub use link::{GROUP, Link, NewGateway, NewVeth, NewVxlan, gateway_peer};
pub use route::Route;

/// A netlink socket of one network namespace.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: rtnetlink::Handle,
    /// Held while something is listed: the kernel does not begin a list on a socket before it is
    /// through with the last one (EBUSY).
    lists: Arc<Mutex<()>>,
}

impl Netlink {
    /// Opens a socket in the calling thread's namespace, served by the current runtime.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn connect() -> Result<Self> {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("cannot open a netlink socket")?;
        tokio::spawn(connection);
        Ok(Self {
            handle,
            lists: Arc::default(),
        })
    }
}

/// The name of a device of the caller's network namespace.
pub fn device_name(ifindex: u32) -> Option<String> {
    let mut text = [0u8; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the size that the function asks for.
    let found = unsafe { libc::if_indextoname(ifindex, text.as_mut_ptr().cast()) };
    if found.is_null() {
        return None;
    }
    let name = text.split(|&byte| byte == 0).next()?;
    String::from_utf8(name.to_vec()).ok()
}

/// The kernel's error, if the kernel gave one.
fn to_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}

/// Whether a chain of errors says that a device, address or process is not there.
pub fn is_missing(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error)
            .is_some_and(|code| {
                matches!(
                    code,
                    libc::ENODEV | libc::ENOENT | libc::EADDRNOTAVAIL | libc::ESRCH
                )
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everybody_may_list_at_once() {
        let netlink = Netlink::connect().unwrap();
        let lists = (0..64).map(|_| async {
            netlink.addresses().await?;
            netlink.routes().await?;
            netlink.links().await.map(drop)
        });
        for list in futures_util::future::join_all(lists).await {
            list.unwrap();
        }
    }
}
