//! Which ports of the host the mappings of a container get.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use netpath_common::tuple::Proto;
use nix::libc;

use super::ephemeral::EphemeralPorts;
use super::owner::{Holder, find_holder};
use super::reserve::{Reservation, is_taken, reserve, socket_limit};
use super::spec::{HostPorts, Mapping};
use super::{Binding, proto_name};
use crate::problem::{conflict, invalid};

/// What an allocation has to know.
pub struct Surroundings<'a> {
    /// Whether the container has an IPv4 address, and an IPv6 one.
    pub families: (bool, bool),
    /// The addresses of the host.
    pub host: &'a [IpAddr],
    /// Sockets that the agent holds for other containers.
    pub held: usize,
    /// Names the container that has a binding which collides with this one.
    pub holder: &'a dyn Fn(&Binding) -> Option<String>,
}

/// Mappings that get one number of port: they differ in nothing but the address.
struct Group<'a> {
    mapping: &'a Mapping,
    addresses: Vec<IpAddr>,
}

/// Reserves every mapping, or nothing.
///
/// A port that masqueraded flows may have, too, is fine: the datapath gives no published port
/// to a new flow.
///
/// # Errors
/// A sentence about the first mapping that cannot be had.
pub fn reserve_all(
    mappings: &[Mapping],
    surroundings: &Surroundings<'_>,
    ephemeral: &mut EphemeralPorts,
) -> Result<Vec<Reservation>> {
    let mut groups = group(mappings, surroundings)?;
    check_limit(&groups, surroundings.held)?;
    // What leaves the least choice comes first, so that nobody is given what another needs.
    groups.sort_by_key(|group| group.mapping.host.choice());
    let mut candidates = None;
    let mut reservations: Vec<Reservation> = Vec::with_capacity(mappings.len());
    for group in &groups {
        let reserved = match group.mapping.host {
            HostPorts::Range(low, high) => {
                let holder = |binding: &Binding| holder(binding, &reservations, surroundings);
                first_of_range(group, low, high, &holder)?
            }
            HostPorts::Ephemeral => {
                let candidates =
                    candidates.get_or_insert_with(|| ephemeral.candidates().into_iter());
                let (port, reserved) = next_free(group, candidates)?;
                ephemeral.gave(port);
                reserved
            }
        };
        reservations.extend(reserved);
    }
    Ok(reservations)
}

/// Puts mappings together that are to get the same port. An address that collides with one
/// that is there already begins a group of its own.
fn group<'a>(mappings: &'a [Mapping], surroundings: &Surroundings<'_>) -> Result<Vec<Group<'a>>> {
    let mut groups: Vec<Group<'a>> = Vec::with_capacity(mappings.len());
    for mapping in mappings {
        let addresses = addresses(mapping, surroundings)?;
        // A single port is the same anyway, and there may be thousands of them.
        if matches!(mapping.host, HostPorts::Range(low, high) if low == high) {
            groups.push(Group { mapping, addresses });
            continue;
        }
        let same = groups.iter_mut().find(|group| {
            let Mapping {
                host_ip: _,
                host,
                container,
                proto,
            } = group.mapping;
            (host, container, proto) == (&mapping.host, &mapping.container, &mapping.proto)
                && addresses
                    .iter()
                    .all(|new| group.addresses.iter().all(|old| !overlap(*old, *new)))
        });
        match same {
            Some(group) => group.addresses.extend(addresses),
            None => groups.push(Group { mapping, addresses }),
        }
    }
    Ok(groups)
}

/// Whether one port cannot be had at both.
fn overlap(one: IpAddr, other: IpAddr) -> bool {
    one.is_ipv4() == other.is_ipv4()
        && (one == other || one.is_unspecified() || other.is_unspecified())
}

/// The addresses of the host that a mapping takes.
fn addresses(mapping: &Mapping, surroundings: &Surroundings<'_>) -> Result<Vec<IpAddr>> {
    let (v4, v6) = surroundings.families;
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
    if !address.is_unspecified() && !address.is_loopback() && !surroundings.host.contains(&address)
    {
        return Err(invalid(format!(
            "cannot publish port {} on {address}: it is not an address of this host",
            mapping.container
        )));
    }
    Ok(vec![address])
}

/// Every reservation is an open file; the agent must keep some for itself.
fn check_limit(groups: &[Group<'_>], held: usize) -> Result<()> {
    let wanted: usize = groups.iter().map(|group| group.addresses.len()).sum();
    let Ok(limit) = socket_limit() else {
        return Ok(());
    };
    if (held + wanted) as u64 <= limit {
        return Ok(());
    }
    Err(too_many_files(format!(
        "publishing {wanted} ports needs as many open files, and of the {limit} that the agent \
         may have for ports {held} are in use"
    )))
}

fn too_many_files(sentence: String) -> anyhow::Error {
    conflict(format!(
        "{sentence}; publish fewer, or start the agent with a higher limit (LimitNOFILE= of its \
         service, \"ulimit -Hn\")"
    ))
}

fn bindings(group: &Group<'_>, port: u16) -> Vec<Binding> {
    let binding = |address: &IpAddr| Binding {
        host_ip: *address,
        host_port: port,
        container_port: group.mapping.container,
        proto: group.mapping.proto,
    };
    group.addresses.iter().map(binding).collect()
}

/// Who has a binding, as far as the agent itself knows.
fn holder(
    binding: &Binding,
    own: &[Reservation],
    surroundings: &Surroundings<'_>,
) -> Option<Holder> {
    if own
        .iter()
        .flat_map(Reservation::bindings)
        .any(|held| held.collides(binding))
    {
        return Some(Holder::Itself);
    }
    (surroundings.holder)(binding).map(Holder::Container)
}

fn first_of_range(
    group: &Group<'_>,
    low: u16,
    high: u16,
    holder: &dyn Fn(&Binding) -> Option<Holder>,
) -> Result<Vec<Reservation>> {
    for port in low..=high {
        match reserve(&bindings(group, port)) {
            Ok(reservations) => return Ok(reservations),
            Err((_, error)) if is_taken(&error) && port < high => {}
            Err((binding, error)) if is_taken(&error) => {
                let holder =
                    holder(&binding).or_else(|| find_holder(binding.proto, binding.host_ip, port));
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

fn next_free(
    group: &Group<'_>,
    candidates: &mut impl Iterator<Item = u16>,
) -> Result<(u16, Vec<Reservation>)> {
    for port in candidates {
        match reserve(&bindings(group, port)) {
            Ok(reservations) => return Ok((port, reservations)),
            Err((_, error)) if is_taken(&error) => {}
            Err(failed) => return Err(refused(failed)),
        }
    }
    Err(conflict(format!(
        "no ephemeral port is free for container port {}/{}, name a host port",
        group.mapping.container,
        proto_name(group.mapping.proto)
    )))
}

fn refused((binding, error): (Binding, io::Error)) -> anyhow::Error {
    let sentence = format!(
        "cannot reserve port {}/{} on {}",
        binding.host_port,
        proto_name(binding.proto),
        show(binding.host_ip)
    );
    if binding.proto == Proto::Sctp && error.raw_os_error() == Some(libc::EPROTONOSUPPORT) {
        return invalid(format!("{sentence}: this kernel has no SCTP"));
    }
    if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) {
        return too_many_files(format!("{sentence}: it would be one open file too many"));
    }
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

    fn nobody(_: &Binding) -> Option<String> {
        None
    }

    fn reserve_mappings(
        ephemeral: &mut EphemeralPorts,
        texts: &[&str],
        families: (bool, bool),
    ) -> Result<Vec<Binding>> {
        reserve_held(ephemeral, texts, families).map(|held| all(&held))
    }

    fn reserve_held(
        ephemeral: &mut EphemeralPorts,
        texts: &[&str],
        families: (bool, bool),
    ) -> Result<Vec<Reservation>> {
        let mut mappings = Vec::new();
        for text in texts {
            mappings.extend(parse(text)?);
        }
        let surroundings = Surroundings {
            families,
            host: &[],
            held: 0,
            holder: &nobody,
        };
        reserve_all(&mappings, &surroundings, ephemeral)
    }

    fn all(held: &[Reservation]) -> Vec<Binding> {
        held.iter().flat_map(Reservation::bindings).collect()
    }

    /// Tests run at the same time: each looks for ports behind another one.
    fn behind(last: u16) -> EphemeralPorts {
        EphemeralPorts::behind(SNAT, last)
    }

    const BOTH: (bool, bool) = (true, true);
    const V4: (bool, bool) = (true, false);

    #[test]
    fn the_port_is_really_taken() {
        let held = reserve_held(&mut behind(34_000), &["80"], BOTH).unwrap();
        let bindings = all(&held);
        assert_eq!(bindings.len(), 2);
        let port = bindings[0].host_port;
        assert_eq!(bindings[1].host_port, port);
        assert!(TcpListener::bind(("0.0.0.0", port)).is_err());
        assert!(TcpListener::bind(("127.0.0.1", port)).is_err());
        assert!(TcpListener::bind(("::1", port)).is_err());
        let wanted = format!("{port}:80");
        let again = || reserve_mappings(&mut behind(0), &[&wanted], V4);
        let error = again().unwrap_err().to_string();
        assert!(
            error.contains(&format!("port {port}/tcp on 0.0.0.0 is already in use")),
            "{error}"
        );
        drop(held);
        assert!(again().is_ok());
    }

    #[test]
    fn only_families_of_the_container_are_taken() {
        let held = reserve_held(&mut behind(35_000), &["80"], V4).unwrap();
        let port = all(&held)[0].host_port;
        assert!(TcpListener::bind(("127.0.0.1", port)).is_err());
        assert!(TcpListener::bind(("::1", port)).is_ok());
    }

    #[test]
    fn a_port_cannot_be_published_twice() {
        let mut ephemeral = behind(36_000);
        let free = reserve_mappings(&mut ephemeral, &["80"], V4).unwrap()[0].host_port;
        let texts = [&*format!("{free}:80"), &*format!("127.0.0.1:{free}:81")];
        let twice = reserve_mappings(&mut ephemeral, &texts, BOTH);
        assert!(twice.unwrap_err().to_string().contains("published twice"));
    }

    #[test]
    fn addresses_of_one_port_get_one_number() {
        let mut ephemeral = behind(37_000);
        let texts = [
            "127.0.0.1::80",
            "127.0.0.2::80",
            "[::1]::80",
            "127.0.0.1::81",
        ];
        let bindings = reserve_mappings(&mut ephemeral, &texts, BOTH).unwrap();
        let of = |port: u16| bindings.iter().filter(move |b| b.container_port == port);
        assert_eq!(of(80).count(), 3);
        let port = bindings[0].host_port;
        assert!(
            of(80).all(|binding| binding.host_port == port),
            "{bindings:?}"
        );
        assert!(
            of(81).all(|binding| binding.host_port != port),
            "{bindings:?}"
        );
        // So do ranges, of which the first that all can have is taken.
        let taken = UdpSocket::bind(("127.0.0.2", 0)).unwrap();
        let low = taken.local_addr().unwrap().port();
        let range = |ip: &str| format!("{ip}:{low}-65535:80/udp");
        let texts = [&*range("127.0.0.1"), &*range("127.0.0.2")];
        let bindings = reserve_mappings(&mut ephemeral, &texts, BOTH).unwrap();
        assert!(bindings[0].host_port > low);
        assert_eq!(bindings[0].host_port, bindings[1].host_port);
    }

    #[test]
    fn all_addresses_and_one_of_them_get_two_numbers() {
        let mut ephemeral = behind(38_000);
        let bindings = reserve_mappings(&mut ephemeral, &["80", "127.0.0.1::80"], BOTH).unwrap();
        assert_eq!(bindings.len(), 3);
        assert_eq!(bindings[0].host_port, bindings[1].host_port);
        assert_ne!(bindings[0].host_port, bindings[2].host_port);
    }

    #[test]
    fn named_ports_come_before_chosen_ones() {
        let mut ephemeral = behind(39_000);
        let next = reserve_mappings(&mut behind(39_000), &["80"], V4).unwrap()[0].host_port;
        let named = format!("{next}:81");
        let bindings = reserve_mappings(&mut ephemeral, &["80", &named], V4).unwrap();
        assert_eq!(bindings.len(), 2);
        assert!(
            bindings
                .iter()
                .any(|b| b.container_port == 81 && b.host_port == next)
        );
    }

    #[test]
    fn conflicts_name_the_holder() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let wanted = format!("{port}:53/udp");
        let error = reserve_mappings(&mut behind(0), &[&wanted], V4)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&format!("(pid {})", std::process::id())),
            "{error}"
        );
    }

    #[test]
    fn a_range_gives_the_first_free() {
        let held = reserve_held(&mut behind(41_000), &["127.0.0.1::80"], V4).unwrap();
        let port = all(&held)[0].host_port;
        let range = format!("127.0.0.1:{port}-65535:80");
        let next = reserve_mappings(&mut behind(0), &[&range], V4).unwrap();
        assert!(next[0].host_port > port);
    }

    #[test]
    fn bad_addresses_are_refused() {
        for (text, part) in [
            ("192.0.2.1:8080:80", "not an address of this host"),
            ("[::1]:8080:80", "no IPv6 address"),
        ] {
            let refused = reserve_mappings(&mut behind(0), &[text], V4);
            let error = refused.unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn more_ports_than_files_are_refused() {
        let mappings = parse("1-60000:1-60000").unwrap();
        let surroundings = Surroundings {
            families: BOTH,
            host: &[],
            held: usize::try_from(socket_limit().unwrap()).unwrap() - 1000,
            holder: &nobody,
        };
        let refused = reserve_all(&mappings, &surroundings, &mut behind(0));
        let error = refused.unwrap_err().to_string();
        assert!(
            error.contains("needs as many open files") && error.contains("LimitNOFILE"),
            "{error}"
        );
    }
}
