//! Containers that share a network namespace: the host's, or another container's.
//!
//! Processes of a container with a namespace of its own are those in it. Of one that shares, they
//! are told by its UTS namespace, which every container has for itself: while the command runs it
//! is mounted in a folder of the agent's, so that its number means nothing else.

use std::fs::OpenOptions;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::{Agent, docker, plan};
use crate::api::types::Connect;
use crate::container::names;
use crate::container::process::{self, Space};
use crate::netlink::netns::{self, Identity};
use crate::problem::{conflict, invalid};
use crate::store::{ContainerRecord, Mode, ProcessId, State};

/// Where a container's command is to be started.
pub(super) struct Surroundings {
    pub(super) hostname: String,
    /// File of its network namespace.
    pub(super) netns: PathBuf,
    /// Which one that is, if it is somebody else's.
    pub(super) netns_id: Option<(u64, u64)>,
    /// Folder of its `resolv.conf`, `hosts` and `hostname`.
    pub(super) files: PathBuf,
}

/// How many containers may share a network by way of each other's. (Names are used again, so a
/// chain could be a circle.)
const LONGEST_CHAIN: usize = 16;

impl Agent {
    /// What a request says about where a container has its network from.
    ///
    /// # Errors
    /// It contradicts itself, or names a container that is not there.
    pub(super) fn mode(&self, connect: &Connect) -> Result<Mode> {
        Ok(match plan::mode(connect)? {
            Mode::Container(word) => Mode::Container(self.called(&word)?.name),
            mode => mode,
        })
    }

    /// Where the command of a new container is to be started.
    ///
    /// # Errors
    /// There is no such namespace, or the host name is not its own to choose.
    pub(super) fn surroundings(
        &self,
        name: &str,
        mode: &Mode,
        hostname: Option<&str>,
    ) -> Result<Surroundings> {
        if let Mode::Container(other) = mode {
            if hostname.is_some() {
                return Err(invalid(format!(
                    "a container that shares the network of {other} has its host name as well: \
                     leave out --hostname"
                )));
            }
            return self.surroundings_of(name, other);
        }
        let own = || hostname.unwrap_or(name).to_owned();
        if *mode == Mode::Host {
            let netns = PathBuf::from(format!("/proc/{}/ns/net", std::process::id()));
            let netns_id = netns::identity(&netns).context("cannot look at the host's network")?;
            let hosts_own = nix::unistd::gethostname().ok();
            let hosts_own = hosts_own.and_then(|name| name.into_string().ok());
            let hosts_own = hosts_own.filter(|name| names::check_hostname(name).is_ok());
            return Ok(Surroundings {
                hostname: match hostname {
                    Some(hostname) => hostname.to_owned(),
                    None => hosts_own.unwrap_or_else(own),
                },
                netns_id: Some((netns_id.dev, netns_id.ino)),
                netns,
                files: self.files_path(name),
            });
        }
        Ok(Surroundings {
            hostname: own(),
            netns: self.netns_path(name),
            netns_id: None,
            files: self.files_path(name),
        })
    }

    /// Those of a container that shares the network of `other`, which may itself share one.
    fn surroundings_of(&self, name: &str, other: &str) -> Result<Surroundings> {
        let record = self.store.container(other)?;
        docker::check_is_not_dockers(&record)?;
        let (netns, id) = self.namespace_to_share(&record).ok_or_else(|| {
            conflict(format!(
                "container {other} is not running (it is {}), so there is no network to share",
                super::view::state_name(&record)
            ))
        })?;
        let files = self.files_to_share(&record, id);
        let hostname = record.command.map_or(name.to_owned(), |c| c.hostname);
        Ok(Surroundings {
            hostname,
            netns,
            netns_id: Some((id.dev, id.ino)),
            files: files.unwrap_or_else(|| self.files_path(name)),
        })
    }

    /// File of the network namespace that a container's command runs in, and which one that is;
    /// nothing if it does not run.
    fn namespace_to_share(&self, record: &ContainerRecord) -> Option<(PathBuf, Identity)> {
        let path = match &record.state {
            State::Running { process, .. } if process.is_alive() => {
                PathBuf::from(format!("/proc/{}/ns/net", process.pid))
            }
            State::Created if !record.is_own() => self.netns_file(record),
            _ => return None,
        };
        let id = if record.is_own() && !record.has_own_namespace() {
            let id = netns::identity(&path).ok()?;
            // Not that of a later process of this number.
            record.process()?.is_alive().then_some(id)?
        } else {
            // The one that is meant, whatever the file names by now.
            let meta = self.open_netns(record)?.metadata().ok()?;
            Identity {
                dev: meta.dev(),
                ino: meta.ino(),
            }
        };
        Some((path, id))
    }

    /// Folder of the files that whoever lives in this namespace has; nothing if it has none of
    /// the agent's, or if the container that they were made for is gone.
    fn files_to_share(&self, record: &ContainerRecord, id: Identity) -> Option<PathBuf> {
        let mut owner = record.clone();
        for _ in 0..LONGEST_CHAIN {
            match &owner.mode {
                Mode::Container(next) => {
                    let next = self.store.find_container(next).ok()??;
                    // Another container may have the name by now.
                    let (_, same) = self.namespace_to_share(&next)?;
                    owner = (same == id).then_some(next)?;
                }
                // An attached namespace has no files of ours.
                _ => return owner.is_own().then(|| self.files_path(&owner.name)),
            }
        }
        None
    }

    fn uts_path(&self, container: &str) -> PathBuf {
        self.settings.run_dir.join(UTS).join(container)
    }

    /// Notes the processes of a container that shares its network namespace, by the first.
    pub(super) fn note_processes(&self, record: &ContainerRecord, first: &ProcessId) -> Result<()> {
        if record.has_own_namespace() {
            return Ok(());
        }
        let path = self.uts_path(&record.name);
        let failed = || format!("cannot note the processes of container {}", record.name);
        netns::remove(&path).with_context(failed)?;
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .with_context(failed)?;
        let source = format!("/proc/{}/ns/uts", first.pid);
        let none = None::<&str>;
        let noted = mount(Some(source.as_str()), &path, none, MsFlags::MS_BIND, none);
        // One that has ended has no namespaces any more, though it may not have been waited for yet.
        if first.is_alive() && noted != Err(Errno::ENOENT) {
            return noted.with_context(failed);
        }
        // It has ended already, and its number may be another process's by now.
        netns::remove(&path).with_context(failed)
    }

    /// Forgets them.
    pub(super) fn forget_processes(&self, container: &str) -> Result<()> {
        netns::remove(&self.uts_path(container))
    }

    /// All processes of a container, as far as it is the agent's to end them.
    pub(super) fn processes_of(&self, record: &ContainerRecord) -> Vec<u32> {
        if !record.is_own() {
            return Vec::new();
        }
        if !record.has_own_namespace() {
            return match uts_identity(&self.uts_path(&record.name)) {
                Some(own) => process::in_namespace(Space::Uts, own),
                None => Vec::new(),
            };
        }
        let path = self.netns_path(&record.name);
        match netns::open(&path) {
            // Whatever somebody mounted there: never end the host's processes.
            Ok(Some(netns)) if netns::is_own(&netns).is_ok_and(|own| !own) => {}
            _ => return Vec::new(),
        }
        let Ok(identity) = netns::identity(&path) else {
            return Vec::new();
        };
        let mut found = process::in_namespace(Space::Net, identity);
        if found.is_empty() {
            return found;
        }
        let sharing = self.sharing();
        found.retain(|pid| {
            let uts = process::namespace_of(*pid, Space::Uts);
            uts.is_none_or(|uts| !sharing.contains(&uts))
        });
        found
    }

    /// The UTS namespaces of those that share a network: they go on without its owner. (With
    /// whom, by way of how many others, does not matter: they are not the owner's.)
    fn sharing(&self) -> Vec<Identity> {
        let containers = self.store.containers().unwrap_or_default();
        let shares = |other: &&Arc<ContainerRecord>| matches!(other.mode, Mode::Container(_));
        containers
            .iter()
            .filter(shares)
            .filter_map(|other| uts_identity(&self.uts_path(&other.name)))
            .collect()
    }
}

/// Folder of the UTS namespaces, in the run folder.
pub(super) const UTS: &str = "uts";

/// The UTS namespace that is mounted on a file, unless that is the host's.
pub(super) fn uts_identity(path: &Path) -> Option<Identity> {
    let found = netns::identity(path).ok()?;
    let host = netns::identity(Path::new("/proc/self/ns/uts")).ok()?;
    // A file without a mount is on another device than all namespaces.
    (found.dev == host.dev && found != host).then_some(found)
}
