//! Waiting for the processes of containers, which are not the agent's children.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Agent;
use crate::store::{ProcessId, State};

/// How long a living supervisor may take to write down the exit code.
const EXIT_FILE_PATIENCE: Duration = Duration::from_secs(2);
/// When what failed is tried again: the disk may have been full.
const TRY_AGAIN: Duration = Duration::from_secs(30);
const EXIT_FILE_POLL: Duration = Duration::from_millis(20);

/// What a process is to its container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Its command.
    Main,
    /// The process that will start its command.
    Supervisor,
}

impl Agent {
    /// Waits for a process of a container in the background.
    pub(super) fn watch(self: &Arc<Self>, name: &str, process: ProcessId, role: Role) {
        let (agent, name) = (self.clone(), name.to_owned());
        tokio::spawn(async move {
            if let Err(error) = wait_for(&process).await {
                log::error!("cannot wait for container {name}: {error:#}");
                return;
            }
            loop {
                let ended = match role {
                    Role::Main => agent.main_ended(&name, &process).await,
                    Role::Supervisor => agent.supervisor_ended(&name, &process).await,
                };
                let Err(error) = ended else { return };
                log::error!("cannot take container {name} down: {error:#}");
                tokio::time::sleep(TRY_AGAIN).await;
            }
        });
    }

    async fn main_ended(&self, name: &str, process: &ProcessId) -> Result<()> {
        let Some(record) = self.store.find_container(name)? else {
            return Ok(());
        };
        match &record.state {
            State::Running {
                process: current, ..
            } if current == process => {}
            // Another container of this name, or it is known already.
            _ => return Ok(()),
        }
        let supervisor = record.supervisor;
        let read = async {
            loop {
                if let Some(code) = self.read_exit_file(name, process) {
                    return Some(code);
                }
                if !supervisor.as_ref().is_some_and(ProcessId::is_alive) {
                    // It may have written and ended between the two looks.
                    return self.read_exit_file(name, process);
                }
                tokio::time::sleep(EXIT_FILE_POLL).await;
            }
        };
        let code = tokio::time::timeout(EXIT_FILE_PATIENCE, read)
            .await
            .unwrap_or(None);
        let mut held = self.held.lock().await;
        match self.store.find_container(name)? {
            Some(record) if matches!(&record.state, State::Running { process: p, .. } if p == process) => {
                self.finish(&mut held, record, code).await
            }
            _ => Ok(()),
        }
    }

    /// The supervisor is gone. If the command was never started, so is the container.
    async fn supervisor_ended(&self, name: &str, supervisor: &ProcessId) -> Result<()> {
        let mut held = self.held.lock().await;
        let Some(record) = self.store.find_container(name)? else {
            return Ok(());
        };
        if record.state != State::Created || record.supervisor.as_ref() != Some(supervisor) {
            return Ok(());
        }
        log::info!("container {name} is removed: its supervisor ended before it was started");
        self.kill_processes(&record);
        self.unmake_container(&mut held, &record).await?;
        self.forget(name);
        Ok(())
    }

    /// The exit code of a process that its supervisor wrote down. A late supervisor of an
    /// earlier container of this name may have written about another process.
    pub(super) fn read_exit_file(&self, name: &str, process: &ProcessId) -> Option<i32> {
        let text = fs::read_to_string(self.files_path(name).join("exit")).ok()?;
        let (pid, code) = text.trim().split_once(' ')?;
        (pid.parse() == Ok(process.pid)).then(|| code.parse().ok())?
    }
}

/// Returns when the process has ended.
pub(super) async fn wait_for(process: &ProcessId) -> Result<()> {
    let Some(pidfd) = process.open().context("cannot open the process")? else {
        return Ok(());
    };
    // SAFETY: an OwnedFd is one descriptor, open for as long as it lives.
    let pidfd = unsafe { AsyncFd::register_with_interest(pidfd.into_fd(), Interest::READABLE) }
        .context("cannot wait for the process")?;
    // Readable means: it ended.
    let _ready = pidfd
        .readable()
        .await
        .context("cannot wait for the process")?;
    Ok(())
}
