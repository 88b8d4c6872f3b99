//! The project's chores: `cargo xtask VERB`.

mod apt;
mod bench;
mod build;
mod clean_machine;
mod demo;
mod fmt;
mod fuzz;
mod host;
mod leftovers;
mod lint;
mod object;
mod package;
mod run;
mod setup;
mod setup_toolchain;
mod signal;
mod test;
mod toolchain;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::setup::Say;

#[derive(Parser)]
#[command(
    name = "xtask",
    bin_name = "cargo xtask",
    about = "The chores of the netpath project"
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what building, testing and running need, and mount bpffs
    Setup,
    /// Build everything, the eBPF programs included
    Build {
        /// With optimisations
        #[arg(long)]
        release: bool,
    },
    /// Format the sources
    Fmt {
        /// Change nothing, fail if something is not formatted
        #[arg(long)]
        check: bool,
    },
    /// Run clippy, warnings are errors
    Lint,
    /// Check format and lints, build, run all tests (as root, through sudo if need be)
    Test {
        /// Run only tests whose name contains one of these; after `--`: arguments for the tests
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        filters: Vec<String>,
    },
    /// Give the programs random and damaged frames, and see that they do no harm
    Fuzz {
        /// For how long
        #[arg(long, default_value_t = 10)]
        minutes: u64,
        /// Where the sequence of frames begins [default: by the clock]
        #[arg(long)]
        seed: Option<u64>,
        /// Replace the corpus that the tests replay by what showed something new
        #[arg(long)]
        keep: bool,
    },
    /// Show netpath at work between two network namespaces, and check what it shows
    Demo {
        /// Skip set-up and build
        #[arg(long, hide = true)]
        built: bool,
    },
    /// Build with optimisations and measure; the arguments are those of `netpath bench`
    Bench {
        /// See `netpath bench --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Build with optimisations, make a Debian package, by cargo-deb, and try it
    Package {
        /// Skip set-up and build
        #[arg(long, hide = true)]
        built: bool,
    },
    /// Take away what tests and demonstrations that were killed left on this machine
    CleanMachine,
    /// Say what is in the compiled eBPF object
    Object,
}

fn main() -> ExitCode {
    match dispatch(Arguments::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(verb: Verb) -> Result<ExitCode> {
    let workspace = host::workspace()?;
    let succeeded = match verb {
        Verb::Setup => setup::run(&workspace, Say::Everything).map(drop),
        Verb::Build { release } => {
            setup::run(&workspace, Say::Summary)?;
            build::run(&workspace, release)
        }
        Verb::Fmt { check } => fmt::run(&workspace, check),
        Verb::Lint => {
            let toolchain = setup::run(&workspace, Say::Summary)?;
            lint::run(&workspace, &toolchain)
        }
        Verb::Test { filters } => return test::run(&workspace, &filters),
        Verb::Fuzz {
            minutes,
            seed,
            keep,
        } => {
            setup::run(&workspace, Say::Summary)?;
            let seed = seed.map_or_else(fuzz::seed_by_the_clock, Ok)?;
            fuzz::run(&workspace, minutes, seed, keep)
        }
        Verb::Demo { built } => demo::run(&workspace, built),
        Verb::Bench { arguments } => return bench::run(&workspace, &arguments),
        Verb::Package { built } => {
            if !built {
                setup::run(&workspace, Say::Summary)?;
            }
            package::run(&workspace, built)
        }
        Verb::CleanMachine => clean_machine::run(),
        Verb::Object => {
            let toolchain = setup::run(&workspace, Say::Summary)?;
            object::run(&workspace, &toolchain)
        }
    };
    succeeded.map(|()| ExitCode::SUCCESS)
}
