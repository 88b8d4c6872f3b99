//! `cargo xtask package`: a Debian package.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

use crate::build::{self, cargo, check};
use crate::run::capture;

/// Builds, has the product put its files where a package has them, and packs them.
pub fn run(workspace: &Path) -> Result<()> {
    let mut version = cargo(workspace);
    version.args(["deb", "--version"]);
    if !capture(&mut version, build::LIMIT)?.status.success() {
        bail!("cargo-deb makes the package, install it with `cargo install cargo-deb`");
    }
    build::run(workspace, true)?;
    let root = workspace.join("target/package");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    let mut install = std::process::Command::new(build::binary(workspace, "release", "netpath"));
    install
        .args(["install", "--prefix", "/usr", "--root"])
        .arg(&root);
    check(&mut install)?;
    let mut deb = cargo(workspace);
    deb.args(["deb", "--no-build", "--package", "netpath"]);
    check(&mut deb)
}
