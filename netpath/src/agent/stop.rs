//! Ending a container.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sys::signal::Signal;

use super::{Agent, docker};
use crate::problem::conflict;
use crate::store::State;

/// How long the watcher may take to notice that a killed container has ended.
const END_PATIENCE: Duration = Duration::from_secs(5);

impl Agent {
    /// Asks a container's command to end, and after `timeout` seconds kills everything in
    /// the container; returns when its network is gone. One that ended already is fine.
    ///
    /// # Errors
    /// There is no such container, it is an attached one, or it cannot be killed.
    pub async fn stop(self: &Arc<Self>, word: &str, timeout: u32) -> Result<()> {
        self.end(word, timeout).await?;
        self.settle_cluster().await;
        Ok(())
    }

    async fn end(self: &Arc<Self>, word: &str, timeout: u32) -> Result<()> {
        let record = self.called(word)?;
        let name = record.name.as_str();
        docker::check_is_not_dockers(&record)?;
        if !record.is_own() {
            return Err(conflict(format!(
                "{name} is an attached namespace whose processes are not netpath's to stop, \
                 detach it with \"netpath rm {name}\""
            )));
        }
        let process = match &record.state {
            State::Exited { .. } => return Ok(()),
            State::Creating | State::Created => {
                return Err(conflict(format!(
                    "container {name} is only just being started"
                )));
            }
            State::Running { process, .. } => process.clone(),
        };
        let failed = || format!("cannot stop container {name}");
        let pidfd = process.open().with_context(failed)?;
        if let Some(pidfd) = &pidfd {
            // It may have ended a moment ago, which is what we want.
            let _ = pidfd.signal(Signal::SIGTERM);
        }
        if self
            .wait_until_ended(name, Duration::from_secs(timeout.into()))
            .await?
        {
            return Ok(());
        }
        if let Some(pidfd) = &pidfd {
            let _ = pidfd.signal(Signal::SIGKILL);
        }
        self.kill_processes(&record);
        if self.wait_until_ended(name, END_PATIENCE).await? {
            return Ok(());
        }
        if process.is_alive() {
            return Err(anyhow!(
                "container {name} was killed but does not end, see the agent's log"
            ));
        }
        // The watcher failed, as when the disk was full.
        let mut held = self.held.lock().await;
        match self.store.find_container(name)? {
            Some(last) if last.process() == Some(&process) => {
                let code = self.read_exit_file(name, &process);
                self.finish(&mut held, last, code).await
            }
            _ => Ok(()),
        }
    }

    async fn wait_until_ended(&self, name: &str, patience: Duration) -> Result<bool> {
        let mut changes = self.changes.subscribe();
        let ended = async {
            loop {
                if self
                    .store
                    .find_container(name)?
                    .is_none_or(|record| record.is_exited())
                {
                    return Ok(());
                }
                if changes.changed().await.is_err() {
                    return Err(anyhow!("the agent ends"));
                }
            }
        };
        match tokio::time::timeout(patience, ended).await {
            Ok(result) => result.map(|()| true),
            Err(_) => Ok(false),
        }
    }
}
