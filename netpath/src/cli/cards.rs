//! `netpath attach --parent`, `netpath detach`, `netpath cards`

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

use super::{Context, escape, key_value};
use crate::api::client::Client;
use crate::api::types::{AttachCard, Card, Container};
use crate::container::names;
use crate::output::{Format, print, print_json, table};
use crate::physical::{dhcp, docker};
use crate::problem::{invalid, not_found};

/// Longest wait for a DHCP server, in seconds, and a little more.
const MORE_PATIENCE: u32 = 30;

/// Add an interface on a card of the host to a running container
#[derive(Debug, clap::Args)]
pub struct Attach {
    /// A container of netpath's or of Docker's
    #[arg(value_name = "CONTAINER", conflicts_with_all = ["netns", "pid"])]
    container: Option<String>,
    /// The card of the host, with a VLAN as eth0.101 or eth0@101
    #[arg(long, value_name = "DEVICE[.VLAN]")]
    parent: String,
    /// An address, one a family: ADDRESS/LENGTH[@ROUTER], dhcp, or 0/0 for none
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', required = true)]
    ip: Vec<String>,
    /// Name of the interface in the container [default: the first free of eth1, eth2, …]
    #[arg(short, long, value_name = "NAME")]
    interface: Option<String>,
    /// Its MAC address, or U:TEXT for one that is always the same for a text [default: a random one]
    #[arg(long, value_name = "MAC")]
    mac: Option<String>,
    /// More routes: PREFIX[@ROUTER]
    #[arg(long, value_name = "ROUTE", value_delimiter = ',')]
    route: Vec<String>,
    /// Largest packet in bytes [default: that of the parent]
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u32>,
    /// Who carries its packets: underlay, macvlan or ipvlan
    #[arg(short, long, value_name = "NAME", default_value = "underlay")]
    driver: String,
    /// Options of the driver: mode (underlay), macvlan_mode, ipvlan_mode, ipvlan_flag
    #[arg(long = "opt", value_name = "KEY=VALUE", value_parser = key_value)]
    options: Vec<(String, String)>,
    /// The namespace's file, like /run/netns/NAME
    #[arg(long, value_name = "PATH", conflicts_with = "pid")]
    netns: Option<PathBuf>,
    /// A process in the namespace
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// What a namespace is to be called that was named by its file or a process
    #[arg(long, value_name = "NAME", conflicts_with = "container")]
    name: Option<String>,
}

/// Arguments of `detach`.
#[derive(Debug, clap::Args)]
pub struct Detach {
    /// The container
    container: String,
    /// The interface [default: all that were added]
    interface: Option<String>,
}

/// Arguments of `dhcp-event`.
#[derive(Debug, clap::Args)]
pub struct Event {
    lease: PathBuf,
    event: String,
}

pub fn attach(args: Attach, context: &Context) -> Result<()> {
    let client = context.client().with_more_patience(MORE_PATIENCE);
    let netns = args.netns.map(std::path::absolute).transpose();
    let netns = netns.context("the path of the namespace is not usable")?;
    let mut pid = args.pid;
    if let Some(name) = &args.container {
        pid = docker_pid(&client, name)?;
    } else if pid.is_none() && netns.is_none() {
        return Err(invalid(
            "name a container, or its namespace with --netns or --pid",
        ));
    }
    let new = AttachCard {
        name: args.container.or(args.name),
        netns,
        pid,
        parent: args.parent,
        driver: Some(args.driver),
        options: args.options.into_iter().collect::<BTreeMap<_, _>>(),
        interface: args.interface,
        addresses: args.ip,
        routes: args.route,
        mac: args.mac,
        mtu: args.mtu,
    };
    let card: Card = client.post("/v1/cards", &new)?;
    match context.output {
        Format::Json => print_json(&card),
        Format::Table => print(&format!("{} {}\n", card.owner, card.interface)),
    }
}

/// The process of a container that is not netpath's but Docker's; `None`: it is netpath's.
fn docker_pid(client: &Client, name: &str) -> Result<Option<u32>> {
    names::check_word("container", name)?;
    let ours: Vec<Container> = client.get("/v1/containers?all=true")?;
    let called = |c: &Container| c.name == name || c.id.starts_with(name);
    if ours.iter().any(called) {
        return Ok(None);
    }
    let host = std::env::var("DOCKER_HOST").ok();
    let socket = docker::socket(host.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    match runtime.block_on(docker::find(&socket, name))? {
        Some(pid) => Ok(Some(pid)),
        None => Err(not_found(format!(
            "no container is named {name}, see \"netpath ps\" (and there is no Docker daemon at {})",
            socket.display()
        ))),
    }
}

pub fn detach(args: &Detach, context: &Context) -> Result<()> {
    names::check_word("container", &args.container)?;
    let mut path = format!("/v1/cards?owner={}", args.container);
    if let Some(interface) = &args.interface {
        path = format!("{path}&interface={}", escape(interface));
    }
    context.client().delete(&path)?;
    print(&format!("{}\n", args.container))
}

pub fn list(context: &Context) -> Result<()> {
    let cards: Vec<Card> = context.client().get("/v1/cards")?;
    if context.output == Format::Json {
        return print_json(&cards);
    }
    let rows: Vec<Vec<String>> = cards
        .into_iter()
        .map(|card| {
            vec![
                card.owner,
                card.interface,
                card.parent,
                card.driver.to_string(),
                card.addresses.join(", "),
                card.mac,
                card.lease_seconds
                    .map_or_else(String::new, |seconds| format!("dhcp, {seconds} s")),
            ]
        })
        .collect();
    print(&table(
        &[
            "CONTAINER",
            "INTERFACE",
            "PARENT",
            "DRIVER",
            "ADDRESSES",
            "MAC",
            "LEASE",
        ],
        &rows,
    ))
}

/// What the DHCP client has to tell.
pub fn event(args: &Event) -> Result<()> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?
        .block_on(dhcp::event(&args.lease, &args.event, now.as_secs()))
}
