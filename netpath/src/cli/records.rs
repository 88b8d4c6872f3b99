//! `netpath endpoints`, `ports`, `flows`, `drops` and `counters`: what the datapath has in
//! its maps.

use anyhow::Result;
use serde_json::Value;

use super::Context;
use crate::output::{Format, print, print_json, table_of};

pub fn run(what: &str, context: &Context) -> Result<()> {
    let records: Vec<Value> = context.client().get(&format!("/v1/{what}"))?;
    match context.output {
        Format::Json => print_json(&records),
        Format::Table if records.is_empty() => print(&format!("no {what}\n")),
        Format::Table => print(&table_of(&records)),
    }
}
