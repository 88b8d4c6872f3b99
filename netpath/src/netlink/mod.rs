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

use anyhow::{Context, Result};

pub use address::Address;
pub use card::{CardKind, NewCard};
pub use link::{GROUP, Link, NewGateway, NewVeth, NewVxlan, gateway_peer};
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
