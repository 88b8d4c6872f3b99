//! DNS by hand: queries as bytes, servers that behave as a test wants.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::command::run;
use crate::inside::inside;

/// Types of records.
pub const A: u16 = 1;
/// See [`A`].
pub const AAAA: u16 = 28;
/// Where containers ask.
pub const SERVER: &str = "127.0.0.11:53";

/// A query with one question.
pub fn query(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut query = id.to_be_bytes().to_vec();
    // Recursion desired; one question.
    query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        query.push(u8::try_from(label.len()).expect("a label"));
        query.extend(label.bytes());
    }
    query.push(0);
    query.extend(kind.to_be_bytes());
    query.extend([0, 1]);
    query
}

/// The response code of an answer.
pub fn code(answer: &[u8]) -> u8 {
    answer[3] & 15
}

/// Number of records in an answer.
pub fn records(answer: &[u8]) -> u16 {
    u16::from_be_bytes([answer[6], answer[7]])
}

/// Asks by UDP from a socket that is not connected, in a namespace; the answer and where it
/// came from.
pub fn ask_udp(
    netns: &str,
    query: &[u8],
    wait: Duration,
) -> std::io::Result<(Vec<u8>, SocketAddr)> {
    inside(netns, || exchange(query, wait))
}

/// As [`ask_udp`], in the namespace of the calling thread.
pub fn exchange(query: &[u8], wait: Duration) -> std::io::Result<(Vec<u8>, SocketAddr)> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.set_read_timeout(Some(wait))?;
    socket.send_to(query, SERVER)?;
    let mut buffer = vec![0; 65_535];
    let (length, from) = socket.recv_from(&mut buffer)?;
    buffer.truncate(length);
    Ok((buffer, from))
}

/// Asks by TCP, in the namespace of the calling thread.
pub fn exchange_tcp(query: &[u8], wait: Duration) -> std::io::Result<Vec<u8>> {
    let server: SocketAddr = SERVER.parse().expect("an address");
    let mut stream = TcpStream::connect_timeout(&server, wait)?;
    stream.set_read_timeout(Some(wait))?;
    let length = u16::try_from(query.len()).expect("a query");
    stream.write_all(&[&length.to_be_bytes(), query].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// Asks again and again, by UDP and by TCP, until it is told to stop.
pub struct Asking {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Tally>,
    asked: Arc<AtomicUsize>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Tally {
    /// Queries.
    pub asked: usize,
    /// Those that got no answer, or another than a record.
    pub failures: Vec<String>,
    /// The longest time until an answer.
    pub slowest: Duration,
}

impl Asking {
    /// Begins to ask for an address of a name, in a namespace.
    pub fn start(netns: &str, name: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(AtomicUsize::new(0));
        let (netns, name) = (netns.to_owned(), name.to_owned());
        let (told, count) = (stop.clone(), asked.clone());
        let thread = thread::spawn(move || {
            inside(&netns, || {
                let mut tally = Tally::default();
                while !told.load(Ordering::Relaxed) {
                    let id = u16::try_from(tally.asked % 65_536).expect("16 bits");
                    let query = query(id, &name, A);
                    let (tcp, begun) = (tally.asked % 8 == 7, Instant::now());
                    let wait = Duration::from_secs(3);
                    let answer = if tcp {
                        exchange_tcp(&query, wait)
                    } else {
                        exchange(&query, wait).map(|(answer, _)| answer)
                    };
                    match answer {
                        Ok(answer) if code(&answer) == 0 && records(&answer) > 0 => {}
                        Ok(answer) => tally.failures.push(format!("{answer:?}")),
                        Err(error) => tally.failures.push(format!("tcp {tcp}: {error}")),
                    }
                    tally.slowest = tally.slowest.max(begun.elapsed());
                    tally.asked += 1;
                    count.store(tally.asked, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(1));
                }
                tally
            })
        });
        Self {
            stop,
            thread,
            asked,
        }
    }

    /// Waits for as many queries more.
    pub fn wait_for(&self, more: usize) {
        let until = self.asked.load(Ordering::Relaxed) + more;
        let end = Instant::now() + Duration::from_secs(20);
        while self.asked.load(Ordering::Relaxed) < until && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it.
    pub fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the thread that asks")
    }
}

/// Serves UDP port 53 of an address in a namespace until the test ends: `answer` makes the
/// datagrams that each query gets. Returns how many queries have come.
pub fn serve(
    netns: &str,
    address: &str,
    answer: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static,
) -> Arc<AtomicU32> {
    let socket = inside(netns, || UdpSocket::bind((address, 53)).expect("a socket"));
    let count = Arc::new(AtomicU32::new(0));
    let counted = count.clone();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            match socket.recv_from(&mut buffer) {
                Ok((length, client)) => {
                    counted.fetch_add(1, Ordering::Relaxed);
                    for datagram in answer(&buffer[..length]) {
                        let _ = socket.send_to(&datagram, client);
                    }
                }
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(_) => return,
            }
        }
    });
    count
}

/// The answer to a query, with an IPv4 address.
pub fn answer(query: &[u8], address: [u8; 4]) -> Vec<u8> {
    let mut answer = refusal(query, 0);
    answer[7] = 1;
    // The name of the question, A, IN, a minute, four bytes.
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    answer.extend(address);
    answer
}

/// The answer to a query without EDNS that has a response code only.
pub fn refusal(query: &[u8], code: u8) -> Vec<u8> {
    let mut end = 12;
    while query[end] != 0 {
        end += 1 + usize::from(query[end]);
    }
    let mut answer = query[..end + 5].to_vec();
    answer[2] |= 0x80;
    answer[3] = 0x80 | code;
    answer[6..12].fill(0);
    answer
}

/// A small program that prints what getaddrinfo says, built with musl (`musl-gcc`) and linked
/// statically; or with the machine's own C library.
pub fn getaddrinfo(folder: &Path, compiler: &str) -> PathBuf {
    const SOURCE: &str = r#"
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
int main(int count, char **words) {
    struct addrinfo hints, *found, *one;
    char text[64];
    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_family = count > 2 && words[2][0] == '6' ? AF_INET6
                    : count > 2 && words[2][0] == '4' ? AF_INET : AF_UNSPEC;
    int error = getaddrinfo(words[1], 0, &hints, &found);
    if (error) {
        puts(gai_strerror(error));
        return 1;
    }
    for (one = found; one; one = one->ai_next) {
        void *address = one->ai_family == AF_INET
            ? (void *)&((struct sockaddr_in *)one->ai_addr)->sin_addr
            : (void *)&((struct sockaddr_in6 *)one->ai_addr)->sin6_addr;
        puts(inet_ntop(one->ai_family, address, text, sizeof text));
    }
    return 0;
}
"#;
    let (source, program) = (folder.join("getaddrinfo.c"), folder.join(compiler));
    std::fs::write(&source, SOURCE).expect("a source file");
    let mut command = Command::new(compiler);
    command.args(["-O1", "-o"]).arg(&program).arg(&source);
    if compiler.starts_with("musl") {
        command.arg("-static");
    }
    run(command).ok();
    program
}
