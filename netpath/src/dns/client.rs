//! The agent's end: finding, starting, telling and ending the server.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use nix::sys::socket::{MsgFlags, getsockopt, recv, sockopt};
use nix::unistd::setsid;

use super::control::{self, Answer, Change, Hello, LOG, Report, Request};
use crate::container::process::Pidfd;

/// How long the server may take to answer. Making sockets for thousands of containers takes
/// a second or two.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a new server may take to be ready.
const START: Duration = Duration::from_secs(15);
/// How long one that is told to end may take.
const END: Duration = Duration::from_secs(3);

/// A connection with the server.
#[derive(Debug)]
pub struct Link {
    stream: UnixStream,
    /// The server, if this process started it.
    child: Option<Child>,
}

impl Link {
    /// Connects with the server of a run folder; `None` if there is none.
    ///
    /// # Errors
    /// The socket cannot be used.
    pub fn connect(run_dir: &Path) -> io::Result<Option<Self>> {
        match UnixStream::connect(control::socket(run_dir)) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Ok(Some(Self {
                    stream,
                    child: None,
                }))
            }
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Connects with the server of a run folder; starts it if there is none, and lets a new one
    /// take over from one of another version.
    ///
    /// # Errors
    /// It does not get ready.
    pub fn open(run_dir: &Path) -> Result<Self> {
        let build = control::build().context("cannot look at /proc/self")?;
        let found = Self::connect(run_dir).context("cannot use the server for names")?;
        let take_over = found.is_some();
        if let Some(mut link) = found {
            match link.hello() {
                Ok(hello) if hello.build == build => return Ok(link),
                Ok(hello) => log::info!(
                    "the server for names is another's ({}), replacing it",
                    hello.build
                ),
                Err(error) => log::warn!("the server for names is not well: {error:#}"),
            }
        }
        let child = start(run_dir, take_over)?;
        let link = Self::connect(run_dir).context("cannot use the server for names")?;
        let mut link = link.context("the server for names is not there")?;
        link.child = Some(child);
        Ok(link)
    }

    /// Who the server is.
    ///
    /// # Errors
    /// It is gone, or does not answer.
    pub fn hello(&mut self) -> Result<Hello> {
        match self.ask(&Request::Hello)? {
            Answer::Hello(hello) => Ok(hello),
            _ => bail!("the server for names says something else"),
        }
    }

    /// Tells the server what has changed.
    ///
    /// # Errors
    /// It is gone, or does not answer.
    pub fn change(&mut self, change: Change) -> Result<Report> {
        match self.ask(&Request::Change(change))? {
            Answer::Report(report) => Ok(report),
            _ => bail!("the server for names says something else"),
        }
    }

    fn ask(&mut self, request: &Request) -> Result<Answer> {
        control::send(&self.stream, request).context("cannot tell the server for names")?;
        control::receive(&self.stream).context("the server for names does not answer")
    }

    /// Whether the server has ended.
    pub fn is_gone(&mut self) -> bool {
        // It says nothing unless it is asked.
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        let silent = recv(self.stream.as_raw_fd(), &mut [0], flags) == Err(nix::Error::EAGAIN);
        let ended = match &mut self.child {
            // Asking is also what lets go of its number.
            Some(child) => !matches!(child.try_wait(), Ok(None)),
            None => false,
        };
        !silent || ended
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // A server that has ended; one that goes on is init's when the agent ends.
        if let Some(child) = &mut self.child {
            let _ = child.try_wait();
        }
    }
}

/// Starts a server and waits until it is ready.
fn start(run_dir: &Path, take_over: bool) -> Result<Child> {
    let failed = "cannot start the server for names";
    let log = fs::File::create(run_dir.join(LOG)).context(failed)?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("netpath")
        .args(["name-server", "--run-dir"])
        .arg(run_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log);
    if take_over {
        command.arg("--take-over");
    }
    // SAFETY: both are system calls and nothing else.
    unsafe {
        command.pre_exec(|| {
            // Neither a terminal nor a shell that ends takes it along.
            setsid()?;
            let last = libc::c_uint::MAX;
            match libc::close_range(3, last, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        })
    };
    let mut child = command.spawn().context(failed)?;
    let stdout = child.stdout.take().context(failed)?;
    let (sender, ready) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        let _ = sender.send(read.is_ok() && line.trim() == "ready");
    });
    if ready.recv_timeout(START) == Ok(true) {
        return Ok(child);
    }
    let _ = child.kill();
    let _ = child.wait();
    let said = fs::read_to_string(run_dir.join(LOG)).unwrap_or_default();
    match said.lines().last() {
        Some(last) => bail!("{failed}: {last}"),
        None => bail!("{failed}: it does not get ready"),
    }
}

/// Ends the server of a run folder, and waits for that. True if there was one.
///
/// # Errors
/// It cannot be ended.
pub fn end(run_dir: &Path) -> Result<bool> {
    let failed = "cannot end the server for names";
    let Some(mut link) = Link::connect(run_dir).context(failed)? else {
        return Ok(false);
    };
    // Whoever listens is the one to end, even if it does not answer.
    let peer = getsockopt(&link.stream, sockopt::PeerCredentials).context(failed)?;
    let process = u32::try_from(peer.pid()).ok().map(Pidfd::open);
    let process = process.and_then(io::Result::ok);
    link.stream.set_read_timeout(Some(END)).context(failed)?;
    let _ = link.ask(&Request::End);
    let Some(process) = process else {
        return Ok(true);
    };
    if !process.wait(END) {
        let _ = process.signal(Signal::SIGKILL);
        process.wait(END);
    }
    Ok(true)
}
