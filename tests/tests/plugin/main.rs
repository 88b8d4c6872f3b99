//! The socket that Docker calls, without a Docker.

mod endpoints;
mod malformed;
mod replay;
mod settle;

use netpath_tests::lab::Lab;
use netpath_tests::plugin::call;
use serde_json::{Value, json};

/// A number as Docker has them: 64 hexadecimal digits.
fn id(digits: &str) -> String {
    digits.repeat(64 / digits.len())
}

/// The request for a network.
fn new_network(id: &str, v4: &str, internal: bool) -> Value {
    let mut options = json!({ "com.docker.network.generic": {} });
    if internal {
        options["com.docker.network.internal"] = json!(true);
    }
    json!({
        "NetworkID": id,
        "Options": options,
        "IPv4Data": [{
            "AddressSpace": "LocalDefault",
            "Pool": format!("{v4}.0/24"),
            "Gateway": format!("{v4}.1/24"),
        }],
        "IPv6Data": [],
    })
}

/// The request for an endpoint.
fn new_endpoint(network: &str, id: &str, address: &str) -> Value {
    json!({
        "NetworkID": network,
        "EndpointID": id,
        "Interface": { "Address": address, "AddressIPv6": "", "MacAddress": "" },
        "Options": {},
    })
}

/// The request about an endpoint, with published TCP ports: (host, container).
fn with_ports(network: &str, endpoint: &str, ports: &[(u16, u16)]) -> Value {
    let ports: Vec<Value> = ports
        .iter()
        .map(|(host, port)| {
            json!({ "Proto": 6, "IP": "", "Port": port, "HostIP": "", "HostPort": host,
                    "HostPortEnd": host })
        })
        .collect();
    json!({
        "NetworkID": network,
        "EndpointID": endpoint,
        "SandboxKey": "/var/run/docker/netns/0123456789ab",
        "Options": { "com.docker.network.portmap": ports },
    })
}

/// The request about an endpoint that says no more than which.
fn of(network: &str, endpoint: &str) -> Value {
    json!({ "NetworkID": network, "EndpointID": endpoint })
}

/// A network with the address `10.7.0.2` for an endpoint, which has joined.
fn joined(lab: &Lab) -> (String, String) {
    let (network, endpoint) = (id("ab"), id("cd"));
    call(
        lab,
        "CreateNetwork",
        &new_network(&network, "10.7.0", false),
    );
    call(
        lab,
        "CreateEndpoint",
        &new_endpoint(&network, &endpoint, "10.7.0.2/24"),
    );
    call(lab, "Join", &of(&network, &endpoint));
    (network, endpoint)
}

/// How many rows a listing has.
#[track_caller]
fn rows(lab: &Lab, listing: &[&str]) -> usize {
    lab.json(listing).as_array().map(Vec::len).expect("rows")
}

/// Devices of the host that belong to endpoints.
fn devices(lab: &Lab) -> Vec<String> {
    let links = lab.host(&["ip", "-br", "link"]).ok();
    let ours = |line: &&str| line.starts_with("npv") || line.starts_with("npc");
    links.lines().filter(ours).map(str::to_owned).collect()
}
