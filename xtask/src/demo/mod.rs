//! `cargo xtask demo`: netpath at work between two network namespaces, every claim checked.
//!
//! Nothing of it touches the machine's own network: the "host" that the agent serves is a
//! namespace, and so is the outside.

mod checks;
mod parse;
mod world;

use std::path::Path;
use std::time::Instant;

use anyhow::Result;

use crate::build::{self, binary};
use crate::host::{become_root, is_root};
use crate::setup::{self, Say};
use crate::signal;

use world::World;
pub use world::{DIRECTORY, MARK};

/// Sets up, builds, shows, cleans up.
pub fn run(workspace: &Path, built: bool) -> Result<()> {
    if !built {
        setup::run(workspace, Say::Everything)?;
        build::run(workspace, true)?;
    }
    if !is_root() {
        let arguments = ["demo", "--built"].map(str::to_owned);
        return become_root(&arguments, "making network namespaces");
    }
    signal::install();
    let started = Instant::now();
    let mut world = World::new(workspace, binary(workspace, "release", "netpath"));
    world.clear_leftovers()?;

    let shown = checks::everything(&mut world);
    if shown.is_err() {
        world.explain_failure();
    }
    // Whatever happened, from here on only the end matters, also to an impatient Ctrl-C.
    signal::shield();
    let ended = if shown.is_ok() {
        checks::end(&mut world)
    } else {
        Ok(())
    };
    world.sweep();
    shown?;
    ended?;
    println!(
        "\nDemonstration passed: {} checks in {:.1} s; nothing of it is left on this machine.",
        world.checks(),
        started.elapsed().as_secs_f64()
    );
    Ok(())
}
