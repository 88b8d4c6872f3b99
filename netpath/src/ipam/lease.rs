//! The choice of a container's address.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::Result;

use super::subnet::{Subnet, host_range, is_host_address, to_address, to_number};
use crate::problem::{conflict, invalid};

/// A free address of `subnet`, or of its range: the first after `last`, the address that was given
/// out last, so that a freed address rests as long as possible before it names another
/// container. From the end it goes on at the beginning. `used` are the addresses that somebody
/// has or that are set aside.
///
/// # Errors
/// Every address is in use.
pub fn allocate(subnet: &Subnet, used: &BTreeSet<IpAddr>, last: Option<IpAddr>) -> Result<IpAddr> {
    let (first, end) = bounds(subnet);
    let start = match last {
        Some(last) if subnet.prefix.contains(&last) && (first..end).contains(&to_number(last)) => {
            to_number(last) + 1
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
        .map(|number| to_address(&subnet.prefix, number))
        .ok_or_else(|| {
            conflict(match subnet.range {
                Some(range) => format!(
                    "no address of range {range} of subnet {} is free, remove containers, ask for \
                     an address with --ip or create a network with a larger range",
                    subnet.prefix
                ),
                None => format!(
                    "no address of subnet {} is free, remove containers or create a larger network",
                    subnet.prefix
                ),
            })
        })
}

/// The first and the last number that containers are given.
fn bounds(subnet: &Subnet) -> (u128, u128) {
    let (first, last) = host_range(&subnet.prefix);
    match subnet.range {
        Some(range) => (
            first.max(to_number(range.network())),
            last.min(to_number(range.broadcast())),
        ),
        None => (first, last),
    }
}

/// Checks an address that a user asked for; it may be outside the range.
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

#[cfg(test)]
mod tests {
    use ipnet::IpNet;
    use proptest::prelude::*;

    use super::*;
    use crate::ipam::plan;

    fn subnet(text: &str) -> Subnet {
        plan(&[text.parse().unwrap()], &[], &[], |_| false).unwrap()[0]
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
    fn a_range_is_all_that_is_given_out() {
        let prefixes = ["10.0.0.0/24".parse().unwrap()];
        let range: IpNet = "10.0.0.64/30".parse().unwrap();
        let gateway = ["10.0.0.1".parse().unwrap()];
        let subnet = plan(&prefixes, &[range], &gateway, |_| false).unwrap()[0];
        let mut used = BTreeSet::new();
        // A range has no network and broadcast address: the subnet has.
        while let Ok(address) = allocate(&subnet, &used, used.last().copied()) {
            used.insert(address);
        }
        let given: Vec<String> = used.iter().map(ToString::to_string).collect();
        assert_eq!(given, ["10.0.0.64", "10.0.0.65", "10.0.0.66", "10.0.0.67"]);
        let error = allocate(&subnet, &used, None).unwrap_err().to_string();
        assert!(
            error.contains("range 10.0.0.64/30") && error.contains("--ip"),
            "{error}"
        );
        assert!(check_wanted(&subnet, &used, "10.0.0.9".parse().unwrap()).is_ok());
        // An address of before the network had a range.
        let earlier = Some("10.0.0.200".parse().unwrap());
        used.remove(&"10.0.0.66".parse().unwrap());
        let address = allocate(&subnet, &used, earlier).unwrap();
        assert_eq!(address.to_string(), "10.0.0.66");
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

    /// What somebody does with addresses.
    #[derive(Clone, Debug)]
    enum Step {
        Allocate,
        /// Asks for the nth address of the subnet.
        Want(u8),
        /// Gives the nth of the leased addresses back.
        Free(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Allocate),
            1 => any::<u8>().prop_map(Step::Want),
            2 => any::<u8>().prop_map(Step::Free),
        ];
        proptest::collection::vec(step, 1..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        /// As a reference that has a list of all addresses, in which it marks what is in use:
        /// never twice, never the gateway, never set aside, never outside, never refused while
        /// one is free, and always the one that has rested longest in the order of the circle.
        #[test]
        fn the_allocator_does_what_a_list_of_all_addresses_does(
            v4 in any::<bool>(),
            length in 3u8..=7,
            gateway in proptest::option::of(any::<u8>()),
            range in proptest::option::of((any::<u8>(), 0u8..=4)),
            aside in proptest::collection::vec(any::<u8>(), 0..3),
            steps in steps(),
        ) {
            // A subnet of 2 to 2^length addresses.
            let base: IpNet = if v4 {
                format!("10.1.2.0/{}", 32 - length).parse().unwrap()
            } else {
                format!("fd00:7::/{}", 128 - length).parse().unwrap()
            };
            let size = 1u128 << length;
            let nth = |n: u8| to_address(&base, to_number(base.network()) + u128::from(n) % size);
            let range = range.map(|(at, bits)| {
                IpNet::new(nth(at), base.max_prefix_len() - bits.min(length)).unwrap().trunc()
            });
            let gateway: Vec<IpAddr> = gateway.map(nth).into_iter().collect();
            let ranges: Vec<IpNet> = range.into_iter().collect();
            let Ok(planned) = plan(&[base], &ranges, &gateway, |_| false) else {
                return Ok(());
            };
            let subnet = planned[0];
            let aside: BTreeSet<IpAddr> = aside.into_iter().map(nth).collect();

            // The reference: all addresses in order, and who has them.
            let last_nth = if v4 { size - 2 } else { size - 1 };
            let usable = |n: u128| (1..=last_nth).contains(&n);
            let address = |n: u128| to_address(&base, to_number(base.network()) + n);
            let mut taken: Vec<bool> = (0..size)
                .map(|n| {
                    !usable(n) || subnet.gateway == Some(address(n)) || aside.contains(&address(n))
                })
                .collect();
            let given_out = |n: u128| range.is_none_or(|range| range.contains(&address(n)));
            let mut cursor = None;

            let mut leased: BTreeSet<IpAddr> = BTreeSet::new();
            let mut last = None;
            for step in steps {
                let used: BTreeSet<IpAddr> = leased.union(&aside).copied().collect();
                match step {
                    Step::Allocate => {
                        let begin: u128 = cursor.map_or(0, |cursor: u128| cursor + 1);
                        let circle = (begin..size).chain(0..begin.min(size));
                        let expected = circle
                            .filter(|n| given_out(*n))
                            .find(|n| !taken[usize::try_from(*n).unwrap()]);
                        let given = allocate(&subnet, &used, last).ok();
                        prop_assert_eq!(given, expected.map(address));
                        if let (Some(given), Some(n)) = (given, expected) {
                            prop_assert!(leased.insert(given));
                            taken[usize::try_from(n).unwrap()] = true;
                            cursor = Some(n);
                            last = Some(given);
                        }
                    }
                    Step::Want(n) => {
                        let n = u128::from(n) % size;
                        let place = &mut taken[usize::try_from(n).unwrap()];
                        let wanted = check_wanted(&subnet, &used, address(n));
                        prop_assert_eq!(wanted.is_ok(), !*place, "{}", address(n));
                        if wanted.is_ok() {
                            leased.insert(address(n));
                            *place = true;
                        }
                    }
                    Step::Free(n) if !leased.is_empty() => {
                        let freed = *leased.iter().nth(usize::from(n) % leased.len()).unwrap();
                        leased.remove(&freed);
                        let n = to_number(freed) - to_number(base.network());
                        taken[usize::try_from(n).unwrap()] = false;
                    }
                    Step::Free(_) => {}
                }
            }
        }
    }
}
