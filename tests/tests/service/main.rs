//! netpath as a service of a real systemd, which runs in namespaces of the test's own.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use netpath_tests::command::eventually_within;
use netpath_tests::docker::remove_group;
use netpath_tests::lab::{Ran, netpath_binary, run};

const SCRIPT: &str = include_str!("system.sh");
/// Enters a control group of its own, which is the system's root: $1. The machine's own service
/// manager has those above.
const ENTER: &str = r#"mkdir "$1" && echo $$ > "$1/cgroup.procs" && shift && exec "$@""#;
/// Enters the group of that file: programs that are attached to the system's root are for those in it.
const JOIN: &str = r#"echo $$ > "$1"; shift; exec "$@""#;
/// A slow machine starts a service manager, or Docker, in it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The network of the container, and its gateway.
const SUBNET: &str = "10.80.0.0/24";
const GATEWAY: &str = "10.80.0.1";

/// A system with a service manager.
struct System {
    unshare: Child,
    /// Its first process, as the machine sees it.
    init: String,
    group: PathBuf,
    /// A mount point for what it writes.
    _folder: tempfile::TempDir,
}

impl System {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().file_name().unwrap().to_string_lossy();
        let group = control_groups().join(format!("netpath-test-{}", name.trim_matches('.')));
        let namespaces = ["--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup"];
        let unshare = Command::new("sh")
            .args(["-c", ENTER, "sh"])
            .arg(&group)
            .arg("unshare")
            .args(namespaces)
            .args(["--fork", "--kill-child"])
            .args(["sh", "-c", SCRIPT, "sh"])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let id = unshare.id();
        let mut system = Self {
            unshare,
            init: String::new(),
            group,
            _folder: folder,
        };
        let children = format!("/proc/{id}/task/{id}/children");
        eventually_within(PATIENCE, "the service manager serves", || {
            let text = fs::read_to_string(&children).unwrap_or_default();
            system.init = text.trim().to_owned();
            // Degraded: one of the machine's units, which are none of ours.
            !system.init.is_empty()
                && ["running", "degraded"].contains(
                    &system
                        .run(&["systemctl", "is-system-running"])
                        .stdout
                        .trim(),
                )
        });
        system
    }

    fn run(&self, args: &[&str]) -> Ran {
        let mut command = Command::new("sh");
        command
            .args(["-c", JOIN, "sh"])
            .arg(self.group.join("init.scope/cgroup.procs"))
            .args(["timeout", "60", "nsenter", "--target", &self.init])
            .args(["--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup"])
            .args(args);
        run(command)
    }

    /// A property of netpath's unit.
    fn show(&self, property: &str) -> String {
        let shown = self.run(&["systemctl", "show", "-P", property, "netpath.service"]);
        shown.ok().trim().to_owned()
    }

    /// What the service has said, for whoever looks for the reason of a failure.
    fn log(&self) -> String {
        self.run(&["journalctl", "--no-pager", "-n", "50", "-u", "netpath"])
            .stdout
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        let _ = run({
            let mut kill = Command::new("kill");
            kill.args(["-KILL", &self.init]);
            kill
        });
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        remove_group(&self.group);
    }
}

/// Where the machine's control groups of version 2 are.
fn control_groups() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let place = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let place = fields.nth(1)?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(place))
    });
    place.expect("a cgroup2 hierarchy")
}

#[test]
fn a_service_manager_runs_it_before_docker() {
    let system = System::start();
    let binary = netpath_binary();
    system.run(&[&binary, "install"]).ok();
    // Returns when it is ready: what is asked next is answered.
    system.run(&["systemctl", "start", "netpath"]).ok();
    assert_eq!(system.show("ActiveState"), "active");
    assert_eq!(system.show("Type"), "notify");
    let before = system.show("Before");
    assert!(before.contains("docker.service"), "{before}");
    let create = ["netpath", "network", "create", "lan", "--subnet", SUBNET];
    system.run(&create).ok();
    let sleep = ["netpath", "run", "-d", "--name", "box", "--network", "lan"];
    system
        .run(&[&sleep[..], &["--", "sleep", "600"]].concat())
        .ok();

    // Docker finds it, in whatever order they are started again.
    system.run(&["systemctl", "start", "docker"]).ok();
    let create = ["docker", "network", "create", "-d", "netpath"];
    system.run(&[&create[..], &["ours"]].concat()).ok();
    let listed = system.run(&["netpath", "network", "ls"]).ok();
    assert!(listed.contains("ours"), "{listed}");
    system
        .run(&["systemctl", "restart", "netpath", "docker"])
        .ok();
    let shown = system.run(&["docker", "network", "inspect", "ours"]).ok();
    assert!(shown.contains("\"Driver\": \"netpath\""), "{shown}");

    // It is back when it is killed; its container knows nothing of that.
    let ping = [
        "netpath", "exec", "box", "--", "ping", "-c1", "-W5", GATEWAY,
    ];
    let first = system.show("MainPID");
    let kill = ["systemctl", "kill", "-s", "KILL", "netpath"];
    system.run(&kill).ok();
    eventually_within(PATIENCE, "another agent serves", || {
        system.show("ActiveState") == "active" && system.show("MainPID") != first
    });
    system.run(&ping).ok();

    // Stopped, it leaves the container as it is; taken away, it leaves nothing in the system.
    system.run(&["systemctl", "stop", "netpath"]).ok();
    let processes = system.run(&["pgrep", "-x", "sleep"]).ok();
    assert!(!processes.is_empty());
    system.run(&["systemctl", "start", "netpath"]).ok();
    system.run(&ping).ok();
    system
        .run(&["systemctl", "stop", "docker.socket", "docker"])
        .ok();
    system.run(&["/usr/local/bin/netpath", "uninstall"]).ok();
    assert_eq!(system.show("LoadState"), "not-found");
    assert_eq!(system.show("ActiveState"), "inactive");
    system
        .run(&["test", "!", "-e", "/usr/local/bin/netpath"])
        .ok();
}

/// Makes an image of that name that serves a page on port 80.
const IMAGE: &str = r#"
set -e
mkdir -p /run/image/bin /run/image/page
cp "$(command -v busybox)" /run/image/bin/
echo here > /run/image/page/index.html
tar -C /run/image -c . | docker import -c 'CMD ["busybox", "httpd", "-f", "-p", "80", "-h", "/page"]' - nginx
"#;

#[test]
fn what_the_readme_says_of_docker_works_when_pasted() {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let readme = fs::read_to_string(readme).unwrap();
    let (_, section) = readme.split_once("\n## With Docker\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let lines: Vec<&str> = (section.lines())
        .filter_map(|line| line.strip_prefix("    "))
        .collect();
    assert!((5..=10).contains(&lines.len()), "{lines:?}");

    let system = System::start();
    system.run(&["systemctl", "start", "docker"]).ok();
    system.run(&["sh", "-c", IMAGE]).ok();
    let binary = netpath_binary();
    for line in lines {
        // Here everybody is root, and the program is built.
        let line = match line.split_once(" && ") {
            Some((build, rest)) if build.starts_with("cargo ") => rest,
            _ => line,
        };
        let line = line.replace("sudo ", "");
        let line = line.replace("target/release/netpath", &binary);
        if line.starts_with("curl ") {
            // The server may only just have begun.
            eventually_within(PATIENCE, "the page", || {
                system.run(&["sh", "-c", &line]).stdout == "here\n"
            });
            continue;
        }
        let said = system.run(&["sh", "-c", &line]).ok();
        if line.starts_with("netpath ps") {
            assert!(said.contains("8080"), "{said}");
        }
    }
    let adopted = system.run(&["netpath", "status"]).ok();
    assert!(adopted.contains("docker"), "{adopted}");
}
