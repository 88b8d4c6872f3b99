//! The short way between two containers of one network.
//!
//! Most packets between containers need no more than this: the sender's addresses are its own,
//! and the receiver is known. Two look-ups in arrays answer that, with no hash to compute. All
//! else (other destinations, unusual headers, drops and their reasons) is left to
//! [`crate::container`], which could do without this module.

use crate::addr::{Addr, Mac};
use crate::env::Env;

/// Value of map `senders`: what a container may send from. Key: [`sender_place`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sender {
    /// The container's IPv4 address (mapped), or `::`.
    pub addr4: Addr,
    /// The container's IPv6 address, or `::`.
    pub addr6: Addr,
    /// The container's IPv6 link-local address, or `::`.
    pub link_local: Addr,
    /// Its host-side veth: another one may have the same place.
    pub ifindex: u32,
    /// Its network.
    pub network: u16,
    /// MAC address of its interface.
    pub mac: Mac,
    /// Always 0.
    pub reserved: u32,
}

/// Value of map `receivers`: who has an address. Key: [`receiver_place`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Receiver {
    /// The address: another one may have the same place.
    pub addr: Addr,
    /// The host-side veth of the container that has it; 0 if the place is empty.
    pub ifindex: u32,
    /// The network.
    pub network: u16,
    /// Always 0.
    pub reserved: u16,
}

// One cache line; and no padding.
const _: () = assert!(size_of::<Sender>() == 64 && size_of::<Receiver>() == 24);

impl Sender {
    /// An empty place.
    pub const NONE: Self = Self {
        addr4: Addr::UNSPECIFIED,
        addr6: Addr::UNSPECIFIED,
        link_local: Addr::UNSPECIFIED,
        ifindex: 0,
        network: 0,
        mac: Mac::ZERO,
        reserved: 0,
    };

    /// Whether the container may send from this address.
    #[inline(always)]
    pub fn owns(&self, addr: &Addr) -> bool {
        !addr.is_unspecified()
            && (*addr == self.addr4 || *addr == self.addr6 || *addr == self.link_local)
    }
}

impl Receiver {
    /// An empty place.
    pub const NONE: Self = Self {
        addr: Addr::UNSPECIFIED,
        ifindex: 0,
        network: 0,
        reserved: 0,
    };
}

/// Places of each map, a power of two. Devices and addresses are given out in order, so that a
/// few thousand containers hardly ever meet at one place; who finds it taken goes the long way.
pub const PLACES: u32 = 8_192;

/// The place of a veth.
#[inline(always)]
pub const fn sender_place(ifindex: u32) -> u32 {
    ifindex & (PLACES - 1)
}

/// The place of an address of a network.
#[inline(always)]
pub fn receiver_place(network: u16, addr: &Addr) -> u32 {
    let [first, _, _, last] = addr.quads();
    // Networks, and the families of one, would otherwise all begin at the same places.
    let prefix = (first ^ (first >> 16)).wrapping_mul(31);
    let network = (network as u32).wrapping_mul(61);
    u32::from_be(last)
        .wrapping_add(prefix)
        .wrapping_add(network)
        & (PLACES - 1)
}

/// Place of the program `np_beyond` in map `stages`.
pub const BEYOND: u32 = 0;

/// Place of the program `np_unwrap` in map `stages`.
pub const UNWRAP: u32 = 1;

/// Place of the program `np_routed` in map `stages`.
pub const ROUTED: u32 = 2;

/// No device.
pub const NOBODY: u32 = 0;

/// The host-side veth of the container that `sender` talks to, or [`NOBODY`] if the packet has
/// to take the long way.
#[inline(always)]
pub fn receiver<E: Env>(env: &E, sender: &Sender, src: &Addr, dst: &Addr) -> u32 {
    if !sender.owns(src) {
        return NOBODY;
    }
    match env.receiver(receiver_place(sender.network, dst)) {
        Some(receiver) if receiver.addr == *dst && receiver.network == sender.network => {
            receiver.ifindex
        }
        _ => NOBODY,
    }
}
