//! `netpath tunnel`

use std::net::IpAddr;

use anyhow::Result;
use clap::Subcommand;

use super::{Context, for_each};
use crate::api::types::{AddTunnel, Tunnel};
use crate::output::{Format, print, print_json, table};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Tell which addresses of a network are behind another host
    Add(Add),
    /// Forget tunnels
    Rm {
        /// Name of the network
        network: String,
        /// Subnets or addresses, as they were added
        #[arg(required = true)]
        destinations: Vec<String>,
    },
    /// List the tunnels that were added; `netpath tunnels` lists all, and what goes through
    #[command(visible_alias = "list")]
    Ls,
}

#[derive(Debug, clap::Args)]
struct Add {
    /// Name of a network of driver overlay
    network: String,
    /// Address of the other host in the underlay
    #[arg(long, value_name = "IP")]
    remote: IpAddr,
    /// A subnet for which the other host is a router
    #[arg(long, value_name = "CIDR", required_unless_present = "ip")]
    subnet: Option<String>,
    /// Address of a container of the other host
    #[arg(long, value_name = "IP", conflicts_with = "subnet", requires = "mac")]
    ip: Option<IpAddr>,
    /// MAC address of that container; or, with --subnet, of the other host's VXLAN device, which
    /// may be left out if that is netpath's
    #[arg(long)]
    mac: Option<String>,
    /// The network's number there [default: as here]
    #[arg(long, value_name = "NUMBER")]
    vni: Option<u32>,
    /// The UDP port there [default: the network's]
    #[arg(long)]
    port: Option<u16>,
}

pub fn run(args: Args, context: &Context) -> Result<()> {
    let client = context.client();
    match args.verb {
        Verb::Add(add) => {
            let ip = add.ip.map(|ip| ip.to_string());
            let new = AddTunnel {
                network: add.network,
                remote: add.remote,
                destination: add.subnet.or(ip).unwrap_or_default(),
                mac: add.mac,
                vni: add.vni,
                port: add.port,
            };
            let tunnel: Tunnel = client.post("/v1/tunnels", &new)?;
            match context.output {
                Format::Json => print_json(&tunnel),
                Format::Table => print(&format!("{}\n", tunnel.destination)),
            }
        }
        Verb::Rm {
            network,
            destinations,
        } => for_each(&destinations, |destination| {
            client.delete(&format!(
                "/v1/tunnels?network={}&destination={}",
                super::escape(&network),
                super::escape(destination)
            ))
        }),
        Verb::Ls => {
            let tunnels: Vec<Tunnel> = client.get("/v1/tunnels")?;
            match context.output {
                Format::Json => print_json(&tunnels),
                Format::Table if tunnels.is_empty() => print("no tunnels were added\n"),
                Format::Table => print(&list(tunnels)),
            }
        }
    }
}

fn list(tunnels: Vec<Tunnel>) -> String {
    let rows: Vec<Vec<String>> = tunnels
        .into_iter()
        .map(|tunnel| {
            vec![
                tunnel.network,
                tunnel.destination,
                tunnel.remote.to_string(),
                tunnel.mac.unwrap_or_else(|| "-".into()),
                tunnel.vni.to_string(),
                tunnel.port.to_string(),
            ]
        })
        .collect();
    let headings = ["NETWORK", "DESTINATION", "REMOTE", "MAC", "VNI", "PORT"];
    table(&headings, &rows)
}
