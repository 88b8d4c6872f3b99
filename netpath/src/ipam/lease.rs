//! The choice of a container's address.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::Result;
use ipnet::IpNet;

use super::subnet::{Subnet, host_range, is_host_address, to_number};
use crate::problem::{conflict, invalid};

/// A free address of `subnet`: the first after `last`, the address that was given out
/// last, so that a freed address rests as long as possible before it names another
/// container. From the end of the subnet it goes on at the beginning.
///
/// # Errors
/// Every address is in use.
pub fn allocate(subnet: &Subnet, used: &BTreeSet<IpAddr>, last: Option<IpAddr>) -> Result<IpAddr> {
    let (first, end) = host_range(&subnet.prefix);
    let start = match last {
        Some(last) if subnet.prefix.contains(&last) && to_number(last) < end => {
            to_number(last).saturating_add(1).max(first)
        }
        _ => first,
    };
    let is_free = |number: &u128| {
        let address = to_address(&subnet.prefix, *number);
        Some(address) != subnet.gateway && !used.contains(&address)
    };
    // Each step over an address in use is a step through `used`, so that even a /8 or a
    // /64 ends after as many steps as it has leases.
    (start..=end)
        .find(is_free)
        .or_else(|| (first..start).find(is_free))
        .map_or_else(
            || {
                Err(conflict(format!(
                    "no address of subnet {} is free, remove containers or create a larger network",
                    subnet.prefix
                )))
            },
            |number| Ok(to_address(&subnet.prefix, number)),
        )
}

/// Checks an address that a user asked for.
///
/// # Errors
/// It is outside the subnet, no host address, the gateway's, or in use.
pub fn check_wanted(subnet: &Subnet, used: &BTreeSet<IpAddr>, wanted: IpAddr) -> Result<()> {
    let prefix = subnet.prefix;
    if !prefix.contains(&wanted) {
        Err(invalid(format!(
            "address {wanted} is outside the subnet {prefix}"
        )))
    } else if !is_host_address(&prefix, wanted) {
        Err(invalid(format!(
            "address {wanted} is the network or broadcast address of {prefix}"
        )))
    } else if Some(wanted) == subnet.gateway {
        Err(conflict(format!(
            "address {wanted} is the gateway of the network"
        )))
    } else if used.contains(&wanted) {
        Err(conflict(format!("address {wanted} is already in use")))
    } else {
        Ok(())
    }
}

fn to_address(prefix: &IpNet, number: u128) -> IpAddr {
    match prefix {
        // The numbers of an IPv4 subnet are 32 bits long.
        IpNet::V4(_) => IpAddr::V4((number as u32).into()),
        IpNet::V6(_) => IpAddr::V6(number.into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ipam::plan;

    fn subnet(text: &str) -> Subnet {
        plan(&[text.parse().unwrap()], &[], |_| false).unwrap()[0]
    }

    #[test]
    fn goes_on_after_the_last_and_wraps() {
        let subnet = subnet("10.0.0.0/29");
        let mut used = BTreeSet::new();
        let mut last = None;
        let mut given = Vec::new();
        while let Ok(address) = allocate(&subnet, &used, last) {
            assert!(used.insert(address));
            given.push(address.to_string());
            last = Some(address);
        }
        assert_eq!(
            given,
            ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]
        );
        used.remove(&"10.0.0.3".parse().unwrap());
        let address = allocate(&subnet, &used, last).unwrap();
        assert_eq!(address.to_string(), "10.0.0.3");
        used.insert(address);
        let error = allocate(&subnet, &used, last).unwrap_err().to_string();
        assert!(
            error.contains("no address of subnet 10.0.0.0/29 is free"),
            "{error}"
        );
    }

    #[test]
    fn wanted_addresses_are_checked() {
        let subnet = subnet("fd00:1::/64");
        let used = BTreeSet::from(["fd00:1::5".parse().unwrap()]);
        for (wanted, part) in [
            ("fd00:2::2", "outside"),
            ("fd00:1::", "network or broadcast"),
            ("fd00:1::1", "gateway"),
            ("fd00:1::5", "in use"),
        ] {
            let error = check_wanted(&subnet, &used, wanted.parse().unwrap())
                .unwrap_err()
                .to_string();
            assert!(error.contains(part), "{wanted}: {error}");
        }
        assert!(check_wanted(&subnet, &used, "fd00:1::6".parse().unwrap()).is_ok());
    }

    proptest! {
        /// Never twice, never the gateway, never outside, and never refused while one is free.
        #[test]
        fn leases_are_unique(
            length in 24u8..=30,
            steps in proptest::collection::vec(any::<(bool, u8)>(), 1..300),
        ) {
            let subnet = subnet(&format!("10.1.2.0/{length}"));
            let capacity = (1usize << (32 - length)) - 3;
            let mut used = BTreeSet::new();
            let mut last = None;
            for (free, which) in steps {
                if free && !used.is_empty() {
                    let nth = usize::from(which) % used.len();
                    let address: IpAddr = *used.iter().nth(nth).unwrap();
                    used.remove(&address);
                } else {
                    match allocate(&subnet, &used, last) {
                        Ok(address) => {
                            prop_assert!(check_wanted(&subnet, &used, address).is_ok());
                            used.insert(address);
                            last = Some(address);
                        }
                        Err(_) => prop_assert_eq!(used.len(), capacity),
                    }
                }
            }
        }
    }
}
