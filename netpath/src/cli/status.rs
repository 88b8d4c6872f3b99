//! `netpath status`

use anyhow::Result;

use super::Context;
use crate::api::types::Status;
use crate::cluster::ClusterStatus;
use crate::output::{Format, duration, print, print_json};

pub fn run(context: &Context) -> Result<()> {
    let status: Status = context.client().get("/v1/status")?;
    if context.output == Format::Json {
        return print_json(&status);
    }
    let mut text = format!(
        "netpath {}, process {}, up for {}\n",
        status.version,
        status.pid,
        duration(status.uptime)
    );
    for uplink in &status.uplinks {
        let addresses: Vec<String> = uplink
            .addr4
            .map(|address| address.to_string())
            .into_iter()
            .chain(uplink.addr6.map(|address| address.to_string()))
            .collect();
        let how = match (uplink.ifindex, addresses.is_empty()) {
            (None, _) => "gone".to_owned(),
            (Some(_), true) => "no address".to_owned(),
            (Some(_), false) => addresses.join(", "),
        };
        let xdp = match &uplink.xdp_problem {
            Some(problem) => format!("{}: {problem}", uplink.xdp.name()),
            None => uplink.xdp.name().to_owned(),
        };
        text.push_str(&format!("uplink      {} ({how}; XDP {xdp})\n", uplink.name));
    }
    text.push_str(&super::adopt::status(&status.adopted));
    let timeouts: Vec<String> = status
        .timeouts
        .iter()
        .map(|(name, seconds)| format!("{name}={seconds}"))
        .collect();
    text.push_str(&format!(
        "networks    {}\ncontainers  {} running, {} exited\nsnat ports  {}-{}\n\
         flows       at most {}, {} a container\ntimeouts    {}\n\
         run dir     {}\nstate dir   {}\nbpffs       {}\n",
        status.networks,
        status.running,
        status.exited,
        status.snat_ports.0,
        status.snat_ports.1,
        status.max_flows,
        status.max_flows_per_container,
        timeouts.join(", "),
        status.run_dir.display(),
        status.state_dir.display(),
        status.bpffs.display(),
    ));
    let socket = status.docker_plugin.as_ref();
    let socket = socket.map_or("off".into(), |socket| socket.display().to_string());
    text.push_str(&format!("docker      {socket}\n"));
    if let Some(cluster) = &status.cluster {
        text.push_str(&of_cluster(cluster));
    }
    print(&text)
}

fn of_cluster(cluster: &ClusterStatus) -> String {
    let address = cluster.address;
    let address = address.map_or("no address".into(), |address| address.to_string());
    let store = match &cluster.problem {
        Some(problem) => format!("away: {problem}"),
        None => format!("at revision {}", cluster.revision),
    };
    format!(
        "cluster     node {} ({address}), dead after {} s of silence\n\
         store       {}, {store}\n",
        cluster.node, cluster.lease, cluster.store
    )
}
