//! What netpath should reach: the table that each run is held against.

use super::latency::Latencies;
use super::results::TargetResult;
use super::rounds::Rounds;
use super::statistics::Estimate;
use super::topology::dockerd;
use super::topology::ours::{HOST_PROCESS, NETPATH};
use super::topology::vxlan::{UNDERLAY, VXLAN};
use super::topology::wire::{BRIDGE, MACVLAN, STACKED};

/// What is compared.
#[derive(Clone, Copy, Debug)]
enum Measure {
    /// netpath and another variant on the same case.
    Variant(&'static str, &'static str),
    /// netpath on two cases.
    Cases(&'static str, &'static str),
    /// A latency in ms: less is better.
    Latency(fn(&Latencies) -> f64),
}

struct Target {
    what: &'static str,
    measure: Measure,
    must: f64,
    aim: f64,
}

const IPTABLES: &str = "docker0+iptables";
/// Variants that are held against the table beside the Docker that they are made of.
const OF_DOCKER: [OfDocker; 2] = [
    OfDocker {
        subject: dockerd::ADOPTED,
        name: "docker0 adopted",
        reference: dockerd::NAME,
        reference_name: "the same Docker",
    },
    OfDocker {
        subject: dockerd::PLUGIN,
        name: "network of the driver",
        reference: dockerd::OWN_NETWORK,
        reference_name: "Docker's own",
    },
];

/// A variant of Docker's containers on netpath's programs, and what it is held against.
struct OfDocker {
    subject: &'static str,
    name: &'static str,
    reference: &'static str,
    reference_name: &'static str,
}

const fn ratio(
    what: &'static str,
    case: &'static str,
    reference: &'static str,
    must: f64,
    aim: f64,
) -> Target {
    Target {
        what,
        measure: Measure::Variant(case, reference),
        must,
        aim,
    }
}

const fn latency(what: &'static str, of: fn(&Latencies) -> f64, must: f64, aim: f64) -> Target {
    Target {
        what,
        measure: Measure::Latency(of),
        must,
        aim,
    }
}

static TARGETS: [Target; 34] = [
    ratio(
        "container to container, round trips, vs docker0+iptables",
        "one-core/tcp-rr/container-container",
        IPTABLES,
        1.25,
        1.32,
    ),
    ratio(
        "container to container, connections, vs docker0+iptables",
        "one-core/tcp-crr/container-container",
        IPTABLES,
        1.25,
        1.36,
    ),
    ratio(
        "container to container, stream, vs docker0+iptables",
        "one-core/tcp-stream-128k/container-container",
        IPTABLES,
        1.30,
        1.5,
    ),
    ratio(
        "container to container, UDP packets across cores, vs docker0+iptables",
        "cross-core/udp-pps/container-container",
        IPTABLES,
        1.6,
        1.85,
    ),
    ratio(
        "container to container, round trips, vs a bare veth pair",
        "one-core/tcp-rr/container-container",
        "veth",
        0.95,
        0.98,
    ),
    ratio(
        "container to outside, round trips, vs docker0+iptables",
        "one-core/tcp-rr/container-outside",
        IPTABLES,
        1.22,
        1.32,
    ),
    ratio(
        "container to outside, connections, vs docker0+iptables",
        "one-core/tcp-crr/container-outside",
        IPTABLES,
        1.22,
        1.35,
    ),
    ratio(
        "container to outside, stream, vs docker0+iptables",
        "one-core/tcp-stream-128k/container-outside",
        IPTABLES,
        1.30,
        1.42,
    ),
    ratio(
        "container to outside, UDP packets across cores, vs docker0+iptables",
        "cross-core/udp-pps/container-outside",
        IPTABLES,
        1.35,
        1.55,
    ),
    ratio(
        "outside to published port, round trips, vs docker0+iptables",
        "one-core/tcp-rr/outside-published",
        IPTABLES,
        1.22,
        1.32,
    ),
    ratio(
        "outside to published port, connections, vs docker0+iptables",
        "one-core/tcp-crr/outside-published",
        IPTABLES,
        1.25,
        1.38,
    ),
    ratio(
        "outside to published port, stream, vs docker0+iptables",
        "one-core/tcp-stream-128k/outside-published",
        IPTABLES,
        1.30,
        1.42,
    ),
    ratio(
        "outside to published port, round trips, vs a process of the host",
        "one-core/tcp-rr/outside-published",
        HOST_PROCESS,
        0.92,
        1.0,
    ),
    ratio(
        "host's 127.0.0.1 to published port, round trips, vs docker-proxy",
        "one-core/tcp-rr/host-published",
        dockerd::NAME,
        5.0,
        6.5,
    ),
    ratio(
        "host's 127.0.0.1 to published port, connections, vs docker-proxy",
        "one-core/tcp-crr/host-published",
        dockerd::NAME,
        2.5,
        3.0,
    ),
    Target {
        what: "connections with 10,000 published ports vs with 1, netpath",
        measure: Measure::Cases(
            "one-core/tcp-crr/published-10000-last",
            "one-core/tcp-crr/published-1-last",
        ),
        must: 0.95,
        aim: 0.99,
    },
    ratio(
        "connections with 10,000 published ports vs docker0+iptables with as many",
        "one-core/tcp-crr/published-10000-last",
        IPTABLES,
        15.0,
        20.0,
    ),
    ratio(
        "connections with 10,000 published ports vs docker27+iptables with as many",
        "one-core/tcp-crr/published-10000-last",
        "docker27+iptables",
        15.0,
        20.0,
    ),
    ratio(
        "container to container, stream in 16 KB writes, vs docker0+iptables",
        "one-core/tcp-stream-16k/container-container",
        IPTABLES,
        3.0,
        7.0,
    ),
    ratio(
        "overlay, round trips, vs the kernel's VXLAN and bridge",
        "one-core/tcp-rr/overlay",
        VXLAN,
        1.35,
        1.6,
    ),
    ratio(
        "overlay, connections, vs the kernel's VXLAN and bridge",
        "one-core/tcp-crr/overlay",
        VXLAN,
        1.35,
        1.6,
    ),
    ratio(
        "overlay, stream, vs the kernel's VXLAN and bridge",
        "one-core/tcp-stream-128k/overlay",
        VXLAN,
        1.5,
        2.0,
    ),
    ratio(
        "overlay, UDP packets across cores, vs the kernel's VXLAN and bridge",
        "cross-core/udp-pps/overlay",
        VXLAN,
        1.8,
        2.3,
    ),
    ratio(
        "overlay, round trips, vs the bare underlay",
        "one-core/tcp-rr/overlay",
        UNDERLAY,
        0.77,
        0.91,
    ),
    ratio(
        "on the wire, round trips, vs a bridge with the card",
        "one-core/tcp-rr/container-wire",
        BRIDGE,
        1.2,
        1.3,
    ),
    ratio(
        "on the wire, round trips, vs macvlan",
        "one-core/tcp-rr/container-wire",
        MACVLAN,
        1.0,
        1.1,
    ),
    ratio(
        "on the wire, stream, vs a bridge with the card",
        "one-core/tcp-stream-128k/container-wire",
        BRIDGE,
        1.2,
        1.3,
    ),
    ratio(
        "on the wire, stream, vs macvlan",
        "one-core/tcp-stream-128k/container-wire",
        MACVLAN,
        1.0,
        1.1,
    ),
    ratio(
        "on the wire, UDP packets, vs a bridge with the card",
        "one-core/udp-pps-waking/container-wire",
        BRIDGE,
        1.2,
        1.3,
    ),
    ratio(
        "on the wire, UDP packets, vs macvlan",
        "one-core/udp-pps-waking/container-wire",
        MACVLAN,
        1.0,
        1.1,
    ),
    latency("attach a container, p50", |all| all.attach.p50, 10.0, 1.5),
    latency("attach a container, p99", |all| all.attach.p99, 25.0, 5.0),
    latency("publish 1,000 ports, p50", |all| all.publish.p50, 50.0, 5.0),
    latency("publish 1,000 ports, p99", |all| all.publish.p99, 50.0, 5.0),
];

/// Holds a run against the table.
pub fn judge(rounds: &Rounds, latencies: Option<&Latencies>) -> Vec<TargetResult> {
    let mut results: Vec<TargetResult> = TARGETS
        .iter()
        .map(|target| {
            let (measured, less) = match target.measure {
                Measure::Variant(case, reference) => {
                    (rounds.ratio((case, NETPATH), (case, reference)), false)
                }
                Measure::Cases(one, two) => (rounds.ratio((one, NETPATH), (two, NETPATH)), false),
                Measure::Latency(of) => (latencies.map(|all| exactly(of(all))), true),
            };
            result(target, target.what.to_owned(), measured, less)
        })
        .collect();
    results.extend(on_stacked(rounds));
    results.extend(OF_DOCKER.iter().flat_map(|of| of_docker(rounds, of)));
    results
}

/// What was measured of containers on the wire with the kernel's devices, held against the same table
/// as those with veths.
fn on_stacked(rounds: &Rounds) -> impl Iterator<Item = TargetResult> {
    TARGETS.iter().filter_map(move |target| {
        let Measure::Variant(case, reference @ (BRIDGE | MACVLAN)) = target.measure else {
            return None;
        };
        let measured = rounds.ratio((case, STACKED), (case, reference))?;
        let what = format!("mode=macvlan: {}", target.what);
        Some(result(target, what, Some(measured), false))
    })
}

/// Docker's containers on netpath's programs, beside the same Docker without: what was measured
/// of them is held against the same table.
fn of_docker(rounds: &Rounds, of: &OfDocker) -> impl Iterator<Item = TargetResult> {
    TARGETS.iter().filter_map(move |target| {
        let Measure::Variant(case, IPTABLES | dockerd::NAME) = target.measure else {
            return None;
        };
        let measured = rounds.ratio((case, of.subject), (case, of.reference))?;
        let what = target
            .what
            .rsplit_once(", vs ")
            .map_or(target.what, |parts| parts.0);
        let what = format!("{}: {what}, vs {}", of.name, of.reference_name);
        Some(result(target, what, Some(measured), false))
    })
}

fn result(target: &Target, what: String, measured: Option<Estimate>, less: bool) -> TargetResult {
    TargetResult {
        what,
        unit: if less { "ms" } else { "ratio" }.to_owned(),
        must: target.must,
        aim: target.aim,
        measured,
        verdict: verdict(measured.map(|m| m.median), target, less).to_owned(),
    }
}

fn exactly(value: f64) -> Estimate {
    Estimate {
        median: value,
        low: value,
        high: value,
    }
}

fn verdict(measured: Option<f64>, target: &Target, less: bool) -> &'static str {
    let Some(measured) = measured else {
        return "not measured";
    };
    let reached = |goal: f64| {
        if less {
            measured <= goal
        } else {
            measured >= goal
        }
    };
    match (reached(target.aim), reached(target.must)) {
        (true, _) => "aim",
        (false, true) => "must",
        (false, false) => "missed",
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Extent, cases};
    use super::*;

    #[test]
    fn targets_name_cases_of_both_extents() {
        for extent in [Extent::Quick, Extent::Full] {
            let names: Vec<String> = cases(extent, 2).iter().map(ToString::to_string).collect();
            // A quick run has no card.
            let on_wire = |target: &&Target| !target.what.starts_with("on the wire");
            let asked = TARGETS
                .iter()
                .filter(|target| extent == Extent::Full || on_wire(target));
            for target in asked {
                let wanted = match target.measure {
                    Measure::Variant(case, _) => vec![case],
                    Measure::Cases(one, two) => vec![one, two],
                    Measure::Latency(_) => Vec::new(),
                };
                for case in wanted {
                    assert!(names.iter().any(|name| name == case), "{case}");
                }
            }
        }
    }

    #[test]
    fn the_aim_is_beyond_what_must_be() {
        for target in &TARGETS {
            let less = matches!(target.measure, Measure::Latency(_));
            assert_eq!(verdict(Some(target.aim), target, less), "aim");
            assert_eq!(verdict(Some(target.must), target, less), "must");
            let miss = if less {
                target.must * 1.01
            } else {
                target.must * 0.99
            };
            assert_eq!(verdict(Some(miss), target, less), "missed");
            assert_eq!(verdict(None, target, less), "not measured");
        }
    }
}
