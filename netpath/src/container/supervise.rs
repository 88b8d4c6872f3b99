//! A supervisor's life: prepare, start, wait, report.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};

use anyhow::{Context, Result, anyhow};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use super::spawn::Spawn;
use crate::api::client::Client;
use crate::api::types::{CreateContainer, Created, Exited, Started};

/// Signals that are handed on to the command.
const FORWARDED: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// A container with its command running.
pub struct Supervised {
    client: Client,
    created: Created,
    child: Child,
    signals: SignalFd,
}

/// Where a command's input and output go.
pub enum Streams {
    /// Where the supervisor's go.
    Inherited,
    /// Output into the container's log.
    Log,
}

/// Makes a container and starts its command. The calling process must have one thread.
///
/// # Errors
/// A sentence; nothing is left of the container.
pub fn start(
    client: &Client,
    request: &CreateContainer,
    program: PathBuf,
    env: Vec<(OsString, OsString)>,
    streams: &Streams,
) -> Result<Supervised> {
    let mut mask: SigSet = FORWARDED.into_iter().collect();
    mask.add(Signal::SIGCHLD);
    // From here on a signal waits until there is a command to have it.
    mask.thread_block().context("cannot block signals")?;
    let signals =
        SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC).context("cannot receive signals")?;
    let created: Created = client.post("/v1/containers", request)?;
    let started = (|| {
        let spawn = Spawn::new(&created, program, request.argv.clone(), env)?;
        let (stdin, stdout, stderr) = match streams {
            Streams::Inherited => (Stdio::inherit(), Stdio::inherit(), Stdio::inherit()),
            Streams::Log => {
                let log = fs::OpenOptions::new()
                    .append(true)
                    .open(&created.log)
                    .with_context(|| format!("cannot open {}", created.log.display()))?;
                let other = log.try_clone().context("cannot duplicate the log")?;
                (Stdio::null(), log.into(), other.into())
            }
        };
        let mut child = spawn.start(stdin, stdout, stderr)?;
        let path = format!("/v1/containers/{}/started", created.name);
        let reported = client.post::<serde_json::Value>(&path, &Started { pid: child.id() });
        if let Err(error) = reported {
            // A container that the agent does not know as running must not run.
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
        Ok(child)
    })();
    match started {
        Ok(child) => Ok(Supervised {
            client: client.clone(),
            created,
            child,
            signals,
        }),
        Err(error) => {
            // The agent would do it as well as soon as this process ends.
            let _ = client.delete(&format!("/v1/containers/{}?force=true", created.name));
            Err(error)
        }
    }
}

impl Supervised {
    /// The container's name.
    pub fn name(&self) -> &str {
        &self.created.name
    }

    /// What was not done of what was asked for.
    pub fn warnings(&self) -> &[String] {
        &self.created.warnings
    }

    /// Hands signals on until the command ends, reports its end and returns its exit code.
    ///
    /// # Errors
    /// Signals cannot be read.
    pub fn wait(mut self) -> Result<i32> {
        let status = loop {
            if let Some(status) = self
                .child
                .try_wait()
                .context("cannot wait for the command")?
            {
                break status;
            }
            let Some(info) = self.signals.read_signal().context("cannot read signals")? else {
                continue;
            };
            let signal = Signal::try_from(info.ssi_signo.cast_signed());
            // What the terminal sends (code SI_KERNEL), it sends to the whole foreground
            // process group, and the command is in it.
            if info.ssi_code > 0 || signal == Ok(Signal::SIGCHLD) {
                continue;
            }
            if let (Ok(signal), Ok(pid)) = (signal, i32::try_from(self.child.id())) {
                // Not reaped yet, so the number is still the command's.
                let _ = kill(Pid::from_raw(pid), signal);
            }
        };
        let code = exit_code(status);
        let pid = self.child.id();
        // For the agent that is not there now; it may be back any time.
        if let Err(error) = write_exit_file(&self.created.exit_file, pid, code) {
            log::warn!("{error:#}");
        }
        let path = format!("/v1/containers/{}/exited", self.created.name);
        if let Err(error) = self
            .client
            .post::<serde_json::Value>(&path, &Exited { pid, code })
        {
            log::debug!("the agent was not told that the command ended: {error:#}");
        }
        Ok(code)
    }
}

/// The shells' exit code of a process.
fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// The process is named, because another container may have the file's name by now.
fn write_exit_file(path: &std::path::Path, pid: u32, code: i32) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, format!("{pid} {code}\n"))
        .and_then(|()| fs::rename(&new, path))
        .map_err(|error| anyhow!("cannot write {}: {error}", path.display()))
}
