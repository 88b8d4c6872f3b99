//! What is in a container's network namespace.

use std::fs::File;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::netlink::{Address, Link, Netlink, Route, netns};

/// Devices, addresses and routes of a namespace.
#[derive(Clone, Debug, Default)]
pub struct Sandbox {
    /// Its devices.
    pub links: Vec<Link>,
    /// Their addresses.
    pub addresses: Vec<Address>,
    /// Indexes of the devices by which it leaves its networks, for IPv4 and for IPv6.
    pub ways_out: [Option<u32>; 2],
    /// Inode number of the namespace.
    pub netns: u32,
}

/// Looks into the namespace that the first usable of these files names. `None`: it is the
/// host's.
///
/// # Errors
/// None of them can be opened; the container has ended, or the daemon lives where we cannot
/// look.
pub fn look(files: &[PathBuf]) -> Result<Option<Sandbox>> {
    let mut found = None;
    for file in files {
        if let Ok(Some(netns)) = netns::open(file) {
            found = Some(netns);
            break;
        }
    }
    let netns: File = found.context("its network namespace cannot be opened")?;
    if netns::is_own(&netns)? {
        return Ok(None);
    }
    let mut sandbox = netns::inside(netns::borrow(&netns), read)?;
    sandbox.netns = netns::number(&netns)?;
    Ok(Some(sandbox))
}

/// To be called on a thread inside the namespace.
fn read() -> Result<Sandbox> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("cannot start a runtime")?;
    runtime.block_on(async {
        let netlink = Netlink::connect()?;
        let routes = netlink.routes().await?;
        Ok(Sandbox {
            links: netlink.links().await?,
            addresses: netlink.addresses().await?,
            ways_out: [way_out(&routes, true), way_out(&routes, false)],
            netns: 0,
        })
    })
}

/// The device of the best default route of a family.
fn way_out(routes: &[Route], v4: bool) -> Option<u32> {
    routes
        .iter()
        .filter(|route| {
            route.is_unicast
                && route.destination.prefix_len() == 0
                && route.destination.addr().is_ipv4() == v4
        })
        .min_by_key(|route| route.metric)
        .and_then(|route| route.devices.first().copied())
}

impl Sandbox {
    /// The addresses of a device that are not link-local, each with the length of its prefix,
    /// and its IPv6 link-local one.
    pub fn addresses_of(&self, index: u32) -> (Vec<(IpAddr, u8)>, Option<std::net::Ipv6Addr>) {
        let own = || {
            self.addresses
                .iter()
                .filter(|address| address.index == index)
        };
        let global = own()
            .filter(|address| address.is_global)
            .map(|address| (address.ip, address.prefix_len))
            .collect();
        let link_local = own().find_map(|address| match address.ip {
            IpAddr::V6(ip) if ip.is_unicast_link_local() => Some(ip),
            _ => None,
        });
        (global, link_local)
    }
}
