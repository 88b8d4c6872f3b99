//! Where a run keeps what it makes: one folder under `/run/netpath-bench`, named after the
//! process and locked by it, and folders of pins named alike. Whatever a killed run left is
//! found by these names and taken away by the next one.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use log::{debug, warn};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::namespace::Namespace;
use crate::datapath::Datapath;
use crate::netlink::netns;

/// Folder of the runs' folders.
const ROOT: &str = "/run/netpath-bench";
/// Where the pins are; each agent has a folder there whose name begins with [`PINS`].
const BPFFS: &str = "/sys/fs/bpf";
const PINS: &str = "netpath-bench-";
/// Lock file of a run's folder.
const LOCK: &str = "lock";
/// Settings of the machine to be put back: a path and its old value a line.
const RESTORE: &str = "restore";
/// All processes of a run have this variable, with the run's folder.
pub const MARK: &str = "NETPATH_BENCH";

/// A run's folder. Dropping it removes everything that belongs to the run.
#[derive(Debug)]
pub struct Site {
    dir: PathBuf,
    _lock: Flock<File>,
}

impl Site {
    /// Removes what killed runs left, and makes a folder for this one.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open() -> Result<Self> {
        remove_leftovers();
        let dir = Path::new(ROOT).join(std::process::id().to_string());
        let folder = dir.join("netns");
        // Another run that begins right now may take the folder for one that was left.
        for _ in 0..50 {
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
            if let Ok(lock) = lock(&dir)
                && is_same(&lock, &dir.join(LOCK))
            {
                return Ok(Self { dir, _lock: lock });
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("cannot lock {}", dir.display())
    }

    /// Makes a network namespace of this run, with its loopback device up.
    ///
    /// # Errors
    /// The kernel's.
    pub fn namespace(&self, name: &str) -> Result<Namespace> {
        let path = self.dir.join("netns").join(name);
        netns::create(&path)?;
        let namespace = Namespace::open(&path, &self.dir)?;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// A folder for a part of the run; it is made.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// The run's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A name for a folder of pins; nothing is there yet.
    pub fn pins(&self, name: &str) -> PathBuf {
        Path::new(BPFFS).join(format!("{}{name}", prefix(&self.dir)))
    }

    /// Sets a setting of the machine until the run ends. False if this machine has no such
    /// setting.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn set(&self, path: &str, value: &str) -> Result<bool> {
        let Ok(old) = fs::read_to_string(path) else {
            return Ok(false);
        };
        let file = self.dir.join(RESTORE);
        let mut notes = fs::read_to_string(&file).unwrap_or_default();
        // The first value is the machine's own.
        if !notes
            .lines()
            .any(|line| line.starts_with(&format!("{path}\t")))
        {
            notes.push_str(&format!("{path}\t{}\n", old.trim()));
            fs::write(&file, notes).with_context(|| format!("cannot write {}", file.display()))?;
        }
        fs::write(path, value).with_context(|| format!("cannot write {path}"))?;
        Ok(true)
    }

    /// Puts the machine's settings back.
    ///
    /// # Errors
    /// One cannot be written.
    pub fn restore(&self) -> Result<()> {
        restore(&self.dir)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.dir) {
            warn!("{error:#}; the next run of the benchmark tries again");
        }
    }
}

fn lock(dir: &Path) -> Result<Flock<File>> {
    let file = File::create(dir.join(LOCK))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error.into())
}

/// Whether a path still names the file that was locked.
fn is_same(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(one), Ok(two)) => (one.dev(), one.ino()) == (two.dev(), two.ino()),
        _ => false,
    }
}

fn prefix(dir: &Path) -> String {
    let run = dir.file_name().unwrap_or_default().to_string_lossy();
    format!("{PINS}{run}-")
}

/// Removes all that killed runs left. A run that goes on holds its lock.
fn remove_leftovers() {
    for dir in children(Path::new(ROOT)) {
        let Ok(lock) = lock(&dir) else { continue };
        debug!("a killed run left {}", dir.display());
        if let Err(error) = remove(&dir) {
            warn!("cannot take away what a killed run left: {error:#}");
        }
        drop(lock);
    }
    // The folder is made before the first pin and goes after the last.
    for pins in children(Path::new(BPFFS)) {
        let name = pins.file_name().unwrap_or_default().to_string_lossy();
        let run = name
            .strip_prefix(PINS)
            .and_then(|rest| rest.split('-').next());
        if run.is_some_and(|run| !Path::new(ROOT).join(run).exists())
            && let Err(error) = Datapath::purge(&pins)
        {
            warn!("cannot take away what a killed run left: {error:#}");
        }
    }
}

/// Removes a run: processes, settings, pins, mounts, files.
fn remove(dir: &Path) -> Result<()> {
    let mark = format!("{MARK}={}", dir.display());
    end_processes(mark.as_bytes());
    restore(dir)?;
    let pins = prefix(dir);
    for folder in children(Path::new(BPFFS)) {
        if folder
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(&pins))
        {
            Datapath::purge(&folder)?;
        }
    }
    unmount_below(dir)?;
    remove_control_groups(dir)?;
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {}", dir.display()));
        }
        _ => {}
    }
    // Another run may use it.
    let _ = fs::remove_dir(ROOT);
    Ok(())
}

/// Kills every process with this variable in its environment.
fn end_processes(mark: &[u8]) {
    for process in children(Path::new("/proc")) {
        let pid = process
            .file_name()
            .and_then(|name| name.to_str()?.parse::<i32>().ok());
        let Some(pid) = pid.filter(|pid| pid.unsigned_abs() != std::process::id()) else {
            continue;
        };
        let marked = fs::read(process.join("environ"))
            .is_ok_and(|env| env.split(|byte| *byte == 0).any(|entry| entry == mark));
        if marked {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn restore(dir: &Path) -> Result<()> {
    let file = dir.join(RESTORE);
    let Ok(notes) = fs::read_to_string(&file) else {
        return Ok(());
    };
    for (path, value) in notes.lines().filter_map(|line| line.split_once('\t')) {
        fs::write(path, value).with_context(|| format!("cannot set {path} back to {value}"))?;
    }
    fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))
}

/// Unmounts all that is mounted below a folder. Nothing may be left there when files are
/// removed: a mount may show files that are somebody else's.
fn unmount_below(dir: &Path) -> Result<()> {
    let mounts = || -> Result<Vec<PathBuf>> {
        let table = fs::read_to_string("/proc/self/mountinfo").context("cannot list mounts")?;
        // The fifth field is where it is mounted (proc_pid_mountinfo(5)).
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        let below = points
            .map(PathBuf::from)
            .filter(|path| path.starts_with(dir));
        Ok(below.collect())
    };
    // Those that were mounted last may lie on others.
    for point in mounts()?.iter().rev() {
        umount2(point, MntFlags::MNT_DETACH)
            .with_context(|| format!("cannot unmount {}", point.display()))?;
    }
    let left = mounts()?;
    ensure!(left.is_empty(), "cannot unmount {left:?}");
    Ok(())
}

/// Name of the control groups that a run makes, in every hierarchy.
pub fn control_group(dir: &Path) -> String {
    let run = dir.file_name().unwrap_or_default().to_string_lossy();
    format!("{PINS}{run}")
}

/// Removes a run's control groups, which have no processes any more.
fn remove_control_groups(dir: &Path) -> Result<()> {
    let name = control_group(dir);
    let root = Path::new("/sys/fs/cgroup");
    for hierarchy in children(root).into_iter().chain([root.to_owned()]) {
        let group = hierarchy.join(&name);
        if group.is_dir() {
            remove_control_group(&group)?;
        }
    }
    Ok(())
}

fn remove_control_group(group: &Path) -> Result<()> {
    for child in children(group).iter().filter(|child| child.is_dir()) {
        remove_control_group(child)?;
    }
    // A process that was killed a moment ago is still in it.
    for _ in 0..100 {
        match fs::remove_dir(group) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                thread::sleep(Duration::from_millis(20));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => {
                return other.with_context(|| format!("cannot remove {}", group.display()));
            }
        }
    }
    bail!("cannot remove {}: it has processes", group.display())
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
