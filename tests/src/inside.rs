//! Sockets in other network namespaces, without a process for each.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

/// Calls `f` in a network namespace, given by its file. Sockets that are made there stay in it,
/// wherever they are used later.
#[track_caller]
pub fn inside<T: Send>(netns: &str, f: impl FnOnce() -> T + Send) -> T {
    let file = File::open(netns).unwrap_or_else(|error| panic!("{netns}: {error}"));
    // A thread of its own: it ends with its namespace.
    let result = thread::scope(|scope| {
        let entered = scope.spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).expect("a namespace to enter");
            f()
        });
        entered.join()
    });
    match result {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Allows as many open files as the administrator permits.
pub fn raise_file_limit() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls get a pointer to a record of their own kind.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit)
    };
    assert_eq!(raised, 0, "no more open files");
}

/// What [`serve`] answers, and what a client got.
pub type Answer = std::io::Result<String>;

/// How long a client waits.
const WAIT: Duration = Duration::from_millis(700);

/// Serves ports of TCP and UDP at all addresses of a namespace until the test ends. Everybody is
/// answered with the server's name, the port that was reached and the client's address.
pub fn serve(netns: &str, name: &str, ports: impl IntoIterator<Item = u16>) {
    for port in ports {
        let (tcp, udp) = inside(netns, || {
            (
                TcpListener::bind(("::", port)).expect("a listener"),
                UdpSocket::bind(("::", port)).expect("a socket"),
            )
        });
        let say = {
            let name = name.to_owned();
            move |client: SocketAddr| format!("{name} {port} {}", client.ip().to_canonical())
        };
        let say_too = say.clone();
        thread::spawn(move || {
            for client in tcp.incoming().flatten() {
                if let Ok(address) = client.peer_addr() {
                    let _ = (&client).write_all(say(address).as_bytes());
                }
            }
        });
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, client)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(say_too(client).as_bytes(), client);
            }
        });
    }
}

/// Asks a TCP server, in a namespace.
pub fn ask_tcp(netns: &str, address: &str, port: u16) -> Answer {
    let server = SocketAddr::new(address.parse().expect("an address"), port);
    inside(netns, || {
        // The first packet may wait for a neighbour, and its repetition for a second.
        let mut stream = TcpStream::connect_timeout(&server, WAIT * 4)?;
        stream.set_read_timeout(Some(WAIT * 4))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })
}

/// Asks a UDP server, in a namespace. Only an answer from the address that was asked counts.
pub fn ask_udp(netns: &str, address: &str, port: u16) -> Answer {
    let server = SocketAddr::new(address.parse().expect("an address"), port);
    inside(netns, || {
        let any = if server.is_ipv4() { "0.0.0.0" } else { "::" };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(WAIT))?;
        let mut buffer = [0; 256];
        // The first one may be lost while a neighbour is looked for.
        let mut result = Err(ErrorKind::TimedOut.into());
        for _ in 0..4 {
            let sent = socket.send(b"who?");
            result = sent.and_then(|_| socket.recv(&mut buffer));
            match &result {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                _ => break,
            }
        }
        result.map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned())
    })
}
