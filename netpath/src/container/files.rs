//! A container's `resolv.conf` and `hosts`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use crate::dns::options::NameOptions;
use crate::dns::{ADDRESS, options};

/// Name servers of a container whose host has none that it could reach: Google's, like
/// Docker's.
const FALLBACK: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8)),
    IpAddr::V4(Ipv4Addr::new(8, 8, 4, 4)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8844)),
];

/// The host's file, unless the agent is told another.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";
/// systemd-resolved's list of the real servers, beside a stub on 127.0.0.53.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// The host's `resolv.conf`, or the file with the real servers if it only names
/// systemd-resolved's stub.
pub fn host_resolv_conf(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    if nameservers(&text).all(|server| server.to_string() == "127.0.0.53")
        && let Ok(real) = fs::read_to_string(RESOLVED)
    {
        return real;
    }
    text
}

/// The name servers of a `resolv.conf`.
pub fn nameservers(text: &str) -> impl Iterator<Item = IpAddr> {
    text.lines().filter_map(nameserver).flatten()
}

/// `None` if the line names no server; `Some(None)` if it is one that cannot be read.
fn nameserver(line: &str) -> Option<Option<IpAddr>> {
    let mut words = line.split_ascii_whitespace();
    if words.next() != Some("nameserver") {
        return None;
    }
    let address = words.next().unwrap_or_default();
    // A zone (fe80::1%eth0) names an interface that the container does not have.
    Some(address.parse().ok())
}

/// The first word of a line: what it is about.
fn keyword(line: &str) -> &str {
    line.split_ascii_whitespace().next().unwrap_or_default()
}

/// The `resolv.conf` of a container without names (on the default network), made of the host's:
/// without servers that it cannot reach; with the fallback if none is left. What was asked for
/// comes in the place of the host's.
pub fn resolv_conf(
    host: &str,
    reachable: impl Fn(&IpAddr) -> bool,
    options: &NameOptions,
) -> String {
    let mut text = String::new();
    let mut servers = 0;
    for line in host.lines() {
        match (keyword(line), nameserver(line)) {
            ("search" | "domain", _) if !options.search.is_empty() => {}
            ("options", _) if !options.options.is_empty() => {}
            (_, None) => {
                let _ = writeln!(text, "{line}");
            }
            (_, Some(_)) if !options.servers.is_empty() => {}
            (_, Some(Some(ip))) if reachable(&ip) => {
                servers += 1;
                let _ = writeln!(text, "nameserver {ip}");
            }
            (_, Some(_)) => {}
        }
    }
    for server in &options.servers {
        servers += 1;
        let _ = writeln!(text, "nameserver {server}");
    }
    if servers == 0 {
        for server in FALLBACK.iter().filter(|server| reachable(server)) {
            let _ = writeln!(text, "nameserver {server}");
        }
    }
    write_list(&mut text, "search", &search(&options.search));
    write_list(&mut text, "options", &options.options);
    text
}

/// The `resolv.conf` of a container with names: it asks netpath's server, which asks others.
pub fn resolv_conf_with_names(host: &str, options: &NameOptions) -> String {
    let mut text = String::from(
        "# Made by netpath, which answers for the networks' own names here and asks other\n\
         # servers for all others.\n",
    );
    let _ = writeln!(text, "nameserver {ADDRESS}");
    let search = if options.search.is_empty() {
        // The last of them counts (resolv.conf(5)).
        words(host, &["search", "domain"])
            .next_back()
            .unwrap_or_default()
    } else {
        search(&options.search)
    };
    write_list(&mut text, "search", &search);
    let mut set = options.options.clone();
    if set.is_empty() {
        set = words(host, &["options"]).flatten().collect();
    }
    if !set.iter().any(|option| option.starts_with("ndots:")) {
        // The networks' names have no dots and are not to be completed first.
        set.push("ndots:0".into());
    }
    write_list(&mut text, "options", &set);
    text
}

/// What stands behind some keywords, line by line.
fn words<'a>(
    host: &'a str,
    keywords: &'static [&'static str],
) -> impl DoubleEndedIterator<Item = Vec<String>> + use<'a> {
    let lines = host
        .lines()
        .filter(|line| keywords.contains(&keyword(line)));
    lines.map(|line| {
        let words = line.split_ascii_whitespace().skip(1);
        words.map(ToOwned::to_owned).collect()
    })
}

/// `.` alone stands for no domain at all.
fn search(wanted: &[String]) -> Vec<String> {
    let some = wanted.iter().filter(|domain| *domain != ".");
    some.cloned().collect()
}

fn write_list(text: &mut String, keyword: &str, words: &[String]) {
    if !words.is_empty() {
        let _ = writeln!(text, "{keyword} {}", words.join(" "));
    }
}

/// What a container's `hosts` says of itself and others.
#[derive(Debug)]
pub struct Hosts<'a> {
    /// Its host name.
    pub hostname: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Others: addresses with names.
    pub others: Vec<(IpAddr, String)>,
}

impl Hosts<'_> {
    /// The file.
    pub fn text(&self) -> String {
        let mut text = String::from(
            "127.0.0.1\tlocalhost\n\
             ::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::\tip6-localnet\n\
             ff00::\tip6-mcastprefix\n\
             ff02::1\tip6-allnodes\n\
             ff02::2\tip6-allrouters\n",
        );
        for (address, names) in &self.others {
            let _ = writeln!(text, "{address}\t{names}");
        }
        self.write_own(&mut text);
        text
    }

    /// A file that somebody may have changed, with the container's own lines as they are to be
    /// now. `earlier` are the addresses that it has had.
    pub fn update(&self, file: &str, earlier: &[IpAddr]) -> String {
        let known: BTreeSet<IpAddr> = earlier.iter().chain(&self.addresses).copied().collect();
        let own = self.own_names();
        let mut text = String::new();
        for line in file.lines() {
            let parts = line.split_once('\t');
            let is_own = parts.is_some_and(|(address, names)| {
                names == own && address.parse().is_ok_and(|ip| known.contains(&ip))
            });
            if !is_own {
                let _ = writeln!(text, "{line}");
            }
        }
        self.write_own(&mut text);
        text
    }

    fn write_own(&self, text: &mut String) {
        let names = self.own_names();
        for address in &self.addresses {
            let _ = writeln!(text, "{address}\t{names}");
        }
    }

    fn own_names(&self) -> String {
        let Self { hostname, name, .. } = self;
        let mut names = (*hostname).to_owned();
        if let Some((short, _)) = hostname.split_once('.')
            && !short.is_empty()
        {
            let _ = write!(names, " {short}");
        }
        if name != hostname && !names.split(' ').any(|known| known == *name) {
            let _ = write!(names, " {name}");
        }
        names
    }
}

/// The lines of `--add-host`; those for the host itself have each of its gateways' addresses.
pub fn extra_hosts(wanted: &[options::ExtraHost], gateways: &[IpAddr]) -> Vec<(IpAddr, String)> {
    let lines = wanted.iter().flat_map(|host| {
        let addresses = match host.address {
            Some(address) => vec![address],
            None => gateways.to_vec(),
        };
        let line = |address| (address, host.name.clone());
        addresses.into_iter().map(line)
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v4(ip: &IpAddr) -> bool {
        ip.is_ipv4() && both(ip)
    }

    fn both(ip: &IpAddr) -> bool {
        !ip.is_loopback()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn loopback_servers_are_left_out() {
        let host = "# made by hand\nsearch example.org\nnameserver 127.0.0.53\n\
                    nameserver 192.0.2.53\nnameserver 2001:db8::53\nnameserver fe80::1%eth0\n\
                    options edns0\n";
        let none = NameOptions::default();
        assert_eq!(
            resolv_conf(host, both, &none),
            "# made by hand\nsearch example.org\nnameserver 192.0.2.53\n\
             nameserver 2001:db8::53\noptions edns0\n"
        );
        assert!(!resolv_conf(host, v4, &none).contains("2001"));
    }

    #[test]
    fn without_servers_there_is_the_fallback() {
        let none = NameOptions::default();
        assert_eq!(
            resolv_conf("nameserver ::1\n", v4, &none),
            "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"
        );
        assert!(resolv_conf("", both, &none).contains("2001:4860:4860::8888"));
    }

    #[test]
    fn what_was_asked_for_is_in_the_hosts_place() {
        let host = "search example.org\nnameserver 192.0.2.53\noptions edns0\n";
        let options = NameOptions {
            servers: vec![ip("192.0.2.9")],
            search: vec!["a.example".into(), "b.example".into()],
            options: vec!["ndots:2".into()],
            ..NameOptions::default()
        };
        assert_eq!(
            resolv_conf(host, v4, &options),
            "nameserver 192.0.2.9\nsearch a.example b.example\noptions ndots:2\n"
        );
        let made = resolv_conf_with_names(host, &options);
        let made: Vec<&str> = made.lines().skip(2).collect();
        assert_eq!(
            made,
            [
                "nameserver 127.0.0.11",
                "search a.example b.example",
                "options ndots:2"
            ]
        );
        let none = NameOptions {
            search: vec![".".into()],
            ..NameOptions::default()
        };
        assert!(!resolv_conf(host, v4, &none).contains("search"));
        assert!(!resolv_conf_with_names(host, &none).contains("search"));
    }

    #[test]
    fn a_container_with_names_keeps_the_hosts_domains() {
        let host = "domain old.example\nsearch a.example b.example\nnameserver 192.0.2.53\n\
                    options edns0 timeout:1\n";
        let made = resolv_conf_with_names(host, &NameOptions::default());
        assert!(
            made.ends_with(
                "nameserver 127.0.0.11\nsearch a.example b.example\n\
                 options edns0 timeout:1 ndots:0\n"
            ),
            "{made}"
        );
        let made = resolv_conf_with_names("options ndots:3\n", &NameOptions::default());
        assert!(made.ends_with("options ndots:3\n"), "{made}");
    }

    #[test]
    fn hosts_name_the_container() {
        let mut hosts = Hosts {
            hostname: "web.example.org",
            name: "box",
            addresses: vec![ip("172.17.0.2"), ip("fd00::2")],
            others: vec![(ip("10.0.0.1"), "db".into())],
        };
        let text = hosts.text();
        assert!(text.contains("172.17.0.2\tweb.example.org web box\n"));
        assert!(text.contains("fd00::2\tweb.example.org web box\n"));
        assert!(text.contains("10.0.0.1\tdb\n"));
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        (hosts.hostname, hosts.name) = ("a", "a");
        assert!(hosts.text().ends_with("fd00::2\ta\n"));
    }

    #[test]
    fn own_lines_follow_the_networks_and_others_stay() {
        let mut hosts = Hosts {
            hostname: "web",
            name: "web",
            addresses: vec![ip("10.1.0.2")],
            others: Vec::new(),
        };
        let mut text = hosts.text();
        text.push_str("10.1.0.2\tmine\n192.0.2.1 other\n");
        let earlier = std::mem::replace(&mut hosts.addresses, vec![ip("10.2.0.2"), ip("fd02::2")]);
        let text = hosts.update(&text, &earlier);
        assert!(!text.contains("10.1.0.2\tweb"));
        assert!(text.ends_with("10.1.0.2\tmine\n192.0.2.1 other\n10.2.0.2\tweb\nfd02::2\tweb\n"));
        assert_eq!(hosts.update(&text, &hosts.addresses.clone()), text);
    }

    #[test]
    fn the_host_has_all_its_gateways() {
        let wanted = [
            options::ExtraHost {
                name: "host".into(),
                address: None,
            },
            options::ExtraHost {
                name: "db".into(),
                address: Some(ip("10.0.0.9")),
            },
        ];
        let lines = extra_hosts(&wanted, &[ip("10.0.0.1"), ip("fd00::1")]);
        let expected = [
            ("10.0.0.1", "host"),
            ("fd00::1", "host"),
            ("10.0.0.9", "db"),
        ];
        assert_eq!(lines, expected.map(|(a, n)| (ip(a), n.to_owned())));
    }

    proptest! {
        /// Whatever the host's file says, the container's names servers, and none on loopback.
        #[test]
        fn there_is_always_a_server(text in "([a-z#:. 0-9]{0,30}\n|nameserver [0-9a-f:.%]{1,12}\n){0,8}") {
            let made = resolv_conf(&text, both, &NameOptions::default());
            prop_assert!(nameservers(&made).count() > 0);
            prop_assert!(nameservers(&made).all(|server| !server.is_loopback()));
            let made = resolv_conf_with_names(&text, &NameOptions::default());
            prop_assert_eq!(nameservers(&made).collect::<Vec<_>>(), [IpAddr::from(ADDRESS)]);
        }
    }
}
