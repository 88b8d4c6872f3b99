//! What is measured: workloads, on how many cores, on which paths.

use std::fmt;
use std::time::Duration;

use anyhow::Result;

use super::topology::{Path, Which};
use super::worker::Traffic;
use crate::problem::invalid;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Workload {
    /// One byte there and back on one connection.
    RoundTrips,
    /// A connection for each byte there and back.
    Connections,
    /// One way in writes of 128 KB.
    Stream128,
    /// One way in writes of 16 KB.
    Stream16,
    /// Datagrams of 64 bytes, to a receiver that never sleeps.
    Datagrams,
    /// Datagrams of 64 bytes, to a receiver that sleeps in between.
    WakingDatagrams,
}

impl Workload {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::RoundTrips,
        Self::Connections,
        Self::Stream128,
        Self::Stream16,
        Self::Datagrams,
        Self::WakingDatagrams,
    ];

    /// What the generator does for it.
    pub const fn traffic(self) -> Traffic {
        match self {
            Self::RoundTrips => Traffic::RoundTrips,
            Self::Connections => Traffic::Connections,
            Self::Stream128 => Traffic::Stream(128 * 1024),
            Self::Stream16 => Traffic::Stream(16 * 1024),
            Self::Datagrams => Traffic::Datagrams,
            Self::WakingDatagrams => Traffic::WakingDatagrams,
        }
    }

    /// What its rate is counted in.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::RoundTrips => "transactions/s",
            Self::Connections => "connections/s",
            Self::Stream128 | Self::Stream16 => "Gbit/s",
            Self::Datagrams | Self::WakingDatagrams => "packets/s",
        }
    }

    /// Of what its CPU time is told.
    pub const fn cpu_unit(self) -> &'static str {
        match self {
            Self::RoundTrips => "µs/transaction",
            Self::Connections => "µs/connection",
            Self::Stream128 | Self::Stream16 => "ms/GB",
            Self::Datagrams | Self::WakingDatagrams => "µs/packet",
        }
    }

    /// The rate in its unit.
    pub fn rate(self, units: u64, seconds: f64) -> f64 {
        let rate = units as f64 / seconds;
        match self {
            Self::Stream128 | Self::Stream16 => rate * 8.0 / 1e9,
            _ => rate,
        }
    }

    /// CPU time in its unit.
    pub fn cpu(self, microseconds: u64, units: u64) -> f64 {
        let each = microseconds as f64 / units.max(1) as f64;
        match self {
            // µs a byte to ms a GB (10⁹ bytes).
            Self::Stream128 | Self::Stream16 => each * 1e6,
            _ => each,
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::RoundTrips => "tcp-rr",
            Self::Connections => "tcp-crr",
            Self::Stream128 => "tcp-stream-128k",
            Self::Stream16 => "tcp-stream-16k",
            Self::Datagrams => "udp-pps",
            Self::WakingDatagrams => "udp-pps-waking",
        })
    }
}

/// On which cores client and server run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cores {
    /// Both on one: what is measured is work, without the cost of waking another core.
    One,
    /// Each on its own.
    Two,
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::One => "one-core",
            Self::Two => "cross-core",
        })
    }
}

/// One thing that is measured for all variants that have its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Case {
    /// The cores.
    pub cores: Cores,
    /// The workload.
    pub workload: Workload,
    /// The path.
    pub path: Path,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.cores, self.workload, self.path)
    }
}

impl Case {
    /// Whether the A/A control is read here: where the targets are, but not across cores,
    /// whose noise would void every other run.
    pub fn is_control(&self) -> bool {
        self.cores == Cores::One
            && self.path == Path::Containers
            && self.workload != Workload::Stream16
    }
}

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// What the targets ask for, in less than a minute.
    Quick,
    /// Everything, in less than a quarter of an hour.
    Full,
}

/// How long each measurement takes.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// From the start of the processes to the window: they start, connect, and send for a
    /// while.
    pub warmup: Duration,
    /// The window.
    pub window: Duration,
    /// Longer windows where what is beside us needs them.
    pub patient: bool,
}

impl Timing {
    /// The window of a case. docker-proxy hops between cores as it likes, and behind 10,000
    /// rules a window has few connections: both want a longer one for a median that stays.
    pub fn window_of(&self, case: Case) -> Duration {
        match case.path {
            Path::Local if self.patient => self.window * 4,
            Path::Scaling(10_000, _) if self.patient => self.window * 2,
            _ => self.window,
        }
    }
}

/// The numbers of published ports of the scaling cases.
pub const SCALES: [u32; 4] = [1, 100, 1000, 10_000];

/// The cases of a run.
pub fn cases(extent: Extent, cores: usize) -> Vec<Case> {
    use Path::{Containers, Local, Outside, Overlay, Published, Wire};
    use Workload::{Connections, Datagrams, RoundTrips, Stream16, Stream128, WakingDatagrams};
    let mut cases = Vec::new();
    let mut add = |cores, path, workloads: &[Workload]| {
        cases.extend(workloads.iter().map(|&workload| Case {
            cores,
            workload,
            path,
        }));
    };
    let tcp = [RoundTrips, Connections, Stream128];
    add(Cores::One, Containers, &tcp);
    add(Cores::One, Containers, &[Stream16]);
    add(Cores::One, Outside, &tcp);
    add(Cores::One, Published, &tcp);
    add(Cores::One, Local, &[RoundTrips, Connections]);
    let scales: &[u32] = match extent {
        Extent::Quick => &[1, 10_000],
        Extent::Full => &SCALES,
    };
    for &ports in scales {
        if ports > 1 && extent == Extent::Full {
            add(
                Cores::One,
                Path::Scaling(ports, Which::First),
                &[Connections],
            );
        }
        add(
            Cores::One,
            Path::Scaling(ports, Which::Last),
            &[Connections],
        );
    }
    add(Cores::One, Overlay, &tcp);
    if extent == Extent::Full {
        add(Cores::One, Wire, &[RoundTrips, Stream128, WakingDatagrams]);
    }
    if cores > 1 {
        for path in [Containers, Outside, Overlay] {
            add(Cores::Two, path, &[Datagrams]);
        }
        if extent == Extent::Full {
            add(Cores::Two, Containers, &[WakingDatagrams]);
            add(Cores::Two, Published, &[Datagrams]);
            for path in [Containers, Outside, Published] {
                add(Cores::Two, path, &[RoundTrips]);
            }
            add(Cores::Two, Containers, &[Stream128]);
        }
    }
    cases
}

/// Keeps the cases that `filters` name: `WORKLOAD`, `WORKLOAD/PATH` or `CORES/WORKLOAD/PATH`.
///
/// # Errors
/// A filter that names none; with what there is.
pub fn filter(cases: Vec<Case>, filters: &[String]) -> Result<Vec<Case>> {
    if filters.is_empty() {
        return Ok(cases);
    }
    let matches = |case: &Case, filter: &str| {
        let full = case.to_string();
        let mut parts = full.splitn(3, '/');
        parts.next();
        let rest: Vec<&str> = parts.collect();
        filter == full || filter == rest.join("/") || rest.first() == Some(&filter)
    };
    for filter in filters {
        if !cases.iter().any(|case| matches(case, filter)) {
            let mut names: Vec<String> = Vec::new();
            for case in &cases {
                let name = format!("{}/{}", case.workload, case.path);
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            return Err(invalid(format!(
                "\"{filter}\" names nothing that this run measures; there is {}",
                names.join(", ")
            )));
        }
    }
    let wanted = |case: &Case| filters.iter().any(|filter| matches(case, filter));
    Ok(cases.into_iter().filter(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_name_cases() {
        let all = || cases(Extent::Full, 2);
        let count = |filters: &[&str]| {
            let filters: Vec<String> = filters.iter().map(ToString::to_string).collect();
            filter(all(), &filters).map(|cases| cases.len())
        };
        assert_eq!(count(&[]).unwrap(), all().len());
        assert_eq!(count(&["tcp-stream-16k"]).unwrap(), 1);
        assert_eq!(count(&["tcp-rr/container-container"]).unwrap(), 2);
        assert_eq!(count(&["one-core/tcp-rr/container-container"]).unwrap(), 1);
        assert_eq!(
            count(&["tcp-crr/published-10000-last", "udp-pps/overlay"]).unwrap(),
            2
        );
        for wrong in [
            "",
            "tcp",
            "tcp-rr/",
            "tcp-rr/nowhere",
            "/container-container",
        ] {
            let error = count(&[wrong]).unwrap_err().to_string();
            assert!(error.contains("tcp-rr/container-container"), "{error}");
        }
    }

    #[test]
    fn one_core_has_no_cross_core_cases() {
        assert!(
            cases(Extent::Full, 1)
                .iter()
                .all(|case| case.cores == Cores::One)
        );
    }

    #[test]
    fn units() {
        assert!((Workload::Stream128.rate(1_250_000_000, 1.0) - 10.0).abs() < 1e-9);
        assert!((Workload::RoundTrips.rate(500, 0.5) - 1000.0).abs() < 1e-9);
        assert!((Workload::RoundTrips.cpu(500_000, 50_000) - 10.0).abs() < 1e-9);
        // A core for a second, for a GB: 1000 ms.
        assert!((Workload::Stream128.cpu(1_000_000, 1_000_000_000) - 1000.0).abs() < 1e-9);
    }
}
