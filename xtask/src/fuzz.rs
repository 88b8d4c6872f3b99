//! `cargo xtask fuzz`: the programs get random and damaged frames for as long as one likes.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};

use crate::build::cargo;
use crate::host::{ensure_privileges, is_root};
use crate::run::{display, foreground};
use crate::test::runner_variable;

/// What building and coming to an end may take on top.
const BUILD: Duration = Duration::from_secs(45 * 60);

/// A seed that no earlier run had.
pub fn seed_by_the_clock() -> Result<u64> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(now.as_secs())
}

/// Runs the fuzzer; with `keep`, what showed something new becomes the corpus that the tests
/// replay.
pub fn run(workspace: &Path, minutes: u64, seed: u64, keep: bool) -> Result<()> {
    let seconds = minutes.saturating_mul(60);
    let mut command = cargo(workspace);
    command.args(["test", "-p", "netpath-tests", "--test", "programs"]);
    command.args(["--", "--nocapture", "fuzz::damaged_frames_do_no_harm"]);
    command.env("NETPATH_FUZZ_SECONDS", seconds.to_string());
    command.env("NETPATH_FUZZ_SEED", seed.to_string());
    if keep {
        command.env("NETPATH_FUZZ_KEEP", "1");
    }
    if !is_root() {
        ensure_privileges("running the programs in the kernel")?;
        command.env(runner_variable(), "sudo -n -E");
    }
    println!("fuzzing for {minutes} minutes from the seed {seed}");
    let status = foreground(&mut command, BUILD + Duration::from_secs(seconds))?;
    if !status.success() {
        bail!("`{}` failed ({status}), see above", display(&command));
    }
    Ok(())
}
