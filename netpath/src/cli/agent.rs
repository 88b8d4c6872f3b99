//! `netpath agent`

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::Context;
use crate::agent;
use crate::agent::settings::Wishes;
use crate::agent::timeouts;
use crate::cluster;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Interfaces to the outside [default: those of the default routes]
    #[arg(long = "uplink", value_name = "IF", num_args = 1.., value_delimiter = ',')]
    uplinks: Vec<String>,

    #[command(flatten)]
    folders: Folders,

    /// Control group (cgroup2) whose processes reach published ports on this host itself
    /// [default: the root]
    #[arg(long, value_name = "DIR")]
    cgroup: Option<PathBuf>,

    /// Ports for masqueraded connections [default: 16384-32767]
    #[arg(long, value_name = "FIRST-LAST")]
    snat_ports: Option<String>,

    /// Connections that the flow table can hold [default: 131072]
    #[arg(long, value_name = "N")]
    max_flows: Option<u32>,

    /// Interfaces kept ready, so that containers are connected faster [default: 8]
    #[arg(long, value_name = "N")]
    spares: Option<usize>,

    /// Where denied sources are dropped: auto, native (in the driver), generic (in the stack)
    /// or off [default: auto]
    #[arg(long, value_name = "MODE")]
    xdp: Option<String>,

    /// The file with the host's name servers, which are asked for containers
    /// [default: /etc/resolv.conf]
    #[arg(long, value_name = "FILE")]
    resolv_conf: Option<PathBuf>,
    /// Make Docker's own networks fast from the start: docker, or docker=SOCKET
    #[arg(long, value_name = "docker[=SOCKET]")]
    adopt: Option<String>,

    /// Connections that one container can have [default: a quarter of --max-flows]
    #[arg(long, value_name = "N")]
    max_flows_per_container: Option<u32>,

    /// Seconds after which a silent connection is forgotten, like tcp-established=8000; may be
    /// repeated. "netpath status" shows all names and values
    #[arg(long = "timeout", value_name = "NAME=SECONDS", value_delimiter = ',')]
    timeouts: Vec<String>,

    /// Socket on which Docker finds the network driver "netpath", or "off"
    /// [default: docker.sock in the run folder]
    #[arg(long, value_name = "PATH")]
    docker_plugin: Option<PathBuf>,

    /// Where networks that name no subnet get one, like base=10.10.0.0/16,size=24; may be
    /// repeated [default: Docker's, 172.17.0.0/16 and so on]
    #[arg(long = "default-address-pool", value_name = "base=CIDR,size=LENGTH")]
    default_address_pools: Vec<String>,

    /// Let the programs log what they do: error, warn, info, debug or trace [default: off]
    #[arg(long, value_name = "LEVEL")]
    log_datapath: Option<String>,

    #[command(flatten)]
    cluster: cluster::settings::Wishes,
}

/// Where an agent keeps things; shared with `purge`.
#[derive(Debug, clap::Args)]
pub struct Folders {
    /// Folder of socket, logs and namespaces [default: /run/netpath]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,

    /// Folder of the store [default: /var/lib/netpath]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// Folder of pinned maps and links [default: /sys/fs/bpf/netpath]
    #[arg(long, value_name = "DIR")]
    bpffs: Option<PathBuf>,

    /// Settings file (TOML); the command line wins over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Folders {
    /// The folders as wishes, and what the settings file says.
    pub fn wishes(self, context: &Context) -> Result<Wishes> {
        let file = self
            .config
            .as_deref()
            .map(Wishes::read)
            .transpose()?
            .unwrap_or_default();
        let flags = Wishes {
            run_dir: self.run_dir,
            state_dir: self.state_dir,
            bpffs: self.bpffs,
            socket: context.socket.clone(),
            ..Wishes::default()
        };
        Ok(flags.or(file))
    }
}

pub fn run(args: Args, context: &Context) -> Result<()> {
    let flags = Wishes {
        uplinks: args.uplinks,
        cgroup: args.cgroup,
        snat_ports: args.snat_ports,
        max_flows: args.max_flows,
        spares: args.spares,
        max_flows_per_container: args.max_flows_per_container,
        timeouts: args
            .timeouts
            .iter()
            .map(|text| timeouts::parse(text))
            .collect::<Result<_>>()?,
        log_datapath: args.log_datapath,
        xdp: args.xdp,
        docker_plugin: args.docker_plugin,
        resolv_conf: args.resolv_conf,
        cluster: args.cluster,
        default_address_pools: args.default_address_pools,
        adopt: args.adopt,
        ..Wishes::default()
    };
    let settings = flags.or(args.folders.wishes(context)?).settings()?;
    // The agent waits most of the time. Two threads, so that an operation that blocks one
    // does not hold up the API.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the agent")?;
    let result = runtime.block_on(agent::run(settings));
    // An operation that hangs must not keep the agent from ending.
    runtime.shutdown_background();
    result
}
