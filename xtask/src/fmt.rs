//! `cargo xtask fmt`.

use std::path::Path;

use anyhow::{Context, Result};

use crate::build::{cargo, check};

/// Formats all members, the programs included; or checks that they are formatted.
pub fn run(workspace: &Path, only_check: bool) -> Result<()> {
    let mut command = cargo(workspace);
    command.args(["fmt", "--all"]);
    if only_check {
        command.arg("--check");
    }
    check(&mut command).context(if only_check {
        "not everything is formatted, run `cargo xtask fmt`"
    } else {
        "formatting"
    })
}
