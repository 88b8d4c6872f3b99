//! Telling a container's neighbours its MAC address.
//!
//! A neighbour may remember an address's former owner, and would go on sending to that one's
//! MAC for seconds. So a new interface is announced, as a machine does that comes up: for IPv4 by
//! an ARP request for its own address (RFC 5227, 3), for IPv6 by an unsolicited neighbour
//! advertisement that overrides (RFC 4861, 7.2.6). The agent puts both into the neighbours'
//! interfaces, since the network has no broadcast. Neighbours that do not know the address take
//! no notice.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::libc;

use super::Agent;
use crate::store::{EndpointRecord, State};

const BROADCAST: [u8; 6] = [0xff; 6];
/// Where multicast to ff02::1, all nodes, goes.
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

impl Agent {
    /// Announces an endpoint to the others of its network. Those who miss it find out by
    /// themselves, only later: nothing fails for it.
    pub(super) fn announce(&self, endpoint: &EndpointRecord) {
        let containers = match self.store.containers() {
            Ok(containers) => containers,
            Err(error) => return complain(&error),
        };
        let others = containers
            .iter()
            .filter(|container| container.state != State::Creating)
            .filter_map(|container| container.endpoint_in(&endpoint.network));
        let neighbours: Vec<u32> = others
            .map(|other| other.ifindex)
            .filter(|ifindex| *ifindex != endpoint.ifindex && *ifindex != 0)
            .collect();
        let frames = frames(endpoint.mac, endpoint.addresses());
        // Nobody waits for it: there may be many neighbours, and closing such a socket takes a
        // grace period of the kernel.
        tokio::task::spawn_blocking(move || {
            let socket = match packet_socket() {
                Ok(socket) => socket,
                Err(error) => return complain(&error.into()),
            };
            for ifindex in neighbours {
                for frame in &frames {
                    // A neighbour that has just gone, or whose queue is full, is nobody's problem.
                    if let Err(error) = send(&socket, ifindex, frame) {
                        log::debug!("cannot announce by device {ifindex}: {error}");
                    }
                }
            }
        });
    }
}

fn complain(error: &anyhow::Error) {
    log::warn!("cannot announce a new interface to its neighbours: {error:#}");
}

/// One announcement an address.
pub(super) fn frames(mac: [u8; 6], addresses: impl Iterator<Item = IpAddr>) -> Vec<Vec<u8>> {
    // A link-local address is made of the MAC: it has no former owner.
    let frame = |address| match address {
        IpAddr::V4(address) => arp(mac, address),
        IpAddr::V6(address) => advertisement(mac, address),
    };
    addresses.map(frame).collect()
}

/// An ARP announcement: a request (1) of Ethernet (1) for one's own IPv4 address.
fn arp(mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let octets = address.octets();
    [
        &BROADCAST[..],
        &mac,
        &[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1],
        &mac,
        &octets,
        &[0; 6],
        &octets,
    ]
    .concat()
}

/// An unsolicited neighbour advertisement with the override flag and the target's MAC.
fn advertisement(mac: [u8; 6], address: Ipv6Addr) -> Vec<u8> {
    const LENGTH: u8 = 32;
    const ICMPV6: u8 = 58;
    let octets = address.octets();
    // Type 136, code 0, checksum, flags; target; option 2 of 1 × 8 bytes.
    let mut message = [&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &octets, &[2, 1], &mac].concat();
    let pseudo_header = [
        &octets[..],
        &ALL_NODES.octets(),
        &[0, 0, 0, LENGTH, 0, 0, 0, ICMPV6],
    ]
    .concat();
    let checksum = checksum(&[&pseudo_header, &message]);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    [
        &ALL_NODES_MAC[..],
        &mac,
        // Hop limit 255: it has crossed no router.
        &[0x86, 0xdd, 0x60, 0, 0, 0, 0, LENGTH, ICMPV6, 255],
        &octets,
        &ALL_NODES.octets(),
        &message,
    ]
    .concat()
}

/// The Internet checksum (RFC 1071) of parts of even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks_exact(2));
    let mut sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A socket for whole frames that receives none: without a protocol.
pub(super) fn packet_socket() -> io::Result<OwnedFd> {
    // SAFETY: a call with plain arguments.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has a packet socket's frames go straight to the device, past its queue and its programs.
pub(super) fn bypass(socket: &OwnedFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the value is as long as said.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_QDISC_BYPASS,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Sends a frame by a device of the namespace that the socket is of.
pub(super) fn send(socket: &OwnedFd, ifindex: u32, frame: &[u8]) -> io::Result<()> {
    // SAFETY: integers and an array of them; all zero is valid.
    let mut address: libc::sockaddr_ll = unsafe { core::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = ifindex.cast_signed();
    // SAFETY: buffer and address are as long as said.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            libc::MSG_DONTWAIT,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    #[test]
    fn one_frame_an_address() {
        let endpoint = EndpointRecord {
            mac: MAC,
            addr4: Some(Ipv4Addr::new(10, 0, 0, 2)),
            addr6: Some("fd00::2".parse().unwrap()),
            ..EndpointRecord::default()
        };
        let frames = frames(endpoint.mac, endpoint.addresses());
        let lengths: Vec<usize> = frames.iter().map(Vec::len).collect();
        assert_eq!(lengths, [14 + 28, 14 + 40 + 32]);
        assert!(frames.iter().all(|frame| frame[6..12] == MAC));
    }

    #[test]
    fn the_checksum_makes_the_sum_zero() {
        let frame = advertisement(MAC, "fd00::2".parse().unwrap());
        let pseudo_header = [&frame[22..54], &[0, 0, 0, 32, 0, 0, 0, 58]].concat();
        assert_eq!(checksum(&[&pseudo_header, &frame[54..]]), 0);
    }
}
