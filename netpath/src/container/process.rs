//! Processes: naming them safely, waiting for them, ending them.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::netlink::netns::{Identity, identity};
use crate::store::ProcessId;

impl ProcessId {
    /// The process that has this number now; `None` if there is none.
    pub fn of(pid: u32) -> Option<Self> {
        let (_, start_time) = stat(pid)?;
        Some(Self {
            pid,
            start_time,
            boot_id: boot_id(),
        })
    }

    /// Whether it still runs; a zombie does not.
    pub fn is_alive(&self) -> bool {
        self.boot_id == boot_id()
            && stat(self.pid)
                .is_some_and(|(state, start)| start == self.start_time && !"ZX".contains(state))
    }

    /// Whether it is over and only waits for its parent to ask how it ended.
    pub fn is_zombie(&self) -> bool {
        stat(self.pid).is_some_and(|(state, start)| start == self.start_time && state == 'Z')
    }

    /// Opens it for [`Pidfd`]'s purposes; `None` if it does not run any more.
    ///
    /// # Errors
    /// The kernel's, if the process lives.
    pub fn open(&self) -> io::Result<Option<Pidfd>> {
        let pidfd = match Pidfd::open(self.pid) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            other => other?,
        };
        // Only now the number cannot get another meaning any more.
        Ok(self.is_alive().then_some(pidfd))
    }
}

/// The id of this boot: pids and start times of an earlier one mean nothing.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// State and start time (clock ticks since boot) of a process.
fn stat(pid: u32) -> Option<(char, u64)> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<(char, u64)> {
    // The command's name, in parentheses, may contain anything, even parentheses.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // Fields 3 and 22 of proc_pid_stat(5).
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// A process held by a file descriptor, which becomes readable when the process ends.
#[derive(Debug)]
pub struct Pidfd(OwnedFd);

impl Pidfd {
    /// Opens a process.
    ///
    /// # Errors
    /// The kernel's; `ESRCH` if there is none.
    pub fn open(pid: u32) -> io::Result<Self> {
        // SAFETY: pidfd_open takes a number and flags, no pointers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the kernel has just made this descriptor, nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The kernel's; `ESRCH` if the process is over.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        // SAFETY: the descriptor is ours and open; a null siginfo is allowed.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal as libc::c_int,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Waits until it has ended; false if it has not after `patience`.
    pub fn wait(&self, patience: Duration) -> bool {
        let mut entry = libc::pollfd {
            fd: self.0.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let milliseconds = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one entry, as is told; the descriptor is ours and open.
        let ready = unsafe { libc::poll(&raw mut entry, 1, milliseconds) };
        ready > 0
    }

    /// Its descriptor, to wait on.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }
}

/// A kind of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Network.
    Net,
    /// Host name.
    Uts,
}

/// The namespace that the main thread of a process is in; `None` if it has ended.
pub fn namespace_of(pid: u32, space: Space) -> Option<Identity> {
    let space = match space {
        Space::Net => "net",
        Space::Uts => "uts",
    };
    identity(Path::new(&format!("/proc/{pid}/ns/{space}"))).ok()
}

/// Every process whose main thread is in this namespace, but not this process.
pub fn in_namespace(space: Space, namespace: Identity) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != std::process::id())
        .filter(|pid| namespace_of(*pid, space) == Some(namespace))
        .collect()
}

/// The number here of the process that is `pid` to process `observer`, which may count them in a
/// namespace of its own, below ours. `None`: there is no such process, or it cannot be seen.
pub fn seen_from(observer: u32, pid: u32) -> Option<u32> {
    // One number in each namespace, from ours inwards.
    let depth = numbers_of(observer)?.len().checked_sub(1)?;
    if depth == 0 {
        return Some(pid);
    }
    // Others may have the number in a namespace beside that one, but not the same network.
    let theirs = format!("/proc/{observer}/root/proc/{pid}/ns/net");
    let network = identity(Path::new(&theirs)).ok()?;
    let found = in_namespace(Space::Net, network);
    let is_it = |here: &u32| numbers_of(*here).is_some_and(|all| all.get(depth) == Some(&pid));
    found.into_iter().find(is_it)
}

/// The numbers that a process has in our namespace of processes and in those below it.
fn numbers_of(pid: u32) -> Option<Vec<u32>> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    let numbers = line.split_ascii_whitespace().map(str::parse);
    numbers.collect::<Result<_, _>>().ok()
}

/// Kills every process that `find` names, and waits until it names none; false if it does
/// after `patience` (a process in an uninterruptible wait of the kernel).
pub fn kill_all(find: impl Fn() -> Vec<u32>, patience: Duration) -> bool {
    let end = Instant::now() + patience;
    loop {
        // Again and again: a process may have forked while we looked.
        let found = find();
        if found.is_empty() {
            return true;
        }
        for pid in found.iter().filter_map(|pid| i32::try_from(*pid).ok()) {
            // A process that ended meanwhile is what we want.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if Instant::now() > end {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn processes_are_seen_as_others_count_them() {
        let own = std::process::id();
        assert_eq!(seen_from(own, own), Some(own));
        assert_eq!(seen_from(u32::MAX, own), None);
        assert_eq!(numbers_of(own).as_deref(), Some(&[own][..]));
    }

    #[test]
    fn stat_lines() {
        let line = "42 (a) b)) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 777 1 1";
        assert_eq!(parse_stat(line), Some(('S', 777)));
        assert_eq!(parse_stat("42 (x) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn a_process_lives_and_dies() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        assert!(id.is_alive());
        let other = ProcessId {
            start_time: id.start_time + 1,
            ..id.clone()
        };
        assert!(!other.is_alive(), "a reused number is another process");
        let pidfd = id.open().unwrap().unwrap();
        pidfd.signal(Signal::SIGKILL).unwrap();
        let end = Instant::now() + Duration::from_secs(5);
        while !id.is_zombie() && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
        assert!(id.is_zombie() && !id.is_alive());
        child.wait().unwrap();
        assert!(ProcessId::of(id.pid).is_none_or(|now| now != id));
        assert!(id.open().unwrap().is_none());
    }
}
