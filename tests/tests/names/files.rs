//! `resolv.conf` and `hosts` of containers.

use std::fs;

use netpath_tests::lab::{HOST4, Lab};

use super::{dig, lab_with_resolv_conf, network, sleeper};

fn cat(lab: &Lab, container: &str, file: &str) -> String {
    lab.exec(container, &["cat", file]).ok()
}

/// The lines of a container's `resolv.conf` that are no comments.
fn resolv(lab: &Lab, container: &str) -> Vec<String> {
    let text = cat(lab, container, "/etc/resolv.conf");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(ToOwned::to_owned).collect()
}

#[test]
fn each_container_has_its_own_files() {
    let host = ["/etc/resolv.conf", "/etc/hosts"].map(|path| fs::read_to_string(path).unwrap());
    let lab = lab_with_resolv_conf(
        "search corp.example\nnameserver 192.0.2.53\nnameserver 127.0.0.1\noptions edns0\n",
    );
    network(&lab, "net", 41, &[]);
    sleeper(&lab, "plain", &[]);
    sleeper(&lab, "named", &["--network", "net"]);
    assert_eq!(
        resolv(&lab, "plain"),
        [
            "search corp.example",
            "nameserver 192.0.2.53",
            "options edns0"
        ]
    );
    assert_eq!(
        resolv(&lab, "named"),
        [
            "nameserver 127.0.0.11",
            "search corp.example",
            "options edns0 ndots:0"
        ]
    );
    let wishes = [
        "--dns",
        "192.0.2.9",
        "--dns-search",
        "a.example",
        "--dns-search",
        "b.example",
        "--dns-option",
        "timeout:2",
    ];
    sleeper(&lab, "plain2", &wishes);
    sleeper(
        &lab,
        "named2",
        &[&wishes[..], &["--network", "net"]].concat(),
    );
    assert_eq!(
        resolv(&lab, "plain2"),
        [
            "nameserver 192.0.2.9",
            "search a.example b.example",
            "options timeout:2"
        ]
    );
    assert_eq!(
        resolv(&lab, "named2"),
        [
            "nameserver 127.0.0.11",
            "search a.example b.example",
            "options timeout:2 ndots:0"
        ]
    );
    sleeper(&lab, "none", &["--network", "net", "--dns-search", "."]);
    assert!(!cat(&lab, "none", "/etc/resolv.conf").contains("search"));
    // What a container writes is its own.
    lab.exec(
        "named",
        &[
            "sh",
            "-c",
            "echo '192.0.2.7 mine' >> /etc/hosts; echo '# x' > /etc/resolv.conf",
        ],
    )
    .ok();
    let after = ["/etc/resolv.conf", "/etc/hosts"].map(|path| fs::read_to_string(path).unwrap());
    assert_eq!(host, after);
    assert!(!cat(&lab, "named2", "/etc/hosts").contains("mine"));
}

#[test]
fn hosts_can_be_added() {
    let lab = Lab::new();
    network(&lab, "net", 42, &[]);
    sleeper(
        &lab,
        "a",
        &[
            "--network",
            "net",
            "--hostname",
            "a.example",
            "--ip",
            "10.42.0.9",
            "--add-host",
            "db:192.0.2.44",
            "--add-host",
            "six=[2001:db8::44]",
            "--add-host",
            "the.host:host-gateway",
        ],
    );
    let hosts = cat(&lab, "a", "/etc/hosts");
    for line in [
        "192.0.2.44\tdb",
        "2001:db8::44\tsix",
        "10.42.0.1\tthe.host",
        "fd42::1\tthe.host",
        "10.42.0.9\ta.example a",
        "127.0.0.1\tlocalhost",
    ] {
        assert!(
            hosts.lines().any(|found| found == line),
            "{line} in {hosts}"
        );
    }
    lab.exec("a", &["ping", "-c", "1", "-W", "3", "the.host"])
        .ok();
    // The host is there by that name with all it serves.
    assert!(lab.host(&["ip", "addr"]).ok().contains(HOST4));
    let found = lab.exec("a", &["getent", "hosts", "db"]).ok();
    assert!(found.starts_with("192.0.2.44"), "{found}");
}

#[test]
fn links_are_lines_on_the_default_network_and_names_on_others() {
    // Nobody is asked beyond.
    let lab = lab_with_resolv_conf("");
    network(&lab, "net", 43, &[]);
    network(&lab, "other", 44, &[]);
    sleeper(&lab, "db", &[]);
    let linked = lab.netpath(&[
        "run", "-d", "--name", "a", "--link", "db:store", "--", "sleep", "600",
    ]);
    assert!(linked.stderr.contains("--link is deprecated"), "{linked:?}");
    linked.ok();
    let hosts = cat(&lab, "a", "/etc/hosts");
    assert!(
        hosts.contains(&format!("{}\tstore db\n", lab.address("db", false))),
        "{hosts}"
    );
    lab.exec("a", &["ping", "-c", "1", "-W", "3", "store"]).ok();
    let refused = lab
        .netpath(&["run", "-d", "--link", "nobody", "--", "sleep", "600"])
        .refused();
    assert!(refused.contains("nobody"), "{refused}");

    sleeper(&lab, "db2", &["--network", "net", "--ip", "10.43.0.9"]);
    sleeper(&lab, "b", &["--network", "net", "--link", "db2:store"]);
    sleeper(&lab, "c", &["--network", "net"]);
    assert_eq!(dig(&lab, "b", &["store"]), ["10.43.0.9"]);
    assert_eq!(dig(&lab, "c", &["+nosearch", "store"]), [""; 0]);
    let refused = lab
        .netpath(&[
            "run",
            "-d",
            "--network",
            "other",
            "--link",
            "db2",
            "--",
            "sleep",
            "600",
        ])
        .refused();
    assert!(
        refused.contains("db2") && refused.contains("share"),
        "{refused}"
    );
}

#[test]
fn nonsense_is_refused_before_anything_is_made() {
    let mut lab = Lab::new();
    network(&lab, "net", 45, &[]);
    let long = "a".repeat(65_536);
    for words in [
        &["--dns", "example.org"][..],
        &["--dns", "127.0.0.11"],
        &["--dns", ""],
        &["--dns-search", "a b"],
        &["--dns-search", "x\nnameserver 192.0.2.66"],
        &["--dns-option", "a\nb"],
        &["--add-host", "db"],
        &["--add-host", "db:nowhere"],
        &["--add-host", "a b:192.0.2.1"],
        &["--link", ":"],
        &["--network-alias", "a b"],
        &["--network-alias", &long],
        &["--dns-search", &long],
        &["--add-host", &long],
    ] {
        let mut all = vec!["run", "-d", "--network", "net"];
        all.extend(words);
        all.extend(["--", "sleep", "600"]);
        let refused = lab.netpath(&all).refused();
        assert!(refused.len() < 500, "{refused}");
    }
    // An attached namespace has no files of ours.
    let netns = lab.add_namespace("vm");
    for words in [
        ["--dns-search", "a.example"],
        ["--add-host", "db:192.0.2.1"],
    ] {
        let mut all = vec![
            "attach",
            "--name",
            "vm",
            "--network",
            "net",
            "--netns",
            &netns,
        ];
        all.extend(words);
        let refused = lab.netpath(&all).refused();
        assert!(refused.contains(words[0]), "{refused}");
    }
    assert_eq!(lab.json(&["ps", "-a"]).as_array().map(Vec::len), Some(0));
    assert!(super::servers(&lab).is_empty());
}
