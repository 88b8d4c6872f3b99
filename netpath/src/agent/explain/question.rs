//! What is asked: who sends what to whom.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use anyhow::Result;
use netpath_common::tuple::Proto;

use crate::agent::Agent;
use crate::agent::gateway::{Gateways, network_of};
use crate::agent::view::without_network;
use crate::api::types::Explain;
use crate::problem::{invalid, not_found};
use crate::store::{ContainerRecord, EndpointRecord};

/// A packet that is asked about.
pub(super) struct Question {
    pub(super) source: Party,
    /// The address that the packet has as its source.
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) ip_proto: u8,
    /// `None`: a protocol without flows.
    pub(super) proto: Option<Proto>,
    pub(super) port: u16,
    pub(super) source_port: Option<u16>,
    /// A process of the host has bound its socket to a loopback address.
    pub(super) confined: bool,
}

/// Who sends.
pub(super) enum Party {
    /// The container of this name, behind its host-side veth.
    Container(String, u32),
    /// A process of the host.
    Host,
    /// Somebody else.
    Outside,
}

impl Agent {
    /// Makes sense of what was asked.
    pub(super) fn question(&self, asked: &Explain) -> Result<Question> {
        let (ip_proto, port) = parse_proto(&asked.proto)?;
        let destination = self.addresses_of(&asked.destination)?;
        let own = self.addresses_of(&asked.source)?;
        let sender = self.find_called(&asked.source)?;
        let pretended = asked.source_address;
        // The first family that both have.
        let pair = destination.iter().find_map(|dst| {
            let same = |ip: &&IpAddr| ip.is_ipv4() == dst.is_ipv4();
            // Of several addresses that of the interface by which the container's routes lead.
            let routed = sender
                .as_ref()
                .and_then(|record| self.source_for(record, *dst));
            let src = routed.or_else(|| own.iter().copied().find(|ip| same(&ip)));
            src.map(|src| (src, *dst))
        });
        let Some((src, dst)) = pair else {
            return Err(invalid(format!(
                "{} and {} have no addresses of one family",
                asked.source, asked.destination
            )));
        };
        self.refuse_wire([src, dst])?;
        if let Some(pretended) = pretended
            && pretended.is_ipv4() != dst.is_ipv4()
        {
            return Err(invalid(format!(
                "{pretended} and {dst} are not of one family"
            )));
        }
        let ip_proto = match (ip_proto, dst.is_ipv4()) {
            (1, false) => Proto::Icmpv6 as u8,
            (58, true) => Proto::Icmp as u8,
            (other, _) => other,
        };
        Ok(Question {
            source: self.party(&asked.source, src)?,
            src: pretended.unwrap_or(src),
            dst,
            ip_proto,
            proto: Proto::from_number(ip_proto),
            port,
            source_port: asked.source_port,
            confined: pretended.is_some_and(|ip| ip.is_loopback()),
        })
    }

    /// The address from which a container sends to another: that of the network in which it is,
    /// or of the one that leads out.
    fn source_for(&self, record: &ContainerRecord, dst: IpAddr) -> Option<IpAddr> {
        let networks = self.store.networks().ok()?;
        let on_link = |endpoint: &&EndpointRecord| {
            let subnet = network_of(endpoint, &networks)?.subnet(dst.is_ipv4())?;
            Some(subnet.prefix.contains(&dst))
        };
        let near = record.endpoints.iter().find(|e| on_link(e) == Some(true));
        let chosen = near.or_else(|| {
            let gateways = Gateways::choose(&record.endpoints, &networks);
            record.endpoints.get(gateways.of(dst.is_ipv4())?)
        });
        chosen?.addresses().find(|ip| ip.is_ipv4() == dst.is_ipv4())
    }

    /// The addresses that a user's word stands for: an address, a container's, or the host's.
    fn addresses_of(&self, word: &str) -> Result<Vec<IpAddr>> {
        if let Ok(ip) = word.parse::<IpAddr>() {
            return Ok(vec![ip.to_canonical()]);
        }
        if let Some(record) = self.find_called(word)? {
            if record.endpoints.is_empty() {
                return Err(not_found(without_network(&record)));
            }
            return Ok(record.addresses().collect());
        }
        if word == "host" {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        Err(not_found(format!(
            "{word} is neither a container (see \"netpath ps\") nor an address nor \"host\""
        )))
    }

    fn party(&self, word: &str, ip: IpAddr) -> Result<Party> {
        let named = self.find_called(word)?;
        let of_address = || -> Result<_> {
            let all = self.store.containers()?;
            let has = |container: &Arc<ContainerRecord>| container.addresses().any(|own| own == ip);
            Ok(all.into_iter().find(has).map(Arc::unwrap_or_clone))
        };
        let found = match named {
            Some(record) => Some(record),
            None => of_address()?,
        };
        if let Some(record) = found {
            let mut endpoints = record.endpoints.iter();
            let with = endpoints.find(|endpoint| endpoint.addresses().any(|own| own == ip));
            if let Some(endpoint) = with.or(record.endpoints.first()) {
                return Ok(Party::Container(record.name.clone(), endpoint.ifindex));
            }
        }
        let hosts = self.with_datapath(|datapath| datapath.host_addr(&ip.into()))?;
        if ip.is_loopback() || hosts.is_some() {
            return Ok(Party::Host);
        }
        Ok(Party::Outside)
    }
}

/// `tcp:80`, `udp:53`, `icmp`, or a number: the IP protocol, and the port or 0.
fn parse_proto(text: &str) -> Result<(u8, u16)> {
    let sense = || {
        invalid(format!(
            "\"{text}\" is no protocol, write tcp:PORT, udp:PORT, sctp:PORT, icmp or the number of another"
        ))
    };
    let (word, port) = match text.split_once(':') {
        Some((word, port)) => (word, Some(port)),
        None => (text, None),
    };
    let number = match word {
        "tcp" => Proto::Tcp as u8,
        "udp" => Proto::Udp as u8,
        "sctp" => Proto::Sctp as u8,
        "icmp" => Proto::Icmp as u8,
        "icmpv6" => Proto::Icmpv6 as u8,
        _ => word.parse().map_err(|_| sense())?,
    };
    let has_ports = matches!(word, "tcp" | "udp" | "sctp");
    match port {
        Some(port) if has_ports => match port.parse() {
            Ok(port) if port > 0 => Ok((number, port)),
            _ => Err(invalid(format!("\"{port}\" is no port, write 1 to 65535"))),
        },
        None if has_ports => Err(invalid(format!(
            "{word} needs a port, write for example {word}:80"
        ))),
        Some(_) => Err(invalid(format!("{word} has no ports, write only {word}"))),
        None => Ok((number, 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_read_or_refused_by_name() {
        for (text, expected) in [
            ("tcp:80", (6, 80)),
            ("udp:65535", (17, 65_535)),
            ("icmp", (1, 0)),
            ("47", (47, 0)),
        ] {
            assert_eq!(parse_proto(text).unwrap(), expected);
        }
        for (text, part) in [
            ("tcp", "tcp:80"),
            ("udp:", "\"\""),
            ("tcp:0", "\"0\""),
            ("tcp:65536", "65536"),
            ("icmp:3", "icmp"),
            ("gre", "gre"),
            ("", "\"\""),
            ("256", "256"),
        ] {
            let error = parse_proto(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
