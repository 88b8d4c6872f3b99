//! `netpath purge`

use anyhow::Result;

use super::Context;
use super::agent::Folders;
use crate::agent::purge::purge;
use crate::output::print;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    folders: Folders,
}

pub fn run(args: Args, context: &Context) -> Result<()> {
    let settings = args.folders.wishes(context)?.settings()?;
    let removed = purge(&settings)?;
    if removed.is_empty() {
        return print("there is nothing to remove\n");
    }
    print(
        &removed
            .iter()
            .map(|thing| format!("removed {thing}\n"))
            .collect::<String>(),
    )
}
