//! Containers: made, started, ended, removed.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::watch::Role;
use super::{Agent, Held, blocking, docker, now};
use crate::api::types::{Connect, Container, CreateContainer, Created};
use crate::container::{files, names, process};
use crate::ipam::{allocate, check_wanted};
use crate::netlink::netns;
use crate::policy::Policy;
use crate::problem::{conflict, invalid};
use crate::publish::{self, Binding, Mapping, Opened, Reservation, Surroundings, reserve_all};
use crate::store::{
    Command, ContainerRecord, EndpointRecord, NetworkRecord, Origin, ProcessId, State,
};

/// How long processes that were killed may take to be gone. More than a moment means that
/// the kernel waits for a device.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// A planned interface.
pub(super) struct Plan {
    pub(super) network: NetworkRecord,
    pub(super) endpoint: EndpointRecord,
    pub(super) reservations: Vec<Reservation>,
    /// The network was made for it.
    made_network: bool,
}

/// Published ports that were found for an endpoint.
pub(super) struct Reserved {
    /// Those at its own addresses.
    pub(super) opened: Vec<Opened>,
    /// Those of the host.
    pub(super) reservations: Vec<Reservation>,
}

impl Agent {
    /// Prepares a container for its supervisor.
    ///
    /// # Errors
    /// A sentence; nothing is left of it.
    pub async fn create_container(self: &Arc<Self>, new: CreateContainer) -> Result<Created> {
        let mut held = self.held.lock().await;
        let name = self.new_name(new.connect.name.as_deref())?;
        let hostname = match new.hostname {
            Some(hostname) => {
                names::check_hostname(&hostname)?;
                hostname
            }
            None => name.clone(),
        };
        if new.argv.is_empty() {
            return Err(invalid("a container needs a command to run"));
        }
        let supervisor = ProcessId::of(new.supervisor).ok_or_else(|| {
            invalid(format!(
                "the supervisor, process {}, does not exist",
                new.supervisor
            ))
        })?;
        let plan = self.plan_endpoint(&mut held, &new.connect).await?;
        let mut record = ContainerRecord {
            command: Some(Command {
                argv: new.argv,
                detached: new.detached,
                remove: new.remove,
                hostname: hostname.clone(),
            }),
            supervisor: Some(supervisor.clone()),
            created: now(),
            ..ContainerRecord::new(&name, &plan.network.name, Origin::Own)
        };
        self.make_container(&mut held, &mut record, plan, None)
            .await?;
        self.watch(&name, supervisor, Role::Supervisor);
        let files = self.files_path(&name);
        Ok(Created {
            netns: self.netns_path(&name),
            agent: std::process::id(),
            hostname,
            resolv_conf: files.join("resolv.conf"),
            hosts: files.join("hosts"),
            hostname_file: files.join("hostname"),
            log: files.join("log"),
            exit_file: files.join("exit"),
            name,
        })
    }

    /// Checks or chooses the name of a new container.
    pub(super) fn new_name(&self, wanted: Option<&str>) -> Result<String> {
        let Some(name) = wanted else {
            return names::generate();
        };
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

    /// Finds network, addresses and ports for a container.
    pub(super) async fn plan_endpoint(&self, held: &mut Held, connect: &Connect) -> Result<Plan> {
        let mut mappings = Vec::new();
        for text in &connect.publish {
            mappings.extend(publish::parse(text)?);
        }
        let known = self.store.networks()?.len();
        let mut network = self.network_for(held, connect.network.as_deref()).await?;
        let made_network = self.store.networks()?.len() > known;
        if network.policy.internal && !mappings.is_empty() {
            return Err(invalid(format!(
                "network {} is internal, so nobody outside could reach a published port, leave \
                 out -p or choose another network",
                network.name
            )));
        }
        let network_policy = network.policy.clone();
        let planned = self
            .plan_addresses(&mut network, connect)
            .and_then(|mut endpoint| {
                let reserved = self.reserve_ports(held, &network_policy, mappings, &endpoint)?;
                endpoint.opened = reserved.opened;
                endpoint.ports = bindings(&reserved.reservations).collect();
                Ok((endpoint, reserved.reservations))
            });
        match planned {
            Ok((endpoint, reservations)) => Ok(Plan {
                network,
                endpoint,
                reservations,
                made_network,
            }),
            Err(error) => {
                if made_network {
                    self.unmake_network(&network).await?;
                }
                Err(error)
            }
        }
    }

    /// Reserves ports of the host for an endpoint.
    pub(super) fn reserve_ports(
        &self,
        held: &mut Held,
        policy: &Policy,
        mut mappings: Vec<Mapping>,
        endpoint: &EndpointRecord,
    ) -> Result<Reserved> {
        let mut families = (endpoint.addr4.is_some(), endpoint.addr6.is_some());
        let opened = publish::split(policy, &mut mappings, &mut families);
        let host: Vec<IpAddr> = held.host_addresses.iter().map(|(ip, _)| *ip).collect();
        let containers = self.store.containers()?;
        let holder = |binding: &Binding| {
            let collides = |container: &&ContainerRecord| {
                let endpoint = container.endpoint.as_ref();
                endpoint.is_some_and(|e| e.ports.iter().any(|port| port.collides(binding)))
            };
            containers
                .iter()
                .find(collides)
                .map(|container| container.name.clone())
        };
        let surroundings = Surroundings {
            families,
            host: &host,
            held: held.reservations.values().map(Vec::len).sum(),
            holder: &holder,
        };
        let reservations = blocking(|| reserve_all(&mappings, &surroundings, &mut held.ephemeral))?;
        Ok(Reserved {
            opened,
            reservations,
        })
    }

    fn plan_addresses(
        &self,
        network: &mut NetworkRecord,
        connect: &Connect,
    ) -> Result<EndpointRecord> {
        let used = self.store.leases(network.id)?;
        let mut addresses = Vec::new();
        for (v4, wanted) in [
            (true, connect.ip.map(IpAddr::V4)),
            (false, connect.ip6.map(IpAddr::V6)),
        ] {
            let address = match (network.subnet(v4), wanted) {
                (None, None) => continue,
                (None, Some(wanted)) => {
                    let family = if v4 { "IPv4" } else { "IPv6" };
                    return Err(invalid(format!(
                        "address {wanted} cannot be had: network {} has no {family} subnet",
                        network.name
                    )));
                }
                (Some(subnet), Some(wanted)) => {
                    check_wanted(subnet, &used, wanted)?;
                    self.check_not_elsewhere(network, wanted)?;
                    wanted
                }
                (Some(subnet), None) => {
                    let last = network.last_leases.iter().find(|last| last.is_ipv4() == v4);
                    let address =
                        self.beside_tunnels(network, last.copied(), &used, |last, used| {
                            allocate(subnet, used, last)
                        })?;
                    network.last_leases.retain(|last| last.is_ipv4() != v4);
                    network.last_leases.push(address);
                    address
                }
            };
            addresses.push(address);
        }
        self.store.put_network(network)?;
        Ok(EndpointRecord {
            network_id: network.id,
            // It gets one when it is made.
            device: String::new(),
            ifindex: 0,
            mac: names::random_mac()?,
            addr4: addresses.iter().find_map(|address| match address {
                IpAddr::V4(address) => Some(*address),
                IpAddr::V6(_) => None,
            }),
            addr6: addresses.iter().find_map(|address| match address {
                IpAddr::V6(address) => Some(*address),
                IpAddr::V4(_) => None,
            }),
            ports: Vec::new(),
            opened: Vec::new(),
        })
    }

    /// Writes the intent, makes the kernel state, marks it as made; or undoes all of it.
    /// `foreign` is the namespace of somebody else.
    pub(super) async fn make_container(
        &self,
        held: &mut Held,
        record: &mut ContainerRecord,
        plan: Plan,
        foreign: Option<&fs::File>,
    ) -> Result<()> {
        let Plan {
            network,
            mut endpoint,
            reservations,
            made_network,
        } = plan;
        let spare = self.take_spare(network.mtu, network.local_mtu).await;
        match &spare {
            Some(spare) => {
                endpoint.device.clone_from(&spare.device);
                endpoint.mac = spare.mac;
            }
            None => endpoint.device = self.new_device()?,
        }
        record.endpoint = Some(endpoint.clone());
        let name = record.name.clone();
        let made = async {
            self.store.put_container(record)?;
            held.reservations.insert(name.clone(), reservations);
            let own_netns;
            let netns = match foreign {
                Some(netns) => netns,
                None => {
                    let path = self.netns_path(&name);
                    // Whatever has this name belongs to nobody: names are unique.
                    blocking(|| {
                        netns::remove(&path)?;
                        match &spare {
                            Some(spare) => spare.name(&path),
                            None => netns::create(&path),
                        }
                    })?;
                    own_netns = netns::open(&path)?
                        .ok_or_else(|| anyhow!("{} lost its mount", path.display()))?;
                    &own_netns
                }
            };
            let own = foreign.is_none();
            self.make_endpoint(&name, &network, &mut endpoint, netns, own, spare.as_ref())
                .await?;
            if foreign.is_none() {
                self.write_files(record, &endpoint)?;
            }
            record.endpoint = Some(endpoint);
            record.state = State::Created;
            self.store.put_container(record)
        }
        .await;
        let Err(error) = made else {
            log::info!(
                "container {name} is connected to network {}",
                record.network
            );
            self.announce_change();
            return Ok(());
        };
        record.state = State::Creating;
        if let Err(second) = self.unmake_endpoint(held, record).await {
            log::error!("cannot clean up after container {name}: {second:#}");
        }
        self.forget(&name);
        if made_network && let Err(second) = self.unmake_network(&network).await {
            log::error!("cannot clean up after network {}: {second:#}", network.name);
        }
        Err(error)
    }

    fn write_files(&self, record: &ContainerRecord, endpoint: &EndpointRecord) -> Result<()> {
        let Some(command) = &record.command else {
            return Ok(());
        };
        let folder = self.files_path(&record.name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let resolv_conf = files::resolv_conf(&files::host_resolv_conf(), endpoint.addr6.is_some());
        let hosts = files::hosts(&command.hostname, &record.name, endpoint.addresses());
        for (name, text, mode) in [
            ("resolv.conf", resolv_conf, 0o644),
            ("hosts", hosts, 0o644),
            ("hostname", format!("{}\n", command.hostname), 0o644),
            // What a container prints may be a secret.
            ("log", String::new(), 0o600),
        ] {
            let path = folder.join(name);
            fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(&path)
                .and_then(|mut file| file.write_all(text.as_bytes()))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
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
                self.finish(&mut held, record, Some(code)).await
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
        if let Err(error) = self.unmake_endpoint(held, &record).await {
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
            record.state = State::Exited { code, at: now() };
            record.endpoint = None;
            record.supervisor = None;
            self.store.put_container(&record)?;
        }
        self.announce_change();
        Ok(())
    }

    /// Kills what still runs in a namespace that is ours.
    pub(super) fn kill_processes(&self, record: &ContainerRecord) {
        let path = self.netns_path(&record.name);
        if !record.is_own() {
            return;
        }
        match netns::open(&path) {
            // Whatever somebody mounted there: never end the host's processes.
            Ok(Some(netns)) if netns::is_own(&netns).is_ok_and(|own| !own) => {}
            _ => return,
        }
        if let Ok(identity) = netns::identity(&path)
            && !blocking(|| process::kill_all(identity, KILL_PATIENCE))
        {
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
    pub async fn remove_container(self: &Arc<Self>, name: &str, force: bool) -> Result<()> {
        let before = self.store.container(name)?;
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
            self.unmake_endpoint(&mut held, &record).await?;
        }
        self.forget(name);
        log::info!("container {name} is gone");
        Ok(())
    }

    /// One container.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn show_container(&self, name: &str) -> Result<Container> {
        let record = self.store.container(name)?;
        Ok(self.view_container(&record, &self.store.networks()?))
    }
}

/// All bindings of some reservations.
pub(super) fn bindings(reservations: &[Reservation]) -> impl Iterator<Item = Binding> {
    reservations.iter().flat_map(Reservation::bindings)
}

fn refuse_to_remove(name: &str) -> anyhow::Error {
    conflict(format!(
        "container {name} is running, stop it first or remove it with \"netpath rm -f {name}\""
    ))
}
