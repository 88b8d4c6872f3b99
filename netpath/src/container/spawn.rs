//! Starting a command inside a container's namespaces.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, anyhow};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::SigSet;
use nix::unistd::sethostname;

use super::lookup::{NOT_EXECUTABLE, Unusable};
use crate::api::types::Created;
use crate::netlink::netns;
use crate::problem::conflict;

/// A command to start.
pub struct Spawn {
    /// The file to execute.
    pub program: PathBuf,
    /// Program name and arguments.
    pub argv: Vec<String>,
    /// Variables to add to this process's environment.
    pub env: Vec<(OsString, OsString)>,
    /// The container's network namespace.
    pub netns: File,
    /// Its host name.
    pub hostname: String,
    /// Files to mount over others.
    pub mounts: Vec<(PathBuf, PathBuf)>,
}

impl Spawn {
    /// A command of the container that the agent prepared.
    ///
    /// # Errors
    /// The namespace cannot be opened.
    pub fn new(
        created: &Created,
        program: PathBuf,
        argv: Vec<String>,
        env: Vec<(OsString, OsString)>,
    ) -> Result<Self> {
        let file = |path: &Path| visible(path, created.agent);
        let mounts = [
            (file(&created.resolv_conf), "/etc/resolv.conf".into()),
            (file(&created.hosts), "/etc/hosts".into()),
            (file(&created.hostname_file), "/etc/hostname".into()),
        ];
        Ok(Self {
            program,
            argv,
            env,
            netns: open_netns(&created.netns, created.agent, created.netns_id)?,
            hostname: created.hostname.clone(),
            mounts: mounts.into(),
        })
    }

    /// Starts it.
    ///
    /// # Errors
    /// An [`Unusable`] inside if it is the command that cannot be executed.
    pub fn start(self, stdin: Stdio, stdout: Stdio, stderr: Stdio) -> Result<Child> {
        let mut command = Command::new(&self.program);
        if let Some((name, args)) = self.argv.split_first() {
            command.arg0(name).args(args);
        }
        command
            .envs(self.env)
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr);
        // The child tells how far it came: std hands over an error number only.
        let (mut reader, mut writer) = io::pipe().context("cannot make a pipe")?;
        let mounts = self
            .mounts
            .iter()
            .map(|(from, to)| Ok((c_string(from)?, c_string(to)?)))
            .collect::<Result<Vec<_>>>()?;
        let (netns, hostname) = (self.netns, self.hostname);
        let setup = move || {
            let mut step = |number: u8, result: io::Result<()>| {
                if result.is_err() {
                    let _ = writer.write_all(&[number]);
                }
                result
            };
            // The supervisor's mask is not the command's business.
            step(
                0,
                SigSet::empty().thread_set_mask().map_err(io::Error::from),
            )?;
            step(0, enter(&netns))?;
            step(1, sethostname(&hostname).map_err(io::Error::from))?;
            for (from, to) in &mounts {
                step(2, bind(from, to))?;
            }
            fresh_sysfs();
            Ok(())
        };
        // SAFETY: this process has one thread (supervisors run no runtime and start no
        // thread), so that its copy may do whatever a process may; besides, the closure
        // only makes system calls and allocates nothing but short C strings.
        unsafe { command.pre_exec(setup) };
        let spawned = command.spawn();
        // The closure, and with it the writing end of this process, goes with the command.
        drop(command);
        spawned.map_err(|error| {
            let mut step = [0; 1];
            let action = match reader.read(&mut step) {
                Ok(1) => match step[0] {
                    0 => "cannot enter the container's namespaces",
                    1 => "cannot set the container's host name",
                    _ => "cannot mount a file into the container",
                },
                _ => {
                    let message = format!("{} cannot be executed", self.program.display());
                    return anyhow::Error::new(error).context(Unusable {
                        code: NOT_EXECUTABLE,
                        message,
                    });
                }
            };
            anyhow::Error::new(error).context(action)
        })
    }
}

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

fn c_string(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .with_context(|| format!("{} contains a zero byte", path.display()))
}

/// `path` as this process sees it: directly, or through the agent if the agent lives in
/// another mount namespace.
fn visible(path: &Path, agent: u32) -> PathBuf {
    if path.exists() {
        return path.to_owned();
    }
    let mut through = PathBuf::from(format!("/proc/{agent}/root"));
    through.extend(path.components().skip(1));
    if through.exists() {
        through
    } else {
        path.to_owned()
    }
}

/// Opens a container's network namespace, through the agent if need be. `id`, device and inode
/// number, says which one it has to be.
///
/// # Errors
/// It is not there, not a namespace, or another one.
fn open_netns(path: &Path, agent: u32, id: Option<(u64, u64)>) -> Result<File> {
    let file = open_visible(path, agent)?;
    let meta = file.metadata().context("cannot look at the namespace")?;
    if id.is_none_or(|id| id == (meta.dev(), meta.ino())) {
        return Ok(file);
    }
    Err(conflict(format!(
        "{} is not the network any more that the container was to be in: whose it was has just \
         ended",
        path.display()
    )))
}

fn open_visible(path: &Path, agent: u32) -> Result<File> {
    if let Ok(Some(file)) = netns::open(path) {
        return Ok(file);
    }
    // Without the agent's mounts the path is an empty file.
    let mut through = PathBuf::from(format!("/proc/{agent}/root"));
    through.extend(path.components().skip(1));
    netns::open(&through)
        .with_context(|| format!("cannot open the namespace {}", path.display()))?
        .ok_or_else(|| anyhow!("{} is not a network namespace", path.display()))
}

/// Enters the network namespace; mount and UTS namespace are new. Mounts made from now on
/// stay in them.
fn enter(netns: &File) -> io::Result<()> {
    setns(netns, CloneFlags::CLONE_NEWNET)?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    Ok(())
}

fn bind(from: &CString, to: &CString) -> io::Result<()> {
    let none = None::<&str>;
    match mount(
        Some(from.as_c_str()),
        to.as_c_str(),
        none,
        MsFlags::MS_BIND,
        none,
    ) {
        // A host without this file has nothing to hide; we cannot make one there.
        Err(nix::Error::ENOENT) => Ok(()),
        other => Ok(other?),
    }
}

/// Mounts a new `/sys`, so that `/sys/class/net` shows the container's devices; control
/// groups stay visible. A host that forbids it (we may be in a container) keeps the old
/// one: programs lose some figures, not the network.
fn fresh_sysfs() {
    let none = None::<&str>;
    let cgroup = File::open("/sys/fs/cgroup");
    let read_only =
        MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if mount(Some("sysfs"), "/sys", Some("sysfs"), read_only, none).is_err() {
        return;
    }
    if let Ok(cgroup) = cgroup {
        let from = format!("/proc/self/fd/{}", cgroup.as_raw_fd());
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        let _ = mount(Some(from.as_str()), "/sys/fs/cgroup", none, flags, none);
    }
}
