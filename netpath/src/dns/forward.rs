//! Asking other servers.
//!
//! Each query goes out from a socket of its own, whose port the kernel chooses at random, with a
//! random number; only the server that was asked can answer (the socket is connected to it), and
//! only what has the number and the question of the query is taken for the answer.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::{Instant, sleep_until, timeout};

use super::sockets::{self, Maker};
use super::upstream::Health;
use super::wire::{self, code};
use crate::container::names;

/// How long one server is waited for before the next one is asked as well.
const PATIENCE: Duration = Duration::from_millis(1000);
/// How long all are waited for: less than clients wait for us (5 s, resolv.conf(5)).
const DEADLINE: Duration = Duration::from_millis(4500);
/// How long a connection may take to be made and to bring its answer.
const TCP_PATIENCE: Duration = Duration::from_millis(2500);
/// How often each server is asked. Datagrams get lost.
const ROUNDS: usize = 2;
/// No datagram is larger.
const LARGEST: usize = 65_535;

/// From where servers are asked.
#[derive(Clone, Debug)]
pub struct From {
    /// The client in whose namespace; `None` is the host's.
    pub client: Option<(String, Arc<File>)>,
    /// Makes sockets there.
    pub maker: Maker,
}

impl From {
    fn who(&self) -> Option<&str> {
        self.client.as_ref().map(|(name, _)| name.as_str())
    }

    async fn socket(&self, server: SocketAddr, tcp: bool) -> Result<socket2::Socket> {
        let v4 = server.is_ipv4();
        match &self.client {
            Some((_, netns)) => self.maker.socket(netns.clone(), v4, tcp).await,
            None => Ok(sockets::socket(v4, tcp)?),
        }
    }
}

/// What one server said.
enum Said {
    /// An answer, be it that there is no such name.
    Answer(Vec<u8>),
    /// It cannot or does not want to answer; another may.
    Unable(Vec<u8>),
    /// It cannot be reached.
    Nothing,
}

/// Asks servers in their order until one answers. The answer has the query's number. `None` if
/// nobody answers.
pub async fn ask(
    from: &From,
    mut servers: Vec<SocketAddr>,
    health: &Health,
    query: &[u8],
    tcp: bool,
) -> Option<Vec<u8>> {
    health.sort(from.who(), &mut servers);
    let mut left = servers.repeat(ROUNDS).into_iter();
    let mut pending = FuturesUnordered::new();
    let deadline = Instant::now() + DEADLINE;
    let mut next = Instant::now();
    // The one whose turn it is.
    let mut waited_for = None;
    let (mut unable, mut done) = (None, Vec::new());
    while !pending.is_empty() || left.len() > 0 {
        tokio::select! {
            Some((server, said)) = pending.next() => {
                match said {
                    Said::Answer(answer) => {
                        health.is_well(from.who(), server);
                        return Some(answer);
                    }
                    Said::Unable(answer) => unable = unable.or(Some(answer)),
                    Said::Nothing => {}
                }
                // It would say the same again.
                done.push(server);
                waited_for = None;
                next = Instant::now();
            }
            () = sleep_until(next), if left.len() > 0 => {
                if let Some(slow) = waited_for {
                    health.is_slow(from.who(), slow);
                }
                waited_for = left.find(|server| !done.contains(server));
                pending.extend(waited_for.map(|server| one(from, server, query, tcp)));
                next = Instant::now() + PATIENCE;
            }
            () = sleep_until(deadline) => {
                if let Some(slow) = waited_for {
                    health.is_slow(from.who(), slow);
                }
                break;
            }
        }
    }
    unable
}

/// Asks one server.
async fn one(from: &From, server: SocketAddr, query: &[u8], tcp: bool) -> (SocketAddr, Said) {
    let asked = if tcp {
        by_tcp(from, server, query).await
    } else {
        by_udp(from, server, query).await
    };
    let said = match asked {
        Ok(answer) => match wire::response_code(&answer) {
            code::SERVER | code::NOT_IMPLEMENTED | code::REFUSED => Said::Unable(answer),
            _ => Said::Answer(answer),
        },
        Err(error) => {
            log::debug!("server {server} cannot be asked: {error:#}");
            Said::Nothing
        }
    };
    (server, said)
}

/// The query with a random number.
fn renumbered(query: &[u8]) -> Result<Vec<u8>> {
    let mut query = query.to_vec();
    wire::set_id(&mut query, u16::from_ne_bytes(names::random()?));
    Ok(query)
}

fn restore(query: &[u8], mut answer: Vec<u8>) -> Result<Vec<u8>> {
    let id = wire::id(query).context("the query has no number")?;
    wire::set_id(&mut answer, id);
    Ok(answer)
}

async fn by_udp(from: &From, server: SocketAddr, query: &[u8]) -> Result<Vec<u8>> {
    let socket = from.socket(server, false).await?;
    let socket = UdpSocket::from_std(socket.into())?;
    socket.connect(server).await?;
    let sent = renumbered(query)?;
    socket.send(&sent).await?;
    let mut buffer = vec![0; LARGEST];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if wire::is_answer(&sent, &buffer[..length]) {
            buffer.truncate(length);
            return restore(query, buffer);
        }
    }
}

async fn by_tcp(from: &From, server: SocketAddr, query: &[u8]) -> Result<Vec<u8>> {
    let socket = from.socket(server, true).await?;
    let asked = async {
        let socket = TcpSocket::from_std_stream(socket.into());
        let mut stream = socket.connect(server).await?;
        let sent = renumbered(query)?;
        write_message(&mut stream, &sent).await?;
        let answer = read_message(&mut stream, LARGEST).await?;
        if !wire::is_answer(&sent, &answer) {
            return Err(io::Error::other("that is no answer to the question").into());
        }
        restore(query, answer)
    };
    timeout(TCP_PATIENCE, asked).await?
}

/// Writes a message as TCP has it: with its length before it.
///
/// # Errors
/// The other side is gone, or the message is too long.
pub async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    // In one piece: some clients cannot do with two.
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(message);
    stream.write_all(&bytes).await
}

/// Reads a message as TCP has it.
///
/// # Errors
/// The other side is gone, or the message is longer than `most` bytes.
pub async fn read_message(stream: &mut TcpStream, most: usize) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > most {
        return Err(io::Error::other("the message is too long"));
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}
