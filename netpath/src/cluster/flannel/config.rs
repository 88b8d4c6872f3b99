//! Flannel's network configuration, as it lies in etcd. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, anyhow, ensure};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Deserialize;

use crate::cluster::schema::MAX_VNI;
use crate::problem::invalid;

/// The port that flannel uses unless told otherwise: that of the kernel before there was a
/// standard.
pub const PORT: u16 = 8472;
const VNI: u32 = 1;

/// The configuration, checked, with flannel's defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The subnets of a family, IPv4 first.
    pub ranges: Vec<Range>,
    /// Number of the network on the wire.
    pub vni: u32,
    /// UDP port of the tunnels.
    pub port: u16,
    /// Largest packet in bytes, if the configuration names one.
    pub mtu: Option<u32>,
}

/// The subnets that hosts can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// All addresses of containers.
    pub network: IpNet,
    /// Prefix length of a host's subnet.
    pub length: u8,
    /// The first subnet.
    pub first: IpAddr,
    /// The last subnet.
    pub last: IpAddr,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Raw {
    #[serde(rename = "EnableIPv4", default = "yes")]
    enable_ipv4: bool,
    #[serde(rename = "EnableIPv6", default)]
    enable_ipv6: bool,
    network: Option<Ipv4Net>,
    #[serde(rename = "IPv6Network")]
    ipv6_network: Option<Ipv6Net>,
    #[serde(default)]
    subnet_len: u8,
    subnet_min: Option<Ipv4Addr>,
    subnet_max: Option<Ipv4Addr>,
    #[serde(rename = "IPv6SubnetLen", default)]
    ipv6_subnet_len: u8,
    #[serde(rename = "IPv6SubnetMin")]
    ipv6_subnet_min: Option<Ipv6Addr>,
    #[serde(rename = "IPv6SubnetMax")]
    ipv6_subnet_max: Option<Ipv6Addr>,
    backend: Option<Backend>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Backend {
    #[serde(rename = "Type", default)]
    kind: String,
    #[serde(rename = "VNI")]
    vni: Option<u32>,
    port: Option<u16>,
    #[serde(rename = "GBP", default)]
    gbp: bool,
    #[serde(default)]
    direct_routing: bool,
    #[serde(rename = "MTU", default)]
    mtu: u32,
}

fn yes() -> bool {
    true
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// A sentence: it makes no sense, or is for a backend that netpath is no peer of.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let wrong = |why: String| invalid(format!("flannel's configuration cannot be used: {why}"));
        let raw: Raw = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
        let Some(backend) = &raw.backend else {
            // Flannel takes "udp" for what is missing, whatever its documentation says.
            return Err(wrong(
                "it names no backend, which means \"udp\"; set Backend.Type to \"vxlan\" on \
                 purpose"
                    .into(),
            ));
        };
        if backend.kind != "vxlan" {
            return Err(wrong(format!(
                "its backend is \"{}\", netpath is a peer of \"vxlan\" only",
                backend.kind.escape_debug()
            )));
        }
        if backend.gbp || backend.direct_routing {
            return Err(wrong(
                "GBP and DirectRouting need peers that all have them, netpath has neither".into(),
            ));
        }
        if !raw.enable_ipv4 {
            return Err(wrong("a network without IPv4 has no lease".into()));
        }
        let mut ranges = vec![raw.range4().map_err(|error| wrong(error.to_string()))?];
        if raw.enable_ipv6 {
            ranges.push(raw.range6().map_err(|error| wrong(error.to_string()))?);
        }
        let vni = backend.vni.unwrap_or(VNI);
        if !(1..=MAX_VNI).contains(&vni) {
            return Err(wrong(format!("{vni} is no VNI")));
        }
        let port = backend.port.filter(|port| *port != 0).unwrap_or(PORT);
        Ok(Self {
            ranges,
            vni,
            port,
            mtu: (backend.mtu != 0).then_some(backend.mtu),
        })
    }
}

impl Raw {
    fn range4(&self) -> Result<Range> {
        let network = self.network.ok_or_else(|| anyhow!("Network is missing"))?;
        let network = network.trunc();
        let length = subnet_length(network.prefix_len(), self.subnet_len, 32, 24)?;
        Range::new(
            IpNet::V4(network),
            length,
            self.subnet_min
                .filter(|min| !min.is_unspecified())
                .map(IpAddr::V4),
            self.subnet_max
                .filter(|max| !max.is_unspecified())
                .map(IpAddr::V4),
        )
    }

    fn range6(&self) -> Result<Range> {
        let network = self.ipv6_network;
        let network = network
            .ok_or_else(|| anyhow!("IPv6Network is missing"))?
            .trunc();
        let length = subnet_length(network.prefix_len(), self.ipv6_subnet_len, 128, 64)?;
        Range::new(
            IpNet::V6(network),
            length,
            self.ipv6_subnet_min
                .filter(|min| !min.is_unspecified())
                .map(IpAddr::V6),
            self.ipv6_subnet_max
                .filter(|max| !max.is_unspecified())
                .map(IpAddr::V6),
        )
    }
}

/// The prefix length of a host's subnet: what is asked for, or flannel's default. Four subnets
/// must fit into the network, because the first is never given out.
fn subnet_length(network: u8, asked: u8, bits: u8, usual: u8) -> Result<u8> {
    ensure!(
        network <= bits - 4,
        "a network of /{network} is too small, the smallest is /{}",
        bits - 4
    );
    if asked == 0 {
        return Ok(usual.max(network + 2));
    }
    ensure!(
        (network + 2..=bits - 2).contains(&asked),
        "subnets of /{asked} do not fit into a network of /{network}, choose /{} to /{}",
        network + 2,
        bits - 2
    );
    Ok(asked)
}

impl Range {
    fn new(network: IpNet, length: u8, min: Option<IpAddr>, max: Option<IpAddr>) -> Result<Self> {
        let size = 1_u128 << (network.max_prefix_len() - length);
        // The network has at least four subnets, so neither leaves it.
        let first = number(network.network()) + size;
        let last = number(network.broadcast()) - (size - 1);
        let range = Self {
            network,
            length,
            first: min.unwrap_or_else(|| address(&network, first)),
            last: max.unwrap_or_else(|| address(&network, last)),
        };
        for (name, bound) in [("SubnetMin", range.first), ("SubnetMax", range.last)] {
            ensure!(
                network.contains(&bound),
                "{name} {bound} is not in {network}"
            );
            ensure!(
                number(bound).is_multiple_of(size),
                "{name} {bound} is no subnet of /{length}"
            );
        }
        Ok(range)
    }

    /// Whether a host can have a subnet.
    pub fn has(&self, subnet: &IpNet) -> bool {
        subnet.prefix_len() == self.length
            && subnet.addr().is_ipv4() == self.network.addr().is_ipv4()
            && (number(self.first)..=number(self.last)).contains(&number(subnet.network()))
    }

    /// All subnets, in order.
    pub fn subnets(&self) -> impl Iterator<Item = IpNet> + '_ {
        let size = 1_u128 << (self.network.max_prefix_len() - self.length);
        let (first, last) = (number(self.first), number(self.last));
        let count = if last < first {
            0
        } else {
            (last - first) / size + 1
        };
        (0..count).filter_map(move |nth| {
            IpNet::new(address(&self.network, first + nth * size), self.length).ok()
        })
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// An address of the family of `like`.
fn address(like: &IpNet, number: u128) -> IpAddr {
    match like {
        // Numbers of IPv4 addresses have 32 bits.
        IpNet::V4(_) => IpAddr::V4((number as u32).into()),
        IpNet::V6(_) => IpAddr::V6(number.into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Config> {
        Config::parse(text.as_bytes())
    }

    #[test]
    fn defaults_are_flannels() {
        let config = parse(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#).unwrap();
        let [range] = config.ranges[..] else {
            panic!("{config:?}")
        };
        assert_eq!((config.vni, config.port, config.mtu), (1, 8472, None));
        assert_eq!(range.length, 24);
        assert_eq!(range.first.to_string(), "10.5.1.0");
        assert_eq!(range.last.to_string(), "10.5.255.0");
        assert_eq!(range.subnets().count(), 255);
        let small = parse(r#"{"Network":"10.5.0.0/23","Backend":{"Type":"vxlan"}}"#).unwrap();
        assert_eq!(small.ranges[0].length, 25);
        let dual = parse(
            r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48",
                "Backend":{"Type":"vxlan","VNI":7,"Port":4789,"MTU":1400}}"#,
        )
        .unwrap();
        assert_eq!((dual.vni, dual.port, dual.mtu), (7, 4789, Some(1400)));
        assert_eq!(dual.ranges[1].length, 64);
        assert_eq!(dual.ranges[1].first.to_string(), "fc00:0:0:1::");
    }

    #[test]
    fn what_cannot_be_is_refused_in_a_sentence() {
        for (text, part) in [
            ("{", "cannot be used"),
            (r#"{"Network":"10.5.0.0/16"}"#, "names no backend"),
            (
                r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#,
                "\"host-gw\"",
            ),
            (
                r#"{"Network":"10.5.0.0/16","Backend":{}}"#,
                "backend is \"\"",
            ),
            (r#"{"Backend":{"Type":"vxlan"}}"#, "Network is missing"),
            (
                r#"{"Network":"10.5.0.0/30","Backend":{"Type":"vxlan"}}"#,
                "too small",
            ),
            (
                r#"{"Network":"10.5.0.0/16","SubnetLen":17,"Backend":{"Type":"vxlan"}}"#,
                "choose /18 to /30",
            ),
            (
                r#"{"Network":"10.5.0.0/16","SubnetMin":"10.6.0.0","Backend":{"Type":"vxlan"}}"#,
                "SubnetMin",
            ),
            (
                r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.1.7","Backend":{"Type":"vxlan"}}"#,
                "SubnetMax",
            ),
            (
                r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","DirectRouting":true}}"#,
                "DirectRouting",
            ),
            (
                r#"{"EnableIPv4":false,"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#,
                "without IPv4",
            ),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn every_subnet_of_a_range_is_one_that_it_has(
            network in 4u8..=28, asked in 0u8..=32, base in any::<u32>(),
        ) {
            let prefix = Ipv4Net::new(Ipv4Addr::from(base), network).unwrap().trunc();
            let text = format!(
                r#"{{"Network":"{prefix}","SubnetLen":{asked},"Backend":{{"Type":"vxlan"}}}}"#
            );
            if let Ok(config) = parse(&text) {
                let range = &config.ranges[0];
                for subnet in range.subnets().take(50) {
                    prop_assert!(range.has(&subnet));
                    prop_assert!(range.network.contains(&subnet));
                }
            }
        }
    }
}
