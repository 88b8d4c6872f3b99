//! The DHCP clients of cards.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::agent::watch::wait_for;
use crate::agent::{Agent, blocking};
use crate::netlink::netns;
use crate::physical::dhcp::{Files, Lease, PATIENCE};
use crate::physical::record::CardRecord;
use crate::problem::conflict;
use crate::store::ProcessId;

impl Agent {
    pub(super) fn dhcp_files(&self, card: &CardRecord) -> Files {
        let folder = self.settings.run_dir.join("dhcp");
        Files::new(folder, &card.owner, &card.interface)
    }

    /// What a server gave to a card.
    pub(super) fn lease_of(&self, card: &CardRecord) -> Option<Lease> {
        card.dhcp.then(|| self.dhcp_files(card).lease()).flatten()
    }

    /// Starts the client of a card, which goes on for as long as the namespace lives.
    pub(super) fn start_client(&self, card: &mut CardRecord, netns: &File) -> Result<()> {
        let files = self.dhcp_files(card);
        let again: Option<Ipv4Addr> = files.lease().map(|lease| lease.address.addr());
        let (program, arguments) = files.command(&card.interface, &card.owner, again)?;
        let mut command = Command::new(&program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // What ends the agent from a terminal does not end its clients.
            .process_group(0);
        let child = blocking(|| {
            netns::inside(netns::borrow(netns), || {
                command
                    .spawn()
                    .with_context(|| format!("cannot start {}", program.display()))
            })
        });
        let mut child = child?;
        card.client = ProcessId::of(child.id());
        // Somebody must ask how it ended, if it does before us. No thread waits for that: there may
        // be many clients.
        let client = card.client.clone();
        tokio::spawn(async move {
            if let Some(client) = client
                && let Err(error) = wait_for(&client).await
            {
                log::debug!("cannot wait for a DHCP client: {error:#}");
            }
            child.try_wait()
        });
        Ok(())
    }

    /// Waits for the first lease.
    pub(super) async fn wait_for_lease(&self, card: &CardRecord) -> Result<Lease> {
        let files = self.dhcp_files(card);
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(lease) = files.lease() {
                return Ok(lease);
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        Err(conflict(format!(
            "no DHCP server answered on {} within {} s, see whether one is there or give an \
             address with --ip ADDRESS/LENGTH",
            card.sharing.parent,
            PATIENCE.as_secs()
        )))
    }

    /// Ends the client of a card, and forgets its lease.
    pub(super) fn end_client(&self, card: &CardRecord) {
        if let Some(client) = &card.client {
            end(client);
        }
        self.dhcp_files(card).remove();
    }
}

/// Ends a client, if it is still there.
pub(in crate::agent) fn end(client: &ProcessId) {
    if let Ok(Some(pidfd)) = client.open() {
        let _ = pidfd.signal(nix::sys::signal::Signal::SIGTERM);
    }
}
