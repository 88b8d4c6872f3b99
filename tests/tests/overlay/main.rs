//! Networks that reach across hosts, through tunnels that were named by hand.

mod bad_input;
mod crafted;
mod kernel;
mod lifecycle;
mod netpaths;
mod openvswitch;
mod passing;
mod set_up;
mod sizes;
mod wire;

use std::path::Path;
use std::process::Command;

use netpath_tests::command::{Ran, eventually, eventually_within, finish_within, run, start};
use netpath_tests::lab::Lab;
use std::time::Duration;

/// How long a transfer of [`BIG`] bytes may take on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(120);
/// Bytes of the file that is fetched.
const BIG: u64 = 100_000_000;

/// Where a command runs.
enum Place<'a> {
    /// A container of a netpath host.
    Container(&'a Lab, &'a str),
    /// A namespace by its name.
    Namespace(&'a str),
}

impl Place<'_> {
    fn command(&self, args: &[&str]) -> Command {
        match self {
            Self::Container(lab, name) => {
                lab.netpath_command(&[&["exec", name, "--"], args].concat())
            }
            Self::Namespace(name) => in_namespace(name, args),
        }
    }

    fn run(&self, args: &[&str]) -> Ran {
        run(self.command(args))
    }

    /// Waits until an address answers.
    #[track_caller]
    fn pings(&self, address: &str) {
        eventually(&format!("{address} answers"), || {
            self.run(&["ping", "-c", "1", "-W", "1", address]).code == Some(0)
        });
        self.run(&["ping", "-c", "3", "-i", "0.2", "-W", "2", address])
            .ok();
    }

    /// Exchanges all kinds of traffic with a server that [`serve`] describes.
    #[track_caller]
    fn talks_to(&self, address: &str, sum: &str) {
        self.pings(address);
        for extra in [&["-R"][..], &["-u", "-b", "20M", "-l", "1000"], &[]] {
            let args = ["iperf3", "-J", "-t", "1", "-c", address];
            let mut said = String::new();
            // A switch in user space may be slow beside other tests.
            eventually_within(PATIENCE, "iperf3 runs", || {
                let ran = self.run(&[&args[..], extra].concat());
                said = ran.stdout;
                ran.code == Some(0)
            });
            let report: serde_json::Value = serde_json::from_str(&said).expect("JSON");
            let end = &report["end"];
            let received = ["sum_received", "sum"].map(|sum| end[sum]["bytes"].as_u64());
            let received = received.into_iter().flatten().next();
            assert!(received.is_some_and(|bytes| bytes > 0), "{said}");
        }
        assert_eq!(self.fetches(address), sum, "the file arrives as it is");
    }

    /// Fetches the big file; returns its hash.
    #[track_caller]
    fn fetches(&self, address: &str) -> String {
        let host = if address.contains(':') {
            format!("[{address}]")
        } else {
            address.to_owned()
        };
        self.fetches_from(&host)
    }

    /// As [`Self::fetches`], from an address as it stands in a URL, which may have a port.
    #[track_caller]
    fn fetches_from(&self, host: &str) -> String {
        let script = format!("curl -sS --fail --max-time 110 http://{host}/big | sha256sum");
        let child = start(self.command(&["sh", "-c", &script]));
        let said = finish_within(child, PATIENCE).ok();
        said.split(' ').next().unwrap_or_default().to_owned()
    }
}

/// A command in a named namespace.
fn in_namespace(name: &str, args: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/run/netns/{name}"))
        .arg("--")
        .args(args);
    command
}

/// Makes the big file in a folder; returns its hash.
fn make_big(folder: &Path) -> String {
    let big = folder.join("big");
    let script = format!(
        "head -c {BIG} /dev/urandom > {0}; sha256sum < {0}",
        big.display()
    );
    let mut command = Command::new("sh");
    command.args(["-ec", &script]);
    let said = run(command).ok();
    said.split(' ').next().unwrap_or_default().to_owned()
}

/// The script of a server: the files of a folder by HTTP, and iperf3.
fn serve(folder: &Path) -> String {
    format!(
        "busybox httpd -p '[::]:80' -h {}; exec iperf3 -s",
        folder.display()
    )
}

/// Starts a container that serves.
fn run_server(lab: &Lab, name: &str, network: &str, folder: &Path, options: &[&str]) {
    let options = [&["--network", network], options].concat();
    lab.run(name, &options, &["sh", "-c", &serve(folder)]);
}

/// MAC address of a container's interface.
fn mac(lab: &Lab, container: &str) -> String {
    let record = lab.json(&["inspect", container]);
    let mac = record["networks"][0]["mac"].as_str();
    mac.expect("a MAC address").to_owned()
}

/// MAC address of a host's VXLAN device.
fn vtep_mac(lab: &Lab, port: u16) -> String {
    let device = format!("np-vxlan{port}");
    let text = lab.host(&["ip", "-o", "link", "show", &device]).ok();
    let (_, rest) = text.split_once("link/ether ").expect("an Ethernet device");
    rest[..17].to_owned()
}

/// The number of packets dropped for a reason at the tunnels.
fn dropped(lab: &Lab, reason: &str) -> u64 {
    let rows = lab.json(&["drops"]);
    let rows = rows.as_array().expect("rows").iter();
    let of_reason = rows.filter(|row| row["reason"] == reason && row["hook"] == "overlay");
    of_reason.filter_map(|row| row["packets"].as_u64()).sum()
}
