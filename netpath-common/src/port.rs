//! Published ports.

use crate::addr::Addr;
use crate::tuple::Proto;

/// Key of map `ports`: what a client from outside dials.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PortKey {
    /// The host address, or the wildcard of a family: `0.0.0.0` (mapped) or `::`.
    pub addr: Addr,
    /// The published port, host byte order.
    pub port: u16,
    /// TCP or UDP.
    pub proto: Proto,
    /// Always 0.
    pub reserved: [u8; 5],
}

impl PortKey {
    /// The key of a port at an address.
    #[inline(always)]
    pub const fn new(proto: Proto, addr: Addr, port: u16) -> Self {
        Self {
            addr,
            port,
            proto,
            reserved: [0; 5],
        }
    }
}

/// Value of map `ports`: where it leads.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortTarget {
    /// The container's address.
    pub addr: Addr,
    /// The container's port, host byte order.
    pub port: u16,
    /// The container's network.
    pub network: u16,
    /// The container's place in map `slots`.
    pub slot: u32,
}

const _: () = assert!(size_of::<PortKey>() == 24 && size_of::<PortTarget>() == 24);
