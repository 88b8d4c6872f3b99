//! The arithmetic of the search for a source port, and the record of how long searches were.

/// Buckets of [`Searches`]: the first try, then by powers of two up to 127 tries in vain, and
/// one for searches that found nothing.
pub const BUCKETS: usize = 9;

/// The bucket of searches that found nothing.
pub const EXHAUSTED: usize = BUCKETS - 1;

/// Value 0 of per-CPU map `snat_retries`: how many ports were taken before one was found.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Searches {
    /// Searches by their retries: 0, 1, 2–3, 4–7, …, 64–127; the last found nothing.
    pub buckets: [u64; BUCKETS],
}

/// The bucket of a search that took this many retries.
#[inline(always)]
pub const fn bucket(retries: u32) -> usize {
    let bits = (u32::BITS - retries.leading_zeros()) as usize;
    if bits < EXHAUSTED {
        bits
    } else {
        EXHAUSTED - 1
    }
}

/// The least number of retries of a bucket.
pub const fn least(bucket: usize) -> u32 {
    if bucket == 0 { 0 } else { 1 << (bucket - 1) }
}

/// A number below `limit`, by the place of `bits` among all numbers.
#[inline(always)]
pub const fn share(bits: u32, limit: u32) -> u32 {
    ((bits as u64 * limit as u64) >> 32) as u32
}

/// SipHash-1-3 (Aumasson and Bernstein, 2012) of five words, as of their bytes in
/// little-endian order.
#[inline(always)]
pub fn siphash(key: &[u64; 2], words: [u64; 5]) -> u64 {
    let [k0, k1] = *key;
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let [a, b, c, d, e] = words;
    // The last word of the message is its length, 40 bytes, in the top byte.
    for word in [a, b, c, d, e, 40 << 56] {
        v[3] ^= word;
        round(&mut v);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    round(&mut v);
    round(&mut v);
    round(&mut v);
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline(always)]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_number_of_retries_has_its_bucket() {
        for (retries, expected) in [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (64, 7), (127, 7)] {
            assert_eq!(bucket(retries), expected);
            assert!(least(expected) <= retries && retries < least(expected + 1));
        }
        assert_eq!(bucket(u32::MAX), EXHAUSTED - 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        /// The standard library's hasher is SipHash-1-3 with a key of zeros.
        #[test]
        fn siphash_is_the_standard_librarys(words: [u64; 5]) {
            use std::hash::Hasher as _;
            let mut theirs = std::hash::DefaultHasher::new();
            for word in words {
                theirs.write(&word.to_le_bytes());
            }
            prop_assert_eq!(siphash(&[0, 0], words), theirs.finish());
        }

        #[test]
        fn a_share_is_below_its_limit(bits: u32, limit in 1u32..) {
            prop_assert!(share(bits, limit) < limit);
        }
    }
}
