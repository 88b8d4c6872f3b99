//! Sockets of the host: the addresses of its system calls.
//!
//! A machine has one tree of control groups for all its network namespaces, so these programs
//! are called for every process. What belongs to another namespace than the agent's is left
//! alone, but for one thing: where containers ask for names.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie};
use aya_ebpf::programs::SockAddrContext;
use netpath_common::addr::Addr;
use netpath_common::env::Table;
use netpath_common::network::HostAddr;
use netpath_common::port::{PortKey, PortTarget};
use netpath_common::socket::{self, Dialled, Peer, SocketPeer, Sockets};
use netpath_common::tuple::Proto;

use crate::kernel::Map;
use crate::maps;

/// The system call goes on. The verifier takes nothing else from hooks that only show.
const GO_ON: i32 = 1;

/// `connect`: the address is the socket's from now on.
#[inline(always)]
pub fn connect<F: Family>(ctx: &SockAddrContext) -> i32 {
    dial::<F>(ctx, |_| false, socket::connect)
}

/// `sendto` and its like: the address is that of one datagram.
#[inline(always)]
pub fn sendmsg<F: Family>(ctx: &SockAddrContext) -> i32 {
    // The source may be the datagram's own, too (IP_PKTINFO).
    let confined = |ctx| F::message_source(ctx).is_loopback();
    dial::<F>(ctx, confined, socket::dial)
}

#[inline(always)]
fn dial<F: Family>(
    ctx: &SockAddrContext,
    confined: impl FnOnce(*const bpf_sock_addr) -> bool,
    translate: impl FnOnce(&Host, Proto, bool, &mut Peer) -> bool,
) -> i32 {
    let netns = netns(ctx);
    if netns != maps::HOST_NETNS.load() {
        let mut peer = F::peer(ctx.sock_addr);
        if socket::dial_name_server(Map(&maps::RESOLVERS), netns, &mut peer) {
            set_port(ctx.sock_addr, peer.port);
        }
        return GO_ON;
    }
    let host = Host::new(ctx);
    // SAFETY: the context is valid for the program's whole run; so are all reads and writes
    // of it below. They are volatile because the verifier knows the fields by their sizes:
    // LLVM must not make one access of two.
    let protocol = unsafe { (&raw const (*ctx.sock_addr).protocol).read_volatile() };
    let proto = match u8::try_from(protocol).ok().and_then(Proto::from_number) {
        Some(proto @ (Proto::Tcp | Proto::Udp)) => proto,
        _ => return GO_ON,
    };
    let confined = is_confined::<F>(ctx.sock_addr) || confined(ctx.sock_addr);
    let mut peer = F::peer(ctx.sock_addr);
    if translate(&host, proto, confined, &mut peer) {
        F::set_peer(ctx.sock_addr, &peer);
    }
    GO_ON
}

/// `recvfrom`, `getpeername` and their like: shows what was dialled.
#[inline(always)]
pub fn show<F: Family>(ctx: &SockAddrContext) -> i32 {
    let netns = netns(ctx);
    let mut peer = F::peer(ctx.sock_addr);
    if netns != maps::HOST_NETNS.load() {
        if socket::recall_name_server(Map(&maps::RESOLVERS), netns, &mut peer) {
            set_port(ctx.sock_addr, peer.port);
        }
    } else if socket::recall(&Host::new(ctx), &mut peer) {
        F::set_peer(ctx.sock_addr, &peer);
    }
    GO_ON
}

/// Whether the socket is bound to a loopback address or to a device; see [`socket::dial`].
#[inline(always)]
fn is_confined<F: Family>(ctx: *const bpf_sock_addr) -> bool {
    // SAFETY: as above; the kernel calls these hooks with a socket only.
    let (sk, device) = unsafe {
        let sk = (*ctx).__bindgen_anon_1.sk;
        (sk, (&raw const (*sk).bound_dev_if).read_volatile())
    };
    device != 0 || F::source(sk).is_loopback()
}

/// What IPv4 and IPv6 hooks differ in.
pub trait Family {
    /// The address of the system call.
    fn peer(ctx: *const bpf_sock_addr) -> Peer;
    /// Puts another in its place.
    fn set_peer(ctx: *mut bpf_sock_addr, peer: &Peer);
    /// The address that the socket is bound to.
    fn source(sk: *const bpf_sock) -> Addr;
    /// The address that a datagram is to be sent from; at `sendmsg` only.
    fn message_source(ctx: *const bpf_sock_addr) -> Addr;
}

/// Hooks of IPv4 addresses.
pub struct V4;

impl Family for V4 {
    #[inline(always)]
    fn peer(ctx: *const bpf_sock_addr) -> Peer {
        // SAFETY: as above.
        let word = unsafe { (&raw const (*ctx).user_ip4).read_volatile() };
        Peer {
            addr: Addr::v4(word.to_ne_bytes()),
            port: port(ctx),
        }
    }

    #[inline(always)]
    fn set_peer(ctx: *mut bpf_sock_addr, peer: &Peer) {
        // A published port and its target are of one family, says the agent.
        let [_, _, _, word] = peer.addr.quads();
        // SAFETY: as above.
        unsafe { (&raw mut (*ctx).user_ip4).write_volatile(word) };
        set_port(ctx, peer.port);
    }

    #[inline(always)]
    fn source(sk: *const bpf_sock) -> Addr {
        // SAFETY: as above.
        let word = unsafe { (&raw const (*sk).src_ip4).read_volatile() };
        Addr::v4(word.to_ne_bytes())
    }

    #[inline(always)]
    fn message_source(ctx: *const bpf_sock_addr) -> Addr {
        // SAFETY: as above.
        let word = unsafe { (&raw const (*ctx).msg_src_ip4).read_volatile() };
        Addr::v4(word.to_ne_bytes())
    }
}

/// Hooks of IPv6 addresses. IPv4 addresses of IPv6 sockets come mapped, which is how the maps
/// have them.
pub struct V6;

impl Family for V6 {
    #[inline(always)]
    fn peer(ctx: *const bpf_sock_addr) -> Peer {
        // SAFETY: as above.
        let addr = unsafe { words(&raw const (*ctx).user_ip6) };
        Peer {
            addr,
            port: port(ctx),
        }
    }

    #[inline(always)]
    fn set_peer(ctx: *mut bpf_sock_addr, peer: &Peer) {
        let [a, b, c, d] = peer.addr.quads();
        // SAFETY: as above.
        unsafe {
            let field = (&raw mut (*ctx).user_ip6).cast::<u32>();
            field.write_volatile(a);
            field.add(1).write_volatile(b);
            field.add(2).write_volatile(c);
            field.add(3).write_volatile(d);
        }
        set_port(ctx, peer.port);
    }

    #[inline(always)]
    fn source(sk: *const bpf_sock) -> Addr {
        // SAFETY: as above.
        unsafe { words(&raw const (*sk).src_ip6) }
    }

    #[inline(always)]
    fn message_source(ctx: *const bpf_sock_addr) -> Addr {
        // SAFETY: as above.
        unsafe { words(&raw const (*ctx).msg_src_ip6) }
    }
}

/// An address of the context or the socket.
///
/// # Safety
/// `field` must be such a field.
#[inline(always)]
unsafe fn words(field: *const [u32; 4]) -> Addr {
    let field = field.cast::<u32>();
    // SAFETY: the caller's promise.
    unsafe {
        Addr::from_words([
            field.read_volatile(),
            field.add(1).read_volatile(),
            field.add(2).read_volatile(),
            field.add(3).read_volatile(),
        ])
    }
}

#[inline(always)]
fn port(ctx: *const bpf_sock_addr) -> u16 {
    // SAFETY: as above. The field is a word whose first half in memory is the port as on the wire.
    let word = unsafe { (&raw const (*ctx).user_port).read_volatile() };
    u16::from_be(word as u16)
}

#[inline(always)]
fn set_port(ctx: *mut bpf_sock_addr, port: u16) {
    // SAFETY: as above.
    unsafe { (&raw mut (*ctx).user_port).write_volatile(port.to_be().into()) };
}

/// The kernel as the surroundings of a system call of the host.
struct Host {
    cookie: u64,
}

impl Host {
    /// For a socket of the agent's network namespace.
    #[inline(always)]
    fn new(ctx: &SockAddrContext) -> Self {
        Self {
            // SAFETY: the helper takes the context of this kind of program.
            cookie: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
        }
    }
}

/// The cookie of the socket's network namespace.
#[inline(always)]
fn netns(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the helper takes the context of this kind of program.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

impl Sockets for Host {
    #[inline(always)]
    fn ports(&self) -> impl Table<PortKey, PortTarget> {
        Map(&maps::PORTS)
    }

    #[inline(always)]
    fn host_addrs(&self) -> impl Table<Addr, HostAddr> {
        Map(&maps::HOST_ADDRS)
    }

    #[inline(always)]
    fn sock_nat(&self) -> impl Table<SocketPeer, Dialled> {
        Map(&maps::SOCK_NAT)
    }

    #[inline(always)]
    fn cookie(&self) -> u64 {
        self.cookie
    }
}
