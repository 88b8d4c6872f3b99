//! What an agent needs to itself, and of the host.

use std::fs::{self, File};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::settings::Settings;
use super::share::UTS;
use crate::doctor;
use crate::netlink::sysctl;
use crate::problem::{conflict, invalid};

/// Name of the lock file in both folders.
const LOCK: &str = "agent.lock";

/// Held as long as an agent (or `purge`) works with its folders.
#[derive(Debug)]
pub struct Locks {
    _files: [Flock<File>; 2],
    bpffs: Option<Flock<File>>,
    _namespace: UnixDatagram,
}

impl Locks {
    /// Makes the folders and locks them, and the network namespace.
    ///
    /// # Errors
    /// Another agent works with one of them, or a folder cannot be written.
    pub fn take(settings: &Settings) -> Result<Self> {
        let run_dir = &settings.run_dir;
        check_is_ours(run_dir)?;
        for folder in [
            run_dir.clone(),
            run_dir.join("netns"),
            run_dir.join("containers"),
            run_dir.join(UTS),
        ] {
            make_folder(&folder, 0o755)?;
        }
        // The store is nobody's business.
        make_folder(&settings.state_dir, 0o700)?;
        let files = [lock(run_dir)?, lock(&settings.state_dir)?];
        let mut locks = Self {
            _files: files,
            bpffs: None,
            _namespace: lock_namespace()?,
        };
        if settings.bpffs.is_dir() {
            locks.take_bpffs(&settings.bpffs)?;
        }
        Ok(locks)
    }

    /// Locks the folder of the pins, which must be there by now.
    ///
    /// # Errors
    /// Another agent, perhaps in another network namespace, works with it.
    pub fn take_bpffs(&mut self, bpffs: &Path) -> Result<()> {
        if self.bpffs.is_none() {
            self.bpffs = Some(lock_bpffs(bpffs)?);
        }
        Ok(())
    }

    /// The lock files of two folders, for whoever removes the folders.
    pub fn paths(run_dir: &Path, state_dir: &Path) -> [PathBuf; 2] {
        [run_dir.join(LOCK), state_dir.join(LOCK)]
    }
}

/// Locks what there is of an agent's folders, without making them.
///
/// # Errors
/// An agent works with one of them.
pub(super) fn lock_folders(settings: &Settings) -> Result<Vec<Flock<File>>> {
    check_is_ours(&settings.run_dir)?;
    let mut locks = [&settings.run_dir, &settings.state_dir]
        .into_iter()
        .filter(|folder| folder.is_dir())
        .map(|folder| lock(folder))
        .collect::<Result<Vec<_>>>()?;
    if settings.bpffs.is_dir() {
        check_bpffs(&settings.bpffs)?;
        locks.push(lock_bpffs(&settings.bpffs)?);
    }
    Ok(locks)
}

/// In a run folder everything below `netns` and `containers` is the agent's to remove, so it
/// must not be somebody else's: `/run` has folders of these names, too.
fn check_is_ours(run_dir: &Path) -> Result<()> {
    let is_used = |name: &str| {
        fs::read_dir(run_dir.join(name)).is_ok_and(|mut entries| entries.next().is_some())
    };
    if !run_dir.join(LOCK).exists() && (is_used("netns") || is_used("containers")) {
        return Err(conflict(format!(
            "the folder {} is used by something else than netpath, choose one of its own with \
             --run-dir",
            run_dir.display()
        )));
    }
    Ok(())
}

/// Checks that the folder of the pins can be: on a bpffs, but not all of it, because every pin
/// in it is the agent's to remove.
///
/// # Errors
/// It cannot.
pub(super) fn check_bpffs(bpffs: &Path) -> Result<()> {
    let existing = bpffs.ancestors().find(|folder| folder.exists());
    let existing = existing.filter(|folder| {
        statfs(*folder).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
    });
    let Some(existing) = existing else {
        return Err(invalid(format!(
            "{} is not on a bpffs, mount one with \"mount -t bpf bpf /sys/fs/bpf\" or choose \
             another folder with --bpffs",
            bpffs.display()
        )));
    };
    // What is not there yet is to be made.
    let missing = bpffs.strip_prefix(existing).unwrap_or(bpffs);
    let missing = missing.to_string_lossy();
    if missing.contains('.') {
        return Err(invalid(format!(
            "{} has a dot in its name, which the kernel reserves on a bpffs; choose a folder like \
             {} with --bpffs",
            bpffs.display(),
            existing.join(missing.replace('.', "-")).display()
        )));
    }
    // A bind mount of a folder of it is fine: its root (fourth word) is not all.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let is_root = mounts.lines().any(|line| {
        let mut words = line.split(' ').skip(3);
        words.next() == Some("/") && words.next().map(Path::new) == Some(bpffs)
    });
    if is_root {
        return Err(invalid(format!(
            "{0} is the whole bpffs, choose a folder in it like {0}/netpath with --bpffs",
            bpffs.display()
        )));
    }
    Ok(())
}

/// Pins cannot have a lock file among them; the folder itself is locked.
fn lock_bpffs(bpffs: &Path) -> Result<Flock<File>> {
    let failed = || format!("cannot lock {}", bpffs.display());
    let folder = File::open(bpffs).with_context(failed)?;
    match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::Error::EWOULDBLOCK)) => Err(conflict(format!(
            "another agent has its programs and maps in {}; stop it first, or choose another \
             folder with --bpffs",
            bpffs.display()
        ))),
        Err((_, error)) => Err(error).with_context(failed),
    }
}

/// Removes a socket that nobody listens on; true if there was one.
///
/// # Errors
/// As [`check_socket`].
pub(super) fn remove_socket(socket: &Path) -> Result<bool> {
    let is_there = check_socket(socket, "--socket")?;
    if is_there {
        fs::remove_file(socket).with_context(|| format!("cannot remove {}", socket.display()))?;
    }
    Ok(is_there)
}

/// Whether there is a socket, which must be one that nobody listens on. The locks do not
/// protect it: it may be outside of the folders. `option` chooses another.
///
/// # Errors
/// Somebody listens on it, or it is something else than a socket.
pub(super) fn check_socket(socket: &Path, option: &str) -> Result<bool> {
    let failed = || format!("cannot look at {}", socket.display());
    match fs::symlink_metadata(socket) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).with_context(failed),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(conflict(format!(
                "{} exists and is not a socket, choose another path with {option}",
                socket.display()
            )));
        }
        Ok(_) => {}
    }
    if UnixStream::connect(socket).is_ok() {
        return Err(conflict(format!(
            "somebody else listens on {}, choose another socket with {option}",
            socket.display()
        )));
    }
    Ok(true)
}

fn make_folder(folder: &Path, mode: u32) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder)
        .and_then(|()| fs::set_permissions(folder, fs::Permissions::from_mode(mode)))
        .with_context(|| format!("cannot make the folder {}", folder.display()))
}

fn lock(folder: &Path) -> Result<Flock<File>> {
    let path = folder.join(LOCK);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot write to the folder {}", folder.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::Error::EWOULDBLOCK)) => Err(conflict(format!(
            "another agent works in {}; stop it first, or choose other folders with --run-dir, \
             --state-dir and --bpffs",
            folder.display()
        ))),
        Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Two agents in one network namespace would each remove the other's devices as left
/// over. Abstract sockets belong to a network namespace and end with their process.
pub(super) fn lock_namespace() -> Result<UnixDatagram> {
    let address = SocketAddr::from_abstract_name("netpath-agent").context("abstract socket")?;
    UnixDatagram::bind_addr(&address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => conflict(
            "another agent serves this network namespace; stop it first, or start this one in \
             a namespace of its own",
        ),
        _ => anyhow::Error::new(error).context("cannot lock the network namespace"),
    })
}

/// Checks what no agent can do without: privileges, kernel, BTF.
///
/// # Errors
/// The first that is missing, with the way to get it.
pub fn check_host() -> Result<()> {
    doctor::required()
        .iter()
        .try_for_each(doctor::Check::result)
}

/// Allows as many open files as the administrator permits: each published port is one.
pub fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        log::warn!("cannot raise the limit of open files: {error}");
    }
}

/// Limits of the kernel's tables of neighbours (arp(7)) that are enough for thousands of
/// containers: those that Docker sets for its overlay networks.
const NEIGHBOURS: [(&str, u32); 2] = [("gc_thresh3", 65_536), ("gc_thresh2", 49_152)];

/// Allows as many neighbours as a host with many containers has. By default the kernel has room
/// for 1024 of each family, of all network namespaces together, and refuses packets to any more;
/// each container that talks to another is one or two.
pub fn raise_neighbour_limits() {
    for (family, (limit, wanted)) in ["ipv4", "ipv6"]
        .into_iter()
        .flat_map(|family| NEIGHBOURS.map(|limit| (family, limit)))
    {
        let path = format!("{family}/neigh/default/{limit}");
        // Only the first network namespace of a machine has them.
        let Some(now) = sysctl::get(&path).and_then(|text| text.parse::<u32>().ok()) else {
            continue;
        };
        if now < wanted
            && let Err(error) = sysctl::set(&path, &wanted.to_string())
        {
            log::warn!("cannot have the kernel remember more neighbours: {error:#}");
        }
    }
}

/// Tells systemd, if it started us, that we are ready: sd_notify(3).
pub fn notify_service_manager() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let sent = UnixDatagram::unbound().and_then(|socket| {
        let bytes = path.as_encoded_bytes();
        let address = match bytes.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&path)?,
        };
        socket.send_to_addr(b"READY=1", &address)
    });
    if let Err(error) = sent {
        log::warn!("cannot tell the service manager that the agent is ready: {error}");
    }
}
