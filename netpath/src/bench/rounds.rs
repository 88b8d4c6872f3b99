//! Rounds: each visits every case, and on each case every variant, in shuffled order.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use super::measure::{Method, Sample, measure};
use super::plan::{Case, Cores, Timing, Workload};
use super::progress::Progress;
use super::results::{Comparison, Control, LeftOut, Series};
use super::statistics::{Estimate, median, ratios};
use super::topology::docker::Backend;
use super::topology::dockerd::{ADOPTED, OWN_NETWORK, PLUGIN};
use super::topology::ours::{HOST_PROCESS, NETPATH};
use super::topology::plain::LOOPBACK;
use super::topology::{Ends, Path, Variant, Which};

/// How far from 1 the A/A control may be.
pub const TOLERANCE: f64 = 0.03;
/// So many published ports make a rule set slow.
const MANY: u32 = 10_000;
/// What the second of two equal variants is called more.
pub const TWIN: &str = "/twin";

/// A case on a variant.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The case.
    pub case: Case,
    /// The variant.
    pub variant: String,
    ends: Ends,
    window: Duration,
}

/// The samples of a run.
#[derive(Debug, Default)]
pub struct Rounds {
    /// A slot a round.
    samples: BTreeMap<(Case, String), Vec<Option<Sample>>>,
    /// What did not work.
    pub failed: Vec<LeftOut>,
}

/// What is measured each round. A case that was asked for is measured on every variant that
/// has its path; a case that is there for the A/A control only, on the two that are equal.
pub fn entries(
    cases: &[Case],
    control_only: Option<Case>,
    variants: &[Variant],
    timing: Timing,
    everything: bool,
) -> Vec<Entry> {
    let is_paired = |name: &str| {
        name.ends_with(TWIN) || variants.iter().any(|v| v.name == format!("{name}{TWIN}"))
    };
    let mut entries = Vec::new();
    for &case in cases.iter().chain(&control_only) {
        for variant in variants {
            let Some(ends) = variant.paths.get(&case.path) else {
                continue;
            };
            let wanted = if control_only == Some(case) {
                is_paired(&variant.name)
            } else {
                (case.is_control() || !variant.name.ends_with(TWIN))
                    && !(everything && is_left_to_others(case, &variant.name))
            };
            if wanted {
                entries.push(Entry {
                    case,
                    variant: variant.name.clone(),
                    ends: ends.clone(),
                    window: match variant.name.as_str() {
                        // There is no docker-proxy on their ways.
                        ADOPTED | PLUGIN => timing.window,
                        _ => timing.window_of(case),
                    },
                });
            }
        }
    }
    entries
}

/// A run of everything has to end within a quarter of an hour, so it measures what the targets and
/// the pictures are made of; whoever names cases gets all of them.
///
/// * Docker's containers on netpath's programs share most of their ways with netpath's own: they are
///   measured where the targets are, and those in networks of users' own only where these differ from
///   docker0.
/// * Across cores nothing is held against nftables or a loopback device, and most of a round trip is
///   the time to wake a core, which is the same on every path.
/// * What the host itself makes of its card is needed to judge the others, not to compare with.
/// * Whether the first or the last port was published last makes a difference where there are many.
fn is_left_to_others(case: Case, variant: &str) -> bool {
    let brief = matches!(case.workload, Workload::RoundTrips | Workload::Connections);
    let is_across = case.cores == Cores::Two;
    match (variant, case.path) {
        (ADOPTED, _) => is_across || case.workload == Workload::Stream16,
        (PLUGIN | OWN_NETWORK, Path::Containers | Path::Published) => is_across || !brief,
        (PLUGIN | OWN_NETWORK, _) => true,
        (LOOPBACK, _) => is_across,
        (HOST_PROCESS, Path::Wire) => true,
        (_, Path::Scaling(ports, Which::First)) => ports < MANY,
        (_, path) if is_across => {
            variant == Backend::Nftables.name()
                || path != Path::Containers && case.workload == Workload::RoundTrips
        }
        _ => false,
    }
}

/// The order of a round: what is compared with each other is close in time, and otherwise
/// everything is shuffled. The variants of a case are compared with each other; of the cases of
/// many ports, those of a variant.
fn in_order(entries: &[Entry]) -> Vec<&Entry> {
    let block = |entry: &Entry| match entry.case.path {
        Path::Scaling(..) => (None, Some(entry.variant.clone())),
        _ => (Some(entry.case), None),
    };
    let mut blocks: BTreeMap<_, Vec<&Entry>> = BTreeMap::new();
    for entry in entries {
        blocks.entry(block(entry)).or_default().push(entry);
    }
    let mut blocks: Vec<Vec<&Entry>> = blocks.into_values().collect();
    fastrand::shuffle(&mut blocks);
    for block in &mut blocks {
        fastrand::shuffle(block);
    }
    blocks.into_iter().flatten().collect()
}

impl Rounds {
    /// Measures all entries, round by round; `prepare` is called before each case.
    ///
    /// # Errors
    /// The user interrupts it. An entry that does not work is noted and left out from then on.
    pub fn run(
        mut entries: Vec<Entry>,
        rounds: u32,
        method: &Method,
        prepare: &dyn Fn(Cores) -> Result<()>,
        progress: &Progress,
    ) -> Result<Self> {
        let mut all = Self::default();
        for round in 0..rounds as usize {
            progress.round(round as u32, rounds);
            for entry in in_order(&entries) {
                let case = entry.case;
                prepare(case.cores)?;
                progress.step(&format!("{case} {}", entry.variant));
                let sample = match measure(case, &entry.ends, entry.window, method) {
                    Ok(sample) => Some(sample),
                    Err(error) => {
                        super::interrupt::check()?;
                        all.failed.push(LeftOut {
                            what: format!("{case} on {}", entry.variant),
                            why: format!("{error:#}"),
                        });
                        None
                    }
                };
                let key = (case, entry.variant.clone());
                let slots = all.samples.entry(key).or_default();
                slots.resize(round, None);
                slots.push(sample);
            }
            let failed: Vec<String> = all.failed.iter().map(|f| f.what.clone()).collect();
            entries.retain(|e| !failed.contains(&format!("{} on {}", e.case, e.variant)));
        }
        Ok(all)
    }

    fn rates(&self, case: &str, variant: &str) -> Option<Vec<Option<f64>>> {
        let (_, samples) = self
            .samples
            .iter()
            .find(|((c, v), _)| v == variant && c.to_string() == case)?;
        Some(samples.iter().map(|s| s.map(|s| s.rate)).collect())
    }

    /// The ratio of two entries, each a case and a variant; `None` if no round has both.
    pub fn ratio(&self, subject: (&str, &str), reference: (&str, &str)) -> Option<Estimate> {
        let subject = self.rates(subject.0, subject.1)?;
        let reference = self.rates(reference.0, reference.1)?;
        Estimate::of(&ratios(&subject, &reference))
    }

    /// The rates of all entries.
    pub fn series(&self) -> Vec<Series> {
        self.samples
            .iter()
            .filter_map(|((case, variant), samples)| {
                let good: Vec<Sample> = samples.iter().copied().flatten().collect();
                let of = |what: fn(&Sample) -> f64| -> Vec<f64> { good.iter().map(what).collect() };
                Some(Series {
                    cores: case.cores.to_string(),
                    workload: case.workload.to_string(),
                    path: case.path.to_string(),
                    variant: variant.clone(),
                    unit: case.workload.unit().to_owned(),
                    rate: Estimate::of(&of(|s| s.rate))?,
                    samples: samples.iter().map(|s| s.map(|s| s.rate)).collect(),
                    cpu_unit: case.workload.cpu_unit().to_owned(),
                    cpu_busy: median(&of(|s| s.busy))?,
                    cpu_process: median(&of(|s| s.process))?,
                    cpu_softirq: median(&of(|s| s.softirq))?,
                    failures: good.iter().map(|s| s.failures).sum(),
                })
            })
            .collect()
    }

    fn compare(&self, case: Case, subject: &str, reference: &str) -> Option<Comparison> {
        let name = case.to_string();
        let pairs = ratios(&self.rates(&name, subject)?, &self.rates(&name, reference)?);
        Some(Comparison {
            cores: case.cores.to_string(),
            workload: case.workload.to_string(),
            path: case.path.to_string(),
            subject: subject.to_owned(),
            reference: reference.to_owned(),
            ratio: Estimate::of(&pairs)?,
            rounds: pairs.len(),
        })
    }

    /// netpath beside every other variant on every case.
    pub fn comparisons(&self) -> Vec<Comparison> {
        self.samples
            .keys()
            .filter(|(_, variant)| variant != NETPATH && !variant.ends_with(TWIN))
            .filter_map(|(case, variant)| self.compare(*case, NETPATH, variant))
            .collect()
    }

    /// The A/A control: each twin beside its double.
    pub fn control(&self) -> Control {
        let twins = self.samples.keys().filter_map(|(case, variant)| {
            let double = variant.strip_suffix(TWIN)?;
            self.compare(*case, variant, double)
        });
        judge(twins.collect())
    }

    /// Whether all that was measured of netpath worked.
    pub fn has_all_of_ours(&self) -> bool {
        !self
            .failed
            .iter()
            .any(|failed| failed.what.ends_with(&format!(" on {NETPATH}")))
    }
}

/// The rule of the A/A control: every ratio within the tolerance, and at least one.
fn judge(ratios: Vec<Comparison>) -> Control {
    let off = |comparison: &Comparison| (comparison.ratio.median - 1.0).abs() > TOLERANCE;
    Control {
        void: ratios.is_empty() || ratios.iter().any(off),
        tolerance: TOLERANCE,
        ratios,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASE: Case = Case {
        cores: Cores::One,
        workload: Workload::RoundTrips,
        path: Path::Containers,
    };

    fn rounds(of: &[(&str, &[f64])]) -> Rounds {
        let sample = |rate: f64| Sample {
            rate,
            busy: 1.0,
            process: 1.0,
            softirq: 0.0,
            failures: 0,
        };
        let samples = of.iter().map(|(variant, rates)| {
            let samples = rates.iter().map(|rate| Some(sample(*rate))).collect();
            ((CASE, (*variant).to_owned()), samples)
        });
        Rounds {
            samples: samples.collect(),
            failed: Vec::new(),
        }
    }

    #[test]
    fn two_equal_variants_that_differ_void_a_run() {
        for (factor, void) in [
            (1.0, false),
            (1.029, false),
            (0.971, false),
            (1.031, true),
            (0.96, true),
        ] {
            let one = [100.0, 90.0, 110.0];
            let two = one.map(|rate| rate * factor);
            let control = rounds(&[("x", &one), ("x/twin", &two)]).control();
            assert_eq!(control.void, void, "{factor}");
            assert_eq!(control.ratios.len(), 1);
        }
    }

    #[test]
    fn a_run_without_a_control_is_void() {
        assert!(rounds(&[("x", &[1.0])]).control().void);
        assert!(rounds(&[("x/twin", &[1.0])]).control().void);
    }

    #[test]
    fn netpath_is_compared_with_every_other_but_twins() {
        let rounds = rounds(&[
            (NETPATH, &[130.0, 65.0]),
            ("a", &[100.0, 50.0]),
            ("a/twin", &[100.0, 50.0]),
        ]);
        let all = rounds.comparisons();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].reference, "a");
        assert!((all[0].ratio.median - 1.3).abs() < 1e-9);
        assert_eq!(all[0].rounds, 2);
    }
}
