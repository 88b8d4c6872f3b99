//! Containers on the physical network: `underlay`, `macvlan`, cards that are added one by one.
//!
//! The "card" is the laboratory's uplink, or a cable to a switch that several hosts have in
//! common; the machines on the other side are namespaces.

mod cards;
mod dhcp;
mod foreign;
mod macvlan;
mod moving;
mod others;
mod routed;
mod segment;
mod stacked;
mod two_hosts;
mod underlay;

use netpath_tests::lab::{Lab, UPLINK};

/// The laboratory's own subnets, whose `.2` and `::2` are the outside machine.
const SUBNETS: [&str; 8] = [
    "--subnet",
    "192.0.2.0/24",
    "--gateway",
    "192.0.2.2",
    "--subnet",
    "2001:db8:1::/64",
    "--gateway",
    "2001:db8:1::2",
];

/// The options of a network whose containers have devices of the kernel's.
const STACKED: [&str; 2] = ["-o", "mode=macvlan"];

/// Who carries packets on an untagged wire: drivers with options of their networks.
const KINDS: [(&str, &[&str]); 3] = [("underlay", &[]), ("underlay", &STACKED), ("macvlan", &[])];

/// The same options as `attach` has them.
fn as_opt<'a>(options: &[&'a str]) -> Vec<&'a str> {
    let each = options.iter();
    each.map(|word| if *word == "-o" { "--opt" } else { word })
        .collect()
}

/// Makes a network on the uplink.
#[track_caller]
fn network(lab: &Lab, name: &str, driver: &str, options: &[&str]) {
    let parent = format!("parent={UPLINK}");
    let create = ["network", "create", name, "-d", driver, "-o", &parent];
    lab.netpath(&[&create[..], &SUBNETS, options].concat()).ok();
}

/// How many networks there are beside those that always are.
fn networks(lab: &Lab) -> usize {
    let text = lab.netpath(&["network", "ls"]).ok();
    let ours = ["macvlan", "ipvlan", "underlay"];
    text.lines()
        .filter(|line| ours.iter().any(|driver| line.contains(driver)))
        .count()
}

/// Starts a container with fixed addresses that end in a number.
#[track_caller]
fn container(lab: &Lab, name: &str, network: &str, number: u8) {
    let v4 = format!("192.0.2.{number}");
    let v6 = format!("2001:db8:1::{number}");
    lab.run(
        name,
        &["--network", network, "--ip", &v4, "--ip6", &v6],
        &["sleep", "600"],
    );
}

/// Words of a ping that must be answered once.
fn ping(address: &str) -> [&str; 6] {
    ["ping", "-c", "1", "-W", "2", address]
}

/// Words of a ping that is not to be answered.
fn short_ping(address: &str) -> [&str; 6] {
    ["ping", "-c", "1", "-W", "1", address]
}

/// The MAC address of a container's interface.
fn mac_of(lab: &Lab, container: &str, interface: &str) -> String {
    let text = lab
        .exec(container, &["ip", "-j", "link", "show", interface])
        .ok();
    let links: serde_json::Value = serde_json::from_str(&text).expect("JSON of ip");
    links[0]["address"].as_str().expect("a MAC").to_owned()
}

/// The MAC address of a device of the host.
fn mac_on(lab: &Lab, device: &str) -> String {
    let text = lab.host(&["ip", "-j", "link", "show", device]).ok();
    let links: serde_json::Value = serde_json::from_str(&text).expect("JSON of ip");
    links[0]["address"].as_str().expect("a MAC").to_owned()
}

/// Whether a flag like `ALLMULTI` is set on a device of the host.
fn has_flag(lab: &Lab, device: &str, flag: &str) -> bool {
    let text = lab.host(&["ip", "-j", "link", "show", device]).ok();
    let links: serde_json::Value = serde_json::from_str(&text).expect("JSON of ip");
    let flags = links[0]["flags"].as_array().expect("flags");
    flags.iter().any(|other| other == flag)
}
