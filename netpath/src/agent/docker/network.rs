//! Docker's networks.

use std::net::IpAddr;

use anyhow::Result;
use ipnet::IpNet;

use super::super::{Agent, Held};
use crate::api::types;
use crate::docker::wire::{CreateNetwork, Endpoint, IpamData, check_id, short};
use crate::ipam::{overlaps, parse_cidr};
use crate::policy::{self, Policy};
use crate::problem::{conflict, invalid};
use crate::store::DockerNetwork;

/// The kernel's names of devices have 15 bytes; Docker adds a number.
const LONGEST_PREFIX: usize = 12;

/// A network as Docker asks for it.
struct Wanted {
    request: types::CreateNetwork,
    docker: DockerNetwork,
    prefixes: Vec<IpNet>,
}

impl Wanted {
    fn new(new: &CreateNetwork) -> Result<Self> {
        check_id("network", &new.network)?;
        let internal = new.internal()?;
        let (options, prefix) = new.user_options()?;
        let policy = policy::parse(internal, &options)?.policy;
        let mut prefixes = Vec::new();
        let mut gateways = Vec::new();
        for (family, subnets) in [("IPv4", &new.ipv4), ("IPv6", &new.ipv6)] {
            let [subnet] = subnets.as_slice() else {
                if subnets.is_empty() {
                    continue;
                }
                return Err(invalid(format!(
                    "a network of netpath has one {family} subnet, {} are asked for",
                    subnets.len()
                )));
            };
            let (prefix, gateway) = read_subnet(subnet)?;
            prefixes.push(prefix);
            // Docker before 28 reserves a gateway that an isolated network does not have.
            if !policy.is_isolated(prefix.addr().is_ipv4()) {
                gateways.push(gateway.ok_or_else(|| {
                    invalid(format!(
                        "subnet {prefix} has no gateway, name one with --gateway or use Docker's \
                         default IPAM driver"
                    ))
                })?);
            }
        }
        if prefixes.is_empty() {
            return Err(invalid(
                "the network has no subnet, use Docker's default IPAM driver",
            ));
        }
        let prefix = prefix.unwrap_or_else(|| "eth".into());
        check_prefix(&prefix)?;
        Ok(Self {
            request: types::CreateNetwork {
                name: short(&new.network).to_owned(),
                subnets: prefixes.iter().map(ToString::to_string).collect(),
                gateways,
                internal,
                options,
                ..types::CreateNetwork::default()
            },
            docker: DockerNetwork {
                id: new.network.clone(),
                prefix,
            },
            prefixes,
        })
    }
}

fn read_subnet(subnet: &IpamData) -> Result<(IpNet, Option<IpAddr>)> {
    if matches!(subnet.pool.as_str(), "" | "0.0.0.0/0" | "::/0") {
        return Err(invalid(
            "the network has no subnet of its own, use Docker's default IPAM driver",
        ));
    }
    let prefix = parse_cidr(&subnet.pool)?;
    let text = subnet.gateway.split('/').next().unwrap_or_default();
    if text.is_empty() {
        return Ok((prefix, None));
    }
    let gateway = text
        .parse()
        .map_err(|_| invalid(format!("gateway \"{}\" is no address", text.escape_debug())))?;
    Ok((prefix, Some(gateway)))
}

/// What interfaces may be called (the kernel's dev_valid_name).
fn check_prefix(prefix: &str) -> Result<()> {
    let legal = |c: char| !(c == '/' || c == ':' || c.is_whitespace() || c.is_control());
    if (1..=LONGEST_PREFIX).contains(&prefix.len()) && prefix.chars().all(legal) {
        return Ok(());
    }
    Err(invalid(format!(
        "interfaces cannot be called \"{}\" and a number, use up to {LONGEST_PREFIX} letters for \
         container_iface_prefix",
        prefix.escape_debug()
    )))
}

impl Agent {
    /// Whether a network that Docker is going to ask for needs an address for its gateway, in
    /// IPv4 and in IPv6.
    ///
    /// # Errors
    /// Its options make no sense.
    pub fn docker_gateways(&self, new: &CreateNetwork) -> Result<(bool, bool)> {
        let (options, _) = new.user_options()?;
        let policy: Policy = policy::parse(new.internal()?, &options)?.policy;
        Ok((!policy.is_isolated(true), !policy.is_isolated(false)))
    }

    /// Makes a network for Docker. Asked twice, it is fine.
    ///
    /// # Errors
    /// A sentence; nothing is left of it.
    pub async fn docker_create_network(&self, new: &CreateNetwork) -> Result<()> {
        let mut wanted = Wanted::new(new)?;
        let mut held = self.held.lock().await;
        if let Some(there) = self.find_docker_network(&wanted.docker.id)? {
            let same = there.subnets.len() == wanted.prefixes.len()
                && (there.subnets.iter()).all(|subnet| wanted.prefixes.contains(&subnet.prefix));
            if same && there.ready {
                return Ok(());
            }
            return Err(conflict(format!(
                "network {} is there already, with other subnets",
                there.name
            )));
        }
        self.remove_forgotten_networks(&mut held, &wanted.prefixes)
            .await?;
        let name = &mut wanted.request.name;
        if self
            .store
            .networks()?
            .iter()
            .any(|other| other.name == *name)
        {
            // Very unlikely, but numbers and names are both free to choose.
            return Err(conflict(format!(
                "a network named {name} exists already, create this one again"
            )));
        }
        let mut record = self.plan_network(wanted.request).await?;
        record.docker = Some(wanted.docker);
        self.finish_network(&mut held, record).await.map(drop)
    }

    /// Removes networks of Docker's that have no container and an address in common with a
    /// network that Docker wants: it gives no address to two networks, so it has forgotten them.
    async fn remove_forgotten_networks(&self, held: &mut Held, wanted: &[IpNet]) -> Result<()> {
        for network in self.store.networks()? {
            let meets = |subnet: &IpNet| wanted.iter().any(|prefix| overlaps(prefix, subnet));
            if network.docker.is_none()
                || !network.subnets.iter().any(|subnet| meets(&subnet.prefix))
            {
                continue;
            }
            self.remove_gone_endpoints(held).await?;
            if self.containers_of(&network.name)?.is_empty() {
                log::warn!(
                    "Docker has forgotten network {}, it makes room for another",
                    network.name
                );
                self.unmake_network(&network).await?;
            }
        }
        Ok(())
    }

    /// Removes a network of Docker's with what is left in it. One that is not there is fine.
    ///
    /// # Errors
    /// The kernel's, or the store's.
    pub async fn docker_delete_network(&self, of: &Endpoint) -> Result<()> {
        let mut held = self.held.lock().await;
        let Some(network) = self.find_docker_network(&of.network)? else {
            return Ok(());
        };
        for record in self.containers_of(&network.name)? {
            log::warn!("endpoint {} goes with its network", record.name);
            self.drop_container(&mut held, &record).await?;
        }
        self.unmake_network(&network).await?;
        log::info!("network {} is gone", network.name);
        self.look_around(&mut held).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(json: &str) -> Result<Wanted> {
        Wanted::new(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn what_docker_wants_is_what_is_asked_for() {
        let id = "ab".repeat(32);
        let json = format!(
            r#"{{"NetworkID":"{id}","Options":{{"com.docker.network.generic":
            {{"com.docker.network.bridge.enable_icc":"false"}}}},
            "IPv4Data":[{{"Pool":"10.1.0.0/16","Gateway":"10.1.0.1/16"}}],
            "IPv6Data":[{{"Pool":"fd01::/64","Gateway":"fd01::1/64"}}]}}"#
        );
        let wanted = wanted(&json).unwrap();
        assert_eq!(wanted.request.name, "abababababab");
        assert_eq!(wanted.request.subnets, ["10.1.0.0/16", "fd01::/64"]);
        assert_eq!(wanted.request.gateways.len(), 2);
        assert_eq!(wanted.docker.prefix, "eth");
        assert_eq!(wanted.docker.id, id);
    }

    #[test]
    fn refusals_name_what_is_wrong() {
        let v4 = r#""IPv4Data":[{"Pool":"10.1.0.0/16","Gateway":"10.1.0.1/16"}]"#;
        for (rest, part) in [
            (r#""IPv4Data":null"#, "no subnet"),
            (r#""IPv4Data":[{"Pool":"10.1.0.0/16"}]"#, "has no gateway"),
            (
                r#""IPv4Data":[{"Pool":"10.1.0.0/16","Gateway":"x"}]"#,
                "\"x\" is no address",
            ),
            (r#""IPv4Data":[{"Pool":"0.0.0.0/0"}]"#, "default IPAM"),
            (r#""IPv4Data":[{},{}]"#, "2 are asked for"),
            (
                &format!(r#"{v4},"Options":{{"com.docker.network.generic":{{"x":"y"}}}}"#),
                "option x is unknown",
            ),
            (
                &format!(
                    r#"{v4},"Options":{{"com.docker.network.generic":
                    {{"com.docker.network.container_iface_prefix":"a/b"}}}}"#
                ),
                "\"a/b\" and a number",
            ),
            (
                &format!(r#"{v4},"Options":{{"com.docker.network.internal":7}}"#),
                "neither true nor false",
            ),
        ] {
            let refused = wanted(&format!(r#"{{"NetworkID":"ab",{rest}}}"#));
            let error = refused.map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(part), "{rest}: {error}");
        }
    }
}
