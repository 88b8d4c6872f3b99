//! What a run found out, as it stands in the JSON file.

use serde::{Deserialize, Serialize};

use super::cost::ProgramCost;
use super::environment::Environment;
use super::latency::Latencies;
use super::statistics::Estimate;

/// Version of the form of the JSON file; raised when a field changes its meaning.
pub const SCHEMA: u32 = 1;

/// Everything.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The command that made it.
    pub command: String,
    /// When it began, seconds since 1970.
    pub started: u64,
    /// How long it took.
    pub seconds: f64,
    /// Rounds.
    pub rounds: u32,
    /// Window of one measurement in ms.
    pub window_ms: u64,
    /// Traffic before it in ms.
    pub warmup_ms: u64,
    /// Whether the A/A control held.
    pub control: Control,
    /// What was compared.
    pub variants: Vec<VariantInfo>,
    /// What was left out, and why.
    pub left_out: Vec<LeftOut>,
    /// Measured rates.
    pub series: Vec<Series>,
    /// netpath beside each other variant.
    pub comparisons: Vec<Comparison>,
    /// What netpath should reach.
    pub targets: Vec<TargetResult>,
    /// Control plane latencies.
    pub latencies: Option<Latencies>,
    /// Cost of the programs.
    pub programs: Vec<ProgramCost>,
    /// The generator beside others.
    pub generator: Vec<GeneratorCheck>,
    /// The machine.
    pub environment: Environment,
}

/// The A/A control: one variant twice, which must not differ.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Control {
    /// The run is void: figures of two equal things differ.
    pub void: bool,
    /// How far from 1 a ratio may be.
    pub tolerance: f64,
    /// The ratios.
    pub ratios: Vec<Comparison>,
}

/// A variant.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VariantInfo {
    /// Its name.
    pub name: String,
    /// What it is.
    pub what: String,
    /// Published ports.
    pub ports: u32,
    /// Rules of the firewall.
    pub rules: u64,
    /// MTU of a container's interface in bytes.
    pub mtu: u32,
    /// Settings of its host's namespace that matter.
    pub settings: Vec<(String, String)>,
}

/// Something that was not measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeftOut {
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
}

/// Rates of a case on a variant.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Series {
    /// `one-core` or `cross-core`.
    pub cores: String,
    /// Workload.
    pub workload: String,
    /// Path.
    pub path: String,
    /// Variant.
    pub variant: String,
    /// What the rate is counted in.
    pub unit: String,
    /// The rate.
    pub rate: Estimate,
    /// The rate of each round.
    pub samples: Vec<Option<f64>>,
    /// What CPU time is told of.
    pub cpu_unit: String,
    /// Median of the time in which the cores of both sides were not idle (/proc/stat).
    pub cpu_busy: f64,
    /// Median of the CPU time of client and server (getrusage).
    pub cpu_process: f64,
    /// Median of the time in soft interrupts on these cores (/proc/stat).
    pub cpu_softirq: f64,
    /// Connections that could not be made, in all rounds.
    pub failures: u64,
}

/// Two variants on one case, or one variant on two.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Comparison {
    /// `one-core` or `cross-core`.
    pub cores: String,
    /// Workload.
    pub workload: String,
    /// Path.
    pub path: String,
    /// The numerator.
    pub subject: String,
    /// The denominator.
    pub reference: String,
    /// Median of the rounds' ratios.
    pub ratio: Estimate,
    /// Rounds that had both.
    pub rounds: usize,
}

impl Comparison {
    /// What it compares, in one word.
    pub fn key(&self) -> String {
        format!(
            "{}/{}/{} {} vs {}",
            self.cores, self.workload, self.path, self.subject, self.reference
        )
    }
}

/// A target and how it was met.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TargetResult {
    /// What is compared.
    pub what: String,
    /// Ratio or ms.
    pub unit: String,
    /// What must be reached.
    pub must: f64,
    /// What is aimed at.
    pub aim: f64,
    /// What was measured; nothing if it was not.
    pub measured: Option<Estimate>,
    /// `aim`, `must`, `missed` or `not measured`.
    pub verdict: String,
}

/// The generator beside another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GeneratorCheck {
    /// The other.
    pub tool: String,
    /// What was done with both.
    pub what: String,
    /// Unit of both.
    pub unit: String,
    /// Median of ours.
    pub ours: f64,
    /// Median of the other's.
    pub other: f64,
    /// Why nothing was measured, if so.
    pub skipped: Option<String>,
}
