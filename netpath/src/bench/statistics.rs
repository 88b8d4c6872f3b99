//! Medians, intervals and ratios.
//!
//! Figures of one variant drift by more than two variants differ: other guests, the clock,
//! caches. So each round measures every variant once, a ratio is made inside a round, and
//! what is told is the median of the rounds' ratios with the interval in which it lies with
//! a confidence of 95 % (percentile bootstrap).

use serde::{Deserialize, Serialize};

/// Samples that the bootstrap draws.
const DRAWS: usize = 4000;
/// The generator of the bootstrap begins here, so that the same samples give the same figures.
const SEED: u64 = 0x6e65_7470_6174_6821;

/// A median with its interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The median.
    pub median: f64,
    /// Lower end of the 95 % interval.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

impl Estimate {
    /// The median of samples with its interval; `None` without samples.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let median = median(samples)?;
        let mut random = fastrand::Rng::with_seed(SEED);
        let mut drawn = vec![0.0; samples.len()];
        let mut medians: Vec<f64> = (0..DRAWS)
            .filter_map(|_| {
                for slot in &mut drawn {
                    *slot = samples[random.usize(..samples.len())];
                }
                self::median(&drawn)
            })
            .collect();
        medians.sort_by(f64::total_cmp);
        Some(Self {
            median,
            low: quantile(&medians, 0.025)?,
            high: quantile(&medians, 0.975)?,
        })
    }
}

/// The middle of samples; `None` without any.
pub fn median(samples: &[f64]) -> Option<f64> {
    percentile(samples, 0.5)
}

/// The value below which this part of samples lies, between two of them if need be.
pub fn percentile(samples: &[f64], part: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile(&sorted, part)
}

fn quantile(sorted: &[f64], part: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let position = part.clamp(0.0, 1.0) * last as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(last);
    let rest = position - below as f64;
    Some(sorted[below] * (1.0 - rest) + sorted[above] * rest)
}

/// The ratio of two series inside each round that has both.
pub fn ratios(subject: &[Option<f64>], reference: &[Option<f64>]) -> Vec<f64> {
    subject
        .iter()
        .zip(reference)
        .filter_map(|pair| match pair {
            (Some(subject), Some(reference)) if *reference > 0.0 => Some(subject / reference),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        let hundred: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!(percentile(&hundred, 0.99), Some(99.0));
        assert_eq!(percentile(&hundred, 0.0), Some(0.0));
        assert_eq!(percentile(&hundred, 1.0), Some(100.0));
    }

    #[test]
    fn ratios_are_made_inside_a_round() {
        // A machine that is half as fast in every other round changes no ratio.
        let speed = [1.0, 0.5, 1.0, 0.5, 1.0, 0.5];
        let fast: Vec<_> = speed.iter().map(|s| Some(130.0 * s)).collect();
        let slow: Vec<_> = speed.iter().map(|s| Some(100.0 * s)).collect();
        let estimate = Estimate::of(&ratios(&fast, &slow)).unwrap();
        assert!((estimate.median - 1.3).abs() < 1e-9);
        assert!((estimate.high - estimate.low).abs() < 1e-9);
    }

    #[test]
    fn a_round_without_one_of_the_two_does_not_count() {
        let one = [Some(2.0), None, Some(4.0), Some(1.0)];
        let two = [Some(1.0), Some(1.0), None, Some(0.0)];
        assert_eq!(ratios(&one, &two), [2.0]);
    }

    #[test]
    fn intervals_hold_the_median_and_narrow_with_more_rounds() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut sample =
            |n: usize| -> Vec<f64> { (0..n).map(|_| 1.3 + (random.f64() - 0.5) * 0.1).collect() };
        let (few, many) = (sample(10), sample(200));
        let (few, many) = (Estimate::of(&few).unwrap(), Estimate::of(&many).unwrap());
        for estimate in [few, many] {
            assert!(estimate.low <= estimate.median && estimate.median <= estimate.high);
            assert!((estimate.median - 1.3).abs() < 0.05);
        }
        assert!(many.high - many.low < few.high - few.low);
    }

    #[test]
    fn intervals_are_right_about_as_often_as_they_say() {
        let mut random = fastrand::Rng::with_seed(11);
        let trials = 200;
        let held = (0..trials).filter(|_| {
            let samples: Vec<f64> = (0..12).map(|_| random.f64()).collect();
            let estimate = Estimate::of(&samples).unwrap();
            estimate.low <= 0.5 && 0.5 <= estimate.high
        });
        let held = held.count();
        assert!(held > trials * 85 / 100, "{held} of {trials}");
    }

    #[test]
    fn the_same_samples_give_the_same_figures() {
        let samples = [1.0, 1.1, 0.9, 1.05, 0.95];
        assert_eq!(Estimate::of(&samples), Estimate::of(&samples));
    }
}
