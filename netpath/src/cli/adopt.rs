//! `netpath adopt`

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;

use super::Context;
use crate::api::types::{Adopt, Adopted, AdoptedNetworkRow};
use crate::output::{Format, complain, print, print_json, table};
use crate::problem::invalid;

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,

    /// Give Docker's networks back: new connections are Docker's at once
    #[arg(long)]
    release: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make the bridge networks of Docker fast, while Docker goes on as before
    Docker {
        /// Docker's socket [default: /var/run/docker.sock]
        // Another one than the agent's, which every verb has as `--socket`.
        #[arg(long, value_name = "PATH")]
        docker_socket: Option<PathBuf>,
        /// Only this network; may be repeated [default: all]
        #[arg(long = "network", value_name = "NAME")]
        networks: Vec<String>,
        /// Go around rules of the firewall that Docker's traffic has to pass
        #[arg(long)]
        ignore_firewall: bool,
    },
    /// List what is adopted, and what is not
    #[command(visible_alias = "list")]
    Ls,
}

pub fn run(args: Args, context: &Context) -> Result<()> {
    let client = context.client();
    match args.verb {
        None if args.release => client.delete("/v1/adopt"),
        None => Err(invalid(
            "say what to adopt (\"netpath adopt docker\"), or --release",
        )),
        Some(Verb::Docker {
            docker_socket,
            networks,
            ignore_firewall,
        }) => {
            let socket = docker_socket.map(std::path::absolute).transpose()?;
            let adopted: Adopted = client.post(
                "/v1/adopt",
                &Adopt {
                    socket,
                    networks,
                    ignore_firewall,
                },
            )?;
            for line in refusals(&adopted) {
                complain(&format!("warning: {line}"));
            }
            list(&adopted, context.output)
        }
        Some(Verb::Ls) => {
            let adopted: Adopted = client.get("/v1/adopt")?;
            list(&adopted, context.output)
        }
    }
}

fn list(adopted: &Adopted, output: Format) -> Result<()> {
    if output == Format::Json {
        return print_json(adopted);
    }
    if adopted.socket.is_none() {
        return print("nothing is adopted\n");
    }
    let rows: Vec<Vec<String>> = adopted
        .containers
        .iter()
        .map(|row| {
            let addresses: Vec<String> = row.addresses.iter().map(ToString::to_string).collect();
            let ports: Vec<String> = row.ports.iter().map(ToString::to_string).collect();
            vec![
                row.name.clone(),
                row.network.clone(),
                addresses.join(", "),
                row.device.clone(),
                ports.join(", "),
            ]
        })
        .collect();
    print(&table(
        &["CONTAINER", "NETWORK", "ADDRESSES", "DEVICE", "PORTS"],
        &rows,
    ))
}

/// What is left to Docker, one line each.
pub fn refusals(adopted: &Adopted) -> Vec<String> {
    let mut lines = Vec::new();
    for refused in &adopted.refused {
        lines.push(format!("{}: {}", refused.what, refused.why));
    }
    for network in &adopted.networks {
        // The same reason is told once.
        let mut told: Vec<&str> = Vec::new();
        for (_, why) in refused(network) {
            if told.contains(&why) {
                continue;
            }
            told.push(why);
            let ways: Vec<&str> = refused(network)
                .filter(|(_, other)| *other == why)
                .map(|(way, _)| way)
                .collect();
            lines.push(format!(
                "network {}: {} left to Docker: {why}",
                network.name,
                ways.join(" and ")
            ));
        }
    }
    lines
}

fn refused(network: &AdoptedNetworkRow) -> impl Iterator<Item = (&'static str, &str)> {
    [
        ("traffic within", &network.within),
        ("outward traffic", &network.outward),
        ("published ports", &network.inward),
    ]
    .into_iter()
    .filter_map(|(way, why)| Some((way, why.as_deref()?)))
}

/// Lines of `netpath status`.
pub fn status(adopted: &Adopted) -> String {
    let Some(socket) = &adopted.socket else {
        return String::new();
    };
    let ports: usize = adopted.containers.iter().map(|row| row.ports.len()).sum();
    let mut text = format!(
        "adopted     {} networks, {} containers and {ports} ports of Docker on {}{}\n",
        adopted.networks.len(),
        adopted.containers.len(),
        socket.display(),
        if adopted.ignore_firewall {
            ", whatever the firewall says"
        } else {
            ""
        }
    );
    if let Some(problem) = &adopted.problem {
        let _ = writeln!(text, "            {problem}");
    }
    for line in refusals(adopted) {
        let _ = writeln!(text, "            {line}");
    }
    if adopted.kernel_flows > 0 {
        // Each connection has two directions.
        let _ = writeln!(
            text,
            "            {} connections that began before are the kernel's until they end",
            adopted.kernel_flows.div_ceil(2)
        );
    }
    text
}
