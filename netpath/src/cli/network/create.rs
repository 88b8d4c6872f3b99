//! `netpath network create`, with Docker's words.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Result;
use clap::ArgAction;

use super::super::{Context, key_value};
use crate::api::types::{CreateNetwork, Network};
use crate::output::{Format, print, print_json};
use crate::policy::switch;
use crate::problem::invalid;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Its name
    name: String,
    /// What carries its packets [default: bridge]
    #[arg(short, long, value_name = "NAME")]
    driver: Option<String>,
    /// Its addresses, at most one IPv4 and one IPv6 prefix [default: a free IPv4 one]
    #[arg(long = "subnet", value_name = "CIDR", value_delimiter = ',')]
    subnets: Vec<String>,
    /// The part of a subnet that containers get addresses of [default: all of it]
    #[arg(long = "ip-range", value_name = "CIDR", value_delimiter = ',')]
    ranges: Vec<String>,
    /// The host's addresses in it [default: the first of each subnet or range]
    #[arg(long = "gateway", value_name = "IP", value_delimiter = ',')]
    gateways: Vec<IpAddr>,
    /// An address that no container gets, and what it is set aside for
    #[arg(long = "aux-address", value_name = "NAME=IP", value_delimiter = ',', value_parser = key_value)]
    aside: Vec<(String, String)>,
    /// Add IPv6, with a unique local prefix if none is named
    #[arg(long, value_name = "BOOL", value_parser = switch, action = ArgAction::Set,
          num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", hide_default_value = true)]
    ipv6: bool,
    /// Whether it has IPv4 [default: true]
    #[arg(long, value_name = "BOOL", value_parser = switch, num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    ipv4: Option<bool>,
    /// Largest packet in bytes [default: that of the uplinks]
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u32>,
    /// Let nothing out of it, and nothing from elsewhere in
    #[arg(long, value_name = "BOOL", value_parser = switch, action = ArgAction::Set,
          num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", hide_default_value = true)]
    internal: bool,
    /// Something to note at it
    #[arg(long = "label", value_name = "KEY[=VALUE]", value_parser = key_and_perhaps_value)]
    labels: Vec<(String, String)>,
    /// Options, also as -o: gateway_mode_ipv4, gateway_mode_ipv6 (nat, routed, nat-unprotected,
    /// isolated), icc, masquerade, host_ipv4, host_ipv6, host_binding_ipv4,
    /// trusted_host_interfaces, mtu, name, iface_prefix, ipv4, ipv6; or by their names in Docker
    #[arg(long = "opt", value_name = "KEY=VALUE", value_parser = key_and_perhaps_value)]
    options: Vec<(String, String)>,
    /// For Docker's users: any container may join any network here
    #[arg(long, value_name = "BOOL", value_parser = switch, action = ArgAction::Set,
          num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", hide_default_value = true)]
    attachable: bool,
    /// For Docker's users: networks are those of this host
    #[arg(long, value_name = "SCOPE", default_value = "local")]
    scope: String,
    /// For Docker's users: there is one allocator of addresses, the default
    #[arg(long, value_name = "NAME", default_value = "default")]
    ipam_driver: String,
    /// Refused: the allocator has no options
    #[arg(long = "ipam-opt", value_name = "KEY=VALUE", hide = true)]
    ipam_options: Vec<String>,
    /// Refused: networks without a network
    #[arg(long, hide = true)]
    config_only: bool,
    /// Refused with it
    #[arg(long, value_name = "NETWORK", hide = true)]
    config_from: Option<String>,
    /// Refused: there is no swarm
    #[arg(long, hide = true)]
    ingress: bool,
}

pub fn run(args: Args, context: &Context) -> Result<()> {
    check(&args)?;
    let new = CreateNetwork {
        name: args.name,
        driver: args.driver,
        subnets: args.subnets,
        ranges: args.ranges,
        gateways: args.gateways,
        aside: distinct("auxiliary address", args.aside)?
            .into_iter()
            .map(|(name, address)| match address.parse() {
                Ok(address) => Ok((name, address)),
                Err(_) => Err(invalid(format!(
                    "auxiliary address {name}={address} is not an IP address"
                ))),
            })
            .collect::<Result<_>>()?,
        ipv4: args.ipv4,
        ipv6: args.ipv6,
        mtu: args.mtu,
        internal: args.internal,
        options: distinct("option", args.options)?,
        // As in Docker the last of several wins.
        labels: args.labels.into_iter().collect(),
        attachable: args.attachable,
    };
    let network: Network = context.client().post("/v1/networks", &new)?;
    match context.output {
        Format::Json => print_json(&network),
        Format::Table => print(&format!("{}\n", network.id)),
    }
}

/// Refuses what Docker has and netpath does not.
fn check(args: &Args) -> Result<()> {
    if args.scope != "local" {
        return Err(invalid(format!(
            "scope {} is that of a swarm, and there is none: leave out --scope",
            args.scope.escape_debug()
        )));
    }
    if args.ipam_driver != "default" {
        return Err(invalid(format!(
            "there is no IPAM driver {}, leave out --ipam-driver",
            args.ipam_driver.escape_debug()
        )));
    }
    if let Some(option) = args.ipam_options.first() {
        return Err(invalid(format!(
            "the IPAM driver has no options, leave out --ipam-opt {}",
            option.escape_debug()
        )));
    }
    if args.config_only || args.config_from.is_some() {
        return Err(invalid(
            "there are no networks of mere configuration (--config-only, --config-from), write the \
             options at each network",
        ));
    }
    if args.ingress {
        return Err(invalid(
            "there is no swarm that a network could be the ingress of, leave out --ingress",
        ));
    }
    Ok(())
}

/// `KEY=VALUE`, or `KEY` for an empty value.
fn key_and_perhaps_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=').unwrap_or((text, "")) {
        ("", _) => Err("write KEY=VALUE".into()),
        (key, value) => Ok((key.to_owned(), value.to_owned())),
    }
}

/// The pairs by key; one that is given twice is a mistake.
fn distinct(what: &str, pairs: Vec<(String, String)>) -> Result<BTreeMap<String, String>> {
    let mut distinct = BTreeMap::new();
    for (key, value) in pairs {
        if let Some(other) = distinct.insert(key.clone(), value) {
            return Err(invalid(format!(
                "{what} {key} is given twice, first as {other}"
            )));
        }
    }
    Ok(distinct)
}
