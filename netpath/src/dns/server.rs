//! The process that answers: `netpath name-server`, started by the agent.
//!
//! It outlives the agent, answering from the tables that it was told last. It ends when it is
//! told to, when its socket in the run folder is gone or another's, and when there is nobody to
//! answer and no agent that could tell it of somebody.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep};

use super::answer::{Outcome, answer};
use super::control::{self, Answer, Change, Hello, Legacy, Report, Request};
use super::forward::{self, From};
use super::hand;
use super::listen::{self, Listener};
use super::sockets::Maker;
use super::tables::{Client, Place, World};
use super::upstream::{Health, HostServers, MOST};
use super::wire::{self, code};
use super::{ADDRESS, PORT};
use crate::container::process::{self, Space};
use crate::netlink::netns::{Identity, identity};

/// Queries that others are asked about at a time, of all clients.
const FORWARDS: usize = 2048;
/// How often the server looks whether it is still wanted.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a new server waits for the agent that started it.
const GRACE: Duration = Duration::from_secs(15);
/// How long queries that are under way have when a successor takes over.
const LAST_ANSWERS: Duration = Duration::from_secs(6);
/// How long a predecessor may take to hand its sockets over.
const HAND_OVER: Duration = Duration::from_secs(5);

/// The server.
#[derive(Debug)]
pub struct Server {
    build: String,
    world: RwLock<World>,
    listeners: Mutex<HashMap<String, Listener>>,
    host: Mutex<HostServers>,
    health: Health,
    maker: Maker,
    forwards: Semaphore,
    /// Connections of agents.
    agents: AtomicUsize,
    /// There has been one.
    begun: AtomicBool,
    end: Notify,
    handed_over: Notify,
}

/// Runs the server in a run folder; says "ready" on standard output. With `take_over` the
/// sockets of the server that is there are taken over.
///
/// # Errors
/// It cannot start.
pub fn run(run_dir: &Path, take_over: bool) -> Result<()> {
    // What ss and ps show; it was started as /proc/self/exe.
    let _ = nix::sys::prctl::set_name(c"netpath-names");
    let build = control::build().context("cannot look at /proc/self")?;
    crate::agent::lock::raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the server for names")?;
    let result = runtime.block_on(serve(run_dir, take_over, build));
    runtime.shutdown_background();
    result
}

async fn serve(run_dir: &Path, take_over: bool, build: String) -> Result<()> {
    let path = control::socket(run_dir);
    let server = Arc::new(Server {
        build,
        world: RwLock::default(),
        listeners: Mutex::default(),
        host: Mutex::new(HostServers::new(Path::new("/etc/resolv.conf"))),
        health: Health::default(),
        maker: Maker::start()?,
        forwards: Semaphore::new(FORWARDS),
        agents: AtomicUsize::new(0),
        begun: AtomicBool::new(false),
        end: Notify::new(),
        handed_over: Notify::new(),
    });
    if take_over && let Err(error) = server.inherit(&path) {
        // The agent tells us everything anew.
        log::warn!("the server before this one handed nothing over: {error:#}");
    }
    let (listener, inode) = bind(&path)?;
    tokio::spawn(server.clone().serve_agents(listener));
    {
        let mut stdout = io::stdout();
        let _ = writeln!(stdout, "ready").and_then(|()| stdout.flush());
    }
    log::info!("the server for names is process {}", std::process::id());
    tokio::select! {
        () = server.end.notified() => {}
        () = server.keep_looking(&path, inode) => {}
        () = server.handed_over.notified() => {
            sleep(LAST_ANSWERS).await;
            return Ok(());
        }
    }
    if fs::metadata(&path).is_ok_and(|meta| meta.ino() == inode) {
        let _ = fs::remove_file(&path);
    }
    Ok(())
}

/// Listens for agents; puts the socket in the place of a predecessor's at once.
fn bind(path: &Path) -> Result<(UnixListener, u64)> {
    let failed = || format!("cannot listen on {}", path.display());
    let new = path.with_extension(format!("{}", std::process::id()));
    let _ = fs::remove_file(&new);
    // Whoever may write to it decides what containers believe.
    let umask = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(&new);
    nix::sys::stat::umask(umask);
    let listener = listener.with_context(failed)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).with_context(failed)?;
    let inode = fs::metadata(&new).with_context(failed)?.ino();
    fs::rename(&new, path).with_context(failed)?;
    Ok((listener, inode))
}

impl Server {
    fn listeners(&self) -> MutexGuard<'_, HashMap<String, Listener>> {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn host(&self) -> MutexGuard<'_, HostServers> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn client(&self, name: &str) -> Option<Arc<Client>> {
        let world = self.world.read().unwrap_or_else(PoisonError::into_inner);
        world.client(name).cloned()
    }

    /// What becomes of a client's query.
    pub fn decide(&self, name: &str, query: &[u8], tcp: bool) -> Outcome {
        let world = self.world.read().unwrap_or_else(PoisonError::into_inner);
        match world.client(name) {
            Some(client) => answer(&world, client, query, tcp),
            None => Outcome::Silence,
        }
    }

    /// Asks others for a client; the answer has at most `limit` bytes.
    pub async fn forward(
        &self,
        name: &str,
        query: &[u8],
        limit: usize,
        tcp: bool,
    ) -> Option<Vec<u8>> {
        let Ok(_permit) = self.forwards.try_acquire() else {
            return wire::refuse(query, code::REFUSED);
        };
        let client = self.client(name)?;
        let (from, servers) = self.upstreams(&client);
        match forward::ask(&from, servers, &self.health, query, tcp).await {
            Some(answer) if answer.len() > limit => wire::truncated(&answer),
            Some(answer) => Some(answer),
            None => wire::refuse(query, code::SERVER),
        }
    }

    /// Servers that were named for the container are asked from its own namespace: they may be
    /// on its networks, or in itself, and an internal network must not become a way out. The
    /// host's are asked from the host's: a container cannot reach 127.0.0.53 of the host, nor an
    /// IPv6 server if it has no IPv6.
    fn upstreams(&self, client: &Client) -> (From, Vec<SocketAddr>) {
        let maker = self.maker.clone();
        if client.forward.servers.is_empty() {
            let servers = if client.forward.internal {
                Vec::new()
            } else {
                self.host().now()
            };
            return (
                From {
                    client: None,
                    maker,
                },
                servers,
            );
        }
        let netns = self.listeners().get(&client.name).map(|l| l.netns.clone());
        let servers = match &netns {
            Some(_) => client
                .forward
                .servers
                .iter()
                .filter(|server| **server != ADDRESS)
                .take(MOST)
                .map(|server| SocketAddr::new(*server, PORT))
                .collect(),
            // Its namespace is gone.
            None => Vec::new(),
        };
        let client = netns.map(|netns| (client.name.clone(), netns));
        (From { client, maker }, servers)
    }

    async fn serve_agents(self: Arc<Self>, listener: UnixListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let server = self.clone();
                    tokio::spawn(async move {
                        server.agents.fetch_add(1, Ordering::Relaxed);
                        server.begun.store(true, Ordering::Relaxed);
                        if let Err(error) = server.serve_agent(stream).await {
                            log::debug!("a connection of an agent ended: {error:#}");
                        }
                        server.agents.fetch_sub(1, Ordering::Relaxed);
                    });
                }
                Err(error) => {
                    log::warn!("cannot accept connections of agents: {error}");
                    sleep(LOOK_EVERY).await;
                }
            }
        }
    }

    async fn serve_agent(self: &Arc<Self>, mut stream: UnixStream) -> Result<()> {
        loop {
            let mut head = [0; 4];
            stream.read_exact(&mut head).await?;
            let mut bytes = vec![0; control::length(head)?];
            stream.read_exact(&mut bytes).await?;
            let answer = match serde_json::from_slice(&bytes)? {
                Request::Hello => Answer::Hello(Hello {
                    build: self.build.clone(),
                    pid: std::process::id(),
                }),
                Request::Change(change) => Answer::Report(self.change(change).await),
                Request::HandOver => return self.hand_over(stream).await,
                Request::End => {
                    stream.write_all(&control::encode(&Answer::Ending)?).await?;
                    self.end.notify_one();
                    return Ok(());
                }
            };
            stream.write_all(&control::encode(&answer)?).await?;
        }
    }

    /// Changes the tables, and listens where there is somebody new.
    async fn change(self: &Arc<Self>, change: Change) -> Report {
        let mut report = Report::default();
        if change.resolv_conf != PathBuf::new() {
            let mut host = self.host();
            if host.path() != change.resolv_conf {
                *host = HostServers::new(&change.resolv_conf);
            }
        }
        let mut remove = change.remove;
        if change.reset {
            let world = self.world.read().unwrap_or_else(PoisonError::into_inner);
            let stays = |name: &str| change.put.iter().any(|client| client.name == name);
            let gone = world.clients().filter(|client| !stays(&client.name));
            remove.extend(gone.map(|client| client.name.clone()));
        }
        let places: Vec<(String, Place)> = change
            .put
            .iter()
            // Those on other hosts ask there.
            .filter(|client| !client.place.is_elsewhere())
            .map(|client| (client.name.clone(), client.place.clone()))
            .collect();
        // Whoever is told to be there is known to the others from now on.
        {
            let mut world = self.world.write().unwrap_or_else(PoisonError::into_inner);
            world.change(change.put, &remove);
        }
        {
            let mut listeners = self.listeners();
            for name in &remove {
                listeners.remove(name);
            }
        }
        for (name, place) in places {
            match self.listen(&name, place).await {
                Ok(listening) => report.listening.push(listening),
                Err(error) => report.failed.push((name, format!("{error:#}"))),
            }
        }
        report
    }

    /// Listens in a client's namespace, unless it is being listened in already.
    async fn listen(self: &Arc<Self>, name: &str, place: Place) -> Result<control::Listening> {
        let opened = listen::open(&place);
        {
            let mut listeners = self.listeners();
            if let Some(listener) = listeners.get(name) {
                let same = match &opened {
                    Ok(netns) => listener.is_in(netns),
                    // It has no name any more, and somebody still lives in it.
                    Err(_) => place.foreign.is_some(),
                };
                if same && listener.place == place {
                    return Ok(listener.listening.clone());
                }
                // First, or its port would be taken.
                listeners.remove(name);
            }
        }
        let netns = Arc::new(opened?);
        let pair = self.maker.listen(netns.clone(), place.port_53).await?;
        let mut listener = Listener::new(name, place, netns, pair)?;
        listener.serve(self);
        let listening = listener.listening.clone();
        self.listeners().insert(name.to_owned(), listener);
        Ok(listening)
    }

    /// Gives everything to a successor.
    async fn hand_over(&self, stream: UnixStream) -> Result<()> {
        let (legacy, descriptors) = {
            let mut listeners = self.listeners();
            let world = self.world.read().unwrap_or_else(PoisonError::into_inner);
            let mut legacy = Legacy {
                clients: world.clients().map(|client| (**client).clone()).collect(),
                resolv_conf: self.host().path().to_owned(),
                places: Vec::new(),
            };
            let mut descriptors = Vec::new();
            for (name, listener) in &mut *listeners {
                listener.pause();
                legacy.places.push((name.clone(), listener.place.clone()));
                descriptors.push(listener.descriptors());
            }
            (legacy, descriptors)
        };
        let stream = stream.into_std()?;
        // The listeners stay in the table until this process ends, and their descriptors with
        // them.
        let given = tokio::task::spawn_blocking(move || -> Result<()> {
            stream.set_nonblocking(false)?;
            stream.set_write_timeout(Some(HAND_OVER))?;
            control::send(&stream, &Answer::Legacy(legacy))?;
            for together in descriptors {
                hand::give(&stream, together)?;
            }
            Ok(())
        });
        let result = given.await.context("cannot hand over")?;
        // Even if the successor died halfway: the agent starts another.
        self.handed_over.notify_one();
        result
    }

    /// Takes everything of the server that listens on `path`.
    fn inherit(self: &Arc<Self>, path: &Path) -> Result<()> {
        let stream = StdUnixStream::connect(path).context("cannot connect to it")?;
        stream.set_read_timeout(Some(HAND_OVER))?;
        stream.set_write_timeout(Some(HAND_OVER))?;
        control::send(&stream, &Request::HandOver)?;
        let Answer::Legacy(legacy) = control::receive(&stream)? else {
            anyhow::bail!("it does not know how");
        };
        {
            let mut world = self.world.write().unwrap_or_else(PoisonError::into_inner);
            world.change(legacy.clients, &[]);
        }
        *self.host() = HostServers::new(&legacy.resolv_conf);
        for (name, place) in legacy.places {
            let (pair, netns) = hand::take(&stream)?;
            let mut listener = Listener::new(&name, place, Arc::new(netns), pair)?;
            listener.serve(self);
            self.listeners().insert(name, listener);
        }
        Ok(())
    }

    /// Returns when the server is not wanted any more.
    async fn keep_looking(&self, path: &Path, inode: u64) {
        let started = Instant::now();
        loop {
            sleep(LOOK_EVERY).await;
            let there = fs::metadata(path).is_ok_and(|meta| meta.ino() == inode);
            if !there {
                log::info!("{} is not this server's any more", path.display());
                return;
            }
            self.let_go_of_foreign_namespaces();
            let idle = {
                let world = self.world.read().unwrap_or_else(PoisonError::into_inner);
                world.clients().next().is_none()
            };
            let begun = self.begun.load(Ordering::Relaxed) || started.elapsed() > GRACE;
            if idle && begun && self.agents.load(Ordering::Relaxed) == 0 {
                return;
            }
        }
    }

    /// Our sockets keep a namespace alive. One that is somebody else's must be able to end:
    /// nobody names it any more, and nobody lives in it.
    fn let_go_of_foreign_namespaces(&self) {
        let foreign: Vec<(String, PathBuf, (u64, u64))> = {
            let listeners = self.listeners();
            let foreign = listeners.iter().filter_map(|(name, listener)| {
                let id = listener.place.foreign?;
                Some((name.clone(), listener.place.path.clone(), id))
            });
            foreign.collect()
        };
        for (name, path, (dev, ino)) in foreign {
            let id = Identity { dev, ino };
            if identity(&path).is_ok_and(|found| found == id) {
                continue;
            }
            if process::in_namespace(Space::Net, id).is_empty() {
                log::info!("the namespace of {name} is gone");
                self.listeners().remove(&name);
            }
        }
    }
}
