//! The published ports of containers: reserved, and at the endpoints that lead out.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Result;

use super::gateway::{Gateways, network_of};
use super::{Agent, Held, blocking};
use crate::datapath::{OpenPortSpec, PortSpec};
use crate::policy::Policy;
use crate::publish::{
    self, Binding, Mapping, Opened, Reservation, Surroundings, WaysOut, reserve_all, reserve_each,
};
use crate::store::{ContainerRecord, EndpointRecord, NetworkRecord};

/// What to do about a port that cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// Whoever asked for it is refused: a new container.
    New,
    /// The same, but a family that the container has not got is no reason: who is connected to
    /// one more network did not ask for ports.
    Refuse,
    /// Nobody asked just now: the container goes on without.
    Warn,
}

/// Published ports that were found for an endpoint.
pub(super) struct Reserved {
    /// Those at its own addresses.
    pub(super) opened: Vec<Opened>,
    /// Those of the host.
    pub(super) reservations: Vec<Reservation>,
}

impl Agent {
    /// Has a container's published ports lead to the endpoints that lead out: reserves what is
    /// missing, gives back what is not wanted any more, and notes in the record where each port
    /// is. The datapath is told by [`Self::publish_all`].
    ///
    /// # Errors
    /// A port cannot be had; nothing has changed then.
    pub(super) fn settle_ports(
        &self,
        held: &mut Held,
        record: &mut ContainerRecord,
        networks: &[NetworkRecord],
        missing: Missing,
    ) -> Result<()> {
        // Between a container and the wire there is nothing that could translate.
        let on_wire = |endpoint: &EndpointRecord| {
            network_of(endpoint, networks).is_some_and(|network| network.sharing.is_some())
        };
        if record.publish.is_empty() || record.endpoints.iter().all(on_wire) {
            return Ok(());
        }
        let mut mappings = Vec::new();
        for text in &record.publish {
            mappings.extend(publish::parse(text)?);
        }
        let gateways = Gateways::choose(&record.endpoints, networks);
        let policy = |v4: bool| {
            let endpoint = record.endpoints.get(gateways.of(v4)?)?;
            let network = network_of(endpoint, networks)?;
            network.sharing.is_none().then_some(&network.policy)
        };
        let ways = WaysOut {
            v4: policy(true),
            v6: policy(false),
        };
        let mut split = publish::split(ways, &mappings);
        if missing != Missing::New {
            // A family that has gone takes its ports along.
            let (v4, v6) = split.families;
            let stays = |ip: IpAddr| if ip.is_ipv4() { v4 } else { v6 };
            split.of_host.retain(|m| m.host_ip.is_none_or(stays));
        }
        let present: Vec<Binding> = record.ports().copied().collect();
        let plan = publish::keep(&split.of_host, split.families, &present);
        let name = record.name.clone();
        let mut own = held.reservations.remove(&name).unwrap_or_default();
        let wanted: HashSet<Binding> = plan.kept.iter().copied().collect();
        // A socket may hold a port of both families, of which one stays.
        own.retain(|reservation| reservation.bindings().any(|b| wanted.contains(&b)));
        let reserved = match self.reserve(held, &name, &plan.missing, split.families, own.len()) {
            Ok(reserved) => reserved,
            Err(error) if missing == Missing::Warn => {
                log::warn!("container {name} goes on without ports: {error:#}");
                Vec::new()
            }
            Err(error) => {
                own.extend(blocking(|| reserve_each(plan.released)));
                if !own.is_empty() {
                    held.reservations.insert(name, own);
                }
                return Err(error);
            }
        };
        let ports: Vec<Binding> = plan.kept.into_iter().chain(bindings(&reserved)).collect();
        own.extend(reserved);
        held.reservations.insert(name, own);
        for (place, endpoint) in record.endpoints.iter_mut().enumerate() {
            let [v4, v6] = gateways.families(place);
            let leads = |port: &&Binding| if port.host_ip.is_ipv4() { v4 } else { v6 };
            endpoint.ports = ports.iter().filter(leads).copied().collect();
            endpoint.opened.clear();
            // Routed networks are reached whether the container answers by them or not.
            if let Some(network) = network_of(endpoint, networks) {
                for address in endpoint.addresses().collect::<Vec<_>>() {
                    let opened = publish::opened(&network.policy, address.is_ipv4(), &mappings);
                    endpoint.opened.extend(opened);
                }
            }
        }
        Ok(())
    }

    /// Reserves mappings for a container, which has `own` sockets beside those in `held`.
    fn reserve(
        &self,
        held: &mut Held,
        name: &str,
        mappings: &[Mapping],
        families: (bool, bool),
        own: usize,
    ) -> Result<Vec<Reservation>> {
        let host: Vec<IpAddr> = held.host_addresses.iter().map(|(ip, _)| *ip).collect();
        let containers = self.store.containers()?;
        let holder = |binding: &Binding| {
            let collides = |container: &&Arc<ContainerRecord>| {
                let mut ports = container.ports();
                container.name != name && ports.any(|port| port.collides(binding))
            };
            containers
                .iter()
                .find(collides)
                .map(|container| container.name.clone())
        };
        let surroundings = Surroundings {
            families,
            host: &host,
            held: held.reservations.values().map(Vec::len).sum::<usize>() + own,
            holder: &holder,
        };
        blocking(|| reserve_all(mappings, &surroundings, &mut held.ephemeral))
    }

    /// Reserves ports for a container that leaves by a network of this policy only.
    pub(super) fn reserve_ports(
        &self,
        held: &mut Held,
        record: &ContainerRecord,
        policy: &Policy,
        mappings: &[Mapping],
    ) -> Result<Reserved> {
        let has = |v4: bool| record.addresses().any(|address| address.is_ipv4() == v4);
        let ways = WaysOut {
            v4: has(true).then_some(policy),
            v6: has(false).then_some(policy),
        };
        let split = publish::split(ways, mappings);
        let opened = |v4: bool| has(v4).then(|| publish::opened(policy, v4, mappings));
        Ok(Reserved {
            reservations: self.reserve(held, &record.name, &split.of_host, split.families, 0)?,
            opened: [true, false]
                .into_iter()
                .filter_map(opened)
                .flatten()
                .collect(),
        })
    }

    /// Tells the datapath of the ports of all of a container's endpoints; those that led
    /// elsewhere lead here now.
    pub(super) fn publish_all(
        &self,
        record: &ContainerRecord,
        networks: &[NetworkRecord],
    ) -> Result<()> {
        let ports: Vec<PortSpec> = record.endpoints.iter().flat_map(port_specs).collect();
        self.with_datapath(|datapath| {
            datapath.publish(&ports)?;
            for endpoint in &record.endpoints {
                if let Some(network) = network_of(endpoint, networks) {
                    for port in open_port_specs(network, endpoint) {
                        datapath.open_port(&port)?;
                    }
                }
            }
            Ok(())
        })
    }

    /// Takes back what of `before` is not in `after`.
    pub(super) fn unpublish_rest(
        &self,
        before: &ContainerRecord,
        after: &ContainerRecord,
        networks: &[NetworkRecord],
    ) -> Result<()> {
        let stays: HashSet<&Binding> = after.ports().collect();
        let gone = before.endpoints.iter().flat_map(|endpoint| {
            let mut endpoint = endpoint.clone();
            endpoint.ports.retain(|port| !stays.contains(port));
            port_specs(&endpoint).collect::<Vec<_>>()
        });
        let gone: Vec<PortSpec> = gone.collect();
        let open = |record: &ContainerRecord| {
            let of = |endpoint| {
                let network = network_of(endpoint, networks);
                let specs = network.map(|network| open_port_specs(network, endpoint));
                specs.into_iter().flatten().collect::<Vec<_>>()
            };
            record.endpoints.iter().flat_map(of).collect::<Vec<_>>()
        };
        let open_after = open(after);
        self.with_datapath(|datapath| {
            datapath.unpublish(&gone)?;
            let mut closed = open(before).into_iter().filter(|p| !open_after.contains(p));
            closed.try_for_each(|port| datapath.close_port(&port))
        })
    }

    /// Reserves the published ports that nobody holds for us: after a start, or because
    /// somebody else had them then.
    pub(super) fn reserve_missing(&self, held: &mut Held) -> Result<()> {
        for container in self.store.containers()? {
            if container.ports().next().is_none() {
                continue;
            }
            let reservations = held.reservations.entry(container.name.clone()).or_default();
            let reserved: HashSet<Binding> = bindings(reservations).collect();
            let missing: Vec<Binding> = container
                .ports()
                .filter(|port| !reserved.contains(port))
                .copied()
                .collect();
            if !missing.is_empty() {
                reservations.extend(reserve_each(missing));
            }
        }
        Ok(())
    }
}

/// All bindings of some reservations.
pub(super) fn bindings(reservations: &[Reservation]) -> impl Iterator<Item = Binding> {
    reservations.iter().flat_map(Reservation::bindings)
}

/// The published ports of an endpoint as the datapath wants them.
pub(super) fn port_specs(endpoint: &EndpointRecord) -> impl Iterator<Item = PortSpec> {
    endpoint.ports.iter().filter_map(|binding: &Binding| {
        let container_ip = if binding.host_ip.is_ipv4() {
            IpAddr::V4(endpoint.addr4?)
        } else {
            IpAddr::V6(endpoint.addr6?)
        };
        Some(PortSpec {
            host_ip: binding.host_ip,
            proto: binding.proto,
            host_port: binding.host_port,
            endpoint_ifindex: endpoint.ifindex,
            container_ip,
            container_port: binding.container_port,
        })
    })
}

/// The ports at which an endpoint is reached by its own addresses, as far as the policy of its
/// network makes use of them.
pub(super) fn open_port_specs(
    network: &NetworkRecord,
    endpoint: &EndpointRecord,
) -> impl Iterator<Item = OpenPortSpec> {
    // What is published at a loopback address is for the host alone.
    let beyond = |binding: &&Binding| !binding.host_ip.is_loopback();
    let published = endpoint.ports.iter().filter(beyond).map(|binding| Opened {
        v4: binding.host_ip.is_ipv4(),
        proto: binding.proto,
        port: binding.container_port,
    });
    let all: HashSet<Opened> = published.chain(endpoint.opened.iter().copied()).collect();
    all.into_iter()
        .filter(|opened| network.policy.needs_open_ports(opened.v4))
        .filter_map(|opened| {
            let addr = if opened.v4 {
                IpAddr::V4(endpoint.addr4?)
            } else {
                IpAddr::V6(endpoint.addr6?)
            };
            Some(OpenPortSpec {
                endpoint_ifindex: endpoint.ifindex,
                network: endpoint.network_id,
                addr,
                proto: opened.proto,
                port: opened.port,
            })
        })
}
