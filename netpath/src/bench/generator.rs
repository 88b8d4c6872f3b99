//! The generator beside those of others, on the bare veth pair, so that its figures can be
//! trusted.

use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::measure::{Method, measure};
use super::namespace::{Namespace, Service, output};
use super::plan::{Case, Cores, Workload};
use super::results::GeneratorCheck;
use super::site::Site;
use super::statistics::median;
use super::topology::{Ends, Path, tool};

/// How often each of both runs, one after the other.
const TRIALS: usize = 3;
/// Each run has a port of its own: the one before may have left connections in TIME_WAIT.
static PORT: AtomicU16 = AtomicU16::new(5201);
/// Time for a server to listen.
const START: Duration = Duration::from_millis(500);

/// Compares with every generator that is installed.
///
/// # Errors
/// The user interrupts it.
pub fn check(site: &Site, ends: &Ends, method: &Method) -> Result<Vec<GeneratorCheck>> {
    let others: [(&str, &str, Workload, Other); 2] = [
        (
            "iperf3",
            "TCP stream, 128 KB writes, one core",
            Workload::Stream128,
            iperf3,
        ),
        (
            "sockperf",
            "TCP round trips (sockperf: 14 bytes, its least), one core",
            Workload::RoundTrips,
            sockperf,
        ),
    ];
    others
        .into_iter()
        .map(|(name, what, workload, other)| {
            let mut check = GeneratorCheck {
                tool: name.to_owned(),
                what: what.to_owned(),
                unit: workload.unit().to_owned(),
                ours: 0.0,
                other: 0.0,
                skipped: None,
            };
            let result = match tool(name) {
                Some(_) => side_by_side(site, workload, other, ends, method),
                None => Err(anyhow::anyhow!("{name} is not installed")),
            };
            super::interrupt::check()?;
            match result {
                Ok((ours, other)) => (check.ours, check.other) = (ours, other),
                Err(error) => check.skipped = Some(format!("{error:#}")),
            }
            Ok(check)
        })
        .collect()
}

/// Runs another generator: what its rate was, in the workload's unit.
type Other = fn(&Site, &Ends, &Method) -> Result<f64>;

fn side_by_side(
    site: &Site,
    workload: Workload,
    other: Other,
    ends: &Ends,
    method: &Method,
) -> Result<(f64, f64)> {
    let case = Case {
        cores: Cores::One,
        workload,
        path: Path::Containers,
    };
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for _ in 0..TRIALS {
        let window = method.timing.window_of(case);
        ours.push(measure(case, ends, window, method)?.rate);
        theirs.push(other(site, ends, method).or_else(|_| other(site, ends, method))?);
    }
    Ok((
        median(&ours).context("no trials")?,
        median(&theirs).context("no trials")?,
    ))
}

/// A command in a namespace on the client's core.
fn pinned(namespace: &Namespace, method: &Method, program: &str) -> Command {
    let mut command = namespace.command("taskset");
    let cpu = method.cpus.first().copied().unwrap_or(0);
    command.args(["-c", &cpu.to_string(), program]);
    command
}

fn next_port() -> String {
    PORT.fetch_add(1, Ordering::Relaxed).to_string()
}

fn iperf3(site: &Site, ends: &Ends, method: &Method) -> Result<f64> {
    let port = next_port();
    let mut server = pinned(&ends.server, method, "iperf3");
    server
        .args(["-s", "-1", "-p", &port])
        .stdout(std::process::Stdio::null());
    let _server = Service::start(server, &site.dir().join("iperf3.log"))?;
    std::thread::sleep(START);
    let mut client = pinned(&ends.client, method, "iperf3");
    client.args([
        "-c",
        &ends.dial.ip().to_string(),
        "-p",
        &port,
        "-J",
        "-t",
        "1",
    ]);
    client.args(["-l", "128K", "-C", &method.congestion]);
    let said: serde_json::Value = serde_json::from_str(&output(client)?)?;
    let rate = said["end"]["sum_received"]["bits_per_second"].as_f64();
    rate.map(|rate| rate / 1e9).context("iperf3 told no rate")
}

fn sockperf(site: &Site, ends: &Ends, method: &Method) -> Result<f64> {
    let address = ends.dial.ip().to_string();
    let port = next_port();
    let common = ["--tcp", "-i", &address, "-p", &port];
    let mut server = pinned(&ends.server, method, "sockperf");
    server
        .arg("server")
        .args(common)
        .stdout(std::process::Stdio::null());
    let _server = Service::start(server, &site.dir().join("sockperf.log"))?;
    std::thread::sleep(START);
    let mut client = pinned(&ends.client, method, "sockperf");
    client
        .arg("ping-pong")
        .args(common)
        .args(["-t", "1", "-m", "14"]);
    let said = output(client)?;
    if !said.contains("[Valid Duration]") {
        bail!("sockperf said: {}", said.lines().last().unwrap_or_default());
    }
    // "sockperf: [Valid Duration] RunTime=0.550 sec; SentMessages=9; ReceivedMessages=9"
    let field = |name: &str| -> Option<f64> {
        let line = said
            .lines()
            .find(|line| line.contains("[Valid Duration]"))?;
        let (_, rest) = line.split_once(name)?;
        let number: String = rest
            .chars()
            .take_while(|c| c.is_ascii_digit() || *c == '.')
            .collect();
        number.parse().ok()
    };
    let messages = field("ReceivedMessages=").context("sockperf told no rate")?;
    let seconds = field("RunTime=").context("sockperf told no time")?;
    Ok(messages / seconds)
}
