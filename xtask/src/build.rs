//! `cargo xtask build`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::run::{display, foreground};

/// A first build on a small machine, downloads included, stays far below this.
pub const LIMIT: Duration = Duration::from_secs(45 * 60);

/// Builds the workspace; the build script of `netpath` compiles the programs.
pub fn run(workspace: &Path, release: bool) -> Result<()> {
    let mut command = cargo(workspace);
    command.args(["build", "--workspace", "--exclude", "netpath-ebpf"]);
    if release {
        command.arg("--release");
    }
    check(&mut command)
}

/// The cargo that runs this, in the work tree.
pub fn cargo(workspace: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace);
    command
}

/// Runs a command on this terminal; an error if it fails.
pub fn check(command: &mut Command) -> Result<()> {
    let status = foreground(command, LIMIT)?;
    if !status.success() {
        bail!("`{}` failed ({status}), see above", display(command));
    }
    Ok(())
}

/// Where cargo puts the binaries of a profile.
pub fn binary(workspace: &Path, profile: &str, name: &str) -> PathBuf {
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    workspace.join(target).join(profile).join(name)
}
