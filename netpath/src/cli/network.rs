//! `netpath network`

use std::net::IpAddr;

use anyhow::Result;
use clap::Subcommand;

use super::{Context, for_each};
use crate::api::client::Client;
use crate::api::types::{CreateNetwork, Network};
use crate::container::names;
use crate::output::{Format, print, print_json, table};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a network
    Create(Create),
    /// List networks
    #[command(visible_alias = "list")]
    Ls,
    /// Show all about a network
    Inspect {
        /// Its name
        name: String,
    },
    /// Remove networks
    Rm {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, clap::Args)]
struct Create {
    /// Its name
    name: String,
    /// Its addresses, at most one IPv4 and one IPv6 prefix [default: a free IPv4 one]
    #[arg(long = "subnet", value_name = "CIDR", num_args = 1.., value_delimiter = ',')]
    subnets: Vec<String>,
    /// The host's addresses in it [default: the first of each subnet]
    #[arg(long = "gateway", value_name = "IP", num_args = 1.., value_delimiter = ',')]
    gateways: Vec<IpAddr>,
    /// Add IPv6, with a unique local prefix if none is named
    #[arg(long)]
    ipv6: bool,
    /// Largest packet in bytes [default: that of the uplinks]
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u32>,
}

pub fn run(args: Args, context: &Context) -> Result<()> {
    let client = context.client();
    match args.verb {
        Verb::Create(create) => {
            let new = CreateNetwork {
                name: create.name,
                subnets: create.subnets,
                gateways: create.gateways,
                ipv6: create.ipv6,
                mtu: create.mtu,
            };
            let network: Network = client.post("/v1/networks", &new)?;
            match context.output {
                Format::Json => print_json(&network),
                Format::Table => print(&format!("{}\n", network.name)),
            }
        }
        Verb::Ls => list(&client, context.output),
        Verb::Inspect { name } => print_json(&client.get::<Network>(&path(&name)?)?),
        Verb::Rm { names } => for_each(&names, |name| client.delete(&path(name)?)),
    }
}

fn path(name: &str) -> Result<String> {
    names::check("network", name)?;
    Ok(format!("/v1/networks/{name}"))
}

fn list(client: &Client, output: Format) -> Result<()> {
    let networks: Vec<Network> = client.get("/v1/networks")?;
    if output == Format::Json {
        return print_json(&networks);
    }
    let rows: Vec<Vec<String>> = networks
        .into_iter()
        .map(|network| {
            let gateways: Vec<String> = network.gateways.iter().map(ToString::to_string).collect();
            vec![
                network.name,
                network.id.to_string(),
                network.subnets.join(", "),
                gateways.join(", "),
                network.mtu.to_string(),
                network.device,
                network.containers.len().to_string(),
            ]
        })
        .collect();
    print(&table(
        &[
            "NAME",
            "ID",
            "SUBNETS",
            "GATEWAYS",
            "MTU",
            "DEVICE",
            "CONTAINERS",
        ],
        &rows,
    ))
}
