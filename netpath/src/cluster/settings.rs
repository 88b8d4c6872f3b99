//! Where the cluster store is, and who this node is in it.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Result;
use serde::Deserialize;

use super::schema::check_vtep;
use crate::container::names;
use crate::problem::invalid;

/// Seconds that a node may be silent before it counts as dead. A minute without the store, or a
/// host that boots, is no reason to take its addresses away.
const LEASE: u32 = 90;
/// Shorter ones would end with a burst of load, longer ones would keep a dead node's addresses
/// for more than a day.
const LEASES: (u32, u32) = (3, 86_400);
/// etcd's port for clients.
const PORT: u16 = 2379;

/// What somebody wants of the cluster; also the table `cluster` of the settings file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct Wishes {
    /// Store of the cluster, for networks of several hosts
    #[arg(long = "cluster", value_name = "etcd://HOST:PORT[,...]")]
    pub url: Option<String>,

    /// Certificate (PEM) of the authority that the store's certificate is checked with; the
    /// store is then reached by TLS
    #[arg(long = "cluster-ca", value_name = "FILE")]
    pub ca: Option<PathBuf>,

    /// This node's certificate (PEM), if the store asks for one
    #[arg(long = "cluster-cert", value_name = "FILE")]
    pub cert: Option<PathBuf>,

    /// The private key (PEM) of --cluster-cert
    #[arg(long = "cluster-key", value_name = "FILE")]
    pub key: Option<PathBuf>,

    /// User of the store, if it knows users
    #[arg(long = "cluster-user", value_name = "NAME")]
    pub user: Option<String>,

    /// File with the user's password
    #[arg(long = "cluster-password-file", value_name = "FILE")]
    pub password_file: Option<PathBuf>,

    /// Seconds without a sign of life after which a node counts as dead [default: 90]
    #[arg(long = "cluster-lease", value_name = "SECONDS")]
    pub lease: Option<u32>,

    /// This node's name in the cluster [default: the host name]
    #[arg(long = "node", value_name = "NAME")]
    pub node: Option<String>,

    /// Address by which the other nodes reach this one [default: that of the first uplink]
    #[arg(long = "node-address", value_name = "IP")]
    pub node_address: Option<IpAddr>,
}

/// Where the store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `host:port`, at least one.
    pub endpoints: Vec<String>,
    /// TLS, if wanted.
    pub tls: Option<Tls>,
    /// User and the file of the password.
    pub user: Option<(String, PathBuf)>,
    /// Seconds that a node may be silent.
    pub lease: u32,
    /// This node's name.
    pub node: String,
    /// Its address; `None` for the first uplink's.
    pub address: Option<IpAddr>,
}

/// Files of TLS, all PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// This node's certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Wishes {
    /// These wishes, and where they are silent those of `other`.
    pub fn or(self, other: Self) -> Self {
        Self {
            url: self.url.or(other.url),
            ca: self.ca.or(other.ca),
            cert: self.cert.or(other.cert),
            key: self.key.or(other.key),
            user: self.user.or(other.user),
            password_file: self.password_file.or(other.password_file),
            lease: self.lease.or(other.lease),
            node: self.node.or(other.node),
            node_address: self.node_address.or(other.node_address),
        }
    }

    /// Fills in the defaults; `None` if there is to be no cluster.
    ///
    /// # Errors
    /// A sentence about a wish that makes no sense.
    pub fn settings(self) -> Result<Option<Settings>> {
        let Some(url) = &self.url else {
            let alone = Self {
                node: None,
                node_address: None,
                ..self
            };
            if alone != Self::default() {
                return Err(invalid(
                    "options of the cluster's store make no sense without --cluster, name it \
                     like --cluster etcd://192.0.2.10:2379",
                ));
            }
            return Ok(None);
        };
        let endpoints = parse_url(url)?;
        let tls = match (self.ca, self.cert, self.key) {
            (None, None, None) => None,
            (None, _, _) => {
                return Err(invalid(
                    "--cluster-cert and --cluster-key need --cluster-ca, which the store's own \
                     certificate is checked with",
                ));
            }
            (Some(ca), None, None) => Some(Tls { ca, identity: None }),
            (Some(ca), Some(cert), Some(key)) => Some(Tls {
                ca,
                identity: Some((cert, key)),
            }),
            (Some(_), _, _) => {
                return Err(invalid(
                    "--cluster-cert and --cluster-key belong together, name both or none",
                ));
            }
        };
        let user = match (self.user, self.password_file) {
            (None, None) => None,
            (Some(user), Some(file)) => Some((user, file)),
            _ => {
                return Err(invalid(
                    "--cluster-user and --cluster-password-file belong together, name both or \
                     none",
                ));
            }
        };
        let lease = self.lease.unwrap_or(LEASE);
        if !(LEASES.0..=LEASES.1).contains(&lease) {
            return Err(invalid(format!(
                "cluster-lease {lease} is out of range, choose {} to {} seconds",
                LEASES.0, LEASES.1
            )));
        }
        if let Some(address) = self.node_address {
            check_vtep(address).map_err(|_| {
                invalid(format!(
                    "node address {address} cannot be reached from other hosts, name one of this \
                     host's"
                ))
            })?;
        }
        let node = match self.node {
            Some(node) => node,
            None => host_name()?,
        };
        names::check("node", &node)?;
        Ok(Some(Settings {
            endpoints,
            tls,
            user,
            lease,
            node,
            address: self.node_address,
        }))
    }
}

impl Settings {
    /// The store as users wrote it.
    pub fn url(&self) -> String {
        format!("etcd://{}", self.endpoints.join(","))
    }
}

fn host_name() -> Result<String> {
    let name = nix::unistd::gethostname().ok();
    name.and_then(|name| name.into_string().ok())
        .filter(|name| !name.is_empty())
        .ok_or_else(|| invalid("this host has no name, give the node one with --node"))
}

/// `etcd://HOST[:PORT][,HOST[:PORT]…]`
fn parse_url(url: &str) -> Result<Vec<String>> {
    let wrong = |what: String| {
        invalid(format!(
            "cluster \"{}\": {what}, write it like etcd://192.0.2.10:2379,192.0.2.11:2379",
            url.escape_debug()
        ))
    };
    let Some(rest) = url.strip_prefix("etcd://") else {
        return Err(wrong("the store has to be an etcd".into()));
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    rest.split(',')
        .map(|endpoint| {
            let (host, port) = match endpoint.rsplit_once(':') {
                // An IPv6 address without a port.
                Some(_) if endpoint.ends_with(']') => (endpoint, None),
                Some((host, port)) => (host, Some(port)),
                None => (endpoint, None),
            };
            let port = port.map_or(Ok(PORT), str::parse);
            let port: u16 = port
                .ok()
                .filter(|port| *port != 0)
                .ok_or_else(|| wrong(format!("\"{}\" has no port", endpoint.escape_debug())))?;
            let inside = host
                .strip_prefix('[')
                .and_then(|host| host.strip_suffix(']'));
            let good = match inside {
                Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
                None => names::check_hostname(host).is_ok(),
            };
            if !good {
                return Err(wrong(format!("\"{}\" is no host", host.escape_debug())));
            }
            Ok(format!("{host}:{port}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wishes(url: &str) -> Wishes {
        Wishes {
            url: Some(url.into()),
            node: Some("a".into()),
            ..Wishes::default()
        }
    }

    #[test]
    fn stores_are_named_by_their_members() {
        let settings = wishes("etcd://10.0.0.1,db:99,[fd00::1]:5,[fd00::2]").settings();
        let settings = settings.unwrap().unwrap();
        assert_eq!(
            settings.endpoints,
            ["10.0.0.1:2379", "db:99", "[fd00::1]:5", "[fd00::2]:2379"]
        );
        assert_eq!(settings.lease, LEASE);
        assert_eq!(Wishes::default().settings().unwrap(), None);
    }

    #[test]
    fn nonsense_is_refused_in_a_sentence() {
        for url in [
            "http://a",
            "etcd://",
            "etcd://a:0",
            "etcd://a:x",
            "etcd://a,,b",
            "etcd://[::g]:1",
            "etcd://a b",
        ] {
            let error = wishes(url).settings().unwrap_err().to_string();
            assert!(error.contains("write it like etcd://"), "{url}: {error}");
        }
        let with = |change: fn(&mut Wishes)| {
            let mut wishes = wishes("etcd://a");
            change(&mut wishes);
            wishes.settings().unwrap_err().to_string()
        };
        for (error, part) in [
            (with(|w| w.cert = Some("c".into())), "--cluster-ca"),
            (
                with(|w| {
                    w.ca = Some("c".into());
                    w.key = Some("k".into());
                }),
                "belong together",
            ),
            (with(|w| w.user = Some("u".into())), "belong together"),
            (with(|w| w.lease = Some(2)), "choose 3 to 86400"),
            (with(|w| w.node = Some("a/b".into())), "cannot name a node"),
            (
                with(|w| w.node_address = "127.0.0.1".parse().ok()),
                "cannot be reached",
            ),
        ] {
            assert!(error.contains(part), "{error}");
        }
        let alone = Wishes {
            user: Some("u".into()),
            ..Wishes::default()
        };
        assert!(
            alone
                .settings()
                .unwrap_err()
                .to_string()
                .contains("--cluster")
        );
    }
}
