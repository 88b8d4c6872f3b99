//! Network namespaces: making, naming, visiting, comparing.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

/// What tells a namespace from others: device and inode number of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
}

/// The identity of the namespace that a file names.
///
/// # Errors
/// The file cannot be looked at.
pub fn identity(path: &Path) -> io::Result<Identity> {
    let meta = fs::metadata(path)?;
    Ok(Identity {
        dev: meta.dev(),
        ino: meta.ino(),
    })
}

/// Asks a namespace's file of which kind it is (ioctl_nsfs(2)).
const NS_GET_NSTYPE: libc::c_ulong = 0xb703;

/// Opens a file that names a network namespace; `None` if it is some other file.
///
/// # Errors
/// It cannot be opened.
pub fn open(path: &Path) -> io::Result<Option<File>> {
    let file = File::open(path)?;
    let kind = fstatfs(&file).map_err(io::Error::from)?;
    if kind.filesystem_type() != NSFS_MAGIC {
        return Ok(None);
    }
    // SAFETY: the descriptor is open, and this request has no argument.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE as _) };
    Ok((kind == libc::CLONE_NEWNET).then_some(file))
}

/// Runs `action` on a thread inside the network namespace `netns`.
///
/// The thread ends afterwards: nobody has to bring it back, and it cannot be forgotten there.
///
/// # Errors
/// The namespace cannot be entered, or `action`'s own.
pub fn inside<T: Send>(
    netns: BorrowedFd<'_>,
    action: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    on_thread(|| {
        setns(netns, CloneFlags::CLONE_NEWNET).context("cannot enter the network namespace")?;
        action()
    })
}

/// Makes a network namespace and mounts it on `path`, so that it lives without processes.
///
/// # Errors
/// No privileges, or `path` exists.
pub fn create(path: &Path) -> Result<()> {
    let made = on_thread(|| {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
        mount(
            Some("/proc/thread-self/ns/net"),
            path,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .with_context(|| format!("cannot mount a network namespace on {}", path.display()))
    });
    if made.is_err() {
        // Best effort: what failed above is the error to tell.
        let _ = remove(path);
    }
    made
}

/// Makes a network namespace without a name. It lives as long as the file is open.
///
/// # Errors
/// No privileges.
pub fn anonymous() -> Result<File> {
    on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
        File::open("/proc/thread-self/ns/net").context("cannot open a network namespace")
    })
}

/// Mounts a network namespace on `path`, so that it lives without processes.
///
/// # Errors
/// `path` exists, or the kernel refuses.
pub fn name(netns: &File, path: &Path) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .with_context(|| format!("cannot make {}", path.display()))?;
    let source = format!("/proc/self/fd/{}", netns.as_raw_fd());
    mount(
        Some(source.as_str()),
        path,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .with_context(|| format!("cannot mount a network namespace on {}", path.display()))
}

/// Unmounts and removes what [`create`] made, if there. The kernel ends the namespace
/// when its last process is gone.
///
/// # Errors
/// The mount or the file cannot be removed.
pub fn remove(path: &Path) -> Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        // EINVAL: not a mount point.
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot unmount {}", path.display()));
        }
    }
    // Other mount namespaces may have a copy of the mount; removing the file detaches these.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Whether `netns` is the namespace of this process.
///
/// # Errors
/// One of the two cannot be looked at.
pub fn is_own(netns: &File) -> io::Result<bool> {
    let meta = netns.metadata()?;
    let own = identity(Path::new("/proc/self/ns/net"))?;
    Ok(own
        == Identity {
            dev: meta.dev(),
            ino: meta.ino(),
        })
}

/// The number of a namespace, as the programs have it: its inode's, which have 32 bits.
///
/// # Errors
/// It cannot be looked at.
pub fn number(netns: &File) -> io::Result<u32> {
    let number = netns.metadata()?.ino();
    u32::try_from(number).map_err(io::Error::other)
}

/// Borrows an open namespace for [`inside`].
pub fn borrow(netns: &File) -> BorrowedFd<'_> {
    netns.as_fd()
}

fn on_thread<T: Send>(action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, action)
            .context("cannot start a thread")?;
        thread
            .join()
            .map_err(|_| anyhow!("a thread in a network namespace failed"))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_network_namespaces_are_opened() {
        let opened = |path: &str| open(Path::new(path)).unwrap().is_some();
        assert!(opened("/proc/self/ns/net"));
        assert!(!opened("/proc/self/ns/mnt"));
        assert!(!opened("/proc/self/stat"));
    }
}
