//! netpath itself: a real agent in the host's namespace with folders of its own, as a user
//! would start it, and containers that are attached through its API.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;

use anyhow::{Context, Result, bail};

use super::super::namespace::{Namespace, Service};
use super::super::site::Site;
use super::docker::{ends_of, range};
use super::host::{HOST, Host, OUTSIDE, UPLINK};
use super::vxlan::wire;
use super::{Ends, PUBLISHED, Path, SERVICE, Variant};
use crate::agent::settings::SOCKET;
use crate::api::client::Client;
use crate::api::types::{
    AddTunnel, Attach, Connect, Connection, Container, CreateNetwork, Join, Network, Tunnel,
};

/// Name of the variant that everything is compared with.
pub const NETPATH: &str = "netpath";
/// A server of netpath's host itself: the limit for published ports.
pub const HOST_PROCESS: &str = "host-process";

/// A host with an agent.
#[derive(Debug)]
pub struct Agent {
    /// The host and the machine outside.
    pub host: Namespace,
    /// The machine outside.
    pub outside: Namespace,
    /// Its client.
    pub client: Client,
    service: Option<Service>,
}

impl Agent {
    /// Makes a host and starts an agent on it.
    ///
    /// # Errors
    /// The agent does not get ready; with its last words.
    pub fn start(site: &Site, name: &str) -> Result<Self> {
        let Host { host, outside } = Host::new(site, name)?;
        Self::start_on(site, name, host, outside)
    }

    /// Starts an agent on a host that is there.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_on(site: &Site, name: &str, host: Namespace, outside: Namespace) -> Result<Self> {
        let folder = site.folder(name)?;
        let binary = std::env::current_exe().context("cannot tell where this program is")?;
        let mut command = host.command(binary);
        command
            .args(["agent", "--uplink", UPLINK, "--run-dir"])
            .arg(folder.join("run"))
            .arg("--state-dir")
            .arg(folder.join("state"))
            .arg("--bpffs")
            .arg(site.pins(name))
            .stdout(Stdio::piped());
        let log = folder.join("agent.log");
        let mut service = Service::start(command, &log)?;
        let stdout = service.stdout().context("no pipe")?;
        let mut lines = BufReader::new(stdout).lines();
        if !lines.any(|line| line.is_ok_and(|line| line.trim() == "ready")) {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            bail!("the agent did not get ready: {}", said.trim());
        }
        // Nobody reads on, so the agent must not block on a full pipe.
        thread::spawn(move || lines.for_each(drop));
        Ok(Self {
            host,
            outside,
            client: Client::new(folder.join("run").join(SOCKET)),
            service: Some(service),
        })
    }

    /// The process, for a variant to keep.
    pub fn into_service(mut self) -> Option<Service> {
        self.service.take()
    }

    /// Connects a namespace as `name`.
    ///
    /// # Errors
    /// The agent's sentence.
    pub fn attach(&self, name: &str, netns: PathBuf, publish: Vec<String>) -> Result<Container> {
        self.attach_to(None, name, netns, publish)
    }

    fn attach_to(
        &self,
        network: Option<&str>,
        name: &str,
        netns: PathBuf,
        publish: Vec<String>,
    ) -> Result<Container> {
        let join = |network: &str| Join {
            network: network.to_owned(),
            ..Join::default()
        };
        let request = Attach {
            connect: Connect {
                name: Some(name.to_owned()),
                networks: network.map(join).into_iter().collect(),
                publish,
                ..Connect::default()
            },
            netns: Some(netns),
            pid: None,
        };
        self.client.post("/v1/attach", &request)
    }

    /// Its process.
    pub fn take_service(&mut self) -> Option<Service> {
        self.service.take()
    }

    /// Connects a new namespace.
    fn container(
        &self,
        site: &Site,
        file: &str,
        name: &str,
        publish: Vec<String>,
    ) -> Result<(Namespace, Ipv4Addr, u32)> {
        let namespace = site.namespace(&format!("{file}.{name}"))?;
        let container = self.attach(name, namespace.path().to_owned(), publish)?;
        let address = first_address(&container)?;
        let connection = container.networks.first();
        let connection = connection.with_context(|| format!("{name} got no network"))?;
        let network: Network = self
            .client
            .get(&format!("/v1/networks/{}", connection.network))?;
        Ok((namespace, address, network.mtu))
    }
}

/// A host with two containers and a published port, for TCP and for UDP; and the host itself
/// as a server.
pub fn netpath(site: &Site) -> Result<[Variant; 2]> {
    let mut agent = Agent::start(site, NETPATH)?;
    let publish = ["tcp", "udp"].map(|proto| format!("{PUBLISHED}:{SERVICE}/{proto}"));
    let (first, target, mtu) = agent.container(site, NETPATH, "c1", publish.to_vec())?;
    let (second, _, _) = agent.container(site, NETPATH, "c2", Vec::new())?;
    let (host, outside) = (agent.host.clone(), agent.outside.clone());
    let published = |client: &Namespace, ip: IpAddr| Ends {
        client: client.clone(),
        server: first.clone(),
        listen: SocketAddr::from((target, SERVICE)),
        dial: SocketAddr::from((ip, PUBLISHED)),
    };
    let mut variant = Variant::new(
        NETPATH,
        "netpath: NAT, flow state, guard and counters on, as `netpath agent` runs it",
    );
    variant.ports = 2;
    variant.mtu = mtu;
    variant.paths.extend([
        (Path::Containers, Ends::direct(&second, &first, target)),
        (Path::Outside, Ends::direct(&first, &outside, OUTSIDE)),
        (Path::Published, published(&outside, HOST.into())),
        (Path::Local, published(&host, Ipv4Addr::LOCALHOST.into())),
    ]);
    variant.host = Some(host.clone());
    variant.services.extend(agent.service.take());
    let mut process = Variant::new(
        HOST_PROCESS,
        "a server of netpath's host itself, at the address where ports are published",
    );
    let ends = Ends::direct(&outside, &host, HOST);
    process.paths.insert(Path::Published, ends);
    Ok([variant, process])
}

/// Two hosts with a container each on one network: the ends, and the agents.
pub fn overlay(site: &Site) -> Result<(Ends, Vec<Service>)> {
    let hosts = wire(site, "overlay")?;
    let (mut ends, mut services) = (Vec::new(), Vec::new());
    for (i, host) in hosts.iter().enumerate() {
        let (near, far) = (i + 1, 2 - i);
        let mut agent =
            Agent::start_on(site, &format!("overlay{near}"), host.clone(), host.clone())?;
        let network = CreateNetwork {
            name: "wide".into(),
            driver: Some("overlay".into()),
            subnets: vec![format!("10.201.{near}.0/24")],
            options: [("vni".to_owned(), "42".to_owned())].into(),
            ..CreateNetwork::default()
        };
        let _: Network = agent.client.post("/v1/networks", &network)?;
        let tunnel = AddTunnel {
            network: network.name.clone(),
            remote: Ipv4Addr::new(192, 0, 2, far as u8).into(),
            destination: format!("10.201.{far}.0/24"),
            mac: None,
            vni: None,
            port: None,
        };
        let _: Tunnel = agent.client.post("/v1/tunnels", &tunnel)?;
        let namespace = site.namespace(&format!("overlay{near}.c"))?;
        let netns = namespace.path().to_owned();
        let container = agent.attach_to(Some("wide"), "c1", netns, Vec::new())?;
        ends.push((namespace, first_address(&container)?));
        services.extend(agent.service.take());
    }
    match &ends[..] {
        [(client, _), (server, address)] => Ok((Ends::direct(client, server, *address), services)),
        _ => bail!("an overlay has two ends"),
    }
}

/// The IPv4 address of a container.
fn first_address(container: &Container) -> Result<Ipv4Addr> {
    let ips = container.networks.iter().flat_map(Connection::ips);
    let address = ips.into_iter().find_map(|ip| match ip {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    });
    address.with_context(|| format!("{} got no IPv4 address", container.name))
}

/// A host with one container and many published TCP ports.
pub fn scaled(site: &Site, ports: u32) -> Result<Variant> {
    let name = format!("{NETPATH}@{ports}");
    let mut agent = Agent::start(site, &name)?;
    let range = range(ports);
    let publish = if ports > 1 {
        format!("{0}-{1}:{0}-{1}", range.start, range.end - 1)
    } else {
        format!("{0}:{0}", range.start)
    };
    let (container, target, mtu) = agent.container(site, &name, "c1", vec![publish])?;
    let mut variant = Variant::new(NETPATH, "netpath");
    variant.ports = ports;
    variant.mtu = mtu;
    for (which, port) in ends_of(ports) {
        let ends = Ends {
            client: agent.outside.clone(),
            server: container.clone(),
            listen: SocketAddr::from((target, port)),
            dial: SocketAddr::from((HOST, port)),
        };
        variant.paths.insert(Path::Scaling(ports, which), ends);
    }
    variant.host = Some(agent.host.clone());
    variant.services.extend(agent.service.take());
    Ok(variant)
}
