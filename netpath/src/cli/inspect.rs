//! `netpath inspect`

use std::net::IpAddr;

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::{Context, container_path, inspect_each};
use crate::api::types::{Connection, Container};
use crate::container::names::short_id;
use crate::output::print_json;
use crate::publish::proto_name;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The containers
    #[arg(required = true, value_name = "CONTAINER")]
    names: Vec<String>,
    /// What to show of each, in the fields of Docker's inspect: a Go template, or json
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
}

pub fn run(args: &Args, context: &Context) -> Result<()> {
    let client = context.client();
    if let ([name], None) = (args.names.as_slice(), &args.format) {
        return print_json(&client.get::<Container>(&container_path(name)?)?);
    }
    inspect_each(&args.names, args.format.as_deref(), &[], |name| {
        let container: Container = client.get(&container_path(name)?)?;
        let mode = match container.mode.strip_prefix("container:") {
            // Docker has the id there. The other one may be gone.
            Some(other) => match client.get::<Container>(&container_path(other)?) {
                Ok(other) => format!("container:{}", other.id),
                Err(_) => container.mode.clone(),
            },
            None => match container.networks.first() {
                Some(first) if container.mode == "networks" => first.network.clone(),
                _ => container.mode.clone(),
            },
        };
        Ok(in_dockers_words(&container, &mode))
    })
}

/// The fields that scripts read of `docker inspect`, as far as there is something to tell.
fn in_dockers_words(container: &Container, mode: &str) -> Value {
    let mut networks: Map<String, Value> = container
        .networks
        .iter()
        .map(|connection| {
            let shown = endpoint(container, connection);
            (connection.network.clone(), shown)
        })
        .collect();
    if matches!(mode, "host" | "none") {
        // As if they were networks.
        networks.insert(mode.to_owned(), endpoint(container, &Connection::default()));
    }
    let mut ports: Map<String, Value> = Map::new();
    for binding in &container.ports {
        let key = format!("{}/{}", binding.container_port, proto_name(binding.proto));
        let at = json!({
            "HostIp": binding.host_ip.to_string(),
            "HostPort": binding.host_port.to_string(),
        });
        match ports.entry(key).or_insert_with(|| json!([])) {
            Value::Array(all) => all.push(at),
            other => *other = json!([at]),
        }
    }
    json!({
        "Id": container.id,
        "Name": format!("/{}", container.name),
        "State": {
            "Status": container.state,
            "Running": matches!(container.state.as_str(), "running" | "attached"),
            "Pid": container.pid.unwrap_or(0),
            "ExitCode": container.exit_code.unwrap_or(0),
        },
        "Config": {
            "Hostname": container.hostname.clone().unwrap_or_default(),
            "Cmd": container.command,
        },
        "HostConfig": { "NetworkMode": mode },
        "NetworkSettings": {
            "SandboxKey": container.netns,
            "Ports": ports,
            "Networks": networks,
        },
    })
}

fn endpoint(container: &Container, connection: &Connection) -> Value {
    let of_family = |v4: bool| {
        let own = |text: &&String| {
            let plain = text.split('/').next().unwrap_or_default();
            plain.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4() == v4)
        };
        let text = connection.addresses.iter().find(own);
        let (address, length) = text.and_then(|text| text.split_once('/')).unzip();
        let length: u8 = length.and_then(|text| text.parse().ok()).unwrap_or(0);
        (address.unwrap_or_default().to_owned(), length)
    };
    let gateway = |v4: bool| {
        let mut gateways = connection.gateways.iter();
        let own = gateways.find(|gateway| gateway.is_ipv4() == v4);
        own.map(ToString::to_string).unwrap_or_default()
    };
    let names = [Some(container.name.as_str()), short_id(&container.id)];
    let mut names: Vec<&str> = names.into_iter().flatten().collect();
    names.extend(connection.aliases.iter().map(String::as_str));
    // Docker has nothing there rather than an empty list.
    let aliases = Some(&connection.aliases).filter(|aliases| !aliases.is_empty());
    let ((v4, prefix4), (v6, prefix6)) = (of_family(true), of_family(false));
    json!({
        "IPAddress": v4,
        "IPPrefixLen": prefix4,
        "Gateway": gateway(true),
        "GlobalIPv6Address": v6,
        "GlobalIPv6PrefixLen": prefix6,
        "IPv6Gateway": gateway(false),
        "MacAddress": connection.mac.clone().unwrap_or_default(),
        "Aliases": aliases,
        "DNSNames": names,
        "NetworkID": connection.network_id,
        "EndpointID": connection.endpoint,
        "GwPriority": connection.gw_priority,
    })
}
