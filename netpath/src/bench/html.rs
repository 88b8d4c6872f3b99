//! A run as a page: one file that needs nothing else.

use std::fmt::Write as _;

use super::plots::Plot;
use super::results::Report;
use super::table::{self, comparison_of, digits, groups, interval, series_of};

const STYLE: &str = "
body { font: 15px/1.5 system-ui, sans-serif; color: #282c34; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem } h2 { font-size: 1.25rem; margin-top: 2.4rem } h3 { font-size: 1rem; margin-bottom: .3rem }
table { border-collapse: collapse; margin: .4rem 0 1.2rem; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; border-bottom: 1px solid #e4e6ea; vertical-align: top }
th { font-weight: 600; color: #5a606b } svg { max-width: 100%; height: auto }
.void { background: #b3261e; color: #fff; padding: .8rem 1rem; font-weight: 600 }
.met { color: #14713d } .missed { color: #b3261e; font-weight: 600 } .ours { font-weight: 600 }
code { overflow-wrap: anywhere }
";

/// The page.
pub fn page(report: &Report, plots: &[Plot]) -> String {
    let mut html = String::new();
    let _ = write!(
        html,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <title>netpath bench</title><style>{STYLE}</style></head><body>\n<h1>netpath bench</h1>\n"
    );
    if report.control.void {
        let _ = writeln!(
            html,
            "<p class=\"void\">This run is void: two equal variants differ by more than {:.0} %.</p>",
            report.control.tolerance * 100.0
        );
    }
    let _ = writeln!(
        html,
        "<p>{} rounds of {} ms windows (after {} ms of traffic), {:.0} s in all, begun at {} s since \
         1970. Made by <code>{}</code>.</p>",
        report.rounds,
        report.window_ms,
        report.warmup_ms,
        report.seconds,
        report.started,
        escape(&report.command)
    );
    html.push_str(
        "<p>Each round measures every variant once, in shuffled order. A ratio is made inside a round; \
         shown are the median of the rounds' ratios and its 95 % interval (bootstrap). On one core, client \
         and server share it, so that a rate is work and not the time to wake another core. Bytes and \
         packets are counted by the receiver.</p>\n",
    );
    targets(&mut html, report);
    control(&mut html, report);
    html.push_str("<h2>Pictures</h2>\n");
    for plot in plots {
        let _ = writeln!(html, "<h3>{}</h3>\n{}", escape(&plot.title), plot.svg);
    }
    rates(&mut html, report);
    rest(&mut html, report);
    variants(&mut html, report);
    environment(&mut html, report);
    html.push_str("</body></html>\n");
    html
}

/// A table whose cells are HTML already.
fn rows(html: &mut String, headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    html.push_str("<table><tr>");
    for heading in headings {
        let _ = write!(html, "<th>{}</th>", escape(heading));
    }
    html.push_str("</tr>\n");
    for row in rows {
        html.push_str("<tr>");
        for cell in row {
            let _ = write!(html, "<td>{cell}</td>");
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table>\n");
}

fn targets(html: &mut String, report: &Report) {
    html.push_str("<h2>Targets</h2>\n");
    let all = report.targets.iter().map(|target| {
        let (class, verdict) = match target.verdict.as_str() {
            "aim" => ("met", "met, and the aim"),
            "must" => ("met", "met"),
            "missed" => ("missed", "missed"),
            other => ("", other),
        };
        let unit = if target.unit == "ms" { " ms" } else { "" };
        vec![
            escape(&target.what),
            format!("{}{unit}", target.must),
            format!("{}{unit}", target.aim),
            target
                .measured
                .map_or_else(|| "–".to_owned(), |m| interval(&m, 2)),
            format!("<span class=\"{class}\">{verdict}</span>"),
        ]
    });
    rows(
        html,
        &["netpath", "must", "aim", "measured", "verdict"],
        all,
    );
}

fn control(html: &mut String, report: &Report) {
    html.push_str(
        "<h2>A/A control</h2>\n<p>One variant, twice: how much the method itself errs.</p>\n",
    );
    let all = report.control.ratios.iter().map(|ratio| {
        vec![
            escape(&format!(
                "{} {} {}",
                ratio.cores, ratio.workload, ratio.path
            )),
            escape(&ratio.reference),
            interval(&ratio.ratio, 3),
        ]
    });
    rows(html, &["case", "variant", "ratio to itself"], all);
}

fn rates(html: &mut String, report: &Report) {
    html.push_str("<h2>Rates</h2>\n");
    for group in groups(report) {
        let series = series_of(report, &group);
        let Some(first) = series.first() else {
            continue;
        };
        let _ = writeln!(
            html,
            "<h3>{}</h3>",
            escape(&format!("{} {} {}", group.0, group.1, group.2))
        );
        let busy = format!("CPU, {}", first.cpu_unit);
        let headings = [
            "variant",
            &first.unit,
            &busy,
            "of it processes",
            "of it softirq",
            "netpath is",
        ];
        let all = series.iter().map(|series| {
            let class = if series.variant == "netpath" {
                "ours"
            } else {
                ""
            };
            vec![
                format!("<span class=\"{class}\">{}</span>", escape(&series.variant)),
                interval(&series.rate, digits(series.rate.median)),
                format!("{:.2}", series.cpu_busy),
                format!("{:.2}", series.cpu_process),
                format!("{:.2}", series.cpu_softirq),
                comparison_of(report, &group, &series.variant)
                    .map_or_else(String::new, |c| interval(&c.ratio, 2)),
            ]
        });
        rows(html, &headings, all);
    }
    html.push_str(
        "<p>CPU is the time in which the cores of both sides were not idle (/proc/stat, in ticks), \
         divided by what was done. Processes: getrusage of client and server, which includes \
         interrupts that hit them. Softirq: as far as ticks fell into soft interrupts.</p>\n",
    );
}

fn rest(html: &mut String, report: &Report) {
    let latencies = table::named_latencies(report);
    if !latencies.is_empty() {
        html.push_str("<h2>Control plane</h2>\n");
        let all = latencies.into_iter().map(|(name, latency)| {
            vec![
                escape(&name),
                format!("{:.2}", latency.p50),
                format!("{:.2}", latency.p99),
                latency.count.to_string(),
            ]
        });
        rows(html, &["what", "p50, ms", "p99, ms", "times"], all);
    }
    if !report.programs.is_empty() {
        html.push_str("<h2>The programs</h2>\n");
        let count = |n: Option<u32>| n.map_or_else(|| "–".to_owned(), |n| n.to_string());
        let mut all = Vec::new();
        for program in &report.programs {
            let head = [
                escape(&program.program),
                count(program.instructions),
                count(program.verified),
            ];
            for packet in &program.packets {
                let mark = if packet.single { " *" } else { "" };
                let mut row = head.to_vec();
                row.extend([escape(&packet.packet), format!("{:.0}{mark}", packet.ns)]);
                all.push(row);
            }
            if program.packets.is_empty() {
                all.push(head.to_vec());
            }
        }
        let headings = ["program", "instructions", "verified", "packet", "ns"];
        rows(html, &headings, all);
        html.push_str(
            "<p>BPF_PROG_TEST_RUN with everything in the caches: a lower bound. *: run one at a time, \
             because the program changes the frame; the clock's own time is subtracted.</p>\n",
        );
    }
    if !report.generator.is_empty() {
        html.push_str("<h2>The generator beside others</h2>\n");
        let all = report.generator.iter().map(|check| {
            let figures = match &check.skipped {
                Some(why) => [String::new(), format!("left out: {}", escape(why))],
                None => [check.ours, check.other].map(|n| format!("{n:.*}", digits(n))),
            };
            let [ours, other] = figures;
            vec![
                escape(&check.tool),
                escape(&check.what),
                ours,
                other,
                check.unit.clone(),
            ]
        });
        rows(html, &["tool", "what", "ours", "the other's", "unit"], all);
    }
}

fn variants(html: &mut String, report: &Report) {
    html.push_str("<h2>What was compared</h2>\n");
    let all = report.variants.iter().map(|variant| {
        let settings: Vec<String> = variant
            .settings
            .iter()
            .map(|(name, value)| escape(&format!("{name} {value}")))
            .collect();
        vec![
            escape(&variant.name),
            escape(&variant.what),
            variant.ports.to_string(),
            variant.rules.to_string(),
            variant.mtu.to_string(),
            settings.join("<br>"),
        ]
    });
    let headings = [
        "variant",
        "what it is",
        "published ports",
        "firewall rules",
        "MTU",
        "its host's settings",
    ];
    rows(html, &headings, all);
    if !report.left_out.is_empty() {
        html.push_str("<h2>What was left out</h2>\n");
        let all = report
            .left_out
            .iter()
            .map(|left| vec![escape(&left.what), escape(&left.why)]);
        rows(html, &["what", "why"], all);
    }
}

fn environment(html: &mut String, report: &Report) {
    html.push_str("<h2>The machine</h2>\n");
    let env = &report.environment;
    let mut all = vec![
        ("kernel".to_owned(), env.kernel.clone()),
        ("processor".to_owned(), env.cpu.clone()),
        (
            "cores".to_owned(),
            format!("{}; used: {:?}", env.cores, env.used_cores),
        ),
        ("memory".to_owned(), format!("{} MiB", env.memory_mib)),
        (
            "virtual machine".to_owned(),
            if env.virtualized { "yes" } else { "no" }.to_owned(),
        ),
        (
            "load at the beginning".to_owned(),
            format!("{:.2}", env.load),
        ),
        (
            "time taken by other guests".to_owned(),
            format!("{:.2} %", env.steal * 100.0),
        ),
        (
            "congestion control of the connections".to_owned(),
            env.congestion.clone(),
        ),
    ];
    all.extend(env.settings.iter().cloned());
    all.extend(env.versions.iter().cloned());
    all.push((
        "offloads of a container's interface".to_owned(),
        env.offloads.join(", "),
    ));
    let all = all
        .into_iter()
        .map(|(name, value)| vec![escape(&name), format!("<code>{}</code>", escape(&value))]);
    rows(html, &["", ""], all);
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
