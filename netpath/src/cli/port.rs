//! `netpath port`

use std::net::SocketAddr;

use anyhow::Result;

use super::{Context, find_containers};
use crate::api::types::Container;
use crate::output::{Format, print, print_json};
use crate::publish::proto_name;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The container
    name: String,
}

pub fn run(args: &Args, context: &Context) -> Result<()> {
    let containers = find_containers(context, &args.name)?;
    if context.output == Format::Json {
        let ports = containers.iter().flat_map(|container| &container.ports);
        return print_json(&ports.collect::<Vec<_>>());
    }
    print(&containers.iter().map(show).collect::<String>())
}

fn show(container: &Container) -> String {
    let mut text = String::new();
    for port in &container.ports {
        let host = SocketAddr::new(port.host_ip, port.host_port);
        text.push_str(&format!(
            "{}/{} -> {host}\n",
            port.container_port,
            proto_name(port.proto)
        ));
    }
    for opened in &container.opened {
        let own = SocketAddr::new(opened.ip, opened.port.port);
        text.push_str(&format!("{} -> {own}\n", opened.port));
    }
    text
}
