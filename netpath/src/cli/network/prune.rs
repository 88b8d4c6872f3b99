//! `netpath network prune`

use std::io::{BufRead, stdin};

use anyhow::{Context as _, Result};

use super::super::Context;
use super::filter::{Filter, Known};
use crate::api::types::Network;
use crate::output::{complain, print};

const FILTERS: &[Known] = &[Known::Label, Known::Until];
const QUESTION: &str = "WARNING! This will remove all custom networks not used by at least one \
                        container.\nAre you sure you want to continue? [y/N] ";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only some: label=KEY[=VALUE], label!=KEY[=VALUE], until=TIME or until=24h
    #[arg(long = "filter", value_name = "KEY=VALUE")]
    filters: Vec<String>,
}

pub fn run(args: &Args, context: &Context) -> Result<()> {
    let filter = Filter::parse(&args.filters, FILTERS)?;
    if !args.force && !agreed()? {
        return Ok(());
    }
    let client = context.client();
    let networks: Vec<Network> = client.get("/v1/networks")?;
    let mut removed = Vec::new();
    for network in networks {
        let unused = network.containers.is_empty() && !super::filter::is_builtin(&network);
        if !unused || !filter.admits(&network) {
            continue;
        }
        match client.delete(&super::path(&network.id)?) {
            Ok(()) => removed.push(network.name),
            // A container may have come meanwhile: that is what the agent says, too.
            Err(error) => complain(&format!("{error:#}")),
        }
    }
    if removed.is_empty() {
        return Ok(());
    }
    print(&format!("Deleted Networks:\n{}\n\n", removed.join("\n")))
}

fn agreed() -> Result<bool> {
    print(QUESTION)?;
    let mut answer = String::new();
    let line = stdin().lock().read_line(&mut answer);
    line.context("cannot read the answer")?;
    Ok(["y", "Y"].contains(&answer.trim()))
}
