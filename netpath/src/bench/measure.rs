//! One measurement: a server and a client, each in its namespace and on its core.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sched::sched_getaffinity;
use nix::unistd::Pid;

use super::interrupt;
use super::namespace::Namespace;
use super::plan::{Case, Cores, Timing, Workload};
use super::topology::Ends;
use super::worker::{Job, Outcome, READY, Role, now};

/// A measurement that goes wrong is tried this often.
const TRIES: u32 = 3;
/// Time for two processes to start, before the warm-up begins.
const START: Duration = Duration::from_millis(15);

/// What a measurement gave.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// In the workload's unit.
    pub rate: f64,
    /// Time in which the cores of both sides were not idle, in the workload's unit.
    pub busy: f64,
    /// CPU time of the two processes, in the workload's unit.
    pub process: f64,
    /// Time in soft interrupts on these cores, in the workload's unit.
    pub softirq: f64,
    /// Connections that could not be made, of all.
    pub failures: u64,
}

/// How to measure.
#[derive(Clone, Debug)]
pub struct Method {
    /// Cores that may be used, the client's first.
    pub cpus: Vec<usize>,
    /// How long.
    pub timing: Timing,
    /// TCP congestion control.
    pub congestion: String,
}

/// The cores that this process may use, the last first: interrupts and everything else that
/// runs on a machine tend to be on the first.
///
/// # Errors
/// The kernel's.
pub fn cpus() -> Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0)).context("cannot list the cores")?;
    let count = nix::sched::CpuSet::count();
    Ok((0..count)
        .rev()
        .filter(|&cpu| set.is_set(cpu).unwrap_or(false))
        .collect())
}

/// Measures one case on one variant, for as long as `window`.
///
/// # Errors
/// The traffic does not flow, several times in a row.
pub fn measure(case: Case, ends: &Ends, window: Duration, method: &Method) -> Result<Sample> {
    let mut tries = 0;
    loop {
        tries += 1;
        interrupt::check()?;
        match once(case, ends, window, method) {
            Ok(sample) => return Ok(sample),
            Err(error) if tries >= TRIES => return Err(error),
            Err(error) => {
                interrupt::check()?;
                log::info!("{case} is tried again: {error:#}");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn once(case: Case, ends: &Ends, window: Duration, method: &Method) -> Result<Sample> {
    let client_cpu = *method.cpus.first().context("no core to run on")?;
    let server_cpu = match case.cores {
        Cores::One => client_cpu,
        Cores::Two => *method.cpus.get(1).context("there is one core only")?,
    };
    let mut watched = vec![client_cpu, server_cpu];
    watched.dedup();
    let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let from = now() + nanoseconds(START + method.timing.warmup);
    let traffic = case.workload.traffic();
    let mut job = Job {
        role: Role::Server,
        traffic,
        address: ends.listen,
        cpu: server_cpu,
        watched,
        window: (from, from + nanoseconds(window)),
        congestion: method.congestion.clone(),
    };
    let mut server = Worker::start(&ends.server, &job)?;
    server.wait_ready()?;
    job.role = Role::Client;
    job.address = ends.dial;
    job.cpu = client_cpu;
    let client = Worker::start(&ends.client, &job)?;
    let client = client.outcome();
    let server = server.outcome();
    // Both have something to say if it went wrong; the client's tells more.
    let (client, server) = (client?, server?);
    let counted = match traffic.counted_by() {
        Role::Client => client,
        Role::Server => server,
    };
    ensure!(
        counted.seconds > window.as_secs_f64() / 2.0,
        "the traffic began too late"
    );
    ensure!(counted.units > 0, "nothing arrived");
    Ok(sample(case.workload, counted, client, server))
}

fn sample(workload: Workload, counted: Outcome, client: Outcome, server: Outcome) -> Sample {
    let cpu = |time| workload.cpu(time, counted.units);
    Sample {
        rate: workload.rate(counted.units, counted.seconds),
        busy: cpu(counted.busy_us),
        process: cpu(client.process_us + server.process_us),
        softirq: cpu(counted.softirq_us),
        failures: client.failures,
    }
}

/// A side that runs.
struct Worker {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Worker {
    fn start(namespace: &Namespace, job: &Job) -> Result<Self> {
        let binary = std::env::current_exe().context("cannot tell where this program is")?;
        let mut child = namespace
            .command(binary)
            .arg("bench-worker")
            .arg(serde_json::to_string(job)?)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start the generator")?;
        let stdout = child.stdout.take().context("no pipe")?;
        Ok(Self {
            child,
            stdout: BufReader::new(stdout),
        })
    }

    fn wait_ready(&mut self) -> Result<()> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        if line.trim() == READY {
            return Ok(());
        }
        bail!("the server did not start: {}", self.complaint())
    }

    /// What it said on standard error; it ends soon if it did not already.
    fn complaint(&mut self) -> String {
        let mut text = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            let _ = stderr.read_to_string(&mut text);
        }
        text.trim().trim_start_matches("netpath: ").to_owned()
    }

    fn outcome(mut self) -> Result<Outcome> {
        let mut text = String::new();
        self.stdout.read_to_string(&mut text)?;
        match serde_json::from_str(&text) {
            Ok(outcome) => Ok(outcome),
            Err(_) => bail!("{}", self.complaint()),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // One that ended does not mind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
