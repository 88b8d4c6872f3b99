//! Networks and tunnels that several tests begin with.

use netpath_tests::lab::Lab;
use netpath_tests::lab::hosts::{Hosts, v4, v6};

/// The network's name.
pub const WIDE: &str = "wide";

/// Makes network [`WIDE`] on a host, with an IPv4 and an IPv6 subnet.
#[track_caller]
pub fn network(lab: &Lab, subnets: [&str; 2], options: &[&str]) {
    let create = ["network", "create", "-d", "overlay", WIDE];
    let subnets = ["--subnet", subnets[0], "--subnet", subnets[1]];
    lab.netpath(&[&create[..], &subnets, options].concat()).ok();
}

/// Tells a host that a neighbour with these addresses is behind another one.
#[track_caller]
pub fn neighbour(lab: &Lab, remote: &str, mac: &str, addresses: [&str; 2]) {
    for ip in addresses {
        let add = [
            "tunnel", "add", WIDE, "--remote", remote, "--mac", mac, "--ip", ip,
        ];
        lab.netpath(&add).ok();
    }
}

/// Tells a host that another one is the router of these subnets.
#[track_caller]
pub fn router(lab: &Lab, remote: &str, mac: Option<&str>, subnets: [&str; 2]) {
    for subnet in subnets {
        let mut add = vec![
            "tunnel", "add", WIDE, "--remote", remote, "--subnet", subnet,
        ];
        if let Some(mac) = mac {
            add.extend(["--mac", mac]);
        }
        lab.netpath(&add).ok();
    }
}

/// Two hosts with agents, each with subnets of its own, each the other's router: `10.NN.1.0/24`
/// and `fdNN:1::/64` on the first, `10.NN.2.0/24` and `fdNN:2::/64` on the second.
#[track_caller]
pub fn route(hosts: &mut Hosts, number: u8, underlay_v6: bool, options: &[&str]) {
    hosts.start_agents(&[0, 1]);
    let subnets = |nth: usize| {
        let nth = nth + 1;
        [
            format!("10.{number}.{nth}.0/24"),
            format!("fd{number}:{nth}::/64"),
        ]
    };
    for (nth, far) in [(0, 1u8), (1, 0)] {
        let [own4, own6] = subnets(nth);
        network(&hosts[nth], [&own4, &own6], options);
        let remote = if underlay_v6 { v6(far) } else { v4(far) };
        let [far4, far6] = subnets(far.into());
        router(&hosts[nth], &remote, None, [&far4, &far6]);
    }
}
