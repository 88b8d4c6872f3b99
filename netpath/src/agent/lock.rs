//! What an agent needs to itself, and of the host.

use std::fs::{self, File};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::settings::Settings;
use crate::doctor;
use crate::problem::conflict;

/// Name of the lock file in both folders.
const LOCK: &str = "agent.lock";

/// Held as long as an agent (or `purge`) works with its folders.
#[derive(Debug)]
pub struct Locks {
    _files: [Flock<File>; 2],
    _namespace: UnixDatagram,
}

impl Locks {
    /// Makes the folders and locks them, and the network namespace.
    ///
    /// # Errors
    /// Another agent works with one of them, or a folder cannot be written.
    pub fn take(settings: &Settings) -> Result<Self> {
        let run_dir = &settings.run_dir;
        for folder in [
            run_dir.clone(),
            run_dir.join("netns"),
            run_dir.join("containers"),
        ] {
            make_folder(&folder, 0o755)?;
        }
        // The store is nobody's business.
        make_folder(&settings.state_dir, 0o700)?;
        let files = [lock(run_dir)?, lock(&settings.state_dir)?];
        Ok(Self {
            _files: files,
            _namespace: lock_namespace()?,
        })
    }

    /// The lock files of two folders, for whoever removes the folders.
    pub fn paths(run_dir: &Path, state_dir: &Path) -> [PathBuf; 2] {
        [run_dir.join(LOCK), state_dir.join(LOCK)]
    }
}

/// Locks what there is of two folders, without making them.
///
/// # Errors
/// An agent works with one of them.
pub(super) fn lock_folders(run_dir: &Path, state_dir: &Path) -> Result<Vec<Flock<File>>> {
    [run_dir, state_dir]
        .into_iter()
        .filter(|folder| folder.is_dir())
        .map(lock)
        .collect()
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
