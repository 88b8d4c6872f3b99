//! Networks, uplinks and the host's own addresses.

use crate::addr::{Addr, Mac};

/// Value of map `networks`, keyed by the ifindex of the network's gateway device.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    /// The network's id in tuples and endpoint keys; never 0.
    pub id: u16,
    /// MAC address of the gateway device.
    pub mac: Mac,
}

const _: () = assert!(size_of::<Network>() == 8);

/// Value of map `uplinks`, keyed by ifindex: the ways out of the host.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Uplink {
    /// Address that masqueraded IPv4 packets carry, or `::`.
    pub addr4: Addr,
    /// Address that masqueraded IPv6 packets carry, or `::`.
    pub addr6: Addr,
}

impl Uplink {
    /// The masquerade address of the family of `addr`; `::` if there is none.
    #[inline(always)]
    pub fn snat_addr(&self, addr: &Addr) -> Addr {
        if addr.is_v4() { self.addr4 } else { self.addr6 }
    }
}

/// Value of map `host_addrs`, keyed by address: the addresses that the host answers to.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostAddr {
    /// The device that has the address.
    pub ifindex: u32,
}
