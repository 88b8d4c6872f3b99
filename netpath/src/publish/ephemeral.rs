//! The ports that are given out when a user names none.

use std::fs;

/// Where the kernel finds ports for sockets that do not care, first and last, if it does not
/// say: what the registry of ports calls dynamic (RFC 6335), as Docker does.
const DYNAMIC: (u16, u16) = (49_153, 65_535);

/// Gives out ports, upwards from the one that was given out last: a port that was just
/// released may still be remembered by its clients.
#[derive(Clone, Debug)]
pub struct EphemeralPorts {
    snat: (u16, u16),
    last: u16,
}

impl EphemeralPorts {
    /// Without `snat`, the first and last port of masqueraded flows.
    pub fn new(snat: (u16, u16)) -> Self {
        Self { snat, last: 0 }
    }

    /// What may be given out now, in order: the kernel's ephemeral range without the ports that
    /// the administrator reserved. All of them once, beginning behind the last.
    pub(super) fn candidates(&self) -> Vec<u16> {
        self.select(
            local_range().unwrap_or(DYNAMIC),
            &parse_ranges(&read("ip_local_reserved_ports")),
        )
    }

    fn select(&self, (low, high): (u16, u16), reserved: &[(u16, u16)]) -> Vec<u16> {
        let free = |port: &u16| {
            !reserved
                .iter()
                .chain([&self.snat])
                .any(|(first, last)| (first..=last).contains(&port))
        };
        let (before, behind): (Vec<u16>, Vec<u16>) = (low..=high)
            .filter(free)
            .partition(|port| *port <= self.last);
        behind.into_iter().chain(before).collect()
    }

    /// Notes what was given out.
    pub(super) fn gave(&mut self, port: u16) {
        self.last = port;
    }

    /// Begins behind a port, for tests that run at the same time.
    #[cfg(test)]
    pub(super) fn behind(snat: (u16, u16), last: u16) -> Self {
        Self { snat, last }
    }
}

fn read(name: &str) -> String {
    fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default()
}

/// The kernel's ephemeral range, first and last, if it makes sense.
pub fn local_range() -> Option<(u16, u16)> {
    parse_local_range(&read("ip_local_port_range"))
}

fn parse_local_range(text: &str) -> Option<(u16, u16)> {
    let mut bounds = text.split_ascii_whitespace().map(str::parse::<u16>);
    match (bounds.next(), bounds.next()) {
        (Some(Ok(low)), Some(Ok(high))) if 0 < low && low <= high => Some((low, high)),
        _ => None,
    }
}

/// Ranges of ports, each first and last, as `ip_local_reserved_ports` has them: `80,90-99`.
pub fn parse_ranges(text: &str) -> Vec<(u16, u16)> {
    text.trim()
        .split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some((first.parse().ok()?, last.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ports_are_left_out() {
        let ports = EphemeralPorts::new((108, 200));
        let reserved = parse_ranges("101,103-105\n");
        assert_eq!(ports.select((100, 110), &reserved), [100, 102, 106, 107]);
        assert!(parse_ranges("\n").is_empty());
    }

    #[test]
    fn they_go_round() {
        let mut ports = EphemeralPorts::new((1, 1));
        ports.gave(101);
        assert_eq!(ports.select((100, 103), &[]), [102, 103, 100, 101]);
        ports.gave(103);
        assert_eq!(ports.select((100, 103), &[]), [100, 101, 102, 103]);
        // The administrator moved the range.
        assert_eq!(ports.select((200, 201), &[]), [200, 201]);
        assert_eq!(ports.select((10, 11), &[]), [10, 11]);
        ports.gave(u16::MAX);
        assert_eq!(ports.select((65_534, u16::MAX), &[]), [65_534, 65_535]);
    }

    #[test]
    fn a_range_without_sense_is_none() {
        assert_eq!(parse_local_range("32768\t60999\n"), Some((32_768, 60_999)));
        for text in ["", "1", "0 5", "9 8", "a b"] {
            assert_eq!(parse_local_range(text), None, "{text}");
        }
    }
}
