//! What is left to do when Docker has put an interface into a container.
//!
//! * Which interfaces are one container's is told by the namespace that they are in: packets may
//!   leave by one with the address of another ([`netpath_common::container::sibling`]).
//! * Neighbours of a network exchange packets of up to 64 KB where the route to their subnet says so
//!   (see [`crate::store::NetworkRecord::local_mtu`]). Docker makes the routes of its containers,
//!   and a driver cannot tell it an MTU; so the agent adds that.
//!
//! A container whose namespace is not found does without both.

use std::fs::File;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ipnet::IpNet;

use super::super::{Agent, blocking};
use crate::netlink::{Netlink, netns};
use crate::store::{EndpointRecord, NetworkRecord, Origin};

/// How long Docker may take to connect a container after it asked how.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(200);

/// What is to be changed in a namespace.
struct Routes {
    mac: [u8; 6],
    /// Each address with its subnet and the gateway.
    addresses: Vec<(IpNet, Option<IpAddr>)>,
    mtu: u32,
    local_mtu: u32,
}

impl Agent {
    /// Does the rest for an endpoint as soon as Docker has connected it.
    pub fn docker_settle(self: &Arc<Self>, endpoint: String) {
        let agent = self.clone();
        tokio::spawn(async move {
            let end = Instant::now() + PATIENCE;
            while Instant::now() < end {
                tokio::time::sleep(POLL).await;
                match agent.try_settle(&endpoint).await {
                    Ok(false) => {}
                    Ok(true) => return,
                    Err(error) => {
                        log::info!("endpoint {endpoint} has packets of the usual size: {error:#}");
                        return;
                    }
                }
            }
            log::info!(
                "endpoint {endpoint} has packets of the usual size: Docker did not connect it \
                 within {} s, or where nobody can look",
                PATIENCE.as_secs()
            );
        });
    }

    /// At the start: does what an earlier agent did not come to, which ended after Docker had
    /// asked how to connect a container. Docker does not ask twice.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(in crate::agent) fn docker_settle_rest(self: &Arc<Self>) -> Result<()> {
        for record in self.store.containers()? {
            let unknown = (record.endpoints.first()).is_some_and(|endpoint| endpoint.netns == 0);
            if let Origin::Docker {
                endpoint,
                sandbox: Some(_),
                ..
            } = &record.origin
                && unknown
            {
                self.docker_settle(endpoint.clone());
            }
        }
        Ok(())
    }

    /// True when there is nothing more to do.
    async fn try_settle(&self, id: &str) -> Result<bool> {
        let Some(record) = self.find_docker_endpoint(id)? else {
            return Ok(true);
        };
        let endpoint = record.endpoints.first();
        let (
            Some(endpoint),
            Origin::Docker {
                sandbox: Some(sandbox),
                daemon,
                ..
            },
        ) = (endpoint, &record.origin)
        else {
            return Ok(true);
        };
        let network = self.store.network(&endpoint.network)?;
        // With Docker before 28 the file is yet to come.
        let Some(netns) = open_sandbox(sandbox, *daemon) else {
            return Ok(false);
        };
        if netns::is_own(&netns).context("cannot look at a namespace")? {
            return Ok(true);
        }
        if !Routes::new(&network, endpoint).set(&netns)? {
            return Ok(false);
        }
        let number = netns::number(&netns).context("cannot look at a namespace")?;
        self.docker_is_in(id, number).await?;
        Ok(true)
    }

    /// Notes the namespace of an endpoint.
    async fn docker_is_in(&self, id: &str, netns: u32) -> Result<()> {
        let _held = self.held.lock().await;
        let Some(mut record) = self.find_docker_endpoint(id)? else {
            return Ok(());
        };
        let Some(endpoint) = record.endpoints.first_mut() else {
            return Ok(());
        };
        endpoint.netns = netns;
        let ifindex = endpoint.ifindex;
        self.store.put_container(&record)?;
        self.with_datapath(|datapath| datapath.set_netns(ifindex, netns))
    }
}

/// Opens the namespace that Docker named: its file is in the daemon's mount namespace. The daemon
/// may have been another one then; what is found is checked by the interface that is in it.
fn open_sandbox(sandbox: &str, daemon: u32) -> Option<File> {
    let below = sandbox.trim_start_matches('/');
    let daemons = PathBuf::from(format!("/proc/{daemon}/root")).join(below);
    let ours = PathBuf::from("/").join(below);
    [daemons, ours]
        .iter()
        .find_map(|path| netns::open(path).ok().flatten())
}

impl Routes {
    fn new(network: &NetworkRecord, endpoint: &EndpointRecord) -> Self {
        let addresses = endpoint.addresses().filter_map(|address| {
            let subnet = network.subnet(address.is_ipv4())?;
            let address = IpNet::new(address, subnet.prefix.prefix_len()).ok()?;
            Some((address, subnet.gateway))
        });
        Self {
            mac: endpoint.mac,
            addresses: addresses.collect(),
            mtu: network.mtu,
            local_mtu: network.local_mtu,
        }
    }

    /// False if the interface is not set up yet.
    fn set(&self, netns: &File) -> Result<bool> {
        blocking(|| {
            netns::inside(netns::borrow(netns), || {
                tokio::runtime::Builder::new_current_thread()
                    .enable_io()
                    .build()
                    .context("cannot start a runtime")?
                    .block_on(self.set_here())
            })
        })
    }

    async fn set_here(&self) -> Result<bool> {
        let netlink = Netlink::connect()?;
        let links = netlink.links().await?;
        let own = |link: &&crate::netlink::Link| link.mac == Some(self.mac) && link.is_up;
        let Some(link) = links.iter().find(own) else {
            return Ok(false);
        };
        if self.local_mtu <= self.mtu {
            return Ok(true);
        }
        let present = netlink.addresses().await?;
        // An interface that is up has got its addresses. Those of a family that the container does
        // without are gone again.
        let is_there = |(address, _): &&(IpNet, Option<IpAddr>)| {
            (present.iter()).any(|p| p.index == link.index && p.ip == address.addr())
        };
        for (address, gateway) in self.addresses.iter().filter(is_there) {
            let (subnet, source) = (address.trunc(), address.addr());
            // First: the gateway is no neighbour.
            if let Some(gateway) = gateway {
                let gateway = IpNet::from(*gateway);
                netlink
                    .replace_link_route(link.index, gateway, source, self.mtu)
                    .await?;
            }
            netlink
                .replace_link_route(link.index, subnet, source, self.local_mtu)
                .await?;
        }
        Ok(true)
    }
}
