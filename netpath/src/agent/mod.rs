//! The agent: owner of networks, containers and published ports.
//!
//! * [`settings`], [`timeouts`]: what it was started with; `snat_range`: ports that it keeps from
//!   the host
//! * [`lock`]: one agent for one set of folders and one network namespace
//! * `network`, `container`, `attach`, `connect`, `stop`: the operations of the API; `plan`: what
//!   is looked for before anything is made; `share`: containers in the namespace of somebody else;
//!   `called`: what users call them
//! * `docker`: networks and endpoints that Docker makes by its driver; `adopt`: its own bridges
//! * `deny`: whom the uplinks do not let in; `events`: those who watch; `explain`: what would
//!   become of a packet
//! * `cluster`: what the nodes of a cluster tell each other; `global`: its networks; `flannel`:
//!   networks of flannel
//! * `overlay`: networks that reach across hosts; `tunnel`: where users say which
//! * `endpoint`: the kernel state of containers' interfaces; `interface`: their options; `inside`:
//!   what is done in their namespaces; `announce`: tells their neighbours
//! * `gateway`: which of a container's networks leads out; `ports`: published ports follow it
//! * `names`: tells the server for names who is where; `files`: containers' own files
//! * `reconcile`: at the start, makes kernel state and the store agree
//! * `follow`: keeps up with the host's devices and addresses
//! * `physical`: containers on a card of the host
//! * `watch`: waits for processes
//! * `view`: records as the API shows them
//! * [`purge`]: removes everything, without an agent
//!
//! Every operation does the same four things: it checks all of the request, writes its
//! intent to the store, makes the kernel state, and marks the record as ready. If
//! something fails, both are undone at once; if the agent is killed in between, the next
//! start finds the intent and undoes it. One operation runs at a time.

mod adopt;
mod announce;
mod attach;
mod called;
mod cluster;
mod connect;
mod container;
mod deny;
mod docker;
mod endpoint;
mod events;
mod explain;
mod files;
mod flannel;
mod follow;
mod gateway;
mod global;
mod inside;
mod interface;
pub mod lock;
mod names;
mod network;
mod overlay;
mod physical;
mod plan;
mod ports;
pub mod purge;
mod reconcile;
pub mod settings;
mod share;
mod snat_range;
mod spare;
mod stop;
pub mod timeouts;
mod tunnel;
mod view;
mod watch;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch as watch_channel;

use crate::api::server;
use crate::cluster::Cluster;
use crate::cluster::etcd::Access;
use crate::datapath::gate::Gate;
use crate::datapath::{Datapath, DatapathOptions, cgroup};
use crate::netlink::{Netlink, monitor};
use crate::publish::{EphemeralPorts, Reservation};
use crate::store::Store;
use events::Watchers;
use flannel::Memberships;
use lock::Locks;
use names::Names;
use settings::Settings;
use snat_range::Claim;
use spare::Spares;

/// How often idle flows are removed.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// Addresses are looked at this often even if the kernel tells of no change: its messages
/// can be lost when there are many.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Devices come and go in bursts; one look after a burst is enough.
const BURST: Duration = Duration::from_millis(30);
/// After a look there is a pause that many times as long: operations come first.
const PAUSES_A_LOOK: u32 = 5;
/// But never one longer than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long the end waits for an operation that is under way.
const LAST_OPERATION: Duration = Duration::from_secs(3);

/// The running agent.
pub struct Agent {
    settings: Settings,
    store: Store,
    netlink: Netlink,
    datapath: Mutex<Datapath>,
    /// Held by the one operation that runs.
    held: tokio::sync::Mutex<Held>,
    /// Changes whenever a container has changed its state.
    changes: watch_channel::Sender<u64>,
    /// Uplinks as they were last seen, for `status`.
    uplinks: Mutex<BTreeMap<String, Option<Uplink>>>,
    spares: Spares,
    /// This node's part in a cluster.
    cluster: Option<Arc<Cluster>>,
    /// How the cluster's store is reached.
    access: Option<Access>,
    /// Its parts in networks of flannel.
    memberships: Mutex<Memberships>,
    /// Tunnels to other hosts.
    tunnels: Mutex<crate::overlay::State>,
    /// The server that containers ask for names.
    names: Names,
    /// Their gates.
    gates: Mutex<BTreeMap<String, Gate>>,
    /// Those who watch what happens.
    watchers: Watchers,
    adoption: adopt::Keeper,
    started: Instant,
    _locks: Locks,
}

/// What only the running operation may touch.
struct Held {
    reservations: HashMap<String, Vec<Reservation>>,
    ephemeral: EphemeralPorts,
    host_addresses: Vec<(IpAddr, u32)>,
    /// Trusted devices by network id, as the datapath knows them; `None` before the first look.
    trusted: Option<Vec<(u16, u32)>>,
    /// Containers with a lost interface that could not be made anew.
    beyond_repair: HashSet<String>,
}

/// An uplink that the datapath is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Uplink {
    ifindex: u32,
    mtu: u32,
    addr4: Option<Ipv4Addr>,
    addr6: Option<Ipv6Addr>,
}

/// Runs an agent until it is asked to end.
///
/// # Errors
/// It cannot start: a sentence that says why and what to do.
pub async fn run(settings: Settings) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    let agent = tokio::select! {
        agent = Agent::start(settings) => agent?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let listener = listen(&agent.settings.socket, Some("netpath"))?;
    let plugin = match &agent.settings.docker_plugin {
        // Docker runs as root, and nobody else has any business there.
        Some(socket) => Some(listen(socket, None)?),
        None => None,
    };
    if let Some(plugin) = plugin {
        tokio::spawn(crate::docker::server::serve(plugin, agent.clone()));
    }
    agent.docker_settle_rest()?;
    let server = tokio::spawn(server::serve(listener, agent.clone()));
    tokio::spawn(agent.clone().keep_up(monitor::watch()?));
    tokio::spawn(agent.clone().keep_clean());
    tokio::spawn(agent.clone().keep_cluster());
    tokio::spawn(agent.clone().keep_spares());
    tokio::spawn(agent.clone().keep_names());
    let adopter = tokio::spawn(agent.clone().keep_adopted());
    agent.clone().show_programs_log()?;
    agent.clone().show_events()?;
    {
        // A reader that went away is no reason to end.
        let mut stdout = std::io::stdout();
        let _ = writeln!(stdout, "ready").and_then(|()| stdout.flush());
    }
    lock::notify_service_manager();
    log::info!("serving on {}", agent.settings.socket.display());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        served = server => served.context("the API failed")??,
    }
    // Networks and containers stay in force; only an operation under way is waited for.
    let last = tokio::time::timeout(LAST_OPERATION, agent.held.lock()).await;
    if last.is_err() {
        log::warn!("an operation was cut short, the next start will clean up after it");
    }
    // Or it would adopt anew what is left alone here.
    adopter.abort();
    match tokio::time::timeout(LAST_OPERATION, agent.stand_by()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::error!("cannot leave Docker's networks to Docker: {error:#}"),
        Err(_) => log::error!("there was no time to leave Docker's networks to Docker"),
    }
    let sockets = [
        Some(&agent.settings.socket),
        agent.settings.docker_plugin.as_ref(),
    ];
    for socket in sockets.into_iter().flatten() {
        let _ = fs::remove_file(socket);
    }
    log::info!("the agent ends; networks and containers stay");
    Ok(())
}

/// Makes a socket, for root and, if there is such a group, for a group.
fn listen(socket: &Path, group: Option<&str>) -> Result<UnixListener> {
    let failed = || format!("cannot listen on {}", socket.display());
    lock::remove_socket(socket)?;
    if let Some(folder) = socket.parent() {
        fs::create_dir_all(folder).with_context(failed)?;
    }
    // Nobody but root until the group is set.
    let umask = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(socket);
    nix::sys::stat::umask(umask);
    let listener = listener.with_context(failed)?;
    if let Some(group) = group {
        if let Ok(Some(group)) = nix::unistd::Group::from_name(group) {
            chown(socket, None, Some(group.gid.as_raw())).with_context(failed)?;
        }
        fs::set_permissions(socket, fs::Permissions::from_mode(0o660)).with_context(failed)?;
    }
    Ok(listener)
}

impl Agent {
    /// Takes over what an earlier agent left, or begins anew.
    async fn start(settings: Settings) -> Result<Arc<Self>> {
        lock::check_host()?;
        lock::check_bpffs(&settings.bpffs)?;
        let netlink = Netlink::connect()?;
        let settings = settings.with_uplinks(&netlink).await?;
        if let Some(cgroup) = &settings.cgroup {
            cgroup::check(cgroup)?;
        }
        for warning in timeouts::warnings(&settings.timeouts) {
            log::warn!("{warning}");
        }
        // Nothing is made before all that can be asked was asked.
        let claim = Claim::plan(&settings)?;
        let mut locks = Locks::take(&settings)?;
        lock::check_socket(&settings.socket, "--socket")?;
        if let Some(socket) = &settings.docker_plugin {
            lock::check_socket(socket, "--docker-plugin")?;
        }
        lock::raise_file_limit();
        lock::raise_neighbour_limits();
        let store = Store::open(&settings.state_dir)?;
        let (cluster, access) = cluster::open(&settings, &store)?.unzip();
        let options = DatapathOptions {
            bpffs: settings.bpffs.clone(),
            max_flows: settings.max_flows,
            max_flows_per_endpoint: settings.max_flows_per_container,
            timeouts: settings.timeouts,
            snat_ports: settings.snat_ports,
            log: settings.log_datapath,
        };
        let datapath = blocking(|| Datapath::open(&options))?;
        locks.take_bpffs(&settings.bpffs)?;
        claim.apply(&settings)?;
        let held = Held {
            reservations: HashMap::new(),
            ephemeral: EphemeralPorts::new(settings.snat_ports),
            host_addresses: Vec::new(),
            trusted: None,
            beyond_repair: HashSet::new(),
        };
        let uplinks = settings
            .uplinks
            .iter()
            .map(|name| (name.clone(), None))
            .collect();
        let agent = Arc::new(Self {
            settings,
            store,
            netlink,
            datapath: Mutex::new(datapath),
            held: tokio::sync::Mutex::new(held),
            changes: watch_channel::Sender::new(0),
            uplinks: Mutex::new(uplinks),
            spares: Spares::default(),
            cluster,
            access: access.clone(),
            memberships: Mutex::default(),
            tunnels: Mutex::default(),
            names: Names::default(),
            gates: Mutex::default(),
            watchers: Watchers::default(),
            adoption: adopt::Keeper::default(),
            started: Instant::now(),
            _locks: locks,
        });
        agent.reconcile().await?;
        if let Some(access) = access {
            agent.join_cluster(access).await?;
            agent.resume_memberships()?;
        }
        agent.make_default_network().await;
        agent.serve_own_processes();
        agent.restore_names();
        Ok(agent)
    }

    /// Lets the host's own processes reach published ports. Containers and clients from
    /// outside do not depend on it, so a host that cannot have it is served all the same.
    fn serve_own_processes(&self) {
        let attached = match self.settings.cgroup.clone().or_else(cgroup::find) {
            Some(cgroup) => self
                .with_datapath(|datapath| datapath.attach_sockets(&cgroup))
                .map(|()| cgroup),
            None => Err(anyhow::anyhow!("no cgroup2 filesystem is mounted")),
        };
        if attached.as_deref().is_ok_and(cgroup::is_everybodys) {
            self.names.exchange_ports();
        }
        if let Err(error) = attached {
            log::warn!("processes of this host itself cannot reach published ports: {error:#}");
        }
    }

    /// Looks after the host's devices and addresses, forever.
    async fn keep_up(self: Arc<Self>, mut changed: tokio::sync::mpsc::Receiver<()>) {
        let mut pause = BURST;
        loop {
            // Both a message and the end of patience are a reason to look.
            if let Ok(None) = tokio::time::timeout(LOOK_EVERY, changed.recv()).await {
                log::error!("the kernel tells no more of changes, looking now and then");
                tokio::time::sleep(LOOK_EVERY).await;
            }
            tokio::time::sleep(pause).await;
            let mut held = self.held.lock().await;
            let begin = Instant::now();
            if let Err(error) = self.look_around(&mut held).await {
                log::error!("cannot keep up with the host's network: {error:#}");
            }
            // With thousands of devices a look takes long, and operations wait for it.
            pause = (begin.elapsed() * PAUSES_A_LOOK).clamp(BURST, LONGEST_PAUSE);
        }
    }

    /// Removes idle flows, forever, and reserves ports that somebody else had.
    async fn keep_clean(self: Arc<Self>) {
        let mut tick = tokio::time::interval(SWEEP_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            match self.with_datapath(Datapath::sweep) {
                Ok(report) => log::debug!("{} idle connections removed", report.removed),
                Err(error) => log::error!("cannot remove idle connections: {error:#}"),
            }
            let mut held = self.held.lock().await;
            if let Err(error) = self.reserve_missing(&mut held) {
                log::error!("cannot reserve published ports: {error:#}");
            }
        }
    }

    /// Copies the messages of the programs into the agent's log.
    fn show_programs_log(self: Arc<Self>) -> Result<()> {
        let Some(logger) = self.with_datapath(Datapath::log)? else {
            return Ok(());
        };
        // SAFETY: the logger owns one ring buffer and gives its descriptor, always the same.
        let mut logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }
            .context("cannot wait for the programs' log")?;
        tokio::spawn(async move {
            while let Ok(mut guard) = logger.readable_mut().await {
                guard.get_inner_mut().flush();
                guard.clear_ready();
            }
        });
        Ok(())
    }

    /// Calls the datapath; it makes system calls that take milliseconds.
    pub fn with_datapath<T>(&self, action: impl FnOnce(&mut Datapath) -> Result<T>) -> Result<T> {
        blocking(|| {
            // A panic in another call left maps that the kernel keeps consistent.
            let mut datapath = self.datapath.lock().unwrap_or_else(PoisonError::into_inner);
            action(&mut datapath)
        })
    }

    /// Wakes everyone who waits for a container to change.
    fn announce_change(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// The smallest MTU of the uplinks, for networks that name none.
    fn default_mtu(&self) -> u32 {
        let uplinks = self.uplinks.lock().unwrap_or_else(PoisonError::into_inner);
        // Without an uplink: Ethernet's.
        uplinks
            .values()
            .flatten()
            .map(|uplink| uplink.mtu)
            .min()
            .unwrap_or(1500)
    }

    fn netns_path(&self, container: &str) -> PathBuf {
        self.settings.run_dir.join("netns").join(container)
    }

    /// Folder of a container's files: `resolv.conf`, `hosts`, `hostname`, `log`, `exit`.
    fn files_path(&self, container: &str) -> PathBuf {
        self.settings.run_dir.join("containers").join(container)
    }
}

/// Runs something that blocks without holding up the other tasks.
fn blocking<T>(action: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(action)
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}
