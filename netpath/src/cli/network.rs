//! `netpath network`

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Result;
use clap::Subcommand;

use super::connect::JoinArgs;
use super::{Context, container_path, for_each, key_value};
use crate::api::client::Client;
use crate::api::types::{Container, CreateNetwork, Network};
use crate::container::names;
use crate::docker;
use crate::output::{Format, print, print_json, table};
use crate::problem::invalid;

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
    /// Connect a container that runs to a network
    Connect(JoinArgs),
    /// Disconnect a container from a network
    Disconnect(Disconnect),
    /// Remove networks
    Rm {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, clap::Args)]
struct Disconnect {
    /// The network
    network: String,
    /// The container
    container: String,
    /// Even if it is not connected, or not there at all
    #[arg(short, long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
struct Create {
    /// Its name
    name: String,
    /// What carries its packets [default: bridge]
    #[arg(short, long, value_name = "NAME")]
    driver: Option<String>,
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
    /// Let nothing out of it, and nothing from elsewhere in
    #[arg(long)]
    internal: bool,
    /// Options, also as -o: gateway_mode_ipv4, gateway_mode_ipv6 (nat, routed, nat-unprotected,
    /// isolated), icc, masquerade, host_ipv4, host_ipv6, host_binding_ipv4,
    /// trusted_host_interfaces, mtu; or by their names in Docker
    #[arg(long = "opt", value_name = "KEY=VALUE", value_parser = key_value)]
    options: Vec<(String, String)>,
}

pub fn run(args: Args, context: &Context) -> Result<()> {
    let client = context.client();
    match args.verb {
        Verb::Create(create) => {
            let new = CreateNetwork {
                name: create.name,
                driver: create.driver,
                subnets: create.subnets,
                gateways: create.gateways,
                ipv6: create.ipv6,
                mtu: create.mtu,
                internal: create.internal,
                options: distinct(create.options)?,
            };
            let network: Network = client.post("/v1/networks", &new)?;
            match context.output {
                Format::Json => print_json(&network),
                Format::Table => print(&format!("{}\n", network.name)),
            }
        }
        Verb::Ls => list(&client, context.output),
        Verb::Inspect { name } => print_json(&client.get::<Network>(&path(&name)?)?),
        Verb::Connect(args) => {
            let path = format!("{}/networks", container_path(&args.container)?);
            let container: Container = client.post(&path, &args.request())?;
            match context.output {
                Format::Json => print_json(&container),
                // As in Docker: done.
                Format::Table => Ok(()),
            }
        }
        Verb::Disconnect(args) => {
            names::check("network", &args.network)?;
            let container = container_path(&args.container)?;
            let (network, force) = (&args.network, args.force);
            client.delete(&format!("{container}/networks/{network}?force={force}"))
        }
        Verb::Rm { names } => for_each(&names, |name| client.delete(&path(name)?)),
    }
}

/// The options by key; one that is given twice is a mistake.
fn distinct(options: Vec<(String, String)>) -> Result<BTreeMap<String, String>> {
    let mut distinct = BTreeMap::new();
    for (key, value) in options {
        if let Some(other) = distinct.insert(key.clone(), value) {
            return Err(invalid(format!(
                "option {key} is given twice, first as {other}"
            )));
        }
    }
    Ok(distinct)
}

fn path(name: &str) -> Result<String> {
    names::check("network", name)?;
    Ok(format!("/v1/networks/{name}"))
}

/// The policy of a network of Docker's.
fn of_docker(policy: &str) -> String {
    match policy {
        "" => "Docker's".into(),
        policy => format!("Docker's, {policy}"),
    }
}

fn list(client: &Client, output: Format) -> Result<()> {
    let mut networks: Vec<Network> = client.get("/v1/networks")?;
    docker::names::of_networks(&mut networks);
    if output == Format::Json {
        return print_json(&networks);
    }
    let rows: Vec<Vec<String>> = networks
        .into_iter()
        .map(|network| {
            let gateways: Vec<String> = network.gateways.iter().map(ToString::to_string).collect();
            let policy = network.policy.summary();
            let (name, policy) = match network.docker {
                None => (network.name, policy),
                // By Docker's name, if it tells.
                Some(docker) => (docker.name.unwrap_or(network.name), of_docker(&policy)),
            };
            vec![
                name,
                network.id.to_string(),
                network.subnets.join(", "),
                gateways.join(", "),
                network.mtu.to_string(),
                network.device,
                policy,
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
            "POLICY",
            "CONTAINERS",
        ],
        &rows,
    ))
}
