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
        let sent = self.try_send(frame).expect("the frame is sent");
        assert_eq!(sent, frame.len());
    }

    /// Sends a frame that the device's own programs may drop; then the kernel says so (ENOBUFS).
    ///
    /// # Errors
    /// The kernel's.
    pub fn try_send(&self, frame: &[u8]) -> io::Result<usize> {
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
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Opens a device to receive what the network stack gets of one protocol: behind the device's
    /// programs, unlike a capture of all protocols.
    pub fn listen(device: &str, protocol: u16) -> Self {
        let wire = Self::open(device);
        let mut address = wire.address;
        address.sll_protocol = protocol.to_be();
        let seconds = libc::timeval {
            tv_sec: 2,
            tv_usec: 0,
        };
        // SAFETY: address and value are as long as said.
        let (bound, set) = unsafe {
            (
                libc::bind(
                    wire.socket.as_raw_fd(),
                    (&raw const address).cast(),
                    size_of::<libc::sockaddr_ll>() as libc::socklen_t,
                ),
                libc::setsockopt(
                    wire.socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_RCVTIMEO,
                    (&raw const seconds).cast(),
                    size_of::<libc::timeval>() as libc::socklen_t,
                ),
            )
        };
        assert_eq!((bound, set), (0, 0), "{}", io::Error::last_os_error());
        wire
    }

    /// The next frame; `None` if none came for two seconds.
    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 65_536];
        // SAFETY: the buffer is as long as said.
        let length = unsafe {
            libc::recv(
                self.socket.as_raw_fd(),
                frame.as_mut_ptr().cast(),
                frame.len(),
                0,
            )
        };
        frame.truncate(usize::try_from(length).ok()?);
        Some(frame)
    }

    /// Sends frames of one length that lie one behind the other, in one call; says how many went.
    pub fn send_many(&self, frames: &mut [u8], each: usize) -> usize {
        let mut parts: Vec<libc::iovec> = frames
            .chunks_exact_mut(each)
            .map(|frame| libc::iovec {
                iov_base: frame.as_mut_ptr().cast(),
                iov_len: each,
            })
            .collect();
        let mut address = self.address;
        let mut messages: Vec<libc::mmsghdr> = parts
            .iter_mut()
            .map(|part| {
                // SAFETY: pointers and integers; all zero is valid.
                let mut message: libc::mmsghdr = unsafe { core::mem::zeroed() };
                message.msg_hdr.msg_name = (&raw mut address).cast();
                message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
                message.msg_hdr.msg_iov = part;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        // SAFETY: the messages point to buffers and an address that outlive the call.
        let sent = unsafe {
            libc::sendmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                messages.len() as libc::c_uint,
                0,
            )
        };
        usize::try_from(sent).unwrap_or(0)
    }
}
