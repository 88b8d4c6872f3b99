//! `netpath endpoints`, `ports`, `flows`, `drops`, `tunnels` and `counters`: what the datapath has in
//! its maps.

use anyhow::Result;
use serde_json::Value;

use super::Context;
use crate::output::{Format, print, print_json, table_of};

#[derive(Debug, clap::Args)]
pub struct Drops {
    /// Name all reasons, also those for which nothing was dropped
    #[arg(long, short)]
    all: bool,
}

pub fn drops(args: &Drops, context: &Context) -> Result<()> {
    let query = if args.all { "?all=true" } else { "" };
    show("drops", query, context)
}

pub fn run(what: &str, context: &Context) -> Result<()> {
    show(what, "", context)
}

pub fn tunnels(context: &Context) -> Result<()> {
    let records: Vec<Value> = context.client().get("/v1/vteps")?;
    match context.output {
        Format::Json => print_json(&records),
        Format::Table if records.is_empty() => print("no tunnels\n"),
        Format::Table => print(&table_of(&records)),
    }
}

fn show(what: &str, query: &str, context: &Context) -> Result<()> {
    let records: Vec<Value> = context.client().get(&format!("/v1/{what}{query}"))?;
    match context.output {
        Format::Json => print_json(&records),
        Format::Table if records.is_empty() => print(&format!("no {what}\n")),
        Format::Table => print(&table_of(&records)),
    }
}
