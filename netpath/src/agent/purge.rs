//! Removing everything that an agent made, without an agent.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::lock::{Locks, lock_folders, lock_namespace};
use super::settings::Settings;
use crate::container::process;
use crate::datapath::Datapath;
use crate::doctor;
use crate::netlink::{Netlink, netns};
use crate::problem::invalid;
use crate::store::{ContainerRecord, Store};

/// How long processes that were killed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// Ends all containers and removes devices, namespaces, pinned maps, store and files.
/// Returns what was there to remove; doing it twice is fine.
///
/// # Errors
/// An agent runs, or something cannot be removed.
pub fn purge(settings: &Settings) -> Result<Vec<String>> {
    if !doctor::has_capability() {
        return Err(invalid("only root can remove what an agent made, use sudo"));
    }
    let locks = lock_folders(&settings.run_dir, &settings.state_dir)?;
    let mut removed = Vec::new();
    let containers = read_store(&settings.state_dir)?;
    let netns_dir = settings.run_dir.join("netns");
    let namespaces = files_in(&netns_dir);
    for path in &namespaces {
        end_processes(path)?;
    }
    end_supervisors(&containers);
    remove_devices(settings, &containers, &mut removed)?;
    for path in &namespaces {
        netns::remove(path)?;
        removed.push(format!("namespace {}", path.display()));
    }
    if settings.bpffs.exists() {
        Datapath::purge(&settings.bpffs)
            .with_context(|| format!("cannot remove {}", settings.bpffs.display()))?;
        removed.push(format!("programs and maps in {}", settings.bpffs.display()));
    }
    let [run_lock, state_lock] = Locks::paths(&settings.run_dir, &settings.state_dir);
    for path in [
        settings.run_dir.join("containers"),
        netns_dir,
        settings.socket.clone(),
        Store::path(&settings.state_dir),
        run_lock,
        state_lock,
    ] {
        remove_path(&path, &mut removed)?;
    }
    for folder in [&settings.run_dir, &settings.state_dir] {
        match fs::remove_dir(folder) {
            Ok(()) => removed.push(format!("folder {}", folder.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Files of somebody else, or a mount point: not ours to remove.
            Err(error) => log::info!("{} stays: {error}", folder.display()),
        }
    }
    drop(locks);
    Ok(removed)
}

/// The containers of a store; none if there is no store.
fn read_store(state_dir: &Path) -> Result<Vec<ContainerRecord>> {
    if !Store::path(state_dir).exists() {
        return Ok(Vec::new());
    }
    match Store::open(state_dir).and_then(|store| store.containers()) {
        Ok(containers) => Ok(containers),
        // What it would have told is found by looking, too, except a supervisor's number.
        Err(error) => {
            log::warn!("the store is removed unread: {error:#}");
            Ok(Vec::new())
        }
    }
}

fn end_processes(path: &Path) -> Result<()> {
    let Ok(Some(namespace)) = netns::open(path) else {
        return Ok(());
    };
    // A mount that is none of ours: never end the host's processes.
    if netns::is_own(&namespace).context("cannot look at the host's namespace")? {
        return Ok(());
    }
    let identity = netns::identity(path)?;
    if !process::kill_all(identity, PATIENCE) {
        log::warn!("processes in {} do not end", path.display());
    }
    Ok(())
}

/// Supervisors end by themselves when their command has ended; those that do not are helped.
fn end_supervisors(containers: &[ContainerRecord]) {
    let end = Instant::now() + PATIENCE;
    for supervisor in containers
        .iter()
        .filter_map(|container| container.supervisor.as_ref())
    {
        while supervisor.is_alive() && Instant::now() < end {
            thread::sleep(Duration::from_millis(10));
        }
        if let Ok(Some(pidfd)) = supervisor.open() {
            let _ = pidfd.signal(Signal::SIGKILL);
        }
    }
}

fn remove_devices(
    settings: &Settings,
    containers: &[ContainerRecord],
    removed: &mut Vec<String>,
) -> Result<()> {
    // If another agent serves this network namespace with folders of its own, only what
    // our store knows is ours.
    let alone = lock_namespace();
    let known: HashSet<String> = containers
        .iter()
        .filter_map(|container| Some(container.endpoint.as_ref()?.device.clone()))
        .chain(network_devices(&settings.state_dir))
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("cannot start")?;
    runtime.block_on(async {
        let netlink = Netlink::connect()?;
        for link in netlink.links().await? {
            if link.is_ours()
                && (alone.is_ok() || known.contains(&link.name))
                && netlink.delete_link(&link.name).await?
            {
                removed.push(format!("device {}", link.name));
            }
        }
        Ok(())
    })
}

fn network_devices(state_dir: &Path) -> Vec<String> {
    if !Store::path(state_dir).exists() {
        return Vec::new();
    }
    let networks = Store::open(state_dir).and_then(|store| store.networks());
    networks
        .unwrap_or_default()
        .into_iter()
        .map(|network| network.device)
        .collect()
}

fn remove_path(path: &Path, removed: &mut Vec<String>) -> Result<()> {
    let gone = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match gone {
        Ok(()) => removed.push(path.display().to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot remove {}", path.display()));
        }
    }
    Ok(())
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries.flatten().map(|entry| entry.path()).collect()
}
