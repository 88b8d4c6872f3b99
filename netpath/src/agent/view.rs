//! Records as the API shows them.

use std::sync::{Arc, PoisonError};

use anyhow::Result;
use ipnet::IpNet;
use netpath_common::underlay::is_stacked;

use super::gateway::{Gateways, network_of};
use super::network::PREDEFINED;
use super::{Agent, timeouts};
use crate::api::types::{
    Connection, Container, Member, Network, OpenedAt, Overlay, Status, SubnetView, UplinkStatus,
};
use crate::publish::Opened;
use crate::store::{ContainerRecord, EndpointRecord, NetworkRecord, Origin, State};

impl Agent {
    /// How the agent is.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn status(&self) -> Result<Status> {
        let containers = self.store.containers()?;
        let exited = containers
            .iter()
            .filter(|container| container.is_exited())
            .count();
        // What is in force, whatever was asked for.
        let (config, max_flows) =
            self.with_datapath(|datapath| Ok((datapath.config()?, datapath.flow_capacity()?)))?;
        let uplinks = self.uplinks.lock().unwrap_or_else(PoisonError::into_inner);
        let settings = &self.settings;
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime: self.started.elapsed().as_secs(),
            uplinks: uplinks
                .iter()
                .map(|(name, uplink)| {
                    let gate = uplink.map(|_| self.gate(name)).unwrap_or_default();
                    UplinkStatus {
                        name: name.clone(),
                        ifindex: uplink.map(|uplink| uplink.ifindex),
                        addr4: uplink.and_then(|uplink| uplink.addr4),
                        addr6: uplink.and_then(|uplink| uplink.addr6),
                        xdp: gate.place,
                        xdp_problem: gate.problem,
                    }
                })
                .collect(),
            networks: self.store.networks()?.len(),
            running: containers.len() - exited,
            exited,
            snat_ports: (config.snat_port_min, config.snat_port_max),
            max_flows,
            max_flows_per_container: config.max_flows_per_endpoint,
            timeouts: timeouts::by_name(&config.timeouts),
            run_dir: settings.run_dir.clone(),
            state_dir: settings.state_dir.clone(),
            bpffs: settings.bpffs.clone(),
            docker_plugin: settings.docker_plugin.clone(),
            adopted: self.adopted()?,
            cluster: self.cluster.as_ref().map(|cluster| cluster.status()),
        })
    }

    /// All networks.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn list_networks(&self) -> Result<Vec<Network>> {
        let containers = self.store.containers()?;
        let records = self.store.networks()?;
        let mut networks: Vec<Network> = records
            .iter()
            .map(|record| view_network(record, &containers))
            .collect();
        for (name, driver) in PREDEFINED {
            networks.push(self.view_predefined(name, driver)?);
        }
        networks.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(networks)
    }

    /// One network, by its id, its name or the beginning of its id.
    ///
    /// # Errors
    /// There is none.
    pub fn show_network(&self, word: &str) -> Result<Network> {
        let name = self.network_name(word)?;
        match PREDEFINED.iter().find(|(other, _)| *other == name) {
            Some((name, driver)) => self.view_predefined(name, driver),
            None => self.view_network(&self.store.network(&name)?),
        }
    }

    fn view_predefined(&self, name: &str, driver: &str) -> Result<Network> {
        Ok(Network {
            name: name.into(),
            id: self.predefined_id(name)?,
            scope: "local".into(),
            driver: driver.into(),
            ..Network::default()
        })
    }

    pub(super) fn view_network(&self, record: &NetworkRecord) -> Result<Network> {
        Ok(view_network(record, &self.store.containers()?))
    }

    /// All containers that have a network, or all that there are.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn list_containers(&self, all: bool) -> Result<Vec<Container>> {
        let networks = self.store.networks()?;
        let containers = self.store.containers()?;
        Ok(containers
            .iter()
            .filter(|container| all || !container.is_exited())
            .map(|container| self.view_container(container, &networks))
            .collect())
    }

    pub(super) fn view_container(
        &self,
        record: &ContainerRecord,
        networks: &[NetworkRecord],
    ) -> Container {
        let command = record.command.as_ref();
        let (process, exit_code, ended) = match &record.state {
            State::Running { process, .. } => (Some(process), None, None),
            State::Exited { code, at, .. } => (None, *code, Some(*at)),
            State::Creating | State::Created => (None, None, None),
        };
        Container {
            name: record.name.clone(),
            id: record.uid.clone(),
            state: state_name(record).into(),
            mode: record.mode.word().unwrap_or_else(|| "networks".into()),
            networks: connections(record, networks),
            ports: record.ports().copied().collect(),
            opened: record.endpoints.iter().flat_map(opened).collect(),
            command: command
                .map(|command| command.argv.clone())
                .unwrap_or_default(),
            hostname: command.map(|command| command.hostname.clone()),
            pid: process.map(|process| process.pid),
            start_time: process.map(|process| process.start_time),
            exit_code,
            netns: self.netns_file(record),
            netns_id: match &record.origin {
                Origin::Own | Origin::Docker { .. } => None,
                Origin::Attached { dev, ino, .. } => Some((*dev, *ino)),
            },
            docker: match &record.origin {
                Origin::Docker { endpoint, .. } => Some(endpoint.as_str().into()),
                Origin::Own | Origin::Attached { .. } => None,
            },
            log: command
                .filter(|command| command.detached)
                .map(|_| self.files_path(&record.name).join("log")),
            created: record.created,
            ended,
        }
    }
}

/// The interfaces of a container; of one that has ended, the names of its networks.
fn connections(record: &ContainerRecord, networks: &[NetworkRecord]) -> Vec<Connection> {
    if record.is_exited() {
        let named = |network| Connection {
            network,
            ..Connection::default()
        };
        return record.network_names().into_iter().map(named).collect();
    }
    let gateways = Gateways::choose(&record.endpoints, networks);
    let shown = (0..).zip(&record.endpoints).map(|(place, endpoint)| {
        let network = network_of(endpoint, networks);
        let subnet = |v4| network.and_then(|network| network.subnet(v4));
        let addresses = endpoint.addresses().filter_map(|address| {
            let prefix = subnet(address.is_ipv4())?.prefix;
            IpNet::new(address, prefix.prefix_len()).ok()
        });
        let leads = |v4: &bool| gateways.of(*v4) == Some(place);
        let default_gateways = [true, false].into_iter().filter(leads);
        let internal = network.is_some_and(|network| network.policy.internal);
        let has = |v4: &bool| !internal && endpoint.addresses().any(|ip| ip.is_ipv4() == *v4);
        Connection {
            network: endpoint.network.clone(),
            network_id: network.map(|n| n.uid.clone()).unwrap_or_default(),
            endpoint: network.map_or_else(String::new, |n| endpoint_id(&record.uid, &n.uid)),
            gateways: [true, false]
                .into_iter()
                .filter(has)
                .filter_map(|v4| subnet(v4)?.gateway)
                .collect(),
            interface: endpoint.interface.clone(),
            addresses: addresses.map(|address| address.to_string()).collect(),
            mac: Some(show_mac(endpoint.mac)),
            // In some networks it is inside.
            device: Some(endpoint.device.clone()).filter(|_| !is_stacked(endpoint.ifindex)),
            default_gateways: default_gateways
                .filter_map(|v4| subnet(v4)?.gateway)
                .collect(),
            aliases: endpoint.aliases.clone(),
            gw_priority: endpoint.gw_priority,
            options: endpoint.options.clone(),
        }
    });
    shown.collect()
}

/// The ports that are published at an interface's own addresses.
fn opened(endpoint: &EndpointRecord) -> Vec<OpenedAt> {
    let at = |port: &Opened| {
        let ip = endpoint.addresses().find(|ip| ip.is_ipv4() == port.v4)?;
        Some(OpenedAt { ip, port: *port })
    };
    endpoint.opened.iter().filter_map(at).collect()
}

/// Why a container has no interface.
pub(super) fn without_network(record: &ContainerRecord) -> String {
    let name = &record.name;
    if record.is_exited() {
        return format!("container {name} has no network, it has ended");
    }
    match record.mode.word() {
        Some(word) => format!("container {name} has no network of its own, but --network {word}"),
        None => format!("container {name} is in no network at the moment"),
    }
}

fn view_network(record: &NetworkRecord, containers: &[Arc<ContainerRecord>]) -> Network {
    let members: Vec<Member> = containers
        .iter()
        .filter_map(|container| {
            let endpoint = container.endpoint_in(&record.name)?;
            let (id, endpoint_id) = match &container.origin {
                // Docker has ids of its own, and tells that of the endpoint only.
                Origin::Docker { endpoint, .. } => (endpoint.clone(), endpoint.clone()),
                Origin::Own | Origin::Attached { .. } => (
                    container.uid.clone(),
                    endpoint_id(&container.uid, &record.uid),
                ),
            };
            Some(Member {
                container: container.name.clone(),
                id,
                endpoint: endpoint_id,
                mac: show_mac(endpoint.mac),
                addresses: with_lengths(record, endpoint),
            })
        })
        .collect();
    Network {
        name: record.name.clone(),
        id: record.uid.clone(),
        number: record.id,
        driver: record.driver.name().into(),
        scope: match record.cluster {
            Some(_) => "global".into(),
            None => "local".into(),
        },
        subnets: record
            .subnets
            .iter()
            .map(|subnet| subnet.prefix.to_string())
            .collect(),
        gateways: record
            .subnets
            .iter()
            .filter_map(|subnet| subnet.gateway)
            .collect(),
        addresses: record
            .subnets
            .iter()
            .map(|subnet| SubnetView {
                subnet: subnet.prefix.to_string(),
                range: subnet.range.map(|range| range.to_string()),
                gateway: subnet.gateway,
                aside: record
                    .aside
                    .iter()
                    .filter(|(_, address)| subnet.prefix.contains(*address))
                    .map(|(name, address)| (name.clone(), *address))
                    .collect(),
            })
            .collect(),
        mtu: record.mtu,
        device: record.device.clone(),
        mac: show_mac(record.mac),
        policy: record.policy.clone(),
        options: record.options.clone(),
        labels: record.labels.clone(),
        attachable: record.attachable,
        created: record.created,
        containers: members.iter().map(|m| m.container.clone()).collect(),
        members,
        docker: record
            .docker
            .as_ref()
            .map(|docker| docker.id.as_str().into()),
        overlay: record.overlay.as_ref().map(|overlay| Overlay {
            vni: overlay.vni,
            port: overlay.port,
        }),
    }
}

/// The id of a container's interface in a network: both ids, digit by digit. Two interfaces never
/// have the same, and it stays the same for the interface's life without being kept anywhere.
fn endpoint_id(container: &str, network: &str) -> String {
    let digits = |text: &str| -> Vec<u32> { text.chars().filter_map(|c| c.to_digit(16)).collect() };
    let both = digits(container).into_iter().zip(digits(network));
    both.filter_map(|(a, b)| char::from_digit(a ^ b, 16))
        .collect()
}

/// The addresses of an endpoint with the prefix lengths of their subnets.
fn with_lengths(network: &NetworkRecord, endpoint: &EndpointRecord) -> Vec<String> {
    endpoint
        .addresses()
        .filter_map(|address| {
            let subnet = network.subnet(address.is_ipv4())?;
            IpNet::new(address, subnet.prefix.prefix_len()).ok()
        })
        .map(|address| address.to_string())
        .collect()
}

/// The state of a container in one word.
pub(super) fn state_name(record: &ContainerRecord) -> &'static str {
    match record.state {
        _ if matches!(record.origin, Origin::Docker { .. }) => "docker",
        State::Creating | State::Created if record.is_own() => "created",
        State::Creating | State::Created => "attached",
        State::Running { .. } => "running",
        State::Exited { .. } => "exited",
    }
}

pub(super) fn show_mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
