//! The `-p` grammar: `[hostIP:][hostPort[-hostPort]:]containerPort[-containerPort][/protocol]`.

use std::net::IpAddr;

use anyhow::Result;
use netpath_common::tuple::Proto;

use crate::problem::invalid;

/// Which ports of the host a mapping may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostPorts {
    /// Any free one of the ephemeral range.
    Ephemeral,
    /// The first free one of an inclusive range; a single port is a range of one.
    Range(u16, u16),
}

impl HostPorts {
    /// How many others there are to choose from: what leaves the least choice comes first.
    pub fn choice(self) -> u32 {
        match self {
            Self::Range(low, high) => u32::from(high - low),
            Self::Ephemeral => u32::MAX,
        }
    }
}

/// One port of a container to publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Address of the host; `None` for all, of every family that the network has.
    pub host_ip: Option<IpAddr>,
    /// Ports of the host to choose from.
    pub host: HostPorts,
    /// Port of the container.
    pub container: u16,
    /// TCP, UDP or SCTP.
    pub proto: Proto,
}

/// Parses one `-p` argument: one mapping for each port of the container.
///
/// # Errors
/// A sentence that names the argument and what is wrong with it.
pub fn parse(text: &str) -> Result<Vec<Mapping>> {
    parse_parts(text).map_err(|reason| {
        invalid(format!(
            "cannot publish \"{text}\": {reason}; \
             the form is [HOST-IP:][HOST-PORT[-PORT]:]CONTAINER-PORT[-PORT][/tcp|udp|sctp]"
        ))
    })
}

fn parse_parts(text: &str) -> Result<Vec<Mapping>, String> {
    let (ports, proto) = match text.split_once('/') {
        None => (text, Proto::Tcp),
        Some((ports, proto)) => match proto.to_ascii_lowercase().as_str() {
            "tcp" => (ports, Proto::Tcp),
            "udp" => (ports, Proto::Udp),
            "" => return Err("the protocol after / is missing".into()),
            "sctp" => (ports, Proto::Sctp),
            other => {
                return Err(format!(
                    "protocol {other} is not supported, use tcp, udp or sctp"
                ));
            }
        },
    };
    let (host, container) = match ports.rsplit_once(':') {
        None => (None, ports),
        Some((host, container)) => (Some(host), container),
    };
    let (host_ip, host_ports) = match host {
        None => (None, ""),
        Some(host) => split_host(host)?,
    };
    if container.is_empty() {
        return Err("the container port is missing".into());
    }
    let (first, last) = range(container)?;
    if first == 0 {
        return Err("a container port cannot be 0".into());
    }
    let count = last - first;
    let host_of: Box<dyn Fn(u16) -> HostPorts> = match host_ports {
        "" | "0" => Box::new(|_| HostPorts::Ephemeral),
        text => {
            let (low, high) = range(text)?;
            if low == 0 {
                return Err("a host port range cannot begin with 0".into());
            }
            if high - low == count {
                Box::new(move |nth| HostPorts::Range(low + nth, low + nth))
            } else if count == 0 {
                Box::new(move |_| HostPorts::Range(low, high))
            } else {
                return Err(format!(
                    "{} host ports cannot be paired with {} container ports",
                    u32::from(high - low) + 1,
                    u32::from(count) + 1
                ));
            }
        }
    };
    let mappings = (0..=count).map(|nth| Mapping {
        host_ip,
        host: host_of(nth),
        container: first + nth,
        proto,
    });
    let mappings: Vec<Mapping> = mappings.collect();
    let is_kept =
        |mapping: &Mapping| mapping.host == HostPorts::Range(mapping.container, mapping.container);
    // SCTP's checksum is over all of the packet, so that a port cannot be changed on its way.
    if proto == Proto::Sctp && !mappings.iter().all(is_kept) {
        return Err(format!(
            "SCTP cannot be translated to another port, so the host port must be {container}, too"
        ));
    }
    Ok(mappings)
}

/// Splits what stands before the container port: an address, ports, or both.
fn split_host(host: &str) -> Result<(Option<IpAddr>, &str), String> {
    if let Some(rest) = host.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or("a closing ] is missing")?;
        let address = match address.parse() {
            Ok(address) => IpAddr::V6(address),
            Err(_) => return Err(format!("{address} is not an IPv6 address")),
        };
        let ports = match rest {
            "" => "",
            rest => rest.strip_prefix(':').ok_or("a colon is missing after ]")?,
        };
        return Ok((Some(address), ports));
    }
    match host.rsplit_once(':') {
        // A lone address would be ambiguous with a port, but has dots, and ports have none.
        None if host.contains('.') => Ok((Some(parse_v4(host)?), "")),
        None => Ok((None, host)),
        Some(("", ports)) => Ok((None, ports)),
        Some((address, _)) if address.contains(':') => {
            Err(format!("write the IPv6 address in brackets, like [{host}]"))
        }
        Some((address, ports)) => Ok((Some(parse_v4(address)?), ports)),
    }
}

fn parse_v4(text: &str) -> Result<IpAddr, String> {
    text.parse()
        .map(IpAddr::V4)
        .map_err(|_| format!("{text} is not an IP address (host names are not looked up)"))
}

fn range(text: &str) -> Result<(u16, u16), String> {
    let port = |text: &str| {
        // `parse` alone would take "+80".
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("\"{text}\" is not a port"));
        }
        text.parse::<u16>()
            .map_err(|_| format!("port {text} is larger than 65535"))
    };
    let (first, last) = match text.split_once('-') {
        None => (port(text)?, port(text)?),
        Some((first, last)) => (port(first)?, port(last)?),
    };
    if last < first {
        return Err(format!("the range {text} runs backwards"));
    }
    Ok((first, last))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(text: &str) -> Mapping {
        let mappings = parse(text).unwrap();
        assert_eq!(mappings.len(), 1, "{text}");
        mappings[0]
    }

    fn mapping(ip: &str, host: HostPorts, container: u16, proto: Proto) -> Mapping {
        Mapping {
            host_ip: ip.parse().ok(),
            host,
            container,
            proto,
        }
    }

    #[test]
    fn single_ports() {
        use HostPorts::{Ephemeral, Range};
        use Proto::{Sctp, Tcp, Udp};
        for (text, expected) in [
            ("80", mapping("", Ephemeral, 80, Tcp)),
            (":80", mapping("", Ephemeral, 80, Tcp)),
            ("0:80", mapping("", Ephemeral, 80, Tcp)),
            ("8080:80", mapping("", Range(8080, 8080), 80, Tcp)),
            ("8080:80/tcp", mapping("", Range(8080, 8080), 80, Tcp)),
            ("53:53/UDP", mapping("", Range(53, 53), 53, Udp)),
            ("8000-8010:80", mapping("", Range(8000, 8010), 80, Tcp)),
            (
                "127.0.0.1:8080:80",
                mapping("127.0.0.1", Range(8080, 8080), 80, Tcp),
            ),
            ("127.0.0.1::80", mapping("127.0.0.1", Ephemeral, 80, Tcp)),
            ("127.0.0.1:80", mapping("127.0.0.1", Ephemeral, 80, Tcp)),
            ("127.0.0.1:0:80", mapping("127.0.0.1", Ephemeral, 80, Tcp)),
            ("0.0.0.0:1:2/udp", mapping("0.0.0.0", Range(1, 1), 2, Udp)),
            ("[::1]:8080:80", mapping("::1", Range(8080, 8080), 80, Tcp)),
            ("[::]::80", mapping("::", Ephemeral, 80, Tcp)),
            ("[::1]:80", mapping("::1", Ephemeral, 80, Tcp)),
            ("80:80/sctp", mapping("", Range(80, 80), 80, Sctp)),
            ("65535:65535", mapping("", Range(65535, 65535), 65535, Tcp)),
        ] {
            assert_eq!(one(text), expected, "{text}");
        }
    }

    #[test]
    fn ranges_pair_up() {
        let mappings = parse("127.0.0.1:8000-8010:80-90/udp").unwrap();
        assert_eq!(mappings.len(), 11);
        assert_eq!(mappings[3].container, 83);
        assert_eq!(mappings[3].host, HostPorts::Range(8003, 8003));
        let mappings = parse("80-82").unwrap();
        assert!(
            mappings
                .iter()
                .all(|mapping| mapping.host == HostPorts::Ephemeral)
        );
        assert_eq!(parse("1-65535:1-65535").unwrap().len(), 65535);
    }

    #[test]
    fn refusals_say_why() {
        for (text, part) in [
            ("", "container port is missing"),
            ("8080:", "container port is missing"),
            ("80/", "protocol after / is missing"),
            ("80/dccp", "dccp is not supported"),
            ("80/sctp", "host port must be 80, too"),
            ("81:80/sctp", "host port must be 80, too"),
            ("80-90:80/sctp", "host port must be 80, too"),
            ("http:80", "\"http\" is not a port"),
            ("+80", "is not a port"),
            ("-80", "is not a port"),
            ("70000:80", "larger than 65535"),
            ("0", "cannot be 0"),
            ("0-5", "cannot be 0"),
            ("0-5:80", "cannot begin with 0"),
            ("90-80", "runs backwards"),
            (
                "8000-8001:80-82",
                "2 host ports cannot be paired with 3 container ports",
            ),
            ("8000:80-82", "1 host ports cannot be paired"),
            ("::1:8080:80", "in brackets"),
            ("[::1:8080:80", "closing ]"),
            ("[::1]8080:80", "colon is missing"),
            ("[1.2.3.4]:8080:80", "not an IPv6 address"),
            ("localhost:8080:80", "not an IP address"),
            ("1.2.3:8080:80", "not an IP address"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
            assert!(error.contains(&format!("\"{text}\"")), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "[0-9a-f:.\\[\\]/tcpud-]{0,40}") {
            let _ = parse(&text);
        }

        #[test]
        fn any_text_never_panics(text in any::<String>()) {
            let _ = parse(&text);
        }

        #[test]
        fn ranges_are_pairwise(low in 1u16..60000, first in 1u16..60000, count in 0u16..100) {
            let text = format!("{low}-{}:{first}-{}", low + count, first + count);
            let mappings = parse(&text).unwrap();
            prop_assert_eq!(mappings.len(), usize::from(count) + 1);
            for (nth, mapping) in (0..).zip(&mappings) {
                prop_assert_eq!(mapping.container, first + nth);
                prop_assert_eq!(mapping.host, HostPorts::Range(low + nth, low + nth));
            }
        }
    }
}
