//! Reads what the demonstrated programs print.

use std::net::{IpAddr, Ipv6Addr};

/// The addresses of `ip -o addr show`, without the prefix length.
pub fn addresses(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line
                .split_whitespace()
                .skip_while(|word| !word.starts_with("inet"));
            words.next()?;
            words.next()?.split('/').next()?.parse().ok()
        })
        .collect()
}

/// An address as socat prints it: IPv6 in brackets, and an IPv4 peer of an IPv6 socket mapped.
pub fn peer(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    let address: IpAddr = bare.parse().ok()?;
    Some(match address {
        IpAddr::V6(v6) => unmap(v6),
        v4 @ IpAddr::V4(_) => v4,
    })
}

fn unmap(address: Ipv6Addr) -> IpAddr {
    address
        .to_ipv4_mapped()
        .map_or(IpAddr::V6(address), IpAddr::V4)
}

/// How many replies a ping received.
pub fn pings_received(text: &str) -> Option<u32> {
    let summary = text
        .lines()
        .find(|line| line.contains("packets transmitted"))?;
    summary
        .split(", ")
        .find_map(|part| part.strip_suffix(" received")?.trim().parse().ok())
}

/// The local port of iperf3's data stream: `[  5] local A port P connected to B port 5201`.
pub fn iperf_port(text: &str) -> Option<u16> {
    let line = text.lines().find(|line| line.contains(" connected to "))?;
    let mut words = line.split_whitespace().skip_while(|word| *word != "port");
    words.next()?;
    words.next()?.parse().ok()
}

/// The lines of iperf3's sum.
pub fn iperf_sums(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| line.ends_with("sender") || line.ends_with("receiver"))
        .collect()
}

/// The entries of `bpftool map dump` that contain all of these numbers.
pub fn entries_with<'a>(dump: &'a str, numbers: &[u16]) -> Vec<&'a str> {
    let wanted: Vec<String> = numbers.iter().map(u16::to_string).collect();
    let dump = dump.trim().trim_start_matches('[').trim_end_matches(']');
    dump.split("\n    },{\n")
        .filter(|entry| {
            let words: Vec<&str> = entry.split(|c: char| !c.is_ascii_alphanumeric()).collect();
            wanted.iter().all(|number| words.contains(&number.as_str()))
        })
        .collect()
}

/// The rules among the output of `iptables-save` or `nft list ruleset`: everything but comments,
/// and the names and default policies of tables and chains that are empty.
pub fn rules(text: &str) -> Vec<&str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !(line.is_empty() || line.starts_with(['#', '*', ':']) || *line == "COMMIT"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_addresses() {
        let text = "2: eth0    inet 10.88.0.2/24 brd 10.88.0.255 scope global eth0\\   valid_lft\n\
                    2: eth0    inet6 fd88::2/64 scope global \\   valid_lft forever\n3: x\n";
        let expected: Vec<IpAddr> = ["10.88.0.2", "fd88::2"]
            .iter()
            .map(|text| text.parse().expect("address"))
            .collect();
        assert_eq!(addresses(text), expected);
    }

    #[test]
    fn reads_peers() {
        let expect = |text: &str, address: &str| {
            assert_eq!(peer(text), address.parse().ok(), "{text}");
        };
        expect("192.0.2.1\n", "192.0.2.1");
        expect(
            "[2001:0db8:0001:0000:0000:0000:0000:0001]\n",
            "2001:db8:1::1",
        );
        expect("[::ffff:192.0.2.1]", "192.0.2.1");
        assert_eq!(peer("nobody"), None);
    }

    #[test]
    fn reads_pings() {
        let text = "x\n3 packets transmitted, 2 received, 33% packet loss, time 402ms\n";
        assert_eq!(pings_received(text), Some(2));
        assert_eq!(pings_received("ping: unknown host"), None);
    }

    #[test]
    fn reads_iperf() {
        let text = "Connecting to host 192.0.2.2, port 5201\n\
                    [  5] local 10.88.0.3 port 43210 connected to 192.0.2.2 port 5201\n\
                    [  5]   0.00-2.00   sec  1 GBytes  9 Gbits/sec    0            sender\n";
        assert_eq!(iperf_port(text), Some(43210));
        assert_eq!(iperf_sums(text).len(), 1);
        assert_eq!(iperf_port("iperf3: error"), None);
    }

    #[test]
    fn picks_entries_of_a_dump() {
        let dump = "[{\n        \"key\": {\n            \"source_port\": 43210,\n            \
                    \"destination_port\": 5201\n        }\n    },{\n        \"key\": {\n            \
                    \"source_port\": 5201\n        }\n    }\n]\n";
        assert_eq!(entries_with(dump, &[43210, 5201]).len(), 1);
        assert_eq!(entries_with(dump, &[5201]).len(), 2);
        assert_eq!(entries_with(dump, &[4321]).len(), 0);
        assert_eq!(entries_with("[]", &[1]).len(), 0);
    }

    #[test]
    fn tells_rules_from_empty_tables() {
        assert!(rules("# Generated\n*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n").is_empty());
        assert_eq!(
            rules("*nat\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n").len(),
            1
        );
        assert_eq!(rules("table ip nat {\n}\n").len(), 2);
    }
}
