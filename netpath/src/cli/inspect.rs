//! `netpath inspect`

use anyhow::Result;

use super::{Context, container_path};
use crate::api::types::Container;
use crate::output::print_json;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The container
    name: String,
}

pub fn run(args: &Args, context: &Context) -> Result<()> {
    print_json(
        &context
            .client()
            .get::<Container>(&container_path(&args.name)?)?,
    )
}
