//! The kernel's overlay: on each of two hosts a bridge with a VXLAN device. And what is beneath
//! every overlay: two hosts and a wire.

use anyhow::Result;

use super::super::namespace::Namespace;
use super::super::site::Site;
use super::host::UPLINK;
use super::{Ends, Path, Variant};

/// Name of the kernel's overlay.
pub const VXLAN: &str = "vxlan+bridge";
/// Name of the limit.
pub const UNDERLAY: &str = "underlay";

/// What VXLAN needs of a packet's 1500 bytes for itself (RFC 7348, section 5): 50 over IPv4.
const MTU: u32 = 1450;

/// Two hosts and a container on each.
pub fn vxlan(site: &Site) -> Result<Variant> {
    let hosts = wire(site, "vxlan")?;
    let containers = [site.namespace("vxlan.ca")?, site.namespace("vxlan.cb")?];
    for (i, host) in hosts.iter().enumerate() {
        let (near, far) = (i + 1, 2 - i);
        let inside = containers[i].path().display();
        host.ip(&format!(
            "link add br0 type bridge forward_delay 0
             link add vxlan0 type vxlan id 42 local 192.0.2.{near} remote 192.0.2.{far} dstport 4789
             link set vxlan0 mtu {MTU} master br0 up
             link add veth0 type veth peer name eth0 netns {inside}
             link set veth0 mtu {MTU} master br0 up
             link set br0 up"
        ))?;
        containers[i].ip(&format!(
            "link set eth0 mtu {MTU}
             addr add 10.200.0.{near}/24 dev eth0
             link set eth0 up"
        ))?;
    }
    let mut variant = Variant::new(
        VXLAN,
        "two hosts, each with a bridge and a VXLAN device; no firewall",
    );
    variant.mtu = MTU;
    let ends = Ends::direct(&containers[0], &containers[1], [10, 200, 0, 2]);
    variant.paths.insert(Path::Overlay, ends);
    variant.host = Some(hosts[0].clone());
    Ok(variant)
}

/// Two hosts that talk with each other themselves.
pub fn underlay(site: &Site) -> Result<Variant> {
    let [one, two] = wire(site, UNDERLAY)?;
    let mut variant = Variant::new(UNDERLAY, "the hosts beneath an overlay, themselves");
    let ends = Ends::direct(&one, &two, [192, 0, 2, 2]);
    variant.paths.insert(Path::Overlay, ends);
    variant.host = Some(one);
    Ok(variant)
}

/// Two hosts joined by a veth pair, `192.0.2.1` and `192.0.2.2`.
pub fn wire(site: &Site, name: &str) -> Result<[Namespace; 2]> {
    let hosts = [
        site.namespace(&format!("{name}.a"))?,
        site.namespace(&format!("{name}.b"))?,
    ];
    hosts[0].ip(&format!(
        "link add {UPLINK} type veth peer name {UPLINK} netns {}",
        hosts[1].path().display()
    ))?;
    for (i, host) in hosts.iter().enumerate() {
        host.ip(&format!(
            "addr add 192.0.2.{}/24 dev {UPLINK}
             link set {UPLINK} up",
            i + 1
        ))?;
    }
    Ok(hosts)
}
