//! The host's own access to published ports: what its processes dial is translated once, when
//! they dial, so that no packet has to be.
//!
//! Works on the addresses of system calls, not on packets: [`connect`], [`dial`] for `sendto`
//! and its like, [`recall`] for `recvfrom` and `getpeername`.
//!
//! Containers dial the server for names at [`NAME_SERVER`], port 53. It listens there at another
//! port, so that 53 stays free for servers of the container's own: [`dial_name_server`] and
//! [`recall_name_server`] exchange the ports.

use crate::addr::Addr;
use crate::env::Table;
use crate::network::HostAddr;
use crate::port::{PortKey, PortTarget};
use crate::tuple::Proto;

/// Key of map `sock_nat`: a socket and a container that it talks to.
///
/// The kernel never gives a cookie twice, so the entry of a socket that is gone can be taken
/// for nobody else's; the map drops what has not been used for longest.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SocketPeer {
    /// The container's address.
    pub addr: Addr,
    /// The socket's cookie.
    pub cookie: u64,
    /// The container's port, host byte order.
    pub port: u16,
    /// Always 0.
    pub reserved: [u8; 6],
}

/// Value of map `sock_nat`: what the socket's owner dialled to get there.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dialled {
    /// The address; loopback if "any" was dialled, as the kernel has it.
    pub addr: Addr,
    /// The port, host byte order.
    pub port: u16,
    /// Always 0.
    pub reserved: [u8; 6],
}

const _: () = assert!(size_of::<SocketPeer>() == 32 && size_of::<Dialled>() == 24);

/// Where containers ask for names, as in Docker.
pub const NAME_SERVER: Addr = Addr::v4([127, 0, 0, 11]);
/// The port that they dial, host byte order.
pub const NAME_PORT: u16 = 53;

/// Value of map `resolvers`, by the cookie of a container's network namespace: the port of
/// [`NAME_SERVER`] at which the server for names really listens, for UDP and for TCP.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resolver {
    /// The port, host byte order.
    pub port: u16,
    /// Always 0.
    pub reserved: [u8; 6],
}

const _: () = assert!(size_of::<Resolver>() == 8);

/// The other end of a socket, in the form of both families' system calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    /// The address.
    pub addr: Addr,
    /// The port, host byte order.
    pub port: u16,
}

/// The surroundings of one system call of a process of the host.
pub trait Sockets {
    /// Map `ports`.
    fn ports(&self) -> impl Table<PortKey, PortTarget>;
    /// Map `host_addrs`.
    fn host_addrs(&self) -> impl Table<Addr, HostAddr>;
    /// Map `sock_nat`.
    fn sock_nat(&self) -> impl Table<SocketPeer, Dialled>;
    /// The socket's cookie.
    fn cookie(&self) -> u64;
}

/// Puts the container in the place of the published port that is dialled; true if it did.
///
/// `confined` says that the socket can send from a loopback address only (it is bound to one),
/// or by one device. A container could not answer such a source, and the kernel
/// would not even send the packet; so the port looks closed, as without us.
#[inline(always)]
pub fn dial<E: Sockets>(env: &E, proto: Proto, confined: bool, peer: &mut Peer) -> bool {
    let dialled = Dialled {
        addr: concrete(&peer.addr),
        port: peer.port,
        reserved: [0; 6],
    };
    if confined || !find(env, proto, &dialled.addr, peer) {
        return false;
    }
    note(env, peer, &dialled);
    true
}

/// As [`dial`], for the address that a socket is to stay with.
#[inline(always)]
pub fn connect<E: Sockets>(env: &E, proto: Proto, confined: bool, peer: &mut Peer) -> bool {
    if dial(env, proto, confined, peer) {
        return true;
    }
    // The container's own address may be dialled now, by a socket that has reached it by a
    // published port before. Datagrams are not asked that: those of an IPv6 socket connected
    // to a mapped address come by as if each were sent to the container directly.
    let key = key(env, peer);
    if env.sock_nat().contains(&key) {
        env.sock_nat().remove(&key);
    }
    false
}

/// Puts what the socket's owner dialled in the place of a container; true if it did.
#[inline(always)]
pub fn recall<E: Sockets>(env: &E, peer: &mut Peer) -> bool {
    env.sock_nat()
        .with(&key(env, peer), |dialled| {
            peer.addr = dialled.addr;
            peer.port = dialled.port;
        })
        .is_some()
}

/// Puts the port at which the server for names listens in the place of 53; true if it did.
/// `netns` is the cookie of the dialling socket's network namespace.
#[inline(always)]
pub fn dial_name_server(resolvers: impl Table<u64, Resolver>, netns: u64, peer: &mut Peer) -> bool {
    // Nearly everything that is dialled is something else, which costs no look-up.
    if peer.addr != NAME_SERVER || peer.port != NAME_PORT {
        return false;
    }
    resolvers
        .with(&netns, |resolver| peer.port = resolver.port)
        .is_some()
}

/// Puts 53 in the place of the port at which the server for names listens; true if it did.
/// Resolvers ignore answers that come from elsewhere than where they asked.
#[inline(always)]
pub fn recall_name_server(
    resolvers: impl Table<u64, Resolver>,
    netns: u64,
    peer: &mut Peer,
) -> bool {
    if peer.addr != NAME_SERVER {
        return false;
    }
    let is_ours = resolvers.with(&netns, |resolver| resolver.port == peer.port);
    if is_ours == Some(true) {
        peer.port = NAME_PORT;
        return true;
    }
    false
}

/// To dial "any" means to dial oneself.
#[inline(always)]
fn concrete(addr: &Addr) -> Addr {
    const LOOPBACK_V4: Addr = Addr::v4([127, 0, 0, 1]);
    const LOOPBACK_V6: Addr = Addr::from_halves([0, 1u64.to_be()]);
    if *addr == Addr::UNSPECIFIED_V4 {
        LOOPBACK_V4
    } else if addr.is_unspecified() {
        LOOPBACK_V6
    } else {
        *addr
    }
}

/// Looks for the port, at this address first, then at all addresses of its family. Most of
/// what is dialled is elsewhere, which the first question finds out.
#[inline(always)]
fn find<E: Sockets>(env: &E, proto: Proto, addr: &Addr, peer: &mut Peer) -> bool {
    if !addr.is_loopback() && !env.host_addrs().contains(addr) {
        return false;
    }
    let mut key = PortKey::new(proto, *addr, peer.port);
    if take(env, &key, peer) {
        return true;
    }
    key.addr = addr.wildcard();
    take(env, &key, peer)
}

#[inline(always)]
fn take<E: Sockets>(env: &E, key: &PortKey, peer: &mut Peer) -> bool {
    env.ports()
        .with(key, |target| {
            peer.addr = target.addr;
            peer.port = target.port;
        })
        .is_some()
}

/// Remembers what was dialled. A datagram's sender comes by here each time: looking is
/// cheaper than writing.
#[inline(always)]
fn note<E: Sockets>(env: &E, peer: &Peer, dialled: &Dialled) {
    let key = key(env, peer);
    let known = env.sock_nat().with(&key, |known| {
        known.addr == dialled.addr && known.port == dialled.port
    });
    if known != Some(true) {
        // Without the note the connection works just as well, it only shows the container's
        // address: no reason to refuse it.
        let _ = env.sock_nat().replace(&key, dialled);
    }
}

#[inline(always)]
fn key<E: Sockets>(env: &E, peer: &Peer) -> SocketPeer {
    SocketPeer {
        addr: peer.addr,
        cookie: env.cookie(),
        port: peer.port,
        reserved: [0; 6],
    }
}
