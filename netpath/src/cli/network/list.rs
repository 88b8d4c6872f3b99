//! `netpath network ls`

use anyhow::Result;

use super::super::Context;
use super::filter::{Filter, Known};
use super::words;
use crate::api::types::Network;
use crate::docker;
use crate::output::columns::{self, Layout};
use crate::output::{Format, print, print_json};

/// What can be filtered by.
const FILTERS: &[Known] = &[
    Known::Driver,
    Known::Id,
    Known::Label,
    Known::Name,
    Known::Scope,
    Known::Type,
    Known::Dangling,
];
/// The usual columns, and those of --long.
const COLUMNS: &str = "table {{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}";
const MORE_COLUMNS: &str = "\t{{.Subnets}}\t{{.Policy}}";
const RAW: &str = "network_id: {{.ID}}\nname: {{.Name}}\ndriver: {{.Driver}}\nscope: {{.Scope}}\n";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only some: driver=, id=, label=, name=, scope=, type=custom|builtin, dangling=true|false
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    filters: Vec<String>,
    /// Only the ids
    #[arg(short, long)]
    quiet: bool,
    /// Ids in full length
    #[arg(long)]
    no_trunc: bool,
    /// Subnets and policies, too
    #[arg(short, long, conflicts_with_all = ["quiet", "format"])]
    long: bool,
    /// Form of a line: table, json, raw, a Go template, or "table TEMPLATE"
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<String>,
}

pub fn run(args: &Args, context: &Context) -> Result<()> {
    let filter = Filter::parse(&args.filters, FILTERS)?;
    let layout = layout(args)?;
    let mut networks: Vec<Network> = context.client().get("/v1/networks")?;
    docker::names::of_networks(&mut networks);
    networks.retain(|network| filter.admits(network));
    networks.sort_by(|a, b| columns::natural(words::name(a), words::name(b)));
    if context.output == Format::Json {
        return print_json(&networks);
    }
    let rows: Vec<_> = networks
        .iter()
        .map(|network| words::listed(network, args.no_trunc))
        .collect();
    print(&layout.fill(&rows)?)
}

fn layout(args: &Args) -> Result<Layout> {
    let format = match args.format.as_deref() {
        None | Some("" | "table") if args.quiet => "{{.ID}}".to_owned(),
        None | Some("" | "table") => {
            let more = if args.long { MORE_COLUMNS } else { "" };
            format!("{COLUMNS}{more}")
        }
        Some("raw") => RAW.to_owned(),
        Some("json") => "{{json .}}".to_owned(),
        Some(format) => format.to_owned(),
    };
    Layout::parse(&format)
}
