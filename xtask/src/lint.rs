//! `cargo xtask lint`: clippy for the host's crates and, with the other compiler, for the programs.

use std::env;
use std::path::Path;

use anyhow::{Context, Result};

use crate::build::{cargo, check};
use crate::toolchain::Toolchain;

/// Warnings are errors. Both halves run, so that one run shows everything.
pub fn run(workspace: &Path, toolchain: &Toolchain) -> Result<()> {
    let mut host = cargo(workspace);
    host.args([
        "clippy",
        "--workspace",
        "--exclude",
        "netpath-ebpf",
        "--all-targets",
    ]);
    host.args(["--", "-D", "warnings"]);
    let host = check(&mut host).context("clippy");
    let programs = lint_programs(workspace, toolchain).context("clippy for the eBPF programs");
    match (host, programs) {
        (Err(host), Err(programs)) => Err(programs.context(format!("{host:#}"))),
        (host, programs) => host.and(programs),
    }
}

fn lint_programs(workspace: &Path, toolchain: &Toolchain) -> Result<()> {
    let Some(clippy) = toolchain.cargo_clippy() else {
        // Another rustc's clippy would need the library source of its own version.
        println!(
            "netpath-ebpf is not linted: {} has no clippy (`cargo xtask setup` installs it where \
             the distribution has one)",
            toolchain.compiler.kind
        );
        return Ok(());
    };
    let mut command = toolchain.command(&clippy, "clippy", workspace, env::consts::ARCH);
    // cargo-clippy calls cargo by this variable.
    command
        .env("CARGO", toolchain.cargo())
        .args(["--", "-D", "warnings"]);
    check(&mut command)
}
