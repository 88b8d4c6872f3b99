//! A laboratory: a "host" with an agent of its own and an "outside" machine, both network
//! namespaces, joined by an uplink.
//!
//! Everything carries the test process's number in its name, is removed when the laboratory
//! goes out of scope (also when a test fails), and what an earlier, killed run left behind
//! is removed before the first laboratory is made.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::command::PATIENCE;
pub use crate::command::{Ran, eventually, finish, run, start};

/// The host's addresses on the uplink.
pub const HOST4: &str = "192.0.2.1";
/// See [`HOST4`].
pub const HOST6: &str = "2001:db8:1::1";
/// The outside machine's addresses.
pub const OUT4: &str = "192.0.2.2";
/// See [`OUT4`].
pub const OUT6: &str = "2001:db8:1::2";
/// The uplink's name.
pub const UPLINK: &str = "uplink0";

pub mod hosts;
mod sweep;

use sweep::{remove_leftovers, remove_namespace, remove_pins};

static NUMBER: AtomicU32 = AtomicU32::new(0);
static SWEEP: Once = Once::new();

/// A host and an outside machine.
pub struct Lab {
    host: String,
    outside: String,
    dir: tempfile::TempDir,
    bpffs: PathBuf,
    agent: Option<Child>,
    binary: String,
    options: Vec<String>,
    helpers: Vec<Child>,
    others: Vec<String>,
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Lab {
    /// Two namespaces and an uplink with an agent on it.
    pub fn new() -> Self {
        let mut lab = Self::without_agent();
        lab.start_agent();
        lab
    }

    /// Two namespaces and an uplink, no agent.
    pub fn without_agent() -> Self {
        let lab = Self::of_namespaces(String::new());
        lab.replug();
        lab
    }

    /// A host, and an outside machine unless there is one already; nothing joins them.
    fn of_namespaces(outside: String) -> Self {
        SWEEP.call_once(remove_leftovers);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("np-test-{}-{number}", std::process::id());
        let own_outside = outside.is_empty();
        let lab = Self {
            host: format!("{name}-host"),
            outside: if own_outside {
                format!("{name}-out")
            } else {
                outside
            },
            dir: tempfile::Builder::new()
                .prefix("netpath-test-")
                .tempdir()
                .expect("a directory"),
            bpffs: PathBuf::from(format!(
                "/sys/fs/bpf/netpath-test-{}-{number}",
                std::process::id()
            )),
            agent: None,
            binary: netpath_binary(),
            options: Vec::new(),
            helpers: Vec::new(),
            others: Vec::new(),
        };
        let made = [Some(&lab.host), own_outside.then_some(&lab.outside)];
        for namespace in made.into_iter().flatten() {
            ip(&["netns", "add", namespace]);
            ip(&["-n", namespace, "link", "set", "lo", "up"]);
        }
        lab
    }

    /// Makes the uplink and gives both machines their addresses and routes.
    pub fn replug(&self) {
        ip(&[
            "link",
            "add",
            UPLINK,
            "netns",
            &self.host,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            &self.outside,
        ]);
        for (namespace, device, v4, v6) in [
            (&self.host, UPLINK, HOST4, HOST6),
            (&self.outside, "eth0", OUT4, OUT6),
        ] {
            ip(&[
                "-n",
                namespace,
                "addr",
                "add",
                &format!("{v4}/24"),
                "dev",
                device,
            ]);
            ip(&[
                "-n",
                namespace,
                "addr",
                "add",
                &format!("{v6}/64"),
                "dev",
                device,
                "nodad",
            ]);
            ip(&["-n", namespace, "link", "set", device, "up"]);
        }
        ip(&["-n", &self.host, "route", "add", "default", "via", OUT4]);
        ip(&[
            "-n", &self.host, "-6", "route", "add", "default", "via", OUT6,
        ]);
    }

    /// One more machine: a namespace behind the outside one, which becomes a router with the
    /// address `.1` (`::1`) of both subnets, given as `198.51.100` and `2001:db8:2:`, towards
    /// the far machine's `.2` (`::2`). The MTU is that of the router's way to the far machine,
    /// which knows nothing of it.
    pub fn add_far_machine(&mut self, v4: &str, v6: &str, mtu: u32) -> String {
        let far = format!("{}-far", self.outside);
        let mtu = mtu.to_string();
        ip(&["netns", "add", &far]);
        self.others.push(far.clone());
        ip(&["-n", &far, "link", "set", "lo", "up"]);
        ip(&[
            "link",
            "add",
            "far0",
            "netns",
            &self.outside,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            &far,
        ]);
        for (namespace, device, end) in [(&self.outside, "far0", 1), (&far, "eth0", 2)] {
            ip(&[
                "-n",
                namespace,
                "addr",
                "add",
                &format!("{v4}.{end}/24"),
                "dev",
                device,
            ]);
            ip(&[
                "-n",
                namespace,
                "addr",
                "add",
                &format!("{v6}:{end}/64"),
                "dev",
                device,
                "nodad",
            ]);
            ip(&["-n", namespace, "link", "set", device, "up"]);
        }
        ip(&["-n", &self.outside, "link", "set", "far0", "mtu", &mtu]);
        ip(&[
            "-n",
            &far,
            "route",
            "add",
            "default",
            "via",
            &format!("{v4}.1"),
        ]);
        ip(&[
            "-n",
            &far,
            "-6",
            "route",
            "add",
            "default",
            "via",
            &format!("{v6}:1"),
        ]);
        let forward = [
            "sysctl",
            "-qw",
            "net.ipv4.ip_forward=1",
            "net.ipv6.conf.all.forwarding=1",
        ];
        self.outside(&forward).ok();
        far
    }

    /// One more namespace, for `attach`; returns its file.
    pub fn add_namespace(&mut self, suffix: &str) -> String {
        let name = format!("{}-{suffix}", self.host);
        ip(&["netns", "add", &name]);
        self.others.push(name.clone());
        format!("/run/netns/{name}")
    }

    /// File of a container's namespace.
    pub fn namespace_of(&self, container: &str) -> String {
        let netns = self.dir.path().join("run/netns").join(container);
        netns.display().to_string()
    }

    /// File of the host's namespace.
    pub fn host_netns(&self) -> String {
        format!("/run/netns/{}", self.host)
    }

    /// File of the outside machine's namespace.
    pub fn outside_netns(&self) -> String {
        format!("/run/netns/{}", self.outside)
    }

    /// Runs a command on the far machine.
    pub fn far(&self, args: &[&str]) -> Ran {
        run(in_namespace(
            self.others.last().expect("a far machine"),
            args,
        ))
    }

    /// Starts a server on the far machine; it ends with the laboratory.
    pub fn serve_far(&mut self, args: &[&str]) {
        let far = self.others.last().expect("a far machine");
        let command = in_namespace(far, args);
        self.spawn(command);
    }

    /// Starts the agent and waits until it serves.
    #[track_caller]
    pub fn start_agent(&mut self) {
        let mut agent = self
            .agent_command()
            .stdout(Stdio::piped())
            .stderr(self.append("agent.log"))
            .spawn()
            .expect("the agent starts");
        let mut lines = BufReader::new(agent.stdout.take().expect("a pipe")).lines();
        let ready = lines.any(|line| line.is_ok_and(|line| line.trim() == "ready"));
        // Nobody reads on, so the agent must not block on a full pipe.
        thread::spawn(move || lines.for_each(drop));
        self.agent = Some(agent);
        assert!(ready, "the agent did not get ready:\n{}", self.agent_log());
    }

    /// The command that starts the agent, for tests that watch it fail.
    pub fn agent_command(&self) -> Command {
        let mut command = self.host_command(&[&self.binary]);
        command.args(["agent", "--uplink", UPLINK]);
        if !self.options.iter().any(|option| option == "--max-flows") {
            command.args(["--max-flows", "16384"]);
        }
        command.args(self.folders());
        if !self.options.iter().any(|option| option == "--spares") {
            // What there is on a host is then what its containers need.
            command.args(["--spares", "0"]);
        }
        command.args(&self.options);
        command
    }

    /// `--run-dir`, `--state-dir` and `--bpffs` of this laboratory.
    pub fn folders(&self) -> [String; 6] {
        let dir = self.dir.path();
        [
            "--run-dir".to_owned(),
            dir.join("run").display().to_string(),
            "--state-dir".to_owned(),
            dir.join("state").display().to_string(),
            "--bpffs".to_owned(),
            self.bpffs.display().to_string(),
        ]
    }

    /// Has the next agent started with more options.
    pub fn agent_options(&mut self, options: &[&str]) {
        self.options = options.iter().map(ToString::to_string).collect();
    }

    /// Has the next agent be another file than the one under test.
    pub fn agent_binary(&mut self, path: &str) {
        path.clone_into(&mut self.binary);
    }

    /// Has the agent pin elsewhere than under /sys/fs/bpf.
    pub fn pin_under(&mut self, folder: PathBuf) {
        self.bpffs = folder;
    }

    /// What the agent has logged so far.
    pub fn agent_log(&self) -> String {
        fs::read_to_string(self.dir.path().join("agent.log")).unwrap_or_default()
    }

    /// The agent's process id.
    pub fn agent_pid(&self) -> u32 {
        self.agent.as_ref().expect("an agent").id()
    }

    /// Kills the agent as the kernel would when memory runs out.
    pub fn kill_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }

    /// Ends the agent as systemd would, and waits for it.
    pub fn stop_agent(&mut self) -> Option<i32> {
        let mut agent = self.agent.take()?;
        let pid = nix::unistd::Pid::from_raw(i32::try_from(agent.id()).expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("a signal");
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = agent.try_wait().expect("a status") {
                return status.code();
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = agent.kill();
        panic!("the agent did not end:\n{}", self.agent_log());
    }

    /// A folder for the test's own files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The folder of the agent's pins.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// Name of the host's namespace.
    pub fn host_namespace(&self) -> &str {
        &self.host
    }

    /// Runs the netpath command against this laboratory's agent.
    pub fn netpath(&self, args: &[&str]) -> Ran {
        run(self.netpath_command(args))
    }

    /// The netpath command against this laboratory's agent.
    pub fn netpath_command(&self, args: &[&str]) -> Command {
        let mut command = self.host_command(&[&netpath_binary()]);
        command
            .arg("--socket")
            .arg(self.dir.path().join("run/netpath.sock"))
            .args(args);
        command
    }

    /// What a verb prints with `-o json`.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        let mut all = vec!["-o", "json"];
        all.extend(args);
        let text = self.netpath(&all).ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    /// Runs a command in a container.
    pub fn exec(&self, name: &str, args: &[&str]) -> Ran {
        let mut all = vec!["exec", name, "--"];
        all.extend(args);
        self.netpath(&all)
    }

    /// Starts a container.
    #[track_caller]
    pub fn run(&self, name: &str, options: &[&str], command: &[&str]) {
        let mut all = vec!["run", "-d", "--name", name];
        all.extend(options);
        all.push("--");
        all.extend(command);
        self.netpath(&all).ok();
    }

    /// Runs a command on the host.
    pub fn host(&self, args: &[&str]) -> Ran {
        run(self.host_command(args))
    }

    /// Runs a command on the outside machine.
    pub fn outside(&self, args: &[&str]) -> Ran {
        run(in_namespace(&self.outside, args))
    }

    /// A command on the host.
    pub fn host_command(&self, args: &[&str]) -> Command {
        in_namespace(&self.host, args)
    }

    /// Starts a server on the outside machine; it ends with the laboratory.
    pub fn serve_outside(&mut self, args: &[&str]) {
        let command = in_namespace(&self.outside, args);
        self.spawn(command);
    }

    /// Starts a command in the background; it ends with the laboratory.
    pub fn spawn(&mut self, mut command: Command) -> usize {
        command
            .stdout(self.append("helpers.log"))
            .stderr(self.append("helpers.log"));
        self.helpers.push(
            command
                .stdin(Stdio::null())
                .spawn()
                .expect("a helper starts"),
        );
        self.helpers.len() - 1
    }

    /// The process id of a command that [`Self::spawn`] started.
    pub fn helper_pid(&self, index: usize) -> u32 {
        self.helpers[index].id()
    }

    /// Starts a command on the outside machine whose output is wanted at its end.
    pub fn start_outside(&self, args: &[&str]) -> Child {
        start(in_namespace(&self.outside, args))
    }

    /// The network namespace of the outside machine.
    pub fn outside_network(&self) -> fs::File {
        fs::File::open(format!("/run/netns/{}", self.outside)).expect("the namespace")
    }

    /// The network namespaces of containers that run, by name.
    #[track_caller]
    pub fn networks_of(&self, names: &[String]) -> Vec<fs::File> {
        let all = self.json(&["ps"]);
        let pid = |name: &String| {
            let rows = all.as_array().expect("rows");
            let row = rows.iter().find(|row| row["name"] == name.as_str());
            row.and_then(|row| row["pid"].as_u64())
                .unwrap_or_else(|| panic!("{name} does not run: {all}"))
        };
        let open = |pid| fs::File::open(format!("/proc/{pid}/ns/net")).expect("the namespace");
        names.iter().map(pid).map(open).collect()
    }

    /// An address of a container: of IPv4, or of IPv6.
    #[track_caller]
    pub fn address(&self, name: &str, v6: bool) -> String {
        let text = self.exec(name, &["ip", "-j", "addr", "show", "eth0"]).ok();
        let links: serde_json::Value = serde_json::from_str(&text).expect("JSON of ip");
        let family = if v6 { "inet6" } else { "inet" };
        links[0]["addr_info"]
            .as_array()
            .and_then(|all| {
                all.iter()
                    .find(|a| a["family"] == family && a["scope"] == "global")
            })
            .and_then(|a| a["local"].as_str())
            .unwrap_or_else(|| panic!("{name} has no {family} address: {text}"))
            .to_owned()
    }

    /// Removes containers and networks, ends the agent and takes everything away.
    pub fn purge(&mut self) -> Ran {
        self.stop_agent();
        let mut command = self.host_command(&[&netpath_binary(), "purge"]);
        command.args(self.folders());
        run(command)
    }

    fn append(&self, name: &str) -> fs::File {
        let path = self.dir.path().join(name);
        fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .expect("a log file")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the agent's log\n{}", self.agent_log());
        }
        for helper in &mut self.helpers {
            let _ = helper.kill();
            let _ = helper.wait();
        }
        self.kill_agent();
        let mut purge = self.host_command(&[&netpath_binary(), "purge"]);
        purge.args(self.folders());
        let _ = run(purge);
        for namespace in [&self.host, &self.outside].into_iter().chain(&self.others) {
            remove_namespace(namespace);
        }
        remove_pins(&self.bpffs);
    }
}

/// A command in a named namespace. `ip netns exec` would mount /sys anew and hide the bpffs.
fn in_namespace(namespace: &str, args: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/run/netns/{namespace}"))
        .arg("--")
        .args(args);
    command
}

/// The binary under test, beside the test's own.
pub fn netpath_binary() -> String {
    let test = std::env::current_exe().expect("a path");
    let folder = test
        .parent()
        .and_then(Path::parent)
        .expect("target/<profile>");
    let binary = folder.join("netpath");
    assert!(
        binary.exists(),
        "{} is not built; run `cargo build`",
        binary.display()
    );
    binary.display().to_string()
}

#[track_caller]
fn ip(args: &[&str]) {
    let mut command = Command::new("ip");
    command.args(args);
    run(command).ok();
}
