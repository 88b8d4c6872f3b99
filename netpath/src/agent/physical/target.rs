//! Whose interface it is to be: a container's namespace, however it is named.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::agent::Agent;
use crate::agent::attach::{open_path, open_pid};
use crate::api::types::AttachCard;
use crate::container::names;
use crate::netlink::netns;
use crate::netlink::netns::Identity;
use crate::physical::record::Home;
use crate::problem::{conflict, invalid};
use crate::store::{ContainerRecord, Origin, ProcessId};

/// A namespace, and whose it is.
pub(super) struct Target {
    pub(super) owner: String,
    pub(super) home: Home,
    pub(super) netns: File,
}

impl Agent {
    /// Finds the namespace that a request means.
    ///
    /// # Errors
    /// A sentence: there is none, or it is the host's.
    pub(super) fn find_target(&self, new: &AttachCard) -> Result<Target> {
        let mut name = new.name.clone();
        let (path, netns, process) = match (&new.netns, new.pid) {
            (Some(path), None) => (path.clone(), open_path(path)?, None),
            (None, Some(pid)) => {
                let process = ProcessId::of(pid);
                let (path, netns) = open_pid(pid)?;
                (path, netns, process)
            }
            (None, None) => {
                let record = self.called(name.as_deref().unwrap_or_default())?;
                let (path, netns) = self.open_container(&record)?;
                name = Some(record.name);
                (path, netns, None)
            }
            _ => {
                return Err(invalid(
                    "name a container, or its namespace with either --netns or --pid",
                ));
            }
        };
        if netns::is_own(&netns).context("cannot look at the agent's namespace")? {
            return Err(invalid(format!(
                "{} is the network namespace of the agent, that is, of the host; name a \
                 container's own",
                path.display()
            )));
        }
        let owner = match name {
            Some(name) => {
                names::check("container", &name)?;
                name
            }
            None => owner_of(&path, process.as_ref()),
        };
        let meta = netns.metadata().context("cannot look at the namespace")?;
        Ok(Target {
            owner,
            home: Home {
                path: path.to_string_lossy().into_owned(),
                dev: meta.dev(),
                ino: meta.ino(),
                process,
            },
            netns,
        })
    }

    fn open_container(&self, record: &ContainerRecord) -> Result<(PathBuf, File)> {
        let name = &record.name;
        let path = match &record.origin {
            Origin::Own => self.netns_path(name),
            Origin::Attached { path, .. } => path.into(),
            // Docker's containers are named by what Docker calls them.
            Origin::Docker { sandbox, .. } => sandbox.clone().unwrap_or_default().into(),
        };
        let netns = self.open_netns(record).filter(|_| !record.is_exited());
        let netns = netns.ok_or_else(|| {
            conflict(format!(
                "container {name} does not run, so it has no network to add an interface to"
            ))
        })?;
        Ok((path, netns))
    }
}

/// A name for whoever was named by a file or a process only.
fn owner_of(path: &Path, process: Option<&ProcessId>) -> String {
    match process {
        Some(process) => format!("pid-{}", process.pid),
        None => path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .filter(|name| names::check("container", name).is_ok())
            .unwrap_or_else(|| "namespace".to_owned()),
    }
}

/// Opens the namespace of a card, if it is still the one it was. A process that ends takes its
/// card with it, even if its namespace lives on with others.
pub(super) fn open_home(home: &Home) -> Option<File> {
    if home
        .process
        .as_ref()
        .is_some_and(|process| !process.is_alive())
    {
        return None;
    }
    let netns = netns::open(Path::new(&home.path)).ok()??;
    let meta = netns.metadata().ok()?;
    let found = Identity {
        dev: meta.dev(),
        ino: meta.ino(),
    };
    let wanted = Identity {
        dev: home.dev,
        ino: home.ino,
    };
    (found == wanted).then_some(netns)
}
