//! Routes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail};
use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
    RouteVia,
};

use super::{Netlink, to_io};

/// A route of any table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it leads.
    pub destination: IpNet,
    /// Index of the devices it leaves by.
    pub devices: Vec<u32>,
    /// The routers that it names.
    pub gateways: Vec<IpAddr>,
    /// Preference: the lowest wins.
    pub metric: u32,
    /// Packets are forwarded by it, or refused; false for the host's own addresses and
    /// for broadcast and multicast.
    pub is_unicast: bool,
}

impl Route {
    fn from_message(message: &RouteMessage, v4: bool) -> Option<Self> {
        let mut address = if v4 {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let mut devices = Vec::new();
        let mut gateways = Vec::new();
        let mut metric = 0;
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(ip)) => address = (*ip).into(),
                RouteAttribute::Destination(RouteAddress::Inet6(ip)) => address = (*ip).into(),
                RouteAttribute::Oif(index) => devices.push(*index),
                RouteAttribute::Gateway(gateway) => gateways.extend(ip(gateway)),
                RouteAttribute::Via(RouteVia::Inet6(via)) => gateways.push((*via).into()),
                RouteAttribute::Priority(priority) => metric = *priority,
                RouteAttribute::MultiPath(hops) => {
                    devices.extend(hops.iter().map(|hop| hop.interface_index));
                    let attributes = hops.iter().flat_map(|hop| &hop.attributes);
                    gateways.extend(attributes.filter_map(|attribute| match attribute {
                        RouteAttribute::Gateway(gateway) => ip(gateway),
                        _ => None,
                    }));
                }
                _ => {}
            }
        }
        let is_unicast = matches!(
            message.header.kind,
            RouteType::Unicast
                | RouteType::BlackHole
                | RouteType::Unreachable
                | RouteType::Prohibit
        );
        let length = message.header.destination_prefix_length;
        let destination = IpNet::new(address, length).ok()?;
        Some(Self {
            destination,
            devices,
            gateways,
            metric,
            is_unicast,
        })
    }
}

fn default_route(index: u32, gateway: IpAddr) -> RouteMessage {
    match gateway {
        IpAddr::V4(gateway) => RouteMessageBuilder::<Ipv4Addr>::new()
            .output_interface(index)
            .gateway(gateway)
            .build(),
        IpAddr::V6(gateway) => RouteMessageBuilder::<Ipv6Addr>::new()
            .output_interface(index)
            .gateway(gateway)
            .build(),
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

impl Netlink {
    /// The device and the next hop by which the kernel would pass on a packet that came by
    /// device `from`; `None` if it would not pass it on. The next hop of a destination on link
    /// is the destination.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub async fn forward(
        &self,
        from: u32,
        source: IpAddr,
        destination: IpAddr,
    ) -> Result<Option<(u32, IpAddr)>> {
        let question = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => RouteMessageBuilder::<Ipv4Addr>::new()
                .source_prefix(source, 32)
                .destination_prefix(destination, 32)
                .input_interface(from)
                .build(),
            (IpAddr::V6(source), IpAddr::V6(destination)) => RouteMessageBuilder::<Ipv6Addr>::new()
                .source_prefix(source, 128)
                .destination_prefix(destination, 128)
                .input_interface(from)
                .build(),
            _ => return Ok(None),
        };
        self.ask_route(question, destination).await
    }

    /// As [`Self::forward`], for a packet that the host itself makes.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub async fn route_to(&self, destination: IpAddr) -> Result<Option<(u32, IpAddr)>> {
        let question = match destination {
            IpAddr::V4(destination) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(destination, 32)
                .build(),
            IpAddr::V6(destination) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(destination, 128)
                .build(),
        };
        self.ask_route(question, destination).await
    }

    async fn ask_route(
        &self,
        mut question: RouteMessage,
        destination: IpAddr,
    ) -> Result<Option<(u32, IpAddr)>> {
        // A question, not a description: it names no table, scope or kind.
        question.header.table = 0;
        question.header.protocol = RouteProtocol::Unspec;
        question.header.scope = RouteScope::Universe;
        question.header.kind = RouteType::Unspec;
        let answers = self.handle.route().get(question).execute();
        let answers: Vec<RouteMessage> = match answers.try_collect().await.map_err(to_io) {
            Ok(answers) => answers,
            // Unreachable, prohibited, no route at all, or a source that cannot be.
            Err(error) if error.raw_os_error().is_some() => return Ok(None),
            Err(error) => return Err(error).context("cannot ask for a route"),
        };
        let route = answers
            .iter()
            .find_map(|message| Route::from_message(message, destination.is_ipv4()));
        Ok(route.filter(|route| route.is_unicast).and_then(|route| {
            let device = *route.devices.first()?;
            Some((device, *route.gateways.first().unwrap_or(&destination)))
        }))
    }

    /// All routes of all tables.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn routes(&self) -> Result<Vec<Route>> {
        let _alone = self.lists.lock().await;
        let mut routes = Vec::new();
        for v4 in [true, false] {
            let all = if v4 {
                RouteMessageBuilder::<Ipv4Addr>::new().build()
            } else {
                RouteMessageBuilder::<Ipv6Addr>::new().build()
            };
            let found: Vec<RouteMessage> = self
                .handle
                .route()
                .get(all)
                .execute()
                .try_collect()
                .await
                .map_err(to_io)
                .context("cannot list routes")?;
            routes.extend(
                found
                    .iter()
                    .filter_map(|message| Route::from_message(message, v4)),
            );
        }
        Ok(routes)
    }

    /// Adds a default route by `gateway`, which is on the link of the device.
    ///
    /// # Errors
    /// The kernel's; it says so if there is one already.
    pub async fn add_default_route(&self, index: u32, gateway: IpAddr) -> Result<()> {
        self.add_route(default_route(index, gateway))
            .await
            .with_context(|| format!("cannot add the default route by {gateway}"))
    }

    /// Removes a route to what is on the link of the device; one that is gone is fine.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn remove_link_route(&self, index: u32, destination: IpNet) -> Result<()> {
        let (prefix, length) = (destination.network(), destination.prefix_len());
        let mut message = match prefix {
            IpAddr::V4(prefix) => RouteMessageBuilder::<Ipv4Addr>::new()
                .output_interface(index)
                .destination_prefix(prefix, length)
                .build(),
            IpAddr::V6(prefix) => RouteMessageBuilder::<Ipv6Addr>::new()
                .output_interface(index)
                .destination_prefix(prefix, length)
                .build(),
        };
        // Whatever scope and protocol it was added with.
        message.header.scope = RouteScope::NoWhere;
        message.header.protocol = RouteProtocol::Unspec;
        match self
            .handle
            .route()
            .del(message)
            .execute()
            .await
            .map_err(to_io)
        {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                Err(error).with_context(|| format!("cannot remove the route to {destination}"))
            }
            _ => Ok(()),
        }
    }

    /// Puts a default route in the place of the one that there is, without a moment between.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn replace_default_route(&self, index: u32, gateway: IpAddr) -> Result<()> {
        let request = self.handle.route().add(default_route(index, gateway));
        request
            .replace()
            .execute()
            .await
            .map_err(to_io)
            .with_context(|| format!("cannot move the default route to {gateway}"))
    }

    /// Removes the default route by `gateway`; one that is gone is fine.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn remove_default_route(&self, index: u32, gateway: IpAddr) -> Result<()> {
        let request = self.handle.route().del(default_route(index, gateway));
        match request.execute().await.map_err(to_io) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                Err(error).with_context(|| format!("cannot remove the default route by {gateway}"))
            }
            _ => Ok(()),
        }
    }

    /// Adds a route to what is on the link of the device, from the address `source`, for
    /// packets of up to `mtu` bytes.
    ///
    /// # Errors
    /// The kernel's; it says so if there is one already.
    pub async fn add_link_route(
        &self,
        index: u32,
        destination: IpNet,
        source: IpAddr,
        mtu: u32,
    ) -> Result<()> {
        let message = link_route(index, destination, source, mtu)?;
        self.add_route(message)
            .await
            .with_context(|| format!("cannot add a route to {destination}"))
    }

    /// As [`Self::add_link_route`], in the place of the route that the kernel adds with an
    /// address.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn replace_link_route(
        &self,
        index: u32,
        destination: IpNet,
        source: IpAddr,
        mtu: u32,
    ) -> Result<()> {
        /// Metric of the kernel's own IPv6 routes (IP6_RT_PRIO_ADDRCONF).
        const OF_THE_KERNEL: u32 = 256;
        let mut message = link_route(index, destination, source, mtu)?;
        if destination.addr().is_ipv6() {
            let metric = RouteAttribute::Priority(OF_THE_KERNEL);
            message.attributes.push(metric);
        }
        let request = self.handle.route().add(message).replace();
        (request.execute().await)
            .map_err(to_io)
            .with_context(|| format!("cannot replace the route to {destination}"))
    }

    /// Adds a route by the device, and by a router if there is one, or puts it in the place of
    /// the one to the same destination.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn put_route(
        &self,
        index: u32,
        destination: IpNet,
        router: Option<IpAddr>,
    ) -> Result<()> {
        let (prefix, length) = (destination.network(), destination.prefix_len());
        let message = match (prefix, router) {
            (IpAddr::V4(prefix), None) => RouteMessageBuilder::<Ipv4Addr>::new()
                .output_interface(index)
                .destination_prefix(prefix, length)
                .scope(RouteScope::Link)
                .build(),
            (IpAddr::V6(prefix), None) => RouteMessageBuilder::<Ipv6Addr>::new()
                .output_interface(index)
                .destination_prefix(prefix, length)
                .build(),
            (IpAddr::V4(prefix), Some(IpAddr::V4(router))) => {
                RouteMessageBuilder::<Ipv4Addr>::new()
                    .output_interface(index)
                    .destination_prefix(prefix, length)
                    .gateway(router)
                    .build()
            }
            (IpAddr::V6(prefix), Some(IpAddr::V6(router))) => {
                RouteMessageBuilder::<Ipv6Addr>::new()
                    .output_interface(index)
                    .destination_prefix(prefix, length)
                    .gateway(router)
                    .build()
            }
            _ => bail!("cannot add a route to {destination}: its router is of another family"),
        };
        let request = self.handle.route().add(message).replace();
        let put = request.execute().await.map_err(to_io);
        put.with_context(|| format!("cannot add a route to {destination}"))
    }

    async fn add_route(&self, message: RouteMessage) -> io::Result<()> {
        self.handle
            .route()
            .add(message)
            .execute()
            .await
            .map_err(to_io)
    }
}

fn link_route(index: u32, destination: IpNet, source: IpAddr, mtu: u32) -> Result<RouteMessage> {
    let (prefix, length) = (destination.network(), destination.prefix_len());
    let mut message = match (prefix, source) {
        (IpAddr::V4(prefix), IpAddr::V4(source)) => RouteMessageBuilder::<Ipv4Addr>::new()
            .output_interface(index)
            .destination_prefix(prefix, length)
            .pref_source(source)
            .scope(RouteScope::Link)
            .build(),
        (IpAddr::V6(prefix), IpAddr::V6(_)) => RouteMessageBuilder::<Ipv6Addr>::new()
            .output_interface(index)
            .destination_prefix(prefix, length)
            .build(),
        _ => bail!("cannot add a route to {destination} from {source}: the families differ"),
    };
    let metrics = vec![RouteMetric::Mtu(mtu)];
    message.attributes.push(RouteAttribute::Metrics(metrics));
    Ok(message)
}
