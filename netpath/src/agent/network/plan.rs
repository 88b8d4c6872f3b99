//! What a new network is to be: the request is checked against itself, the other networks and
//! the host.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Result;
use ipnet::IpNet;

use super::LOCAL_MTU;
use crate::agent::{Agent, now, overlay};
use crate::api::types::CreateNetwork;
use crate::container::{files, names};
use crate::ipam::{
    check_aside, choose_subnet, overlaps, parse_cidr, parse_range, plan, random_ula,
};
use crate::netlink::gateway_peer;
use crate::physical;
use crate::physical::record::Sharing;
use crate::policy::{self, Options};
use crate::problem::{conflict, invalid};
use crate::store::{Driver, NetworkRecord};

/// IPv4 demands 68 bytes, IPv6 1280 (RFC 8200); a packet has at most 65535.
const MTU: (u32, u32) = (68, 65_535);
const MTU_V6: u32 = 1280;
/// Longest label in bytes, key and value; all of them are in every listing.
const LONGEST_LABEL: usize = 4096;

/// A prefix that is taken, and by whom in words.
type Taken = (IpNet, String);

impl Agent {
    pub(in crate::agent) async fn plan_network(&self, new: CreateNetwork) -> Result<NetworkRecord> {
        names::check("network", &new.name)?;
        let driver = new
            .driver
            .as_deref()
            .map_or(Ok(Driver::default()), str::parse)?;
        check_labels(&new.labels)?;
        let networks = self.store.networks()?;
        let mut pairs = new.options.clone();
        let overlay = match driver {
            Driver::Overlay => Some(overlay::plan(&mut pairs, &networks)?),
            _ => None,
        };
        let card = match driver.shares_card() {
            true => Some(physical::take(driver, &mut pairs)?),
            false => None,
        };
        let options = policy::parse(new.internal, &pairs)?;
        if networks.iter().any(|other| other.name == new.name) {
            return Err(conflict(format!(
                "a network named {} exists already, remove it first or choose another name",
                new.name
            )));
        }
        let sharing = match &card {
            Some(wanted) => Some(self.plan_sharing(driver, wanted).await?),
            None => None,
        };
        let prefixes = self
            .choose_prefixes(&new, &options, &networks, sharing.as_ref())
            .await?;
        let ranges = new
            .ranges
            .iter()
            .map(|text| parse_range(text))
            .collect::<Result<Vec<_>>>()?;
        let policy = options.policy;
        // The host is no gateway of a physical network, so there is none unless it is named.
        let named = |v4: bool| new.gateways.iter().any(|gateway| gateway.is_ipv4() == v4);
        let isolated = |v4| policy.is_isolated(v4) || sharing.is_some() && !named(v4);
        let subnets = plan(&prefixes, &ranges, &new.gateways, isolated)?;
        check_aside(&subnets, &new.aside)?;
        if let Some(sharing) = &sharing
            && sharing.is_routed(driver)
            && new.ipv6
            && subnets.iter().all(|subnet| subnet.is_v4())
        {
            return Err(invalid(
                "with mode=l3 the wire finds containers by addresses that are known, not by those \
                 that routers advertise: name the IPv6 subnet with --subnet, or leave out --ipv6",
            ));
        }
        if let Some(sharing) = &sharing {
            let subnets = subnets.iter().map(|subnet| subnet.prefix);
            self.check_routes(driver, sharing, subnets).await?;
        }
        let has = |v4: bool| subnets.iter().any(|subnet| subnet.is_v4() == v4);
        policy.check_families(has(true), has(false))?;
        if let (Some(flag), Some(option)) = (new.mtu, options.mtu)
            && flag != option
        {
            return Err(invalid(format!(
                "--mtu {flag} and option mtu={option} contradict each other"
            )));
        }
        let parent_mtu = match &sharing {
            Some(sharing) => self.mtu_of(sharing).await?,
            None => None,
        };
        let wanted = new.mtu.or(options.mtu).or(parent_mtu);
        let mtu = match &overlay {
            Some(_) => self.overlay_mtu(wanted)?,
            None => wanted.unwrap_or_else(|| self.default_mtu()),
        };
        if let (Some(parent_mtu), Some(sharing)) = (parent_mtu, &sharing)
            && mtu > parent_mtu
        {
            return Err(invalid(format!(
                "mtu {mtu} is out of range, the parent {} has {parent_mtu}",
                sharing.parent
            )));
        }
        check_mtu(mtu, has(false))?;
        if let Some(device) = &options.device {
            self.check_device(device).await?;
        }
        let id = self.free_network_id(&networks)?;
        Ok(NetworkRecord {
            name: new.name,
            driver,
            uid: names::uid()?,
            id,
            subnets,
            mtu,
            // Who names an MTU wants it everywhere; a wire has one anyway, and neighbours on other
            // hosts are on the link.
            local_mtu: match (&overlay, &sharing) {
                (None, None) => wanted.unwrap_or(LOCAL_MTU),
                _ => mtu,
            },
            device: match &sharing {
                Some(sharing) => sharing.device.clone(),
                None => options.device.unwrap_or_else(|| format!("np-br{id}")),
            },
            ifindex: 0,
            mac: names::random_mac()?,
            created: now(),
            ready: false,
            last_leases: Vec::new(),
            policy,
            options: new
                .options
                .iter()
                .map(|(key, value)| (policy::docker_name(key).to_owned(), value.clone()))
                .collect(),
            labels: new.labels,
            aside: new.aside,
            attachable: new.attachable,
            interface_prefix: options.interface_prefix,
            overlay,
            cluster: None,
            flannel: None,
            docker: None,
            ipv6: new.ipv6,
            sharing,
        })
    }

    /// The subnets that were asked for, or free ones.
    async fn choose_prefixes(
        &self,
        new: &CreateNetwork,
        options: &Options,
        networks: &[NetworkRecord],
        sharing: Option<&Sharing>,
    ) -> Result<Vec<IpNet>> {
        let mut prefixes = new
            .subnets
            .iter()
            .map(|text| parse_cidr(text))
            .collect::<Result<Vec<_>>>()?;
        let (v4, mut v6) = families(new, options, &prefixes)?;
        // On a card, routers may advertise IPv6 subnets.
        v6 &= sharing.is_none();
        // A physical network has the host's own subnet, as a rule.
        let routes = match sharing {
            Some(sharing) if !sharing.parent.is_empty() => Vec::new(),
            _ => self.host_routes(networks).await?,
        };
        // Two cards, or two VLANs of one, may lead into networks with the same addresses.
        let apart = |other: &NetworkRecord| match (sharing, &other.sharing) {
            (Some(sharing), Some(theirs)) => sharing.parent != theirs.parent,
            _ => false,
        };
        let others: Vec<Taken> = networks
            .iter()
            .filter(|other| !apart(other))
            .flat_map(|other| {
                let prefixes = other.subnets.iter().map(|subnet| subnet.prefix);
                prefixes.map(|prefix| (prefix, format!("of network {}", other.name)))
            })
            .collect();
        for prefix in &prefixes {
            if let Some((theirs, whose)) =
                others.iter().find(|(theirs, _)| overlaps(prefix, theirs))
            {
                return Err(conflict(format!(
                    "subnet {prefix} overlaps {theirs} {whose}, choose another"
                )));
            }
            if let Some((theirs, device)) =
                routes.iter().find(|(theirs, _)| overlaps(prefix, theirs))
            {
                return Err(conflict(format!(
                    "subnet {prefix} overlaps the host's route {theirs}{device}, choose another"
                )));
            }
        }
        let taken: Vec<IpNet> = others
            .iter()
            .chain(&routes)
            .map(|(prefix, _)| *prefix)
            .chain(prefixes.iter().copied())
            .chain(self.prefixes_of_cluster())
            .collect();
        let servers: Vec<IpAddr> =
            files::nameservers(&files::host_resolv_conf(&self.settings.resolv_conf)).collect();
        let pools = &self.settings.address_pools;
        for wanted in [v4.then_some(true), v6.then_some(false)] {
            let Some(v4) = wanted else { continue };
            if prefixes.iter().any(|prefix| prefix.addr().is_ipv4() == v4) {
                continue;
            }
            prefixes.push(match choose_subnet(pools, v4, &taken, &servers)? {
                Some(subnet) => subnet,
                None if v4 => {
                    return Err(invalid(
                        "none of the agent's default address pools is of IPv4, name a subnet with \
                         --subnet",
                    ));
                }
                // Nobody else has it: 56 random bits.
                None => random_ula(names::random()?),
            });
        }
        Ok(prefixes)
    }

    /// The name of a new gateway device must be free, and not one that the agent may choose.
    async fn check_device(&self, name: &str) -> Result<()> {
        if name.starts_with("np") {
            return Err(invalid(format!(
                "names of devices that begin with np are netpath's own choice, choose another than \
                 {name}"
            )));
        }
        for device in [name.to_owned(), gateway_peer(name)] {
            if self.netlink.link(&device).await?.is_some() {
                return Err(conflict(format!(
                    "a device named {device} exists already, choose another name for the network's"
                )));
            }
        }
        Ok(())
    }

    /// Numbers go round, so that flows of a network that is gone are not taken for a
    /// newer network's.
    pub(in crate::agent) fn free_network_id(&self, networks: &[NetworkRecord]) -> Result<u16> {
        let adoption = self.store.adoption()?;
        let adopted = adoption.map_or_else(Vec::new, |adoption| adoption.networks);
        for _ in 0..=networks.len() + adopted.len() {
            let id = self.store.next_id("network")? % u64::from(u16::MAX) + 1;
            if let Ok(id) = u16::try_from(id)
                && networks.iter().all(|network| network.id != id)
                && adopted.iter().all(|network| network.id != id)
            {
                return Ok(id);
            }
        }
        Err(conflict(
            "this host has as many networks as there are numbers for them",
        ))
    }

    /// The host's routes that a subnet must not overlap, each with the device's name in
    /// words. Those of our own networks are known better.
    pub(in crate::agent) async fn host_routes(
        &self,
        networks: &[NetworkRecord],
    ) -> Result<Vec<Taken>> {
        let links = self.netlink.links().await?;
        let routes = self.netlink.routes().await?;
        let addresses = self.netlink.addresses().await?;
        // The card of a physical network is the host's own.
        let own = networks.iter().filter(|network| network.sharing.is_none());
        let own_devices: Vec<u32> = own.map(|network| network.ifindex).collect();
        let name_of = |index: u32| {
            let link = links.iter().find(|link| link.index == index);
            link.map(|link| format!(" on {}", link.name))
                .unwrap_or_default()
        };
        // An address without a subnet of its own (/32, /128) has no route in this sense.
        let addresses: Vec<Taken> = addresses
            .iter()
            .filter(|address| address.is_global && !own_devices.contains(&address.index))
            .map(|address| (IpNet::from(address.ip), name_of(address.index)))
            .collect();
        Ok(routes
            .into_iter()
            .filter(|route| route.is_unicast && !is_default(&route.destination))
            .filter(|route| !is_everywhere(&route.destination))
            .filter(|route| {
                !own_devices
                    .iter()
                    .any(|device| route.devices.contains(device))
            })
            .map(|route| {
                let device = route.devices.first().copied().map(name_of);
                (route.destination, device.unwrap_or_default())
            })
            .chain(addresses)
            .collect())
    }
}

/// Which families a network is to have. As in Docker it has IPv4 unless that is switched off; but
/// who names IPv6 subnets only, and does not say `--ipv6`, means these and nothing else.
fn families(new: &CreateNetwork, options: &Options, prefixes: &[IpNet]) -> Result<(bool, bool)> {
    let named = |v4: bool| prefixes.iter().any(|prefix| prefix.addr().is_ipv4() == v4);
    let v4 = new.ipv4.or(options.ipv4);
    if let (Some(flag), Some(option)) = (new.ipv4, options.ipv4)
        && flag != option
    {
        return Err(invalid(format!(
            "--ipv4={flag} and option ipv4={option} contradict each other"
        )));
    }
    if v4 == Some(false) && named(true) {
        return Err(invalid(
            "the network is to be without IPv4 and has an IPv4 subnet, leave out one of both",
        ));
    }
    let v6 = new.ipv6 || options.ipv6 == Some(true) || named(false);
    let v4 = v4.unwrap_or(named(true) || new.ipv6 || !named(false));
    if !v4 && !v6 {
        return Err(invalid(
            "a network without IPv4 needs IPv6, add --ipv6 or an IPv6 --subnet",
        ));
    }
    Ok((v4, v6))
}

fn check_mtu(mtu: u32, v6: bool) -> Result<()> {
    if !(MTU.0..=MTU.1).contains(&mtu) {
        return Err(invalid(format!(
            "mtu {mtu} is out of range, choose {} to {}",
            MTU.0, MTU.1
        )));
    }
    if mtu < MTU_V6 && v6 {
        return Err(invalid(format!(
            "mtu {mtu} is too small for IPv6, which needs {MTU_V6}"
        )));
    }
    Ok(())
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<()> {
    for (key, value) in labels {
        if key.is_empty() {
            return Err(invalid("a label has no key, write KEY or KEY=VALUE"));
        }
        if key.len() + value.len() > LONGEST_LABEL {
            let start: String = key.chars().take(20).collect();
            return Err(invalid(format!(
                "label \"{}...\" is longer than {LONGEST_LABEL} bytes",
                start.escape_debug()
            )));
        }
    }
    Ok(())
}

/// The default route, or a large part of it: VPNs take all traffic by two routes of half of
/// it each (0.0.0.0/1 and 128.0.0.0/1), and 2000::/3 is all of the global IPv6 addresses.
fn is_default(destination: &IpNet) -> bool {
    destination.prefix_len() < 4
}

/// Ranges that every host has routes for and that no subnet can be in anyway.
fn is_everywhere(destination: &IpNet) -> bool {
    match destination {
        IpNet::V4(net) => net.network().is_multicast(),
        IpNet::V6(net) => {
            let address = net.network();
            address.is_multicast() || address.is_unicast_link_local() || address.is_loopback()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_those_that_docker_would_give() {
        let with = |subnets: &[&str], ipv4: Option<bool>, ipv6: bool| {
            let new = CreateNetwork {
                ipv4,
                ipv6,
                ..CreateNetwork::default()
            };
            let prefixes: Vec<IpNet> = subnets.iter().map(|text| text.parse().unwrap()).collect();
            families(&new, &Options::default(), &prefixes).map_err(|error| error.to_string())
        };
        let (v4, v6) = ("10.0.0.0/24", "fd00::/64");
        for (subnets, ipv4, ipv6, expected) in [
            (&[][..], None, false, (true, false)),
            (&[], None, true, (true, true)),
            (&[], Some(false), true, (false, true)),
            (&[v4], None, false, (true, false)),
            (&[v4], None, true, (true, true)),
            (&[v6], None, false, (false, true)),
            (&[v6], None, true, (true, true)),
            (&[v6], Some(true), false, (true, true)),
            (&[v6], Some(false), true, (false, true)),
            (&[v4, v6], None, false, (true, true)),
        ] {
            assert_eq!(
                with(subnets, ipv4, ipv6).unwrap(),
                expected,
                "{subnets:?} {ipv4:?} {ipv6}"
            );
        }
        assert!(
            with(&[], Some(false), false)
                .unwrap_err()
                .contains("--ipv6")
        );
        assert!(with(&[v4], Some(false), true).unwrap_err().contains("IPv4"));
    }
}
