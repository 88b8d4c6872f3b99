//! Network namespaces of a run, and commands in them.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::interrupt;
use super::site::MARK;
use crate::netlink::{netns, sysctl};

/// A network namespace; clones share it.
#[derive(Clone, Debug)]
pub struct Namespace {
    path: PathBuf,
    file: Rc<File>,
    /// The run's folder.
    run: PathBuf,
}

impl Namespace {
    /// The namespace that a file names.
    ///
    /// # Errors
    /// It names none.
    pub fn open(path: &Path, run: &Path) -> Result<Self> {
        let file = netns::open(path)
            .with_context(|| format!("cannot open {}", path.display()))?
            .with_context(|| format!("{} is no network namespace", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            file: Rc::new(file),
            run: run.to_owned(),
        })
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command in this namespace. It ends with this process, has a process group of its
    /// own, so that Ctrl-C reaches only the benchmark (which then ends it in order), and can
    /// be told to belong to this run.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let fd = self.file.as_raw_fd();
        command
            .env(MARK, &self.run)
            .env_remove("NETPATH_SOCKET")
            .stdin(Stdio::null())
            .process_group(0);
        let enter = move || {
            // SAFETY: the caller of spawn has the namespace open, and so has the new process.
            let netns = unsafe { BorrowedFd::borrow_raw(fd) };
            setns(netns, CloneFlags::CLONE_NEWNET)?;
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            Ok(())
        };
        // SAFETY: `enter` makes two system calls and touches no memory of this process.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Runs commands of ip(8), one a line.
    ///
    /// # Errors
    /// What ip said of the first that failed.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let mut command = self.command("ip");
        command.args(["-batch", "-"]);
        feed(command, lines).map(drop)
    }

    /// Sets a setting under `/proc/sys/net` of this namespace.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<bool> {
        netns::inside(self.file.as_fd(), || sysctl::set(path, value))
    }

    /// Reads a setting under `/proc/sys/net` of this namespace.
    pub fn setting(&self, path: &str) -> Option<String> {
        netns::inside(self.file.as_fd(), || Ok(sysctl::get(path)))
            .ok()
            .flatten()
    }

    /// Runs something on a thread in this namespace.
    ///
    /// # Errors
    /// Its own.
    pub fn enter<T: Send>(&self, action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        netns::inside(self.file.as_fd(), action)
    }
}

/// Runs a command with something on its standard input.
///
/// # Errors
/// It fails; with what it said.
pub fn feed(mut command: Command, input: &str) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that gave up has said why.
        let _ = stdin.write_all(input.as_bytes());
    }
    finish(&name, child)
}

/// Runs a command and gives what it printed.
///
/// # Errors
/// It fails; with what it said.
pub fn output(mut command: Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    finish(&name, child)
}

fn finish(name: &str, child: Child) -> Result<String> {
    let output = child
        .wait_with_output()
        .with_context(|| format!("cannot wait for {name}"))?;
    interrupt::check()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{name} failed ({}): {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A process in the background, which ends when this is dropped.
#[derive(Debug)]
pub struct Service {
    child: Child,
    name: String,
    /// Its child is the first process of a process namespace.
    has_init: bool,
}

/// How long a service may take to end.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(15);

impl Service {
    /// Starts it; what it says goes to a file.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let file = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
        let child = command
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self {
            child,
            name,
            has_init: false,
        })
    }

    /// The same, whose child is the first process of a process namespace: with it everything
    /// in there ends, and this process after it.
    pub fn with_init(mut self) -> Self {
        self.has_init = true;
        self
    }

    /// What it prints, if that was asked for.
    pub fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// An error if it ended.
    ///
    /// # Errors
    /// It ended.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => Err(anyhow!("{} ended: {status}", self.name)),
            None => Ok(()),
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let own = self.child.id();
        let init = self.has_init.then(|| first_child(own)).flatten();
        let (pid, signal) = match init {
            Some(init) => (init, Signal::SIGKILL),
            None => (own, Signal::SIGTERM),
        };
        if let Ok(pid) = i32::try_from(pid) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
        let end = std::time::Instant::now() + LAST_WORDS;
        while std::time::Instant::now() < end {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first child of a process.
fn first_child(pid: u32) -> Option<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = std::fs::read_to_string(path).ok()?;
    children.split_whitespace().next()?.parse().ok()
}
