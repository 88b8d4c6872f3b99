//! Keeping up with Docker: when to look, and at what.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{ASK_EVERY, Seen, is_port};
use crate::agent::{Agent, blocking};
use crate::docker::adopt::client::Client;
use crate::docker::adopt::sandbox;
use crate::netlink::{monitor, netfilter};

/// Rules of the firewall are looked at this often even if nobody tells of a change, and so are
/// the connections that are the kernel's.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// Changes come in bursts; one look after a burst is enough.
const BURST: Duration = Duration::from_millis(30);
/// How long to wait for a Docker that is not there: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

impl Agent {
    /// Follows Docker, forever.
    pub(in crate::agent) async fn keep_adopted(self: Arc<Self>) -> Result<()> {
        let mut devices = monitor::watch()?;
        // Without, rules are looked at now and then.
        let mut rules = netfilter::watch_rules()
            .inspect_err(|error| log::warn!("{error:#}"))
            .ok();
        let mut retry = RETRY.0;
        loop {
            let Some(adoption) = self.store.adoption()? else {
                self.adoption.changed.notified().await;
                continue;
            };
            let began = Instant::now();
            match self
                .follow(&adoption.socket, &mut devices, rules.as_mut())
                .await
            {
                Ok(()) => self.tell_adoption(|told| told.problem = None),
                Err(error) => {
                    let text = format!("{error:#}");
                    let news =
                        self.tell_adoption(|told| told.problem.replace(text.clone()) != Some(text));
                    if news {
                        log::warn!("cannot follow Docker, trying again: {error:#}");
                    }
                }
            }
            if began.elapsed() > RETRY.1 {
                retry = RETRY.0;
            }
            // Containers may end without Docker.
            let end = Instant::now() + retry;
            while timeout(
                end.saturating_duration_since(Instant::now()),
                devices.recv(),
            )
            .await
            .is_ok_and(|message| message.is_some())
            {
                if let Err(error) = self.forget_gone().await {
                    log::error!("cannot clean up after Docker's containers: {error:#}");
                }
                sleep(BURST).await;
            }
            sleep_until(end).await;
            retry = (retry * 2).min(RETRY.1);
        }
    }

    /// Follows one daemon until it goes away or the adoption changes.
    async fn follow(
        &self,
        socket: &Path,
        devices: &mut mpsc::Receiver<()>,
        mut rules: Option<&mut mpsc::Receiver<()>>,
    ) -> Result<()> {
        let client = Client::connect(socket).await?;
        // Before the first look, so that nothing is missed in between.
        let mut changes = client.changes();
        let (sender, mut events) = mpsc::channel(1);
        let listener = tokio::spawn(async move {
            while changes.next().await.is_some() {
                // One pending wake-up says as much as many.
                if let Err(mpsc::error::TrySendError::Closed(())) = sender.try_send(()) {
                    return;
                }
            }
        });
        let _listener = AbortOnDrop(listener);
        let mut began = Instant::now();
        let mut seen = look(&client).await?;
        let mut quiet = false;
        log::info!("following Docker on {}", socket.display());
        self.tell_adoption(|told| told.problem = None);
        loop {
            self.pass(&seen, quiet).await?;
            // Questions and passes take at most half of the time: Docker may be busy with starting
            // containers.
            sleep(began.elapsed().max(BURST)).await;
            let anew;
            (anew, quiet) = tokio::select! {
                event = events.recv() => {
                    if event.is_none() {
                        return Ok(());
                    }
                    (true, false)
                }
                message = devices.recv() => {
                    message.context("the kernel tells no more of devices")?;
                    self.forget_gone().await?;
                    (true, false)
                }
                () = changed_rules(&mut rules) => (false, false),
                () = self.adoption.changed.notified() => return Ok(()),
                () = sleep(CHECK_EVERY) => (false, rules.is_some()),
            };
            began = Instant::now();
            if anew || seen.since.elapsed() > ASK_EVERY {
                sleep(BURST).await;
                while events.try_recv().is_ok() || devices.try_recv().is_ok() {}
                seen = look(&client).await?;
            }
        }
    }

    /// Removes what is left of containers whose devices are gone, without asking Docker.
    async fn forget_gone(&self) -> Result<()> {
        let _running = self.adoption.running.lock().await;
        let Some(mut adoption) = self.store.adoption()? else {
            return Ok(());
        };
        let links = self.netlink.links().await?;
        let networks = std::mem::take(&mut adoption.networks);
        let (there, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut adoption.endpoints)
            .into_iter()
            .partition(|endpoint| is_port(endpoint, &networks, &links));
        if gone.is_empty() {
            return Ok(());
        }
        for endpoint in &gone {
            self.give_back(&networks, endpoint, &links).await?;
            log::info!("container {} of Docker's has ended", endpoint.container);
        }
        adoption.networks = networks;
        adoption.endpoints = there;
        self.store.put_adoption(&adoption)
    }
}

/// Ends a task when nobody waits for it any more.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn changed_rules(rules: &mut Option<&mut mpsc::Receiver<()>>) {
    if let Some(receiver) = rules
        && receiver.recv().await.is_some()
    {
        return;
    }
    // There is nobody to tell.
    std::future::pending().await
}

/// Asks Docker, and looks into the containers' namespaces.
pub(super) async fn look(client: &Client) -> Result<Seen> {
    let snapshot = client.snapshot().await?;
    let sandboxes = blocking(|| {
        let look =
            |files: &Vec<PathBuf>| sandbox::look(files).map_err(|error| format!("{error:#}"));
        snapshot
            .containers
            .iter()
            .map(|container| (container.id.clone(), look(&container.netns)))
            .collect()
    });
    // The namespaces' files are found by way of its process: they went with it, not with them.
    ensure!(client.is_there(), "Docker ended while it was asked");
    Ok(Seen {
        snapshot,
        sandboxes,
        since: Instant::now(),
    })
}
