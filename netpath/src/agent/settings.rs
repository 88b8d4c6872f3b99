//! What an agent is started with: command line over file over defaults.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use netpath_common::config::{DEFAULT_SNAT_PORTS, Timeouts};
use serde::Deserialize;

use super::timeouts;
use crate::cluster::settings as cluster;
use crate::container::files::RESOLV_CONF;
use crate::datapath::gate::Wish;
use crate::docker::adopt;
use crate::ipam::{Pool, default_pools};
use crate::netlink::Netlink;
use crate::problem::{invalid, not_found};

/// Folder of sockets, logs and namespaces.
pub const RUN_DIR: &str = "/run/netpath";
/// Folder of the store.
pub const STATE_DIR: &str = "/var/lib/netpath";
/// Folder of pinned maps and links.
pub const BPFFS: &str = "/sys/fs/bpf/netpath";
/// Name of the socket in the run folder.
pub const SOCKET: &str = "netpath.sock";
/// Name of the socket that Docker calls, in the run folder. Docker finds it by a file that
/// `netpath install` writes (`/etc/docker/plugins/netpath.spec`).
pub const DOCKER_SOCKET: &str = "docker.sock";
/// Connections that the flow table can hold unless told otherwise. Its memory is taken at
/// once, about 400 bytes a connection (50 MiB here), so that no packet has to wait for it.
pub const MAX_FLOWS: u32 = 131_072;
/// As many containers can be connected at once without waiting for the kernel's grace periods.
/// A spare costs a namespace, some 50 KB.
const SPARES: usize = 8;
/// More spares than that would be made for longer than anybody starts containers at once.
const MAX_SPARES: usize = 1024;

/// With fewer a container could not even fetch a page with its pictures.
const MIN_FLOWS_PER_CONTAINER: u32 = 16;

/// An agent's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Uplinks; empty until [`Settings::with_uplinks`].
    pub uplinks: Vec<String>,
    /// Folder of sockets, logs and namespaces.
    pub run_dir: PathBuf,
    /// Folder of the store.
    pub state_dir: PathBuf,
    /// Folder of pinned maps and links, on a bpffs.
    pub bpffs: PathBuf,
    /// The control group whose processes reach published ports; `None` finds the root.
    pub cgroup: Option<PathBuf>,
    /// The socket.
    pub socket: PathBuf,
    /// First and last port of masqueraded connections.
    pub snat_ports: (u16, u16),
    /// Connections that the flow table can hold.
    pub max_flows: u32,
    /// Interfaces that are kept ready for the next containers.
    pub spares: usize,
    /// Connections that one container can have; `None` is a quarter of the table.
    pub max_flows_per_container: Option<u32>,
    /// How long connections may be silent.
    pub timeouts: Timeouts,
    /// Level of the programs' own messages.
    pub log_datapath: Option<log::LevelFilter>,
    /// XDP on the uplinks.
    pub xdp: Wish,
    /// The socket that Docker calls; `None` if it is not to.
    pub docker_plugin: Option<PathBuf>,
    /// The file with the host's name servers.
    pub resolv_conf: PathBuf,
    /// The cluster's store, if there is one.
    pub cluster: Option<cluster::Settings>,
    /// Where networks that name no subnet get one.
    pub address_pools: Vec<Pool>,
    /// The socket of the Docker whose networks are to be adopted from the start.
    pub adopt: Option<PathBuf>,
}

/// Settings that somebody made; also the form of the settings file (TOML).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wishes {
    /// Names of the uplinks.
    #[serde(default)]
    pub uplinks: Vec<String>,
    /// Folder of sockets, logs and namespaces.
    pub run_dir: Option<PathBuf>,
    /// Folder of the store.
    pub state_dir: Option<PathBuf>,
    /// Folder of pinned maps and links.
    pub bpffs: Option<PathBuf>,
    /// Control group whose processes reach published ports.
    pub cgroup: Option<PathBuf>,
    /// The socket.
    pub socket: Option<PathBuf>,
    /// Ports of masqueraded connections, `FIRST-LAST`.
    pub snat_ports: Option<String>,
    /// Connections that the flow table can hold.
    pub max_flows: Option<u32>,
    /// Interfaces that are kept ready for the next containers.
    pub spares: Option<usize>,
    /// Connections that one container can have.
    pub max_flows_per_container: Option<u32>,
    /// Idle times in seconds, by name.
    #[serde(default)]
    pub timeouts: BTreeMap<String, u32>,
    /// Level of the programs' own messages.
    pub log_datapath: Option<String>,
    /// XDP on the uplinks: `auto`, `native`, `generic` or `off`.
    pub xdp: Option<String>,
    /// The socket that Docker calls, or `off`.
    pub docker_plugin: Option<PathBuf>,
    /// The file with the host's name servers.
    pub resolv_conf: Option<PathBuf>,
    /// The cluster's store.
    #[serde(default)]
    pub cluster: cluster::Wishes,
    /// Where networks that name no subnet get one: `base=10.10.0.0/16,size=24`.
    #[serde(default)]
    pub default_address_pools: Vec<String>,
    /// Whose networks are to be adopted: `docker` or `docker=SOCKET`.
    pub adopt: Option<String>,
}

impl Wishes {
    /// Reads a settings file.
    ///
    /// # Errors
    /// It cannot be read, or says something unknown: with file and line.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read the settings {}", path.display()))?;
        toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| {
                1 + text
                    .get(..span.start)
                    .map_or(0, |before| before.matches('\n').count())
            });
            let message = error.message().replace('\n', " ");
            invalid(format!(
                "settings {}, line {line}: {message}",
                path.display()
            ))
        })
    }

    /// These wishes, and where they are silent those of `other`.
    pub fn or(self, other: Self) -> Self {
        Self {
            uplinks: if self.uplinks.is_empty() {
                other.uplinks
            } else {
                self.uplinks
            },
            run_dir: self.run_dir.or(other.run_dir),
            state_dir: self.state_dir.or(other.state_dir),
            bpffs: self.bpffs.or(other.bpffs),
            cgroup: self.cgroup.or(other.cgroup),
            socket: self.socket.or(other.socket),
            snat_ports: self.snat_ports.or(other.snat_ports),
            max_flows: self.max_flows.or(other.max_flows),
            spares: self.spares.or(other.spares),
            max_flows_per_container: self
                .max_flows_per_container
                .or(other.max_flows_per_container),
            // Each idle time for itself. The file may write `_` where flags have `-`.
            timeouts: other
                .timeouts
                .into_iter()
                .chain(self.timeouts)
                .map(|(name, seconds)| (timeouts::canonical(&name), seconds))
                .collect(),
            log_datapath: self.log_datapath.or(other.log_datapath),
            xdp: self.xdp.or(other.xdp),
            docker_plugin: self.docker_plugin.or(other.docker_plugin),
            resolv_conf: self.resolv_conf.or(other.resolv_conf),
            cluster: self.cluster.or(other.cluster),
            default_address_pools: if self.default_address_pools.is_empty() {
                other.default_address_pools
            } else {
                self.default_address_pools
            },
            adopt: self.adopt.or(other.adopt),
        }
    }

    /// Fills in the defaults.
    ///
    /// # Errors
    /// A sentence about a setting that makes no sense.
    pub fn settings(self) -> Result<Settings> {
        let run_dir = absolute(self.run_dir.unwrap_or_else(|| RUN_DIR.into()))?;
        let max_flows = self.max_flows.unwrap_or(MAX_FLOWS);
        if !(1024..=16_777_216).contains(&max_flows) {
            return Err(invalid(format!(
                "max-flows {max_flows} is out of range, choose 1024 to 16777216"
            )));
        }
        let spares = self.spares.unwrap_or(SPARES);
        if spares > MAX_SPARES {
            return Err(invalid(format!(
                "spares {spares} is out of range, choose 0 to {MAX_SPARES}"
            )));
        }
        if let Some(max) = self.max_flows_per_container
            && !(MIN_FLOWS_PER_CONTAINER..=max_flows).contains(&max)
        {
            return Err(invalid(format!(
                "max-flows-per-container {max} is out of range, choose \
                 {MIN_FLOWS_PER_CONTAINER} to {max_flows}, which is max-flows"
            )));
        }
        Ok(Settings {
            uplinks: self.uplinks,
            socket: absolute(self.socket.unwrap_or_else(|| run_dir.join(SOCKET)))?,
            docker_plugin: match self.docker_plugin {
                None => Some(run_dir.join(DOCKER_SOCKET)),
                Some(off) if off == Path::new("off") => None,
                Some(path) => Some(absolute(path)?),
            },
            run_dir,
            cgroup: self.cgroup.map(absolute).transpose()?,
            state_dir: absolute(self.state_dir.unwrap_or_else(|| STATE_DIR.into()))?,
            bpffs: absolute(self.bpffs.unwrap_or_else(|| BPFFS.into()))?,
            snat_ports: self
                .snat_ports
                .map_or(Ok(DEFAULT_SNAT_PORTS), |text| parse_ports(&text))?,
            max_flows,
            spares,
            max_flows_per_container: self.max_flows_per_container,
            timeouts: timeouts::apply(&self.timeouts)?,
            log_datapath: self
                .log_datapath
                .map(|level| parse_level(&level))
                .transpose()?
                .flatten(),
            xdp: self.xdp.map_or(Ok(Wish::default()), |text| text.parse())?,
            resolv_conf: absolute(self.resolv_conf.unwrap_or_else(|| RESOLV_CONF.into()))?,
            cluster: self.cluster.settings()?,
            address_pools: if self.default_address_pools.is_empty() {
                default_pools()
            } else {
                self.default_address_pools
                    .iter()
                    .map(|text| text.parse())
                    .collect::<Result<_>>()?
            },
            adopt: self.adopt.map(|text| parse_adopt(&text)).transpose()?,
        })
    }
}

fn absolute(path: PathBuf) -> Result<PathBuf> {
    std::path::absolute(&path).with_context(|| format!("{} is not a usable path", path.display()))
}

/// `docker`, or `docker=SOCKET`.
fn parse_adopt(text: &str) -> Result<PathBuf> {
    match text.split_once('=').unwrap_or((text, adopt::SOCKET)) {
        ("docker", socket) if !socket.is_empty() => absolute(socket.into()),
        _ => Err(invalid(format!(
            "\"{text}\" cannot be adopted, write docker or docker=SOCKET"
        ))),
    }
}

fn parse_level(text: &str) -> Result<Option<log::LevelFilter>> {
    match text.parse() {
        Ok(log::LevelFilter::Off) => Ok(None),
        Ok(level) => Ok(Some(level)),
        Err(_) => Err(invalid(format!(
            "\"{text}\" is not a log level, choose off, error, warn, info, debug or trace"
        ))),
    }
}

fn parse_ports(text: &str) -> Result<(u16, u16)> {
    let parsed = text
        .split_once('-')
        .and_then(|(first, last)| Some((first.parse::<u16>().ok()?, last.parse::<u16>().ok()?)));
    match parsed {
        // The port of a flow is chosen at random; a handful would be taken at once.
        Some((first, last)) if first >= 1024 && last >= first && last - first >= 255 => {
            Ok((first, last))
        }
        _ => Err(invalid(format!(
            "snat-ports {text} makes no sense, write FIRST-LAST with at least 256 ports from \
             1024 on, like {}-{}",
            DEFAULT_SNAT_PORTS.0, DEFAULT_SNAT_PORTS.1
        ))),
    }
}

impl Settings {
    /// Checks that the uplinks exist, or, if none is named, takes the devices of the
    /// host's default routes.
    ///
    /// # Errors
    /// One is missing, or there is no default route.
    pub async fn with_uplinks(mut self, netlink: &Netlink) -> Result<Self> {
        let links = netlink.links().await?;
        if self.uplinks.is_empty() {
            for route in netlink.routes().await? {
                if route.destination.prefix_len() != 0 || !route.is_unicast {
                    continue;
                }
                for index in route.devices {
                    let device = links
                        .iter()
                        .find(|link| link.index == index && link.is_ethernet && !link.is_ours());
                    if let Some(link) = device
                        && !self.uplinks.contains(&link.name)
                    {
                        self.uplinks.push(link.name.clone());
                    }
                }
            }
            if self.uplinks.is_empty() {
                return Err(invalid(
                    "no uplink was named and the host has no default route over an Ethernet \
                     device to choose one by, name it with --uplink",
                ));
            }
            log::info!(
                "the uplinks are those of the default routes: {}",
                self.uplinks.join(", ")
            );
        }
        self.uplinks.dedup();
        for name in &self.uplinks {
            let Some(link) = links.iter().find(|link| link.name == *name) else {
                let others: Vec<&str> = links
                    .iter()
                    .filter(|link| !link.is_loopback && !link.is_ours())
                    .map(|link| link.name.as_str())
                    .collect();
                return Err(not_found(format!(
                    "there is no interface {name} to be an uplink, this host has: {}",
                    if others.is_empty() {
                        "none".into()
                    } else {
                        others.join(", ")
                    }
                )));
            };
            if !link.is_ethernet {
                return Err(invalid(format!(
                    "interface {name} cannot be an uplink: it has no Ethernet header"
                )));
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("netpath.toml");
        fs::write(
            &path,
            "uplinks = [\"eth0\"]\nrun_dir = \"/a\"\nsnat_ports = \"20000-30000\"\n",
        )
        .unwrap();
        let flags = Wishes {
            run_dir: Some("/b".into()),
            ..Wishes::default()
        };
        let settings = flags.or(Wishes::read(&path).unwrap()).settings().unwrap();
        assert_eq!(settings.uplinks, ["eth0"]);
        assert_eq!(settings.socket, Path::new("/b/netpath.sock"));
        assert_eq!(settings.snat_ports, (20_000, 30_000));
        assert_eq!(settings.max_flows, MAX_FLOWS);
    }

    #[test]
    fn nonsense_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("netpath.toml");
        fs::write(&path, "run_dir = \"/a\"\nuplink = 3\n").unwrap();
        let error = Wishes::read(&path).unwrap_err().to_string();
        assert!(
            error.contains("line 2") && error.contains("uplink"),
            "{error}"
        );
        for ports in ["80-90", "x", "2000-1000", "20000-20010", "20000"] {
            let wishes = Wishes {
                snat_ports: Some(ports.into()),
                ..Wishes::default()
            };
            assert!(wishes.settings().unwrap_err().to_string().contains(ports));
        }
        let wishes = Wishes {
            log_datapath: Some("loud".into()),
            ..Wishes::default()
        };
        assert!(wishes.settings().is_err());
        let wishes = Wishes {
            xdp: Some("fast".into()),
            ..Wishes::default()
        };
        assert!(wishes.settings().unwrap_err().to_string().contains("fast"));
        let wishes = Wishes {
            max_flows: Some(1),
            ..Wishes::default()
        };
        assert!(wishes.settings().is_err());
        let wishes = Wishes {
            spares: Some(MAX_SPARES + 1),
            ..Wishes::default()
        };
        assert!(wishes.settings().is_err());
        for max in [0, 15, 4097] {
            let wishes = Wishes {
                max_flows: Some(4096),
                max_flows_per_container: Some(max),
                ..Wishes::default()
            };
            let error = wishes.settings().unwrap_err().to_string();
            assert!(error.contains("choose 16 to 4096"), "{error}");
        }
    }

    #[test]
    fn idle_times_are_taken_one_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("netpath.toml");
        fs::write(
            &path,
            "max_flows_per_container = 100\n[timeouts]\ntcp_established = 9000\nicmp = 70\n",
        )
        .unwrap();
        let flags = Wishes {
            timeouts: [("icmp".to_owned(), 80), ("tcp-closed".to_owned(), 5)].into(),
            ..Wishes::default()
        };
        let settings = flags.or(Wishes::read(&path).unwrap()).settings().unwrap();
        let expected = Timeouts {
            tcp_established: 9000,
            tcp_closed: 5,
            icmp: 80,
            ..Timeouts::DEFAULT
        };
        assert_eq!(settings.timeouts, expected);
        assert_eq!(settings.max_flows_per_container, Some(100));
    }
}
