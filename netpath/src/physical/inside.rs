//! What is set up in a container's namespace for an interface on the physical network.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ipnet::IpNet;

use super::address::Route;
use crate::netlink::{Netlink, sysctl};

/// How an interface is to get along with IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum V6 {
    /// As the namespace's owner has set it.
    AsIs,
    /// Not at all.
    Off,
    /// With fixed addresses; a router may say where the way out is.
    Fixed {
        /// Routers are listened to.
        routers: bool,
    },
    /// With the addresses that routers advertise.
    Advertised,
}

/// An interface that is there and has nothing yet.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its addresses with their subnets.
    pub addresses: Vec<IpNet>,
    /// Routers of its default routes, which take the place of others.
    pub gateways: Vec<IpAddr>,
    /// A default route by the interface itself, without a router (ipvlan in its modes l3).
    pub routes_itself: bool,
    /// More routes.
    pub routes: Vec<Route>,
    /// IPv6.
    pub v6: V6,
}

impl Interface {
    /// Sets it up. To be called on a thread inside the namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn configure(&self) -> Result<()> {
        let netlink = Netlink::connect()?;
        let link = netlink.link(&self.name).await?;
        let index = link.map(|link| link.index);
        let index = index.with_context(|| format!("there is no device {}", self.name))?;
        // Routers are heard by those who forward, too (2): that is what containers on a wire are
        // not, but a namespace of somebody else may.
        let settings: &[(&str, &str)] = match self.v6 {
            V6::AsIs => &[],
            V6::Off => &[("disable_ipv6", "1")],
            V6::Fixed { routers: false } => &[("disable_ipv6", "0"), ("accept_ra", "0")],
            V6::Fixed { routers: true } => {
                &[("disable_ipv6", "0"), ("accept_ra", "2"), ("autoconf", "0")]
            }
            V6::Advertised => &[("disable_ipv6", "0"), ("accept_ra", "2"), ("autoconf", "1")],
        };
        for (setting, value) in settings {
            sysctl::set(&format!("ipv6/conf/{}/{setting}", self.name), value)?;
        }
        for address in &self.addresses {
            netlink.add_address(index, *address).await?;
        }
        netlink.set_up(index).await?;
        for gateway in &self.gateways {
            let on_link = self.addresses.iter().any(|net| net.contains(gateway));
            let link_local = matches!(gateway, IpAddr::V6(ip) if ip.is_unicast_link_local());
            if !on_link && !link_local {
                // As pipework does: a router outside of the subnet is on the link all the same.
                netlink.put_route(index, (*gateway).into(), None).await?;
            }
            let all = if gateway.is_ipv4() {
                "0.0.0.0/0"
            } else {
                "::/0"
            };
            netlink
                .put_route(index, all.parse()?, Some(*gateway))
                .await?;
        }
        if self.routes_itself {
            for address in &self.addresses {
                let all = if address.addr().is_ipv4() {
                    "0.0.0.0/0"
                } else {
                    "::/0"
                };
                netlink.put_route(index, all.parse()?, None).await?;
            }
        }
        for route in &self.routes {
            netlink
                .put_route(index, route.destination, route.router)
                .await?;
        }
        Ok(())
    }
}

/// What an interface tells its neighbours about itself when it appears.
#[derive(Clone, Debug)]
pub struct Announcement {
    /// Name of the interface that tells them.
    pub interface: String,
    /// Name of the device that is announced, in the same namespace. When it is gone the addresses
    /// may be somebody else's, on another host.
    pub owner: String,
    /// Whole frames.
    pub frames: Vec<Vec<u8>>,
}

/// How often: frames get lost, and a neighbour that has just heard of the address's former owner
/// believes nobody for a second (`locktime` of its neighbour table).
const TIMES: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(400),
    Duration::from_millis(1100),
];

impl Announcement {
    /// Tells them, three times. To be called on a thread inside the namespace; `send` puts a
    /// frame onto the interface with an index.
    ///
    /// # Errors
    /// One of the devices is gone.
    pub fn tell(&self, send: impl Fn(u32, &[u8]) -> io::Result<()>) -> Result<()> {
        let index_of = |name: &str| {
            nix::net::if_::if_nametoindex(name)
                .with_context(|| format!("there is no device {name}"))
        };
        let owner = index_of(&self.owner)?;
        for pause in TIMES {
            std::thread::sleep(pause);
            // The next one of this name announces itself.
            if index_of(&self.owner)? != owner {
                return Ok(());
            }
            let index = index_of(&self.interface)?;
            for frame in &self.frames {
                send(index, frame).context("cannot send")?;
            }
        }
        Ok(())
    }
}
