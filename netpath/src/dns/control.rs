//! How the agent and the server for names talk: JSON with its length before it (four bytes, the
//! highest first), over a Unix socket in the run folder. Each request has one answer.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::tables::{Client, Place};

/// Name of the socket in the run folder.
pub const SOCKET: &str = "names.sock";
/// Name of the server's log in the run folder.
pub const LOG: &str = "names.log";
/// No message is longer: some 100,000 containers.
const LONGEST: u32 = 1 << 26;

/// What the server is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Who is there?
    Hello,
    /// The tables change.
    Change(Change),
    /// A successor takes over: sockets and tables are given to it.
    HandOver,
    /// It is to end.
    End,
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`Request::Hello`].
    Hello(Hello),
    /// To [`Request::Change`].
    Report(Report),
    /// To [`Request::HandOver`]; the sockets follow.
    Legacy(Legacy),
    /// To [`Request::End`].
    Ending,
}

/// Who the server is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// See [`build`].
    pub build: String,
    /// Its process.
    pub pid: u32,
}

/// A change of the tables.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Change {
    /// All other clients are to be forgotten.
    pub reset: bool,
    /// Clients that are new, or other than they were.
    pub put: Vec<Client>,
    /// Names of clients that are gone.
    pub remove: Vec<String>,
    /// The host's `resolv.conf`.
    pub resolv_conf: PathBuf,
}

/// What came of a change.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Where the clients that were put are listened to.
    pub listening: Vec<Listening>,
    /// Clients that were put and cannot be listened to, with the reason.
    pub failed: Vec<(String, String)>,
}

/// Where a client is listened to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// The client.
    pub name: String,
    /// The cookie of its network namespace.
    pub netns: u64,
    /// The port of 127.0.0.11.
    pub port: u16,
}

/// What a successor gets. For each of `places`, in their order, a byte follows that comes with
/// three descriptors: UDP socket, TCP socket, namespace.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Legacy {
    /// The tables.
    pub clients: Vec<Client>,
    /// The host's `resolv.conf`.
    pub resolv_conf: PathBuf,
    /// Names of clients with the places where they are listened to.
    pub places: Vec<(String, Place)>,
}

/// What tells a server that is as good as one of our own from others: the version, the file of
/// the program, and the namespaces that paths and servers of the host are looked up in.
///
/// # Errors
/// There is no /proc.
pub fn build() -> io::Result<String> {
    let inode = |path: &str| fs::metadata(path).map(|meta| meta.ino());
    let program = fs::metadata("/proc/self/exe")?;
    Ok(format!(
        "{} {}:{}:{}.{} mnt:{} net:{}",
        env!("CARGO_PKG_VERSION"),
        program.dev(),
        program.ino(),
        program.mtime(),
        program.mtime_nsec(),
        inode("/proc/self/ns/mnt")?,
        inode("/proc/self/ns/net")?
    ))
}

/// The socket of a run folder.
pub fn socket(run_dir: &Path) -> PathBuf {
    run_dir.join(SOCKET)
}

/// A message with its length before it.
///
/// # Errors
/// It is too long.
pub fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = u32::try_from(bytes.len() - 4)
        .ok()
        .filter(|length| *length <= LONGEST)
        .ok_or_else(|| io::Error::other("the message is too long"))?;
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    Ok(bytes)
}

/// Checks a length that was received.
///
/// # Errors
/// It is too long.
pub fn length(bytes: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_be_bytes(bytes);
    if length > LONGEST {
        return Err(io::Error::other("the message is too long"));
    }
    Ok(length as usize)
}

/// Sends a message.
///
/// # Errors
/// The other side is gone or does not read.
pub fn send<T: Serialize>(mut stream: impl Write, message: &T) -> io::Result<()> {
    stream.write_all(&encode(message)?)
}

/// Receives a message.
///
/// # Errors
/// The other side is gone, is silent for too long, or sends something else.
pub fn receive<T: DeserializeOwned>(mut stream: impl Read) -> io::Result<T> {
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let mut bytes = vec![0; length(head)?];
    stream.read_exact(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_as_they_were_sent() {
        let change = Change {
            reset: true,
            put: vec![Client {
                name: "a".into(),
                ..Client::default()
            }],
            ..Change::default()
        };
        let mut bytes = Vec::new();
        send(&mut bytes, &Request::Change(change)).unwrap();
        let Request::Change(change) = receive(&*bytes).unwrap() else {
            panic!("something else");
        };
        assert!(change.reset && change.put[0].name == "a");
        assert!(receive::<Request>(&bytes[..9]).is_err());
        assert!(receive::<Request>(&[0xff; 8][..]).is_err());
    }

    #[test]
    fn a_build_is_the_same_as_itself() {
        assert_eq!(build().unwrap(), build().unwrap());
    }
}
