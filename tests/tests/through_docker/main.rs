//! What holds for containers however they are connected, through Docker: in networks of netpath's
//! driver, and in Docker's own that are adopted. Each test is run for both.

mod many;
mod modes;
mod outward;
mod published;
mod together;
mod within;

use std::cell::Cell;
use std::time::{Duration, Instant};

use netpath_tests::docker::Docker;
use netpath_tests::inside;
use netpath_tests::lab::{Lab, Ran, run};

/// What Docker is asked to do can take its time on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whose networks they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Networks of driver `netpath`.
    Plugin,
    /// Docker's own, adopted.
    Adopted,
}

/// A host with a Docker and an agent.
struct Site {
    mode: Mode,
    /// Interfaces of containers that run.
    interfaces: Cell<usize>,
    // The daemon ends before its network does.
    docker: Docker,
    lab: Lab,
}

impl Site {
    fn new(mode: Mode) -> Self {
        Self::on(mode, Lab::new())
    }

    fn on(mode: Mode, lab: Lab) -> Self {
        let docker = Docker::start(&lab);
        let site = Self {
            mode,
            interfaces: Cell::new(0),
            docker,
            lab,
        };
        if mode == Mode::Adopted {
            site.adopt();
        }
        site
    }

    #[track_caller]
    fn adopt(&self) {
        let socket = self.docker.socket();
        let socket = socket.trim_start_matches("unix://");
        self.lab
            .netpath(&["adopt", "docker", "--docker-socket", socket])
            .ok();
    }

    /// Makes a network.
    #[track_caller]
    fn network(&self, name: &str, options: &[&str]) {
        let mut args = vec!["network", "create"];
        if self.mode == Mode::Plugin {
            args.extend(["-d", "netpath"]);
        }
        args.extend(options);
        args.push(name);
        self.docker.run(&args).ok();
    }

    /// Starts a container that sleeps, and waits until netpath has it.
    #[track_caller]
    fn container(&self, name: &str, network: &str, options: &[&str]) {
        let mut args = vec!["--network", network];
        args.extend(options);
        self.docker.container(name, &args, &["sleep", "600"]);
        self.has_interfaces(1);
    }

    /// Waits until netpath has so many interfaces of containers more.
    #[track_caller]
    fn has_interfaces(&self, more: isize) {
        let wanted = self.interfaces.get().strict_add_signed(more);
        self.interfaces.set(wanted);
        at_last(&format!("{wanted} interfaces are served"), || {
            let count = match self.mode {
                Mode::Plugin => self.lab.json(&["ps"]).as_array().map(Vec::len),
                Mode::Adopted => self.lab.json(&["adopt", "ls"])["containers"]
                    .as_array()
                    .map(Vec::len),
            };
            count == Some(wanted)
        });
    }

    #[track_caller]
    fn remove(&self, name: &str) {
        self.docker.run(&["rm", "-f", name]).ok();
        self.has_interfaces(-1);
    }

    /// Serves ports of TCP and UDP in a container.
    #[track_caller]
    fn serve(&self, name: &str, ports: impl IntoIterator<Item = u16>) {
        inside::serve(&self.docker.netns_of(name), name, ports);
    }

    /// A command in a container's network, with the host's programs.
    #[track_caller]
    fn inside(&self, name: &str, args: &[&str]) -> Ran {
        run(self.docker.in_network_of(&self.docker.pid(name), args))
    }

    /// What servers tell a client in the network namespace of a file, by TCP and by UDP, less the
    /// client's address; empty if either does not answer, and something else if they differ.
    fn ask_from(netns: &str, address: &str, port: u16) -> String {
        let tcp = inside::ask_tcp(netns, address, port).unwrap_or_default();
        let udp = inside::ask_udp(netns, address, port).unwrap_or_default();
        match tcp == udp {
            true => tcp.rsplit_once(' ').unwrap_or_default().0.to_owned(),
            false => format!("tcp: {tcp}, udp: {udp}"),
        }
    }

    /// See [`Self::ask_from`].
    #[track_caller]
    fn ask(&self, client: &str, address: &str, port: u16) -> String {
        Self::ask_from(&self.docker.netns_of(client), address, port)
    }

    /// Connections that the programs have begun.
    fn new_flows(&self) -> u64 {
        let counters = self.lab.json(&["counters"]);
        let rows = counters.as_array().expect("rows");
        rows.iter()
            .filter(|row| row["counter"] == "new_flows")
            .filter_map(|row| row["packets"].as_u64())
            .sum()
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
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("not in a minute: {what}");
}
