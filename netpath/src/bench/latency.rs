//! How long the control plane takes: connecting a container and publishing ports.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::interrupt;
use super::plan::Extent;
use super::site::Site;
use super::statistics::percentile;
use super::topology::ours::Agent;
use crate::api::types::{Connect, CreateContainer, Created};
use crate::netlink::netns;

/// Made before anything is measured.
const WARM: usize = 5;
/// Before each: the agent makes spare interfaces when nobody is being connected.
const PAUSE: Duration = Duration::from_millis(200);
/// Ports of the range that is published.
pub const RANGE: u16 = 1000;
/// Where the range begins.
const FIRST: u16 = 40_000;

/// All latencies, in ms.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Latencies {
    /// A container is made, now and then: namespace, veth, addresses, programs, maps.
    pub attach: Latency,
    /// It is removed.
    pub detach: Latency,
    /// Namespaces of somebody else's are connected, one right after the other: more than the
    /// agent has spare interfaces for.
    pub attach_in_a_row: Latency,
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
    let (containers, in_a_row, ranges) = match extent {
        Extent::Quick => (30, 20, 5),
        Extent::Full => (150, 100, 20),
    };
    let agent = Agent::start(site, "latency")?;
    let mut times = Vec::new();
    for i in 0..WARM + containers {
        times.push(there_and_back(&agent, &format!("n{i}"), &[])?);
    }
    let (attach, detach): (Vec<_>, Vec<_>) = times.into_iter().skip(WARM).unzip();

    let last = FIRST + RANGE - 1;
    let range = [format!("{FIRST}-{last}:{FIRST}-{last}")];
    let mut times = Vec::new();
    for i in 0..=ranges {
        // One without ports right before, so that the difference is the ports'.
        let without = there_and_back(&agent, &format!("w{i}"), &[])?;
        let with = there_and_back(&agent, &format!("p{i}"), &range)?;
        times.push((
            with.0.saturating_sub(without.0),
            with.1.saturating_sub(without.1),
        ));
    }
    let (publish, unpublish): (Vec<_>, Vec<_>) = times.into_iter().skip(1).unzip();

    let of = |times: &[Duration]| Latency::of(times).context("nothing was measured");
    Ok(Latencies {
        attach: of(&attach)?,
        detach: of(&detach)?,
        attach_in_a_row: of(&attached_in_a_row(site, &agent, in_a_row)?)?,
        publish: of(&publish)?,
        unpublish: of(&unpublish)?,
        ports: RANGE,
    })
}

/// Makes a container, as `netpath run` does before it starts the command, and removes it: how
/// long either took.
fn there_and_back(agent: &Agent, name: &str, publish: &[String]) -> Result<(Duration, Duration)> {
    std::thread::sleep(PAUSE);
    interrupt::check()?;
    let request = CreateContainer {
        connect: Connect {
            name: Some(name.to_owned()),
            publish: publish.to_vec(),
            ..Connect::default()
        },
        argv: vec!["true".to_owned()],
        supervisor: std::process::id(),
        ..CreateContainer::default()
    };
    let start = Instant::now();
    let _: Created = agent.client.post("/v1/containers", &request)?;
    let there = start.elapsed();
    let start = Instant::now();
    agent
        .client
        .delete(&format!("/v1/containers/{name}?force=true"))?;
    Ok((there, start.elapsed()))
}

/// Makes namespaces and connects them.
fn attached_in_a_row(site: &Site, agent: &Agent, count: usize) -> Result<Vec<Duration>> {
    let folder = site.folder("latency/spaces")?;
    (0..count)
        .map(|i| {
            interrupt::check()?;
            let name = format!("a{i}");
            let path = folder.join(&name);
            let start = Instant::now();
            netns::create(&path)?;
            agent.attach(&name, path, Vec::new())?;
            Ok(start.elapsed())
        })
        .collect()
}
