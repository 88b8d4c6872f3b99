//! The supervisor of a detached container: a process of its own session, which outlives
//! the command that started it, and the agent.
//!
//! `run -d` starts it with a [`Job`] on its standard input; it answers with one line on
//! its standard output, a [`Report`], as soon as the command runs or could not be started.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use serde::{Deserialize, Serialize};

use super::lookup::Unusable;
use super::supervise::{self, Streams};
use crate::api::client::Client;
use crate::api::types::CreateContainer;

/// What the shim is to do.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    /// The agent's socket.
    pub socket: PathBuf,
    /// The container; its supervisor is filled in by the shim.
    pub request: CreateContainer,
    /// The file to execute.
    pub program: PathBuf,
    /// Variables to add to the environment.
    pub env: Vec<(String, String)>,
}

/// How it went.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The command runs in a container.
    Running {
        /// The name.
        name: String,
        /// What was not done of what was asked for.
        warnings: Vec<String>,
    },
    /// It could not be started; nothing is left.
    Failed {
        /// A sentence.
        error: String,
        /// Exit code for the caller.
        code: u8,
    },
}

/// Starts a shim and waits for its report.
///
/// # Errors
/// The shim cannot be started, or died without a word.
pub fn launch(job: &Job) -> Result<Report> {
    let failed = "cannot start the supervisor of the container";
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("netpath")
        .arg("shim")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    // SAFETY: both are system calls and nothing else.
    unsafe {
        command.pre_exec(|| {
            setsid()?;
            // A pipe that the caller happens to hold open must not wait for the container.
            let last = libc::c_uint::MAX;
            match libc::close_range(3, last, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        })
    };
    let mut child = command.spawn().context(failed)?;
    let job = serde_json::to_vec(job)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(&job).context(failed)?;
    }
    let mut report = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut report).context(failed)?;
    }
    serde_json::from_str(&report)
        .map_err(|_| anyhow!("the supervisor of the container died before it was ready"))
}

/// The shim's life; returns when the container's command has ended.
///
/// # Errors
/// Its input or output fails.
pub fn run() -> Result<()> {
    let mut text = String::new();
    io::stdin()
        .read_to_string(&mut text)
        .context("cannot read the job")?;
    let mut job: Job = serde_json::from_str(&text).context("the job cannot be understood")?;
    job.request.supervisor = std::process::id();
    let env = job
        .env
        .into_iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    let client = Client::new(job.socket);
    let started = supervise::start(&client, &job.request, job.program, env, &Streams::Log);
    let report = match &started {
        Ok(supervised) => Report::Running {
            name: supervised.name().to_owned(),
            warnings: supervised.warnings().to_owned(),
        },
        Err(error) => Report::Failed {
            error: format!("{error:#}"),
            code: exit_code(error),
        },
    };
    let mut stdout = io::stdout();
    serde_json::to_writer(&mut stdout, &report)?;
    stdout.flush().context("cannot report")?;
    let Ok(supervised) = started else {
        return Ok(());
    };
    // The caller reads until the end, and its terminal must not be held open.
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .context("/dev/null")?;
    dup2_stdin(null.as_fd()).context("cannot let go of the input")?;
    dup2_stdout(null.as_fd()).context("cannot let go of the output")?;
    dup2_stderr(null.as_fd()).context("cannot let go of the terminal")?;
    // Nor its folder, which may be on something that somebody wants to unmount.
    std::env::set_current_dir("/").context("cannot go to /")?;
    supervised.wait().map(drop)
}

/// The exit code of a command that could not be started.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    error
        .downcast_ref::<Unusable>()
        .map_or(1, |unusable| unusable.code)
}
