//! Containers whose device is the kernel's own, stacked on the card (`mode=macvlan`).

use std::os::unix::fs::MetadataExt as _;

use netpath_tests::inside::{ask_tcp, serve};
use netpath_tests::lab::{HOST4, Lab, OUT4, UPLINK, eventually};

use super::{STACKED, container, network, ping};

/// An address behind the outside machine, which is no neighbour of anybody on the wire.
const BEYOND4: &str = "198.51.100.9";
/// The number of the first stacked device.
const FIRST: u64 = 1 << 30;

/// A container's interface as `ip` tells it.
fn link(lab: &Lab, name: &str) -> serde_json::Value {
    let text = lab.exec(name, &["ip", "-d", "-j", "link", "show", "eth0"]);
    serde_json::from_str(&text.ok()).expect("JSON of ip")
}

fn number(lab: &Lab, name: &str) -> u64 {
    link(lab, name)[0]["ifindex"].as_u64().expect("a number")
}

#[test]
fn a_containers_device_is_the_kernels_own() {
    let lab = Lab::new();
    let before = lab.host(&["ip", "-br", "link"]).ok().lines().count();
    network(&lab, "lan", "underlay", &STACKED);
    container(&lab, "a", "lan", 10);
    container(&lab, "b", "lan", 11);
    assert_eq!(link(&lab, "a")[0]["linkinfo"]["info_kind"], "macvlan");
    let numbers = [number(&lab, "a"), number(&lab, "b")];
    assert!(numbers.iter().all(|number| *number >= FIRST), "{numbers:?}");
    assert_ne!(numbers[0], numbers[1]);
    let after = lab.host(&["ip", "-br", "link"]).ok().lines().count();
    assert_eq!(after, before, "the host has no more devices than it had");
    let shown = lab.json(&["inspect", "a"]);
    assert!(!shown.to_string().contains("npv"), "{shown}");
    lab.netpath(&["rm", "-f", "a"]).ok();
    container(&lab, "a", "lan", 10);
    lab.outside(&ping("192.0.2.10")).ok();
}

#[test]
fn what_the_host_passes_on_goes_its_way() {
    let lab = Lab::new();
    network(&lab, "lan", "underlay", &STACKED);
    container(&lab, "a", "lan", 10);
    container(&lab, "b", "lan", 11);
    // The container takes the host for its router, which sends on by the card that it came from.
    lab.host(&["sysctl", "-qw", "net.ipv4.ip_forward=1"]).ok();
    let send_redirects = format!("net.ipv4.conf.{UPLINK}.send_redirects=0");
    lab.host(&["sysctl", "-qw", &send_redirects]).ok();
    lab.host(&["sysctl", "-qw", "net.ipv4.conf.all.send_redirects=0"])
        .ok();
    lab.host(&["ip", "route", "add", "198.51.100.0/24", "via", OUT4])
        .ok();
    lab.outside(&["ip", "addr", "replace", "198.51.100.9/32", "dev", "lo"])
        .ok();
    lab.exec(
        "a",
        &["ip", "route", "add", "198.51.100.0/24", "via", HOST4],
    )
    .ok();
    lab.exec("a", &ping(BEYOND4)).ok();
    serve(&lab.outside_netns(), "beyond", [7000]);
    let said = ask_tcp(&lab.namespace_of("a"), BEYOND4, 7000).unwrap();
    assert_eq!(said, "beyond 7000 192.0.2.10");
    // And back to another container, in the place of the wire.
    lab.exec("a", &["ip", "route", "add", "192.0.2.11/32", "via", HOST4])
        .ok();
    lab.exec("a", &ping("192.0.2.11")).ok();
}

#[test]
fn kinds_of_cards_meet_on_one_parent() {
    let lab = Lab::new();
    network(&lab, "lan", "underlay", &STACKED);
    container(&lab, "a", "lan", 10);
    lab.host(&["ip", "addr", "add", "10.66.0.1/24", "dev", UPLINK])
        .ok();
    lab.outside(&["ip", "addr", "add", "10.66.0.2/24", "dev", "eth0"])
        .ok();
    let parent = format!("parent={UPLINK}");
    let create = ["network", "create", "routed", "-d", "underlay", "-o"];
    let options = [&parent, "-o", "mode=l3", "--subnet", "10.66.0.0/24"];
    lab.netpath(&[&create[..], &options].concat()).ok();
    let options = ["--network", "routed", "--ip", "10.66.0.10"];
    lab.run("c", &options, &["sleep", "600"]);
    assert_eq!(link(&lab, "c")[0]["linkinfo"]["info_kind"], "veth");
    for (name, subnet) in [("a", "10.66.0.0/24"), ("c", "192.0.2.0/24")] {
        lab.exec(name, &["ip", "route", "replace", subnet, "dev", "eth0"])
            .ok();
    }
    lab.exec("a", &ping("10.66.0.10")).ok();
    lab.exec("c", &ping("192.0.2.10")).ok();
    lab.exec("c", &ping("10.66.0.2")).ok();
    for (netns, address) in [("a", OUT4), ("a", HOST4), ("c", "10.66.0.1")] {
        lab.exec(netns, &ping(address)).ok();
    }
}

#[test]
fn a_device_that_somebody_removed_is_made_anew() {
    let mut lab = Lab::new();
    network(&lab, "lan", "underlay", &STACKED);
    container(&lab, "a", "lan", 10);
    lab.exec("a", &["ip", "link", "del", "eth0"]).ok();
    // Whatever happens to a device of the host is a reason to look.
    let other = ["ip", "link", "add", "other0", "type", "veth"];
    lab.host(&other).ok();
    eventually("the container is back", || {
        lab.outside(&ping("192.0.2.10")).code == Some(0)
    });
    let inside = format!("--net={}", lab.namespace_of("a"));
    lab.kill_agent();
    lab.host(&["nsenter", &inside, "ip", "link", "del", "eth0"])
        .ok();
    lab.start_agent();
    lab.outside(&ping("192.0.2.10")).ok();
    lab.host(&["ip", "link", "del", "other0"]).ok();
}

#[test]
fn a_device_with_another_name_is_still_the_containers() {
    let mut lab = Lab::new();
    network(&lab, "lan", "underlay", &STACKED);
    container(&lab, "a", "lan", 10);
    container(&lab, "b", "lan", 11);
    let rename = |to: &str| {
        let inside = format!("--net={}", lab.namespace_of("a"));
        let set = ["nsenter", &inside, "ip", "link", "set"];
        lab.host(&[&set[..], &["eth0", "name", to]].concat()).ok();
    };
    rename("lan0");
    lab.outside(&ping("192.0.2.10")).ok();
    lab.kill_agent();
    lab.start_agent();
    lab.outside(&ping("192.0.2.10")).ok();
    lab.netpath(&["rm", "-f", "a"]).ok();
    let ran = lab.outside(&super::short_ping("192.0.2.10"));
    assert_ne!(ran.code, Some(0), "{ran:?}");
    lab.outside(&ping("192.0.2.11")).ok();
}

#[test]
fn a_device_that_is_out_of_reach_sends_nothing() {
    let mut lab = Lab::new();
    // The namespace has a name that nobody has told: it does not end with the process that was named.
    let netns = lab.add_namespace("foreign");
    let enter = ["nsenter", &format!("--net={netns}")];
    let helper = lab.spawn(lab.host_command(&[&enter[..], &["sleep", "600"]].concat()));
    let pid = lab.helper_pid(helper).to_string();
    let number = |path: &str| std::fs::metadata(path).ok().map(|file| file.ino());
    eventually("it is in its namespace", || {
        number(&format!("/proc/{pid}/ns/net")) == number(&netns)
    });
    let attach = ["attach", "--parent", UPLINK, "--opt", "mode=macvlan"];
    let to = ["--ip", "192.0.2.20/24", "--pid", &pid];
    lab.netpath(&[&attach[..], &to].concat()).ok();
    lab.outside(&ping("192.0.2.20")).ok();
    lab.kill_agent();
    lab.host(&["kill", "-9", &pid]).ok();
    eventually("the process is gone", || {
        number(&format!("/proc/{pid}/ns/net")).is_none()
    });
    lab.start_agent();
    assert_eq!(lab.json(&["cards"]).as_array().map(Vec::len), Some(0));
    let ran = lab.host(&[&enter[..], &super::short_ping(OUT4)].concat());
    assert_ne!(ran.code, Some(0), "{ran:?}");
    // Its number is not given again as long as it is there.
    network(&lab, "lan", "underlay", &STACKED);
    container(&lab, "a", "lan", 10);
    lab.outside(&ping("192.0.2.10")).ok();
    let ran = lab.host(&[&enter[..], &super::short_ping(OUT4)].concat());
    assert_ne!(ran.code, Some(0), "{ran:?}");
}

#[test]
fn what_sockets_wish_of_their_stack_does_not_reach_the_host() {
    let lab = Lab::new();
    network(&lab, "lan", "underlay", &STACKED);
    container(&lab, "a", "lan", 10);
    let rule = "table inet t {\nchain c {\ntype filter hook input priority 0\n\
                meta mark 0x4000 counter\n}\n}\n";
    let path = std::env::temp_dir().join(format!("np-mark-{}.nft", std::process::id()));
    std::fs::write(&path, rule).expect("a file");
    lab.host(&["nft", "-f", &path.to_string_lossy()]).ok();
    let _ = std::fs::remove_file(&path);
    lab.exec("a", &["ping", "-m", "16384", "-c", "2", "-i", "0.2", HOST4])
        .ok();
    let rules = lab.host(&["nft", "list", "table", "inet", "t"]).ok();
    assert!(rules.contains("packets 0"), "{rules}");
}

#[test]
fn what_cannot_be_stacked_is_refused() {
    let lab = Lab::new();
    let create = |parent: &str| {
        let parent = format!("parent={parent}");
        let words = ["network", "create", "lan", "-d", "underlay", "-o", &parent];
        let subnet = ["--subnet", "192.0.2.0/24"];
        lab.netpath(&[&words[..], &STACKED, &subnet].concat())
    };
    let ran = create(&format!("{UPLINK}.101"));
    assert!(ran.stderr.contains("no VLAN can be tagged"), "{ran:?}");
    let add = ["ip", "link", "add", "link", UPLINK, "name", "mv0"];
    lab.host(&[&add[..], &["up", "type", "macvlan"]].concat())
        .ok();
    let ran = create("mv0");
    assert!(ran.stderr.contains("cannot be a macvlan device"), "{ran:?}");
    lab.host(&["ip", "link", "del", "mv0"]).ok();
    // Somebody has the card for himself.
    let kind = ["up", "type", "macvlan", "mode", "passthru"];
    lab.host(&[&add[..], &kind].concat()).ok();
    let ran = create(UPLINK);
    assert!(ran.stderr.contains("passthru"), "{ran:?}");
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(super::networks(&lab), 0);
}
