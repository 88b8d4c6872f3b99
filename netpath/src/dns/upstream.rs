//! Which servers are asked, and in which order.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;

use super::PORT;

/// As many servers are asked, like by every resolver (`MAXNS` of resolv.conf(5)).
pub const MOST: usize = 3;
/// How often the host's file is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// For how long a server that did not answer comes behind the others.
const SLOW_FOR: Duration = Duration::from_secs(20);
/// More servers than that are not remembered.
const REMEMBERED: usize = 4096;

/// The name servers of the host, which may change at any time.
#[derive(Debug)]
pub struct HostServers {
    path: PathBuf,
    looked: Option<Instant>,
    stamp: Option<Stamp>,
    servers: Vec<SocketAddr>,
}

/// What tells one state of the file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    size: u64,
}

impl HostServers {
    /// Those that a file in the form of `resolv.conf` names.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            looked: None,
            stamp: None,
            servers: Vec::new(),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The servers of now.
    pub fn now(&mut self) -> Vec<SocketAddr> {
        if self.looked.is_none_or(|then| then.elapsed() >= LOOK_EVERY) {
            self.looked = Some(Instant::now());
            let stamp = stamp(&self.path);
            // A device that a server's zone names may have been made since.
            if stamp.is_none() || stamp != self.stamp || self.servers.is_empty() {
                self.stamp = stamp;
                // Somebody is writing a new one, or it is gone: the old servers are better
                // than none.
                if let Ok(text) = fs::read_to_string(&self.path) {
                    self.servers = servers(&text);
                }
            }
        }
        self.servers.clone()
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = fs::metadata(path).ok()?;
    Some(Stamp {
        device: meta.dev(),
        inode: meta.ino(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
        size: meta.size(),
    })
}

/// The servers of a `resolv.conf`, zones of link-local addresses included.
fn servers(text: &str) -> Vec<SocketAddr> {
    let addresses = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())?
    });
    addresses.filter_map(socket_addr).take(MOST).collect()
}

fn socket_addr(text: &str) -> Option<SocketAddr> {
    if let Some((address, zone)) = text.split_once('%') {
        let index = zone.parse().ok().or_else(|| if_nametoindex(zone).ok())?;
        let address = SocketAddrV6::new(address.parse().ok()?, PORT, 0, index);
        return Some(address.into());
    }
    let ip: IpAddr = text.parse().ok()?;
    // "Any" is how some write "this host".
    Some(SocketAddr::new(ip, PORT))
}

/// Who did not answer lately: (the client from whose namespace it was asked, the server).
#[derive(Debug, Default)]
pub struct Health(Mutex<HashMap<(Option<String>, SocketAddr), Instant>>);

impl Health {
    /// A server did not answer in time.
    pub fn is_slow(&self, who: Option<&str>, server: SocketAddr) {
        let mut slow = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slow.len() >= REMEMBERED {
            slow.retain(|_, since| since.elapsed() < SLOW_FOR);
        }
        if slow.len() < REMEMBERED {
            slow.insert((who.map(ToOwned::to_owned), server), Instant::now());
        }
    }

    /// A server answered.
    pub fn is_well(&self, who: Option<&str>, server: SocketAddr) {
        let mut slow = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !slow.is_empty() {
            slow.remove(&(who.map(ToOwned::to_owned), server));
        }
    }

    /// Puts the servers that answer before those that did not lately.
    pub fn sort(&self, who: Option<&str>, servers: &mut [SocketAddr]) {
        let slow = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slow.is_empty() {
            return;
        }
        let who = who.map(ToOwned::to_owned);
        servers.sort_by_key(|server| {
            slow.get(&(who.clone(), *server))
                .is_some_and(|since| since.elapsed() < SLOW_FOR)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().unwrap(), PORT)
    }

    #[test]
    fn three_servers_are_taken_with_their_zones() {
        let text = "# nameserver 192.0.2.9\nsearch example.org\nnameserver 127.0.0.53\n\
                    nameserver fe80::1%1\nnameserver nonsense\nnameserver fe80::1%nosuchdev\n\
                    nameserver 2001:db8::1\nnameserver 192.0.2.1\n";
        let zoned = SocketAddrV6::new("fe80::1".parse().unwrap(), PORT, 0, 1).into();
        assert_eq!(
            servers(text),
            [addr("127.0.0.53"), zoned, addr("2001:db8::1")]
        );
    }

    #[test]
    fn changes_of_the_file_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        let mut host = HostServers::new(&path);
        assert_eq!(host.now(), [addr("192.0.2.1")]);
        let new = folder.path().join("new");
        fs::write(&new, "nameserver 192.0.2.2\n").unwrap();
        fs::rename(&new, &path).unwrap();
        host.looked = None;
        assert_eq!(host.now(), [addr("192.0.2.2")]);
        fs::remove_file(&path).unwrap();
        host.looked = None;
        assert_eq!(host.now(), [addr("192.0.2.2")]);
    }

    #[test]
    fn who_did_not_answer_comes_last() {
        let health = Health::default();
        let mut servers = [addr("192.0.2.1"), addr("192.0.2.2")];
        health.is_slow(None, servers[0]);
        // Another namespace is another matter.
        health.sort(Some("c"), &mut servers);
        assert_eq!(servers[0], addr("192.0.2.1"));
        health.sort(None, &mut servers);
        assert_eq!(servers, [addr("192.0.2.2"), addr("192.0.2.1")]);
        health.is_well(None, addr("192.0.2.1"));
        servers.reverse();
        health.sort(None, &mut servers);
        assert_eq!(servers[0], addr("192.0.2.1"));
    }
}
