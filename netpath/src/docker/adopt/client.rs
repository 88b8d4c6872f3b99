//! What Docker's API tells: networks, containers, and when something changes.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context, Result};
use bollard::models::{ContainerInspectResponse, EventMessage, EventMessageTypeEnum, PortMap};
use bollard::query_parameters::{EventsOptionsBuilder, InspectContainerOptions};
use bollard::query_parameters::{ListContainersOptions, ListNetworksOptions};
use futures_util::{Stream, StreamExt};
use netpath_common::tuple::Proto;
use nix::sys::socket::{getsockopt, sockopt};

use crate::problem::{invalid, not_found};
use crate::publish::Binding;

/// No question takes Docker longer than this, or it hangs.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many containers Docker is asked about at a time.
const AT_ONCE: usize = 8;

/// A client of one daemon.
#[derive(Clone, Debug)]
pub struct Client {
    docker: bollard::Docker,
    /// Where the daemon sees its file system: paths that it tells are below.
    root: PathBuf,
}

/// A network that Docker made with its driver `bridge`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerNetwork {
    /// Docker's number of it.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Name of its bridge.
    pub bridge: String,
    /// Its options.
    pub options: BTreeMap<String, String>,
    /// Nothing leaves it.
    pub internal: bool,
}

/// A container that runs and has a network namespace of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerContainer {
    /// Docker's number of it.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Files that may name its network namespace; the first that can be opened does.
    pub netns: Vec<PathBuf>,
    /// Its addresses in all networks.
    pub addresses: Vec<IpAddr>,
    /// Published ports.
    pub ports: Vec<Binding>,
}

/// What Docker tells at one time.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Networks of the driver `bridge`.
    pub networks: Vec<DockerNetwork>,
    /// Containers that run.
    pub containers: Vec<DockerContainer>,
}

impl Client {
    /// Connects to the daemon behind a socket, and finds out which version of the API it speaks.
    ///
    /// # Errors
    /// Nobody listens there, or it is not Docker.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let root = root_of(socket)?;
        let failed = || format!("Docker does not answer on {}", socket.display());
        let path = socket.to_str().with_context(|| {
            invalid(format!(
                "the socket {} has no readable name",
                socket.display()
            ))
        })?;
        let docker = bollard::Docker::connect_with_unix(
            path,
            PATIENCE.as_secs(),
            bollard::API_DEFAULT_VERSION,
        )
        .with_context(failed)?;
        let docker = tokio::time::timeout(PATIENCE, docker.negotiate_version())
            .await
            .with_context(failed)?
            .with_context(failed)?;
        Ok(Self { docker, root })
    }

    /// Networks and containers as they are now.
    ///
    /// # Errors
    /// Docker went away, or answers something that cannot be understood.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        let networks = self
            .docker
            .list_networks(None::<ListNetworksOptions>)
            .await
            .context("Docker does not list its networks")?;
        let listed = self
            .docker
            .list_containers(None::<ListContainersOptions>)
            .await
            .context("Docker does not list its containers")?;
        let ids = listed.into_iter().filter_map(|container| container.id);
        let asked = ids.map(|id| async move {
            let options = None::<InspectContainerOptions>;
            self.docker.inspect_container(&id, options).await
        });
        let mut answers = futures_util::stream::iter(asked).buffer_unordered(AT_ONCE);
        let mut containers = Vec::new();
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(container) => containers.extend(self.container(container)),
                // It has ended meanwhile.
                Err(bollard::errors::Error::DockerResponseServerError {
                    status_code: 404, ..
                }) => {}
                Err(error) => return Err(error).context("Docker does not tell of a container"),
            }
        }
        Ok(Snapshot {
            networks: networks.into_iter().filter_map(network).collect(),
            containers,
        })
    }

    /// Whether the daemon that was connected to still runs.
    pub fn is_there(&self) -> bool {
        self.root.exists()
    }

    /// Yields whenever containers or networks have changed, until the daemon goes away.
    pub fn changes(&self) -> Pin<Box<dyn Stream<Item = ()> + Send>> {
        let kinds = ["container", "network", "daemon"]
            .map(str::to_owned)
            .to_vec();
        let filters = HashMap::from([("type".to_owned(), kinds)]);
        let options = EventsOptionsBuilder::new().filters(&filters).build();
        Box::pin(
            self.docker
                .events(Some(options))
                .take_while(|event| std::future::ready(event.is_ok()))
                .filter_map(|event| std::future::ready(event.ok().filter(matters).map(drop))),
        )
    }

    fn container(&self, answer: ContainerInspectResponse) -> Option<DockerContainer> {
        let state = answer.state?;
        if state.running != Some(true) {
            return None;
        }
        let settings = answer.network_settings?;
        let networks = settings.networks.unwrap_or_default();
        let addresses: Vec<IpAddr> = networks
            .values()
            .flat_map(|endpoint| [&endpoint.ip_address, &endpoint.global_ipv6_address])
            .filter_map(|address| address.as_deref()?.parse().ok())
            .collect();
        // A container without networks of its own shares somebody else's namespace, the host's
        // perhaps.
        if networks.is_empty() {
            return None;
        }
        let mode = answer.host_config.and_then(|host| host.network_mode);
        if mode.as_deref() == Some("host") {
            return None;
        }
        let key = settings.sandbox_key.filter(|key| !key.is_empty());
        // Without its slash, or it would replace the root.
        let key = key.map(|key| self.root.join(key.trim_start_matches('/')));
        // Right if the daemon sees the same numbers of processes as we do.
        let pid = state.pid.filter(|pid| *pid > 0);
        let pid = pid.map(|pid| PathBuf::from(format!("/proc/{pid}/ns/net")));
        let name = answer.name.unwrap_or_default();
        Some(DockerContainer {
            id: answer.id?,
            name: name.trim_start_matches('/').to_owned(),
            netns: key.into_iter().chain(pid).collect(),
            addresses,
            ports: settings
                .ports
                .map(|ports| bindings(&ports))
                .unwrap_or_default(),
        })
    }
}

/// Where the process that listens on a socket sees its file system. Under socket activation that
/// is the service manager, whose file system is the host's.
fn root_of(socket: &Path) -> Result<PathBuf> {
    let stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(not_found(format!(
                "there is no Docker socket {}, start Docker or name its socket with --docker-socket",
                socket.display()
            )));
        }
        Err(error) => {
            return Err(error)
                .with_context(|| format!("cannot connect to Docker on {}", socket.display()));
        }
    };
    let peer = getsockopt(&stream, sockopt::PeerCredentials)
        .with_context(|| format!("cannot tell who listens on {}", socket.display()))?;
    Ok(PathBuf::from(format!("/proc/{}/root", peer.pid())))
}

/// Whether an event changes what is to be adopted. Others come by the dozen: each health check
/// is one.
fn matters(event: &EventMessage) -> bool {
    let action = event.action.as_deref().unwrap_or_default();
    match event.typ {
        Some(EventMessageTypeEnum::CONTAINER) => {
            matches!(action, "start" | "die" | "destroy" | "rename" | "restart")
        }
        Some(EventMessageTypeEnum::NETWORK | EventMessageTypeEnum::DAEMON) => true,
        _ => false,
    }
}

fn network(answer: bollard::models::Network) -> Option<DockerNetwork> {
    let id = answer.id?;
    if answer.driver.as_deref() != Some("bridge") {
        return None;
    }
    let options: BTreeMap<String, String> =
        answer.options.unwrap_or_default().into_iter().collect();
    let bridge = options
        .get("com.docker.network.bridge.name")
        .filter(|name| !name.is_empty())
        .cloned()
        .unwrap_or_else(|| format!("br-{}", id.get(..12).unwrap_or(&id)));
    Some(DockerNetwork {
        name: answer.name.unwrap_or_else(|| id.clone()),
        id,
        bridge,
        options,
        internal: answer.internal.unwrap_or(false),
    })
}

/// Docker's map of ports, in order: `"80/tcp": [{"0.0.0.0", "8080"}]`. What is exposed and not
/// published has no binding; in gateway mode `routed` the host's port is empty.
fn bindings(ports: &PortMap) -> Vec<Binding> {
    let mut bindings: Vec<Binding> = ports
        .iter()
        .flat_map(|(key, hosts)| {
            let (port, proto) = key.split_once('/').unwrap_or((key, "tcp"));
            let container_port = port.parse().ok();
            let proto = match proto {
                "tcp" => Some(Proto::Tcp),
                "udp" => Some(Proto::Udp),
                "sctp" => Some(Proto::Sctp),
                _ => None,
            };
            hosts.iter().flatten().filter_map(move |host| {
                let ip = host.host_ip.as_deref().unwrap_or_default();
                Some(Binding {
                    host_ip: if ip.is_empty() {
                        IpAddr::from([0, 0, 0, 0])
                    } else {
                        ip.parse().ok()?
                    },
                    host_port: host
                        .host_port
                        .as_deref()?
                        .parse()
                        .ok()
                        .filter(|port| *port != 0)?,
                    container_port: container_port?,
                    proto: proto?,
                })
            })
        })
        .collect();
    bindings.sort_by_key(|b| (b.proto as u8, b.host_ip, b.host_port, b.container_port));
    bindings.dedup();
    bindings
}

#[cfg(test)]
mod tests {
    use bollard::models::PortBinding;

    use super::*;

    #[test]
    fn ports_are_read_as_docker_tells_them() {
        let binding = |ip: &str, port: &str| PortBinding {
            host_ip: Some(ip.to_owned()),
            host_port: Some(port.to_owned()),
        };
        let ports: PortMap = [
            (
                "80/tcp".to_owned(),
                Some(vec![binding("0.0.0.0", "8080"), binding("::", "8080")]),
            ),
            ("53/udp".to_owned(), Some(vec![binding("127.0.0.1", "53")])),
            // Exposed, routed, and what nobody has heard of.
            ("443/tcp".to_owned(), None),
            ("90/tcp".to_owned(), Some(vec![binding("", "")])),
            ("1/dccp".to_owned(), Some(vec![binding("", "1")])),
            ("x".to_owned(), Some(vec![binding("", "2")])),
        ]
        .into();
        let read: Vec<String> = bindings(&ports).iter().map(ToString::to_string).collect();
        assert_eq!(read.len(), 3, "{read:?}");
    }

    #[test]
    fn bridges_have_docker_names() {
        let answer = |driver: &str, options: &[(&str, &str)]| bollard::models::Network {
            id: Some("0123456789abcdef".to_owned()),
            name: Some("net".to_owned()),
            driver: Some(driver.to_owned()),
            options: Some(
                options
                    .iter()
                    .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                    .collect(),
            ),
            ..Default::default()
        };
        assert_eq!(
            network(answer("bridge", &[])).unwrap().bridge,
            "br-0123456789ab"
        );
        let named = answer("bridge", &[("com.docker.network.bridge.name", "docker0")]);
        assert_eq!(network(named).unwrap().bridge, "docker0");
        assert_eq!(network(answer("overlay", &[])), None);
    }
}
