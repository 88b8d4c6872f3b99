//! `netpath network inspect`

use anyhow::Result;
use serde_json::json;

use super::super::{Context, inspect_each};
use super::words;
use crate::api::types::Network;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Their names or ids
    #[arg(required = true, value_name = "NETWORK")]
    names: Vec<String>,
    /// What to show of each: a Go template, or json
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// For Docker's users: there is no more to show
    #[arg(short, long)]
    verbose: bool,
}

pub fn run(args: &Args, context: &Context) -> Result<()> {
    let client = context.client();
    let left_out = [
        ("IPRange", "".into()),
        ("Gateway", "".into()),
        ("AuxiliaryAddresses", json!({})),
    ];
    inspect_each(&args.names, args.format.as_deref(), &left_out, |name| {
        let network: Network = client.get(&super::path(name)?)?;
        Ok(words::inspected(&network))
    })
}
