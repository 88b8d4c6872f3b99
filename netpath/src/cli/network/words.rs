//! Networks in Docker's words: the fields of `docker network inspect` and `docker network ls`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::api::types::{Member, Network};
use crate::container::names::short_id;

/// All about a network, as `docker network inspect` has it; what Docker does not know is under
/// `Netpath`.
pub(in crate::cli) fn inspected(network: &Network) -> Value {
    let config: Vec<Value> = network
        .addresses
        .iter()
        .map(|subnet| {
            let mut config = Map::new();
            config.insert("Subnet".into(), subnet.subnet.clone().into());
            if let Some(range) = &subnet.range {
                config.insert("IPRange".into(), range.clone().into());
            }
            if let Some(gateway) = subnet.gateway {
                config.insert("Gateway".into(), gateway.to_string().into());
            }
            if !subnet.aside.is_empty() {
                config.insert("AuxiliaryAddresses".into(), json!(subnet.aside));
            }
            config.into()
        })
        .collect();
    let containers: BTreeMap<&str, Value> = network
        .members
        .iter()
        .map(|member| (member.id.as_str(), container(member)))
        .collect();
    let mut options: BTreeMap<&str, &str> = network
        .options
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    let mtu = network.mtu.to_string();
    if network.name == "bridge" {
        // As Docker shows the one that it made itself.
        options.extend([
            ("com.docker.network.bridge.default_bridge", "true"),
            ("com.docker.network.bridge.enable_icc", "true"),
            ("com.docker.network.bridge.enable_ip_masquerade", "true"),
            ("com.docker.network.bridge.host_binding_ipv4", "0.0.0.0"),
            ("com.docker.network.bridge.name", network.device.as_str()),
            ("com.docker.network.driver.mtu", mtu.as_str()),
        ]);
    }
    let mut all = json!({
        "Name": network.name,
        "Id": network.id,
        "Created": time(network.created),
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": has(network, true),
        "EnableIPv6": has(network, false),
        "IPAM": {
            "Driver": "default",
            "Options": {},
            "Config": config,
        },
        "Internal": network.policy.internal,
        "Attachable": network.attachable,
        "Ingress": false,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": false,
        "Containers": containers,
        "Options": options,
        "Labels": network.labels,
    });
    if network.number != 0
        && let Value::Object(fields) = &mut all
    {
        let own = json!({
            "Number": network.number,
            "Device": network.device,
            "MacAddress": network.mac,
            "Mtu": network.mtu,
            "Policy": network.policy,
        });
        fields.insert("Netpath".into(), own);
    }
    all
}

fn container(member: &Member) -> Value {
    let address = |v4: bool| {
        let found = member
            .addresses
            .iter()
            .find(|text| text.contains('.') == v4);
        found.cloned().unwrap_or_default()
    };
    json!({
        "Name": member.container,
        "EndpointID": member.endpoint,
        "MacAddress": member.mac,
        "IPv4Address": address(true),
        "IPv6Address": address(false),
    })
}

/// A line of `docker network ls`, and the maps that it has beside its fields.
pub(super) fn listed(network: &Network, full: bool) -> (Value, Map<String, Value>) {
    let labels: Vec<String> = network
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let row = json!({
        "CreatedAt": created_at(network.created),
        "ID": if full { &network.id } else { short(&network.id) },
        "IPv4": has(network, true).to_string(),
        "IPv6": has(network, false).to_string(),
        "Internal": network.policy.internal.to_string(),
        "Labels": labels.join(","),
        "Name": name(network),
        "Driver": network.driver,
        "Scope": "local",
    });
    let mut methods = Map::new();
    methods.insert("Label".into(), json!(network.labels));
    // Ours, which Docker does not have.
    methods.insert("Subnets".into(), network.subnets.join(", ").into());
    methods.insert("Policy".into(), policy(network).into());
    (row, methods)
}

/// A network's name; of one of Docker's the name that Docker has for it, if it tells.
pub(super) fn name(network: &Network) -> &str {
    let docker = network.docker.as_ref();
    docker
        .and_then(|docker| docker.name.as_deref())
        .unwrap_or(&network.name)
}

/// What is not as usual about a network.
fn policy(network: &Network) -> String {
    match (&network.docker, network.policy.summary()) {
        (None, summary) => summary,
        (Some(_), summary) if summary.is_empty() => "Docker's".into(),
        (Some(_), summary) => format!("Docker's, {summary}"),
    }
}

/// The beginning of an id.
pub(super) fn short(id: &str) -> &str {
    short_id(id).unwrap_or(id)
}

fn has(network: &Network, v4: bool) -> bool {
    // Docker says so of `host` and `none`, too.
    let none = network.number == 0 && v4;
    none || network.subnets.iter().any(|text| text.contains('.') == v4)
}

/// Seconds since 1970 as RFC 3339 has them.
pub(in crate::cli) fn time(seconds: u64) -> String {
    stamp(seconds).to_string()
}

/// As Go prints a time.
fn created_at(seconds: u64) -> String {
    stamp(seconds)
        .strftime("%Y-%m-%d %H:%M:%S +0000 UTC")
        .to_string()
}

fn stamp(seconds: u64) -> Timestamp {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::SubnetView;

    #[test]
    fn times_are_written_as_docker_writes_them() {
        assert_eq!(time(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(created_at(1_700_000_000), "2023-11-14 22:13:20 +0000 UTC");
        assert!(!time(u64::MAX).is_empty());
    }

    #[test]
    fn a_network_has_dockers_fields() {
        let network = Network {
            name: "net".into(),
            id: "aabbccddeeff00112233".into(),
            number: 3,
            scope: "local".into(),
            driver: "bridge".into(),
            subnets: vec!["10.0.0.0/24".into(), "fd00::/64".into()],
            addresses: vec![SubnetView {
                subnet: "10.0.0.0/24".into(),
                range: Some("10.0.0.8/29".into()),
                gateway: Some("10.0.0.1".parse().unwrap()),
                aside: [("printer".to_owned(), "10.0.0.9".parse().unwrap())].into(),
            }],
            labels: [("a".to_owned(), "b".to_owned())].into(),
            ..Network::default()
        };
        let shown = inspected(&network);
        assert_eq!(
            shown["IPAM"]["Config"][0],
            json!({
                "Subnet": "10.0.0.0/24",
                "IPRange": "10.0.0.8/29",
                "Gateway": "10.0.0.1",
                "AuxiliaryAddresses": {"printer": "10.0.0.9"},
            })
        );
        assert_eq!(shown["EnableIPv6"], true);
        assert_eq!(shown["Labels"]["a"], "b");
        let (row, methods) = listed(&network, false);
        assert_eq!(row["ID"], "aabbccddeeff");
        assert_eq!(row["Labels"], "a=b");
        assert_eq!(methods["Label"]["a"], "b");
        assert_eq!(methods["Subnets"], "10.0.0.0/24, fd00::/64");
        assert_eq!(listed(&network, true).0["ID"], "aabbccddeeff00112233");
    }
}
