//! docker0 and its rules as Docker 29 makes them, without Docker: the same chains in the same
//! order, by iptables and, as its other backend does, by nftables with verdict maps. What is
//! missing is docker-proxy, so there is no 127.0.0.1 here.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::ops::Range;

use anyhow::{Context as _, Result};

use super::super::namespace::feed;
use super::super::site::Site;
use super::host::{HOST, Host, OUTSIDE};
use super::{Ends, MANY, PUBLISHED, Path, SERVICE, Variant, Which, tool};

const BRIDGE: &str = "docker0";
/// The container whose ports are published.
const TARGET: [u8; 4] = [172, 17, 0, 2];

/// Who holds the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Chains of iptables.
    Iptables,
    /// Chains of iptables as Docker 27 and older made them: three rules a port, in the order
    /// of publishing.
    OldIptables,
    /// A table of nftables.
    Nftables,
}

impl Backend {
    /// The program that loads the rules.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Iptables | Self::OldIptables => "iptables-restore",
            Self::Nftables => "nft",
        }
    }

    /// The variant's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Iptables => "docker0+iptables",
            Self::OldIptables => "docker27+iptables",
            Self::Nftables => "docker0+nftables",
        }
    }

    fn load(self, host: &Host, rules: &str) -> Result<()> {
        let program = self.program();
        let path = tool(program).with_context(|| format!("{program} is not installed"))?;
        let mut command = host.host.command(path);
        if self == Self::Nftables {
            command.args(["-f", "-"]);
        }
        feed(command, rules).map(drop)
    }

    fn rules(self, ports: &[Port]) -> String {
        match self {
            Self::Iptables => iptables(ports),
            Self::OldIptables => old_iptables(ports),
            Self::Nftables => nftables(ports),
        }
    }
}

/// A published port.
#[derive(Clone, Copy, Debug)]
struct Port {
    proto: &'static str,
    host: u16,
    container: u16,
}

/// A host with two containers and a published port, for TCP and for UDP.
pub fn docker(site: &Site, backend: Backend, name: &str) -> Result<Variant> {
    let file = name.replace('/', "-");
    let host = Host::new(site, &file)?;
    host.add_bridge(BRIDGE)?;
    let first = host.add_container(site, &file, BRIDGE, 2)?;
    let second = host.add_container(site, &file, BRIDGE, 3)?;
    let ports = ["tcp", "udp"].map(|proto| Port {
        proto,
        host: PUBLISHED,
        container: SERVICE,
    });
    let rules = backend.rules(&ports);
    backend.load(&host, &rules)?;
    let mut variant = Variant::new(name, what(backend));
    variant.ports = 2;
    variant.rules = count(&rules);
    variant.paths.extend([
        (Path::Containers, Ends::direct(&second, &first, TARGET)),
        (Path::Outside, Ends::direct(&first, &host.outside, OUTSIDE)),
        (
            Path::Published,
            Ends {
                client: host.outside.clone(),
                server: first,
                listen: SocketAddr::from((TARGET, SERVICE)),
                dial: SocketAddr::from((HOST, PUBLISHED)),
            },
        ),
    ]);
    variant.host = Some(host.host);
    Ok(variant)
}

/// A host with one container and many published TCP ports.
pub fn scaled(site: &Site, backend: Backend, ports: u32) -> Result<Variant> {
    let name = format!("{}@{ports}", backend.name());
    let host = Host::new(site, &name)?;
    host.add_bridge(BRIDGE)?;
    let container = host.add_container(site, &name, BRIDGE, 2)?;
    let all: Vec<Port> = range(ports)
        .map(|port| Port {
            proto: "tcp",
            host: port,
            container: port,
        })
        .collect();
    let rules = backend.rules(&all);
    backend.load(&host, &rules)?;
    let mut variant = Variant::new(backend.name(), what(backend));
    variant.ports = ports;
    variant.rules = count(&rules);
    for (which, port) in ends_of(ports) {
        let ends = Ends {
            client: host.outside.clone(),
            server: container.clone(),
            listen: SocketAddr::from((TARGET, port)),
            dial: SocketAddr::from((HOST, port)),
        };
        variant.paths.insert(Path::Scaling(ports, which), ends);
    }
    variant.host = Some(host.host);
    Ok(variant)
}

/// The numbers of many ports.
pub fn range(ports: u32) -> Range<u16> {
    let count = u16::try_from(ports).unwrap_or(u16::MAX - MANY);
    MANY..MANY + count.min(u16::MAX - MANY)
}

/// The first and the last of many ports; of one port, the last.
pub fn ends_of(ports: u32) -> Vec<(Which, u16)> {
    let range = range(ports);
    let last = (Which::Last, range.end - 1);
    if ports > 1 {
        vec![(Which::First, range.start), last]
    } else {
        vec![last]
    }
}

fn what(backend: Backend) -> String {
    let rules = match backend {
        Backend::Iptables => "Docker 29's iptables backend",
        Backend::OldIptables => "Docker 27 and older",
        Backend::Nftables => "Docker 29's nftables backend",
    };
    format!("docker0 with the rules of {rules}, without Docker and docker-proxy")
}

/// Rules of a set: what iptables-save shows as `-A`, or lines of nftables that end in a verdict.
fn count(rules: &str) -> u64 {
    let is_rule = |line: &&str| {
        let line = line.trim();
        let verdicts = ["accept", "drop", "masquerade", "jump", "dnat", "vmap"];
        let ends = verdicts
            .iter()
            .any(|verdict| line.contains(&format!(" {verdict}")));
        // A chain's type names a policy, a map's elements name chains.
        line.starts_with("-A ")
            || (ends && !line.starts_with("type") && !line.starts_with("elements"))
    };
    rules.lines().filter(is_rule).count() as u64
}

fn address(of: [u8; 4]) -> String {
    std::net::Ipv4Addr::from(of).to_string()
}

/// The three tables of the iptables backend, in the form of iptables-restore.
fn iptables(ports: &[Port]) -> String {
    let target = address(TARGET);
    let mut text = format!(
        "*raw\n\
         -A PREROUTING -d {target}/32 ! -i {BRIDGE} -j DROP\n\
         COMMIT\n\
         *nat\n\
         :DOCKER - [0:0]\n\
         -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
         -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER\n\
         -A POSTROUTING -s 172.17.0.0/16 ! -o {BRIDGE} -j MASQUERADE\n"
    );
    for port in ports {
        let Port {
            proto,
            host,
            container,
        } = port;
        let _ = writeln!(
            text,
            "-A DOCKER ! -i {BRIDGE} -p {proto} -m {proto} --dport {host} -j DNAT \
             --to-destination {target}:{container}"
        );
    }
    text.push_str(
        "COMMIT\n\
         *filter\n\
         :FORWARD DROP [0:0]\n\
         :DOCKER - [0:0]\n\
         :DOCKER-BRIDGE - [0:0]\n\
         :DOCKER-CT - [0:0]\n\
         :DOCKER-FORWARD - [0:0]\n\
         :DOCKER-INTERNAL - [0:0]\n\
         :DOCKER-USER - [0:0]\n\
         -A FORWARD -j DOCKER-USER\n\
         -A FORWARD -j DOCKER-FORWARD\n",
    );
    // Docker puts each new one at the head of the chain.
    for port in ports.iter().rev() {
        let Port {
            proto, container, ..
        } = port;
        let _ = writeln!(
            text,
            "-A DOCKER -d {target}/32 ! -i {BRIDGE} -o {BRIDGE} -p {proto} -m {proto} \
             --dport {container} -j ACCEPT"
        );
    }
    let _ = write!(
        text,
        "-A DOCKER ! -i {BRIDGE} -o {BRIDGE} -j DROP\n\
         -A DOCKER-BRIDGE -o {BRIDGE} -j DOCKER\n\
         -A DOCKER-CT -o {BRIDGE} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         -A DOCKER-FORWARD -j DOCKER-CT\n\
         -A DOCKER-FORWARD -j DOCKER-INTERNAL\n\
         -A DOCKER-FORWARD -j DOCKER-BRIDGE\n\
         -A DOCKER-FORWARD -i {BRIDGE} -j ACCEPT\n\
         COMMIT\n"
    );
    text
}

/// The tables of Docker 27 and older.
fn old_iptables(ports: &[Port]) -> String {
    let target = address(TARGET);
    let mut nat = String::new();
    let mut hairpin = String::new();
    let mut open = String::new();
    for port in ports {
        let Port {
            proto,
            host,
            container,
        } = port;
        let _ = writeln!(
            nat,
            "-A DOCKER ! -i {BRIDGE} -p {proto} -m {proto} --dport {host} -j DNAT \
             --to-destination {target}:{container}"
        );
        let _ = writeln!(
            hairpin,
            "-A POSTROUTING -s {target}/32 -d {target}/32 -p {proto} -m {proto} \
             --dport {container} -j MASQUERADE"
        );
        let _ = writeln!(
            open,
            "-A DOCKER -d {target}/32 ! -i {BRIDGE} -o {BRIDGE} -p {proto} -m {proto} \
             --dport {container} -j ACCEPT"
        );
    }
    format!(
        "*nat\n\
         :DOCKER - [0:0]\n\
         -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
         -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER\n\
         -A POSTROUTING -s 172.17.0.0/16 ! -o {BRIDGE} -j MASQUERADE\n\
         {hairpin}\
         -A DOCKER -i {BRIDGE} -j RETURN\n\
         {nat}\
         COMMIT\n\
         *filter\n\
         :FORWARD DROP [0:0]\n\
         :DOCKER - [0:0]\n\
         :DOCKER-ISOLATION-STAGE-1 - [0:0]\n\
         :DOCKER-ISOLATION-STAGE-2 - [0:0]\n\
         :DOCKER-USER - [0:0]\n\
         -A FORWARD -j DOCKER-USER\n\
         -A FORWARD -j DOCKER-ISOLATION-STAGE-1\n\
         -A FORWARD -o {BRIDGE} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         -A FORWARD -o {BRIDGE} -j DOCKER\n\
         -A FORWARD -i {BRIDGE} ! -o {BRIDGE} -j ACCEPT\n\
         -A FORWARD -i {BRIDGE} -o {BRIDGE} -j ACCEPT\n\
         {open}\
         -A DOCKER-ISOLATION-STAGE-1 -i {BRIDGE} ! -o {BRIDGE} -j DOCKER-ISOLATION-STAGE-2\n\
         -A DOCKER-ISOLATION-STAGE-1 -j RETURN\n\
         -A DOCKER-ISOLATION-STAGE-2 -o {BRIDGE} -j DROP\n\
         -A DOCKER-ISOLATION-STAGE-2 -j RETURN\n\
         -A DOCKER-USER -j RETURN\n\
         COMMIT\n"
    )
}

/// The table of the nftables backend.
fn nftables(ports: &[Port]) -> String {
    let target = address(TARGET);
    let jumps = |map: &str| {
        format!(
            "  map {map}-jumps {{\n    type ifname : verdict\n    \
             elements = {{ \"{BRIDGE}\" : jump {map}__{BRIDGE} }}\n  }}\n"
        )
    };
    let mut nat = String::new();
    let mut open = String::new();
    for port in ports {
        let Port {
            proto,
            host,
            container,
        } = port;
        let _ = writeln!(
            nat,
            "    iifname != \"{BRIDGE}\" {proto} dport {host} counter dnat to {target}:{container}"
        );
        let _ = writeln!(
            open,
            "    ip daddr {target} {proto} dport {container} counter accept"
        );
    }
    // Chains that maps name must be there before the maps.
    format!(
        "table ip docker-bridges {{
  chain filter-forward-in__{BRIDGE} {{
    ct state established,related counter accept
    iifname \"{BRIDGE}\" counter accept
{open}    counter drop
  }}
  chain filter-forward-out__{BRIDGE} {{
    ct state established,related counter accept
    counter accept
  }}
  chain nat-postrouting-in__{BRIDGE} {{
  }}
  chain nat-postrouting-out__{BRIDGE} {{
    oifname != \"{BRIDGE}\" ip saddr 172.17.0.0/16 counter masquerade
  }}
{}{}{}{}  chain nat-prerouting-and-output {{
{nat}  }}
  chain filter-FORWARD {{
    type filter hook forward priority filter; policy accept;
    oifname vmap @filter-forward-in-jumps
    iifname vmap @filter-forward-out-jumps
  }}
  chain nat-OUTPUT {{
    type nat hook output priority -100; policy accept;
    ip daddr != 127.0.0.0/8 fib daddr type local counter jump nat-prerouting-and-output
  }}
  chain nat-POSTROUTING {{
    type nat hook postrouting priority srcnat; policy accept;
    iifname vmap @nat-postrouting-out-jumps
    oifname vmap @nat-postrouting-in-jumps
  }}
  chain nat-PREROUTING {{
    type nat hook prerouting priority dstnat; policy accept;
    fib daddr type local counter jump nat-prerouting-and-output
  }}
  chain raw-PREROUTING {{
    type filter hook prerouting priority raw; policy accept;
    ip daddr {target} iifname != \"{BRIDGE}\" counter drop
  }}
}}
",
        jumps("filter-forward-in"),
        jumps("filter-forward-out"),
        jumps("nat-postrouting-in"),
        jumps("nat-postrouting-out"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(count: u16) -> Vec<Port> {
        (0..count)
            .map(|i| Port {
                proto: "tcp",
                host: 8000 + i,
                container: 80 + i,
            })
            .collect()
    }

    #[test]
    fn every_port_has_its_rules() {
        for (backend, fixed, each) in [
            (Backend::Iptables, 13, 2),
            (Backend::OldIptables, 15, 3),
            (Backend::Nftables, 13, 2),
        ] {
            for n in [0, 1, 100] {
                let rules = backend.rules(&ports(n));
                assert_eq!(count(&rules), fixed + each * u64::from(n), "{rules}");
            }
        }
    }

    #[test]
    fn the_order_of_rules_is_dockers() {
        let rules = iptables(&ports(2));
        let at = |part: &str| rules.find(part).unwrap_or_else(|| panic!("{part}"));
        assert!(at("--dport 8000 -j DNAT") < at("--dport 8001 -j DNAT"));
        assert!(at("--dport 81 -j ACCEPT") < at("--dport 80 -j ACCEPT"));
        assert!(at("--dport 80 -j ACCEPT") < at("-A DOCKER ! -i docker0 -o docker0 -j DROP"));
    }

    #[test]
    fn many_ports_have_ends() {
        assert_eq!(ends_of(1), [(Which::Last, MANY)]);
        assert_eq!(
            ends_of(10_000),
            [(Which::First, MANY), (Which::Last, MANY + 9_999)]
        );
    }
}
