//! Endpoints: a container's place in a network, seen from both sides.

use crate::addr::{Addr, Mac};
use crate::policy::ADOPTED;

/// Key of map `endpoints`: where is this address?
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EndpointKey {
    /// An address of the container (IPv4, IPv6, or IPv6 link-local).
    pub addr: Addr,
    /// Its network.
    pub network: u16,
    /// Always 0.
    pub reserved: [u8; 6],
}

impl EndpointKey {
    /// The key of an address in a network.
    #[inline(always)]
    pub const fn new(network: u16, addr: Addr) -> Self {
        Self {
            addr,
            network,
            reserved: [0; 6],
        }
    }
}

/// Value of map `endpoints`: how to reach it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Host-side veth; its peer is the container's interface.
    pub ifindex: u32,
    /// Place in map `slots`; also names the endpoint in flows.
    pub slot: u32,
    /// The network's gateway device, from where routes of the network are looked up.
    pub gateway_ifindex: u32,
    /// MAC address of the container's interface.
    pub mac: Mac,
    /// MAC address of the network's gateway, the source of what is routed to it.
    pub gateway_mac: Mac,
}

const _: () = assert!(size_of::<EndpointKey>() == 24 && size_of::<Endpoint>() == 24);

/// Value of map `veths`, keyed by the ifindex of the host-side veth: who sends here,
/// what it may send, and what it needs to know of its network.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Veth {
    /// The container's IPv4 address (mapped), or `::`.
    pub addr4: Addr,
    /// The container's IPv6 address, or `::`.
    pub addr6: Addr,
    /// The container's IPv6 link-local address, or `::`.
    pub link_local: Addr,
    /// The network's IPv4 gateway, or `::`.
    pub gateway4: Addr,
    /// The network's IPv6 gateway, or `::`.
    pub gateway6: Addr,
    /// Place in map `slots`.
    pub slot: u32,
    /// The network's gateway device: packets for the host arrive there.
    pub gateway_ifindex: u32,
    /// The container's network.
    pub network: u16,
    /// Length of the IPv4 subnet's prefix in the mapped form (a /24 is 120); 0 without IPv4.
    pub prefix4: u8,
    /// Length of the IPv6 subnet's prefix; 0 without IPv6.
    pub prefix6: u8,
    /// MAC address of the container's interface.
    pub mac: Mac,
    /// MAC address of the gateway.
    pub gateway_mac: Mac,
    /// [`INTERNAL`](crate::policy::INTERNAL), [`ICC_OFF`](crate::policy::ICC_OFF),
    /// [`OVERLAY`](crate::policy::OVERLAY) and [`ADOPTED`](crate::policy::ADOPTED): here, where they
    /// cost no look-up.
    pub flags: u8,
    /// Always 0.
    pub reserved: [u8; 3],
    /// Inode number of the network namespace that the container's interface is in; 0 if unknown.
    /// Interfaces of one namespace are one container's.
    pub netns: u32,
}

const _: () = assert!(size_of::<Veth>() == 112);

impl Veth {
    /// The container's addresses.
    pub fn addrs(&self) -> impl Iterator<Item = Addr> {
        [self.addr4, self.addr6, self.link_local]
            .into_iter()
            .filter(|addr| !addr.is_unspecified())
    }

    /// Whether the container may send from this address.
    #[inline(always)]
    pub fn owns(&self, addr: &Addr) -> bool {
        !addr.is_unspecified()
            && (*addr == self.addr4 || *addr == self.addr6 || *addr == self.link_local)
    }

    /// Whether the container is in a network of somebody else's; see
    /// [`ADOPTED`](crate::policy::ADOPTED).
    #[inline(always)]
    pub const fn is_adopted(&self) -> bool {
        self.flags & ADOPTED != 0
    }

    /// Whether the address is the gateway's.
    #[inline(always)]
    pub fn is_gateway(&self, addr: &Addr) -> bool {
        !addr.is_unspecified() && (*addr == self.gateway4 || *addr == self.gateway6)
    }

    /// The gateway's address of the family of `addr`.
    #[inline(always)]
    pub fn gateway_of(&self, addr: &Addr) -> Addr {
        if addr.is_v4() {
            self.gateway4
        } else {
            self.gateway6
        }
    }

    /// Whether the address is on the container's own link.
    #[inline(always)]
    pub fn on_link(&self, addr: &Addr) -> bool {
        if addr.is_v4() {
            self.prefix4 != 0 && addr.same_prefix(&self.addr4, self.prefix4)
        } else {
            addr.is_link_local_v6()
                || (self.prefix6 != 0 && addr.same_prefix(&self.addr6, self.prefix6))
        }
    }
}

/// Value of map `slots`: an endpoint's account.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Slot {
    /// Changes when the slot changes hands; flows of another generation are dead.
    pub generation: u32,
    /// Connections that the endpoint has begun (or, from outside, that were begun with it)
    /// and that are still in the flow table. Two CPUs that count at once may lose one; the
    /// agent counts anew whenever it sweeps.
    pub flows: u32,
}

/// How many endpoints a host can have at a time: the length of map `slots`.
///
/// A Linux bridge ends at 1,023 ports; 16,384 veth pairs are more than one kernel
/// holds in comfort, and cost 64 KiB here.
pub const MAX_ENDPOINTS: u32 = 16_384;
