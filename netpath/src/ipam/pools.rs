//! Subnets for networks that name none: Docker's default pools, or those of the settings.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use anyhow::{Error, Result};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::subnet::{overlaps, parse_cidr, to_address, to_number};
use crate::problem::{conflict, invalid};

/// A prefix that is cut into subnets of one size: `base=10.10.0.0/16,size=24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    base: IpNet,
    /// Prefix length of the subnets.
    size: u8,
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cut into /{}", self.base, self.size)
    }
}

impl FromStr for Pool {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            invalid(format!(
                "default-address-pool \"{}\" makes no sense, write one like \
                 base=10.10.0.0/16,size=24",
                text.escape_debug()
            ))
        };
        let (mut base, mut size) = (None, None);
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("base", prefix)) if base.is_none() => base = Some(parse_cidr(prefix)?),
                Some(("size", length)) if size.is_none() => {
                    size = Some(length.parse::<u8>().map_err(|_| wrong())?);
                }
                _ => return Err(wrong()),
            }
        }
        let (Some(base), Some(size)) = (base, size) else {
            return Err(wrong());
        };
        // A gateway and a container must fit.
        let longest = base.max_prefix_len() - 2;
        if !(base.prefix_len()..=longest).contains(&size) {
            return Err(invalid(format!(
                "default-address-pool {text}: size {size} is out of range, choose {} to {longest}",
                base.prefix_len()
            )));
        }
        Ok(Self { base, size })
    }
}

impl Pool {
    /// The first of its subnets that has no address in common with `taken`.
    fn free(&self, taken: &[IpNet]) -> Option<IpNet> {
        let last = to_number(self.base.broadcast());
        let mut start = to_number(self.base.network());
        // Each turn goes past the end of another of `taken`, for good.
        loop {
            let candidate = IpNet::new(to_address(&self.base, start), self.size).ok()?;
            let Some(other) = taken.iter().find(|other| overlaps(&candidate, other)) else {
                return Some(candidate);
            };
            let end = to_number(candidate.broadcast()).max(to_number(other.broadcast()));
            // Where `other` ends is the end of a candidate, too, if it is the larger of the two.
            start = end.checked_add(1).filter(|start| *start <= last)?;
        }
    }
}

/// 172.17.0.0/16 to 172.31.0.0/16, then 192.168.0.0/16 cut into /20.
pub fn default_pools() -> Vec<Pool> {
    let pool = |address: [u8; 4], length, size| Pool {
        base: IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from(address), length)),
        size,
    };
    let large = (17..=31).map(|second| pool([172, second, 0, 0], 16, 16));
    large.chain([pool([192, 168, 0, 0], 16, 20)]).collect()
}

/// The first subnet of the pools of a family that has no address in common with `taken`: other
/// networks, the host's routes, and `nameservers`, which containers must be able to reach.
/// `None` if no pool is of the family.
///
/// # Errors
/// All of them overlap something.
pub fn choose_subnet(
    pools: &[Pool],
    v4: bool,
    taken: &[IpNet],
    nameservers: &[IpAddr],
) -> Result<Option<IpNet>> {
    let pools: Vec<&Pool> = pools
        .iter()
        .filter(|pool| pool.base.addr().is_ipv4() == v4)
        .collect();
    if pools.is_empty() {
        return Ok(None);
    }
    let servers = nameservers.iter().map(|server| IpNet::from(*server));
    let taken: Vec<IpNet> = taken.iter().copied().chain(servers).collect();
    match pools.iter().find_map(|pool| pool.free(&taken)) {
        Some(subnet) => Ok(Some(subnet)),
        None => {
            let all: Vec<String> = pools.iter().map(ToString::to_string).collect();
            Err(conflict(format!(
                "every default subnet ({}) overlaps another network or a route of the host, choose \
                 one with --subnet",
                all.join(", ")
            )))
        }
    }
}

/// A unique local /64 (RFC 4193) made of 56 random bits.
pub fn random_ula(random: [u8; 7]) -> IpNet {
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..8].copy_from_slice(&random);
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from(octets), 64))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn choose(taken: &[&str], servers: &[&str]) -> Result<String> {
        let taken: Vec<IpNet> = taken.iter().map(|text| text.parse().unwrap()).collect();
        let servers: Vec<IpAddr> = servers.iter().map(|text| text.parse().unwrap()).collect();
        let subnet = choose_subnet(&default_pools(), true, &taken, &servers)?;
        Ok(subnet.unwrap().to_string())
    }

    #[test]
    fn takes_the_first_that_is_free() {
        assert_eq!(choose(&[], &[]).unwrap(), "172.17.0.0/16");
        assert_eq!(
            choose(&["172.17.0.0/16", "172.18.4.0/24"], &[]).unwrap(),
            "172.19.0.0/16"
        );
        assert_eq!(choose(&[], &["172.17.0.53"]).unwrap(), "172.18.0.0/16");
        assert_eq!(
            choose(&["172.16.0.0/12", "192.168.0.0/24"], &[]).unwrap(),
            "192.168.16.0/20"
        );
        let error = choose(&["172.16.0.0/12", "192.168.0.0/16"], &[]).unwrap_err();
        assert!(error.to_string().contains("--subnet"), "{error}");
    }

    #[test]
    fn there_are_31_default_subnets() {
        let (pools, mut taken) = (default_pools(), Vec::new());
        while let Ok(subnet) = choose_subnet(&pools, true, &taken, &[]) {
            taken.extend(subnet);
        }
        assert_eq!(taken.len(), 31);
        assert_eq!(taken[30].to_string(), "192.168.240.0/20");
        assert_eq!(choose_subnet(&pools, false, &[], &[]).unwrap(), None);
    }

    #[test]
    fn pools_are_settings() {
        let pool: Pool = "base=10.10.0.0/16,size=24".parse().unwrap();
        let taken = ["10.10.0.0/23".parse().unwrap()];
        assert_eq!(pool.free(&taken).unwrap().to_string(), "10.10.2.0/24");
        // Large steps: nobody counts 2^48 subnets.
        let pool: Pool = "size=64,base=fd00::/8".parse().unwrap();
        let taken = ["fd00::/16".parse().unwrap()];
        assert_eq!(pool.free(&taken).unwrap().to_string(), "fd01::/64");
        assert_eq!(pool.free(&["fc00::/7".parse().unwrap()]), None);
        for (text, part) in [
            ("10.0.0.0/8", "base=10.10.0.0/16,size=24"),
            ("base=10.0.0.0/8", "base=10.10.0.0/16,size=24"),
            ("base=10.0.0.0/8,size=x", "size=x"),
            ("base=10.0.0.0/8,size=4", "choose 8 to 30"),
            ("base=10.0.0.0/8,size=31", "choose 8 to 30"),
            ("base=10.0.0.1/8,size=24", "did you mean 10.0.0.0/8?"),
            ("base=224.0.0.0/8,size=24", "multicast"),
        ] {
            let error = text.parse::<Pool>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        /// As somebody who tries one subnet after another.
        #[test]
        fn the_first_free_subnet_is_found(
            size in 16u8..=24,
            taken in proptest::collection::vec((any::<u16>(), 12u8..=30), 0..40),
        ) {
            let base: IpNet = "10.10.0.0/16".parse().unwrap();
            let pool = Pool { base, size };
            let taken: Vec<IpNet> = taken
                .into_iter()
                .map(|(at, length)| {
                    let address = to_address(&base, to_number(base.network()) + u128::from(at));
                    IpNet::new(address, length).unwrap().trunc()
                })
                .collect();
            let expected = base
                .subnets(size)
                .unwrap()
                .find(|subnet| !taken.iter().any(|other| overlaps(subnet, other)));
            prop_assert_eq!(pool.free(&taken), expected);
        }
    }

    #[test]
    fn a_ula_is_a_subnet_of_its_own() {
        let prefix = random_ula([1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(prefix.to_string(), "fd01:203:405:607::/64");
        assert_eq!(prefix, prefix.trunc());
    }
}
