//! The single checks.

use std::fs;
use std::path::Path;

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::Check;
use crate::container::lookup;
use crate::datapath::{OBJECT, cgroup};
use crate::netlink::sysctl;

/// The first kernel with tcx.
const OLDEST_KERNEL: (u32, u32) = (6, 6);
/// The kernel's own type information.
const BTF: &str = "/sys/kernel/btf/vmlinux";
/// Where bpffs usually is.
const BPFFS: &str = "/sys/fs/bpf";

/// Numbers of capabilities, from linux/capability.h.
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_PTRACE: u32 = 19;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

/// The first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

pub(super) fn kernel() -> Check {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    match version(release) {
        Some(found) if found >= OLDEST_KERNEL => Check::ok("kernel", release),
        _ => Check::missing(
            "kernel",
            format!("this kernel is Linux {release}, netpath needs 6.6 or newer (for tcx)"),
            "install a newer kernel",
        ),
    }
}

pub(super) fn btf() -> Check {
    if Path::new(BTF).exists() {
        return Check::ok("BTF", BTF);
    }
    Check::missing(
        "BTF",
        format!("this kernel does not describe its types in {BTF}"),
        "use a kernel that was built with CONFIG_DEBUG_INFO_BTF",
    )
}

pub(super) fn tcx() -> Check {
    // A function that every kernel with tcx has, and its BTF names.
    let symbol = b"tcx_prog_attach";
    let known =
        fs::read(BTF).is_ok_and(|bytes| bytes.windows(symbol.len()).any(|window| window == symbol));
    if known {
        return Check::ok("tcx", "programs can be attached to devices");
    }
    Check::missing(
        "tcx",
        "this kernel has no tcx, which programs are attached by",
        "use a kernel that was built with CONFIG_NET_XGRESS and CONFIG_BPF_SYSCALL",
    )
}

pub(super) fn bpffs() -> Check {
    match statfs(BPFFS) {
        Ok(found) if found.filesystem_type() == BPF_FS_MAGIC => Check::ok("bpffs", BPFFS),
        _ => Check::missing(
            "bpffs",
            format!("there is no bpf filesystem at {BPFFS}"),
            format!("mount it: mount -t bpf bpf {BPFFS}"),
        ),
    }
}

/// The effective capabilities of this process, one bit each.
fn capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

/// Whether this process may enter and make namespaces.
pub fn has_capability() -> bool {
    capabilities() & (1 << CAP_SYS_ADMIN) != 0
}

pub(super) fn privileges() -> Check {
    let held = capabilities();
    let lacking: Vec<&str> = [
        (CAP_NET_ADMIN, "CAP_NET_ADMIN"),
        (CAP_SYS_ADMIN, "CAP_SYS_ADMIN"),
        (CAP_BPF, "CAP_BPF"),
        // Without it the processes of a container cannot be found, and live on.
        (CAP_SYS_PTRACE, "CAP_SYS_PTRACE"),
    ]
    .into_iter()
    .filter(|(number, _)| held & (1 << number) == 0)
    .map(|(_, name)| name)
    .collect();
    if lacking.is_empty() {
        return Check::ok(
            "privileges",
            "CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_BPF, CAP_SYS_PTRACE",
        );
    }
    Check::missing(
        "privileges",
        format!("this process lacks {}", lacking.join(", ")),
        "run it as root",
    )
}

pub(super) fn jit() -> Check {
    match sysctl::get("core/bpf_jit_enable").as_deref() {
        // Kernels that know nothing but the JIT have no such setting, or it is fixed.
        None | Some("1" | "2") => Check::ok("JIT", "on"),
        Some(_) => Check::remark(
            "JIT",
            "off: programs are interpreted, which is several times slower",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
    }
}

pub(super) fn cgroup2() -> Check {
    match cgroup::find() {
        Some(path) => Check::ok("cgroup2", path.display().to_string()),
        None => Check::remark(
            "cgroup2",
            "not mounted; processes of the host itself do not reach published ports",
            "mount -t cgroup2 cgroup2 /sys/fs/cgroup",
        ),
    }
}

pub(super) fn rp_filter() -> Check {
    match sysctl::get("ipv4/conf/all/rp_filter").as_deref() {
        Some("1") => Check::remark(
            "rp_filter",
            "strict for all devices: on a host with several uplinks, packets that come in by \
             one and would go out by another never reach a socket of the host",
            "with several uplinks: sysctl -w net.ipv4.conf.all.rp_filter=2",
        ),
        Some(value) => Check::ok("rp_filter", if value == "0" { "off" } else { "loose" }),
        None => Check::ok("rp_filter", "this kernel has none"),
    }
}

pub(super) fn bpftool() -> Check {
    match lookup::find("bpftool", std::env::var_os("PATH").as_deref()) {
        Ok(path) => Check::ok("bpftool", path.display().to_string()),
        Err(_) => Check::remark(
            "bpftool",
            "not found; netpath does not need it, people who look at its maps do",
            "install the package bpftool",
        ),
    }
}

/// One process a published port and family, of which none is needed.
pub(super) fn docker_proxy() -> Check {
    let is_proxy = |entry: &fs::DirEntry| {
        fs::read_to_string(entry.path().join("comm"))
            .is_ok_and(|name| name.trim() == "docker-proxy")
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    match processes.filter(is_proxy).count() {
        0 => Check::ok("docker-proxy", "none runs"),
        count => Check::remark(
            "docker-proxy",
            format!(
                "{count} processes, which are not needed where netpath has adopted Docker's \
                 networks: published ports are reached without them, by 127.0.0.1 as well"
            ),
            "write \"userland-proxy\": false into /etc/docker/daemon.json and restart Docker",
        ),
    }
}

pub(super) fn object() -> Check {
    Check::ok(
        "programs",
        format!(
            "{} bytes, made with {}",
            OBJECT.len(),
            env!("NETPATH_EBPF_TOOLCHAIN")
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases() {
        assert_eq!(version("6.18.44-fc"), Some((6, 18)));
        assert_eq!(version("6.6"), Some((6, 6)));
        assert_eq!(version("5.10.0-21-amd64"), Some((5, 10)));
        assert_eq!(version(""), None);
        assert!(version("5.15.0").unwrap() < OLDEST_KERNEL);
    }
}
