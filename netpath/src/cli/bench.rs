//! `netpath bench`

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::Context;
use crate::bench::plan::Extent;
use crate::bench::results::Report;
use crate::bench::{self, Options, compare, html, plots, table, worker};
use crate::output::{Format, complain, print, print_json};
use crate::problem::invalid;

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,

    /// What the targets ask for only, in less than a minute
    #[arg(long)]
    quick: bool,

    /// Also compare with a Docker daemon, which is started for it
    #[arg(long)]
    docker: bool,

    /// Measure only these: WORKLOAD, WORKLOAD/PATH or CORES/WORKLOAD/PATH
    #[arg(long, value_name = "CASE", num_args = 1.., value_delimiter = ',')]
    only: Vec<String>,

    /// Rounds [default: 10; quick: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,

    /// Write the results to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Write a page with pictures to a file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Write results, page and pictures to a folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Length of a measurement in ms
    #[arg(long, hide = true, value_name = "MS", value_parser = clap::value_parser!(u64).range(10..=60_000))]
    window: Option<u64>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Compare two results, the older one first
    Compare {
        /// Result of `netpath bench --json`
        #[arg(value_name = "OLD.json")]
        old: PathBuf,

        /// Result of `netpath bench --json`
        #[arg(value_name = "NEW.json")]
        new: PathBuf,

        /// By how many percent a ratio may fall
        #[arg(long, value_name = "PERCENT", default_value_t = 5.0)]
        threshold: f64,
    },
}

/// What the generator is told.
#[derive(Debug, clap::Args)]
pub struct WorkerArgs {
    job: String,
}

pub fn work(args: &WorkerArgs) -> Result<()> {
    worker::run(&args.job)
}

pub fn run(args: Args, context: &Context) -> Result<ExitCode> {
    if let Some(Verb::Compare {
        old,
        new,
        threshold,
    }) = args.verb
    {
        return compare(&old, &new, threshold);
    }
    // Before minutes are spent: files that cannot be written.
    for file in [&args.json, &args.html].into_iter().flatten() {
        fs::write(file, "")
            .map_err(|e| invalid(format!("cannot write {}: {e}", file.display())))?;
    }
    if let Some(folder) = &args.out {
        fs::create_dir_all(folder)
            .map_err(|e| invalid(format!("cannot make {}: {e}", folder.display())))?;
    }
    let written: Vec<String> = std::env::args().skip(1).collect();
    let report = bench::run(&Options {
        extent: if args.quick {
            Extent::Quick
        } else {
            Extent::Full
        },
        rounds: args.rounds,
        filters: args.only,
        docker: args.docker,
        window_ms: args.window,
        command: format!("netpath {}", written.join(" ")),
    })?;
    let plots = plots::all(&report)?;
    let json = format!("{}\n", serde_json::to_string_pretty(&report)?);
    let page = html::page(&report, &plots);
    let mut files = Vec::new();
    files.extend(args.json.map(|path| (path, &json)));
    files.extend(args.html.map(|path| (path, &page)));
    if let Some(folder) = &args.out {
        files.push((folder.join("report.json"), &json));
        files.push((folder.join("report.html"), &page));
        let picture = |name: &str| folder.join(format!("{name}.svg"));
        files.extend(plots.iter().map(|plot| (picture(&plot.name), &plot.svg)));
    }
    for (path, text) in files {
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    match context.output {
        Format::Json => print_json(&report)?,
        Format::Table => print(&table::text(&report))?,
    }
    Ok(verdict(&report))
}

/// A run that is void, or in which netpath did not work, is a failure.
fn verdict(report: &Report) -> ExitCode {
    let failed = report
        .left_out
        .iter()
        .find(|left| left.what.ends_with(" on netpath"));
    if let Some(failed) = failed {
        complain(&format!("{} did not work: {}", failed.what, failed.why));
        return ExitCode::FAILURE;
    }
    if report.control.void {
        complain("the run is void: two equal variants differ; let nothing else run, and repeat it");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn compare(old: &Path, new: &Path, threshold: f64) -> Result<ExitCode> {
    if !(0.0..100.0).contains(&threshold) {
        return Err(invalid(format!(
            "--threshold {threshold} is no percentage, give one from 0 to 99"
        )));
    }
    let (old, new) = (compare::read(old)?, compare::read(new)?);
    let changes = compare::changes(&old, &new, threshold / 100.0)?;
    print(&compare::text(&old, &new, &changes))?;
    let worse = changes.iter().filter(|change| change.worse).count();
    if worse > 0 {
        complain(&format!(
            "{worse} ratios are worse by more than {threshold} %"
        ));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
