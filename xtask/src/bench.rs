//! `cargo xtask bench`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use crate::build::{binary, cargo, check};
use crate::host::{ensure_privileges, privileged};
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
