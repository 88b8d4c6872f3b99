//! A real Docker daemon on a laboratory's host, with netpath as a network driver.
//!
//! It has process and mount namespaces of its own, so that all of it ends with their first
//! process, and nothing that it mounts or writes to /etc or /run is seen by anybody else. The
//! daemon can be killed and started again without its containers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::command::{Ran, finish_within, start};
use crate::lab::Lab;

/// How long the daemon, and what it is asked to do, may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// The image of all containers: busybox.
pub const IMAGE: &str = "box";
/// Programs of the image.
const APPLETS: [&str; 16] = [
    "sh", "sleep", "ping", "ping6", "wget", "nc", "httpd", "nslookup", "ip", "cat", "echo", "dd",
    "hostname", "seq", "mkdir", "timeout",
];

/// The first process of the namespaces. Whoever has a containerd keeps it: the daemon would use
/// it if it saw its socket. Docker finds the driver as `netpath install` has it found.
const SCRIPT: &str = r#"
set -e
mount -t tmpfs tmpfs /run
for d in etc opt; do
    test -d /$d || continue
    mkdir "/run/$d" "/run/$d-work"
    mount -t overlay overlay -o "lowerdir=/$d,upperdir=/run/$d,workdir=/run/$d-work" /$d
done
mkdir -p /etc/docker/plugins
echo "unix://$1" > /etc/docker/plugins/netpath.spec
touch "$2"
# Whoever is left over must be waited for: a containerd that was killed would pass for one that runs.
while :; do sleep 0.2 & wait; done
"#;

/// A daemon.
pub struct Docker {
    folder: PathBuf,
    netns: String,
    cgroup: String,
    holder: Child,
    /// The first process of its namespaces, by its number outside.
    init: u32,
    daemon: Option<Child>,
}

impl Docker {
    /// Starts one on the host of a laboratory, and gives it its image.
    #[track_caller]
    pub fn start(lab: &Lab) -> Self {
        let folder = lab.dir().join("docker");
        fs::create_dir(&folder).expect("a folder");
        let plugin = lab.dir().join("run/docker.sock");
        let ready = folder.join("ready");
        let mut command = lab.host_command(&["unshare", "--mount", "--pid", "--fork"]);
        command
            .args(["--kill-child", "--mount-proc", "sh", "-c", SCRIPT, "sh"])
            .args([&plugin, &ready])
            .stdin(Stdio::null())
            .stderr(log(&folder));
        let holder = command.spawn().expect("unshare starts");
        let mut docker = Self {
            netns: lab.host_netns(),
            cgroup: lab.host_namespace().to_owned(),
            init: 0,
            daemon: None,
            holder,
            folder,
        };
        let end = Instant::now() + PATIENCE;
        while !ready.exists() {
            assert!(Instant::now() < end, "{}", docker.log());
            thread::sleep(Duration::from_millis(20));
        }
        docker.init = first_child(docker.holder.id()).expect("the first process");
        docker.start_daemon();
        let archive = docker.make_image();
        docker
            .run(&["import", &archive.display().to_string(), IMAGE])
            .ok();
        docker
    }

    /// Starts the daemon, for the first time or again, and waits until it serves.
    #[track_caller]
    pub fn start_daemon(&mut self) {
        self.spawn_daemon();
        self.await_daemon();
    }

    /// Starts the daemon.
    pub fn spawn_daemon(&mut self) {
        let daemon = self
            .inside(&["dockerd", "--live-restore", "--log-level", "warn"])
            .arg("--data-root")
            .arg(self.folder.join("data"))
            .arg("--exec-root")
            .arg(self.folder.join("exec"))
            .arg("--pidfile")
            .arg(self.folder.join("pid"))
            .arg("--host")
            .arg(self.socket())
            .args(["--cgroup-parent", &format!("/{}", self.cgroup)])
            .args(["--exec-opt", "native.cgroupdriver=cgroupfs"])
            .args(["--storage-driver", "vfs"])
            // Connections to the outside are made by netpath's networks only.
            .args(["--default-address-pool", "base=10.64.0.0/12,size=24"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log(&self.folder))
            .spawn()
            .expect("dockerd starts");
        self.daemon = Some(daemon);
    }

    /// Waits until the daemon serves.
    #[track_caller]
    pub fn await_daemon(&self) {
        let end = Instant::now() + PATIENCE;
        while self.run(&["version"]).code != Some(0) {
            assert!(
                Instant::now() < end,
                "dockerd does not serve:\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Kills the daemon, and not its containers.
    pub fn kill_daemon(&mut self) {
        // The pid file tells the number in its own namespace.
        if let Some(mut nsenter) = self.daemon.take() {
            let dockerd = first_child(nsenter.id()).expect("the daemon");
            kill(dockerd);
            let _ = nsenter.wait();
        }
        // A daemon that is killed leaves its file, and the next one finds its number taken.
        let _ = fs::remove_file(self.folder.join("pid"));
    }

    /// The daemon's socket as its client wants it.
    pub fn socket(&self) -> String {
        format!("unix://{}", self.folder.join("docker.sock").display())
    }

    /// A command among the daemon's processes: their numbers are those that Docker tells.
    pub fn inside(&self, args: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.init.to_string(), "--mount", "--pid"])
            .arg(format!("--net={}", self.netns))
            .arg("--")
            .args(args);
        command
    }

    /// A command in the network of a container, which needs no daemon.
    pub fn in_network_of(&self, pid: &str, args: &[&str]) -> Command {
        let mut all = vec!["nsenter", "--target", pid, "--net", "--"];
        all.extend(args);
        self.inside(&all)
    }

    /// File of a container's network namespace.
    #[track_caller]
    pub fn netns_of(&self, name: &str) -> String {
        format!("/proc/{}/root/proc/{}/ns/net", self.init, self.pid(name))
    }

    /// A container's first process.
    #[track_caller]
    pub fn pid(&self, name: &str) -> String {
        self.inspect("{{.State.Pid}}", name)
    }

    /// A command of the client.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command
            .env("DOCKER_CONFIG", &self.folder)
            .args(["--host", &self.socket()])
            .args(args);
        command
    }

    /// Runs the client.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Ran {
        finish_within(start(self.command(args)), PATIENCE)
    }

    /// Runs another program that asks Docker, like docker-compose.
    #[track_caller]
    pub fn other(&self, program: &str, args: &[&str]) -> Ran {
        let mut command = Command::new(program);
        command
            .env("DOCKER_CONFIG", &self.folder)
            .env("DOCKER_HOST", self.socket())
            .args(args);
        finish_within(start(command), PATIENCE)
    }

    /// Starts a container in the background.
    #[track_caller]
    pub fn container(&self, name: &str, options: &[&str], command: &[&str]) {
        let mut args = vec!["run", "-d", "--name", name];
        args.extend(options);
        args.push(IMAGE);
        args.extend(command);
        self.run(&args).ok();
    }

    /// Starts a container that serves its name by HTTP on port 80.
    #[track_caller]
    pub fn web(&self, name: &str, options: &[&str]) {
        let serve = "mkdir -p /www; hostname > /www/index.html; exec httpd -f -p 80 -h /www";
        let mut all = vec!["--hostname", name];
        all.extend(options);
        self.container(name, &all, &["sh", "-c", serve]);
    }

    /// Runs a command in a container.
    #[track_caller]
    pub fn exec(&self, name: &str, args: &[&str]) -> Ran {
        let mut all = vec!["exec", name];
        all.extend(args);
        self.run(&all)
    }

    /// What `docker inspect` prints of something.
    #[track_caller]
    pub fn inspect(&self, format: &str, name: &str) -> String {
        self.run(&["inspect", "--format", format, name])
            .ok()
            .trim()
            .to_owned()
    }

    /// An address of a container in a network.
    #[track_caller]
    pub fn address(&self, name: &str, network: &str) -> String {
        let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
        self.inspect(&format, name)
    }

    /// What the daemon has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("dockerd.log")).unwrap_or_default()
    }

    /// An archive of a root folder with busybox in it.
    fn make_image(&self) -> PathBuf {
        let root = self.folder.join("root");
        let bin = root.join("bin");
        fs::create_dir_all(&bin).expect("a folder");
        for folder in ["etc", "proc", "sys", "dev", "tmp"] {
            fs::create_dir(root.join(folder)).expect("a folder");
        }
        fs::copy(find("busybox"), bin.join("busybox")).expect("busybox");
        for applet in APPLETS {
            std::os::unix::fs::symlink("busybox", bin.join(applet)).expect("a link");
        }
        let archive = self.folder.join("box.tar");
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&root).arg("-cf").arg(&archive).arg(".");
        crate::command::run(tar).ok();
        archive
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines.len().saturating_sub(60);
            eprintln!("--- the end of dockerd's log\n{}", lines[last..].join("\n"));
        }
        if self.init != 0 {
            kill(self.init);
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.wait();
        }
        for hierarchy in hierarchies() {
            remove_group(&hierarchy.join(&self.cgroup));
        }
    }
}

/// Where control groups are: one tree, or one a controller.
pub(crate) fn hierarchies() -> impl Iterator<Item = PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let below = fs::read_dir(root).into_iter().flatten().flatten();
    below.map(|entry| entry.path()).chain([root.to_owned()])
}

/// Removes a control group with those in it. Their processes have just been killed.
pub fn remove_group(group: &Path) {
    let Ok(children) = fs::read_dir(group) else {
        return;
    };
    for child in children.flatten().map(|entry| entry.path()) {
        if child.is_dir() {
            remove_group(&child);
        }
    }
    for _ in 0..100 {
        match fs::remove_dir(group) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                thread::sleep(Duration::from_millis(20));
            }
            _ => return,
        }
    }
}

fn kill(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid"));
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
}

fn first_child(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

fn log(folder: &Path) -> fs::File {
    let mut options = fs::OpenOptions::new();
    let options = options.create(true).append(true);
    options
        .open(folder.join("dockerd.log"))
        .expect("a log file")
}

/// Where a program is.
fn find(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.exists())
        .unwrap_or_else(|| panic!("{program} is not installed"))
}
