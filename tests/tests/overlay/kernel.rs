//! The kernel's own VXLAN on the other end.

use netpath_tests::lab::hosts::{Hosts, v4, v6};
use netpath_tests::lab::{Lab, eventually};

use crate::{Place, mac, make_big, run_server, serve, set_up, vtep_mac};

/// MAC address of the container behind the kernel's bridge.
pub const BOX_MAC: &str = "02:00:00:00:70:20";

/// Runs lines of `ip` on a host without netpath.
fn ip(lab: &Lab, lines: &str) {
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        lab.host(&[&["ip"], &words[..]].concat()).ok();
    }
}

/// A container of the kernel's: a namespace on a bridge, with addresses and a default route.
pub fn kernel_container(lab: &mut Lab, bridge: &str, addresses: [&str; 2], mtu: u32) -> String {
    let file = lab.add_namespace("box");
    let name = file.rsplit('/').next().unwrap().to_owned();
    ip(
        lab,
        &format!(
            "link add veth0 type veth peer name eth0 netns {name}
             link set veth0 mtu {mtu} master {bridge} up
             -n {name} link set eth0 mtu {mtu} address {BOX_MAC}
             -n {name} addr add {} dev eth0
             -n {name} addr add {} dev eth0 nodad
             -n {name} link set eth0 up
             -n {name} link set lo up",
            addresses[0], addresses[1]
        ),
    );
    name
}

/// Both ways: the first place is asked by the second and asks it.
fn both_ways(hosts: &mut Hosts, kernel: &str, far: [&str; 2]) {
    let folder = hosts[0].dir().to_path_buf();
    let sum = make_big(&folder);
    run_server(&hosts[0], "server", "wide", &folder, &[]);
    let script = serve(&folder);
    let server = crate::in_namespace(kernel, &["sh", "-c", &script]);
    hosts.lab(1).spawn(server);
    hosts[0].run("client", &["--network", "wide"], &["sleep", "600"]);
    let (ours, theirs) = (
        Place::Container(&hosts[0], "client"),
        Place::Namespace(kernel),
    );
    for (family_v6, far) in [(false, far[0]), (true, far[1])] {
        ours.talks_to(far, &sum);
        theirs.talks_to(&hosts[0].address("server", family_v6), &sum);
    }
}

/// A node as flannel's vxlan backend sets it up, netpath in the place of the other.
#[test]
fn a_node_as_flannel_makes_it() {
    let mut hosts = Hosts::new(2);
    hosts.start_agents(&[0]);
    let options = ["--opt", "vni=1", "--opt", "port=8472"];
    set_up::network(&hosts[0], ["10.60.1.0/24", "fd60:1::/64"], &options);
    let (our_mac, their_mac) = (vtep_mac(&hosts[0], 8472), "02:00:00:00:60:02");
    let (us, them) = (v4(0), v4(1));
    let subnets = ["10.60.2.0/24", "fd60:2::/64"];
    set_up::router(&hosts[0], &them, Some(their_mac), subnets);
    let lab = hosts.lab(1);
    ip(
        lab,
        &format!(
            "link add flannel.1 address {their_mac} type vxlan id 1 dev uplink0 local {them} \
                dstport 8472 nolearning
             link set flannel.1 mtu 1450
             addr add 10.60.2.0/32 dev flannel.1
             addr add fd60:2::/128 dev flannel.1 nodad
             link set flannel.1 up
             neigh replace 10.60.1.0 lladdr {our_mac} dev flannel.1 nud permanent
             neigh replace fd60:1:: lladdr {our_mac} dev flannel.1 nud permanent
             route replace 10.60.1.0/24 via 10.60.1.0 dev flannel.1 onlink
             -6 route replace fd60:1::/64 via fd60:1:: dev flannel.1 onlink
             link add cni0 type bridge forward_delay 0
             link set cni0 mtu 1450
             addr add 10.60.2.1/24 dev cni0
             addr add fd60:2::1/64 dev cni0 nodad
             link set cni0 up"
        ),
    );
    lab.host(&[
        "bridge",
        "fdb",
        "append",
        &our_mac,
        "dev",
        "flannel.1",
        "dst",
        &us,
    ])
    .ok();
    let forward = ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"];
    lab.host(&["sysctl", "-qw", forward[0], forward[1]]).ok();
    let name = kernel_container(lab, "cni0", ["10.60.2.5/24", "fd60:2::5/64"], 1450);
    for (family, gateway) in [("-4", "10.60.2.1"), ("-6", "fd60:2::1")] {
        let route = format!("{family} -n {name} route add default via {gateway}");
        ip(&hosts[1], &route);
    }
    both_ways(&mut hosts, &name, ["10.60.2.5", "fd60:2::5"]);
    // The hosts themselves: flannel's by its /32, ours by its gateway.
    for (family_v6, far) in [(false, "10.60.2.5"), (true, "fd60:2::5")] {
        let near = hosts[0].address("server", family_v6);
        for (lab, target) in [(&hosts[0], far), (&hosts[1], &*near)] {
            eventually("a host is answered", || {
                lab.host(&["ping", "-c", "1", "-W", "1", target]).code == Some(0)
            });
        }
    }
    // Nothing was masqueraded on the way.
    let flows = hosts[0].json(&["flows"]);
    assert_eq!(flows.as_array().unwrap().len(), 0, "{flows}");
}

/// A bridge with a VXLAN device whose forwarding entry floods to netpath: neighbours on one link.
fn bridge(underlay_v6: bool) {
    let mut hosts = Hosts::new(2);
    hosts.start_agents(&[0]);
    let options = ["--opt", "vni=42"];
    set_up::network(&hosts[0], ["10.70.0.0/24", "fd70::/64"], &options);
    let (us, them) = if underlay_v6 {
        (v6(0), v6(1))
    } else {
        (v4(0), v4(1))
    };
    let mtu = if underlay_v6 { 1430 } else { 1450 };
    let addresses = ["10.70.0.200", "fd70::200"];
    set_up::neighbour(&hosts[0], &them, BOX_MAC, addresses);
    let lab = hosts.lab(1);
    ip(
        lab,
        &format!(
            "link add br0 type bridge forward_delay 0
             link set br0 up
             link add vxlan0 type vxlan id 42 local {them} dstport 4789 nolearning
             link set vxlan0 mtu {mtu} master br0 up"
        ),
    );
    let everybody = "00:00:00:00:00:00";
    let flood = [
        "bridge", "fdb", "append", everybody, "dev", "vxlan0", "dst", &us,
    ];
    lab.host(&flood).ok();
    let name = kernel_container(lab, "br0", ["10.70.0.200/24", "fd70::200/64"], mtu);
    both_ways(&mut hosts, &name, addresses);
    let neighbours = Place::Namespace(&name).run(&["ip", "neigh"]).ok();
    assert!(
        neighbours.contains(&mac(&hosts[0], "server")),
        "{neighbours}"
    );
}

#[test]
fn a_bridge_with_a_forwarding_entry() {
    bridge(false);
}

#[test]
fn a_bridge_over_ipv6() {
    bridge(true);
}
