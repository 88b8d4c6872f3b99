//! The server's sockets in one container's namespace.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::answer::Outcome;
use super::control::Listening;
use super::forward::{read_message, write_message};
use super::server::Server;
use super::sockets::Pair;
use super::tables::Place;
use super::wire::code;
use crate::netlink::netns;

/// Queries of one client that others are asked about at a time: it cannot take all there are.
const FORWARDS: usize = 256;
/// Connections of one client at a time.
const CONNECTIONS: usize = 64;
/// No query is longer.
const LONGEST: usize = 4096;
/// How long a connection may be silent, or not take its answer.
const SILENCE: Duration = Duration::from_secs(10);
/// Before the socket is tried again after an error.
const AFTER_ERROR: Duration = Duration::from_millis(50);

/// Listens in a namespace until it is dropped.
#[derive(Debug)]
pub struct Listener {
    /// Where.
    pub place: Place,
    /// The namespace.
    pub netns: Arc<File>,
    /// For the agent.
    pub listening: Listening,
    udp: Arc<UdpSocket>,
    tcp: Arc<TcpListener>,
    tasks: Vec<AbortHandle>,
}

/// Opens the namespace of a place, if it is still the one that was meant.
///
/// # Errors
/// It is not.
pub fn open(place: &Place) -> Result<File> {
    let failed = || format!("cannot open the namespace {}", place.path.display());
    let Some(file) = netns::open(&place.path).with_context(failed)? else {
        bail!("{} is not a network namespace", place.path.display());
    };
    let meta = file.metadata().with_context(failed)?;
    match place.foreign {
        Some(id) if id != (meta.dev(), meta.ino()) => {
            bail!("{} is another namespace by now", place.path.display())
        }
        // A file that was opened by its path keeps whatever is mounted there busy; this one does not.
        _ => netns::inside(netns::borrow(&file), || {
            File::open("/proc/thread-self/ns/net").with_context(failed)
        }),
    }
}

impl Listener {
    /// Takes sockets into use for a client.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(name: &str, place: Place, netns: Arc<File>, pair: Pair) -> Result<Self> {
        let listening = Listening {
            name: name.to_owned(),
            netns: pair.netns_cookie()?,
            port: pair.port()?,
        };
        Ok(Self {
            place,
            netns,
            listening,
            udp: Arc::new(UdpSocket::from_std(pair.udp)?),
            tcp: Arc::new(TcpListener::from_std(pair.tcp)?),
            tasks: Vec::new(),
        })
    }

    /// Begins to answer.
    pub fn serve(&mut self, server: &Arc<Server>) {
        let client = Arc::new(Asker {
            server: server.clone(),
            name: self.listening.name.clone(),
            forwards: Arc::new(Semaphore::new(FORWARDS)),
        });
        let connections = Arc::new(Semaphore::new(CONNECTIONS));
        let udp = tokio::spawn(client.clone().serve_udp(self.udp.clone()));
        let tcp = tokio::spawn(client.serve_tcp(self.tcp.clone(), connections));
        self.tasks = vec![udp.abort_handle(), tcp.abort_handle()];
    }

    /// Takes no more queries; those that were taken are answered. What comes waits in the
    /// sockets.
    pub fn pause(&mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
        }
    }

    /// UDP socket, TCP socket, namespace.
    pub fn descriptors(&self) -> [RawFd; 3] {
        [
            self.udp.as_raw_fd(),
            self.tcp.as_raw_fd(),
            self.netns.as_raw_fd(),
        ]
    }

    /// Whether a namespace is the one that is listened in.
    pub fn is_in(&self, netns: &File) -> bool {
        let id = |file: &File| file.metadata().ok().map(|meta| (meta.dev(), meta.ino()));
        let own = id(&self.netns);
        own.is_some() && own == id(netns)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.pause();
    }
}

/// Somebody who asks.
struct Asker {
    server: Arc<Server>,
    name: String,
    forwards: Arc<Semaphore>,
}

impl Asker {
    /// Datagrams: what is known is answered at once, what is not by a task of its own. There is
    /// no point between taking a query and answering it at which this could be stopped.
    async fn serve_udp(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; LONGEST];
        loop {
            let (length, from) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    log::debug!("{}: {error}", self.name);
                    sleep(AFTER_ERROR).await;
                    continue;
                }
            };
            let query = &buffer[..length];
            match self.server.decide(&self.name, query, false) {
                Outcome::Silence => {}
                // A client whose queue is full asks again.
                Outcome::Reply(reply) => drop(socket.try_send_to(&reply, from)),
                Outcome::Forward(limit) => match self.forwards.clone().try_acquire_owned() {
                    Ok(permit) => {
                        let (asker, socket) = (self.clone(), socket.clone());
                        let query = query.to_vec();
                        tokio::spawn(async move {
                            let _permit = permit;
                            if let Some(answer) = asker.forward(&query, limit, false).await {
                                let _ = socket.send_to(&answer, from).await;
                            }
                        });
                    }
                    Err(_) => {
                        if let Outcome::Reply(reply) = too_many(query) {
                            let _ = socket.try_send_to(&reply, from);
                        }
                    }
                },
            }
        }
    }

    async fn forward(&self, query: &[u8], limit: usize, tcp: bool) -> Option<Vec<u8>> {
        self.server.forward(&self.name, query, limit, tcp).await
    }

    async fn serve_tcp(self: Arc<Self>, listener: Arc<TcpListener>, connections: Arc<Semaphore>) {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    log::debug!("{}: {error}", self.name);
                    sleep(AFTER_ERROR).await;
                    continue;
                }
            };
            // One more than allowed is closed at once.
            if let Ok(permit) = connections.clone().try_acquire_owned() {
                let asker = self.clone();
                tokio::spawn(async move {
                    let _permit = permit;
                    asker.serve_connection(stream).await;
                });
            }
        }
    }

    /// Queries of a connection, one after the other, until it is closed, silent, or nonsense.
    async fn serve_connection(&self, mut stream: TcpStream) {
        while let Ok(Ok(query)) = timeout(SILENCE, read_message(&mut stream, LONGEST)).await {
            let outcome = match self.server.decide(&self.name, &query, true) {
                Outcome::Forward(limit) => match self.forwards.clone().try_acquire_owned() {
                    Ok(_permit) => match self.forward(&query, limit, true).await {
                        Some(answer) => Outcome::Reply(answer),
                        None => Outcome::Silence,
                    },
                    Err(_) => too_many(&query),
                },
                outcome => outcome,
            };
            let Outcome::Reply(reply) = outcome else {
                return;
            };
            let written = timeout(SILENCE, write_message(&mut stream, &reply)).await;
            if !matches!(written, Ok(Ok(()))) {
                return;
            }
        }
    }
}

fn too_many(query: &[u8]) -> Outcome {
    super::answer::refuse(query, code::REFUSED)
}
