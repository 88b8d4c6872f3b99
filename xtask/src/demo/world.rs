//! The demonstration's little world: two namespaces, an agent, and a narrated shell.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::host::BPFFS;
use crate::leftovers::{self, delete_namespace, end, namespace_path, processes, remove_directory};
use crate::run::{capture, display, kill_group, log_file};
use crate::signal;

/// Everything on disk: in `/run`, where only root can make names.
pub const DIRECTORY: &str = "/run/netpath-demo";
/// In the environment of all that the demonstration starts, so that it can be found again.
pub const MARK: &str = "NETPATH_DEMO=1";
/// The namespace the agent serves.
pub const HOST: &str = "np-demo-host";
/// The namespace beyond the uplink.
pub const OUTSIDE: &str = "np-demo-outside";
/// The host's interface to the outside.
pub const UPLINK: &str = "uplink0";

/// No single command of the demonstration needs longer; iperf3 runs for two seconds.
const LIMIT: Duration = Duration::from_secs(20);
/// Loading and verifying the programs is most of an agent's start.
const AGENT_START: Duration = Duration::from_secs(20);
const AGENT_STOP: Duration = Duration::from_secs(10);
/// A server that was just started listens within this.
const SERVER_START: Duration = Duration::from_secs(5);
/// How much of an output is shown; the checks read all of it.
const SHOWN_LINES: usize = 24;

/// Where a command runs.
#[derive(Clone, Copy)]
pub enum Place {
    /// As the machine itself: for `ip netns` and what reaches into namespaces by itself.
    Machine,
    /// In the host namespace.
    Host,
    /// In the outside namespace.
    Outside,
}

/// See the module.
pub struct World {
    workspace: PathBuf,
    netpath: PathBuf,
    agent: Option<Child>,
    servers: Vec<Child>,
    steps: u32,
    checks: u32,
    swept: bool,
}

impl World {
    /// Nothing is made yet.
    pub fn new(workspace: &Path, netpath: PathBuf) -> Self {
        let workspace = workspace.to_path_buf();
        Self {
            workspace,
            netpath,
            agent: None,
            servers: Vec::new(),
            steps: 0,
            checks: 0,
            swept: false,
        }
    }

    /// A file or directory of the demonstration.
    pub fn path(name: &str) -> String {
        format!("{DIRECTORY}/{name}")
    }

    /// The directory with the agent's pinned maps and programs.
    pub fn bpffs() -> String {
        format!("{BPFFS}/netpath-demo")
    }

    /// `--run-dir` and its sisters, which `agent` and `purge` share.
    pub fn directories() -> [String; 6] {
        [
            "--run-dir".into(),
            Self::path("run"),
            "--state-dir".into(),
            Self::path("state"),
            "--bpffs".into(),
            Self::bpffs(),
        ]
    }

    /// Says how the short names in the shown commands are spelt out.
    pub fn introduce(&self) {
        println!("\nThe commands below use these names:");
        println!("  alias netpath='{}'", self.netpath_words().join(" "));
        println!(
            "  alias host='nsenter --net={}'",
            namespace_path(HOST).display()
        );
        println!(
            "  alias outside='nsenter --net={}'",
            namespace_path(OUTSIDE).display()
        );
    }

    /// Begins a step.
    pub fn step(&mut self, text: &str) {
        self.steps += 1;
        println!("\n{}. {text}", self.steps);
    }

    /// Notes that something demonstrated is as it should be.
    pub fn check(&mut self, holds: bool, claim: &str, otherwise: &str) -> Result<()> {
        if !holds {
            bail!("this should hold, but does not: {claim}; {otherwise}");
        }
        self.checks += 1;
        println!("   ok: {claim}");
        Ok(())
    }

    /// How many checks have passed.
    pub fn checks(&self) -> u32 {
        self.checks
    }

    /// Shows a command, runs it, shows what it prints; an error if it fails.
    pub fn show(&self, place: Place, words: &[&str]) -> Result<String> {
        self.announce(place, words);
        let output = self.quiet(place, words)?;
        print_some(&output);
        Ok(output)
    }

    /// Shows a command and runs it, but leaves it to the caller what of its output to show.
    pub fn announced(&self, place: Place, words: &[&str]) -> Result<String> {
        self.announce(place, words);
        self.quiet(place, words)
    }

    /// Runs a command.
    pub fn quiet(&self, place: Place, words: &[&str]) -> Result<String> {
        let mut command = self.command(place, words);
        let what = display(&command);
        capture(&mut command, LIMIT)?.ok(&format!("`{what}`"))
    }

    /// Runs a command until it succeeds: for servers that were only just started.
    pub fn until_it_works(&self, place: Place, words: &[&str]) -> Result<()> {
        let end = Instant::now() + SERVER_START;
        loop {
            match self.quiet(place, words) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > end || signal::interrupted() => return Err(error),
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Starts a server in the background; it ends with the world.
    pub fn serve(&mut self, place: Place, words: &[&str]) -> Result<()> {
        self.announce_with(place, words, " &");
        let mut command = self.command(place, words);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start `{}`", display(&command)))?;
        self.servers.push(child);
        Ok(())
    }

    /// Starts the agent in the host namespace and waits until it says `ready`.
    pub fn start_agent(&mut self) -> Result<()> {
        let directories = Self::directories();
        let mut words = vec!["netpath", "agent", "--uplink", UPLINK];
        words.extend(directories.iter().map(String::as_str));
        self.announce_with(Place::Host, &words, " &");
        // Not `ip netns exec`: that mounts a new /sys, in which /sys/fs/bpf would be missing.
        let mut command = self.command(Place::Host, &words);
        let log = File::create(Self::path("agent.log")).context("cannot write the agent's log")?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.try_clone().context("agent's log")?)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start `{}`", display(&command)))?;
        let stdout = child.stdout.take();
        self.agent = Some(child);
        let (sender, ready) = mpsc::channel();
        thread::spawn(move || {
            let Some(stdout) = stdout else { return };
            let mut log = log;
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                writeln!(log, "{line}").ok();
                if line.trim() == "ready" {
                    sender.send(()).ok();
                }
            }
        });
        let end = Instant::now() + AGENT_START;
        while ready.recv_timeout(Duration::from_millis(20)).is_err() {
            if signal::interrupted() {
                bail!("interrupted");
            }
            if let Some(agent) = &mut self.agent
                && let Some(status) = agent.try_wait()?
            {
                bail!("the agent ended at its start ({status}), see its log");
            }
            if Instant::now() > end {
                bail!(
                    "the agent was not ready within {} s, see its log",
                    AGENT_START.as_secs()
                );
            }
        }
        println!("   ready");
        Ok(())
    }

    /// Stops the agent as an init system would.
    pub fn stop_agent(&mut self) -> Result<()> {
        let Some(mut agent) = self.agent.take() else {
            return Ok(());
        };
        let id = i32::try_from(agent.id()).context("process id")?;
        println!("   $ kill {id}");
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(id),
            nix::sys::signal::Signal::SIGTERM,
        )
        .context("cannot stop the agent")?;
        let end = Instant::now() + AGENT_STOP;
        while Instant::now() < end {
            if agent.try_wait()?.is_some() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        kill_group(&mut agent);
        bail!(
            "the agent did not end within {} s of SIGTERM and was killed",
            AGENT_STOP.as_secs()
        )
    }

    /// Ends the servers that [`serve`](Self::serve) started.
    pub fn stop_servers(&mut self) {
        for mut server in self.servers.drain(..) {
            kill_group(&mut server);
        }
    }

    /// Takes an earlier demonstration's remains away, if it was killed, and makes the directory.
    pub fn clear_leftovers(&mut self) -> Result<()> {
        if Self::remains().is_empty() {
            self.swept = false;
        } else {
            println!("\nAn earlier demonstration was killed, taking its remains away.");
            self.sweep();
            self.swept = false;
        }
        let remains = Self::remains();
        if !remains.is_empty() {
            bail!(
                "an earlier demonstration left {}; try `cargo xtask clean-machine`",
                remains.join(", ")
            );
        }
        for name in ["run", "state", "www"] {
            let path = Self::path(name);
            fs::create_dir_all(&path).with_context(|| format!("cannot create {path}"))?;
        }
        Ok(())
    }

    /// What of a demonstration is on this machine.
    pub fn remains() -> Vec<String> {
        let mut remains: Vec<String> = marked()
            .iter()
            .map(|process| {
                format!(
                    "process {} ({})",
                    process.id,
                    process.arguments.join(" ").trim()
                )
            })
            .collect();
        for space in [HOST, OUTSIDE] {
            if namespace_path(space).exists() {
                remains.push(format!("namespace {space}"));
            }
        }
        for path in [Self::bpffs(), DIRECTORY.to_owned()] {
            if Path::new(&path).exists() {
                remains.push(path);
            }
        }
        remains
    }

    /// Takes everything away, in whatever state it is. Says only what could not be removed.
    pub fn sweep(&mut self) {
        if std::mem::replace(&mut self.swept, true) {
            return;
        }
        self.stop_servers();
        if let Some(mut agent) = self.agent.take() {
            kill_group(&mut agent);
        }
        end(&leftovers::processes(|process| {
            process.is_agent() && process.has_environment(MARK)
        }));
        if namespace_path(HOST).exists() && self.netpath.exists() && Path::new(DIRECTORY).exists() {
            let directories = Self::directories();
            let mut words = vec!["netpath", "purge"];
            words.extend(directories.iter().map(String::as_str));
            // Best effort: what it does not remove, the next lines do.
            self.quiet(Place::Host, &words).ok();
        }
        end(&marked());
        let mut problems = Vec::new();
        for space in [HOST, OUTSIDE] {
            if namespace_path(space).exists() {
                problems.extend(delete_namespace(space).err());
            }
        }
        for path in [Self::bpffs(), DIRECTORY.to_owned()] {
            problems.extend(remove_directory(Path::new(&path)).err());
        }
        for problem in problems {
            eprintln!("cleaning up: {problem:#}");
        }
    }

    /// After a failure: what the agent said and counted, while it is still there.
    pub fn explain_failure(&mut self) {
        if signal::interrupted() {
            return;
        }
        println!();
        if self.agent.is_some() {
            for verb in ["status", "drops", "counters"] {
                println!("--- netpath {verb}");
                match self.quiet(Place::Machine, &["netpath", verb]) {
                    Ok(said) => print_some(&said),
                    Err(error) => println!("   {error:#}"),
                }
            }
        }
        let Ok(log) = fs::read_to_string(Self::path("agent.log")) else {
            return;
        };
        println!("--- end of the agent's log");
        let lines: Vec<&str> = log.lines().collect();
        print_some(&lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n"));
        let kept = log_file(&self.workspace, "demo-agent");
        let saved = fs::create_dir_all(kept.parent().unwrap_or(&self.workspace))
            .and_then(|()| fs::write(&kept, log))
            .and_then(|()| self.give_to_owner(&kept));
        if saved.is_ok() {
            println!("--- the whole log is in {}", kept.display());
        }
        println!(
            "--- `{} doctor` says whether this kernel has what netpath needs",
            self.netpath.display()
        );
    }

    /// The demonstration runs as root, the work tree may be somebody else's.
    fn give_to_owner(&self, file: &Path) -> std::io::Result<()> {
        let owner = fs::metadata(&self.workspace)?;
        for path in [Some(file), file.parent()].into_iter().flatten() {
            chown(path, Some(owner.uid()), Some(owner.gid()))?;
        }
        Ok(())
    }

    fn netpath_words(&self) -> [String; 3] {
        [
            self.netpath.display().to_string(),
            "--socket".into(),
            Self::path("run/netpath.sock"),
        ]
    }

    fn announce(&self, place: Place, words: &[&str]) {
        self.announce_with(place, words, "");
    }

    fn announce_with(&self, place: Place, words: &[&str], end: &str) {
        let place = match place {
            Place::Machine => "",
            Place::Host => "host ",
            Place::Outside => "outside ",
        };
        let words: Vec<String> = words.iter().map(|word| crate::run::quote(word)).collect();
        println!("   $ {place}{}{end}", words.join(" "));
    }

    fn command(&self, place: Place, words: &[&str]) -> Command {
        let mut all: Vec<String> = match place {
            Place::Machine => Vec::new(),
            Place::Host => enter(HOST),
            Place::Outside => enter(OUTSIDE),
        };
        let mut words = words.iter();
        if let Some(&first) = words.next() {
            if first == "netpath" {
                all.extend(self.netpath_words());
            } else {
                all.push(first.to_owned());
            }
        }
        all.extend(words.map(|&word| word.to_owned()));
        let mut all = all.into_iter();
        let mut command = Command::new(all.next().unwrap_or_default());
        command.args(all);
        if let Some((name, value)) = MARK.split_once('=') {
            command.env(name, value);
        }
        command
    }
}

impl Drop for World {
    /// Only a panic comes here with anything left to do.
    fn drop(&mut self) {
        signal::shield();
        self.sweep();
    }
}

fn enter(namespace: &str) -> Vec<String> {
    vec![
        "nsenter".into(),
        format!("--net={}", namespace_path(namespace).display()),
    ]
}

fn marked() -> Vec<leftovers::Process> {
    processes(|process| {
        process.has_environment(MARK) || [HOST, OUTSIDE].iter().any(|space| process.is_in(space))
    })
}

/// Prints an output, indented and not too much of it.
pub fn print_some(text: &str) {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    for line in lines.iter().take(SHOWN_LINES) {
        println!("     {line}");
    }
    if lines.len() > SHOWN_LINES {
        println!("     ... {} more lines", lines.len() - SHOWN_LINES);
    }
}
