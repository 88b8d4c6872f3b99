//! What netpath keeps in the cluster store: keys and their values.
//!
//! Everything lies below [`PREFIX`]; values are JSON, so that fields can be added. Whatever
//! somebody else wrote there is read with suspicion: an entry that makes no sense is named in
//! the log and passed over.
//!
//! | key | value | gone when |
//! | --- | --- | --- |
//! | `nodes/NODE` | [`Node`] | the node's lease ends |
//! | `networks/NETWORK` | [`Network`] | it is removed |
//! | `vnis/VNI` | the network's name | with its network |
//! | `endpoints/NETWORK/ADDRESS` | [`Endpoint`] | its container's interface, or the node's lease |
//! | `catalogue` | the network that was made or removed last | never |

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::container::names;
use crate::ipam::Subnet;
use crate::policy::Policy;

/// The folder of all keys.
pub const PREFIX: &str = "/netpath/v1/";
/// A VNI has 24 bits (RFC 7348); 0 is nobody's.
pub const MAX_VNI: u32 = 0xff_ffff;

/// A key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A node, by name.
    Node(String),
    /// A network, by name.
    Network(String),
    /// A VNI that is taken.
    Vni(u32),
    /// An address that is taken.
    Endpoint {
        /// Name of the network.
        network: String,
        /// The address.
        address: IpAddr,
    },
    /// Written whenever a network is made or removed, so that two of these never meet.
    Catalogue,
}

impl Key {
    /// The folder of a network's endpoints.
    pub fn endpoints_of(network: &str) -> String {
        format!("{PREFIX}endpoints/{network}/")
    }

    /// Reads a key.
    ///
    /// # Errors
    /// It is none of ours.
    pub fn parse(text: &str) -> Result<Self> {
        let rest = text
            .strip_prefix(PREFIX)
            .context("it lies elsewhere than netpath's keys")?;
        let parts: Vec<&str> = rest.split('/').collect();
        let key = match parts[..] {
            ["catalogue"] => Self::Catalogue,
            ["nodes", name] => {
                names::check("node", name)?;
                Self::Node(name.into())
            }
            ["networks", name] => {
                names::check("network", name)?;
                Self::Network(name.into())
            }
            ["vnis", vni] => Self::Vni(vni.parse().context("it ends in no number")?),
            ["endpoints", network, address] => {
                names::check("network", network)?;
                let address: IpAddr = address.parse().context("it ends in no address")?;
                Self::Endpoint {
                    network: network.into(),
                    address,
                }
            }
            _ => bail!("this version knows no such key"),
        };
        // One thing, one key: 010.0.0.1 or FD00::1 would be a second name of an address.
        ensure!(key.to_string() == text, "it is not written as {key}");
        Ok(key)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        match self {
            Self::Node(name) => write!(f, "nodes/{name}"),
            Self::Network(name) => write!(f, "networks/{name}"),
            Self::Vni(vni) => write!(f, "vnis/{vni}"),
            Self::Endpoint { network, address } => write!(f, "endpoints/{network}/{address}"),
            Self::Catalogue => f.write_str("catalogue"),
        }
    }
}

/// A MAC address, as `02:42:ac:11:00:02`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether an interface can have it: not a group's, and not zero (IEEE 802).
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().unwrap_or_default();
            let is_hex =
                (1..=2).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
            ensure!(is_hex, "\"{}\" is no MAC address", text.escape_debug());
            *byte = u8::from_str_radix(part, 16)?;
        }
        ensure!(
            parts.next().is_none(),
            "\"{}\" is no MAC address",
            text.escape_debug()
        );
        Ok(Self(mac))
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A host of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Random, chosen when the node's store was made: tells it from another host that was
    /// given the same name.
    pub id: String,
    /// Where the others send its containers' packets.
    pub address: IpAddr,
    /// Version of its agent.
    #[serde(default)]
    pub version: String,
}

/// An overlay network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Random: tells it from a later network of the same name.
    pub id: String,
    /// Its number on the wire.
    pub vni: u32,
    /// Its UDP port.
    pub port: u16,
    /// Its subnets, at most one a family.
    pub subnets: Vec<Subnet>,
    /// Largest packet in bytes, if its maker named one; else each node's underlay decides.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// What it lets in and out.
    #[serde(default)]
    pub policy: Policy,
    /// What people note at it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Seconds since 1970.
    #[serde(default)]
    pub created: u64,
}

/// An address that a container has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Name of its node.
    pub node: String,
    /// Name of its container.
    pub container: String,
    /// MAC address of the container's interface; `None` while it is being made.
    #[serde(default)]
    pub mac: Option<Mac>,
    /// Other names that it is found by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
}

/// A value, with what its key says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of [`Key::Node`].
    Node(Node),
    /// Of [`Key::Network`].
    Network(Network),
    /// Of [`Key::Endpoint`].
    Endpoint(Endpoint),
    /// Of the keys that only have to be there.
    Mark,
}

/// Reads a value.
///
/// # Errors
/// It makes no sense: why.
pub fn decode(key: &Key, value: &[u8]) -> Result<Value> {
    Ok(match key {
        Key::Node(_) => {
            let node: Node = serde_json::from_slice(value)?;
            check_vtep(node.address)?;
            Value::Node(node)
        }
        Key::Network(_) => {
            let network: Network = serde_json::from_slice(value)?;
            check_network(&network)?;
            Value::Network(network)
        }
        Key::Endpoint { .. } => {
            let endpoint: Endpoint = serde_json::from_slice(value)?;
            names::check("node", &endpoint.node)?;
            names::check("container", &endpoint.container)?;
            if let Some(mac) = endpoint.mac {
                ensure!(mac.is_unicast(), "{mac} is no interface's MAC address");
            }
            Value::Endpoint(endpoint)
        }
        Key::Vni(_) | Key::Catalogue => Value::Mark,
    })
}

/// Writes a value.
///
/// # Errors
/// Never for the records of this module.
pub fn encode(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).context("a record cannot be written as JSON")
}

/// Checks that packets can be sent to a node's address.
///
/// # Errors
/// They cannot.
pub fn check_vtep(address: IpAddr) -> Result<()> {
    let usable = !address.is_unspecified() && !address.is_loopback() && !address.is_multicast();
    ensure!(usable, "{address} is no address of a host");
    Ok(())
}

fn check_network(network: &Network) -> Result<()> {
    let vni = network.vni;
    ensure!((1..=MAX_VNI).contains(&vni), "{vni} is no VNI");
    ensure!(network.port != 0, "0 is no port");
    ensure!(
        (1..=2).contains(&network.subnets.len()),
        "it has {} subnets",
        network.subnets.len()
    );
    ensure!(
        network.subnets.len() < 2 || network.subnets[0].is_v4() != network.subnets[1].is_v4(),
        "its subnets are of one family"
    );
    for subnet in &network.subnets {
        let prefix: IpNet = subnet.prefix;
        crate::ipam::parse_cidr(&prefix.to_string())?;
        if let Some(gateway) = subnet.gateway {
            ensure!(
                prefix.contains(&gateway),
                "its gateway {gateway} is not in {prefix}"
            );
        }
        if let Some(range) = subnet.range {
            ensure!(
                prefix.contains(&range),
                "its range {range} is not in {prefix}"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network() -> Network {
        Network {
            id: "a1".into(),
            vni: 4097,
            port: 4789,
            subnets: vec![Subnet {
                prefix: "10.0.1.0/24".parse().unwrap(),
                gateway: Some("10.0.1.1".parse().unwrap()),
                range: None,
            }],
            mtu: None,
            policy: Policy::default(),
            labels: BTreeMap::new(),
            created: 7,
        }
    }

    #[test]
    fn keys_read_back() {
        for key in [
            Key::Node("a.b-c".into()),
            Key::Network("blue".into()),
            Key::Vni(4097),
            Key::Endpoint {
                network: "blue".into(),
                address: "fd00::2".parse().unwrap(),
            },
            Key::Catalogue,
        ] {
            assert_eq!(Key::parse(&key.to_string()).unwrap(), key);
        }
        for text in [
            "/netpath/v1/nodes/",
            "/netpath/v1/nodes/a/b",
            "/netpath/v1/nodes/..",
            "/netpath/v1/vnis/04097",
            "/netpath/v1/endpoints/blue/FD00::2",
            "/netpath/v1/endpoints/blue/10.0.0",
            "/netpath/v2/catalogue",
            "",
        ] {
            assert!(Key::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn values_read_back_and_nonsense_is_named() {
        let key = Key::Network("blue".into());
        let bytes = encode(&network()).unwrap();
        assert_eq!(decode(&key, &bytes).unwrap(), Value::Network(network()));
        let broken = [
            Network {
                vni: 0,
                ..network()
            },
            Network {
                vni: MAX_VNI + 1,
                ..network()
            },
            Network {
                subnets: vec![],
                ..network()
            },
            Network {
                subnets: vec![network().subnets[0], network().subnets[0]],
                ..network()
            },
            Network {
                subnets: vec![Subnet {
                    prefix: "10.0.1.7/24".parse().unwrap(),
                    gateway: None,
                    range: None,
                }],
                ..network()
            },
            Network {
                port: 0,
                ..network()
            },
        ];
        for network in broken {
            assert!(
                decode(&key, &encode(&network).unwrap()).is_err(),
                "{network:?}"
            );
        }
        let node = Key::Node("a".into());
        for text in [
            r#"{"id":"1","address":"127.0.0.1"}"#,
            r#"{"id":"1","address":"224.0.0.1"}"#,
            r#"{"id":"1","address":"192.0.2"}"#,
            "{}",
            "",
        ] {
            assert!(decode(&node, text.as_bytes()).is_err(), "{text}");
        }
    }

    proptest! {
        /// Whatever lies in the store, reading it is an answer.
        #[test]
        fn anything_is_read_without_a_panic(
            key in "(/netpath/v1/)?(nodes|networks|vnis|endpoints|catalogue)?[ -~]{0,20}",
            value in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            if let Ok(key) = Key::parse(&key) {
                let _ = decode(&key, &value);
            }
        }

        #[test]
        fn macs_read_back(bytes in any::<[u8; 6]>()) {
            prop_assert_eq!(Mac(bytes).to_string().parse::<Mac>().unwrap(), Mac(bytes));
        }
    }
}
