//! Who holds a port: `/proc/net/{tcp,udp}*` names the socket, `/proc/PID/fd` its process.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netpath_common::tuple::Proto;

use super::proto_name;

/// Who holds a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A process of this host.
    Process {
        /// Its command name.
        name: String,
        /// Its process id.
        pid: u32,
    },
    /// Nobody any more: connections of an earlier holder are in TIME_WAIT and the like.
    ClosingConnections,
    /// A container of this agent.
    Container(String),
    /// The same request: it names the port twice.
    Itself,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { name, pid } => write!(f, "by {name} (pid {pid})"),
            Self::ClosingConnections => {
                f.write_str("by closing connections of an earlier process, try in a minute")
            }
            Self::Container(name) => write!(f, "by container {name}"),
            Self::Itself => f.write_str("by this container itself, it is published twice"),
        }
    }
}

struct Entry {
    address: IpAddr,
    port: u16,
    state: u8,
    inode: u64,
}

/// Linux's numbers in /proc/net/tcp of the states of connections that nobody has open any
/// more: FIN_WAIT1, FIN_WAIT2, TIME_WAIT, LAST_ACK, CLOSING.
const CLOSING: [u8; 5] = [4, 5, 6, 9, 11];

/// Parses one line of a socket table.
fn parse_line(line: &str) -> Option<Entry> {
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    let state = u8::from_str_radix(fields.nth(1)?, 16).ok()?;
    let inode = fields.nth(5)?.parse().ok()?;
    let (address, port) = local.split_once(':')?;
    if !address.is_ascii() {
        return None;
    }
    // The kernel prints each 32 bit word of the address in the order of the CPU.
    let mut octets = Vec::with_capacity(16);
    for word in address.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        octets.extend(word.to_ne_bytes());
    }
    let address = match octets.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?)),
        16 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?)),
        _ => return None,
    };
    Some(Entry {
        address,
        port: u16::from_str_radix(port, 16).ok()?,
        state,
        inode,
    })
}

/// Whether a socket bound to `held` keeps another from `wanted`. A socket on `::` is on
/// `0.0.0.0` as well unless it is IPv6 only, which the table does not tell.
fn covers(held: IpAddr, wanted: IpAddr) -> bool {
    let held = held.to_canonical();
    held == wanted
        || held.is_unspecified() && (held.is_ipv6() || wanted.is_ipv4())
        || wanted.is_unspecified() && held.is_ipv4() == wanted.is_ipv4()
}

/// Who keeps us from binding `port` of `address`, if it can be found out: a socket that
/// is bound without listening is in no table.
pub fn find_holder(proto: Proto, address: IpAddr, port: u16) -> Option<Holder> {
    let name = proto_name(proto);
    let mut entries: Vec<Entry> = [name.to_owned(), format!("{name}6")]
        .iter()
        .filter_map(|table| fs::read_to_string(format!("/proc/thread-self/net/{table}")).ok())
        .flat_map(|table| {
            table
                .lines()
                .skip(1)
                .filter_map(parse_line)
                .collect::<Vec<_>>()
        })
        .filter(|entry| entry.port == port && covers(entry.address, address))
        .collect();
    // Sockets that somebody has open first: they can be named.
    entries.sort_by_key(|entry| entry.inode == 0);
    let first = entries.first()?;
    if first.inode == 0 {
        return (proto == Proto::Tcp && CLOSING.contains(&first.state))
            .then_some(Holder::ClosingConnections);
    }
    entries
        .iter()
        .find_map(|entry| process_with_socket(entry.inode))
}

fn process_with_socket(inode: u64) -> Option<Holder> {
    let wanted = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        let holds = files
            .flatten()
            .filter_map(|file| fs::read_link(file.path()).ok())
            .any(|target| target.as_os_str() == wanted.as_str());
        if holds {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            return Some(Holder::Process {
                name: name.trim_end().to_owned(),
                pid,
            });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn lines_of_the_tables() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 \
                    0        0 12345 1 0000000000000000 100 0 0 10 0";
        let entry = parse_line(line).unwrap();
        assert_eq!((entry.port, entry.state, entry.inode), (8080, 10, 12345));
        if cfg!(target_endian = "little") {
            assert_eq!(entry.address.to_string(), "127.0.0.1");
        }
        assert!(parse_line("").is_none());
        assert!(parse_line("0: zz:1F90 0:0 0A 0 0 0 0 0 1").is_none());
    }

    #[test]
    fn finds_this_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let pid = std::process::id();
        let found = find_holder(Proto::Tcp, address.ip(), address.port());
        assert!(matches!(found, Some(Holder::Process { pid: held, .. }) if held == pid));
        let wildcard = "0.0.0.0".parse().unwrap();
        assert!(find_holder(Proto::Tcp, wildcard, address.port()).is_some());

        let socket = UdpSocket::bind("[::1]:0").unwrap();
        let address = socket.local_addr().unwrap();
        let found = find_holder(Proto::Udp, address.ip(), address.port());
        assert!(matches!(found, Some(Holder::Process { pid: held, .. }) if held == pid));
    }

    #[test]
    fn wildcards_cover() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(covers(ip("0.0.0.0"), ip("127.0.0.1")));
        assert!(covers(ip("::"), ip("127.0.0.1")));
        assert!(covers(ip("::"), ip("::1")));
        assert!(covers(ip("10.0.0.1"), ip("0.0.0.0")));
        assert!(covers(ip("::ffff:10.0.0.1"), ip("10.0.0.1")));
        assert!(!covers(ip("0.0.0.0"), ip("::1")));
        assert!(!covers(ip("10.0.0.1"), ip("10.0.0.2")));
        assert!(!covers(ip("10.0.0.1"), ip("::")));
    }
}
