//! A container's `resolv.conf` and `hosts`.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;

/// Name servers of a container whose host has none that it could reach: Google's, like
/// Docker's.
const FALLBACK_V4: [&str; 2] = ["8.8.8.8", "8.8.4.4"];
const FALLBACK_V6: [&str; 2] = ["2001:4860:4860::8888", "2001:4860:4860::8844"];

/// systemd-resolved's list of the real servers, beside a stub on 127.0.0.53.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// The host's `resolv.conf`, or the file with the real servers if it only names
/// systemd-resolved's stub.
pub fn host_resolv_conf() -> String {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
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

/// A container's `resolv.conf`, made of the host's: without servers on loopback and, if
/// the container has no IPv6, without IPv6 servers; with the fallback if none is left.
pub fn resolv_conf(host: &str, v6: bool) -> String {
    let mut text = String::new();
    let mut servers = 0;
    for line in host.lines() {
        match nameserver(line) {
            None => {
                let _ = writeln!(text, "{line}");
            }
            Some(Some(ip)) if !ip.is_loopback() && !ip.is_unspecified() && (v6 || ip.is_ipv4()) => {
                servers += 1;
                let _ = writeln!(text, "nameserver {ip}");
            }
            Some(_) => {}
        }
    }
    if servers == 0 {
        let v6 = FALLBACK_V6.iter().filter(|_| v6);
        for server in FALLBACK_V4.iter().chain(v6) {
            let _ = writeln!(text, "nameserver {server}");
        }
    }
    text
}

/// A container's `hosts` file.
pub fn hosts(hostname: &str, name: &str, addresses: impl Iterator<Item = IpAddr>) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    let mut names = hostname.to_owned();
    if let Some((short, _)) = hostname.split_once('.')
        && !short.is_empty()
    {
        let _ = write!(names, " {short}");
    }
    if name != hostname && !names.split(' ').any(|known| known == name) {
        let _ = write!(names, " {name}");
    }
    for address in addresses {
        let _ = writeln!(text, "{address}\t{names}");
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn loopback_servers_are_left_out() {
        let host = "# made by hand\nsearch example.org\nnameserver 127.0.0.53\n\
                    nameserver 192.0.2.53\nnameserver 2001:db8::53\nnameserver fe80::1%eth0\n\
                    options edns0\n";
        assert_eq!(
            resolv_conf(host, true),
            "# made by hand\nsearch example.org\nnameserver 192.0.2.53\n\
             nameserver 2001:db8::53\noptions edns0\n"
        );
        assert!(!resolv_conf(host, false).contains("2001"));
    }

    #[test]
    fn without_servers_there_is_the_fallback() {
        assert_eq!(
            resolv_conf("nameserver ::1\n", false),
            "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"
        );
        assert!(resolv_conf("", true).contains("2001:4860:4860::8888"));
    }

    #[test]
    fn hosts_name_the_container() {
        let addresses = ["172.17.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let text = hosts("web.example.org", "box", addresses.into_iter());
        assert!(text.contains("172.17.0.2\tweb.example.org web box\n"));
        assert!(text.contains("fd00::2\tweb.example.org web box\n"));
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(hosts("a", "a", addresses.into_iter()).ends_with("fd00::2\ta\n"));
    }

    proptest! {
        /// Whatever the host's file says, the container's names servers, and none on loopback.
        #[test]
        fn there_is_always_a_server(text in "([a-z#:. 0-9]{0,30}\n|nameserver [0-9a-f:.%]{1,12}\n){0,8}") {
            let made = resolv_conf(&text, true);
            prop_assert!(nameservers(&made).count() > 0);
            prop_assert!(nameservers(&made).all(|server| !server.is_loopback()));
        }
    }
}
