//! What makes no sense is refused in a sentence that names it, and nothing is half made.

use netpath_tests::lab::Lab;

#[test]
fn tunnels_that_cannot_be() {
    let lab = Lab::new();
    lab.netpath(&["network", "create", "plain", "--subnet", "10.41.0.0/24"])
        .ok();
    let create = [
        "network",
        "create",
        "-d",
        "overlay",
        "wide",
        "--subnet",
        "10.40.0.0/24",
    ];
    lab.netpath(&[&create[..], &["--opt", "vni=5"]].concat())
        .ok();
    lab.run(
        "box",
        &["--network", "wide", "--ip", "10.40.0.9"],
        &["sleep", "600"],
    );
    let good = [
        "tunnel",
        "add",
        "wide",
        "--remote",
        "192.0.2.9",
        "--subnet",
        "10.42.0.0/24",
    ];
    lab.netpath(&good).ok();
    let before = lab.json(&["tunnel", "ls"]);
    for (words, part) in [
        (
            "nowhere --remote 192.0.2.9 --subnet 10.43.0.0/24",
            "nowhere",
        ),
        (
            "plain --remote 192.0.2.9 --subnet 10.43.0.0/24",
            "driver bridge",
        ),
        (
            "wide --remote 192.0.2.1 --subnet 10.43.0.0/24",
            "own address",
        ),
        ("wide --remote 127.0.0.1 --subnet 10.43.0.0/24", "127.0.0.1"),
        ("wide --remote 224.0.0.1 --subnet 10.43.0.0/24", "224.0.0.1"),
        (
            "wide --remote 192.0.2.9 --subnet 10.43.0.1/24",
            "did you mean",
        ),
        ("wide --remote 192.0.2.9 --subnet 0.0.0.0/0", "everything"),
        ("wide --remote 192.0.2.9 --subnet banana", "banana"),
        (
            "wide --remote 192.0.2.9 --subnet 10.40.0.0/16",
            "own subnet",
        ),
        ("wide --remote 192.0.2.9 --subnet 10.40.0.8/29", "10.40.0.9"),
        ("wide --remote 192.0.2.9 --subnet 10.42.0.0/24", "already"),
        ("wide --remote 192.0.2.9 --subnet 10.41.0.0/25", "plain"),
        (
            "wide --remote 192.0.2.9 --subnet fd43::/64",
            "no IPv6 subnet",
        ),
        ("wide --remote 192.0.2.9 --ip 10.40.0.20", "--mac"),
        ("wide --remote 192.0.2.9 --ip 10.40.0.20 --mac x", "\"x\""),
        (
            "wide --remote 192.0.2.9 --ip 10.40.0.20 --mac ff:ff:ff:ff:ff:ff",
            "group",
        ),
        (
            "wide --remote 192.0.2.9 --ip 10.44.0.20 --mac 02:00:00:00:00:01",
            "10.44.0.20",
        ),
        (
            "wide --remote 192.0.2.9 --ip 10.40.0.1 --mac 02:00:00:00:00:01",
            "10.40.0.1",
        ),
        (
            "wide --remote 192.0.2.9 --subnet 10.43.0.0/24 --vni 0",
            "VNI 0",
        ),
        (
            "wide --remote 192.0.2.9 --subnet 10.43.0.0/24 --vni 16777216",
            "16777216",
        ),
        (
            "wide --remote 192.0.2.9 --subnet 10.43.0.0/24 --port 0",
            "port",
        ),
        ("wide --remote 192.0.2.9", "--subnet"),
        ("wide --remote x --subnet 10.43.0.0/24", "'x'"),
    ] {
        let words: Vec<&str> = ["tunnel", "add"]
            .into_iter()
            .chain(words.split(' '))
            .collect();
        let said = lab.netpath(&words).refused();
        assert!(said.contains(part), "{words:?}: {said}");
    }
    let said = lab
        .netpath(&["tunnel", "rm", "wide", "10.43.0.0/24"])
        .refused();
    assert!(said.contains("10.43.0.0/24"), "{said}");
    assert_eq!(lab.json(&["tunnel", "ls"]), before);
}

#[test]
fn networks_that_cannot_be() {
    let lab = Lab::new();
    let create = |words: &str| {
        let rest = ["-d", "overlay", "--subnet", "10.40.0.0/24"];
        let words: Vec<&str> = words.split(' ').collect();
        lab.netpath(&[&["network", "create"], &words[..], &rest].concat())
    };
    create("first --opt vni=7").ok();
    lab.netpath(&["network", "rm", "first"]).ok();
    for (words, part) in [
        ("wide --opt vni=0", "VNI 0"),
        ("wide --opt vni=16777216", "16777216"),
        ("wide --opt vni=x", "\"x\""),
        ("wide --opt port=0", "port=0"),
        ("wide --opt port=70000", "port=70000"),
        ("wide --mtu 1451", "1450"),
        ("wide --mtu 500", "576"),
        ("wide --opt colour=red", "colour"),
    ] {
        let said = create(words).refused();
        assert!(said.contains(part), "{words}: {said}");
    }
    // A number is one network's.
    create("wide --opt vni=7").ok();
    let twice = [
        "network", "create", "-d", "overlay", "--opt", "vni=7", "again",
    ];
    assert!(lab.netpath(&twice).refused().contains("wide"));
    // A port that somebody else has.
    lab.netpath(&["network", "rm", "wide"]).ok();
    let taken = [
        "ip", "link", "add", "vx", "type", "vxlan", "id", "1", "dstport", "4999",
    ];
    lab.host(&taken).ok();
    lab.host(&["ip", "link", "set", "vx", "up"]).ok();
    let said = create("wide --opt port=4999").refused();
    assert!(said.contains("4999"), "{said}");
    // The default network's gateway and its other end.
    let devices = lab.host(&["ip", "-o", "link"]).ok();
    let gateways = devices.lines().filter(|line| line.contains(": np-br"));
    assert_eq!(gateways.count(), 2, "{devices}");
    assert!(!devices.contains("np-vxlan"), "{devices}");
    assert_eq!(
        lab.json(&["network", "ls", "--filter", "type=custom"])
            .as_array()
            .unwrap()
            .len(),
        0
    );
    // Options of this driver are no other's.
    let said = lab
        .netpath(&["network", "create", "plain", "--opt", "vni=7"])
        .refused();
    assert!(said.contains("vni"), "{said}");
}
