//! Containers and their neighbours: the scenarios of group A.

use netpath_tests::inside;
use netpath_tests::lab::{HOST4, OUT4, eventually};

use super::{Mode, Site};

const ICC: &str = "com.docker.network.bridge.enable_icc=false";

#[test]
fn neighbours_through_the_driver() {
    neighbours(Mode::Plugin);
}

#[test]
fn neighbours_in_adopted_networks() {
    neighbours(Mode::Adopted);
}

fn neighbours(mode: Mode) {
    let site = Site::new(mode);
    let both = [
        "--ipv6",
        "--subnet",
        "10.77.0.0/24",
        "--subnet",
        "fd77::/64",
    ];
    site.network("one", &both);
    site.network("two", &["--subnet", "10.78.0.0/24"]);
    site.network("closed", &["--internal", "--subnet", "10.79.0.0/24"]);
    site.network("silent", &["-o", ICC, "--subnet", "10.80.0.0/24"]);
    inside::serve(&site.lab.outside_netns(), "outside", [7000]);
    for (name, network, options) in [
        ("a1", "one", &[][..]),
        ("a2", "one", &["--network-alias", "database"]),
        ("b1", "two", &[]),
        ("c1", "closed", &[]),
        ("c2", "closed", &[]),
        ("s1", "silent", &["-p", "8085:80", "-p", "8085:80/udp"]),
        ("s2", "silent", &[]),
    ] {
        site.container(name, network, options);
    }
    for name in ["a2", "b1", "c2", "s1"] {
        site.serve(name, [80]);
    }
    let address = |name: &str, network: &str| site.docker.address(name, network);

    // By address, of either family, and link-local; in an internal network as well.
    assert_eq!(site.ask("a1", &address("a2", "one"), 80), "a2 80");
    assert_eq!(site.ask("c1", &address("c2", "closed"), 80), "c2 80");
    let v6 = "{{.NetworkSettings.Networks.one.GlobalIPv6Address}}";
    assert_eq!(site.ask("a1", &site.docker.inspect(v6, "a2"), 80), "a2 80");
    let link_local = [
        "ip", "-6", "-br", "addr", "show", "dev", "eth0", "scope", "link",
    ];
    let shown = site.inside("a2", &link_local).ok();
    let link_local = shown
        .split_whitespace()
        .find_map(|word| word.split_once('/'));
    let near = format!("{}%eth0", link_local.expect("a link-local address").0);
    eventually("the link-local address answers", || {
        site.inside("a1", &["ping", "-c1", "-W1", &near]).code == Some(0)
    });
    // By name, alias and number, in any letters: Docker's resolver.
    let id = site.docker.inspect("{{.Id}}", "a2");
    for name in ["a2", "A2", "database", &id[..12]] {
        let found = site.docker.exec("a1", &["nslookup", name, "127.0.0.11"]);
        assert!(found.stdout.contains(&address("a2", "one")), "{found:?}");
    }
    // Networks are apart.
    assert_eq!(site.ask("a1", &address("b1", "two"), 80), "");
    assert_eq!(site.ask("b1", &address("a2", "one"), 80), "");
    assert_eq!(site.ask("a1", &address("c2", "closed"), 80), "");
    // Without icc, neighbours meet at published ports; the outside is there.
    assert_eq!(site.ask("s2", &address("s1", "silent"), 80), "");
    assert_eq!(site.ask("s2", HOST4, 8085), "s1 80");
    assert_eq!(site.ask("s2", OUT4, 7000), "outside 7000");

    // One more network for a container that runs, and sessions go on.
    let mut pings = site.docker.in_network_of(
        &site.docker.pid("a1"),
        &[
            "ping",
            "-i",
            "0.1",
            "-c",
            "40",
            "-W",
            "2",
            &address("a2", "one"),
        ],
    );
    pings.stdin(std::process::Stdio::null());
    let pings = netpath_tests::lab::start(pings);
    site.docker.run(&["network", "connect", "two", "a1"]).ok();
    site.has_interfaces(1);
    assert_eq!(site.ask("a1", &address("b1", "two"), 80), "b1 80");
    site.docker
        .run(&["network", "disconnect", "two", "a1"])
        .ok();
    site.has_interfaces(-1);
    let devices = site.inside("a1", &["ip", "-br", "link"]).ok();
    assert!(!devices.contains("eth1"), "{devices}");
    assert_eq!(site.ask("a1", &address("b1", "two"), 80), "");
    let pings = netpath_tests::lab::finish(pings).ok();
    assert!(pings.contains(" 0% packet loss"), "{pings}");

    // An address gets a new owner, and a neighbour that knows the old one reaches it at once.
    let ip = address("a2", "one");
    assert_eq!(site.ask("a1", &ip, 80), "a2 80");
    site.remove("a2");
    site.container("a3", "one", &["--ip", &ip]);
    site.serve("a3", [80]);
    assert_eq!(site.ask("a1", &ip, 80), "a3 80");
}
