//! A real etcd in a namespace of a laboratory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::command::{PATIENCE, Ran, run};

/// The port that it serves at.
pub const PORT: u16 = 2379;

/// An etcd of one member, with its data; gone when it goes out of scope.
pub struct Etcd {
    netns: String,
    address: String,
    dir: tempfile::TempDir,
    options: Vec<String>,
    child: Option<Child>,
}

impl Etcd {
    /// An etcd that serves at an address of a namespace, given by its file.
    #[track_caller]
    pub fn start(netns: &str, address: &str) -> Self {
        Self::start_with(netns, address, &[])
    }

    /// The same with more arguments.
    #[track_caller]
    pub fn start_with(netns: &str, address: &str, options: &[&str]) -> Self {
        let mut etcd = Self {
            netns: netns.to_owned(),
            address: address.to_owned(),
            dir: tempfile::Builder::new()
                .prefix("netpath-test-etcd-")
                .tempdir()
                .expect("a directory"),
            options: options.iter().map(ToString::to_string).collect(),
            child: None,
        };
        etcd.start_again();
        etcd
    }

    /// What agents are started with.
    pub fn url(&self) -> String {
        format!("etcd://{}:{PORT}", self.address)
    }

    fn scheme(&self) -> &'static str {
        match self.options.iter().any(|o| o.starts_with("--cert-file")) {
            true => "https",
            false => "http",
        }
    }

    fn inside(&self, args: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.netns))
            .arg("--")
            .args(args);
        command
    }

    /// Starts it with the data that it left.
    #[track_caller]
    pub fn start_again(&mut self) {
        let url = format!("{}://{}:{PORT}", self.scheme(), self.address);
        let log = self.dir.path().join("log");
        let append = || {
            let mut file = fs::OpenOptions::new();
            file.create(true).append(true).open(&log).expect("a log")
        };
        let mut command = self.inside(&["etcd", "--data-dir"]);
        command
            .arg(self.data())
            .args(["--listen-client-urls", &url])
            .args(["--advertise-client-urls", &url])
            .args(["--listen-peer-urls", "http://127.0.0.1:2380"])
            // A test's disk needs no safety, and elections of one member no patience.
            .args(["--unsafe-no-fsync", "--logger", "zap"])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(append())
            .stderr(append());
        self.child = Some(command.spawn().expect("etcd starts"));
        let end = Instant::now() + PATIENCE;
        while !self.is_healthy() {
            let text = fs::read_to_string(&log).unwrap_or_default();
            assert!(Instant::now() < end, "no etcd:\n{text}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn is_healthy(&self) -> bool {
        let mut probe = self.inside(&["nc", "-z", "-w", "1"]);
        probe.args([&self.address, &PORT.to_string()]);
        run(probe).code == Some(0)
    }

    /// Folder of its data.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A folder for files of the test.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// Kills it.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Runs `etcdctl` against it.
    pub fn ctl(&self, args: &[&str]) -> Ran {
        let mut command = self.inside(&["etcdctl", "--endpoints"]);
        command
            .arg(format!("{}://{}:{PORT}", self.scheme(), self.address))
            .args(args)
            .env("ETCDCTL_API", "3");
        run(command)
    }

    /// The keys of a folder.
    #[track_caller]
    pub fn keys(&self, folder: &str) -> Vec<String> {
        let keys = self.ctl(&["get", "--prefix", "--keys-only", folder]).ok();
        let keys = keys.lines().filter(|line| !line.is_empty());
        keys.map(str::to_owned).collect()
    }

    /// The value of a key; empty if there is none.
    #[track_caller]
    pub fn get(&self, key: &str) -> String {
        let value = self.ctl(&["get", "--print-value-only", key]).ok();
        value.trim_end().to_owned()
    }

    /// Its revision.
    #[track_caller]
    pub fn revision(&self) -> i64 {
        let text = self.ctl(&["get", "-w", "json", "none"]).ok();
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON of etcdctl");
        json["header"]["revision"].as_i64().expect("a revision")
    }

    /// Keeps a host's packets from it, or lets them through again.
    pub fn set_reachable(&self, from: &str, reachable: bool) {
        let action = if reachable { "-D" } else { "-I" };
        let command = self.inside(&[
            "iptables",
            "-w",
            action,
            "INPUT",
            "-s",
            from,
            "-p",
            "tcp",
            "--dport",
            &PORT.to_string(),
            "-j",
            "DROP",
        ]);
        run(command).ok();
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}
