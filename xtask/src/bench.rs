//! `cargo xtask bench`: builds, then hands over to `netpath bench`.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::Result;

use crate::build::{self, binary};
use crate::host::{ensure_privileges, is_root};
use crate::run::foreground;
use crate::setup::{self, Say};

/// A full comparison takes minutes; a bench that hangs must still end.
const LIMIT: Duration = Duration::from_secs(60 * 60);

/// Passes the arguments on, and the result back.
pub fn run(workspace: &Path, arguments: &[String]) -> Result<ExitCode> {
    setup::run(workspace, Say::Summary)?;
    build::run(workspace, true)?;
    ensure_privileges("the bench")?;
    let netpath = binary(workspace, "release", "netpath");
    let mut command = if is_root() {
        Command::new(&netpath)
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "-E"]).arg(&netpath);
        sudo
    };
    command.arg("bench").args(arguments);
    let status = foreground(&mut command, LIMIT)?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
