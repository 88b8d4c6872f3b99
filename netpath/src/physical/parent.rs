//! The card that containers share, and its VLANs.

use anyhow::Result;

use crate::netlink::Link;
use crate::problem::{conflict, invalid, not_found};

/// The highest number of a VLAN (IEEE 802.1Q: 4095 is reserved).
pub const MAX_VLAN: u16 = 4094;

/// Longest name of a device in bytes (IFNAMSIZ less the zero).
const LONGEST_NAME: usize = 15;

/// A card as a user names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named<'a> {
    /// The device that is there.
    pub device: &'a Link,
    /// The VLAN of it that is meant and has no device; 0 for none.
    pub vlan: u16,
}

impl<'a> Named<'a> {
    /// Finds `eth0`, or `eth0.101` for VLAN 101 of it, which may have a device of that name.
    ///
    /// # Errors
    /// A sentence: there is no such device, it is none that can be shared, the VLAN does not
    /// exist.
    pub fn find(links: &'a [Link], text: &str) -> Result<Self> {
        let device = |name: &str| links.iter().find(|link| link.name == name);
        let found = match (device(text), text.rsplit_once('.')) {
            (Some(device), _) => Self { device, vlan: 0 },
            (None, Some((name, number))) if device(name).is_some() => {
                let vlan = number.parse().ok();
                let vlan = vlan.filter(|vlan| (1..=MAX_VLAN).contains(vlan));
                match (device(name), vlan) {
                    (Some(device), Some(vlan)) => Self { device, vlan },
                    _ => {
                        return Err(invalid(format!(
                            "\"{number}\" is no VLAN of {name}, there are 1 to {MAX_VLAN}"
                        )));
                    }
                }
            }
            _ => {
                return Err(not_found(format!(
                    "there is no device {} to be the parent, see \"ip link\"",
                    text.escape_debug()
                )));
            }
        };
        found.check(links)?;
        Ok(found)
    }

    fn check(&self, links: &[Link]) -> Result<()> {
        let link = self.device;
        if link.is_loopback || !link.is_ethernet {
            return Err(invalid(format!(
                "{} is no Ethernet device, containers cannot share it",
                link.name
            )));
        }
        if link.is_ours() && link.kind.as_deref() == Some("veth") {
            return Err(invalid(format!(
                "{} is a device of netpath's own, name a card of the host",
                link.name
            )));
        }
        if let Some(master) = link.master {
            let master = links.iter().find(|other| other.index == master);
            let name = master.map_or("another device", |master| master.name.as_str());
            return Err(conflict(format!(
                "{} is a port of {name}, which takes all of its frames; name {name} as the parent \
                 or take {} out of it",
                link.name, link.name
            )));
        }
        Ok(())
    }

    /// Name of the device that the VLAN would have.
    ///
    /// # Errors
    /// It is too long for one.
    pub fn vlan_device(&self) -> Result<String> {
        let name = format!("{}.{}", self.device.name, self.vlan);
        if name.len() > LONGEST_NAME {
            return Err(invalid(format!(
                "{name} is too long for a device's name ({LONGEST_NAME} bytes), make the VLAN's \
                 device under a shorter one and name that as the parent"
            )));
        }
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, master: Option<u32>) -> Link {
        Link {
            index: 7,
            name: name.to_owned(),
            kind: None,
            mac: Some([2; 6]),
            mtu: 1500,
            group: 0,
            peer: 0,
            is_up: true,
            is_loopback: name == "lo",
            is_ethernet: name != "lo",
            master,
            is_allmulti: false,
            is_promiscuous: false,
        }
    }

    #[test]
    fn cards_and_vlans_are_found() {
        let links = ["lo", "eth0", "eth0.7"].map(|name| link(name, None));
        let of = |text: &str| Named::find(&links, text).map(|n| (n.device.name.clone(), n.vlan));
        assert_eq!(of("eth0").unwrap(), ("eth0".to_owned(), 0));
        assert_eq!(of("eth0.101").unwrap(), ("eth0".to_owned(), 101));
        // It has a device of its own.
        assert_eq!(of("eth0.7").unwrap(), ("eth0.7".to_owned(), 0));
        for (wrong, part) in [
            ("eth1", "no device eth1"),
            ("", "no device"),
            ("eth1.5", "no device eth1.5"),
            ("eth0.0", "1 to 4094"),
            ("eth0.4095", "1 to 4094"),
            ("eth0.x", "no VLAN"),
            ("eth0.-1", "no VLAN"),
            ("lo", "no Ethernet"),
        ] {
            let error = of(wrong).unwrap_err().to_string();
            assert!(error.contains(part), "{wrong}: {error}");
        }
    }

    #[test]
    fn ports_are_refused() {
        let mut bridge = link("br0", None);
        bridge.index = 3;
        let links = [link("eth0", Some(3)), bridge];
        let error = Named::find(&links, "eth0").unwrap_err().to_string();
        assert!(error.contains("a port of br0"), "{error}");
    }

    #[test]
    fn long_names_are_refused() {
        let links = [link("averylongname0", None)];
        let named = Named::find(&links, "averylongname0.101").unwrap();
        assert!(named.vlan_device().is_err());
    }
}
