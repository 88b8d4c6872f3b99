//! Sockets in network namespaces of containers.
//!
//! A thread of its own goes from one namespace to the next and makes sockets there; they stay
//! in theirs wherever they are used. So no thread that reads what containers send is ever in
//! one of their namespaces.

use std::fs::File;
use std::io;
use std::net::SocketAddrV4;
use std::sync::{Arc, mpsc};
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::oneshot;

use super::{ADDRESS, PORT};

/// Ports to listen at, the first that is free. Below 1024 and reserved (RFC 4727; IANA), so
/// that nobody has a service there; a port of the ephemeral range, which Docker takes, is one
/// day that of somebody's server (50051, 51820).
const PORTS: [u16; 3] = [1023, 1022, 1021];
/// Tries to find a port that is free for both protocols.
const TRIES: usize = 64;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

type Job = Box<dyn FnOnce() + Send>;

/// Makes sockets.
#[derive(Clone, Debug)]
pub struct Maker(mpsc::Sender<Job>);

/// The two sockets at which a container's queries come.
#[derive(Debug)]
pub struct Pair {
    /// For datagrams, bound.
    pub udp: std::net::UdpSocket,
    /// For connections, listening.
    pub tcp: std::net::TcpListener,
}

impl Maker {
    /// Starts the thread; it ends with the last `Maker`.
    ///
    /// # Errors
    /// There are too many threads.
    pub fn start() -> Result<Self> {
        let (sender, jobs) = mpsc::channel::<Job>();
        let home = File::open("/proc/self/ns/net").context("cannot open the own namespace")?;
        let work = move || {
            for job in jobs {
                job();
                // A thread keeps the namespace alive that it is in.
                if let Err(error) = setns(&home, CloneFlags::CLONE_NEWNET) {
                    log::error!("cannot leave a container's namespace: {error}");
                }
            }
        };
        thread::Builder::new()
            .name("sockets".into())
            .spawn(work)
            .context("cannot start a thread")?;
        Ok(Self(sender))
    }

    /// Calls `make` in a namespace.
    ///
    /// # Errors
    /// The namespace cannot be entered, or those of `make`.
    async fn inside<T: Send + 'static>(
        &self,
        netns: Arc<File>,
        make: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (sender, made) = oneshot::channel();
        let job = move || {
            let result = setns(&*netns, CloneFlags::CLONE_NEWNET)
                .context("cannot enter the network namespace")
                .and_then(|()| make());
            // Whoever asked may have given up.
            let _ = sender.send(result);
        };
        let gone = "the thread that makes sockets is gone";
        self.0.send(Box::new(job)).map_err(|_| anyhow!(gone))?;
        made.await.context(gone)?
    }

    /// The sockets of a container's server, at the same port.
    ///
    /// # Errors
    /// No port is free, or the namespace cannot be entered.
    pub async fn listen(&self, netns: Arc<File>, port_53: bool) -> Result<Pair> {
        self.inside(netns, move || listen(port_53)).await
    }

    /// A socket to ask a server with.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn socket(&self, netns: Arc<File>, v4: bool, tcp: bool) -> Result<Socket> {
        self.inside(netns, move || Ok(socket(v4, tcp)?)).await
    }
}

/// A socket in the namespace of the calling thread.
///
/// # Errors
/// The kernel's.
pub fn socket(v4: bool, tcp: bool) -> io::Result<Socket> {
    let domain = if v4 { Domain::IPV4 } else { Domain::IPV6 };
    let (kind, protocol) = if tcp {
        (Type::STREAM, Protocol::TCP)
    } else {
        (Type::DGRAM, Protocol::UDP)
    };
    let socket = Socket::new(domain, kind.nonblocking(), Some(protocol))?;
    Ok(socket)
}

fn listen(port_53: bool) -> Result<Pair> {
    if port_53 {
        return pair(PORT).with_context(|| {
            format!("cannot listen at {ADDRESS}:{PORT}, where a server of the container's may be")
        });
    }
    let fixed = PORTS.into_iter();
    // 0: the kernel chooses.
    for port in fixed.chain(std::iter::repeat_n(0, TRIES)) {
        match pair(port) {
            // Attached namespaces may reserve low ports for the privileged.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied
                ) => {}
            other => return other.with_context(|| format!("cannot listen at {ADDRESS}")),
        }
    }
    Err(anyhow!("no port of {ADDRESS} is free"))
}

/// Both sockets at one port.
fn pair(port: u16) -> io::Result<Pair> {
    let bind = |tcp, port| {
        let socket = socket(true, tcp)?;
        // A namespace whose loopback device is not up yet has no such address.
        socket.set_freebind_v4(true)?;
        if tcp {
            // Connections that the last server of this namespace closed may linger.
            socket.set_reuse_address(true)?;
        }
        socket.bind(&SocketAddrV4::new(ADDRESS, port).into())?;
        Ok::<_, io::Error>(socket)
    };
    let tcp = bind(true, port)?;
    let port = match tcp.local_addr()?.as_socket_ipv4() {
        Some(address) => address.port(),
        None => return Err(io::ErrorKind::AddrNotAvailable.into()),
    };
    let udp = bind(false, port)?;
    tcp.listen(BACKLOG)?;
    Ok(Pair {
        udp: udp.into(),
        tcp: tcp.into(),
    })
}

impl Pair {
    /// The port of both.
    ///
    /// # Errors
    /// The kernel's.
    pub fn port(&self) -> io::Result<u16> {
        Ok(self.udp.local_addr()?.port())
    }

    /// The cookie of the network namespace that they are in.
    ///
    /// # Errors
    /// The kernel is too old to tell.
    pub fn netns_cookie(&self) -> Result<u64> {
        crate::datapath::cgroup::netns_cookie_of(&self.udp)
    }
}
