//! `netpath ps`

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;

use super::Context;
use crate::api::types::{Connection, Container};
use crate::container::names::short_id;
use crate::docker;
use crate::output::{Format, duration, print, print_json, table};
use crate::publish::runs;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Those that ended as well
    #[arg(short, long)]
    all: bool,
    /// Only the beginnings of their ids
    #[arg(short, long)]
    quiet: bool,
    /// Whole ids
    #[arg(long, requires = "quiet")]
    no_trunc: bool,
}

pub fn run(args: &Args, context: &Context) -> Result<()> {
    let path = format!("/v1/containers?all={}", args.all);
    let mut containers: Vec<Container> = context.client().get(&path)?;
    docker::names::of_containers(&mut containers);
    if args.quiet {
        let ids = containers.iter().map(|container| match &container.docker {
            // Docker tells the endpoint's.
            Some(docker) => docker.id.as_str(),
            None => container.id.as_str(),
        });
        let shown = ids.map(|id| match args.no_trunc {
            true => id,
            false => short_id(id).unwrap_or(id),
        });
        return print(&shown.map(|id| format!("{id}\n")).collect::<String>());
    }
    if context.output == Format::Json {
        return print_json(&containers);
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs());
    let rows: Vec<Vec<String>> = containers
        .iter()
        .map(|container| row(container, now))
        .collect();
    print(&table(
        &["NAME", "NETWORK", "ADDRESSES", "STATUS", "PORTS", "COMMAND"],
        &rows,
    ))
}

/// A container of Docker's goes by Docker's name.
fn shown_name(container: &Container) -> &str {
    let docker = container.docker.as_ref();
    docker
        .and_then(|docker| docker.name.as_deref())
        .unwrap_or(&container.name)
}

/// How much of a command is shown.
const COMMAND_WIDTH: usize = 40;

fn row(container: &Container, now: u64) -> Vec<String> {
    let since = |then: u64| duration(now.saturating_sub(then));
    let status = match (container.state.as_str(), container.ended) {
        ("exited", Some(ended)) => {
            let code = container
                .exit_code
                .map_or("?".into(), |code| code.to_string());
            format!("exited ({code}) {} ago", since(ended))
        }
        (state, _) => format!("{state} {}", since(container.created)),
    };
    let networks: Vec<&str> = match &container.networks[..] {
        [] if container.mode != "networks" => vec![&container.mode],
        networks => networks.iter().map(|n| n.network.as_str()).collect(),
    };
    let addresses = container.networks.iter().flat_map(Connection::ips);
    let addresses: Vec<String> = addresses.map(|ip| ip.to_string()).collect();
    let mut ports = runs::show(&container.ports);
    for opened in container.opened.iter().map(|o| o.port.to_string()) {
        // Once for both families.
        if !ports.contains(&opened) {
            ports.push(opened);
        }
    }
    let command = container.command.join(" ");
    // One line, whatever is in it.
    let mut command: String = command
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if command.chars().count() > COMMAND_WIDTH {
        command = command
            .chars()
            .take(COMMAND_WIDTH - 1)
            .chain(['…'])
            .collect();
    }
    vec![
        shown_name(container).to_owned(),
        networks.join(", "),
        addresses.join(", "),
        status,
        ports.join(", "),
        command,
    ]
}
