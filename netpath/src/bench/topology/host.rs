//! What the variants of one host have in common: the host, a machine outside, containers.

use anyhow::Result;

use super::super::namespace::Namespace;
use super::super::site::Site;

/// The host's address on the wire to the outside.
pub const HOST: [u8; 4] = [192, 0, 2, 1];
/// The machine outside.
pub const OUTSIDE: [u8; 4] = [192, 0, 2, 2];
/// The host's device to the outside.
pub const UPLINK: &str = "uplink0";

/// A host and a machine outside, joined by a veth pair.
#[derive(Debug)]
pub struct Host {
    /// The host.
    pub host: Namespace,
    /// The machine outside.
    pub outside: Namespace,
}

impl Host {
    /// Makes both.
    pub fn new(site: &Site, name: &str) -> Result<Self> {
        let host = site.namespace(&format!("{name}.host"))?;
        let outside = site.namespace(&format!("{name}.out"))?;
        let far = outside.path().display();
        host.ip(&format!(
            "link add {UPLINK} type veth peer name eth0 netns {far}
             addr add 192.0.2.1/24 dev {UPLINK}
             link set {UPLINK} up"
        ))?;
        outside.ip("addr add 192.0.2.2/24 dev eth0
             link set eth0 up")?;
        host.ip("route add default via 192.0.2.2")?;
        Ok(Self { host, outside })
    }

    /// Makes a bridge with addresses as Docker gives them; the host forwards.
    pub fn add_bridge(&self, name: &str) -> Result<()> {
        self.host.ip(&format!(
            "link add {name} type bridge forward_delay 0
             addr add 172.17.0.1/16 dev {name}
             link set {name} up"
        ))?;
        self.host.sysctl("ipv4/ip_forward", "1")?;
        Ok(())
    }

    /// Makes a container on the bridge: 172.17.0.`number`.
    pub fn add_container(
        &self,
        site: &Site,
        name: &str,
        bridge: &str,
        number: u8,
    ) -> Result<Namespace> {
        let container = site.namespace(&format!("{name}.c{number}"))?;
        let inside = container.path().display();
        self.host.ip(&format!(
            "link add veth{number} type veth peer name eth0 netns {inside}
             link set veth{number} master {bridge} up"
        ))?;
        container.ip(&format!(
            "addr add 172.17.0.{number}/16 dev eth0
             link set eth0 up
             route add default via 172.17.0.1"
        ))?;
        Ok(container)
    }
}
