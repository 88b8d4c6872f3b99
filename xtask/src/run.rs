//! Starting programs: always with a time limit, and never silently.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::signal;

/// How often a running child is looked at. Short, because the demonstration runs dozens.
const POLL: Duration = Duration::from_millis(5);
/// Where there is no terminal to animate, one line this often shows that work goes on.
const PLAIN_STATUS: Duration = Duration::from_secs(15);
/// How much of a log is shown when a step fails.
const TAIL_LINES: usize = 25;

/// What a program said and how it ended.
pub struct Captured {
    /// How it ended.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

impl Captured {
    /// Standard output, if the program was content; else an error with what it said.
    pub fn ok(self, what: &str) -> Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        let said = format!("{}{}", self.stdout, self.stderr);
        bail!("{what} failed ({}): {}", self.status, said.trim())
    }
}

/// Runs a program to its end and keeps what it says.
pub fn capture(command: &mut Command, limit: Duration) -> Result<Captured> {
    let what = display(command);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start `{what}`"))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let status = wait(&mut child, limit, || ()).with_context(|| format!("`{what}`"))?;
    Ok(Captured {
        status,
        stdout: stdout.text(),
        stderr: stderr.text(),
    })
}

/// Runs a program on this terminal and in this process group: Ctrl-C reaches it directly.
pub fn foreground(command: &mut Command, limit: Duration) -> Result<ExitStatus> {
    let what = display(command);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start `{what}`"))?;
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            if signal::interrupted() {
                bail!("`{what}`: interrupted");
            }
            return Ok(status);
        }
        if Instant::now() > end {
            child.kill().ok();
            child.wait().ok();
            bail!("`{what}` did not end within {} s", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// A long step: its output goes to a log, its progress is shown, its failure is explained.
pub struct Step<'a> {
    /// What is going on, for the status line.
    pub title: &'a str,
    /// The log file.
    pub log: PathBuf,
    /// How long it may take.
    pub limit: Duration,
    /// What to do when it fails.
    pub advice: &'a str,
}

impl Step<'_> {
    /// Runs the step.
    pub fn run(&self, command: &mut Command) -> Result<()> {
        signal::install();
        if let Some(parent) = self.log.parent() {
            fs::create_dir_all(parent)
                .with_context(|| format!("cannot create {}", parent.display()))?;
        }
        let mut log = File::create(&self.log)
            .with_context(|| format!("cannot write {}", self.log.display()))?;
        writeln!(log, "$ {}", display(command))?;
        let log = Arc::new(Mutex::new(log));

        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .process_group(0)
            .spawn()
            .with_context(|| format!("{}: cannot start `{}`", self.title, display(command)))?;
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let done = [
            child
                .stdout
                .take()
                .map(|pipe| follow(pipe, log.clone(), tail.clone())),
            child
                .stderr
                .take()
                .map(|pipe| follow(pipe, log.clone(), tail.clone())),
        ];
        let started = Instant::now();
        let mut status = Status::new(self.title);
        let result = wait(&mut child, self.limit, || status.tick(&tail));
        status.clear();
        for done in done.into_iter().flatten() {
            // A daemon the step started may hold the pipe open; the step itself is over.
            done.recv_timeout(Duration::from_millis(300)).ok();
        }
        let problem = match result {
            Ok(status) if status.success() => {
                println!("{}: done in {} s", self.title, started.elapsed().as_secs());
                return Ok(());
            }
            Ok(status) => format!("{status}"),
            Err(_) if signal::interrupted() => bail!("{}: interrupted", self.title),
            Err(error) => format!("{error}"),
        };
        for line in locked(&tail).iter() {
            eprintln!("    {line}");
        }
        bail!(
            "{} failed: {problem}; {}; the whole output is in {}",
            self.title,
            self.advice,
            self.log.display()
        )
    }
}

/// The status of a long step: one line that is rewritten on a terminal, else a line now and then.
struct Status<'a> {
    title: &'a str,
    started: Instant,
    shown: Instant,
    terminal: bool,
}

impl<'a> Status<'a> {
    fn new(title: &'a str) -> Self {
        let now = Instant::now();
        let terminal = io::stdout().is_terminal();
        if terminal {
            print!("{title} ...");
            io::stdout().flush().ok();
        } else {
            println!("{title} ...");
        }
        Self {
            title,
            started: now,
            shown: now,
            terminal,
        }
    }

    fn tick(&mut self, tail: &Mutex<VecDeque<String>>) {
        let pause = if self.terminal {
            Duration::from_millis(250)
        } else {
            PLAIN_STATUS
        };
        if self.shown.elapsed() < pause {
            return;
        }
        self.shown = Instant::now();
        let seconds = self.started.elapsed().as_secs();
        let last = locked(tail).back().cloned().unwrap_or_default();
        // Cut, so that a terminal of 80 columns does not wrap what the next tick overwrites.
        let line: String = format!("{} ... {seconds} s  {}", self.title, last.trim())
            .chars()
            .take(78)
            .collect();
        if self.terminal {
            print!("\r\x1b[K{line}");
            io::stdout().flush().ok();
        } else {
            println!("{line}");
        }
    }

    fn clear(&self) {
        if self.terminal {
            print!("\r\x1b[K");
            io::stdout().flush().ok();
        }
    }
}

/// Waits for a child, looking at the clock and at interrupts; kills its whole group otherwise.
fn wait(child: &mut Child, limit: Duration, mut tick: impl FnMut()) -> Result<ExitStatus> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        let problem = if signal::interrupted() {
            "interrupted".to_owned()
        } else if Instant::now() > end {
            format!("did not end within {} s", limit.as_secs())
        } else {
            tick();
            thread::sleep(POLL);
            continue;
        };
        kill_group(child);
        bail!(problem);
    }
}

/// Ends a child and everything it started in its process group.
pub fn kill_group(child: &mut Child) {
    let Ok(id) = i32::try_from(child.id()) else {
        return;
    };
    for (signal, patience) in [(Signal::SIGTERM, 3000), (Signal::SIGKILL, 1000)] {
        if killpg(Pid::from_raw(id), signal) == Err(Errno::EPERM) {
            // The child is sudo, or was started by it.
            Command::new("sudo")
                .args([
                    "-n",
                    "kill",
                    &format!("-{}", signal.as_str()),
                    "--",
                    &format!("-{id}"),
                ])
                .status()
                .ok();
        }
        let end = Instant::now() + Duration::from_millis(patience);
        while Instant::now() < end {
            if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
                // The leader is gone; stragglers of its group get no second chance.
                killpg(Pid::from_raw(id), Signal::SIGKILL).ok();
                return;
            }
            thread::sleep(POLL);
        }
    }
}

/// The text of a pipe, read aside.
struct Collected {
    text: Arc<Mutex<Vec<u8>>>,
    done: Receiver<()>,
}

impl Collected {
    fn text(self) -> String {
        // A daemon that the program left behind may hold the pipe open for ever.
        self.done.recv_timeout(Duration::from_millis(300)).ok();
        String::from_utf8_lossy(&locked(&self.text)).into_owned()
    }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> Collected {
    let text = Arc::new(Mutex::new(Vec::new()));
    let (sender, done) = mpsc::channel();
    if let Some(mut pipe) = pipe {
        let text = text.clone();
        thread::spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                locked(&text).extend_from_slice(&buffer[..count]);
            }
            sender.send(()).ok();
        });
    }
    Collected { text, done }
}

/// Copies a pipe to the log and keeps its last lines.
fn follow(
    pipe: impl Read + Send + 'static,
    log: Arc<Mutex<File>>,
    tail: Arc<Mutex<VecDeque<String>>>,
) -> Receiver<()> {
    let (sender, done) = mpsc::channel();
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while let Ok(1..) = pipe.read_until(b'\n', &mut line) {
            locked(&log).write_all(&line).ok();
            let text = String::from_utf8_lossy(&line);
            // Progress bars rewrite their line; what counts is the last version of it.
            if let Some(text) = text
                .trim_end()
                .rsplit('\r')
                .find(|part| !part.trim().is_empty())
            {
                let mut tail = locked(&tail);
                tail.push_back(text.to_owned());
                if tail.len() > TAIL_LINES {
                    tail.pop_front();
                }
            }
            line.clear();
        }
        sender.send(()).ok();
    });
    done
}

/// A poisoned lock only means that another thread of this program panicked while printing.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The command as a person would type it.
pub fn display(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| quote(&word.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}

/// One word, quoted where a shell would need it.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Where logs go.
pub fn log_file(workspace: &Path, name: &str) -> PathBuf {
    workspace.join("target/xtask").join(format!("{name}.log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_only_what_needs_it() {
        assert_eq!(quote("10.88.0.0/24"), "10.88.0.0/24");
        assert_eq!(quote("a b"), "'a b'");
        assert_eq!(quote("it's"), r"'it'\''s'");
        assert_eq!(quote(""), "''");
    }

    #[test]
    fn keeps_output_and_status() {
        let mut command = Command::new("sh");
        let got = capture(command.args(["-c", "echo out; echo err >&2; exit 3"]), WAIT)
            .expect("sh starts");
        assert_eq!(
            (got.stdout.as_str(), got.stderr.as_str()),
            ("out\n", "err\n")
        );
        assert_eq!(got.status.code(), Some(3));
        assert!(got.ok("it").is_err());
    }

    #[test]
    fn ends_what_takes_too_long_with_its_children() {
        let started = Instant::now();
        let mut command = Command::new("sh");
        let result = capture(
            command.args(["-c", "sleep 30 & sleep 30"]),
            Duration::from_millis(50),
        );
        assert!(result.is_err());
        assert!(started.elapsed() < Duration::from_secs(3));
    }

    #[test]
    fn is_not_held_up_by_a_daemon_that_keeps_the_pipe() {
        let started = Instant::now();
        let mut command = Command::new("sh");
        let got = capture(command.args(["-c", "echo up; sleep 5 & exit 0"]), WAIT).expect("sh");
        assert_eq!(got.stdout, "up\n");
        assert!(started.elapsed() < Duration::from_secs(3));
    }

    const WAIT: Duration = Duration::from_secs(10);
}
