//! How long the control plane takes: connecting a container and publishing ports.

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
    fn of(times: &[Duration], less: f64) -> Option<Self> {
        let ms: Vec<f64> = times
            .iter()
            .map(|time| (time.as_secs_f64() * 1e3 - less).max(0.0))
            .collect();
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
        let path = folder.join(format!("n{i}"));
        let start = Instant::now();
        netns::create(&path)?;
        agent.attach(&format!("n{i}"), path, Vec::new())?;
        attach.push(start.elapsed());
    }
    for i in 0..WARM + containers {
        interrupt::check()?;
        let path = folder.join(format!("n{i}"));
        let start = Instant::now();
        agent.client.delete(&format!("/v1/containers/n{i}"))?;
        netns::remove(&path)?;
        detach.push(start.elapsed());
    }
    let attach = Latency::of(&attach[WARM..], 0.0).context("nothing was attached")?;
    let detach = Latency::of(&detach[WARM..], 0.0).context("nothing was attached")?;
    let mut publish = Vec::new();
    let mut unpublish = Vec::new();
    let last = FIRST + RANGE - 1;
    for i in 0..=ranges {
        interrupt::check()?;
        let path = folder.join(format!("p{i}"));
        let range = format!("{FIRST}-{last}:{FIRST}-{last}");
        let start = Instant::now();
        netns::create(&path)?;
        agent.attach(&format!("p{i}"), path.clone(), vec![range])?;
        publish.push(start.elapsed());
        let start = Instant::now();
        agent.client.delete(&format!("/v1/containers/p{i}"))?;
        netns::remove(&path)?;
        unpublish.push(start.elapsed());
    }
    // The first is a warm-up here, too.
    Ok(Latencies {
        publish: Latency::of(&publish[1..], attach.p50).context("nothing was published")?,
        unpublish: Latency::of(&unpublish[1..], detach.p50).context("nothing was published")?,
        attach,
        detach,
        ports: RANGE,
    })
}
