//! A run as text.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::latency::Latency;
use super::results::{Comparison, Report, Series};
use super::statistics::Estimate;
use crate::output::table;

/// A report for a terminal.
pub fn text(report: &Report) -> String {
    let mut text = String::new();
    let env = &report.environment;
    let _ = writeln!(
        text,
        "kernel {}\n{}, {} cores, cores used {:?}, {}, load at the start {:.2}, steal {:.1} %\n\
         {} rounds of {} ms windows, {:.0} s in all\n",
        env.kernel,
        env.cpu,
        env.cores,
        env.used_cores,
        env.congestion,
        env.load,
        env.steal * 100.0,
        report.rounds,
        report.window_ms,
        report.seconds
    );
    for group in groups(report) {
        text.push_str(&rates(report, &group));
        text.push('\n');
    }
    text.push_str(&targets(report));
    text.push_str(&latencies(report));
    text.push_str(&programs(report));
    text.push_str(&generator(report));
    if !report.left_out.is_empty() {
        text.push_str("\nleft out:\n");
        for left in &report.left_out {
            let _ = writeln!(text, "  {}: {}", left.what, left.why);
        }
    }
    text.push_str(&control(report));
    text
}

/// A workload on a number of cores and a path: what one table shows.
pub type Group = (String, String, String);

/// The groups of a report, in the order of its series.
pub fn groups(report: &Report) -> Vec<Group> {
    let mut seen = BTreeSet::new();
    report
        .series
        .iter()
        .map(group_of)
        .filter(|group| seen.insert(group.clone()))
        .collect()
}

fn group_of(series: &Series) -> Group {
    (
        series.cores.clone(),
        series.workload.clone(),
        series.path.clone(),
    )
}

/// The series of a group, the fastest first.
pub fn series_of<'a>(report: &'a Report, group: &Group) -> Vec<&'a Series> {
    let mut series: Vec<&Series> = report
        .series
        .iter()
        .filter(|series| group_of(series) == *group)
        .collect();
    series.sort_by(|a, b| b.rate.median.total_cmp(&a.rate.median));
    series
}

/// netpath beside a variant, in a group.
pub fn comparison_of<'a>(
    report: &'a Report,
    group: &Group,
    variant: &str,
) -> Option<&'a Comparison> {
    report.comparisons.iter().find(|c| {
        (&c.cores, &c.workload, &c.path) == (&group.0, &group.1, &group.2) && c.reference == variant
    })
}

fn rates(report: &Report, group: &Group) -> String {
    let series = series_of(report, group);
    let Some(first) = series.first() else {
        return String::new();
    };
    let rows: Vec<Vec<String>> = series
        .iter()
        .map(|series| {
            let ratio = comparison_of(report, group, &series.variant)
                .map_or_else(String::new, |c| interval(&c.ratio, 2));
            vec![
                format!("  {}", series.variant),
                interval(&series.rate, digits(series.rate.median)),
                format!("{:.2}", series.cpu_busy),
                ratio,
            ]
        })
        .collect();
    format!(
        "{} {} {}\n{}",
        group.0,
        group.1,
        group.2,
        table(
            &[
                "  VARIANT",
                &first.unit,
                &format!("CPU {}", first.cpu_unit),
                "NETPATH IS"
            ],
            &rows
        )
    )
}

/// How many digits behind the point a figure of this size deserves.
pub fn digits(value: f64) -> usize {
    if value >= 100.0 { 0 } else { 2 }
}

/// A median with its interval.
pub fn interval(estimate: &Estimate, digits: usize) -> String {
    let Estimate { median, low, high } = estimate;
    if low == high {
        return format!("{median:.digits$}");
    }
    format!("{median:.digits$} ({low:.digits$} to {high:.digits$})")
}

fn targets(report: &Report) -> String {
    let rows: Vec<Vec<String>> = report
        .targets
        .iter()
        .filter_map(|target| {
            let measured = interval(&target.measured?, 2);
            Some(vec![
                target.what.clone(),
                format!("{} {}", target.must, unit_of(&target.unit)),
                format!("{} {}", target.aim, unit_of(&target.unit)),
                measured,
                match target.verdict.as_str() {
                    "aim" => "met, and the aim".to_owned(),
                    "must" => "met".to_owned(),
                    other => other.to_owned(),
                },
            ])
        })
        .collect();
    let others = report.targets.len() - rows.len();
    let mut text = String::new();
    if !rows.is_empty() {
        text = table(&["TARGET", "MUST", "AIM", "MEASURED", "VERDICT"], &rows);
    }
    if others > 0 {
        let _ = writeln!(text, "{others} targets were not measured");
    }
    text
}

fn unit_of(unit: &str) -> &str {
    if unit == "ms" { "ms" } else { "x" }
}

/// The latencies with their names.
pub fn named_latencies(report: &Report) -> Vec<(String, Latency)> {
    report.latencies.as_ref().map_or_else(Vec::new, |all| {
        vec![
            ("attach a container".to_owned(), all.attach),
            ("detach it".to_owned(), all.detach),
            (format!("publish {} ports", all.ports), all.publish),
            (format!("take {} ports back", all.ports), all.unpublish),
        ]
    })
}

fn latencies(report: &Report) -> String {
    let rows: Vec<Vec<String>> = named_latencies(report)
        .into_iter()
        .map(|(name, latency)| {
            vec![
                name,
                format!("{:.2}", latency.p50),
                format!("{:.2}", latency.p99),
                latency.count.to_string(),
            ]
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "\n{}",
        table(&["LATENCY", "P50 ms", "P99 ms", "COUNT"], &rows)
    )
}

fn programs(report: &Report) -> String {
    let count = |n: Option<u32>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let mut rows = Vec::new();
    for program in &report.programs {
        let mut head = [
            program.program.clone(),
            count(program.instructions),
            count(program.verified),
        ];
        for packet in &program.packets {
            let mut row = std::mem::take(&mut head).to_vec();
            let mark = if packet.single { " *" } else { "" };
            row.extend([packet.packet.clone(), format!("{:.0}{mark}", packet.ns)]);
            rows.push(row);
        }
        if program.packets.is_empty() {
            rows.push(head.to_vec());
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "\n{}* one at a time, because the program changes the frame\n",
        table(
            &["PROGRAM", "INSTRUCTIONS", "VERIFIED", "PACKET", "ns"],
            &rows
        )
    )
}

fn generator(report: &Report) -> String {
    let mut text = String::new();
    for check in &report.generator {
        let _ = match &check.skipped {
            Some(why) => writeln!(text, "generator beside {}: left out, {why}", check.tool),
            None => writeln!(
                text,
                "generator beside {} ({}): {:.2} and {:.2} {}",
                check.tool, check.what, check.ours, check.other, check.unit
            ),
        };
    }
    if text.is_empty() {
        text
    } else {
        format!("\n{text}")
    }
}

fn control(report: &Report) -> String {
    let mut text = String::new();
    for ratio in &report.control.ratios {
        let _ = writeln!(
            text,
            "\nA/A control, {} {} {}: {} beside itself is {}",
            ratio.cores,
            ratio.workload,
            ratio.path,
            ratio.reference,
            interval(&ratio.ratio, 3)
        );
    }
    if report.control.void {
        let _ = writeln!(
            text,
            "\nTHIS RUN IS VOID: two equal variants differ by more than {:.0} %. Let nothing else \
             run on this machine, and repeat it.",
            report.control.tolerance * 100.0
        );
    }
    text
}
