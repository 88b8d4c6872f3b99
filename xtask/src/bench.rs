//! `cargo xtask bench`, and what a benchmark that was killed leaves.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, umount2};

use crate::build::{binary, cargo, check};
use crate::host::{BPFFS, ensure_privileges, privileged};
use crate::leftovers::{end, names_in, pins, processes, remove_directory};
use crate::run::foreground;
use crate::setup::{self, Say};
use crate::signal;

/// A full run stays far below this.
const LIMIT: Duration = Duration::from_secs(60 * 60);

/// Builds netpath with optimisations and runs `netpath bench` with these arguments.
pub fn run(workspace: &Path, arguments: &[String]) -> Result<ExitCode> {
    setup::run(workspace, Say::Summary)?;
    check(cargo(workspace).args(["build", "--release", "--package", "netpath"]))?;
    ensure_privileges("the benchmark")?;
    // Ctrl-C is for the benchmark, which takes everything away; this waits for it.
    signal::install();
    let netpath = binary(workspace, "release", "netpath");
    let mut command = privileged(&netpath.display().to_string());
    command.arg("bench").args(arguments);
    let status = foreground(&mut command, LIMIT)?;
    // Its own words have been said; it ends with 1 for figures that mean nothing.
    Ok(match status.code() {
        Some(0) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Where benchmarks keep what they make, one folder a run; see `netpath/src/bench/site.rs`.
const RUNS: &str = "/run/netpath-bench";
/// Where control groups are: one tree, or one a controller.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The folders of benchmarks that do not run any more: nobody holds their lock.
pub fn killed() -> Vec<PathBuf> {
    let runs = names_in(Path::new(RUNS), "").into_iter();
    runs.map(|name| Path::new(RUNS).join(name))
        .filter(|run| {
            File::open(run.join("lock")).map_or(true, |file| {
                Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok()
            })
        })
        .collect()
}

/// Removes what such a benchmark left: processes, pins, namespaces, files.
pub fn remove(run: &Path) -> Result<()> {
    let mark = format!("NETPATH_BENCH={}", run.display());
    end(&processes(|process| process.has_environment(&mark)));
    let name = run.file_name().unwrap_or_default().to_string_lossy();
    for pin in pins(BPFFS, &format!("netpath-bench-{name}-")) {
        remove_directory(&pin)?;
    }
    // Settings of the machine that it changed, with their old values.
    let notes = fs::read_to_string(run.join("restore")).unwrap_or_default();
    for (path, value) in notes.lines().filter_map(|line| line.split_once('\t')) {
        fs::write(path, value).with_context(|| format!("cannot set {path} back to {value}"))?;
    }
    // Namespaces are mounted there, and nothing else in this mount namespace.
    let spaces = ["netns", "latency/spaces"].map(|folder| run.join(folder));
    for space in spaces.iter().flat_map(|folder| {
        names_in(folder, "")
            .into_iter()
            .map(move |name| folder.join(name))
    }) {
        match umount2(&space, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot unmount {}", space.display()));
            }
        }
    }
    let group = format!("netpath-bench-{name}");
    for hierarchy in names_in(Path::new(CGROUPS), "")
        .into_iter()
        .chain([".".into()])
    {
        remove_control_group(&Path::new(CGROUPS).join(hierarchy).join(&group))?;
    }
    remove_directory(run)?;
    // Another run may use it.
    let _ = fs::remove_dir(RUNS);
    Ok(())
}

/// Removes a control group without processes, and those below it; fine if there is none.
fn remove_control_group(group: &Path) -> Result<()> {
    if !group.is_dir() {
        return Ok(());
    }
    // Its files are the kernel's and go with it.
    let below = names_in(group, "").into_iter().map(|name| group.join(name));
    for child in below.filter(|child| child.is_dir()) {
        remove_control_group(&child)?;
    }
    fs::remove_dir(group).with_context(|| format!("cannot remove {}", group.display()))
}
