//! The limits: two namespaces joined by a veth pair with nothing in between, and one namespace
//! that talks to itself.

use std::net::Ipv4Addr;

use anyhow::Result;

use super::super::site::Site;
use super::{Ends, Path, Variant};

/// A bare veth pair.
pub fn veth(site: &Site, name: &str) -> Result<Variant> {
    let file = name.replace('/', "-");
    let one = site.namespace(&format!("{file}.1"))?;
    let two = site.namespace(&format!("{file}.2"))?;
    one.ip(&format!(
        "link add eth0 type veth peer name eth0 netns {}
         addr add 10.0.0.1/24 dev eth0
         link set eth0 up",
        two.path().display()
    ))?;
    two.ip("addr add 10.0.0.2/24 dev eth0
         link set eth0 up")?;
    let mut variant = Variant::new(
        name,
        "two namespaces joined by a veth pair, nothing between",
    );
    let ends = Ends::direct(&one, &two, [10, 0, 0, 2]);
    variant.paths.insert(Path::Containers, ends);
    variant.host = Some(one);
    Ok(variant)
}

/// Name of [`loopback`].
pub const LOOPBACK: &str = "loopback";

/// The loopback device of one namespace.
pub fn loopback(site: &Site) -> Result<Variant> {
    let one = site.namespace("loopback")?;
    let mut variant = Variant::new(LOOPBACK, "one namespace that talks to itself");
    variant.mtu = 65_536;
    let ends = Ends::direct(&one, &one, Ipv4Addr::LOCALHOST);
    variant.paths.insert(Path::Containers, ends);
    variant.host = Some(one);
    Ok(variant)
}
