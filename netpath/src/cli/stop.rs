//! `netpath stop`

use anyhow::Result;

use super::{Context, container_path, for_each};
use crate::api::types::Stop;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The containers
    #[arg(required = true)]
    names: Vec<String>,

    /// Seconds between asking a container to end and killing it
    #[arg(short, long, default_value_t = 10, value_name = "SECONDS",
          value_parser = clap::value_parser!(u32).range(..=86_400))]
    time: u32,
}

pub fn run(args: &Args, context: &Context) -> Result<()> {
    let client = context.client().with_more_patience(args.time);
    for_each(&args.names, |name| {
        let path = format!("{}/stop", container_path(name)?);
        client
            .post::<serde_json::Value>(&path, &Stop { timeout: args.time })
            .map(drop)
    })
}
