//! Removing everything that an agent made, without an agent.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::lock::{Locks, lock_folders, lock_namespace, remove_socket};
use super::physical::KnownCards;
use super::settings::Settings;
use super::share::{UTS, uts_identity};
use super::snat_range;
use crate::container::process::{self, Space};
use crate::datapath::Datapath;
use crate::dns::{client, control};
use crate::docker::adopt::Adoption;
use crate::docker::adopt::plan::still_there;
use crate::doctor;
use crate::netlink::{Link, Netlink, netns};
use crate::problem::invalid;
use crate::store::{ContainerRecord, NetworkRecord, Store};

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
    let locks = lock_folders(settings)?;
    let mut removed = Vec::new();
    let known = read_store(&settings.state_dir);
    let containers = known.as_ref().map_or(&[][..], |known| &known.containers);
    // Its sockets are in the namespaces.
    if client::end(&settings.run_dir)? {
        removed.push("the server for names".to_owned());
    }
    let netns_dir = settings.run_dir.join("netns");
    let namespaces = files_in(&netns_dir);
    for path in &namespaces {
        end_processes(path)?;
    }
    let uts_dir = settings.run_dir.join(UTS);
    let sharing = files_in(&uts_dir);
    for path in &sharing {
        if let Some(uts) = uts_identity(path)
            && !process::kill_all(|| process::in_namespace(Space::Uts, uts), PATIENCE)
        {
            log::warn!("processes in {} do not end", path.display());
        }
    }
    end_supervisors(containers);
    remove_devices(known.as_ref(), &mut removed)?;
    let networks = known.as_ref().map_or(&[][..], |known| &known.networks);
    for flannel in networks.iter().filter_map(|n| n.flannel.as_ref()) {
        remove_path(&flannel.subnet_file, &mut removed)?;
    }
    let adopted = known.as_ref().and_then(|known| known.adoption.as_ref());
    if let Some(adoption) = adopted {
        give_back(adoption, &mut removed)?;
    }
    for path in &namespaces {
        netns::remove(path)?;
        removed.push(format!("namespace {}", path.display()));
    }
    for path in &sharing {
        netns::remove(path)?;
        removed.push(path.display().to_string());
    }
    if settings.bpffs.exists() {
        Datapath::purge(&settings.bpffs)
            .with_context(|| format!("cannot remove {}", settings.bpffs.display()))?;
        removed.push(format!("programs and maps in {}", settings.bpffs.display()));
    }
    if let Some(ports) = snat_range::give_back(&settings.run_dir)? {
        removed.push(format!("reservation of ports {ports}"));
    }
    let sockets = [Some(&settings.socket), settings.docker_plugin.as_ref()];
    for socket in sockets.into_iter().flatten() {
        match remove_socket(socket) {
            Ok(true) => removed.push(socket.display().to_string()),
            Ok(false) => {}
            // NETPATH_SOCKET may name the socket of another agent, which has other folders.
            Err(error) => log::info!("{} stays: {error:#}", socket.display()),
        }
    }
    let [run_lock, state_lock] = Locks::paths(&settings.run_dir, &settings.state_dir);
    for path in [
        settings.run_dir.join("containers"),
        control::socket(&settings.run_dir),
        settings.run_dir.join(control::LOG),
        settings.run_dir.join("dhcp"),
        netns_dir,
        uts_dir,
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

/// What a store knows.
struct Known {
    /// MAC address of VXLAN devices.
    vtep_mac: Option<[u8; 6]>,
    containers: Vec<Arc<ContainerRecord>>,
    networks: Vec<NetworkRecord>,
    cards: KnownCards,
    adoption: Option<Adoption>,
}

/// `None` if there is no store, or it cannot be read.
fn read_store(state_dir: &Path) -> Option<Known> {
    if !Store::path(state_dir).exists() {
        return None;
    }
    let read = Store::open(state_dir).and_then(|store| {
        let networks = store.networks()?;
        let containers = store.containers()?;
        Ok(Known {
            vtep_mac: super::overlay::noted_mac(&store)?,
            cards: KnownCards::new(store.cards()?, &networks, &containers),
            containers,
            networks,
            adoption: store.adoption()?,
        })
    });
    match read {
        Ok(known) => Some(known),
        // What it would have told is found by looking, too, except a supervisor's number.
        Err(error) => {
            log::warn!("the store is removed unread: {error:#}");
            None
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
    if !process::kill_all(|| process::in_namespace(Space::Net, identity), PATIENCE) {
        log::warn!("processes in {} do not end", path.display());
    }
    Ok(())
}

/// Supervisors end by themselves when their command has ended; those that do not are helped.
fn end_supervisors(containers: &[Arc<ContainerRecord>]) {
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

/// Removes the devices that the store knows; without a store all that look like ours, unless
/// an agent with folders of its own serves this network namespace.
fn remove_devices(known: Option<&Known>, removed: &mut Vec<String>) -> Result<()> {
    let alone = lock_namespace();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("cannot start")?;
    runtime.block_on(async {
        let netlink = Netlink::connect()?;
        if let Some(known) = known {
            known.cards.remove().await?;
        }
        for link in netlink.links().await? {
            let wanted = match known {
                Some(known) => known.has(&link),
                None => alone.is_ok(),
            };
            let ours = link.is_ours() || known.is_some() && link.is_gateway();
            if ours && wanted && netlink.delete_link(&link.name).await? {
                removed.push(format!("device {}", link.name));
            }
        }
        Ok(())
    })
}

/// Makes what was told to Docker's bridges as if they had learnt it. The programs go with their
/// pins.
fn give_back(adoption: &Adoption, removed: &mut Vec<String>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("cannot start")?;
    runtime.block_on(async {
        let netlink = Netlink::connect()?;
        let links = netlink.links().await?;
        for endpoint in &adoption.endpoints {
            let bridge = adoption
                .networks
                .iter()
                .find(|network| network.id == endpoint.network);
            if bridge.is_none_or(|bridge| !still_there(endpoint, bridge.ifindex, &links)) {
                continue;
            }
            match netlink.unpin_mac(endpoint.ifindex, endpoint.mac).await {
                Ok(()) => removed.push(format!(
                    "adoption of container {} of Docker's",
                    endpoint.container
                )),
                Err(error) => log::info!("container {}: {error:#}", endpoint.container),
            }
        }
        Ok(())
    })
}

impl Known {
    /// Whether it is a device of the store, and not one of the same name in another network
    /// namespace than the agent's. A device whose index was not written down yet has index 0.
    fn has(&self, link: &Link) -> bool {
        if link.kind.as_deref() == Some("vxlan") {
            // The address is random, so nobody else's device has it.
            return self.vtep_mac.is_some() && link.mac == self.vtep_mac;
        }
        let networks = self.networks.iter().map(|n| (&n.device, n.ifindex));
        let endpoints = self.containers.iter().flat_map(|c| &c.endpoints);
        networks
            .chain(endpoints.map(|e| (&e.device, e.ifindex)))
            .any(|(name, index)| *name == link.name && [0, link.index].contains(&index))
            || self.cards.has(link)
    }
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
