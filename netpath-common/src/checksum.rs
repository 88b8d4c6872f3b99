//! Internet checksum arithmetic (RFC 1071, RFC 1624).
//!
//! Sums are over 16-bit words as they lie in memory ("memory order"): one's complement
//! addition does not mind the byte order as long as all words have the same.

use crate::addr::Addr;

/// Folds a sum to 16 bits with end-around carry.
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Sum of the words of an address.
#[inline(always)]
pub const fn sum_addr(addr: &Addr) -> u64 {
    let [a, b, c, d] = addr.quads();
    a as u64 + b as u64 + c as u64 + d as u64
}

/// What a checksum's sum changes by when two addresses are replaced.
///
/// The mapped prefix of IPv4 addresses cancels out, so that the result fits both the
/// IPv4 header checksum and the pseudo header of either family.
#[inline(always)]
pub fn addr_diff(old: [&Addr; 2], new: [&Addr; 2]) -> u16 {
    let removed = fold(sum_addr(old[0]) + sum_addr(old[1]));
    let added = fold(sum_addr(new[0]) + sum_addr(new[1]));
    fold(u64::from(!removed) + u64::from(added))
}

/// What a checksum's sum changes by when two ports (host byte order) are replaced.
#[inline(always)]
pub const fn port_diff(old: [u16; 2], new: [u16; 2]) -> u16 {
    let removed = fold(old[0].to_be() as u64 + old[1].to_be() as u64);
    let added = fold(new[0].to_be() as u64 + new[1].to_be() as u64);
    fold(!removed as u64 + added as u64)
}

/// What the IPv4 header checksum's sum changes by when the time to live is lowered by one.
pub const TTL_DIFF: u16 = (!0x0100u16).to_be();

/// A checksum field (memory order) after its sum changed by `diff` (RFC 1624, equation 3).
#[inline(always)]
pub const fn apply(field: u16, diff: u16) -> u16 {
    !fold(!field as u64 + diff as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The checksum of RFC 1071 by the book, over bytes: nothing shared with the code above.
    fn by_the_book(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn incremental_update_equals_a_fresh_sum(
            old in any::<[[u8; 16]; 2]>(), new in any::<[[u8; 16]; 2]>(),
            old_ports: [u16; 2], new_ports: [u16; 2], rest in any::<[u8; 10]>(),
        ) {
            let build = |a: &[[u8; 16]; 2], p: [u16; 2]| {
                let mut b = Vec::new();
                b.extend(a[0]); b.extend(a[1]);
                b.extend(p[0].to_be_bytes()); b.extend(p[1].to_be_bytes());
                b.extend(rest);
                b
            };
            let before = by_the_book(&build(&old, old_ports));
            let after = by_the_book(&build(&new, new_ports));
            let (o, n) = (old.map(Addr::v6), new.map(Addr::v6));
            let a = addr_diff([&o[0], &o[1]], [&n[0], &n[1]]);
            let p = port_diff(old_ports, new_ports);
            let updated = u16::from_be(apply(apply(before.to_be(), a), p));
            // 0x0000 and 0xffff are the same number in one's complement.
            prop_assert_eq!(updated % 0xffff, after % 0xffff);
        }

        #[test]
        fn lowering_the_time_to_live(header in any::<[u8; 20]>(), ttl in 1u8..) {
            let mut header = header;
            header[8] = ttl;
            header[10..12].fill(0);
            let before = by_the_book(&header);
            header[8] -= 1;
            let after = by_the_book(&header);
            let updated = u16::from_be(apply(before.to_be(), TTL_DIFF));
            prop_assert_eq!(updated % 0xffff, after % 0xffff);
        }
    }
}
