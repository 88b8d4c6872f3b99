//! Frames sent as they are, by a packet socket.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use crate::progrun::ifindex;

/// A device to send by, in the caller's network namespace.
pub struct Wire {
    socket: OwnedFd,
    address: libc::sockaddr_ll,
}

impl Wire {
    /// Opens a device.
    pub fn open(device: &str) -> Self {
        // No protocol: it receives nothing.
        // SAFETY: a call with plain arguments.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        assert!(fd >= 0, "a packet socket: {}", io::Error::last_os_error());
        // SAFETY: the descriptor is new and nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: integers and an array of them; all zero is valid.
        let mut address: libc::sockaddr_ll = unsafe { core::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = ifindex(device).cast_signed();
        Self { socket, address }
    }

    /// Sends a frame. A veth's other end has handled it when this returns, or soon after.
    pub fn send(&self, frame: &[u8]) {
        // SAFETY: buffer and address are as long as said.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const self.address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        assert_eq!(
            sent,
            frame.len().cast_signed(),
            "{}",
            io::Error::last_os_error()
        );
    }
}
