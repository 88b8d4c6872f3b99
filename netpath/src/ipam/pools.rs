//! Subnets for networks that name none: Docker's default pools.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::subnet::overlaps;
use crate::problem::conflict;

/// 172.17.0.0/16 to 172.31.0.0/16, then 192.168.0.0/16 cut into /20.
fn default_pools() -> impl Iterator<Item = IpNet> {
    let large = (17..=31).map(|second| (Ipv4Addr::new(172, second, 0, 0), 16));
    let small = (0..=15).map(|nth: u8| (Ipv4Addr::new(192, 168, nth * 16, 0), 20));
    large
        .chain(small)
        .map(|(address, length)| IpNet::V4(Ipv4Net::new_assert(address, length)))
}

/// The first default pool that has no address in common with `taken`: other networks, the
/// host's routes, and `nameservers`, which containers must be able to reach.
///
/// # Errors
/// All of them overlap something.
pub fn choose_pool(taken: &[IpNet], nameservers: &[IpAddr]) -> Result<IpNet> {
    default_pools()
        .find(|pool| {
            !taken.iter().any(|other| overlaps(pool, other))
                && !nameservers.iter().any(|server| pool.contains(server))
        })
        .ok_or_else(|| {
            conflict(
                "every default subnet (172.17.0.0/16 to 172.31.0.0/16, 192.168.0.0/16) overlaps \
                 another network or a route of the host, choose one with --subnet",
            )
        })
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
    use super::*;

    #[test]
    fn takes_the_first_that_is_free() {
        assert_eq!(choose_pool(&[], &[]).unwrap().to_string(), "172.17.0.0/16");
        let taken = [
            "172.17.0.0/16".parse().unwrap(),
            "172.18.4.0/24".parse().unwrap(),
        ];
        assert_eq!(
            choose_pool(&taken, &[]).unwrap().to_string(),
            "172.19.0.0/16"
        );
        let servers = ["172.17.0.53".parse().unwrap()];
        assert_eq!(
            choose_pool(&[], &servers).unwrap().to_string(),
            "172.18.0.0/16"
        );
        let taken = [
            "172.16.0.0/12".parse().unwrap(),
            "192.168.0.0/24".parse().unwrap(),
        ];
        assert_eq!(
            choose_pool(&taken, &[]).unwrap().to_string(),
            "192.168.16.0/20"
        );
        let taken = [
            "172.16.0.0/12".parse().unwrap(),
            "192.168.0.0/16".parse().unwrap(),
        ];
        assert!(
            choose_pool(&taken, &[])
                .unwrap_err()
                .to_string()
                .contains("--subnet")
        );
    }

    #[test]
    fn a_ula_is_a_subnet_of_its_own() {
        let prefix = random_ula([1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(prefix.to_string(), "fd01:203:405:607::/64");
        assert_eq!(prefix, prefix.trunc());
    }
}
