//! `netpath rm`

use anyhow::Result;

use super::{Context, container_path, for_each};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The containers, or attached namespaces
    #[arg(required = true)]
    names: Vec<String>,

    /// Kill what still runs
    #[arg(short, long)]
    force: bool,
}

pub fn run(args: &Args, context: &Context) -> Result<()> {
    let client = context.client();
    for_each(&args.names, |name| {
        client.delete(&format!("{}?force={}", container_path(name)?, args.force))
    })
}
