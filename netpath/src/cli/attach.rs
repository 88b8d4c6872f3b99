//! `netpath attach`

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::Context;
use super::connect::ConnectArgs;
use crate::api::types::{Attach, Container};
use crate::output::{Format, print, print_json};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connect: ConnectArgs,

    #[command(flatten)]
    namespace: Namespace,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Namespace {
    /// The namespace's file, like /run/netns/NAME
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,

    /// A process in the namespace
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
}

pub fn run(args: Args, context: &Context) -> Result<()> {
    let netns = args.namespace.netns.map(std::path::absolute).transpose();
    let netns = netns.context("the path of the namespace is not usable")?;
    let attach = Attach {
        connect: args.connect.request()?,
        netns,
        pid: args.namespace.pid,
    };
    let container: Container = context.client().post("/v1/attach", &attach)?;
    match context.output {
        Format::Json => print_json(&container),
        Format::Table => print(&format!("{}\n", container.name)),
    }
}
