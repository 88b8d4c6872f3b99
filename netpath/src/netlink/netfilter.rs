//! What the kernel's netfilter knows: connections that it tracks, and when rules change.

use std::io::{self, Read as _};
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

/// No dump takes longer without having hung.
const PATIENCE: Duration = Duration::from_secs(10);
/// The kernel puts as much into one answer as the reader has room for, up to 32 KiB.
const ROOM: usize = 65_536;

/// `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_GET` (linux/netfilter/nfnetlink_conntrack.h).
const CONNTRACK_GET: u16 = 1 << 8 | 1;
/// Multicast group of changes of nftables, iptables' among them where it is built upon that.
const GROUP_NFTABLES: libc::c_int = 7;

const NLMSG_HEADER: usize = 16;
/// `struct nfgenmsg`: family, version, resource id.
const NFGEN_HEADER: usize = 4;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

// Attributes of a tracked connection.
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_V4_SRC: u16 = 1;
const IP_V4_DST: u16 = 2;
const IP_V6_SRC: u16 = 3;
const IP_V6_DST: u16 = 4;
const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;
const PROTO_ICMP_ID: u16 = 4;
const PROTO_ICMPV6_ID: u16 = 7;

/// One direction of a tracked connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Direction {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// IP protocol number.
    pub proto: u8,
    /// Source port, host byte order; 0 where there are none.
    pub src_port: u16,
    /// Destination port, host byte order; 0 where there are none.
    pub dst_port: u16,
    /// Identifier of ICMP echo, host byte order; 0 otherwise.
    pub echo_id: u16,
}

/// A connection that the kernel tracks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// As its first packet came.
    pub original: Direction,
    /// As its answers come.
    pub reply: Direction,
}

impl Tracked {
    /// Whether the kernel changes addresses or ports on its way.
    pub fn is_translated(&self) -> bool {
        let (original, reply) = (&self.original, &self.reply);
        (original.src, original.dst) != (reply.dst, reply.src)
            || (original.src_port, original.dst_port) != (reply.dst_port, reply.src_port)
            || original.echo_id != reply.echo_id
    }
}

/// All connections that the kernel tracks in the calling thread's namespace. A kernel without
/// connection tracking has none.
///
/// # Errors
/// The kernel's.
pub fn tracked() -> Result<Vec<Tracked>> {
    let failed = "cannot list the connections that the kernel tracks";
    let socket = match open() {
        Ok(socket) => socket,
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(Vec::new()),
        Err(error) => return Err(error).context(failed),
    };
    dump(socket).context(failed)
}

fn open() -> io::Result<Socket> {
    Socket::new(
        Domain::from(libc::AF_NETLINK),
        Type::RAW,
        Some(Protocol::from(libc::NETLINK_NETFILTER)),
    )
}

fn dump(mut socket: Socket) -> Result<Vec<Tracked>> {
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut request = Vec::with_capacity(NLMSG_HEADER + NFGEN_HEADER);
    let length = (NLMSG_HEADER + NFGEN_HEADER) as u32;
    request.extend(length.to_ne_bytes());
    request.extend(CONNTRACK_GET.to_ne_bytes());
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    request.extend(flags.to_ne_bytes());
    // Sequence and port: there is one request on this socket. Then any family, version 0.
    request.extend([0; 8 + NFGEN_HEADER]);
    socket.send(&request)?;
    let mut connections = Vec::new();
    let mut buffer = vec![0; ROOM];
    loop {
        let length = socket.read(&mut buffer)?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while let Some((kind, body, next)) = message(rest) {
            match kind {
                NLMSG_DONE => return Ok(connections),
                NLMSG_ERROR => {
                    let code = body
                        .first_chunk()
                        .map_or(0, |code| i32::from_ne_bytes(*code));
                    // The kernel was built without it, or the module is not there.
                    if code == -libc::EINVAL || code == -libc::EOPNOTSUPP {
                        return Ok(Vec::new());
                    }
                    bail!(io::Error::from_raw_os_error(-code));
                }
                _ => connections.extend(body.get(NFGEN_HEADER..).and_then(connection)),
            }
            rest = next;
        }
    }
}

/// The first message: its type, its content, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(NLMSG_HEADER..length)?;
    let next = bytes.get(aligned(length)..).unwrap_or_default();
    Some((kind, body, next))
}

const fn aligned(length: usize) -> usize {
    (length + 3) & !3
}

/// Attributes with their types; whatever is cut ends the list.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    // The two highest bits are flags: nested, network byte order.
    const TYPE: u16 = 0x3fff;
    const HEADER: usize = 4;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
        let value = bytes.get(HEADER..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((kind & TYPE, value))
    })
}

fn connection(bytes: &[u8]) -> Option<Tracked> {
    let (mut original, mut reply) = (None, None);
    for (kind, value) in attributes(bytes) {
        match kind {
            TUPLE_ORIG => original = direction(value),
            TUPLE_REPLY => reply = direction(value),
            _ => {}
        }
    }
    Some(Tracked {
        original: original?,
        reply: reply?,
    })
}

fn direction(bytes: &[u8]) -> Option<Direction> {
    let (mut src, mut dst) = (None, None);
    let (mut proto, mut src_port, mut dst_port, mut echo_id) = (0, 0, 0, 0);
    let port = |value: &[u8]| {
        value
            .first_chunk()
            .map_or(0, |port| u16::from_be_bytes(*port))
    };
    for (kind, value) in attributes(bytes) {
        match kind {
            TUPLE_IP => {
                for (kind, value) in attributes(value) {
                    let v4 = || value.first_chunk::<4>().map(|octets| IpAddr::from(*octets));
                    let v6 = || {
                        value
                            .first_chunk::<16>()
                            .map(|octets| IpAddr::from(*octets))
                    };
                    match kind {
                        IP_V4_SRC => src = v4(),
                        IP_V4_DST => dst = v4(),
                        IP_V6_SRC => src = v6(),
                        IP_V6_DST => dst = v6(),
                        _ => {}
                    }
                }
            }
            TUPLE_PROTO => {
                for (kind, value) in attributes(value) {
                    match kind {
                        PROTO_NUM => proto = value.first().copied().unwrap_or(0),
                        PROTO_SRC_PORT => src_port = port(value),
                        PROTO_DST_PORT => dst_port = port(value),
                        PROTO_ICMP_ID | PROTO_ICMPV6_ID => echo_id = port(value),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(Direction {
        src: src?,
        dst: dst?,
        proto,
        src_port,
        dst_port,
        echo_id,
    })
}

/// Wakes the receiver after rules of nftables have changed; those of iptables as well, where it
/// is built upon nftables. What changed is not told.
///
/// # Errors
/// The socket cannot be made.
pub fn watch_rules() -> Result<mpsc::Receiver<()>> {
    let socket = open().context("cannot watch the rules of the firewall")?;
    socket.set_nonblocking(true)?;
    let group = GROUP_NFTABLES;
    // SAFETY: the descriptor is open, and the option is one number, given with its size.
    let joined = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            libc::NETLINK_ADD_MEMBERSHIP,
            (&raw const group).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if joined != 0 {
        return Err(io::Error::last_os_error()).context("cannot watch the rules of the firewall");
    }
    // SAFETY: the socket owns its descriptor, and gives always the same.
    let fd = unsafe { AsyncFd::register(socket) };
    let fd = fd.context("cannot watch the rules of the firewall")?;
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut buffer = vec![0; ROOM];
        while let Ok(mut guard) = fd.readable().await {
            // What was lost for want of room (ENOBUFS) is a change as well.
            let read = guard.try_io(|fd| {
                let mut socket = fd.get_ref();
                match socket.read(&mut buffer) {
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(1),
                    result => result,
                }
            });
            match read {
                Err(_) => continue,
                Ok(Err(_)) => return,
                Ok(Ok(_)) => {}
            }
            if let Err(mpsc::error::TrySendError::Closed(())) = sender.try_send(()) {
                return;
            }
        }
    });
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    fn tuple(src: [u8; 4], dst: [u8; 4], ports: (u16, u16)) -> Vec<u8> {
        let ip = [attribute(IP_V4_SRC, &src), attribute(IP_V4_DST, &dst)].concat();
        let proto = [
            attribute(PROTO_NUM, &[17]),
            attribute(PROTO_SRC_PORT, &ports.0.to_be_bytes()),
            attribute(PROTO_DST_PORT, &ports.1.to_be_bytes()),
        ];
        // With the flag of nested attributes.
        [
            attribute(TUPLE_IP | 0x8000, &ip),
            attribute(TUPLE_PROTO | 0x8000, &proto.concat()),
        ]
        .concat()
    }

    #[test]
    fn connections_are_read() {
        let (inside, outside, host) = ([172, 17, 0, 2], [192, 0, 2, 2], [192, 0, 2, 1]);
        let bytes = [
            attribute(TUPLE_ORIG, &tuple(inside, outside, (5000, 53))),
            attribute(99, &[1, 2, 3]),
            attribute(TUPLE_REPLY, &tuple(outside, host, (53, 6000))),
        ]
        .concat();
        let read = connection(&bytes).unwrap();
        assert_eq!(read.original.src, IpAddr::from(inside));
        assert_eq!((read.original.proto, read.original.src_port), (17, 5000));
        assert_eq!((read.reply.dst, read.reply.dst_port), (host.into(), 6000));
        assert!(read.is_translated());
        // Whatever is cut is no connection, and no panic.
        for length in 0..bytes.len() {
            assert!(connection(&bytes[..length]).is_none());
        }
    }

    #[test]
    fn the_kernel_answers() {
        tracked().unwrap();
    }
}
