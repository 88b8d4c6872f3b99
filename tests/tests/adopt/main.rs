//! A real Docker whose bridges are adopted: connections, firewalls, and lives of all who take
//! part. Needs root and Docker's programs.

mod connections;
mod firewall;
mod following;

use std::fs;
use std::time::{Duration, Instant};

use netpath_tests::docker::Docker;
use netpath_tests::lab::{Lab, OUT4, eventually, run};
use serde_json::Value;

/// What Docker is asked to do can take its time on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A host with an agent and a Docker.
struct Site {
    // The daemon ends before its network does.
    docker: Docker,
    lab: Lab,
}

impl Site {
    fn new() -> Self {
        let lab = Lab::new();
        let docker = Docker::start(&lab);
        Self { docker, lab }
    }

    /// With a web server `web` on docker0, published as 8080, and a container `client` beside it.
    fn with_web() -> Self {
        let site = Self::new();
        site.docker.web("web", &["-p", "8080:80"]);
        site.docker.container("client", &[], &["sleep", "600"]);
        site
    }

    fn socket(&self) -> String {
        let socket = self.docker.socket();
        socket.trim_start_matches("unix://").to_owned()
    }

    #[track_caller]
    fn adopt(&self, options: &[&str]) {
        let socket = self.socket();
        let mut args = vec!["adopt", "docker", "--docker-socket", &socket];
        args.extend(options);
        self.lab.netpath(&args).ok();
    }

    #[track_caller]
    fn adopted(&self) -> Value {
        self.lab.json(&["adopt", "ls"])
    }

    /// Names of adopted containers.
    #[track_caller]
    fn names(&self) -> Vec<String> {
        let adopted = self.adopted();
        let rows = adopted["containers"].as_array().expect("rows");
        let mut names: Vec<String> = rows
            .iter()
            .filter_map(|row| row["name"].as_str().map(str::to_owned))
            .collect();
        names.sort_unstable();
        names
    }

    /// A page of the web server by an address, from outside.
    fn fetch_from_outside(&self, address: &str) -> String {
        let url = format!("http://{address}:8080/");
        self.lab
            .outside(&["curl", "-sm5", &url])
            .stdout
            .trim()
            .to_owned()
    }

    /// From the host.
    fn fetch_from_host(&self, address: &str) -> String {
        let url = format!("http://{address}:8080/");
        self.lab
            .host(&["curl", "-sm5", &url])
            .stdout
            .trim()
            .to_owned()
    }

    /// From a container.
    #[track_caller]
    fn fetch(&self, container: &str, address: &str) -> String {
        let url = format!("http://{address}/");
        let pid = self.docker.pid(container);
        let curl = self.docker.in_network_of(&pid, &["curl", "-sm5", &url]);
        run(curl).stdout.trim().to_owned()
    }

    /// Connections that the kernel tracks and that have to do with an address.
    fn tracked(&self, with: &str) -> Vec<String> {
        let listed = self.lab.host(&["conntrack", "-L"]).stdout;
        let words = |line: &&str| line.contains(&format!("={with} "));
        listed.lines().filter(words).map(str::to_owned).collect()
    }

    fn new_flows(&self) -> u64 {
        let counters = self.lab.json(&["counters"]);
        let rows = counters.as_array().expect("rows");
        rows.iter()
            .filter(|row| row["counter"] == "new_flows")
            .filter_map(|row| row["packets"].as_u64())
            .sum()
    }

    /// What the programs delivered from container to container.
    fn delivered(&self) -> u64 {
        let counters = self.lab.json(&["counters"]);
        let rows = counters.as_array().expect("rows");
        rows.iter()
            .filter(|row| row["hook"] == "container" && row["counter"] == "to_container")
            .filter_map(|row| row["packets"].as_u64())
            .sum()
    }

    /// A web server outside, on port 80.
    fn serve_outside(&mut self) {
        let www = self.lab.dir().join("outside");
        fs::create_dir_all(&www).expect("a folder");
        fs::write(www.join("index.html"), "outside\n").expect("a file");
        let www = www.display().to_string();
        self.lab
            .serve_outside(&["busybox", "httpd", "-f", "-p", "80", "-h", &www]);
        let url = format!("http://{OUT4}/");
        eventually("the server outside answers", || {
            self.lab.outside(&["curl", "-sm2", &url]).code == Some(0)
        });
    }

    /// Static entries of bridges' forwarding databases that are not the bridges' own.
    fn pinned_macs(&self) -> usize {
        let text = self.lab.host(&["bridge", "fdb", "show"]).stdout;
        text.lines().filter(|line| line.contains(" static")).count()
    }
}

/// Waits until `condition` holds, for what Docker takes part in.
#[track_caller]
fn at_last(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("not in a minute: {what}");
}

#[test]
fn what_makes_no_sense_is_refused_in_a_sentence() {
    let lab = Lab::new();
    assert!(
        lab.netpath(&["adopt", "--release"])
            .refused()
            .contains("nothing is adopted")
    );
    assert!(
        lab.netpath(&["adopt"])
            .refused()
            .contains("netpath adopt docker")
    );
    let missing = lab.netpath(&["adopt", "docker", "--docker-socket", "/nowhere/docker.sock"]);
    let sentence = missing.refused();
    assert!(sentence.contains("/nowhere/docker.sock") && sentence.contains("--docker-socket"));
    // A socket on which nobody speaks Docker.
    let own = lab.dir().join("run/netpath.sock").display().to_string();
    let sentence = lab
        .netpath(&["adopt", "docker", "--docker-socket", &own])
        .refused();
    assert!(sentence.contains("Docker"), "{sentence}");
    assert_eq!(lab.netpath(&["adopt", "ls"]).ok(), "nothing is adopted\n");
    let site = Site {
        docker: Docker::start(&lab),
        lab,
    };
    let socket = site.socket();
    let args = [
        "adopt",
        "docker",
        "--docker-socket",
        &socket,
        "--network",
        "bogus",
    ];
    let sentence = site.lab.netpath(&args).refused();
    assert!(sentence.contains("bogus") && sentence.contains("docker network ls"));
    assert_eq!(
        site.lab.netpath(&["adopt", "ls"]).ok(),
        "nothing is adopted\n"
    );
}
