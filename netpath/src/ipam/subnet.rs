//! The subnets of a network, as a user asks for them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, bail};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::problem::invalid;

/// A subnet of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// Its prefix, without host bits.
    pub prefix: IpNet,
    /// The address of the network's gateway device inside it; `None` if the host is not in the
    /// network.
    pub gateway: Option<IpAddr>,
    /// The part of it that containers get addresses of, unless they ask for one; `None` is all.
    #[serde(default)]
    pub range: Option<IpNet>,
}

impl Subnet {
    /// Whether it is an IPv4 subnet.
    pub fn is_v4(&self) -> bool {
        self.prefix.addr().is_ipv4()
    }
}

/// Whether two prefixes have an address in common.
pub fn overlaps(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// Parses `ADDRESS/LENGTH` as the subnet of a network.
///
/// # Errors
/// A sentence about what is wrong with it: not a prefix, host bits, too small, an address
/// range that no container can use.
pub fn parse_cidr(text: &str) -> Result<IpNet> {
    if !text.contains('/') {
        return Err(invalid(format!(
            "subnet {text} has no prefix length, write for example {text}/24"
        )));
    }
    let Ok(prefix) = text.parse::<IpNet>() else {
        return Err(invalid(format!(
            "\"{text}\" is not a subnet, write one like 172.20.0.0/16 or fd00:1::/64"
        )));
    };
    if prefix.addr() != prefix.network() {
        return Err(invalid(format!(
            "subnet {text} has host bits set, did you mean {}?",
            prefix.trunc()
        )));
    }
    check_size(&prefix, false)?;
    if prefix.prefix_len() < 8 {
        return Err(invalid(format!(
            "subnet {text} is too large, use /8 or smaller"
        )));
    }
    let unusable = match prefix {
        IpNet::V4(_) => [
            (
                Ipv4Net::new_assert(Ipv4Addr::new(0, 0, 0, 0), 8),
                "the unspecified range",
            ),
            (
                Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8),
                "loopback",
            ),
            (
                Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
                "link-local",
            ),
            (
                Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 3),
                "multicast or reserved",
            ),
        ]
        .into_iter()
        .find(|(range, _)| overlaps(&IpNet::V4(*range), &prefix))
        .map(|(_, what)| what),
        IpNet::V6(_) => [
            (
                Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 8),
                "unspecified, loopback or mapped",
            ),
            (
                Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
                "link-local",
            ),
            (
                Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
                "multicast",
            ),
        ]
        .into_iter()
        .find(|(range, _)| overlaps(&IpNet::V6(*range), &prefix))
        .map(|(_, what)| what),
    };
    match unusable {
        Some(what) => Err(invalid(format!(
            "subnet {text} is {what}, containers cannot use it"
        ))),
        None => Ok(prefix),
    }
}

/// The first usable address of a subnet, which is the gateway unless another is named.
fn first_address(prefix: &IpNet) -> IpAddr {
    match prefix.network() {
        IpAddr::V4(network) => IpAddr::V4((u32::from(network) + 1).into()),
        IpAddr::V6(network) => IpAddr::V6((u128::from(network) + 1).into()),
    }
}

/// Checks that a subnet has an address for a container, and with a gateway one more. IPv4 loses
/// two to the network and broadcast addresses, IPv6 one to the subnet-router anycast address;
/// a subnet of two addresses loses none (RFC 3021, RFC 6164).
fn check_size(prefix: &IpNet, gateway: bool) -> Result<()> {
    let bits = prefix.max_prefix_len();
    let (longest, whom) = if gateway {
        (bits - 2, "a gateway and a container")
    } else {
        (bits - 1, "two machines")
    };
    if prefix.prefix_len() > longest {
        return Err(invalid(format!(
            "subnet {prefix} is too small for {whom}, use /{longest} or larger"
        )));
    }
    Ok(())
}

/// Joins the subnets, ranges and gateways of a request; `isolated` tells whether the network is
/// to be without the host in a family (true is IPv4).
///
/// # Errors
/// Two subnets of one family, one too small, or a range or gateway that belongs to no subnet, or
/// a gateway that is not a host address of its subnet.
pub fn plan(
    prefixes: &[IpNet],
    ranges: &[IpNet],
    gateways: &[IpAddr],
    isolated: impl Fn(bool) -> bool,
) -> Result<Vec<Subnet>> {
    let mut subnets: Vec<Subnet> = Vec::new();
    for prefix in prefixes {
        if let Some(other) = subnets
            .iter()
            .find(|other| other.is_v4() == prefix.addr().is_ipv4())
        {
            return Err(invalid(format!(
                "subnets {} and {prefix} are of one family, a network has at most one of each",
                other.prefix
            )));
        }
        let gateway = !isolated(prefix.addr().is_ipv4());
        check_size(prefix, gateway)?;
        subnets.push(Subnet {
            prefix: *prefix,
            gateway: gateway.then(|| first_address(prefix)),
            range: None,
        });
    }
    add_ranges(&mut subnets, ranges)?;
    let mut named: Vec<IpAddr> = Vec::new();
    for gateway in gateways {
        if named
            .iter()
            .any(|other| other.is_ipv4() == gateway.is_ipv4())
        {
            return Err(invalid(format!(
                "gateway {gateway} is the second of its family"
            )));
        }
        let Some(subnet) = subnets
            .iter_mut()
            .find(|subnet| subnet.is_v4() == gateway.is_ipv4())
        else {
            return Err(invalid(format!(
                "gateway {gateway} has no subnet of its family, name one with --subnet"
            )));
        };
        if subnet.gateway.is_none() {
            return Err(invalid(format!(
                "gateway {gateway} cannot be had: the gateway mode isolated leaves the host out"
            )));
        }
        if !subnet.prefix.contains(gateway) {
            return Err(invalid(format!(
                "gateway {gateway} is outside the subnet {}",
                subnet.prefix
            )));
        }
        if !is_host_address(&subnet.prefix, *gateway) {
            return Err(invalid(format!(
                "gateway {gateway} is the network or broadcast address of {}",
                subnet.prefix
            )));
        }
        subnet.gateway = Some(*gateway);
        named.push(*gateway);
    }
    if subnets.is_empty() {
        bail!("a network without subnets was planned");
    }
    Ok(subnets)
}

/// Gives each range to its subnet. As in Docker the gateway, too, is the first address of a
/// range, unless another is named.
fn add_ranges(subnets: &mut [Subnet], ranges: &[IpNet]) -> Result<()> {
    for range in ranges {
        let family = |subnet: &&mut Subnet| subnet.is_v4() == range.addr().is_ipv4();
        let Some(subnet) = subnets.iter_mut().find(family) else {
            return Err(invalid(format!(
                "range {range} has no subnet of its family, name one with --subnet"
            )));
        };
        if !subnet.prefix.contains(range) {
            return Err(invalid(format!(
                "range {range} is outside the subnet {}",
                subnet.prefix
            )));
        }
        if let Some(other) = subnet.range {
            return Err(invalid(format!(
                "ranges {other} and {range} are of one family, a subnet has at most one"
            )));
        }
        let (first, last) = host_range(&subnet.prefix);
        let (start, end) = (to_number(range.network()), to_number(range.broadcast()));
        if start.max(first) > end.min(last) {
            return Err(invalid(format!(
                "range {range} has no address that a container could have"
            )));
        }
        subnet.range = Some(*range);
        if subnet.gateway.is_some() {
            subnet.gateway = Some(to_address(&subnet.prefix, start.max(first)));
        }
    }
    Ok(())
}

/// Checks addresses that are set aside: each has a name and belongs to a subnet.
///
/// # Errors
/// A sentence about the first that cannot be set aside.
pub fn check_aside(subnets: &[Subnet], aside: &BTreeMap<String, IpAddr>) -> Result<()> {
    for (name, address) in aside {
        let family = |subnet: &&Subnet| subnet.is_v4() == address.is_ipv4();
        let prefix = match subnets.iter().find(family) {
            Some(subnet) if subnet.gateway == Some(*address) => {
                return Err(invalid(format!(
                    "address {address} cannot be set aside for {name}: it is the gateway's"
                )));
            }
            Some(subnet) if subnet.prefix.contains(address) => continue,
            Some(subnet) => subnet.prefix.to_string(),
            None => "of its family: there is none".into(),
        };
        return Err(invalid(format!(
            "address {address} cannot be set aside for {name}: it is outside the subnet {prefix}"
        )));
    }
    Ok(())
}

/// Parses `ADDRESS/LENGTH` as the range of a subnet.
///
/// # Errors
/// A sentence: not a prefix, or one with host bits.
pub fn parse_range(text: &str) -> Result<IpNet> {
    match text.parse::<IpNet>() {
        Ok(range) if range.addr() == range.network() => Ok(range),
        Ok(range) => Err(invalid(format!(
            "range {text} has host bits set, did you mean {}?",
            range.trunc()
        ))),
        Err(_) => Err(invalid(format!(
            "\"{}\" is not a range, write one like 172.20.10.0/24",
            text.escape_debug()
        ))),
    }
}

/// Whether an interface can have this address of the subnet.
pub(super) fn is_host_address(prefix: &IpNet, address: IpAddr) -> bool {
    let (first, last) = host_range(prefix);
    prefix.contains(&address) && (first..=last).contains(&to_number(address))
}

/// First and last host address as numbers; both of a subnet of two. IPv6 has no broadcast address; its first
/// address is the subnet-router anycast address (RFC 4291, 2.6.1).
pub(super) fn host_range(prefix: &IpNet) -> (u128, u128) {
    match prefix {
        net if net.prefix_len() + 1 == net.max_prefix_len() => {
            (to_number(net.network()), to_number(net.broadcast()))
        }
        IpNet::V4(net) => (
            u128::from(u32::from(net.network())) + 1,
            u128::from(u32::from(net.broadcast())) - 1,
        ),
        IpNet::V6(net) => (u128::from(net.network()) + 1, u128::from(net.broadcast())),
    }
}

/// The address of a number, in the family of `prefix`.
pub(super) fn to_address(prefix: &IpNet, number: u128) -> IpAddr {
    match prefix {
        // The numbers of an IPv4 subnet are 32 bits long.
        IpNet::V4(_) => IpAddr::V4((number as u32).into()),
        IpNet::V6(_) => IpAddr::V6(number.into()),
    }
}

pub(super) fn to_number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_that_are_refused_say_why() {
        for (text, part) in [
            ("172.20.0.0", "no prefix length"),
            ("banana/16", "is not a subnet"),
            ("172.20.0.0/33", "is not a subnet"),
            ("172.20.0.1/16", "did you mean 172.20.0.0/16?"),
            ("172.20.0.0/32", "too small"),
            ("fd00::/128", "too small"),
            ("0.0.0.0/0", "too large"),
            ("127.0.0.0/8", "loopback"),
            ("169.254.0.0/16", "link-local"),
            ("224.0.0.0/8", "multicast"),
            ("fe80::/64", "link-local"),
            ("ff02::/64", "multicast"),
        ] {
            let error = parse_cidr(text).expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(parse_cidr("10.0.0.0/8").is_ok());
        assert!(parse_cidr("fd00:1::/64").is_ok());
    }

    #[test]
    fn a_network_without_the_host_has_no_gateway() {
        let two = [
            "172.20.0.0/31".parse().unwrap(),
            "fd00:1::/127".parse().unwrap(),
        ];
        let subnets = plan(&two, &[], &[], |_| true).unwrap();
        for (subnet, range) in subnets.iter().zip([(0xac14_0000, 0xac14_0001), (0, 1)]) {
            assert_eq!(subnet.gateway, None);
            let (first, last) = host_range(&subnet.prefix);
            assert_eq!((first & 0xffff_ffff, last & 0xffff_ffff), range);
        }
        let error = plan(&two, &[], &[], |v4| !v4).unwrap_err().to_string();
        assert!(
            error.contains("172.20.0.0/31 is too small for a gateway"),
            "{error}"
        );
        let gateway = ["172.20.0.1".parse().unwrap()];
        let error = plan(&two, &[], &gateway, |_| true).unwrap_err().to_string();
        assert!(error.contains("172.20.0.1 cannot be had"), "{error}");
    }

    #[test]
    fn gateways_are_matched_with_subnets() {
        let prefixes = [
            "172.20.0.0/16".parse().unwrap(),
            "fd00:1::/64".parse().unwrap(),
        ];
        let subnets = plan(&prefixes, &[], &[], |_| false).unwrap();
        assert_eq!(subnets[0].gateway.unwrap().to_string(), "172.20.0.1");
        assert_eq!(subnets[1].gateway.unwrap().to_string(), "fd00:1::1");
        let subnets = plan(&prefixes, &[], &["fd00:1::fe".parse().unwrap()], |_| false).unwrap();
        assert_eq!(subnets[1].gateway.unwrap().to_string(), "fd00:1::fe");
        for (gateway, part) in [
            ("10.0.0.1", "outside"),
            ("172.20.0.0", "network or broadcast"),
            ("172.20.255.255", "network or broadcast"),
            ("fd00:1::", "network or broadcast"),
        ] {
            let error = plan(&prefixes, &[], &[gateway.parse().unwrap()], |_| false)
                .unwrap_err()
                .to_string();
            assert!(error.contains(part), "{gateway}: {error}");
        }
        let twice = [
            "172.20.0.0/16".parse().unwrap(),
            "172.21.0.0/16".parse().unwrap(),
        ];
        assert!(
            plan(&twice, &[], &[], |_| false)
                .unwrap_err()
                .to_string()
                .contains("one family")
        );
        let v6 = ["fd00:1::/64".parse().unwrap()];
        let error = plan(&v6, &[], &["10.0.0.1".parse().unwrap()], |_| false)
            .unwrap_err()
            .to_string();
        assert!(error.contains("no subnet of its family"));
    }

    #[test]
    fn ranges_belong_to_a_subnet() {
        let two = [
            "172.20.0.0/16".parse().unwrap(),
            "fd00:1::/64".parse().unwrap(),
        ];
        let range = |text: &str| parse_range(text).unwrap();
        let planned = |ranges: &[IpNet], gateways: &[IpAddr]| {
            plan(&two, ranges, gateways, |_| false).map_err(|error| error.to_string())
        };
        let all = [range("172.20.8.0/29"), range("fd00:1::/96")];
        let subnets = planned(&all, &[]).unwrap();
        assert_eq!(subnets[0].range, Some(all[0]));
        assert_eq!(subnets[0].gateway.unwrap().to_string(), "172.20.8.0");
        assert_eq!(subnets[1].gateway.unwrap().to_string(), "fd00:1::1");
        let named = planned(&all, &["172.20.0.1".parse().unwrap()]).unwrap();
        assert_eq!(named[0].gateway.unwrap().to_string(), "172.20.0.1");
        for (ranges, part) in [
            (&["172.21.0.0/24"][..], "outside the subnet 172.20.0.0/16"),
            (&["172.0.0.0/8"], "outside the subnet"),
            (&["172.20.1.0/24", "172.20.2.0/24"], "of one family"),
            (&["172.20.0.0/32"], "no address that a container"),
            (&["172.20.255.255/32"], "no address that a container"),
        ] {
            let ranges: Vec<IpNet> = ranges.iter().map(|text| range(text)).collect();
            let error = planned(&ranges, &[]).unwrap_err();
            assert!(error.contains(part), "{ranges:?}: {error}");
        }
        let v4 = [two[0]];
        let error = plan(&v4, &all[1..], &[], |_| false).unwrap_err();
        assert!(error.to_string().contains("no subnet of its family"));
        assert!(
            parse_range("172.20.0.1/24")
                .unwrap_err()
                .to_string()
                .contains("did you mean 172.20.0.0/24?")
        );
        assert!(parse_range("tomato").is_err());
    }

    #[test]
    fn addresses_are_set_aside_inside_a_subnet() {
        let subnets = plan(&["172.20.0.0/16".parse().unwrap()], &[], &[], |_| false).unwrap();
        let check = |address: &str| {
            let aside = BTreeMap::from([("printer".to_owned(), address.parse().unwrap())]);
            check_aside(&subnets, &aside).map_err(|error| error.to_string())
        };
        assert!(check("172.20.0.9").is_ok());
        for (address, part) in [
            ("172.21.0.9", "outside the subnet 172.20.0.0/16"),
            ("172.20.0.1", "the gateway's"),
            ("fd00::9", "there is none"),
        ] {
            let error = check(address).unwrap_err();
            assert!(error.contains(part) && error.contains("printer"), "{error}");
        }
    }
}
