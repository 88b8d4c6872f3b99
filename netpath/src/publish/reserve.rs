//! Bound sockets that reserve the ports of the host.
//!
//! A packet for a published port never meets these sockets, the datapath takes it before.
//! They are there so that a second user of the port, whoever it is, gets "address already
//! in use", and so that we do if somebody else was first.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use netpath_common::tuple::Proto;
use socket2::{Domain, Socket, Type};

use super::owner::{Holder, find_holder};
use super::spec::{HostPorts, Mapping};
use super::{Binding, proto_name};
use crate::problem::{conflict, invalid};

/// A binding and the socket that holds its port.
#[derive(Debug)]
pub struct Reservation {
    /// What is reserved.
    pub binding: Binding,
    _socket: Socket,
}

/// The ports that may be given out when a user names none.
#[derive(Clone, Debug)]
pub struct EphemeralPorts {
    ports: Vec<u16>,
    next: usize,
}

impl EphemeralPorts {
    /// The kernel's ephemeral range without the ports that the administrator reserved and
    /// without `snat`, the first and last port of masqueraded flows.
    pub fn read(snat: (u16, u16)) -> Self {
        let read = |name: &str| {
            fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default()
        };
        Self::parse(
            &read("ip_local_port_range"),
            &read("ip_local_reserved_ports"),
            snat,
        )
    }

    fn parse(range: &str, reserved: &str, snat: (u16, u16)) -> Self {
        let mut bounds = range.split_ascii_whitespace().map(str::parse::<u16>);
        let (low, high) = match (bounds.next(), bounds.next()) {
            (Some(Ok(low)), Some(Ok(high))) if 0 < low && low <= high => (low, high),
            // What the registry of ports calls dynamic (RFC 6335), as Docker does.
            _ => (49_153, 65_535),
        };
        let reserved: Vec<(u16, u16)> = reserved
            .trim()
            .split(',')
            .filter_map(|part| {
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                Some((first.parse().ok()?, last.parse().ok()?))
            })
            .chain([snat])
            .collect();
        let ports = (low..=high)
            .filter(|port| {
                !reserved
                    .iter()
                    .any(|(first, last)| (first..=last).contains(&port))
            })
            .collect();
        Self { ports, next: 0 }
    }

    /// All of them once, beginning after the one that was given out last.
    fn candidates(&self) -> impl Iterator<Item = (usize, u16)> {
        let indices = (self.next..self.ports.len()).chain(0..self.next.min(self.ports.len()));
        indices.filter_map(|index| Some((index, *self.ports.get(index)?)))
    }
}

/// Reserves one binding.
///
/// # Errors
/// The kernel's; `AddrInUse` if somebody has it.
pub fn reserve_binding(binding: Binding) -> io::Result<Reservation> {
    let address = SocketAddr::new(binding.host_ip, binding.host_port);
    let kind = if binding.proto == Proto::Udp {
        Type::DGRAM
    } else {
        Type::STREAM
    };
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        // The IPv4 half of a wildcard is a binding of its own.
        socket.set_only_v6(true)?;
    }
    if kind == Type::DGRAM {
        // Datagrams for the port that the datapath leaves to the host (there should be
        // none) would pile up here; the kernel rounds up to its minimum.
        socket.set_recv_buffer_size(1)?;
    }
    // Without SO_REUSEADDR, which would let every listener of the host that sets it, and
    // nearly all do, take the port from us. Without listen, which would answer.
    socket.bind(&address.into())?;
    Ok(Reservation {
        binding,
        _socket: socket,
    })
}

/// Reserves every mapping, or nothing.
///
/// `v4` and `v6` tell which families the container has, `host` which addresses are the
/// host's, and `holder` names the container that has a binding. A port that masqueraded flows
/// may have, too, is fine: the datapath gives no published port to a new flow.
///
/// # Errors
/// A sentence about the first mapping that cannot be had.
pub fn reserve_all(
    mappings: &[Mapping],
    (v4, v6): (bool, bool),
    host: &[IpAddr],
    ephemeral: &mut EphemeralPorts,
    holder: &dyn Fn(&Binding) -> Option<String>,
) -> Result<Vec<Reservation>> {
    let mut reservations: Vec<Reservation> = Vec::new();
    for mapping in mappings {
        let addresses = addresses(mapping, (v4, v6), host)?;
        reservations.extend(match mapping.host {
            HostPorts::Ephemeral => first_free_ephemeral(mapping, &addresses, ephemeral)?,
            HostPorts::Range(low, high) => {
                let known = |binding: &Binding| {
                    if reservations
                        .iter()
                        .any(|held| held.binding.collides(binding))
                    {
                        return Some(Holder::Itself);
                    }
                    holder(binding).map(Holder::Container)
                };
                first_free(mapping, &addresses, low, high, &known)?
            }
        });
    }
    Ok(reservations)
}

/// The addresses of the host that a mapping takes.
fn addresses(mapping: &Mapping, (v4, v6): (bool, bool), host: &[IpAddr]) -> Result<Vec<IpAddr>> {
    let Some(address) = mapping.host_ip else {
        let both = [
            (v4, IpAddr::from(Ipv4Addr::UNSPECIFIED)),
            (v6, Ipv6Addr::UNSPECIFIED.into()),
        ];
        return Ok(both
            .into_iter()
            .filter_map(|(has, address)| has.then_some(address))
            .collect());
    };
    if !(if address.is_ipv4() { v4 } else { v6 }) {
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        return Err(invalid(format!(
            "cannot publish port {} on {address}: the container has no {family} address",
            mapping.container
        )));
    }
    if !address.is_unspecified() && !address.is_loopback() && !host.contains(&address) {
        return Err(invalid(format!(
            "cannot publish port {} on {address}: it is not an address of this host",
            mapping.container
        )));
    }
    Ok(vec![address])
}

/// Reserves one port on all addresses of a mapping; `Err` inside tells which binding the
/// kernel refused.
fn try_port(
    mapping: &Mapping,
    addresses: &[IpAddr],
    port: u16,
) -> Result<Vec<Reservation>, (Binding, io::Error)> {
    addresses
        .iter()
        .map(|address| {
            let binding = Binding {
                host_ip: *address,
                host_port: port,
                container_port: mapping.container,
                proto: mapping.proto,
            };
            reserve_binding(binding).map_err(|error| (binding, error))
        })
        .collect()
}

fn first_free(
    mapping: &Mapping,
    addresses: &[IpAddr],
    low: u16,
    high: u16,
    known: &dyn Fn(&Binding) -> Option<Holder>,
) -> Result<Vec<Reservation>> {
    for port in low..=high {
        match try_port(mapping, addresses, port) {
            Ok(reservations) => return Ok(reservations),
            Err((_, error)) if in_use(&error) && port < high => {}
            Err((binding, error)) if in_use(&error) => {
                let holder =
                    known(&binding).or_else(|| find_holder(binding.proto, binding.host_ip, port));
                let by = holder
                    .map(|holder| format!(" {holder}"))
                    .unwrap_or_default();
                let proto = proto_name(binding.proto);
                return Err(conflict(if low == high {
                    format!(
                        "port {port}/{proto} on {} is already in use{by}",
                        show(binding.host_ip)
                    )
                } else {
                    format!(
                        "all ports {low}-{high}/{proto} on {} are in use, the last{by}",
                        show(binding.host_ip)
                    )
                }));
            }
            Err(failed) => return Err(refused(failed)),
        }
    }
    // Ranges are never empty, the loop returned.
    Ok(Vec::new())
}

fn first_free_ephemeral(
    mapping: &Mapping,
    addresses: &[IpAddr],
    ephemeral: &mut EphemeralPorts,
) -> Result<Vec<Reservation>> {
    let mut found = None;
    for (index, port) in ephemeral.candidates() {
        match try_port(mapping, addresses, port) {
            Ok(reservations) => {
                found = Some((index, reservations));
                break;
            }
            Err((_, error)) if in_use(&error) => {}
            Err(failed) => return Err(refused(failed)),
        }
    }
    let Some((index, reservations)) = found else {
        return Err(conflict(format!(
            "no ephemeral port is free for container port {}/{}, name a host port",
            mapping.container,
            proto_name(mapping.proto)
        )));
    };
    ephemeral.next = index + 1;
    Ok(reservations)
}

fn in_use(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

fn refused((binding, error): (Binding, io::Error)) -> anyhow::Error {
    let sentence = format!(
        "cannot reserve port {}/{} on {}",
        binding.host_port,
        proto_name(binding.proto),
        show(binding.host_ip)
    );
    anyhow::Error::new(error).context(sentence)
}

/// An address as it stands before a port: IPv6 in brackets.
fn show(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;
    use crate::publish::parse;

    const SNAT: (u16, u16) = (16_384, 32_767);

    /// Tests run at the same time: each looks for ports from another `start`.
    fn reserve_from(start: usize, text: &str, families: (bool, bool)) -> Result<Vec<Reservation>> {
        let mut ephemeral = EphemeralPorts::read(SNAT);
        ephemeral.next = start;
        reserve_all(&parse(text)?, families, &[], &mut ephemeral, &|_| None)
    }

    fn reserve(text: &str, families: (bool, bool)) -> Result<Vec<Reservation>> {
        reserve_from(0, text, families)
    }

    #[test]
    fn the_port_is_really_taken() {
        let held = reserve_from(1000, "80", (true, true)).unwrap();
        assert_eq!(held.len(), 2);
        let port = held[0].binding.host_port;
        assert_eq!(held[1].binding.host_port, port);
        assert!(TcpListener::bind(("0.0.0.0", port)).is_err());
        assert!(TcpListener::bind(("127.0.0.1", port)).is_err());
        assert!(TcpListener::bind(("::1", port)).is_err());
        let error = reserve(&format!("{port}:80"), (true, false))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&format!("port {port}/tcp on 0.0.0.0 is already in use")),
            "{error}"
        );
        drop(held);
        assert!(reserve(&format!("{port}:80"), (true, true)).is_ok());
    }

    #[test]
    fn a_port_cannot_be_published_twice() {
        let free = reserve_from(5000, "80", (true, false)).unwrap()[0]
            .binding
            .host_port;
        let mut mappings = parse(&format!("{free}:80")).unwrap();
        mappings.extend(parse(&format!("127.0.0.1:{free}:81")).unwrap());
        let mut ephemeral = EphemeralPorts::read(SNAT);
        let all = reserve_all(&mappings, (true, true), &[], &mut ephemeral, &|_| None);
        assert!(all.unwrap_err().to_string().contains("published twice"));
    }

    #[test]
    fn conflicts_name_the_holder() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let error = reserve(&format!("{port}:53/udp"), (true, false))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&format!("(pid {})", std::process::id())),
            "{error}"
        );
    }

    #[test]
    fn a_range_gives_the_first_free() {
        let held = reserve_from(3000, "127.0.0.1::80", (true, false)).unwrap();
        let port = held[0].binding.host_port;
        let next = reserve(&format!("127.0.0.1:{port}-65535:80"), (true, false)).unwrap();
        assert!(next[0].binding.host_port > port);
    }

    #[test]
    fn bad_addresses_are_refused() {
        for (text, part) in [
            ("192.0.2.1:8080:80", "not an address of this host"),
            ("[::1]:8080:80", "no IPv6 address"),
        ] {
            let error = reserve(text, (true, false)).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn ephemeral_ports_leave_out_what_is_reserved() {
        let ports = EphemeralPorts::parse("100 110\n", "101,103-105\n", (108, 200));
        assert_eq!(ports.ports, [100, 102, 106, 107]);
        let ports = EphemeralPorts::parse("", "", (16_384, 32_767));
        assert_eq!(
            (ports.ports[0], ports.ports.len()),
            (49_153, 65_535 - 49_153 + 1)
        );
    }
}
