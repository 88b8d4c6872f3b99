//! The kernel's overlay: on each of two hosts a bridge with a VXLAN device.

use anyhow::Result;

use super::super::site::Site;
use super::{Ends, Path, Variant};

/// What VXLAN needs of a packet's 1500 bytes for itself (RFC 7348, section 5): 50 over IPv4.
const MTU: u32 = 1450;

/// Two hosts and a container on each.
pub fn vxlan(site: &Site) -> Result<Variant> {
    let hosts = [site.namespace("vxlan.a")?, site.namespace("vxlan.b")?];
    let containers = [site.namespace("vxlan.ca")?, site.namespace("vxlan.cb")?];
    hosts[0].ip(&format!(
        "link add uplink0 type veth peer name uplink0 netns {}",
        hosts[1].path().display()
    ))?;
    for (i, host) in hosts.iter().enumerate() {
        let (near, far) = (i + 1, 2 - i);
        let inside = containers[i].path().display();
        host.ip(&format!(
            "addr add 192.0.2.{near}/24 dev uplink0
             link set uplink0 up
             link add br0 type bridge forward_delay 0
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
        "vxlan+bridge",
        "two hosts, each with a bridge and a VXLAN device; no firewall",
    );
    variant.mtu = MTU;
    let ends = Ends::direct(&containers[0], &containers[1], [10, 200, 0, 2]);
    variant.paths.insert(Path::Overlay, ends);
    variant.host = Some(hosts[0].clone());
    Ok(variant)
}
