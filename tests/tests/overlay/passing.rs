//! Containers that pass on what came through a tunnel.

use netpath_tests::lab::Lab;
use netpath_tests::lab::hosts::v4;

use crate::sizes::hosts;
use crate::{Place, make_big, run_server};

/// Aggregates that were dropped because a container passed them on, at all hooks.
fn dropped(lab: &Lab) -> u64 {
    let rows = lab.json(&["drops"]);
    let rows = rows.as_array().expect("rows").iter();
    let of_reason = rows.filter(|row| row["reason"] == "passed_on_aggregate");
    of_reason.filter_map(|row| row["packets"].as_u64()).sum()
}

/// The kernel's note that an aggregate came through a tunnel must not reach a card.
#[test]
fn a_container_passes_on_what_came_through_a_tunnel() {
    let hosts = hosts(false, "1500");
    let folder = hosts[1].dir().to_path_buf();
    let sum = make_big(&folder);
    run_server(&hosts[1], "server", "wide", &folder, &[]);
    let publish = ["-p", "8081:81", "-p", "8080:80"];
    run_server(&hosts[0], "middle", "wide", &folder, &publish);
    let middle = Place::Container(&hosts[0], "middle");
    let server = hosts[1].address("server", false);
    middle.pings(&server);
    let script = format!(
        "echo 1 > /proc/sys/net/ipv4/ip_forward
         iptables -t nat -A PREROUTING -p tcp --dport 81 -j DNAT --to-destination {server}:80
         iptables -t nat -A POSTROUTING -d {server} -j MASQUERADE"
    );
    middle.run(&["sh", "-ec", &script]).ok();
    let switch = hosts.switch_netns();
    let outside = Place::Namespace(switch.trim_start_matches("/run/netns/"));
    let here = v4(0);

    // What it sends itself is nobody's business, also when it has received from the tunnel.
    assert_eq!(middle.fetches(&server), sum);
    assert_eq!(outside.fetches_from(&format!("{here}:8080")), sum);
    assert_eq!(dropped(&hosts[0]), 0);

    assert_eq!(outside.fetches_from(&format!("{here}:8081")), sum);
    println!("{}", hosts[0].netpath(&["drops"]).ok());
    let noticed = dropped(&hosts[0]);
    assert!(noticed > 0, "aggregates were unwrapped by hand");
    // From now on the device unwraps them.
    assert_eq!(outside.fetches_from(&format!("{here}:8081")), sum);
    assert_eq!(middle.fetches(&server), sum);
    assert_eq!(dropped(&hosts[0]), noticed);
}
