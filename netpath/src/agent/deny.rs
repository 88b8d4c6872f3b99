//! Denied sources: whom the uplinks do not let in.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::PoisonError;

use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv6Net};

use super::{Agent, now};
use crate::api::types::{Denial, DenialMade, Deny};
use crate::datapath::gate::{Gate, Place, Wish};
use crate::problem::{conflict, invalid, not_found};

/// Routers and neighbours are found by these (RFC 4861).
const LINK_LOCAL: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);

/// What a denied prefix may cut off.
struct Important {
    host: Vec<IpAddr>,
    gateways: Vec<IpAddr>,
    /// With the names of their networks.
    subnets: Vec<(String, IpNet)>,
}

impl Agent {
    /// Denies the sources of a prefix, now and after the next start.
    ///
    /// # Errors
    /// The prefix makes no sense, is denied already, or would cut off something that the
    /// request does not insist on.
    pub async fn deny(&self, new: Deny) -> Result<DenialMade> {
        let _held = self.held.lock().await;
        let prefix = parse(&new.prefix)?;
        if self.settings.xdp == Wish::Off {
            return Err(conflict(
                "the agent was started with --xdp off and denies nobody, start it with --xdp auto",
            ));
        }
        if self.store.denied()?.contains(&prefix) {
            return Err(conflict(format!("{prefix} is denied already")));
        }
        if !new.force
            && let Some(loss) = self.important().await?.lost_with(prefix)
        {
            return Err(conflict(format!(
                "denying {prefix} would cut off {loss}; deny less, or say --force if that is \
                 what you want"
            )));
        }
        self.with_datapath(|datapath| datapath.deny(prefix))?;
        if let Err(error) = self.store.put_denied(prefix, now()) {
            self.with_datapath(|datapath| datapath.allow(prefix))?;
            return Err(error);
        }
        self.set_gates();
        Ok(DenialMade {
            prefix: prefix.to_string(),
            warnings: self.gate_problems(),
        })
    }

    /// Lets the sources of a prefix in again.
    ///
    /// # Errors
    /// The prefix is not denied.
    pub async fn allow(&self, prefix: &str) -> Result<()> {
        let _held = self.held.lock().await;
        let prefix = parse(prefix)?;
        if !self.store.remove_denied(prefix)? {
            return Err(not_found(format!(
                "{prefix} is not denied, see \"netpath deny ls\""
            )));
        }
        self.with_datapath(|datapath| datapath.allow(prefix))?;
        self.set_gates();
        Ok(())
    }

    /// What is denied, with what came from there.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn list_denied(&self) -> Result<Vec<Denial>> {
        let denied = self.with_datapath(|datapath| datapath.denied())?;
        Ok(denied
            .into_iter()
            .map(|(prefix, counts)| Denial {
                prefix: prefix.to_string(),
                packets: counts.packets,
                bytes: counts.bytes,
            })
            .collect())
    }

    /// At the start: the map is to hold what the store knows.
    pub(super) fn restore_denied(&self) -> Result<()> {
        let denied = self.store.denied()?;
        self.with_datapath(|datapath| datapath.retain_denied(&denied))
            .context("cannot take over what is denied")
    }

    /// Puts the gates of all uplinks where they belong.
    pub(super) fn set_gates(&self) {
        let uplinks: Vec<(String, u32)> = {
            let uplinks = self.uplinks.lock().unwrap_or_else(PoisonError::into_inner);
            let there = uplinks.iter();
            there
                .filter_map(|(name, uplink)| Some((name.clone(), (*uplink)?.ifindex)))
                .collect()
        };
        for (name, ifindex) in uplinks {
            self.set_gate(&name, ifindex);
        }
    }

    /// Puts the gate of one uplink where it belongs. The rest does not depend on it, so that
    /// trouble is told and no more.
    pub(super) fn set_gate(&self, name: &str, ifindex: u32) {
        let wish = self.settings.xdp;
        let set = self.with_datapath(|datapath| datapath.set_gate(ifindex, wish));
        let gate = set.unwrap_or_else(|error| Gate {
            place: Place::Off,
            problem: Some(format!("{error:#}")),
        });
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        let before = gates.get(name);
        if let Some(problem) = &gate.problem
            && before.is_none_or(|before| before.problem != gate.problem)
        {
            log::warn!("uplink {name} drops no denied sources: {problem}");
        }
        if before.is_none_or(|before| before.place != gate.place) {
            log::info!("XDP of uplink {name}: {}", gate.place.name());
        }
        gates.insert(name.to_owned(), gate);
    }

    /// The gate of an uplink as it was last set.
    pub(super) fn gate(&self, name: &str) -> Gate {
        let gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        gates.get(name).cloned().unwrap_or_default()
    }

    fn gate_problems(&self) -> Vec<String> {
        let gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        gates
            .iter()
            .filter_map(|(name, gate)| {
                let problem = gate.problem.as_ref()?;
                Some(format!(
                    "uplink {name} lets them in all the same: {problem}"
                ))
            })
            .collect()
    }

    async fn important(&self) -> Result<Important> {
        let addresses = self.netlink.addresses().await?;
        let routes = self.netlink.routes().await?;
        let networks = self.store.networks()?;
        Ok(Important {
            host: addresses
                .into_iter()
                .filter(|address| address.is_global)
                .map(|address| address.ip)
                .collect(),
            gateways: routes
                .into_iter()
                .flat_map(|route| route.gateways)
                .collect(),
            subnets: networks
                .into_iter()
                .flat_map(|network| {
                    let name = network.name;
                    let of = network.subnets.into_iter();
                    of.map(move |subnet| (name.clone(), subnet.prefix))
                })
                .collect(),
        })
    }
}

impl Important {
    /// What would be cut off if a prefix were denied, if anything.
    fn lost_with(&self, prefix: IpNet) -> Option<String> {
        if prefix.prefix_len() == 0 {
            let family = if prefix.addr().is_ipv4() { 4 } else { 6 };
            return Some(format!("everybody who reaches this host by IPv{family}"));
        }
        if let Some(address) = self.host.iter().find(|ip| prefix.contains(*ip)) {
            return Some(format!("{address}, an address of this host itself"));
        }
        if let Some(gateway) = self.gateways.iter().find(|ip| prefix.contains(*ip)) {
            return Some(format!("{gateway}, by which this host reaches others"));
        }
        let of_network = |subnet: &IpNet| subnet.contains(&prefix) || prefix.contains(subnet);
        if let Some((name, subnet)) = self.subnets.iter().find(|(_, subnet)| of_network(subnet)) {
            return Some(format!("{subnet}, the subnet of network {name}"));
        }
        match prefix {
            IpNet::V6(prefix) if prefix.contains(&LINK_LOCAL) || LINK_LOCAL.contains(&prefix) => {
                Some("link-local addresses, by which routers and neighbours are found".into())
            }
            _ => None,
        }
    }
}

/// A prefix; a single address stands for itself.
fn parse(text: &str) -> Result<IpNet> {
    let parsed = match text.parse::<IpAddr>() {
        Ok(address) => Some(IpNet::from(address)),
        Err(_) => text.parse::<IpNet>().ok(),
    };
    let Some(prefix) = parsed else {
        return Err(invalid(format!(
            "\"{text}\" is no prefix, write one like 203.0.113.0/24 or 2001:db8::/32"
        )));
    };
    if prefix.addr() != prefix.network() {
        return Err(invalid(format!(
            "prefix {text} has host bits set, did you mean {}?",
            prefix.trunc()
        )));
    }
    if let IpNet::V6(v6) = prefix
        && let Some(v4) = v6.addr().to_ipv4_mapped()
    {
        return Err(invalid(format!(
            "{text} stands for IPv4 addresses, which never travel in this form: write {v4}/{}",
            v6.prefix_len().saturating_sub(96)
        )));
    }
    Ok(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_read_or_refused_by_name() {
        for (text, prefix) in [
            ("203.0.113.7", "203.0.113.7/32"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), prefix);
        }
        for (text, part) in [
            ("tomato", "tomato"),
            ("", "\"\""),
            ("10.0.0.1/8", "10.0.0.0/8"),
            ("10.0.0.0/33", "10.0.0.0/33"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.0.0.1", "10.0.0.1/32"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn what_would_be_cut_off_is_named() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let important = Important {
            host: vec![ip("192.0.2.1"), ip("2001:db8::1")],
            gateways: vec![ip("198.51.100.1"), ip("fe80::1")],
            subnets: vec![("net".into(), "172.17.0.0/16".parse().unwrap())],
        };
        for (prefix, lost) in [
            ("0.0.0.0/0", Some("IPv4")),
            ("::/0", Some("IPv6")),
            ("192.0.2.0/24", Some("192.0.2.1")),
            ("2001:db8::/32", Some("2001:db8::1")),
            ("198.51.100.0/30", Some("198.51.100.1")),
            ("172.17.3.0/24", Some("network net")),
            ("172.16.0.0/12", Some("network net")),
            ("fe80::2/128", Some("link-local")),
            ("203.0.113.0/24", None),
            ("2001:db9::/32", None),
        ] {
            let found = important.lost_with(prefix.parse().unwrap());
            match lost {
                Some(part) => assert!(
                    found.as_ref().is_some_and(|f| f.contains(part)),
                    "{found:?}"
                ),
                None => assert_eq!(found, None),
            }
        }
    }
}
