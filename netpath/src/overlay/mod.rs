//! Networks that reach across hosts, through VXLAN tunnels (RFC 7348).
//!
//! A network of driver `overlay` has a number (VNI) and a list of [`Peer`]s: which addresses are
//! behind which other host. Users name some of them (`netpath tunnel`), and whoever knows a
//! cluster tells the rest by `Agent::overlay_set_peers`. How that comes into force is in
//! `agent::overlay`, the maps in `datapath::tunnels`.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Instant;

use anyhow::Result;
use ipnet::IpNet;
use netpath_common::tunnel::{OVERHEAD_V4, OVERHEAD_V6};
use serde::{Deserialize, Serialize};

use crate::problem::invalid;

/// VXLAN's port (IANA).
pub const PORT: u16 = 4789;
/// A VNI has 24 bits; 0 is nobody's here.
pub const VNIS: (u32, u32) = (1, (1 << 24) - 1);
/// The first VNI of networks that name none; Docker begins there as well.
pub const FIRST_VNI: u32 = 4096;
/// Quoted packets must fit, and all that IPv4 asks every host to take (RFC 1122, 3.3.2).
pub const MIN_MTU: u32 = 576;
/// A VXLAN device takes what our programs let through, whatever it is itself set to.
pub const DEVICE_MTU: u32 = 65_465;
/// What frames for another netpath are addressed to, when nobody says how its device is
/// called: it takes what comes from its peers, whatever the frame says. (A locally
/// administered address, "np" in ASCII.)
pub const ANY_MAC: [u8; 6] = [0x02, 0x6e, 0x70, 0, 0, 1];

/// Characters of a MAC address.
const MAC_LEN: usize = 17;

/// Name of the device of a port.
pub fn device_name(port: u16) -> String {
    format!("np-vxlan{port}")
}

/// Addresses of a network that another host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// A container's address (/32 or /128), which is then a neighbour on the link; or a subnet,
    /// for which the other host is a router.
    pub destination: IpNet,
    /// The other host's address in the underlay.
    pub vtep: IpAddr,
    /// The container's MAC address, or that of the other host's VXLAN device.
    pub mac: [u8; 6],
    /// The network's number there.
    pub vni: u32,
    /// The UDP port there. A host has a VXLAN device for each port, which listens there as well.
    pub port: u16,
}

impl Peer {
    /// Whether the destination is a single address.
    pub fn is_host(&self) -> bool {
        self.destination.prefix_len() == self.destination.max_prefix_len()
    }
}

/// This host as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vtep {
    /// Its addresses in the underlay, of the uplinks.
    pub addresses: Vec<IpAddr>,
    /// MAC address of its VXLAN devices; the same for all, and after each start.
    pub mac: [u8; 6],
    /// Largest packet of the underlay in bytes.
    pub underlay_mtu: u32,
}

/// What the agent remembers of tunnels.
#[derive(Debug, Default)]
pub struct State {
    /// Peers that were told, by network id; a network that is missing was told of none yet.
    pub told: HashMap<u16, Vec<Peer>>,
    /// VXLAN devices by port.
    pub devices: BTreeMap<u16, Device>,
    /// The ways to other hosts, by their addresses.
    pub ways: HashMap<IpAddr, Way>,
    /// When they were asked for.
    pub asked: Option<Instant>,
    /// Index and MTU of the devices that tunnels go by, as they were last seen.
    pub underlay: Vec<(u32, u32)>,
    /// The host's addresses, as they were last seen.
    pub addresses: Vec<(IpAddr, u32)>,
}

/// The way to another host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Largest inner packet in bytes.
    pub mtu: u16,
    /// The address that this host has there; `None` if there is no route.
    pub local: Option<IpAddr>,
}

/// A VXLAN device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its index.
    pub ifindex: u32,
    /// Its MAC address.
    pub mac: [u8; 6],
}

/// Bytes of an underlay's packet that are not the inner packet's.
pub const fn overhead(v4: bool) -> u32 {
    if v4 { OVERHEAD_V4 } else { OVERHEAD_V6 }
}

/// Options of a network of this driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Its number.
    pub vni: Option<u32>,
    /// Its UDP port.
    pub port: Option<u16>,
}

/// Takes this driver's options out of all that a user wrote.
///
/// # Errors
/// A sentence about one that makes no sense.
pub fn take_options(all: &mut BTreeMap<String, String>) -> Result<Options> {
    let mut options = Options::default();
    for key in ["com.docker.network.driver.overlay.vxlanid_list", "vni"] {
        if let Some(text) = all.remove(key) {
            options.vni = Some(parse_vni(&text)?);
        }
    }
    if let Some(text) = all.remove("port") {
        let port = text.parse().ok().filter(|port| *port > 0);
        options.port = Some(port.ok_or_else(|| {
            invalid(format!(
                "option port={text}: that is no port, choose 1 to 65535"
            ))
        })?);
    }
    Ok(options)
}

fn parse_vni(text: &str) -> Result<u32> {
    let vni = text.parse().map_err(|_| {
        invalid(format!(
            "\"{}\" is no VNI, write a number",
            text.escape_debug()
        ))
    })?;
    check_vni(vni)
}

/// A VNI that can be one.
///
/// # Errors
/// A sentence.
pub fn check_vni(vni: u32) -> Result<u32> {
    if (VNIS.0..=VNIS.1).contains(&vni) {
        Ok(vni)
    } else {
        Err(invalid(format!(
            "VNI {vni} is out of range, choose {} to {}",
            VNIS.0, VNIS.1
        )))
    }
}

/// Reads a MAC address that one device can have.
///
/// # Errors
/// A sentence.
pub fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let octets: Vec<u8> = text
        .split(':')
        .filter(|octet| octet.len() == 2)
        .map_while(|octet| u8::from_str_radix(octet, 16).ok())
        .collect();
    let mac: [u8; 6] = octets
        .try_into()
        .ok()
        .filter(|_| text.len() == MAC_LEN)
        .ok_or_else(|| {
            invalid(format!(
                "\"{}\" is no MAC address, write one like 02:00:00:00:00:01",
                text.escape_debug()
            ))
        })?;
    if mac[0] & 1 == 1 || mac == [0; 6] {
        return Err(invalid(format!(
            "{text} is no MAC address of a device but of a group, or none"
        )));
    }
    Ok(mac)
}

/// Reads the destination of a tunnel: a prefix, or an address.
///
/// # Errors
/// A sentence.
pub fn parse_destination(text: &str) -> Result<IpNet> {
    let destination = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address.to_canonical()),
        Err(_) => text.parse::<IpNet>().map_err(|_| {
            invalid(format!(
                "\"{}\" is neither an address nor a prefix such as 10.1.2.0/24",
                text.escape_debug()
            ))
        })?,
    };
    if destination.prefix_len() == 0 {
        return Err(invalid(format!(
            "a tunnel cannot take everything, name a smaller prefix than {destination}"
        )));
    }
    if destination.trunc() != destination {
        return Err(invalid(format!(
            "{destination} has bits beyond its prefix, did you mean {}?",
            destination.trunc()
        )));
    }
    let address = destination.addr();
    if address.is_loopback() || address.is_multicast() || address.is_unspecified() {
        return Err(invalid(format!("no host can have {destination}")));
    }
    Ok(destination)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_taken_or_refused() {
        let parse = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            let mut all = pairs
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect();
            take_options(&mut all).map(|options| (options, all.len()))
        };
        let (options, left) = parse(&[("vni", "7"), ("port", "8472"), ("icc", "true")]).unwrap();
        assert_eq!((options.vni, options.port, left), (Some(7), Some(8472), 1));
        for wrong in [
            ("vni", "0"),
            ("vni", "16777216"),
            ("vni", "x"),
            ("port", "0"),
        ] {
            let error = parse(&[wrong]).unwrap_err().to_string();
            assert!(error.contains(wrong.1), "{error}");
        }
    }

    #[test]
    fn destinations_are_read_or_refused() {
        for (text, expected) in [
            ("10.1.2.3", "10.1.2.3/32"),
            ("10.1.0.0/16", "10.1.0.0/16"),
            ("fd00::1", "fd00::1/128"),
        ] {
            assert_eq!(parse_destination(text).unwrap().to_string(), expected);
        }
        for wrong in ["", "0.0.0.0/0", "10.1.2.3/24", "127.0.0.1", "ff02::1", "x"] {
            assert!(parse_destination(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn macs_of_groups_are_refused() {
        assert_eq!(parse_mac("02:00:00:00:00:0a").unwrap(), [2, 0, 0, 0, 0, 10]);
        for wrong in [
            "",
            "ff:ff:ff:ff:ff:ff",
            "00:00:00:00:00:00",
            "02:00:00:00:00",
        ] {
            assert!(parse_mac(wrong).is_err(), "{wrong}");
        }
    }
}
