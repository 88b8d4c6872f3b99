//! Containers that share a network namespace: the host's, or another container's.
//!
//! Processes of a container with a namespace of its own are those in it. Of one that shares, they
//! are told by its UTS namespace, which every container has for itself: while the command runs it
//! is mounted in a folder of the agent's, so that its number means nothing else.

use std::fs::OpenOptions;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

use super::{Agent, docker};
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

impl Agent {
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

    /// Those of a container that shares the network of `other`.
    fn surroundings_of(&self, name: &str, other: &str) -> Result<Surroundings> {
        let record = self.store.container(other)?;
        docker::check_is_not_dockers(&record)?;
        match &record.mode {
            Mode::Networks | Mode::None => {}
            Mode::Host => {
                return Err(conflict(format!(
                    "container {other} is in the host's network itself, use --network host"
                )));
            }
            Mode::Container(root) => {
                return Err(conflict(format!(
                    "container {other} has no network of its own, it shares that of {root}: use \
                     --network container:{root}"
                )));
            }
        }
        let refuse = || {
            conflict(format!(
                "container {other} is not running (it is {}), so there is no network to share",
                super::view::state_name(&record)
            ))
        };
        let (netns, hostname, files) = match &record.state {
            State::Running { process, .. } if process.is_alive() => {
                let path = PathBuf::from(format!("/proc/{}/ns/net", process.pid));
                let command = record.command.as_ref();
                let hostname = command.map_or(other, |command| &command.hostname);
                (path, hostname, self.files_path(other))
            }
            // An attached namespace has no files of ours.
            State::Created if !record.is_own() => {
                (self.netns_file(&record), name, self.files_path(name))
            }
            _ => return Err(refuse()),
        };
        // The one that is meant, not that of a later process of this number.
        let opened = self.open_netns(&record).ok_or_else(refuse)?;
        let meta = opened.metadata().context("cannot look at the namespace")?;
        Ok(Surroundings {
            hostname: hostname.to_owned(),
            netns,
            netns_id: Some((meta.dev(), meta.ino())),
            files,
        })
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
        if first.is_alive() {
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
        let sharing = self.sharing(&record.name);
        found.retain(|pid| {
            let uts = process::namespace_of(*pid, Space::Uts);
            uts.is_none_or(|uts| !sharing.contains(&uts))
        });
        found
    }

    /// The UTS namespaces of those that share a container's network: they go on without it.
    fn sharing(&self, container: &str) -> Vec<Identity> {
        let containers = self.store.containers().unwrap_or_default();
        let shares = |other: &&ContainerRecord| matches!(&other.mode, Mode::Container(name) if name == container);
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
