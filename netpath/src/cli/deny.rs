//! `netpath deny`

use anyhow::Result;
use clap::Subcommand;

use super::{Context, for_each};
use crate::api::client::Client;
use crate::api::types::{Denial, DenialMade, Deny};
use crate::output::{Format, complain, print, print_json, table};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Drop whatever comes from these sources, on all uplinks
    Add {
        /// Prefixes or addresses
        #[arg(required = true, value_name = "CIDR")]
        prefixes: Vec<String>,
        /// Even if it cuts off this host, its gateway or its containers
        #[arg(long)]
        force: bool,
    },
    /// Let them in again
    Rm {
        /// Prefixes or addresses, as they were added
        #[arg(required = true, value_name = "CIDR")]
        prefixes: Vec<String>,
    },
    /// List what is denied, and how much came from there
    #[command(visible_alias = "list")]
    Ls,
}

pub fn run(args: Args, context: &Context) -> Result<()> {
    let client = context.client();
    match args.verb {
        Verb::Add { prefixes, force } => for_each(&prefixes, |prefix| {
            let prefix = prefix.to_owned();
            let made: DenialMade = client.post("/v1/denied", &Deny { prefix, force })?;
            for warning in &made.warnings {
                complain(&format!("warning: {warning}"));
            }
            Ok(())
        }),
        Verb::Rm { prefixes } => for_each(&prefixes, |prefix| {
            client.delete(&format!("/v1/denied?prefix={}", super::escape(prefix)))
        }),
        Verb::Ls => list(&client, context.output),
    }
}

fn list(client: &Client, output: Format) -> Result<()> {
    let denied: Vec<Denial> = client.get("/v1/denied")?;
    match output {
        Format::Json => print_json(&denied),
        Format::Table if denied.is_empty() => print("nothing is denied\n"),
        Format::Table => {
            let rows: Vec<Vec<String>> = denied
                .into_iter()
                .map(|denial| {
                    let (packets, bytes) = (denial.packets, denial.bytes);
                    vec![denial.prefix, packets.to_string(), bytes.to_string()]
                })
                .collect();
            print(&table(&["PREFIX", "PACKETS", "BYTES"], &rows))
        }
    }
}
