//! Docker's list of published ports, in our own words.

use std::net::IpAddr;

use anyhow::Result;
use netpath_common::tuple::Proto;

use super::wire::PortBinding;
use crate::problem::invalid;
use crate::publish::{HostPorts, Mapping, proto_name};

/// Reads a list of published ports.
///
/// # Errors
/// A sentence about the first that makes no sense.
pub fn mappings(list: &[PortBinding]) -> Result<Vec<Mapping>> {
    list.iter().map(mapping).collect()
}

fn mapping(binding: &PortBinding) -> Result<Mapping> {
    let proto = match binding.proto {
        6 => Proto::Tcp,
        17 => Proto::Udp,
        132 => Proto::Sctp,
        other => {
            return Err(invalid(format!(
                "port {} cannot be published: protocol number {other} is none of tcp, udp and \
                 sctp",
                binding.port
            )));
        }
    };
    let name = format!("{}/{}", binding.port, proto_name(proto));
    let refused = |why: String| invalid(format!("port {name} cannot be published: {why}"));
    if binding.port == 0 {
        return Err(refused("a container has no port 0".into()));
    }
    let host_ip = match binding.host_ip.as_str() {
        "" => None,
        text => Some(
            text.parse::<IpAddr>()
                .map_err(|_| refused(format!("\"{}\" is no IP address", text.escape_debug())))?,
        ),
    };
    let (low, high) = (binding.host_port, binding.host_port_end);
    let host = match (low, high) {
        (0, _) => HostPorts::Ephemeral,
        (low, 0) => HostPorts::Range(low, low),
        (low, high) if low <= high => HostPorts::Range(low, high),
        (low, high) => return Err(refused(format!("the range {low}-{high} runs backwards"))),
    };
    if proto == Proto::Sctp && host != HostPorts::Range(binding.port, binding.port) {
        return Err(refused(format!(
            "SCTP cannot be translated to another port, so the host port must be {}, too",
            binding.port
        )));
    }
    Ok(Mapping {
        host_ip,
        host,
        container: binding.port,
        proto,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Vec<Mapping>> {
        mappings(&serde_json::from_str::<Vec<PortBinding>>(json).unwrap())
    }

    #[test]
    fn numbers_are_protocols() {
        let list = r#"[
            {"Proto":6,"IP":"","Port":80,"HostIP":"","HostPort":8080,"HostPortEnd":8080},
            {"Proto":17,"IP":null,"Port":53,"HostIP":"127.0.0.1","HostPort":0,"HostPortEnd":0},
            {"Proto":132,"Port":9,"HostIP":"::","HostPort":9},
            {"Proto":6,"Port":81,"HostIP":null,"HostPort":9000,"HostPortEnd":9010}]"#;
        let expected = [
            (None, HostPorts::Range(8080, 8080), 80, Proto::Tcp),
            (Some("127.0.0.1"), HostPorts::Ephemeral, 53, Proto::Udp),
            (Some("::"), HostPorts::Range(9, 9), 9, Proto::Sctp),
            (None, HostPorts::Range(9000, 9010), 81, Proto::Tcp),
        ];
        let expected = expected.map(|(host_ip, host, container, proto)| Mapping {
            host_ip: host_ip.map(|text| text.parse().unwrap()),
            host,
            container,
            proto,
        });
        assert_eq!(read(list).unwrap(), expected);
    }

    #[test]
    fn refusals_name_the_port() {
        for (json, part) in [
            (r#"[{"Proto":33,"Port":80}]"#, "protocol number 33"),
            (r#"[{"Proto":6,"Port":0}]"#, "no port 0"),
            (
                r#"[{"Proto":6,"Port":80,"HostIP":"x"}]"#,
                "\"x\" is no IP address",
            ),
            (
                r#"[{"Proto":6,"Port":80,"HostPort":9,"HostPortEnd":8}]"#,
                "port 80/tcp cannot be published: the range 9-8 runs backwards",
            ),
            (
                r#"[{"Proto":132,"Port":80,"HostPort":81}]"#,
                "must be 80, too",
            ),
            (r#"[{"Proto":132,"Port":80}]"#, "must be 80, too"),
        ] {
            let error = read(json).unwrap_err().to_string();
            assert!(error.contains(part), "{json}: {error}");
        }
    }
}
