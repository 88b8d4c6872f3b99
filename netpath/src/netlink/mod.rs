//! The kernel's devices, addresses and routes, by rtnetlink; namespaces and sysctls.
//!
//! Thin wrappers that speak this crate's types and turn netlink errors into [`std::io`]
//! errors. A [`Netlink`] belongs to the network namespace of the thread that made it.

mod address;
pub mod ethtool;
mod link;
pub mod monitor;
pub mod netns;
mod route;
pub mod sysctl;

use std::io;

use anyhow::{Context, Result};

pub use address::Address;
pub use link::{GROUP, Link, NewGateway, NewVeth, gateway_peer};
pub use route::Route;

/// A netlink socket of one network namespace.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: rtnetlink::Handle,
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
        Ok(Self { handle })
    }
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
