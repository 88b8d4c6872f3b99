//! `netpath network`

mod create;
mod filter;
mod inspect;
mod list;
mod prune;
pub(super) mod words;

use anyhow::Result;
use clap::Subcommand;

use super::connect::JoinArgs;
use super::{Context, container_path, for_each};
use crate::api::types::Container;
use crate::container::names;
use crate::output::{Format, print_json};
use crate::problem::{Kind, kind_of};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a network
    Create(Box<create::Args>),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(list::Args),
    /// Show all about networks
    Inspect(inspect::Args),
    /// Connect a container that runs to a network
    Connect(JoinArgs),
    /// Disconnect a container from a network
    Disconnect(Disconnect),
    /// Remove networks
    #[command(visible_alias = "remove")]
    Rm(Remove),
    /// Remove the networks that no container is in
    Prune(prune::Args),
}

#[derive(Debug, clap::Args)]
struct Disconnect {
    /// The network
    network: String,
    /// The container
    container: String,
    /// Even if it is not connected, or not there at all
    #[arg(short, long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
struct Remove {
    /// Their names or ids
    #[arg(required = true, value_name = "NETWORK")]
    names: Vec<String>,
    /// Those that are not there are no mistake
    #[arg(short, long)]
    force: bool,
}

pub fn run(args: Args, context: &Context) -> Result<()> {
    match args.verb {
        Verb::Create(args) => create::run(*args, context),
        Verb::Ls(args) => list::run(&args, context),
        Verb::Inspect(args) => inspect::run(&args, context),
        Verb::Rm(args) => {
            let client = context.client();
            // With --force what is not there is neither told nor complained about.
            let there = |name: &&String| {
                let found = path(name).and_then(|path| client.get::<serde_json::Value>(&path));
                !found.is_err_and(|error| kind_of(&error) == Some(Kind::NotFound))
            };
            let names = args.names.iter();
            let names: Vec<String> = names.filter(|n| !args.force || there(n)).cloned().collect();
            for_each(&names, |name| client.delete(&path(name)?))
        }
        Verb::Prune(args) => prune::run(&args, context),
        Verb::Connect(args) => {
            let path = format!("{}/networks", container_path(&args.container)?);
            let container: Container = context.client().post(&path, &args.request())?;
            match context.output {
                Format::Json => print_json(&container),
                // As in Docker: done.
                Format::Table => Ok(()),
            }
        }
        Verb::Disconnect(args) => {
            path(&args.network)?;
            let container = container_path(&args.container)?;
            let (network, force) = (&args.network, args.force);
            context
                .client()
                .delete(&format!("{container}/networks/{network}?force={force}"))
        }
    }
}

/// The path of a network in the API. Names are checked here: one with a slash would be another
/// path.
fn path(name: &str) -> Result<String> {
    names::check_word("network", name)?;
    Ok(format!("/v1/networks/{name}"))
}
