//! Facts about the machine: who runs this, where the work tree is, what is mounted.

use std::env;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;

use crate::toolchain::in_path;

/// Where the bpf filesystem belongs.
pub const BPFFS: &str = "/sys/fs/bpf";
/// Debian keeps some of the tools out of a plain user's `PATH`.
const SYSTEM_DIRECTORIES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// The root of the work tree this binary was built from.
pub fn workspace() -> Result<PathBuf> {
    // Cargo sets the variable for `cargo xtask`; the constant serves a binary started by itself.
    let manifest = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let root = manifest
        .parent()
        .context("the xtask crate has no parent directory")?;
    if !root.join("netpath-ebpf").is_dir() {
        bail!("{} is not the work tree of netpath", root.display());
    }
    Ok(root.to_path_buf())
}

/// Whether this process may do everything.
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// Finds a program, also where only root's `PATH` leads.
pub fn program(name: &str) -> Option<PathBuf> {
    in_path(name).or_else(|| {
        SYSTEM_DIRECTORIES
            .iter()
            .map(|directory| Path::new(directory).join(name))
            .find(|p| p.is_file())
    })
}

/// Makes sure that [`privileged`] commands will not stop for a password half-way.
pub fn ensure_privileges(what_for: &str) -> Result<()> {
    if is_root() {
        return Ok(());
    }
    if program("sudo").is_none() {
        bail!("{what_for} needs root: run this as root, or install sudo");
    }
    let quiet = |arguments: &[&str]| {
        Command::new("sudo")
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    if quiet(&["-n", "true"]) {
        return Ok(());
    }
    println!("{what_for} needs root, sudo may ask for your password");
    let status = Command::new("sudo")
        .arg("-v")
        .status()
        .context("cannot start sudo")?;
    if !status.success() {
        bail!("{what_for} needs root, and sudo refused: run this as root");
    }
    Ok(())
}

/// A command that runs as root: by itself, or through sudo (see [`ensure_privileges`]).
pub fn privileged(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["-n", program]);
    command
}

/// Replaces this process by the same program as root, with other arguments.
pub fn become_root(arguments: &[String], what_for: &str) -> Result<()> {
    ensure_privileges(what_for)?;
    let this = env::current_exe().context("cannot tell where this program is")?;
    let error = Command::new("sudo")
        .arg("-E")
        .arg(this)
        .args(arguments)
        .exec();
    Err(error).context("cannot start sudo")
}

/// Whether a filesystem of this type is mounted at a path.
pub fn is_mounted(path: &str, kind: &str) -> bool {
    fs::read_to_string("/proc/mounts").is_ok_and(|mounts| mount_in(&mounts, path, kind))
}

fn mount_in(mounts: &str, path: &str, kind: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(path) && fields.next() == Some(kind)
    })
}

/// Major and minor version of the running kernel.
pub fn kernel() -> Option<(u32, u32)> {
    parse_kernel(&fs::read_to_string("/proc/sys/kernel/osrelease").ok()?)
}

fn parse_kernel(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_mount() {
        let mounts = "sysfs /sys sysfs rw 0 0\nbpf /sys/fs/bpf bpf rw,mode=700 0 0\n";
        assert!(mount_in(mounts, "/sys/fs/bpf", "bpf"));
        assert!(!mount_in(mounts, "/sys/fs", "bpf"));
        assert!(!mount_in(mounts, "/sys", "bpf"));
    }

    #[test]
    fn reads_kernel_releases() {
        assert_eq!(parse_kernel("6.18.44-fc-v595\n"), Some((6, 18)));
        assert_eq!(parse_kernel("6.6-rc1"), Some((6, 6)));
        assert_eq!(parse_kernel("unknown"), None);
    }
}
