//! What the host sends to a container: tcx egress of a network's gateway device.

use crate::endpoint::{Endpoint, EndpointKey};
use crate::env::{Env, Table};
use crate::packet::Packet;
use crate::reason::DropReason;

/// Finds the container. `forwarded` says that the host did not make the packet itself
/// but passes it on for somebody else, who has no business with a container's address.
#[inline(always)]
pub fn deliver<E: Env>(env: &E, packet: &Packet, forwarded: bool) -> Result<Endpoint, DropReason> {
    let dst = &packet.tuple.dst;
    if dst.is_group() {
        return Err(DropReason::Multicast);
    }
    if forwarded {
        return Err(DropReason::DirectRouting);
    }
    env.endpoints()
        .get(&EndpointKey::new(packet.tuple.network, *dst))
        .ok_or(DropReason::NoSuchNeighbour)
}
