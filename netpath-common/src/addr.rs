//! Addresses of both families in one type, so that no code has a v4 and a v6 twin.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv6 address, or an IPv4 address mapped into `::ffff:0:0/96` (RFC 4291, 2.5.5.2).
///
/// Octets are in network byte order. The alignment lets the BPF programs compare
/// and copy an address as two 64-bit words (the verifier wants aligned stack access).
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Addr {
    /// The 16 octets, network byte order.
    pub octets: [u8; 16],
}

/// The third word of a mapped IPv4 address.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

impl Addr {
    /// `::`, which stands for "none" or "any", depending on the record.
    pub const UNSPECIFIED: Self = Self { octets: [0; 16] };

    /// `0.0.0.0` in its mapped form: "any IPv4 address" in keys of published ports.
    pub const UNSPECIFIED_V4: Self = Self::v4([0; 4]);

    /// An IPv4 address, octets in network byte order.
    #[inline(always)]
    pub const fn v4(octets: [u8; 4]) -> Self {
        Self::from_words([0, 0, MAPPED, u32::from_ne_bytes(octets)])
    }

    /// An IPv6 address, octets in network byte order.
    #[inline(always)]
    pub const fn v6(octets: [u8; 16]) -> Self {
        Self { octets }
    }

    // The conversions below are transmutes because LLVM for BPF, given bytes, keeps each of
    // them in a register or a stack slot of its own.

    /// An address from four words in memory order.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        // SAFETY: integers of the same total size; no bit pattern is invalid.
        let octets = unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(words) };
        Self { octets }
    }

    /// An address from two words in memory order.
    #[inline(always)]
    pub const fn from_halves(halves: [u64; 2]) -> Self {
        // SAFETY: as in `from_words`.
        let octets = unsafe { core::mem::transmute::<[u64; 2], [u8; 16]>(halves) };
        Self { octets }
    }

    /// The address as four words in memory order (not numbers: only for copying, comparing
    /// and checksums).
    #[inline(always)]
    pub const fn quads(&self) -> [u32; 4] {
        // SAFETY: as in `from_words`.
        unsafe { core::mem::transmute::<[u8; 16], [u32; 4]>(self.octets) }
    }

    /// The address as two words in memory order; see [`Self::quads`].
    #[inline(always)]
    pub const fn words(&self) -> [u64; 2] {
        // SAFETY: as in `from_words`.
        unsafe { core::mem::transmute::<[u8; 16], [u64; 2]>(self.octets) }
    }

    /// Whether this is a mapped IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        let [a, b, c, _] = self.quads();
        a | b | (c ^ MAPPED) == 0
    }

    /// The last four octets: the IPv4 address of a mapped one.
    #[inline(always)]
    pub const fn v4_octets(&self) -> [u8; 4] {
        self.quads()[3].to_ne_bytes()
    }

    /// Whether this is `::` (but not `0.0.0.0`, which is [`Self::UNSPECIFIED_V4`]).
    #[inline(always)]
    pub fn is_unspecified(&self) -> bool {
        let [a, b] = self.words();
        a | b == 0
    }

    /// The wildcard of this address's family.
    #[inline(always)]
    pub fn wildcard(&self) -> Self {
        if self.is_v4() {
            Self::UNSPECIFIED_V4
        } else {
            Self::UNSPECIFIED
        }
    }

    /// Multicast of either family (224/4, ff00::/8) or the IPv4 limited broadcast.
    #[inline(always)]
    pub fn is_group(&self) -> bool {
        if self.is_v4() {
            self.octets[12] >= 224 && (self.octets[12] < 240 || self.v4_octets() == [255; 4])
        } else {
            self.octets[0] == 0xff
        }
    }

    /// Whether nobody on a network can have it: unspecified, of a group, loopback, and what
    /// IPv4 has reserved below and above (RFC 1122, 3.2.1.3).
    #[inline(always)]
    pub fn is_no_source(&self) -> bool {
        if self.is_v4() {
            matches!(self.octets[12], 0 | 127 | 224..)
        } else {
            self.is_unspecified() || self.is_loopback() || self.is_group()
        }
    }

    /// An address of the host to itself (127.0.0.0/8, ::1).
    #[inline(always)]
    pub fn is_loopback(&self) -> bool {
        if self.is_v4() {
            self.octets[12] == 127
        } else {
            let [a, b] = self.words();
            a == 0 && b == 1u64.to_be()
        }
    }

    /// IPv6 link-local unicast (fe80::/10).
    #[inline(always)]
    pub fn is_link_local_v6(&self) -> bool {
        self.octets[0] == 0xfe && self.octets[1] & 0xc0 == 0x80
    }

    /// Whether the first `bits` bits of both addresses agree.
    ///
    /// `bits` counts from the start of the 128-bit form: an IPv4 /24 is 96 + 24.
    #[inline(always)]
    pub fn same_prefix(&self, other: &Self, bits: u8) -> bool {
        let [a0, a1] = self.words();
        let [b0, b1] = other.words();
        let (m0, m1) = prefix_masks(bits);
        ((a0 ^ b0) & m0) | ((a1 ^ b1) & m1) == 0
    }

    /// The standard library's form: mapped addresses come out as IPv4.
    pub const fn to_ip(self) -> IpAddr {
        let v6 = Ipv6Addr::from_octets(self.octets);
        match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6(v6),
        }
    }
}

/// Masks of a 128-bit prefix, as words in memory order.
#[inline(always)]
fn prefix_masks(bits: u8) -> (u64, u64) {
    // Shifts by 64 are not defined, so both ends are spelt out.
    let high = match bits {
        0 => 0,
        64.. => u64::MAX,
        n => u64::MAX << (64 - n),
    };
    let low = match bits {
        0..=64 => 0,
        128.. => u64::MAX,
        n => u64::MAX << (128 - n),
    };
    (high.to_be(), low.to_be())
}

impl PartialEq for Addr {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        // Not derived: comparing byte arrays becomes a call of `bcmp`, a byte loop in BPF.
        let [a0, a1] = self.words();
        let [b0, b1] = other.words();
        (a0 ^ b0) | (a1 ^ b1) == 0
    }
}

impl Eq for Addr {}

impl core::hash::Hash for Addr {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.octets.hash(state);
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(ip: Ipv4Addr) -> Self {
        Self::v4(ip.octets())
    }
}

impl From<Ipv6Addr> for Addr {
    fn from(ip: Ipv6Addr) -> Self {
        Self::v6(ip.octets())
    }
}

impl core::fmt::Display for Addr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.to_ip().fmt(f)
    }
}

impl core::fmt::Debug for Addr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

/// An Ethernet address. The alignment lets BPF programs move it as three words.
#[repr(C, align(2))]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Mac {
    /// The six octets as on the wire.
    pub octets: [u8; 6],
}

impl Mac {
    /// All zero: "none".
    pub const ZERO: Self = Self { octets: [0; 6] };

    /// A MAC address of these octets.
    #[inline(always)]
    pub const fn new(octets: [u8; 6]) -> Self {
        Self { octets }
    }

    /// An address from three words in memory order.
    #[inline(always)]
    pub const fn from_words(words: [u16; 3]) -> Self {
        // SAFETY: integers of the same total size; no bit pattern is invalid.
        let octets = unsafe { core::mem::transmute::<[u16; 3], [u8; 6]>(words) };
        Self { octets }
    }

    /// The address as three words in memory order.
    #[inline(always)]
    pub const fn words(&self) -> [u16; 3] {
        // SAFETY: integers of the same total size; no bit pattern is invalid.
        unsafe { core::mem::transmute::<[u8; 6], [u16; 3]>(self.octets) }
    }

    /// Whether these words, in memory order, are this address.
    #[inline(always)]
    pub const fn is(&self, words: [u16; 3]) -> bool {
        let own = self.words();
        (own[0] ^ words[0]) | (own[1] ^ words[1]) | (own[2] ^ words[2]) == 0
    }
}

impl core::fmt::Display for Mac {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [a, b, c, d, e, g] = self.octets;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl core::fmt::Debug for Mac {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addr(text: &str) -> Addr {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn mapped_addresses_are_told_from_real_ipv6() {
        assert!(addr("10.0.0.1").is_v4());
        assert!(!addr("::a00:1").is_v4());
        assert!(!addr("fe80::1").is_v4());
        assert_eq!(addr("10.0.0.1").to_string(), "10.0.0.1");
        assert_eq!(addr("fd00::1").to_string(), "fd00::1");
    }

    #[test]
    fn groups_of_both_families() {
        for group in ["224.0.0.1", "239.255.255.255", "255.255.255.255", "ff02::1"] {
            assert!(addr(group).is_group(), "{group}");
        }
        for single in [
            "223.255.255.255",
            "240.0.0.1",
            "10.0.0.255",
            "fe80::1",
            "::",
        ] {
            assert!(!addr(single).is_group(), "{single}");
        }
    }

    #[test]
    fn loopback_of_both_families() {
        for own in ["127.0.0.1", "127.255.255.255", "::1"] {
            assert!(addr(own).is_loopback(), "{own}");
        }
        for other in ["126.0.0.1", "128.0.0.1", "::", "::2", "1::1", "::127.0.0.1"] {
            assert!(!addr(other).is_loopback(), "{other}");
        }
    }

    proptest! {
        #[test]
        fn same_prefix_agrees_with_shifting(a: u128, b: u128, bits in 0u8..=128) {
            let expected = bits == 0 || (a ^ b) >> (128 - u32::from(bits)) == 0;
            let (x, y) = (Addr::v6(a.to_be_bytes()), Addr::v6(b.to_be_bytes()));
            prop_assert_eq!(x.same_prefix(&y, bits), expected);
            // Random pairs hardly ever share a prefix: also try one that does.
            let near = a ^ (b & if bits == 128 { 0 } else { u128::MAX >> bits });
            prop_assert!(x.same_prefix(&Addr::v6(near.to_be_bytes()), bits));
        }
    }
}
