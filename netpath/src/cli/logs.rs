//! `netpath logs`

use std::fs::File;
use std::io;

use anyhow::{Context as _, Result};

use super::{Context, container_path};
use crate::api::types::Container;
use crate::problem::conflict;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The container
    name: String,
}

pub fn run(args: &Args, context: &Context) -> Result<()> {
    let container: Container = context.client().get(&container_path(&args.name)?)?;
    let log = container.log.ok_or_else(|| {
        conflict(format!(
            "container {} has no log: only what was started with \"netpath run -d\" has one",
            container.name
        ))
    })?;
    let mut file =
        File::open(&log).with_context(|| format!("cannot read the log {}", log.display()))?;
    match io::copy(&mut file, &mut io::stdout().lock()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write the output")
        }
        _ => Ok(()),
    }
}
