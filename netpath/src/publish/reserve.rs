//! Bound sockets that reserve the ports of the host.
//!
//! A packet for a published port never meets these sockets, the datapath takes it before.
//! They are there so that a second user of the port, whoever it is, gets "address already
//! in use", and so that we do if somebody else was first.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};

use netpath_common::tuple::Proto;
use nix::sys::resource::{Resource, getrlimit};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::Binding;
use super::owner::{Holder, find_holder};

/// Descriptors that the agent needs for other things than reservations: maps, programs,
/// connections of its API, and one for each running container.
const OTHER_FILES: u64 = 512;

/// A socket that holds a port, and the bindings that it stands for.
#[derive(Debug)]
pub struct Reservation {
    first: Binding,
    /// The IPv6 half of a port of all addresses.
    second: Option<Binding>,
    _socket: Socket,
}

impl Reservation {
    /// What is reserved: one binding, or the same port of all addresses of either family.
    pub fn bindings(&self) -> impl Iterator<Item = Binding> {
        [Some(self.first), self.second].into_iter().flatten()
    }
}

/// How many sockets the agent may have for reservations.
///
/// # Errors
/// The kernel does not tell.
pub fn socket_limit() -> io::Result<u64> {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(soft.saturating_sub(OTHER_FILES))
}

/// Reserves one port at one or several addresses, or nothing. One socket serves `0.0.0.0` and
/// `::` together, which halves what a range of ports costs.
///
/// # Errors
/// Which binding the kernel refused, and why; `AddrInUse` if somebody has it.
pub(super) fn reserve(bindings: &[Binding]) -> Result<Vec<Reservation>, (Binding, io::Error)> {
    if let [first, second] = bindings
        && is_both_wildcards(first, second)
        && let Ok(socket) = bind(second, false, Reuse::No)
    {
        return Ok(vec![Reservation {
            first: *first,
            second: Some(*second),
            _socket: socket,
        }]);
    }
    // One by one, also to tell which of two is taken.
    bindings
        .iter()
        .map(|binding| reserve_one(*binding).map_err(|error| (*binding, error)))
        .collect()
}

/// Reserves what can be reserved of many bindings.
pub fn reserve_each(bindings: impl IntoIterator<Item = Binding>) -> Vec<Reservation> {
    let mut groups: HashMap<_, Vec<Binding>> = HashMap::new();
    for binding in bindings {
        // Of one container only the same port at all addresses of either family is a pair.
        let key = (
            binding.proto,
            binding.host_port,
            binding.container_port,
            (!binding.host_ip.is_unspecified()).then_some(binding.host_ip),
        );
        groups.entry(key).or_default().push(binding);
    }
    let mut reservations = Vec::new();
    for mut group in groups.into_values() {
        group.sort_unstable_by_key(|binding| binding.host_ip);
        match reserve(&group) {
            Ok(reserved) => reservations.extend(reserved),
            Err((binding, error)) => {
                log::debug!("cannot reserve {binding} again: {error}");
                let others = group.into_iter().filter(|other| *other != binding);
                reservations.extend(others.filter_map(|other| reserve_one(other).ok()));
            }
        }
    }
    reservations
}

fn is_both_wildcards(first: &Binding, second: &Binding) -> bool {
    first.host_ip == IpAddr::from(Ipv4Addr::UNSPECIFIED)
        && second.host_ip == IpAddr::from(Ipv6Addr::UNSPECIFIED)
        && (first.proto, first.host_port) == (second.proto, second.host_port)
}

fn reserve_one(binding: Binding) -> io::Result<Reservation> {
    let socket = bind(&binding, true, Reuse::No).or_else(|error| {
        let closing = is_taken(&error)
            && binding.proto == Proto::Tcp
            && find_holder(binding.proto, binding.host_ip, binding.host_port)
                == Some(Holder::ClosingConnections);
        if closing {
            bind(&binding, true, Reuse::ClosingConnections)
        } else {
            Err(error)
        }
    })?;
    Ok(Reservation {
        first: binding,
        second: None,
        _socket: socket,
    })
}

/// Whether somebody else has the port.
pub(super) fn is_taken(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reuse {
    No,
    ClosingConnections,
}

/// Binds a socket. `only_v6` has it leave the IPv4 half of a wildcard alone.
fn bind(binding: &Binding, only_v6: bool, reuse: Reuse) -> io::Result<Socket> {
    let address = SocketAddr::new(binding.host_ip, binding.host_port);
    let (kind, protocol) = match binding.proto {
        Proto::Udp => (Type::DGRAM, None),
        Proto::Sctp => (Type::STREAM, Some(Protocol::SCTP)),
        _ => (Type::STREAM, None),
    };
    let socket = Socket::new(Domain::for_address(address), kind, protocol)?;
    if address.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    if kind == Type::DGRAM {
        // Datagrams for the port that the datapath leaves to the host (there should be
        // none) would pile up here; the kernel rounds up to its minimum.
        socket.set_recv_buffer_size(1)?;
    }
    if reuse == Reuse::No {
        // Without SO_REUSEADDR, which would let every listener of the host that sets it, and
        // nearly all do, take the port from us. Without listen, which would answer.
        socket.bind(&address.into())?;
    } else {
        bind_over_closing(&socket, address)?;
    }
    Ok(socket)
}

/// Binds where connections of an earlier server are in TIME_WAIT and the like.
///
/// SO_REUSEADDR lets us in, as it would let that server in again. Then it must go, or it would
/// let everybody else in, too; but the kernel remembers with the port that its users are
/// willing to share. Listening for a moment makes it forget that, and is refused if there is
/// another listener. Meanwhile a filter that takes no byte keeps us from answering anybody.
fn bind_over_closing(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    // BPF_RET | BPF_K, 0 bytes: classic BPF's "drop".
    const NOTHING: SockFilter = SockFilter::new(0x06, 0, 0, 0);
    socket.set_reuse_address(true)?;
    socket.attach_filter(&[NOTHING])?;
    socket.bind(&address.into())?;
    socket.listen(1)?;
    socket.set_reuse_address(false)?;
    // Back from listening to bound.
    socket.shutdown(Shutdown::Read)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    fn binding(host_ip: &str, host_port: u16, proto: Proto) -> Binding {
        Binding {
            host_ip: host_ip.parse().unwrap(),
            host_port,
            container_port: 80,
            proto,
        }
    }

    /// A port that nobody has, below the ephemeral ones.
    fn spare_port() -> u16 {
        use std::sync::atomic::{AtomicU16, Ordering};
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let start = 2000 + (std::process::id() % 8000) as u16;
        loop {
            let port = start + NEXT.fetch_add(1, Ordering::Relaxed);
            if TcpListener::bind(("::", port)).is_ok() && UdpSocket::bind(("::", port)).is_ok() {
                return port;
            }
        }
    }

    /// A listener with SO_REUSEADDR, which is what Rust's is.
    fn can_listen(address: &str, port: u16) -> bool {
        TcpListener::bind((address, port)).is_ok()
    }

    #[test]
    fn both_families_are_one_socket() {
        for proto in [Proto::Tcp, Proto::Udp] {
            let port = spare_port();
            let both = [binding("0.0.0.0", port, proto), binding("::", port, proto)];
            let held = reserve(&both).unwrap();
            assert_eq!(held.len(), 1);
            assert!(held[0].bindings().eq(both));
            for address in ["0.0.0.0", "127.0.0.1", "::", "::1"] {
                let taken = match proto {
                    Proto::Tcp => !can_listen(address, port),
                    _ => UdpSocket::bind((address, port)).is_err(),
                };
                assert!(taken, "{address} {proto:?}");
            }
            drop(held);
            assert!(can_listen("::", port));
        }
    }

    #[test]
    fn the_family_that_is_taken_is_named() {
        let port = spare_port();
        let both = [
            binding("0.0.0.0", port, Proto::Tcp),
            binding("::", port, Proto::Tcp),
        ];
        let other = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let (refused, error) = reserve(&both).unwrap_err();
        assert_eq!(refused, both[0]);
        assert!(is_taken(&error));
        let rest = reserve_each(both);
        assert!(rest.iter().flat_map(Reservation::bindings).eq([both[1]]));
        drop((other, rest));
        let other = TcpListener::bind(("::1", port)).unwrap();
        assert_eq!(reserve(&both).unwrap_err().0, both[1]);
        drop(other);
    }

    #[test]
    fn specific_addresses_stand_beside_each_other() {
        let port = spare_port();
        let first = reserve(&[binding("127.0.0.1", port, Proto::Tcp)]).unwrap();
        let second = reserve(&[binding("127.0.0.2", port, Proto::Tcp)]).unwrap();
        assert!(reserve(&[binding("0.0.0.0", port, Proto::Tcp)]).is_err());
        drop((first, second));
        let all = reserve(&[binding("0.0.0.0", port, Proto::Tcp)]).unwrap();
        assert!(reserve(&[binding("127.0.0.1", port, Proto::Tcp)]).is_err());
        // IPv4 alone leaves IPv6 to others.
        assert!(can_listen("::1", port));
        drop(all);
    }

    /// Has a server on `port` close a connection first, so that it is in TIME_WAIT here.
    fn leave_a_closing_connection(address: &str, port: u16) {
        let server = TcpListener::bind((address, port)).unwrap();
        let mut client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let (accepted, _) = server.accept().unwrap();
        drop(accepted);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        drop(client);
        drop(server);
        let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
        let wanted = Some(Holder::ClosingConnections);
        while find_holder(Proto::Tcp, address.parse().unwrap(), port) != wanted {
            assert!(std::time::Instant::now() < end, "no connection is closing");
            std::thread::yield_now();
        }
    }

    #[test]
    fn closing_connections_keep_nobody_out() {
        for (at, bindings) in [
            ("127.0.0.1", &["0.0.0.0", "::"][..]),
            ("127.0.0.1", &["127.0.0.1"]),
            ("::1", &["0.0.0.0", "::"]),
            ("::1", &["::1"]),
        ] {
            let port = spare_port();
            leave_a_closing_connection(at, port);
            let wanted: Vec<Binding> = bindings
                .iter()
                .map(|address| binding(address, port, Proto::Tcp))
                .collect();
            for _ in 0..100 {
                let held =
                    reserve(&wanted).unwrap_or_else(|(of, e)| panic!("{of} of {wanted:?}: {e}"));
                // The others are kept out as ever, and nobody is answered.
                assert!(!can_listen(at, port), "{wanted:?}");
                assert!(!can_listen(bindings[0], port), "{wanted:?}");
                assert!(reserve(&wanted).is_err());
                let refused = TcpStream::connect((at, port)).unwrap_err();
                assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
                drop(held);
            }
            assert!(can_listen(at, port), "it is free again");
        }
    }

    #[test]
    fn a_listener_among_closing_connections_is_in_the_way() {
        let port = spare_port();
        leave_a_closing_connection("127.0.0.1", port);
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        for address in ["127.0.0.1", "0.0.0.0"] {
            let (_, error) = reserve(&[binding(address, port, Proto::Tcp)]).unwrap_err();
            assert!(is_taken(&error));
        }
        drop(listener);
    }
}
