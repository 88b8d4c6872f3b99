//! `netpath bench`: how fast packets go, beside other ways of connecting containers.
//!
//! * [`site`], [`namespace`], [`interrupt`]: what a run makes, and that nothing is left of it
//! * [`topology`]: what is compared
//! * [`plan`]: what is measured; [`measure`] does it once, [`rounds`] all of it, [`worker`] is
//!   the generator
//! * [`statistics`], [`targets`]: what the samples say
//! * [`latency`], [`cost`], [`generator`], [`environment`]: sections of their own
//! * [`results`]: all of that as JSON; [`table`], [`plots`] and [`html`]: for people
//! * [`compare`]: two runs

pub mod compare;
pub mod cost;
pub mod environment;
pub mod generator;
pub mod html;
pub mod interrupt;
pub mod latency;
pub mod measure;
pub mod namespace;
pub mod plan;
pub mod plots;
mod progress;
pub mod results;
pub mod rounds;
pub mod site;
pub mod statistics;
pub mod table;
pub mod targets;
pub mod topology;
pub mod worker;
mod world;

use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::doctor;
use crate::problem::invalid;
use measure::Method;
use plan::{Case, Cores, Extent, Timing, Workload};
use progress::Progress;
use results::{LeftOut, Report, SCHEMA, VariantInfo};
use rounds::Rounds;
use site::Site;
use topology::{Path, tool};
use world::World;

/// What a run is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// How much is measured.
    pub extent: Extent,
    /// Rounds; without, what fits the extent's time.
    pub rounds: Option<u32>,
    /// Cases to measure; all of the extent's if empty.
    pub filters: Vec<String>,
    /// Compare with a real Docker daemon.
    pub docker: bool,
    /// Another window, in ms.
    pub window_ms: Option<u64>,
    /// The command line, for the report.
    pub command: String,
}

/// The congestion control that connections get if the kernel has it, and the one that every
/// kernel has. Not the system's default: BBR paces by timers, which measures these.
const CONGESTION: [&str; 2] = ["cubic", "reno"];
/// An idle guest that polls for work before it halts: waking another core is then not a
/// trip through the hypervisor, which would hide the datapath.
const HALT_POLL: (&str, &str) = (
    "/sys/module/haltpoll/parameters/guest_halt_poll_ns",
    "200000",
);

/// Runs the benchmark.
///
/// # Errors
/// A sentence that says why there are no figures. Nothing is left behind.
pub fn run(options: &Options) -> Result<Report> {
    let begun = Instant::now();
    let started = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs());
    let cpus = measure::cpus()?;
    let cases = plan::filter(plan::cases(options.extent, cpus.len()), &options.filters)?;
    check_host()?;
    let method = Method {
        cpus,
        timing: timing(options),
        congestion: congestion()?,
    };
    interrupt::watch()?;
    let mut progress = Progress::new();
    let site = Site::open()?;
    let (idle, all) = environment::steal();
    let mut environment = environment::look(
        method.cpus.iter().copied().take(2).collect(),
        &method.congestion,
    );

    progress.stage("building the variants");
    let control_only = (!cases.iter().any(Case::is_control)).then_some(Case {
        cores: Cores::One,
        workload: Workload::RoundTrips,
        path: Path::Containers,
    });
    let world = World::build(&site, options, &cases, &progress)?;
    let everything = options.filters.is_empty();
    let entries = rounds::entries(
        &cases,
        control_only,
        &world.variants,
        method.timing,
        everything,
    );
    let count = options.rounds.unwrap_or(match options.extent {
        Extent::Quick => 4,
        Extent::Full => 10,
    });
    progress.begin(entries.len() as u64 * u64::from(count));
    let prepare = |cores: Cores| match cores {
        Cores::One => site.restore(),
        Cores::Two => site.set(HALT_POLL.0, HALT_POLL.1).map(drop),
    };
    let rounds = Rounds::run(entries, count, &method, &prepare, &progress)?;
    site.restore()?;

    let latencies = if everything {
        progress.stage("making containers and publishing ports");
        Some(latency::measure(&site, options.extent)?)
    } else {
        None
    };
    progress.stage("running the programs by hand");
    let programs = cost::measure(&site)?;
    let generator = match world.veth() {
        Some(ends) if options.extent == Extent::Full && everything => {
            progress.stage("checking the generator");
            generator::check(&site, ends, &method)?
        }
        _ => Vec::new(),
    };
    let (idle_now, all_now) = environment::steal();
    environment.steal = (idle_now - idle) as f64 / (all_now - all).max(1) as f64;
    environment.offloads = world.offloads();
    progress.end();

    let variants = world.variants.iter().map(|variant| VariantInfo {
        name: variant.name.clone(),
        what: variant.what.clone(),
        ports: variant.ports,
        rules: variant.rules,
        mtu: variant.mtu,
        settings: variant
            .host
            .as_ref()
            .map(environment::of_host)
            .unwrap_or_default(),
    });
    let mut left_out = world.left_out.clone();
    left_out.extend(rounds.failed.iter().cloned());
    if method.cpus.len() < 2 {
        left_out.push(LeftOut {
            what: "cross-core".into(),
            why: "this machine has one core".into(),
        });
    }
    let report = Report {
        schema: SCHEMA,
        command: options.command.clone(),
        started,
        seconds: 0.0,
        rounds: count,
        window_ms: millis(method.timing.window),
        warmup_ms: millis(method.timing.warmup),
        control: rounds.control(),
        variants: variants.collect(),
        left_out,
        series: rounds.series(),
        comparisons: rounds.comparisons(),
        targets: targets::judge(&rounds, latencies.as_ref()),
        latencies,
        programs,
        generator,
        environment,
    };
    // First the processes, then their namespaces.
    drop(world);
    drop(site);
    Ok(Report {
        seconds: begun.elapsed().as_secs_f64(),
        ..report
    })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn timing(options: &Options) -> Timing {
    let (warmup, window) = match options.extent {
        Extent::Quick => (30, 100),
        Extent::Full => (80, 400),
    };
    Timing {
        warmup: Duration::from_millis(warmup),
        window: Duration::from_millis(options.window_ms.unwrap_or(window)),
        patient: options.extent == Extent::Full,
    }
}

/// What the benchmark cannot do without.
fn check_host() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(invalid(
            "the benchmark makes network namespaces and loads programs, run it as root (sudo)",
        ));
    }
    if tool("ip").is_none() {
        return Err(invalid(
            "the benchmark builds what it compares with ip(8), install iproute2",
        ));
    }
    for check in doctor::required() {
        check.result()?;
    }
    Ok(())
}

fn congestion() -> Result<String> {
    let available = fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control")
        .context("cannot list TCP's congestion controls")?;
    let known = |name: &&&str| available.split_whitespace().any(|known| known == **name);
    let chosen = CONGESTION.iter().find(known);
    Ok((*chosen.unwrap_or(&CONGESTION[1])).to_owned())
}
