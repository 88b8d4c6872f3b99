//! Addresses, MAC addresses and routes as users of pipework write them.

use std::net::IpAddr;

use anyhow::Result;
use ipnet::IpNet;
use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};

use crate::container::names;
use crate::problem::invalid;

/// What an interface is to have of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// No address.
    Nothing,
    /// An IPv4 address that a server of the network gives.
    Dhcp,
    /// This address with its subnet, and a default route by this router.
    Fixed(IpNet, Option<IpAddr>),
}

/// Reads `ADDRESS/LENGTH`, `ADDRESS/LENGTH@ROUTER`, `dhcp`, or `0/0` for nothing.
///
/// # Errors
/// A sentence about what is wrong with it.
pub fn wanted(text: &str) -> Result<Wanted> {
    match text {
        "0/0" | "none" => return Ok(Wanted::Nothing),
        "dhcp" => return Ok(Wanted::Dhcp),
        _ => {}
    }
    let (address, router) = match text.split_once('@') {
        Some((address, router)) => (address, Some(router)),
        None => (text, None),
    };
    let Ok(net) = address.parse::<IpNet>() else {
        let hint = if address.parse::<IpAddr>().is_ok() {
            format!("it needs the length of its subnet's prefix, write for example {address}/24")
        } else {
            "write ADDRESS/LENGTH[@ROUTER], dhcp, or 0/0 for none".to_owned()
        };
        return Err(invalid(format!(
            "\"{}\" is no address for an interface: {hint}",
            text.escape_debug()
        )));
    };
    let ip = net.addr();
    if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() {
        return Err(invalid(format!(
            "{ip} cannot be the address of an interface"
        )));
    }
    // A subnet of one or two addresses has neither network nor broadcast address (RFC 3021).
    if let IpNet::V4(v4) = net
        && v4.prefix_len() < 31
        && [v4.network(), v4.broadcast()].contains(&v4.addr())
    {
        return Err(invalid(format!(
            "{ip} is the network or broadcast address of {}",
            net.trunc()
        )));
    }
    let router = router.map(|text| router_of(text, ip)).transpose()?;
    Ok(Wanted::Fixed(net, router))
}

fn router_of(text: &str, of: IpAddr) -> Result<IpAddr> {
    let router: IpAddr = text.parse().map_err(|_| {
        invalid(format!(
            "\"{}\" is no router's address",
            text.escape_debug()
        ))
    })?;
    if router.is_ipv4() != of.is_ipv4() || router == of || router.is_unspecified() {
        return Err(invalid(format!("{router} cannot be the router of {of}")));
    }
    Ok(router)
}

/// A route of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where it leads.
    pub destination: IpNet,
    /// By which router; without, the destination is on the interface's own link.
    pub router: Option<IpAddr>,
}

impl std::str::FromStr for Route {
    type Err = anyhow::Error;

    /// Reads `PREFIX@ROUTER` or `PREFIX`.
    fn from_str(text: &str) -> Result<Self> {
        let (prefix, router) = match text.split_once('@') {
            Some((prefix, router)) => (prefix, Some(router)),
            None => (text, None),
        };
        let destination: IpNet = match prefix.parse() {
            Ok(net) => net,
            Err(_) => prefix.parse::<IpAddr>().map(IpNet::from).map_err(|_| {
                invalid(format!(
                    "\"{}\" is no route, write PREFIX[@ROUTER]",
                    text.escape_debug()
                ))
            })?,
        };
        let router = router
            .map(|text| router_of(text, destination.addr()))
            .transpose()?;
        Ok(Self {
            destination: destination.trunc(),
            router,
        })
    }
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.destination)?;
        self.router.map_or(Ok(()), |router| write!(f, "@{router}"))
    }
}

/// Reads a MAC address, or `U:TEXT` for one that is always the same for a text.
///
/// # Errors
/// A sentence about what is wrong with it.
pub fn mac(text: &str) -> Result<[u8; 6]> {
    if let Some(seed) = text.strip_prefix("U:") {
        if seed.is_empty() {
            return Err(invalid("\"U:\" needs a text to make a MAC address of"));
        }
        return Ok(stable_mac(seed));
    }
    names::parse_mac(text)
}

/// The MAC address that pipework makes of a text: locally administered, then the first five
/// octets of the text's MD5. Whoever moves from pipework keeps leases of DHCP servers.
fn stable_mac(seed: &str) -> [u8; 6] {
    let digest = Md5::digest(seed.as_bytes());
    let [a, b, c, d, e, ..]: [u8; 16] = digest.into();
    [0x02, a, b, c, d, e]
}

/// A random MAC address, or the one that is asked for.
///
/// # Errors
/// See [`mac`].
pub fn mac_or_random(text: Option<&str>) -> Result<[u8; 6]> {
    text.map_or_else(names::random_mac, mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(wanted("0/0").unwrap(), Wanted::Nothing);
        assert_eq!(wanted("dhcp").unwrap(), Wanted::Dhcp);
        assert_eq!(
            wanted("10.0.0.220/24@10.0.0.254").unwrap(),
            Wanted::Fixed(net("10.0.0.220/24"), Some(ip("10.0.0.254")))
        );
        assert_eq!(
            wanted("fd00::5/64").unwrap(),
            Wanted::Fixed(net("fd00::5/64"), None)
        );
        assert!(wanted("10.0.0.0/31").is_ok());
        for (wrong, part) in [
            ("10.0.0.220", "10.0.0.220/24"),
            ("", "ADDRESS/LENGTH"),
            ("banana/24", "ADDRESS/LENGTH"),
            ("10.0.0.0/24", "network or broadcast"),
            ("10.0.0.255/24", "network or broadcast"),
            ("127.0.0.1/8", "cannot be"),
            ("0.0.0.0/0", "cannot be"),
            ("10.0.0.2/24@x", "no router"),
            ("10.0.0.2/24@fd00::1", "cannot be the router"),
            ("10.0.0.2/24@10.0.0.2", "cannot be the router"),
        ] {
            let error = wanted(wrong).unwrap_err().to_string();
            assert!(error.contains(part), "{wrong}: {error}");
        }
    }

    #[test]
    fn routes_are_read() {
        for (text, shown) in [
            ("10.1.0.0/16@10.0.0.1", "10.1.0.0/16@10.0.0.1"),
            ("10.1.2.3/16", "10.1.0.0/16"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("fd01::/48@fe80::1", "fd01::/48@fe80::1"),
        ] {
            let route: Route = text.parse().unwrap();
            assert_eq!(route.to_string(), shown);
        }
        for wrong in ["", "x", "10.0.0.0/33", "10.0.0.0/8@", "10.0.0.0/8@fd00::1"] {
            assert!(wrong.parse::<Route>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn mac_addresses_are_read() {
        assert_eq!(mac("02:00:00:00:00:0a").unwrap(), [2, 0, 0, 0, 0, 10]);
        assert_eq!(mac("02-00-00-00-00-0A").unwrap(), [2, 0, 0, 0, 0, 10]);
        // md5("web") is 2567a5ec9705eb7ac2c984033e06189d.
        assert_eq!(mac("U:web").unwrap(), [0x02, 0x25, 0x67, 0xa5, 0xec, 0x97]);
        for wrong in [
            "",
            "U:",
            "02:00:00:00:00",
            "02:00:00:00:00:0",
            "02:00:00:00:00:0g",
            "02:00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "020000000001",
        ] {
            assert!(mac(wrong).is_err(), "{wrong}");
        }
    }
}
