//! Containers: made, started, ended, removed.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::attach::There;
use super::endpoint::Occasion;
use super::gateway::network_of;
use super::share::Surroundings;
use super::watch::Role;
use super::{Agent, Held, blocking, docker, now};
use crate::api::types::{Container, CreateContainer, Created};
use crate::container::{names, process, sysctls};
use crate::netlink::netns;
use crate::problem::{conflict, invalid};
use crate::store::{Command, ContainerRecord, Mode, NetworkRecord, Origin, ProcessId, State};

/// How long processes that were killed may take to be gone. More than a moment means that
/// the kernel waits for a device.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// What is told to whoever links containers.
const LINKS_ARE_OLD: &str =
    "--link is deprecated: in a network of their own containers find each other by name";

impl Agent {
    /// Prepares a container for its supervisor.
    ///
    /// # Errors
    /// A sentence; nothing is left of it.
    pub async fn create_container(self: &Arc<Self>, new: CreateContainer) -> Result<Created> {
        let mut held = self.held.lock().await;
        let uid = names::uid()?;
        let name = self.new_name(new.connect.name.as_deref(), &uid)?;
        let mode = self.mode(&new.connect)?;
        if let Some(hostname) = &new.hostname {
            names::check_hostname(hostname)?;
        }
        let mut options = new.connect.names.parse()?;
        for link in &mut options.links {
            link.container = self.called(&link.container)?.name;
        }
        if let Mode::Container(other) = &mode
            && !new.connect.names.is_empty()
        {
            return Err(invalid(format!(
                "a container that shares the network of {other} has its names as well: leave out \
                 --dns, --add-host, --link and their like"
            )));
        }
        sysctls::parse(&new.sysctls)?;
        if let (Mode::Host | Mode::Container(_), Some(key)) = (&mode, new.sysctls.keys().next()) {
            return Err(invalid(format!(
                "{key} cannot be set with --network {}: the network and its settings are somebody \
                 else's",
                mode.word().unwrap_or_default()
            )));
        }
        if new.argv.is_empty() {
            return Err(invalid("a container needs a command to run"));
        }
        let supervisor = ProcessId::of(new.supervisor).ok_or_else(|| {
            invalid(format!(
                "the supervisor, process {}, does not exist",
                new.supervisor
            ))
        })?;
        // Nothing is in its namespace yet.
        let there = There {
            ipv6_off: sysctls::switch_ipv6_off(&new.sysctls),
            ..There::default()
        };
        let surroundings = self.surroundings(&name, &mode, new.hostname.as_deref())?;
        let mut record = ContainerRecord {
            mode,
            command: Some(Command {
                argv: new.argv,
                detached: new.detached,
                remove: new.remove,
                hostname: surroundings.hostname.clone(),
            }),
            supervisor: Some(supervisor.clone()),
            uid,
            created: now(),
            names: options,
            sysctls: new.sysctls,
            ..ContainerRecord::new(&name, Origin::Own)
        };
        let mut made = None;
        let mut warnings = Vec::new();
        if !record.names.links.is_empty() {
            warnings.push(LINKS_ARE_OLD.to_owned());
        }
        if record.mode == Mode::Networks {
            made = self
                .plan_container(&mut held, &mut record, &new.connect, &there)
                .await?;
            warnings.extend(self.warn_of_ports(&record)?);
        } else {
            self.check_links(&record)?;
        }
        if record.mode != Mode::Networks && !new.connect.publish.is_empty() {
            warnings.push(format!(
                "published ports are discarded: with --network {} the container has no address \
                 of its own",
                record.mode.word().unwrap_or_default()
            ));
        }
        self.make_container(&mut held, &mut record, made, None)
            .await?;
        self.watch(&name, supervisor, Role::Supervisor);
        let files = self.files_path(&name);
        let Surroundings {
            hostname,
            netns,
            netns_id,
            files: shared,
        } = surroundings;
        Ok(Created {
            netns,
            netns_id,
            warnings,
            agent: std::process::id(),
            hostname,
            resolv_conf: shared.join("resolv.conf"),
            hosts: shared.join("hosts"),
            hostname_file: shared.join("hostname"),
            log: files.join("log"),
            exit_file: files.join("exit"),
            name,
        })
    }

    /// Checks the name of a new container, or makes one of its id.
    pub(super) fn new_name(&self, wanted: Option<&str>, uid: &str) -> Result<String> {
        let name = wanted.or(names::short_id(uid)).unwrap_or_default();
        names::check("container", name)?;
        match self.store.find_container(name)? {
            None => Ok(name.to_owned()),
            Some(other) => Err(conflict(format!(
                "a container named {name} exists already ({}), remove it with \"netpath rm{} \
                 {name}\" or choose another name",
                super::view::state_name(&other),
                if other.is_own() && !other.is_exited() {
                    " -f"
                } else {
                    ""
                },
            ))),
        }
    }

    /// Writes the intent, makes the kernel state, marks it as made; or undoes all of it.
    /// `made_network` was made for it; `foreign` is the namespace of somebody else.
    pub(super) async fn make_container(
        &self,
        held: &mut Held,
        record: &mut ContainerRecord,
        made_network: Option<NetworkRecord>,
        foreign: Option<&fs::File>,
    ) -> Result<()> {
        let made = self.try_make_container(record, foreign).await;
        let Err(error) = made else {
            let networks = record.network_names().join(", ");
            let networks = record.mode.word().unwrap_or(networks);
            log::info!("container {} is connected to {networks}", record.name);
            self.name_container(record);
            self.announce_change();
            return Ok(());
        };
        record.state = State::Creating;
        if let Err(second) = self.unmake_container(held, record).await {
            log::error!(
                "cannot clean up after container {}: {second:#}",
                record.name
            );
        }
        self.forget(&record.name);
        self.unmake_made(made_network.as_ref()).await;
        Err(error)
    }

    async fn try_make_container(
        &self,
        record: &mut ContainerRecord,
        foreign: Option<&fs::File>,
    ) -> Result<()> {
        let networks = self.store.networks()?;
        let mut places = Vec::new();
        for (place, endpoint) in record.endpoints.iter_mut().enumerate() {
            let network = network_of(endpoint, &networks)
                .with_context(|| format!("network {} is gone", endpoint.network))?;
            let in_place = place == 0 && foreign.is_none();
            let source = self.plan_device(endpoint, network, in_place).await?;
            endpoint.ready = true;
            places.push((place, source));
        }
        self.store.put_container(record)?;
        let own_netns;
        let (netns, occasion) = match foreign {
            Some(netns) => (Some(netns), Occasion::Attach),
            None if record.has_own_namespace() => {
                let path = self.netns_path(&record.name);
                let spare = places.first().and_then(|(_, source)| source.in_place());
                // Whatever has this name belongs to nobody: names are unique.
                blocking(|| {
                    netns::remove(&path)?;
                    match spare {
                        Some(spare) => spare.name(&path),
                        None => netns::create(&path),
                    }
                })?;
                own_netns = netns::open(&path)?
                    .ok_or_else(|| anyhow!("{} lost its mount", path.display()))?;
                (Some(&own_netns), Occasion::NewNamespace)
            }
            None => (None, Occasion::Later),
        };
        if let Some(netns) = netns {
            self.make_endpoints(record, &networks, netns, occasion, places)
                .await?;
            self.publish_all(record, &networks)?;
        }
        if foreign.is_none() {
            self.write_files(record)?;
        }
        record.state = State::Created;
        self.store.put_container(record)
    }

    /// The supervisor tells that the command runs.
    ///
    /// # Errors
    /// There is no such container waiting for its command.
    pub async fn started(self: &Arc<Self>, name: &str, pid: u32) -> Result<()> {
        let _held = self.held.lock().await;
        let mut record = self.store.container(name)?;
        if !record.is_own() || record.state != State::Created {
            return Err(conflict(format!(
                "container {name} does not wait for a command"
            )));
        }
        let process =
            ProcessId::of(pid).ok_or_else(|| invalid(format!("process {pid} does not exist")))?;
        self.note_processes(&record, &process)?;
        record.state = State::Running {
            process: process.clone(),
            since: now(),
        };
        self.store.put_container(&record)?;
        self.watch(name, process, Role::Main);
        self.announce_change();
        Ok(())
    }

    /// The supervisor tells that the command, process `pid`, ended: the container's network
    /// goes away. Telling it twice is fine, and so is telling it when another container has
    /// got the name.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn exited(&self, name: &str, pid: u32, code: i32) -> Result<()> {
        let mut held = self.held.lock().await;
        match self.store.find_container(name)? {
            Some(record) if record.process().is_some_and(|process| process.pid == pid) => {
                self.finish(&mut held, record, Some(code)).await?;
                drop(held);
                self.settle_cluster().await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Takes a container's processes and network away; it stays listed as exited unless it
    /// was to be removed.
    pub(super) async fn finish(
        &self,
        held: &mut Held,
        mut record: ContainerRecord,
        code: Option<i32>,
    ) -> Result<()> {
        self.kill_processes(&record);
        if let Err(error) = self.unmake_container(held, &record).await {
            // The next start finds what is left, as nobody's.
            log::error!("cannot clean up after container {}: {error:#}", record.name);
        }
        log::info!("container {} ended", record.name);
        if record
            .command
            .as_ref()
            .is_some_and(|command| command.remove)
        {
            self.forget(&record.name);
        } else {
            record.state = State::Exited {
                code,
                at: now(),
                networks: record.network_names(),
            };
            record.endpoints = Vec::new();
            record.supervisor = None;
            self.store.put_container(&record)?;
        }
        self.announce_change();
        Ok(())
    }

    /// Kills what still runs of a container that is ours.
    pub(super) fn kill_processes(&self, record: &ContainerRecord) {
        if !blocking(|| process::kill_all(|| self.processes_of(record), KILL_PATIENCE)) {
            log::warn!("processes of container {} do not end", record.name);
        }
    }

    /// Removes a container's record and files.
    pub(super) fn forget(&self, name: &str) {
        let _ = fs::remove_dir_all(self.files_path(name));
        if let Err(error) = self.store.remove_container(name) {
            log::error!("cannot forget container {name}: {error:#}");
        }
        self.announce_change();
    }

    /// Removes a container that ended, detaches an attached one, or with `force` ends and
    /// removes a running one.
    ///
    /// # Errors
    /// It does not exist, or runs and `force` is not set.
    pub async fn remove_container(self: &Arc<Self>, word: &str, force: bool) -> Result<()> {
        let before = self.called(word)?;
        let name = before.name.as_str();
        docker::check_is_not_dockers(&before)?;
        if before.process().is_some() {
            if !force {
                return Err(refuse_to_remove(name));
            }
            self.stop(name, 0).await?;
        }
        let mut held = self.held.lock().await;
        let record = match self.store.find_container(name)? {
            Some(record) => record,
            // It was removed as it ended.
            None => return Ok(()),
        };
        if record.is_another_than(&before) {
            // Removed as it ended, and another has got the name meanwhile.
            return Ok(());
        }
        if record.process().is_some() && !force {
            // Started meanwhile.
            return Err(refuse_to_remove(name));
        }
        if !record.is_exited() {
            self.kill_processes(&record);
            self.unmake_container(&mut held, &record).await?;
        }
        self.forget(name);
        log::info!("container {name} is gone");
        drop(held);
        self.settle_cluster().await;
        Ok(())
    }

    /// One container.
    ///
    /// # Errors
    /// There is none that is called so.
    pub fn show_container(&self, word: &str) -> Result<Container> {
        let record = self.called(word)?;
        Ok(self.view_container(&record, &self.store.networks()?))
    }
}

fn refuse_to_remove(name: &str) -> anyhow::Error {
    conflict(format!(
        "container {name} is running, stop it first or remove it with \"netpath rm -f {name}\""
    ))
}
