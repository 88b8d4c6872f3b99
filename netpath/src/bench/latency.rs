//! How long the control plane takes: connecting a container and publishing ports.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::interrupt;
use super::plan::Extent;
use super::site::Site;
use super::statistics::percentile;
use super::topology::ours::Agent;
use crate::netlink::netns;

/// Attached before anything is measured.
const WARM: usize = 10;
/// Ports of the range that is published.
pub const RANGE: u16 = 1000;
/// Where the range begins.
const FIRST: u16 = 40_000;

/// All latencies, in ms.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Latencies {
    /// A namespace is made and connected: veth, addresses, programs, maps.
    pub attach: Latency,
    /// It is taken away.
    pub detach: Latency,
    /// [`RANGE`] ports are published: what connecting a container takes longer with them.
    pub publish: Latency,
    /// They are taken back: what disconnecting takes longer.
    pub unpublish: Latency,
    /// Ports of the range.
    pub ports: u16,
}

/// A latency in ms.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Latency {
    /// Half of all took no longer.
    pub p50: f64,
    /// 99 of 100 took no longer.
    pub p99: f64,
    /// How often it was measured.
    pub count: usize,
}

impl Latency {
    fn of(times: &[Duration]) -> Option<Self> {
        let ms: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
        Some(Self {
            p50: percentile(&ms, 0.5)?,
            p99: percentile(&ms, 0.99)?,
            count: ms.len(),
        })
    }
}

/// Measures on an agent of its own.
///
/// # Errors
/// The agent's.
pub fn measure(site: &Site, extent: Extent) -> Result<Latencies> {
    let (containers, ranges) = match extent {
        Extent::Quick => (100, 5),
        Extent::Full => (200, 20),
    };
    let agent = Agent::start(site, "latency")?;
    let folder = site.folder("latency/spaces")?;
    let mut attach = Vec::new();
    let mut detach = Vec::new();
    for i in 0..WARM + containers {
        interrupt::check()?;
        let start = Instant::now();
        connect(&agent, &folder.join(format!("n{i}")), &[])?;
        attach.push(start.elapsed());
    }
    for i in 0..WARM + containers {
        interrupt::check()?;
        let name = format!("n{i}");
        let start = Instant::now();
        disconnect(&agent, &name, &folder.join(&name))?;
        detach.push(start.elapsed());
    }
    let attach = Latency::of(&attach[WARM..]).context("nothing was attached")?;
    let detach = Latency::of(&detach[WARM..]).context("nothing was attached")?;
    let last = FIRST + RANGE - 1;
    let range = [format!("{FIRST}-{last}:{FIRST}-{last}")];
    let mut publish = Vec::new();
    let mut unpublish = Vec::new();
    for i in 0..=ranges {
        // One without ports right before, so that the difference is the ports'.
        let without = there_and_back(&agent, &folder.join(format!("w{i}")), &[])?;
        let with = there_and_back(&agent, &folder.join(format!("p{i}")), &range)?;
        publish.push(with.0.saturating_sub(without.0));
        unpublish.push(with.1.saturating_sub(without.1));
    }
    // The first is a warm-up here, too.
    Ok(Latencies {
        publish: Latency::of(&publish[1..]).context("nothing was published")?,
        unpublish: Latency::of(&unpublish[1..]).context("nothing was published")?,
        attach,
        detach,
        ports: RANGE,
    })
}

/// Makes a namespace, connects it and takes both away: how long either took.
fn there_and_back(agent: &Agent, path: &Path, publish: &[String]) -> Result<(Duration, Duration)> {
    interrupt::check()?;
    let start = Instant::now();
    let name = connect(agent, path, publish)?;
    let there = start.elapsed();
    let start = Instant::now();
    disconnect(agent, &name, path)?;
    Ok((there, start.elapsed()))
}

fn connect(agent: &Agent, path: &Path, publish: &[String]) -> Result<String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    netns::create(path)?;
    agent.attach(&name, path.to_owned(), publish.to_vec())?;
    Ok(name.into_owned())
}

fn disconnect(agent: &Agent, name: &str, path: &Path) -> Result<()> {
    agent.client.delete(&format!("/v1/containers/{name}"))?;
    netns::remove(path)
}
