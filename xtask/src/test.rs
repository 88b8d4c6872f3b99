//! `cargo xtask test`: everything that has to hold, with one line of sum at the end.

use std::fmt;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::build::{self, cargo};
use crate::host::{ensure_privileges, is_root};
use crate::run::kill_group;
use crate::setup::{self, Say};
use crate::{fmt as fmt_verb, lint, signal};

/// All tests together; one that hangs must not hang the run.
const LIMIT: Duration = Duration::from_secs(45 * 60);
/// A test that says nothing for so long gets a line that says so.
const SILENCE: Duration = Duration::from_secs(30);

/// Runs the stages; a failed one does not hide what the later ones have to say.
pub fn run(workspace: &Path, filters: &[String]) -> Result<ExitCode> {
    signal::install();
    let mut failed_stages = Vec::new();
    let mut stage = |name: &'static str, result: Result<()>| {
        let good = result.is_ok();
        if let Err(error) = result {
            eprintln!("error: {name}: {error:#}");
            failed_stages.push(name);
        }
        good
    };
    let mut counts = Counts::default();

    match setup::run(workspace, Say::Summary) {
        Ok(toolchain) => {
            println!("== format");
            stage("format", fmt_verb::run(workspace, true));
            println!("== lint");
            stage("lint", lint::run(workspace, &toolchain));
            println!("== build");
            if stage("build", build::run(workspace, false)) {
                println!("== test");
                let ran = tests(workspace, filters, &mut counts);
                stage("test", ran);
            }
        }
        Err(error) => {
            stage("set-up", Err(error));
        }
    }

    // A stage that failed without a failed test (format, lint, a crash) counts as one failure,
    // so that the sum alone tells good from bad.
    let without_test = failed_stages
        .iter()
        .filter(|stage| **stage != "test" || counts.failed == 0)
        .count();
    counts.failed += without_test as u64;
    if !failed_stages.is_empty() {
        println!("failed: {}", failed_stages.join(", "));
    }
    println!("{counts}");
    Ok(if counts.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn tests(workspace: &Path, filters: &[String], counts: &mut Counts) -> Result<()> {
    let mut command = cargo(workspace);
    command.args([
        "test",
        "--workspace",
        "--exclude",
        "netpath-ebpf",
        "--no-fail-fast",
    ]);
    if !is_root() {
        // Cargo and its files stay the user's; only the test programs run as root.
        ensure_privileges("running the kernel tests")?;
        command.env(runner_variable(), "sudo -n -E");
    }
    command
        .arg("--")
        .args(filters.iter().filter(|filter| *filter != "--"));
    if io::stdout().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    // Both pipes end in one channel, line by line: what cargo says and what the tests say must
    // not mix within a line, or the sum could not be read.
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .context("cannot start `cargo test`")?;
    let (sender, lines) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        forward(stdout, sender.clone());
    }
    if let Some(stderr) = child.stderr.take() {
        forward(stderr, sender);
    }
    let started = Instant::now();
    let mut heard = Instant::now();
    let status = loop {
        match lines.recv_timeout(Duration::from_millis(100)) {
            Ok(line) => {
                heard = Instant::now();
                print!("{line}");
                counts.add(&line);
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => break Some(child.wait()?),
            Err(RecvTimeoutError::Timeout) => {}
        }
        // Something a test left behind may keep the pipe open after cargo's end.
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if signal::interrupted() || started.elapsed() > LIMIT {
            kill_group(&mut child);
            break None;
        }
        if heard.elapsed() > SILENCE {
            heard = Instant::now();
            println!(
                "... still testing, {} s so far",
                started.elapsed().as_secs()
            );
        }
    };
    match status {
        Some(status) if status.success() => Ok(()),
        Some(status) => anyhow::bail!("`cargo test` failed ({status}), see above"),
        None if signal::interrupted() => anyhow::bail!("interrupted"),
        None => anyhow::bail!("the tests did not end within {} min", LIMIT.as_secs() / 60),
    }
}

fn forward(pipe: impl Read + Send + 'static, lines: Sender<String>) {
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while let Ok(1..) = pipe.read_until(b'\n', &mut line) {
            if lines
                .send(String::from_utf8_lossy(&line).into_owned())
                .is_err()
            {
                return;
            }
            line.clear();
        }
    });
}

/// The variable by which cargo learns how to start programs of the host's target.
pub fn runner_variable() -> String {
    let target = format!("{}-unknown-linux-{}", std::env::consts::ARCH, environment());
    format!(
        "CARGO_TARGET_{}_RUNNER",
        target.to_uppercase().replace('-', "_")
    )
}

const fn environment() -> &'static str {
    if cfg!(target_env = "musl") {
        "musl"
    } else {
        "gnu"
    }
}

/// The sum over all test programs.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Counts {
    /// Adds a line such as `test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; ...`.
    /// What a filter left out is not counted: it was not asked for.
    fn add(&mut self, line: &str) {
        let Some(result) = line.trim_start().strip_prefix("test result: ") else {
            return;
        };
        let Some((_verdict, numbers)) = result.split_once(". ") else {
            return;
        };
        for part in numbers.split("; ") {
            let mut words = part.split_whitespace();
            let Some(Ok(count)) = words.next().map(str::parse::<u64>) else {
                continue;
            };
            match words.next() {
                Some("passed") => self.passed += count,
                Some("failed") => self.failed += count,
                Some("ignored") => self.skipped += count,
                _ => {}
            }
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_over_programs() {
        let output = "\
running 3 tests
test a ... ok
test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.00s

test result: FAILED. 7 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.2s
";
        let mut counts = Counts::default();
        output.lines().for_each(|line| counts.add(line));
        assert_eq!(
            counts,
            Counts {
                passed: 9,
                failed: 2,
                skipped: 1
            }
        );
        assert_eq!(counts.to_string(), "9 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn is_not_fooled_by_other_lines() {
        let mut counts = Counts::default();
        for line in [
            "test result of x: 3 passed",
            "5 passed; 1 failed",
            "test result: odd",
            "",
        ] {
            counts.add(line);
        }
        assert_eq!(counts, Counts::default());
    }

    #[test]
    fn names_cargos_runner_variable() {
        let name = runner_variable();
        assert!(name.starts_with("CARGO_TARGET_") && name.ends_with("_RUNNER"));
        assert!(
            name.chars()
                .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
        );
    }
}
