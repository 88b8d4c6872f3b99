//! Giving sockets to a successor, so that no query finds nobody listening.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use super::sockets::Pair;

/// Descriptors that go together: UDP socket, TCP socket, namespace.
const TOGETHER: usize = 3;

/// Sends the sockets of one client.
///
/// # Errors
/// The successor is gone.
pub fn give(stream: &UnixStream, descriptors: [RawFd; TOGETHER]) -> io::Result<()> {
    // Descriptors travel with a byte only.
    let byte = [IoSlice::new(b"s")];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    sendmsg::<()>(
        stream.as_raw_fd(),
        &byte,
        &rights,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}

/// Receives the sockets of one client.
///
/// # Errors
/// The predecessor is gone, or sent something else.
pub fn take(stream: &UnixStream) -> io::Result<(Pair, File)> {
    let mut byte = [0; 1];
    let mut space = cmsg_space!([RawFd; TOGETHER]);
    let mut parts = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(
        stream.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let mut taken = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = part {
            // SAFETY: the kernel has just made these descriptors for us, nobody else owns them.
            let owned = descriptors
                .into_iter()
                .map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) });
            taken.extend(owned);
        }
    }
    let Ok([udp, tcp, netns]) = <[OwnedFd; TOGETHER]>::try_from(taken) else {
        return Err(io::Error::other("the predecessor sent no sockets"));
    };
    let pair = Pair {
        udp: udp.into(),
        tcp: tcp.into(),
    };
    Ok((pair, netns.into()))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn sockets_are_the_same_at_the_other_end() {
        let (one, other) = UnixStream::pair().unwrap();
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let file = File::open("/dev/null").unwrap();
        give(&one, [udp.as_raw_fd(), tcp.as_raw_fd(), file.as_raw_fd()]).unwrap();
        let (pair, _) = take(&other).unwrap();
        assert_eq!(pair.udp.local_addr().unwrap(), udp.local_addr().unwrap());
        assert_eq!(pair.tcp.local_addr().unwrap(), tcp.local_addr().unwrap());
        drop(one);
        assert!(take(&other).is_err());
    }
}
