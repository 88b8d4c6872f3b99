//! `netpath name-server`: started by the agent, not by people.

use std::path::PathBuf;

use anyhow::Result;

use crate::dns::server;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The agent's run folder
    #[arg(long, value_name = "DIR")]
    run_dir: PathBuf,

    /// Take over from the server that is there
    #[arg(long)]
    take_over: bool,
}

pub fn run(args: &Args) -> Result<()> {
    server::run(&args.run_dir, args.take_over)
}
