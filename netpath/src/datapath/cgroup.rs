//! Programs and the host's sockets: links to a control group, the root of the version 2
//! hierarchy as a rule, pinned like those of devices. Each hook may have programs of others
//! as well.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use aya::programs::CgroupAttachMode;
use aya::programs::links::FdLink;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use super::load::Programs;
use super::{attach, link};
use crate::problem::invalid;

/// Names of the pins; the programs' are these after `np_`.
const HOOKS: [&str; 8] = [
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
];

/// Whether a pin among the links is one of ours.
pub fn owns(pin: &str) -> bool {
    HOOKS.contains(&pin)
}

/// Whether a hook (of those above) is attached.
pub fn is_attached(bpffs: &Path, hook: &str) -> bool {
    attach::folder(bpffs).join(hook).exists()
}

/// Attaches all hooks to a control group, or puts them in the place of older ones.
///
/// # Errors
/// If the folder is no control group, or the kernel refuses a program.
pub fn attach(programs: &mut Programs, bpffs: &Path, cgroup: &Path) -> Result<()> {
    check(cgroup)?;
    let group = File::open(cgroup).with_context(|| format!("cannot open {}", cgroup.display()))?;
    let id = group
        .metadata()
        .with_context(|| format!("cannot look at {}", cgroup.display()))?
        .ino();
    for hook in HOOKS {
        let name = format!("np_{hook}");
        let program = programs.sock_addr(&name)?;
        if program.fd().is_err() {
            program
                .load()
                .with_context(|| format!("the kernel refused the program {name}"))?;
        }
        let pin = attach::folder(bpffs).join(hook);
        if let Ok(found) = link::open(&pin) {
            // It may be in another control group, or in one that was removed.
            if cgroup_of(&found).is_ok_and(|found| found == id) {
                link::update(&found, program.fd()?.as_fd())
                    .with_context(|| format!("cannot update {}", pin.display()))?;
                continue;
            }
            link::remove(&pin)?;
        }
        // "Single" stands for no flags, and the kernel takes none here: a link always lets
        // other programs be attached beside it (BPF_F_ALLOW_MULTI).
        let id = program
            .attach(&group, CgroupAttachMode::Single)
            .with_context(|| format!("cannot attach {name} to {}", cgroup.display()))?;
        let link: FdLink = program
            .take_link(id)?
            .try_into()
            .context("the kernel made no link")?;
        link.pin(&pin)
            .with_context(|| format!("cannot pin {}", pin.display()))?;
    }
    Ok(())
}

/// Says so if a folder is no control group of version 2.
///
/// # Errors
/// A sentence.
pub fn check(cgroup: &Path) -> Result<()> {
    let kind = statfs(cgroup).map_err(|error| {
        invalid(format!(
            "cannot look at the control group {}: {}",
            cgroup.display(),
            error.desc()
        ))
    })?;
    if kind.filesystem_type() == CGROUP2_SUPER_MAGIC {
        return Ok(());
    }
    Err(invalid(format!(
        "{} is not on a cgroup2 filesystem",
        cgroup.display()
    )))
}

/// Where this host has its control groups of version 2, if it has.
pub fn find() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mount_points(&mounts).find(|path| check(path).is_ok())
}

/// Where whole cgroup2 hierarchies are mounted: fields 4 and 5 of mountinfo are root and place.
fn mount_points(mounts: &str) -> impl Iterator<Item = PathBuf> {
    mounts.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        (after.starts_with("cgroup2 ") && fields.next()? == "/")
            .then(|| fields.next().map(PathBuf::from))?
    })
}

/// The cookie of the caller's network namespace, which its sockets have as well.
///
/// # Errors
/// If the kernel is too old to tell.
pub fn netns_cookie() -> Result<u64> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .context("cannot make a socket")?;
    netns_cookie_of(&socket)
}

/// The cookie of a socket's network namespace.
///
/// # Errors
/// If the kernel is too old to tell.
pub fn netns_cookie_of(socket: &impl AsRawFd) -> Result<u64> {
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the value has the size that is told.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error()).context("cannot ask for the namespace's cookie");
    }
    ensure!(cookie != 0, "the network namespace has no cookie");
    Ok(cookie)
}

/// Whether all processes that this host sees are in the control group or below it: there is
/// nothing above it.
pub fn is_everybodys(cgroup: &Path) -> bool {
    let above = cgroup.canonicalize().ok();
    above
        .as_deref()
        .and_then(Path::parent)
        .is_none_or(|parent| check(parent).is_err())
}

/// The number of the control group that a link is attached to; 0 if that is gone.
fn cgroup_of(link: &OwnedFd) -> Result<u64> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", link.as_raw_fd()))?;
    parse_cgroup_id(&info).context("not a link to a control group")
}

fn parse_cgroup_id(info: &str) -> Option<u64> {
    info.lines()
        .find_map(|line| line.strip_prefix("cgroup_id:"))?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_mounts_are_found() {
        let mounts = "\
31 23 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
33 31 0:40 /kubepods /mnt rw - cgroup2 cgroup2 rw
34 31 0:40 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw
odd line
";
        let found: Vec<_> = mount_points(mounts).collect();
        assert_eq!(found, [Path::new("/sys/fs/cgroup/unified")]);
    }

    #[test]
    fn other_folders_are_refused() {
        for folder in ["/", "/proc", "/no/such/folder"] {
            let error = check(Path::new(folder)).unwrap_err().to_string();
            assert!(error.contains(folder), "{error}");
        }
    }

    #[test]
    fn the_cgroup_of_a_link_is_read() {
        let info = "pos:\t0\nlink_type:\tcgroup\ncgroup_id:\t17\nattach_type:\t10\n";
        assert_eq!(parse_cgroup_id(info), Some(17));
        assert_eq!(parse_cgroup_id("link_type:\ttcx\n"), None);
    }
}
