//! What a new overlay network gets if its maker names nothing. Pure.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use ipnet::{IpNet, Ipv4Net};

use super::schema::MAX_VNI;
use super::state::State;
use crate::ipam::overlaps;
use crate::problem::{conflict, invalid};

/// The first VNI that is given to a network that names none, as in Docker's overlay networks.
/// Smaller ones are left to those who choose by hand.
const FIRST_VNI: u32 = 4097;

/// Checks the VNI that a network's maker wants, or chooses one.
///
/// # Errors
/// It is no VNI, or another network's.
pub fn choose_vni(state: &State, wanted: Option<u32>) -> Result<u32> {
    match wanted {
        Some(vni) if !(1..=MAX_VNI).contains(&vni) => Err(invalid(format!(
            "option vni={vni}: a VNI is a number from 1 to {MAX_VNI}"
        ))),
        Some(vni) => match state.networks().find(|(_, network)| network.vni == vni) {
            Some((name, _)) => Err(conflict(format!(
                "VNI {vni} is that of network {name}, choose another or leave out the option"
            ))),
            None if state.is_vni_taken(vni) => Err(conflict(format!(
                "VNI {vni} is taken in the cluster's store, choose another or leave out the \
                 option"
            ))),
            None => Ok(vni),
        },
        None => (FIRST_VNI..=MAX_VNI)
            .find(|vni| !state.is_vni_taken(*vni))
            .ok_or_else(|| conflict("every VNI is taken, remove networks of the cluster")),
    }
}

/// The first /24 of 10.0.0.0/8 that has no address in common with `taken`, nor with
/// `nameservers`, which containers must be able to reach.
///
/// # Errors
/// All of them do.
pub fn choose_pool(taken: &[IpNet], nameservers: &[IpAddr]) -> Result<IpNet> {
    // 10.0.0.0/24 looks too much like a part of somebody's 10.0.0.0/8.
    let pools = (1..=u16::MAX).map(|nth| {
        let [high, low] = nth.to_be_bytes();
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, high, low, 0), 24))
    });
    let free = |pool: &IpNet| {
        !taken.iter().any(|other| overlaps(pool, other))
            && !nameservers.iter().any(|server| pool.contains(server))
    };
    pools.into_iter().find(free).ok_or_else(|| {
        conflict(
            "every default subnet of an overlay (/24 in 10.0.0.0/8) overlaps another network or \
             a route of the host, choose one with --subnet",
        )
    })
}

/// Where a node begins to look for free addresses. Nodes that begin at different places seldom
/// want the same address, so transactions seldom fail. `node` names the node.
pub fn starting_point(prefix: &IpNet, node: &str) -> IpAddr {
    // FNV-1a: spreads names, and is the same in every version.
    let hash = node.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let bits = u32::from(prefix.max_prefix_len() - prefix.prefix_len());
    // Sixteen addresses in a row belong together; of a large subnet the first million will do.
    let bits = bits.min(20);
    let offset = (hash & ((1_u64 << bits) - 1)) & !0xf;
    match prefix.network() {
        IpAddr::V4(network) => {
            // `bits` is what the prefix leaves free, so nothing overflows.
            IpAddr::V4((u32::from(network) | offset as u32).into())
        }
        IpAddr::V6(network) => IpAddr::V6((u128::from(network) | u128::from(offset)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::state::Change;

    fn state(vnis: &[u32]) -> State {
        let mut state = State::default();
        let changes = vnis.iter().map(|vni| Change {
            key: format!("/netpath/v1/networks/n{vni}"),
            value: Some(
                format!(
                    r#"{{"id":"1","vni":{vni},"port":4789,
                        "subnets":[{{"prefix":"10.9.{}.0/24","gateway":null}}]}}"#,
                    vni % 256
                )
                .into_bytes(),
            ),
            revision: 1,
            lease: 0,
        });
        let effect = state.replace(changes.collect(), 1, 0, 0);
        assert!(effect.malformed.is_empty(), "{effect:?}");
        state
    }

    #[test]
    fn vnis_are_unique() {
        assert_eq!(choose_vni(&State::default(), None).unwrap(), 4097);
        let state = state(&[4097, 4098, 7]);
        assert_eq!(choose_vni(&state, None).unwrap(), 4099);
        assert_eq!(choose_vni(&state, Some(8)).unwrap(), 8);
        let error = choose_vni(&state, Some(7)).unwrap_err().to_string();
        assert!(error.contains("that of network n7"), "{error}");
        for wrong in [0, MAX_VNI + 1] {
            assert!(choose_vni(&state, Some(wrong)).is_err());
        }
    }

    #[test]
    fn pools_are_free() {
        let first = choose_pool(&[], &[]).unwrap();
        assert_eq!(first.to_string(), "10.0.1.0/24");
        let taken = ["10.0.0.0/22".parse().unwrap()];
        let servers = ["10.0.4.53".parse().unwrap()];
        let pool = choose_pool(&taken, &servers).unwrap();
        assert_eq!(pool.to_string(), "10.0.5.0/24");
        assert!(choose_pool(&["10.0.0.0/8".parse().unwrap()], &[]).is_err());
    }

    #[test]
    fn nodes_begin_within_the_subnet() {
        for prefix in ["10.0.0.0/8", "10.1.2.0/24", "10.1.2.0/30", "fd00::/64"] {
            let prefix: IpNet = prefix.parse().unwrap();
            for node in ["a", "b", "host-17", ""] {
                assert!(prefix.contains(&starting_point(&prefix, node)));
            }
        }
        let prefix = "10.1.0.0/16".parse().unwrap();
        assert_ne!(starting_point(&prefix, "a"), starting_point(&prefix, "b"));
    }
}
