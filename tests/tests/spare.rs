//! Spare interfaces: there before anybody wants them, and never in the way.

use netpath_tests::lab::{Lab, OUT4, eventually};

fn lab() -> Lab {
    let mut lab = Lab::without_agent();
    lab.agent_options(&["--spares", "8"]);
    lab.start_agent();
    lab
}

/// Devices of the host that wait for a container.
fn spares(lab: &Lab) -> Vec<String> {
    let text = lab.host(&["ip", "-o", "link", "show"]).ok();
    let spare = text.lines().filter(|line| line.contains("netpath spare"));
    let name = |line: &str| {
        let (_, rest) = line.split_once(": ")?;
        let end = rest.find(['@', ':'])?;
        Some(rest[..end].to_owned())
    };
    spare.filter_map(name).collect()
}

#[test]
fn containers_take_spares_and_new_ones_are_made() {
    let lab = lab();
    eventually("there are spares", || spares(&lab).len() == 8);
    let before = spares(&lab);
    lab.run("one", &[], &["sleep", "600"]);
    let device = lab.json(&["inspect", "one"])["networks"][0]["device"]
        .as_str()
        .expect("a device")
        .to_owned();
    assert!(before.contains(&device), "{device} is none of {before:?}");
    lab.exec("one", &["ping", "-c", "1", "-W", "2", OUT4]).ok();
    eventually("there are as many again", || spares(&lab).len() == 8);
    // Another MTU needs a pair of its own.
    lab.netpath(&["network", "create", "small", "--mtu", "1300"])
        .ok();
    lab.run("two", &["--network", "small"], &["sleep", "600"]);
    let link = lab.exec("two", &["ip", "link", "show", "eth0"]).ok();
    assert!(link.contains("mtu 1300"), "{link}");
}

#[test]
fn spares_that_somebody_removed_are_not_missed() {
    let lab = lab();
    eventually("there are spares", || spares(&lab).len() == 8);
    for device in spares(&lab) {
        lab.host(&["ip", "link", "del", &device]).ok();
    }
    lab.run("one", &[], &["sleep", "600"]);
    lab.exec("one", &["ping", "-c", "1", "-W", "2", OUT4]).ok();
}

#[test]
fn spares_go_with_the_agent() {
    let mut lab = lab();
    lab.run("one", &[], &["sleep", "600"]);
    eventually("there are spares", || spares(&lab).len() == 8);
    lab.kill_agent();
    eventually("they are gone", || spares(&lab).is_empty());
    // The container's own interface is not one of them.
    let netns = format!("--net={}", lab.dir().join("run/netns/one").display());
    let args = ["nsenter", &netns, "ping", "-c", "1", "-W", "2", OUT4];
    lab.host(&args).ok();
    lab.start_agent();
    eventually("there are spares again", || spares(&lab).len() == 8);
}
