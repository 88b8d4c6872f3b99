//! Interfaces in namespaces that are somebody else's.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};

use super::endpoint::FIRST_INTERFACE;
use super::inside::in_runtime;
use super::{Agent, blocking, now, plan};
use crate::api::types::{Attach, Container};
use crate::container::names;
use crate::container::sysctls::ipv6_is_off;
use crate::netlink::netns::Identity;
use crate::netlink::{Netlink, netns};
use crate::problem::{conflict, invalid, not_found};
use crate::store::{ContainerRecord, Mode, Origin, ProcessId};

impl Agent {
    /// Makes an interface in a namespace that is somebody else's.
    ///
    /// # Errors
    /// A sentence; nothing is left of it.
    pub async fn attach(self: &Arc<Self>, new: Attach) -> Result<Container> {
        let mut held = self.held.lock().await;
        if new.connect.name.is_none() {
            return Err(invalid(
                "an attached namespace needs a name, give it one with --name",
            ));
        }
        let uid = names::uid()?;
        let name = self.new_name(new.connect.name.as_deref(), &uid)?;
        if let Some(word) = plan::mode(&new.connect)?.word() {
            return Err(invalid(format!(
                "an attached namespace keeps what it has and gets an interface in a network, which \
                 \"{word}\" is not"
            )));
        }
        let mut options = new.connect.names.parse()?;
        for link in &mut options.links {
            link.container = self.called(&link.container)?.name;
        }
        if let Some(flag) = new.connect.names.about_files() {
            return Err(invalid(format!(
                "{flag} is about files of a container, which an attached namespace does not have: \
                 write it into its own /etc/resolv.conf or /etc/hosts"
            )));
        }
        let (path, netns) = match (&new.netns, new.pid) {
            (Some(path), None) => (path.clone(), open_path(path)?),
            (None, Some(pid)) => open_pid(pid)?,
            _ => return Err(invalid("name the namespace with either --netns or --pid")),
        };
        if netns::is_own(&netns).context("cannot look at the agent's namespace")? {
            return Err(invalid(format!(
                "{} is the network namespace of the agent, that is, of the host; attach a \
                 container's own namespace",
                path.display()
            )));
        }
        let there = look_inside(&netns)?;
        if there.interfaces.iter().any(|name| name == FIRST_INTERFACE) {
            return Err(conflict(format!(
                "the namespace {} has an interface {FIRST_INTERFACE} already, remove it or attach \
                 another namespace",
                path.display()
            )));
        }
        let meta = netns.metadata().context("cannot look at the namespace")?;
        let origin = Origin::Attached {
            path: path.to_string_lossy().into_owned(),
            dev: meta.dev(),
            ino: meta.ino(),
        };
        let mut record = ContainerRecord {
            uid,
            created: now(),
            names: options,
            ..ContainerRecord::new(&name, origin)
        };
        let made = self
            .plan_container(&mut held, &mut record, &new.connect, &there)
            .await?;
        self.make_container(&mut held, &mut record, made, Some(&netns))
            .await?;
        self.show_container(&name)
    }

    /// File of a container's namespace.
    pub(super) fn netns_file(&self, record: &ContainerRecord) -> PathBuf {
        match (&record.origin, &record.mode, record.process()) {
            (Origin::Attached { path, .. }, ..) => path.into(),
            (Origin::Docker { sandbox, .. }, ..) => sandbox.clone().unwrap_or_default().into(),
            (Origin::Own, Mode::Host | Mode::Container(_), Some(process)) => {
                PathBuf::from(format!("/proc/{}/ns/net", process.pid))
            }
            (Origin::Own, ..) => self.netns_path(&record.name),
        }
    }

    /// Opens the namespace in which a container's interfaces are, if it is still the one it was.
    pub(super) fn open_netns(&self, record: &ContainerRecord) -> Option<File> {
        match &record.origin {
            Origin::Own => netns::open(&self.netns_path(&record.name)).ok()?,
            Origin::Attached { path, dev, ino } => {
                let netns = netns::open(Path::new(path)).ok()??;
                let meta = netns.metadata().ok()?;
                let found = Identity {
                    dev: meta.dev(),
                    ino: meta.ino(),
                };
                (found
                    == Identity {
                        dev: *dev,
                        ino: *ino,
                    })
                .then_some(netns)
            }
            // Docker's to repair.
            Origin::Docker { .. } => None,
        }
    }
}

pub(super) fn open_path(path: &Path) -> Result<File> {
    if !path.is_absolute() {
        return Err(invalid(format!(
            "the namespace {} needs an absolute path",
            path.display()
        )));
    }
    match netns::open(path) {
        Ok(Some(netns)) => Ok(netns),
        Ok(None) => Err(invalid(format!(
            "{} is not a network namespace",
            path.display()
        ))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(not_found(format!(
            "there is no namespace {}, make it first (\"ip netns add\") or name another",
            path.display()
        ))),
        Err(error) => {
            Err(error).with_context(|| format!("cannot open the namespace {}", path.display()))
        }
    }
}

pub(super) fn open_pid(pid: u32) -> Result<(PathBuf, File)> {
    let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
    match netns::open(&path) {
        Ok(Some(netns)) => Ok((path, netns)),
        Ok(None) => Err(anyhow!("{} is not a network namespace", path.display())),
        // A zombie has an entry in /proc and no namespaces any more.
        Err(_) if ProcessId::of(pid).is_none_or(|process| !process.is_alive()) => {
            Err(not_found(format!("process {pid} does not run")))
        }
        Err(error) => {
            Err(error).with_context(|| format!("cannot open the namespace of process {pid}"))
        }
    }
}

/// What there is in a namespace that is to get an interface.
#[derive(Debug, Default)]
pub(super) struct There {
    /// Names of interfaces.
    pub(super) interfaces: Vec<String>,
    /// IPv6 is switched off there.
    pub(super) ipv6_off: bool,
}

pub(super) fn look_inside(netns: &File) -> Result<There> {
    let look = || {
        Ok(There {
            interfaces: interfaces()?,
            ipv6_off: ipv6_is_off(),
        })
    };
    blocking(|| netns::inside(netns::borrow(netns), look))
}

/// The names of the interfaces of a namespace; to be called on a thread inside it.
pub(super) fn interfaces() -> Result<Vec<String>> {
    in_runtime(async {
        let links = Netlink::connect()?.links().await?;
        Ok(links.into_iter().map(|link| link.name).collect())
    })
}
