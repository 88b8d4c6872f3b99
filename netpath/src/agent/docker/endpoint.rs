//! Docker's endpoints: interfaces that Docker puts into its containers, and their ports.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::super::ports::{bindings, open_port_specs, port_specs};
use super::super::view::show_mac;
use super::super::{Agent, Held, now};
use crate::container::names;
use crate::datapath::{OpenPortSpec, PortSpec};
use crate::docker::ports;
use crate::docker::wire::{Endpoint, check_id, short};
use crate::netlink::{NewVeth, netns};
use crate::problem::{conflict, invalid};
use crate::store::{ContainerRecord, EndpointRecord, NetworkRecord, Origin, State};

/// What came of an endpoint that Docker asked for.
#[derive(Clone, Debug)]
pub struct CreatedEndpoint {
    /// MAC address, if Docker has to be told.
    pub mac: Option<String>,
    /// The host's end of its interface, which tells it from another one of the same number.
    pub device: String,
}

/// An interface as Docker asks for it.
struct Wanted {
    addr4: Option<Ipv4Addr>,
    addr6: Option<Ipv6Addr>,
    mac: [u8; 6],
    /// Docker does not know the MAC address yet.
    tell_mac: bool,
}

impl Wanted {
    fn new(new: &Endpoint) -> Result<Self> {
        check_id("endpoint", &new.endpoint)?;
        let mut wanted = Self {
            addr4: None,
            addr6: None,
            mac: [0; 6],
            tell_mac: false,
        };
        for (v4, text) in [
            (true, &new.interface.address),
            (false, &new.interface.address6),
        ] {
            if text.is_empty() {
                continue;
            }
            match text.parse::<IpNet>().map(|net| net.addr()) {
                Ok(IpAddr::V4(address)) if v4 => wanted.addr4 = Some(address),
                Ok(IpAddr::V6(address)) if !v4 => wanted.addr6 = Some(address),
                _ => {
                    let family = if v4 { "IPv4" } else { "IPv6" };
                    return Err(invalid(format!(
                        "\"{}\" is no {family} address with a prefix length",
                        text.escape_debug()
                    )));
                }
            }
        }
        (wanted.mac, wanted.tell_mac) = match new.mac()? {
            Some(known) => known,
            None => (names::random_mac()?, true),
        };
        Ok(wanted)
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.addr4.map(IpAddr::V4).into_iter();
        v4.chain(self.addr6.map(IpAddr::V6))
    }

    /// Checks it against its network.
    fn check(&self, network: &NetworkRecord) -> Result<()> {
        if self.addresses().next().is_none() {
            return Err(invalid(
                "an interface without an address cannot be, use Docker's default IPAM driver",
            ));
        }
        for address in self.addresses() {
            let subnet = network.subnet(address.is_ipv4());
            if subnet.is_none_or(|subnet| !subnet.prefix.contains(&address)) {
                return Err(invalid(format!(
                    "address {address} is in no subnet of network {}",
                    network.name
                )));
            }
            if subnet.is_some_and(|subnet| subnet.gateway == Some(address)) {
                return Err(invalid(format!(
                    "address {address} is that of the gateway of network {}",
                    network.name
                )));
            }
        }
        Ok(())
    }
}

impl Agent {
    /// The containers that have an interface in a network.
    pub(super) fn containers_of(&self, network: &str) -> Result<Vec<ContainerRecord>> {
        let containers = self.store.containers()?;
        let connected = containers
            .iter()
            .filter(|c| c.endpoint_in(network).is_some());
        Ok(connected.map(|container| (**container).clone()).collect())
    }

    /// Makes an interface for Docker: a veth pair whose other end Docker takes after
    /// [`Agent::docker_join`].
    ///
    /// # Errors
    /// A sentence; nothing is left of it.
    pub async fn docker_create_endpoint(&self, new: &Endpoint) -> Result<CreatedEndpoint> {
        let wanted = Wanted::new(new)?;
        let mut held = self.held.lock().await;
        let network = self.docker_network(&new.network)?;
        wanted.check(&network)?;
        self.make_room(&mut held, new, &network, &wanted).await?;
        let name = short(&new.endpoint);
        if self.store.find_container(name)?.is_some() {
            return Err(conflict(format!(
                "a container named {name} exists already, start this one again"
            )));
        }
        let device = self.new_device()?;
        // The name tells it from the host's ends, which are removed when nobody knows them.
        let peer = format!("npc{}", device.trim_start_matches("npv"));
        let mut record = ContainerRecord {
            created: now(),
            endpoints: vec![EndpointRecord {
                network: network.name.clone(),
                network_id: network.id,
                ready: true,
                device: device.clone(),
                mac: wanted.mac,
                addr4: wanted.addr4,
                addr6: wanted.addr6,
                ..EndpointRecord::default()
            }],
            ..ContainerRecord::new(
                name,
                Origin::Docker {
                    endpoint: new.endpoint.clone(),
                    peer,
                    sandbox: None,
                    daemon: 0,
                },
            )
        };
        self.store.put_container(&record)?;
        if let Err(error) = self.make_docker_endpoint(&network, &mut record).await {
            if let Err(second) = self.drop_container(&mut held, &record).await {
                log::error!("cannot clean up after endpoint {name}: {second:#}");
            }
            return Err(error);
        }
        self.announce_change();
        Ok(CreatedEndpoint {
            mac: wanted.tell_mac.then(|| show_mac(wanted.mac)),
            device,
        })
    }

    async fn make_docker_endpoint(
        &self,
        network: &NetworkRecord,
        record: &mut ContainerRecord,
    ) -> Result<()> {
        let endpoint = record.endpoints.first_mut();
        let (Origin::Docker { peer, .. }, Some(endpoint)) = (&record.origin, endpoint) else {
            return Ok(());
        };
        let here = File::open("/proc/self/ns/net").context("cannot open the host's namespace")?;
        self.netlink
            .add_veth(&NewVeth {
                name: &endpoint.device,
                peer_netns: netns::borrow(&here),
                peer_name: peer,
                peer_mac: endpoint.mac,
                mtu: network.mtu,
                local_mtu: network.local_mtu,
            })
            .await?;
        let alias = format!("netpath endpoint {} of Docker", record.name);
        endpoint.ifindex = self.prepare_host_end(&endpoint.device, &alias).await?;
        // Docker takes the other end at any moment from now on.
        self.add_to_datapath(network, endpoint, None)?;
        record.state = State::Created;
        self.store.put_container(record)
    }

    /// Removes what is in the way of an endpoint, which Docker has forgotten.
    async fn make_room(
        &self,
        held: &mut Held,
        new: &Endpoint,
        network: &NetworkRecord,
        wanted: &Wanted,
    ) -> Result<()> {
        if let Some(earlier) = self.find_docker_endpoint(&new.endpoint)? {
            // The answer was lost, and Docker asks again.
            self.drop_container(held, &earlier).await?;
        }
        for other in self.containers_of(&network.name)? {
            let same: Vec<IpAddr> = other
                .addresses()
                .filter(|address| wanted.addresses().any(|wanted| wanted == *address))
                .collect();
            if let Some(address) = same.first() {
                log::warn!(
                    "Docker gives {address} to endpoint {}: it has forgotten {}, which goes",
                    short(&new.endpoint),
                    other.name
                );
                self.drop_container(held, &other).await?;
            }
        }
        Ok(())
    }

    /// Removes endpoints of Docker's whose namespaces are gone, and their interfaces with them.
    pub(super) async fn remove_gone_endpoints(&self, held: &mut Held) -> Result<()> {
        let links = self.netlink.links().await?;
        for record in self.store.containers()? {
            let Some(endpoint) = record.endpoints.first() else {
                continue;
            };
            let is_there = links.iter().any(|link| link.index == endpoint.ifindex);
            if matches!(record.origin, Origin::Docker { .. }) && !is_there {
                log::info!("the interface of {} is gone, and so is it", record.name);
                self.drop_container(held, &record).await?;
            }
        }
        Ok(())
    }

    /// Tells Docker how to connect a container: the answer's body. `docker` is the number of the
    /// daemon's process.
    ///
    /// # Errors
    /// There is no such endpoint.
    pub async fn docker_join(&self, of: &Endpoint, docker: Option<u32>) -> Result<Value> {
        let _held = self.held.lock().await;
        let network = self.docker_network(&of.network)?;
        let mut record = self.docker_endpoint(&of.endpoint)?;
        if let Origin::Docker {
            sandbox, daemon, ..
        } = &mut record.origin
        {
            *sandbox = (!of.sandbox_key.is_empty()).then(|| of.sandbox_key.clone());
            *daemon = docker.unwrap_or(0);
        }
        self.store.put_container(&record)?;
        if let Some(endpoint) = record.endpoints.first() {
            self.announce(endpoint);
        }
        log::info!("Docker joins {} to network {}", record.name, network.name);
        Ok(join_answer(&network, &record))
    }

    /// Publishes the ports of an endpoint by which its container is reached from outside. What
    /// was published before is replaced.
    ///
    /// # Errors
    /// A sentence about the first port that cannot be had; none is published then.
    pub async fn docker_program(&self, of: &Endpoint) -> Result<()> {
        let mappings = ports::mappings(&of.port_map()?)?;
        let mut held = self.held.lock().await;
        let network = self.docker_network(&of.network)?;
        let mut record = self.docker_endpoint(&of.endpoint)?;
        self.free_ports(&mut held, &network, &mut record)?;
        // Their ports are free, if Docker forgot them.
        self.remove_gone_endpoints(&mut held).await?;
        let reserved = self.reserve_ports(&mut held, &record, &network.policy, &mappings)?;
        let Some(endpoint) = record.endpoints.first_mut() else {
            return Ok(());
        };
        (endpoint.opened, endpoint.ports) =
            (reserved.opened, bindings(&reserved.reservations).collect());
        held.reservations
            .insert(record.name.clone(), reserved.reservations);
        let ports: Vec<PortSpec> = port_specs(endpoint).collect();
        let open: Vec<OpenPortSpec> = open_port_specs(&network, endpoint).collect();
        let published = self.store.put_container(&record).and_then(|()| {
            self.with_datapath(|datapath| {
                datapath.publish(&ports)?;
                open.iter().try_for_each(|port| datapath.open_port(port))
            })
        });
        if let Err(error) = published {
            if let Err(second) = self.free_ports(&mut held, &network, &mut record) {
                log::error!("cannot take back the ports of {}: {second:#}", record.name);
            }
            return Err(error);
        }
        self.announce_change();
        Ok(())
    }

    /// Takes the published ports of an endpoint back. What is not there is fine.
    ///
    /// # Errors
    /// The kernel's, or the store's.
    pub async fn docker_revoke(&self, of: &Endpoint) -> Result<()> {
        let mut held = self.held.lock().await;
        let Some(mut record) = self.find_docker_endpoint(&of.endpoint)? else {
            return Ok(());
        };
        let Some(endpoint) = record.endpoints.first() else {
            return Ok(());
        };
        let network = self.store.network(&endpoint.network)?;
        self.free_ports(&mut held, &network, &mut record)
    }

    fn free_ports(
        &self,
        held: &mut Held,
        network: &NetworkRecord,
        record: &mut ContainerRecord,
    ) -> Result<()> {
        let Some(endpoint) = record.endpoints.first_mut() else {
            return Ok(());
        };
        held.reservations.remove(&record.name);
        if endpoint.ports.is_empty() && endpoint.opened.is_empty() {
            return Ok(());
        }
        let ports: Vec<PortSpec> = port_specs(endpoint).collect();
        let open: Vec<OpenPortSpec> = open_port_specs(network, endpoint).collect();
        endpoint.ports.clear();
        endpoint.opened.clear();
        self.with_datapath(|datapath| {
            datapath.unpublish(&ports)?;
            open.iter().try_for_each(|port| datapath.close_port(port))
        })?;
        self.store.put_container(record)?;
        self.announce_change();
        Ok(())
    }

    /// Removes an endpoint of Docker's. One that is not there is fine.
    ///
    /// # Errors
    /// The kernel's, or the store's.
    pub async fn docker_delete_endpoint(&self, of: &Endpoint) -> Result<()> {
        let mut held = self.held.lock().await;
        match self.find_docker_endpoint(&of.endpoint)? {
            Some(record) => self.drop_container(&mut held, &record).await,
            None => Ok(()),
        }
    }

    /// Removes an endpoint that was made too late, unless Docker has asked for it again and has
    /// another by now.
    ///
    /// # Errors
    /// The kernel's, or the store's.
    pub async fn docker_abandon(&self, of: &Endpoint, device: &str) -> Result<()> {
        let mut held = self.held.lock().await;
        match self.find_docker_endpoint(&of.endpoint)? {
            Some(record) if record.endpoints.iter().any(|e| e.device == device) => {
                self.drop_container(&mut held, &record).await
            }
            _ => Ok(()),
        }
    }
}

/// Docker connects a container that has no way out by a bridge of its own (docker_gwbridge), so
/// every network names its gateway, but those that are to have no way out.
fn join_answer(network: &NetworkRecord, record: &ContainerRecord) -> Value {
    let (Origin::Docker { peer, .. }, Some(docker)) = (&record.origin, &network.docker) else {
        return Value::Object(Map::new());
    };
    let mut answer = Map::new();
    answer.insert(
        "InterfaceName".into(),
        json!({ "SrcName": peer, "DstPrefix": docker.prefix }),
    );
    let mut leads_out_v4 = false;
    if !network.policy.internal {
        for address in record.addresses() {
            let v4 = address.is_ipv4();
            let Some(gateway) = network.subnet(v4).and_then(|subnet| subnet.gateway) else {
                continue;
            };
            leads_out_v4 |= v4;
            let key = if v4 { "Gateway" } else { "GatewayIPv6" };
            answer.insert(key.into(), json!(gateway));
        }
    }
    if !leads_out_v4 {
        // Docker before 28 looks at IPv4 only.
        answer.insert("DisableGatewayService".into(), json!(true));
    }
    Value::Object(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::DockerNetwork;

    fn network(internal: bool, v6: bool) -> NetworkRecord {
        let mut json = serde_json::json!({
            "name": "n", "id": 1, "mtu": 1500, "local_mtu": 65520, "device": "np-br1",
            "ifindex": 3, "mac": [2, 0, 0, 0, 0, 1], "created": 0, "ready": true,
            "subnets": [{"prefix": "10.1.0.0/16", "gateway": "10.1.0.1"}],
            "policy": {"internal": internal},
        });
        if v6 {
            json["subnets"] = serde_json::json!([{"prefix": "fd01::/64", "gateway": "fd01::1"}]);
        }
        let mut network: NetworkRecord = serde_json::from_value(json).unwrap();
        network.docker = Some(DockerNetwork {
            id: "ab".into(),
            prefix: "eth".into(),
        });
        network
    }

    fn record(v6: bool) -> ContainerRecord {
        let origin = Origin::Docker {
            endpoint: "cd".into(),
            peer: "npc1".into(),
            sandbox: None,
            daemon: 0,
        };
        ContainerRecord {
            endpoints: vec![EndpointRecord {
                addr4: (!v6).then_some(Ipv4Addr::new(10, 1, 0, 2)),
                addr6: v6.then(|| "fd01::2".parse().unwrap()),
                ..EndpointRecord::default()
            }],
            ..ContainerRecord::new("cd", origin)
        }
    }

    #[test]
    fn the_answer_names_the_gateway_unless_the_network_is_internal() {
        let name = json!({ "SrcName": "npc1", "DstPrefix": "eth" });
        assert_eq!(
            join_answer(&network(false, false), &record(false)),
            json!({ "InterfaceName": name, "Gateway": "10.1.0.1" })
        );
        let closed = json!({ "InterfaceName": name, "DisableGatewayService": true });
        assert_eq!(join_answer(&network(true, false), &record(false)), closed);
        assert_eq!(
            join_answer(&network(false, true), &record(true)),
            json!({ "InterfaceName": name, "GatewayIPv6": "fd01::1",
                    "DisableGatewayService": true })
        );
    }

    #[test]
    fn addresses_are_checked() {
        let read = |json: &str| Wanted::new(&serde_json::from_str(json).unwrap());
        let of = |address: &str| {
            read(&format!(
                r#"{{"EndpointID":"ab","Interface":{{"Address":"{address}"}}}}"#
            ))
        };
        let network = network(false, false);
        assert!(of("10.1.0.2/16").unwrap().check(&network).is_ok());
        for (address, part) in [
            ("10.2.0.2/16", "in no subnet"),
            ("10.1.0.1/16", "of the gateway"),
        ] {
            let error = of(address).unwrap().check(&network).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
        for address in ["10.1.0.2", "fd01::2/64", "x"] {
            assert!(of(address).is_err(), "{address}");
        }
        let none = read(r#"{"EndpointID":"ab"}"#).unwrap();
        assert!(none.tell_mac && none.check(&network).is_err());
        assert!(read(r#"{"EndpointID":"../x"}"#).is_err());
    }
}
