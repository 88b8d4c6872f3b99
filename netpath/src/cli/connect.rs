//! How a container is connected: the options that `run`, `attach` and `network connect` share.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use super::key_value;
use super::name_args::NameArgs;
use crate::api::types::{Connect, Join};
use crate::problem::invalid;

/// The options of `run` and `attach`.
#[derive(Debug, clap::Args)]
pub struct ConnectArgs {
    /// Its name [default: a random one]
    #[arg(long)]
    name: Option<String>,

    /// A network, or several [default: bridge]; with more than a name as
    /// name=NET,ip=…,ip6=…,alias=…,mac-address=…,gw-priority=…,driver-opt=KEY=VALUE. Or one of
    /// host, none, container:NAME
    #[arg(long = "network", visible_alias = "net", value_name = "NETWORK")]
    networks: Vec<String>,

    /// Publish ports: [HOST-IP:][HOST-PORT[-PORT]:]CONTAINER-PORT[-PORT][/tcp|udp|sctp]
    #[arg(short, long, value_name = "SPEC")]
    pub publish: Vec<String>,

    /// Its IPv4 address in the first network [default: a free one]
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<Ipv4Addr>,

    /// Its IPv6 address in the first network [default: a free one]
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<Ipv6Addr>,

    /// MAC address of its interface in the first network [default: a random one]
    #[arg(long, value_name = "MAC")]
    mac_address: Option<String>,

    /// One more name that it has in the first network
    #[arg(
        long = "network-alias",
        visible_alias = "net-alias",
        value_name = "NAME"
    )]
    aliases: Vec<String>,

    #[command(flatten)]
    names: NameArgs,
}

impl ConnectArgs {
    /// The request.
    ///
    /// # Errors
    /// A network that makes no sense, or an address that is given twice.
    pub fn request(self) -> Result<Connect> {
        let mut networks = self
            .networks
            .iter()
            .map(|text| parse(text))
            .collect::<Result<Vec<_>>>()?;
        let options = Join {
            network: "bridge".into(),
            ip: self.ip,
            ip6: self.ip6,
            mac: self.mac_address,
            aliases: self.aliases,
            ..Join::default()
        };
        match networks.first_mut() {
            None => networks.push(options),
            Some(first) => {
                for (option, twice) in [
                    ("--ip", first.ip.is_some() && options.ip.is_some()),
                    ("--ip6", first.ip6.is_some() && options.ip6.is_some()),
                    (
                        "--mac-address",
                        first.mac.is_some() && options.mac.is_some(),
                    ),
                ] {
                    if twice {
                        return Err(invalid(format!(
                            "{option} is given twice, for itself and in --network {}",
                            first.network
                        )));
                    }
                }
                first.ip = first.ip.or(options.ip);
                first.ip6 = first.ip6.or(options.ip6);
                first.mac = first.mac.take().or(options.mac);
                first.aliases.extend(options.aliases);
            }
        }
        Ok(Connect {
            name: self.name,
            networks,
            publish: self.publish,
            names: self.names.into(),
        })
    }
}

/// The options of `network connect`.
#[derive(Debug, clap::Args)]
pub struct JoinArgs {
    /// The network
    network: String,

    /// The container
    pub container: String,

    /// Its IPv4 address there [default: a free one]
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<Ipv4Addr>,

    /// Its IPv6 address there [default: a free one]
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<Ipv6Addr>,

    /// MAC address of the new interface [default: a random one]
    #[arg(long, value_name = "MAC")]
    mac_address: Option<String>,

    /// One more name that it has there
    #[arg(long = "alias", value_name = "NAME")]
    aliases: Vec<String>,

    /// Of several networks the one with the highest number leads out
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    gw_priority: i32,

    /// An option of the interface: ifname=NAME, or sysctls=net.ipv4.conf.IFNAME.KEY=VALUE
    #[arg(long = "driver-opt", value_name = "KEY=VALUE", value_parser = key_value)]
    options: Vec<(String, String)>,
}

impl JoinArgs {
    /// The request.
    pub fn request(self) -> Join {
        Join {
            network: self.network,
            ip: self.ip,
            ip6: self.ip6,
            mac: self.mac_address,
            aliases: self.aliases,
            gw_priority: self.gw_priority,
            options: self.options.into_iter().collect(),
        }
    }
}

/// `NAME`, or in Docker's long form `name=NAME,ip=…`.
fn parse(text: &str) -> Result<Join> {
    let wrong = |why: String| {
        Err(invalid(format!(
            "\"{}\" names no network: {why}",
            text.escape_debug()
        )))
    };
    if !text.contains('=') {
        return Ok(Join {
            network: text.to_owned(),
            ..Join::default()
        });
    }
    let mut join = Join::default();
    let mut seen = BTreeMap::new();
    for field in fields(text) {
        let Some((key, value)) = field.split_once('=') else {
            return wrong(format!("\"{field}\" should be KEY=VALUE"));
        };
        let repeated = matches!(key, "alias" | "driver-opt");
        if !repeated && seen.insert(key.to_owned(), ()).is_some() {
            return wrong(format!("{key} is given twice"));
        }
        let owned = || value.to_owned();
        match key {
            "name" => join.network = owned(),
            "alias" => join.aliases.push(owned()),
            "mac-address" => join.mac = Some(owned()),
            "ip" | "ip6" | "gw-priority" => {
                let read = match key {
                    "ip" => value.parse().map(|ip| join.ip = Some(ip)).is_ok(),
                    "ip6" => value.parse().map(|ip| join.ip6 = Some(ip)).is_ok(),
                    _ => value.parse().map(|n| join.gw_priority = n).is_ok(),
                };
                if !read {
                    return wrong(format!("\"{value}\" cannot be the value of {key}"));
                }
            }
            "driver-opt" => match key_value(value) {
                Ok((key, value)) => {
                    join.options.insert(key, value);
                }
                Err(_) => return wrong(format!("\"{value}\" should be driver-opt=KEY=VALUE")),
            },
            _ => {
                return wrong(format!(
                    "{key} is none of name, ip, ip6, alias, mac-address, gw-priority, driver-opt"
                ));
            }
        }
    }
    if join.network.is_empty() {
        return wrong("name=NETWORK is missing".into());
    }
    Ok(join)
}

/// The fields of a line of CSV: a field in double quotes may contain commas.
fn fields(text: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for character in text.chars() {
        match (character, fields.last_mut()) {
            ('"', _) => quoted = !quoted,
            (',', _) if !quoted => fields.push(String::new()),
            (_, Some(field)) => field.push(character),
            (_, None) => {}
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_have_a_short_and_a_long_form() {
        assert_eq!(parse("net").unwrap().network, "net");
        assert_eq!(parse("container:web").unwrap().network, "container:web");
        let join = parse(
            "name=net,ip=10.0.0.9,ip6=fd00::9,alias=a,alias=b,mac-address=02:00:00:00:00:09,\
             gw-priority=-3,\"driver-opt=key=a,b\"",
        )
        .unwrap();
        assert_eq!(join.network, "net");
        assert_eq!(join.ip, Some("10.0.0.9".parse().unwrap()));
        assert_eq!(join.ip6, Some("fd00::9".parse().unwrap()));
        assert_eq!(
            (&join.aliases[..], join.gw_priority),
            (&["a".into(), "b".into()][..], -3)
        );
        assert_eq!(join.mac.as_deref(), Some("02:00:00:00:00:09"));
        assert_eq!(join.options["key"], "a,b");
    }

    #[test]
    fn long_forms_that_make_no_sense_are_refused() {
        for (text, part) in [
            ("ip=10.0.0.9", "name=NETWORK is missing"),
            ("name=net,ip=10.0.0", "\"10.0.0\""),
            ("name=net,ip=fd00::9", "ip"),
            ("name=net,banana=1", "banana is none of"),
            ("name=net,ip", "\"ip\" should be KEY=VALUE"),
            ("name=net,name=other", "name is given twice"),
            ("name=net,driver-opt=x", "driver-opt=KEY=VALUE"),
            ("name=net,gw-priority=high", "\"high\""),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
