//! Who has which address on the host of such tests.

/// Addresses of the test's host and of those it talks to, by family.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Container A.
    pub a: &'static str,
    /// Container B, of the same network.
    pub b: &'static str,
    /// A container of another network.
    pub red: &'static str,
    /// The gateway of the first network.
    pub gateway: &'static str,
    /// The uplink's address.
    pub uplink: &'static str,
    /// Somebody behind the default route.
    pub remote: &'static str,
    /// An address of the first network that nobody has.
    pub nobody: &'static str,
    /// A destination without a route.
    pub unrouted: &'static str,
    /// The wildcard.
    pub any: &'static str,
}

/// Addresses of IPv4.
pub const V4: Family = Family {
    a: "10.1.0.2",
    b: "10.1.0.3",
    red: "10.2.0.2",
    gateway: "10.1.0.1",
    uplink: "192.0.2.1",
    remote: "203.0.113.9",
    nobody: "10.1.0.77",
    unrouted: "198.18.0.1",
    any: "0.0.0.0",
};

/// Addresses of IPv6.
pub const V6: Family = Family {
    a: "fd01::2",
    b: "fd01::3",
    red: "fd02::2",
    gateway: "fd01::1",
    uplink: "2001:db8::1",
    remote: "2001:db8:ffff::9",
    nobody: "fd01::77",
    unrouted: "2001:db8:dead::1",
    any: "::",
};

/// Both families.
pub const FAMILIES: [Family; 2] = [V4, V6];

/// MAC address of container A.
pub const MAC_A: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// MAC address of container B.
pub const MAC_B: [u8; 6] = [2, 0, 0, 0, 0, 3];
/// MAC address of the container of the other network.
pub const MAC_RED: [u8; 6] = [2, 0, 0, 0, 0, 4];
/// MAC address of the first network's gateway.
pub const MAC_GATEWAY: [u8; 6] = [2, 0, 0, 0, 1, 1];
/// MAC address of the second network's gateway.
pub const MAC_GATEWAY_RED: [u8; 6] = [2, 0, 0, 0, 1, 2];
