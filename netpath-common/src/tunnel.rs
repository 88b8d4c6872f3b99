//! Records of networks that reach across hosts: where addresses are that other hosts have, and
//! who these hosts are.
//!
//! A host that takes part is known by its VTEP (virtual tunnel end point, RFC 7348): an address
//! of the underlay and, in a network, a number (VNI). Nothing is learnt from packets: all of it
//! is told by the agent.

use crate::addr::{Addr, Mac};
use crate::counter::Count;

/// Value of maps `remotes` (by address, [`crate::endpoint::EndpointKey`]) and `tunnels` (by
/// [`Prefix`]): how a packet gets to another host.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tunnel {
    /// The other host's address in the underlay.
    pub vtep: Addr,
    /// This host's address towards it; `::` if only the VXLAN device may send there.
    pub local: Addr,
    /// The network's number there, host byte order; 24 bits.
    pub vni: u32,
    /// The VXLAN device of its port.
    pub ifindex: u32,
    /// The network's gateway device, from where routes are looked up.
    pub gateway_ifindex: u32,
    /// The VTEP's place in map `vtep_counts`.
    pub place: u32,
    /// The frame's destination: the container itself, or the router on the other host.
    pub mac: Mac,
    /// The frame's source if it is routed: this host's VTEP.
    pub own_mac: Mac,
    /// Largest IP packet in bytes that fits through.
    pub mtu: u16,
    /// The UDP port there, host byte order.
    pub port: u16,
    /// [`ROUTED`].
    pub flags: u8,
    /// Always 0.
    pub reserved: [u8; 7],
}

/// Value of map `underlay`, at a VTEP's place: the host's route there. Programs ask for it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Underlay {
    /// The next hop.
    pub next_hop: Addr,
    /// The device to leave by; 0 if there is no route, or none that we can take.
    pub ifindex: u32,
    /// When it was asked for, seconds since boot.
    pub asked: u32,
    /// MAC addresses of a frame there, destination first; all zero if the next hop's is not known.
    pub macs: [u16; 6],
    /// Always 0.
    pub reserved: [u8; 4],
}

/// Places of map `bulk`, a power of two: when an aggregate came last by a flow of the underlay,
/// in ticks of 2^20 ns.
///
/// Aggregates take the way by the VXLAN device, where they wait for their turn; a single packet
/// on the short way would overtake those of its own connection.
pub const BULK_PLACES: u32 = 4096;

/// How many ticks after an aggregate packets of the same flow go by the device as well: a few of
/// the coarse clock's, so that all that went there before has left it.
const BULK_TICKS: u32 = 16;

/// The place of a flow in map `bulk`. Encapsulating hosts choose the source port by the inner
/// flow (RFC 7348, section 5), so nothing else need be known of it. Flows that meet at one place
/// are merely slower.
#[inline(always)]
pub const fn bulk_place(src: &Addr, src_port: u16) -> u32 {
    let [.., last] = src.quads();
    (u32::from_be(last) ^ src_port as u32) & (BULK_PLACES - 1)
}

/// Whether an aggregate that came at tick `last` may be under way still.
#[inline(always)]
pub const fn may_overtake(last: u32, now: u32) -> bool {
    now.wrapping_sub(last) < BULK_TICKS
}

/// Bit of [`Tunnel::flags`]: the other host is a router for the subnet behind it, so that frames
/// get its MAC address and lose time to live. Otherwise the other end is a neighbour on the
/// same link.
pub const ROUTED: u8 = 1;

impl Tunnel {
    /// See [`ROUTED`].
    #[inline(always)]
    pub const fn is_routed(&self) -> bool {
        self.flags & ROUTED != 0
    }
}

/// What map `tunnels` compares, bit by bit from the start: a network, and the beginning of an
/// address.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prefix {
    /// The network's id.
    pub network: u32,
    /// Always 0.
    pub reserved: u32,
    /// The subnet's address.
    pub addr: Addr,
}

impl Prefix {
    /// Bits of a [`Prefix`] before its address.
    pub const NETWORK_BITS: u32 = 64;
    /// Bits of a whole one.
    pub const BITS: u32 = Self::NETWORK_BITS + 128;

    /// An address of a network.
    #[inline(always)]
    pub const fn new(network: u16, addr: Addr) -> Self {
        Self {
            network: network as u32,
            reserved: 0,
            addr,
        }
    }
}

/// Key of map `vteps`: who sent a packet through a tunnel.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct VtepKey {
    /// The packet's outer source.
    pub addr: Addr,
    /// Its VNI, host byte order.
    pub vni: u32,
    /// The VXLAN device that it came by.
    pub ifindex: u32,
}

/// Value of map `vteps`: a host that takes part in a network.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vtep {
    /// Its place in map `vtep_counts`.
    pub place: u32,
    /// The network's gateway device.
    pub gateway_ifindex: u32,
    /// The network.
    pub network: u16,
    /// MAC address of the gateway device.
    pub gateway_mac: Mac,
    /// Flags of the network's policy ([`crate::policy`]).
    pub flags: u8,
    /// Always 0.
    pub reserved: [u8; 7],
}

/// Key of map `vnis`, whose value is the network's id: it tells a wrong number from a stranger.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Vni {
    /// The number, host byte order.
    pub vni: u32,
    /// The VXLAN device.
    pub ifindex: u32,
}

/// Value of per-CPU map `vtep_counts`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VtepCounts {
    /// Sent there; bytes of the inner frames.
    pub sent: Count,
    /// Received from there and not dropped; bytes of the inner frames.
    pub received: Count,
}

const _: () = assert!(size_of::<Tunnel>() == 72 && size_of::<Prefix>() == 24);
const _: () = assert!(size_of::<Underlay>() == 40);
const _: () = assert!(size_of::<VtepKey>() == 24 && size_of::<Vtep>() == 24);
const _: () = assert!(size_of::<Vni>() == 8 && size_of::<VtepCounts>() == 32);

/// How many VTEPs a host can know, each network counted for itself: the length of `vtep_counts`.
pub const MAX_VTEPS: u32 = 16_384;
/// How many addresses of other hosts a host can know: the length of map `remotes`.
pub const MAX_REMOTES: u32 = 262_144;
/// How many subnets of other hosts a host can know: the length of map `tunnels`.
pub const MAX_TUNNELS: u32 = 65_536;

/// Bytes that VXLAN adds to an inner IP packet over IPv4: inner Ethernet 14, VXLAN 8, UDP 8,
/// IPv4 20.
pub const OVERHEAD_V4: u32 = 50;
/// The same over IPv6.
pub const OVERHEAD_V6: u32 = 70;
