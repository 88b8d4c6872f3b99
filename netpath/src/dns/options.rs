//! What people ask for: `--dns`, `--dns-search`, `--dns-option`, `--add-host`, `--link`,
//! `--network-alias`.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::ADDRESS;
use crate::problem::{invalid, quoted};

/// What `--add-host` takes for an address of the host.
pub const HOST_GATEWAY: &str = "host-gateway";
/// Bytes of a name, and of one of its labels (RFC 1035).
const LONGEST: usize = 253;
const LONGEST_LABEL: usize = 63;
/// No list is longer than any sensible one.
const MANY: usize = 256;

/// The options as they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wishes {
    /// Name servers.
    pub dns: Vec<String>,
    /// Domains to complete names with.
    pub dns_search: Vec<String>,
    /// Options for `resolv.conf`.
    pub dns_option: Vec<String>,
    /// `NAME:ADDRESS` for the hosts file.
    pub add_host: Vec<String>,
    /// `CONTAINER[:NAME]`.
    pub link: Vec<String>,
}

/// The options that a container has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NameOptions {
    /// Name servers; without any, the host's.
    pub servers: Vec<IpAddr>,
    /// Domains to complete names with; without any, the host's. A single `.` means none.
    pub search: Vec<String>,
    /// Options of the resolver.
    pub options: Vec<String>,
    /// Lines of the hosts file.
    pub hosts: Vec<ExtraHost>,
    /// Names for other containers.
    pub links: Vec<Link>,
}

/// A name in the hosts file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraHost {
    /// The name.
    pub name: String,
    /// Its address; `None` is the host's.
    pub address: Option<IpAddr>,
}

/// A name for another container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The container.
    pub container: String,
    /// The name.
    pub alias: String,
}

impl Wishes {
    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The first option that is about files of the container, which an attached namespace does
    /// not have.
    pub fn about_files(&self) -> Option<&'static str> {
        let lists = [
            ("--dns-search", &self.dns_search),
            ("--dns-option", &self.dns_option),
            ("--add-host", &self.add_host),
        ];
        let set = lists.into_iter().find(|(_, list)| !list.is_empty());
        set.map(|(flag, _)| flag)
    }

    /// Reads them.
    ///
    /// # Errors
    /// A sentence that quotes what cannot be.
    pub fn parse(&self) -> Result<NameOptions> {
        for (flag, list) in [
            ("--dns", &self.dns),
            ("--dns-search", &self.dns_search),
            ("--dns-option", &self.dns_option),
            ("--add-host", &self.add_host),
            ("--link", &self.link),
        ] {
            if list.len() > MANY {
                return Err(invalid(format!(
                    "{flag} is given {} times, at most {MANY} make sense",
                    list.len()
                )));
            }
        }
        let each = |list: &[String], parse: fn(&str) -> Result<String>| {
            list.iter().map(|text| parse(text)).collect::<Result<_>>()
        };
        Ok(NameOptions {
            servers: self.dns.iter().map(|t| server(t)).collect::<Result<_>>()?,
            search: each(&self.dns_search, search)?,
            options: each(&self.dns_option, option)?,
            hosts: self
                .add_host
                .iter()
                .map(|t| host(t))
                .collect::<Result<_>>()?,
            links: self.link.iter().map(|t| link(t)).collect::<Result<_>>()?,
        })
    }
}

impl NameOptions {
    /// Whether somebody said how many dots a name must have to be asked for as it is, and more
    /// than none.
    pub fn wants_dots(&self) -> bool {
        let dots = self.options.iter().rev().find_map(|option| {
            let number = option.strip_prefix("ndots:")?;
            Some(number.parse::<u32>().unwrap_or(0))
        });
        dots.is_some_and(|dots| dots > 0)
    }
}

fn server(text: &str) -> Result<IpAddr> {
    let Ok(ip) = text.parse::<IpAddr>() else {
        return Err(invalid(format!(
            "--dns {} is not an IP address, name the server by its address",
            quoted(text)
        )));
    };
    if ip.is_unspecified() || ip.is_multicast() || ip == Ipv4Addr::BROADCAST {
        return Err(invalid(format!("--dns {ip} is no address of a server")));
    }
    if ip == ADDRESS {
        return Err(invalid(format!(
            "--dns {ip} is where netpath itself answers; leave it out, or name the server that \
             is to be asked beyond"
        )));
    }
    Ok(ip)
}

fn search(text: &str) -> Result<String> {
    if text == "." {
        return Ok(text.to_owned());
    }
    let domain = text.strip_suffix('.').unwrap_or(text);
    if is_name(domain) {
        return Ok(domain.to_owned());
    }
    Err(invalid(format!(
        "--dns-search {} is not a domain, write one like example.org (or . for none at all)",
        quoted(text)
    )))
}

fn option(text: &str) -> Result<String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "-_:.".contains(c);
    if !text.is_empty() && text.len() <= LONGEST_LABEL && text.chars().all(legal) {
        return Ok(text.to_owned());
    }
    Err(invalid(format!(
        "--dns-option {} is not an option of resolv.conf, write one like ndots:2 or edns0",
        quoted(text)
    )))
}

fn host(text: &str) -> Result<ExtraHost> {
    // As with Docker: an equals sign, or the first colon (an IPv6 address has more of them).
    let parts = text.split_once('=').or_else(|| text.split_once(':'));
    let Some((name, address)) = parts.filter(|(name, _)| is_name(name)) else {
        return Err(invalid(format!(
            "--add-host {} names no host, write NAME:ADDRESS",
            quoted(text)
        )));
    };
    let bare = address
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(address);
    let address = match bare.parse() {
        _ if address == HOST_GATEWAY => None,
        Ok(ip) => Some(ip),
        Err(_) => {
            return Err(invalid(format!(
                "--add-host {}: {} is neither an IP address nor {HOST_GATEWAY}",
                quoted(text),
                quoted(address)
            )));
        }
    };
    Ok(ExtraHost {
        name: name.to_owned(),
        address,
    })
}

fn link(text: &str) -> Result<Link> {
    let (container, alias) = text.split_once(':').unwrap_or((text, text));
    if is_name(container) && is_name(alias) {
        return Ok(Link {
            container: container.to_owned(),
            alias: alias.to_owned(),
        });
    }
    Err(invalid(format!(
        "--link {} names no container, write CONTAINER or CONTAINER:NAME",
        quoted(text)
    )))
}

/// Whether it can be asked for.
fn is_name(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let label =
        |label: &str| !label.is_empty() && label.len() <= LONGEST_LABEL && label.bytes().all(legal);
    text.len() <= LONGEST && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wishes(flag: &str, text: &str) -> Wishes {
        let mut wishes = Wishes::default();
        let list = match flag {
            "--dns" => &mut wishes.dns,
            "--dns-search" => &mut wishes.dns_search,
            "--dns-option" => &mut wishes.dns_option,
            "--add-host" => &mut wishes.add_host,
            _ => &mut wishes.link,
        };
        list.push(text.into());
        wishes
    }

    #[test]
    fn hosts_are_written_as_in_docker() {
        for (text, name, address) in [
            ("db:10.0.0.1", "db", Some("10.0.0.1")),
            ("db=10.0.0.1", "db", Some("10.0.0.1")),
            ("db:::1", "db", Some("::1")),
            ("db:fd00::1", "db", Some("fd00::1")),
            ("db=[fd00::1]", "db", Some("fd00::1")),
            ("my.host:host-gateway", "my.host", None),
        ] {
            let options = wishes("--add-host", text).parse().unwrap();
            assert_eq!(options.hosts[0].name, name);
            assert_eq!(
                options.hosts[0].address,
                address.map(|a| a.parse().unwrap())
            );
        }
    }

    #[test]
    fn dots_are_wanted_by_the_last_word() {
        let mut options = wishes("--dns-option", "ndots:2").parse().unwrap();
        assert!(options.wants_dots());
        options.options.push("ndots:0".into());
        assert!(!options.wants_dots());
        assert!(!NameOptions::default().wants_dots());
    }

    #[test]
    fn nonsense_is_quoted() {
        let long = "a".repeat(65_536);
        for (flag, text) in [
            ("--dns", "example.org"),
            ("--dns", "127.0.0.11"),
            ("--dns", "0.0.0.0"),
            ("--dns", "fe80::1%eth0"),
            ("--dns", ""),
            ("--dns-search", "a b"),
            ("--dns-search", "a..b"),
            ("--dns-search", "x\nnameserver 192.0.2.1"),
            ("--dns-option", "ndots:1 edns0"),
            ("--dns-option", "\n"),
            ("--add-host", "db"),
            ("--add-host", ":10.0.0.1"),
            ("--add-host", "a b:10.0.0.1"),
            ("--add-host", "db:10.0.0.256"),
            ("--add-host", "db:"),
            ("--link", ":x"),
            ("--link", "a:b:c"),
            ("--link", "a\n:b"),
            ("--dns", &long),
            ("--dns-search", &long),
            ("--add-host", &long),
            ("--link", &long),
        ] {
            let error = wishes(flag, text).parse().unwrap_err().to_string();
            assert!(error.starts_with(flag), "{error}");
            assert!(error.len() < 400 && !error.contains('\n'), "{error}");
        }
    }

    proptest! {
        /// Whatever is taken is one word of one line.
        #[test]
        fn what_is_taken_stays_on_its_line(text in "\\PC{0,40}|[a-z0-9:.=\\[\\] \n#-]{0,40}") {
            for flag in ["--dns-search", "--dns-option", "--add-host", "--link"] {
                let Ok(options) = wishes(flag, &text).parse() else { continue };
                let words = options.search.iter().chain(&options.options)
                    .chain(options.hosts.iter().map(|host| &host.name))
                    .chain(options.links.iter().map(|link| &link.alias));
                for word in words {
                    prop_assert!(!word.is_empty());
                    prop_assert!(word.chars().all(|c| c.is_ascii_graphic() && c != '#'));
                }
            }
        }
    }
}
