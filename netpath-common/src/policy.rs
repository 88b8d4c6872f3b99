//! What a network lets out and in: its gateway modes and its switches.
//!
//! Read on slow paths only: the first packet of a connection is judged, the others follow its
//! flow. What traffic within a network needs to know is in [`crate::endpoint::Veth::flags`].

use crate::addr::Addr;
use crate::tuple::Proto;

/// How a network meets the world in one address family.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "user", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "user", serde(rename_all = "kebab-case"))]
pub enum GatewayMode {
    /// Containers leave by the host's address and are reached by published ports of the host
    /// only.
    #[default]
    Nat = 0,
    /// Containers leave by their own address; their published ports, and they themselves for
    /// a ping, are reached by that address.
    Routed = 1,
    /// As [`Self::Nat`], but whoever has a route reaches containers by their own addresses, at
    /// all ports.
    NatUnprotected = 2,
    /// The host itself is not in the network. Internal networks only.
    Isolated = 3,
}

/// Bit of [`Policy::flags`] and of [`crate::endpoint::Veth::flags`]: nothing leaves the network
/// but for its gateway, nothing comes in but from the host itself.
pub const INTERNAL: u8 = 1;
/// Another bit of both: containers of the network do not talk with each other.
pub const ICC_OFF: u8 = 2;
/// Bit of [`Policy::flags`]: containers leave by their own address, whatever the mode.
pub const MASQUERADE_OFF: u8 = 4;
/// Bit of [`Policy::flags`] and of [`crate::endpoint::Veth::flags`]: the network is somebody
/// else's, like one of Docker's own bridges. What is not handled here, or would be dropped, is
/// left to the host's stack as it is, so that its owner's rules decide.
pub const ADOPTED: u8 = 16;

/// Bit of [`crate::endpoint::Veth::flags`]: other hosts may have addresses of the network.
pub const OVERLAY: u8 = 8;

/// Value of map `policies`, keyed by the network's id. A network without one has all at its
/// default.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Address that masqueraded IPv4 packets carry; `::` for the uplink's.
    pub snat4: Addr,
    /// Address that masqueraded IPv6 packets carry; `::` for the uplink's.
    pub snat6: Addr,
    /// The mode for IPv4.
    pub mode4: GatewayMode,
    /// The mode for IPv6.
    pub mode6: GatewayMode,
    /// [`INTERNAL`], [`ICC_OFF`], [`MASQUERADE_OFF`], [`ADOPTED`].
    pub flags: u8,
    /// Always 0.
    pub reserved: [u8; 5],
}

const _: () = assert!(size_of::<Policy>() == 40);

impl Default for Policy {
    fn default() -> Self {
        Self {
            snat4: Addr::UNSPECIFIED,
            snat6: Addr::UNSPECIFIED,
            mode4: GatewayMode::Nat,
            mode6: GatewayMode::Nat,
            flags: 0,
            reserved: [0; 5],
        }
    }
}

impl Policy {
    /// The mode of the family of `addr`.
    #[inline(always)]
    pub fn mode(&self, addr: &Addr) -> GatewayMode {
        if addr.is_v4() { self.mode4 } else { self.mode6 }
    }

    /// Whether packets to `addr`, outside, leave with an address of the host.
    #[inline(always)]
    pub fn masquerades(&self, addr: &Addr) -> bool {
        self.flags & MASQUERADE_OFF == 0 && self.mode(addr) as u8 != GatewayMode::Routed as u8
    }

    /// The address chosen for masqueraded packets of the family of `addr`; `::` if none was.
    #[inline(always)]
    pub fn snat_addr(&self, addr: &Addr) -> Addr {
        if addr.is_v4() { self.snat4 } else { self.snat6 }
    }
}

/// Key of map `open_ports`: a port of a container that is reached by the container's own
/// address. The value is the endpoint's slot.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct OpenPort {
    /// The container's address.
    pub addr: Addr,
    /// The container's port, host byte order.
    pub port: u16,
    /// The container's network.
    pub network: u16,
    /// TCP or UDP.
    pub proto: Proto,
    /// Always 0.
    pub reserved: [u8; 3],
}

/// Key of map `trusted`: a device of the host from which published ports of a network's
/// containers are reached by the containers' own addresses, in mode [`GatewayMode::Nat`] too.
/// The value is always 1.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Trusted {
    /// The device by which packets come.
    pub ifindex: u32,
    /// The network that they are for.
    pub network: u16,
    /// Always 0.
    pub reserved: [u8; 2],
}

const _: () = assert!(size_of::<OpenPort>() == 24 && size_of::<Trusted>() == 8);

impl OpenPort {
    /// The key of a container's port.
    #[inline(always)]
    pub const fn new(network: u16, proto: Proto, addr: Addr, port: u16) -> Self {
        Self {
            addr,
            port,
            network,
            proto,
            reserved: [0; 3],
        }
    }
}

impl Trusted {
    /// The key of a device and a network.
    #[inline(always)]
    pub const fn new(network: u16, ifindex: u32) -> Self {
        Self {
            ifindex,
            network,
            reserved: [0; 2],
        }
    }
}
