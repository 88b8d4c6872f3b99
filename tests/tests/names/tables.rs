//! What the networks' own names mean.

use std::collections::BTreeSet;
use std::time::Duration;

use netpath_tests::dns::{A, AAAA, SERVER, ask_udp, code, getaddrinfo, query, records};
use netpath_tests::lab::{Lab, eventually};

use super::{dig, dig_all, lab_with_resolv_conf, network, sleeper};

const WAIT: Duration = Duration::from_secs(3);

#[test]
fn containers_find_each_other_by_name() {
    let lab = Lab::new();
    network(&lab, "net", 11, &[]);
    sleeper(&lab, "client", &["--network", "net"]);
    lab.run(
        "Web.One",
        &[
            "--network",
            "net",
            "--network-alias",
            "www",
            "--hostname",
            "frontend",
        ],
        &["busybox", "httpd", "-f", "-p", "80", "-h", "/etc"],
    );
    for name in [
        "Web.One",
        "web.one",
        "WEB.ONE",
        "www",
        "frontend",
        "web.one.net",
        "www.net",
    ] {
        lab.exec("client", &["ping", "-c", "1", "-W", "3", name])
            .ok();
        let url = format!("http://{name}/hostname");
        eventually("the web server answers", || {
            lab.exec("client", &["curl", "-sSm3", &url]).code == Some(0)
        });
    }
    // Its own name is in its own file.
    lab.exec("client", &["getent", "hosts", "client"]).ok();
}

#[test]
fn beginnings_of_ids_are_names() {
    let mut lab = Lab::new();
    // Other names are nobody's there.
    network(&lab, "net", 11, &["--internal"]);
    network(&lab, "other", 12, &[]);
    sleeper(&lab, "client", &["--network", "net"]);
    sleeper(&lab, "web", &["--network", "net", "--network", "other"]);
    let guest = lab.add_namespace("guest");
    lab.netpath(&[
        "attach",
        "--name",
        "guest",
        "--netns",
        &guest,
        "--network",
        "net",
    ])
    .ok();
    let default = lab.netpath(&["run", "-d", "--", "sleep", "600"]).ok();
    for name in ["web", "guest"] {
        let container = lab.json(&["inspect", name]);
        let id = container["id"].as_str().expect("an id");
        let address = container["networks"][0]["addresses"][0].as_str();
        let address = address
            .and_then(|text| text.split('/').next())
            .expect("an address");
        let (short, upper) = (&id[..12], id[..12].to_uppercase());
        for word in [short, &upper, &format!("{short}.net")] {
            assert_eq!(dig(&lab, "client", &[word]), [address], "{word}");
        }
        lab.exec("client", &["getent", "ahosts", short]).ok();
        // As much of it as Docker shows, and not more.
        assert_eq!(dig(&lab, "client", &[&id[..11]]), [""; 0]);
        let named = format!("{name}.net.");
        assert_eq!(dig(&lab, "client", &["-x", address]), [named.as_str()]);
    }
    assert_eq!(dig(&lab, "client", &[default.trim()]), [""; 0]);
}

#[test]
fn addresses_pointers_and_missing_families() {
    let lab = Lab::new();
    network(&lab, "net", 12, &[]);
    lab.netpath(&["network", "create", "four", "--subnet", "10.13.0.0/24"])
        .ok();
    sleeper(
        &lab,
        "a",
        &[
            "--network",
            "net",
            "--ip",
            "10.12.0.10",
            "--ip6",
            "fd12::10",
        ],
    );
    sleeper(
        &lab,
        "b",
        &[
            "--network",
            "net",
            "--ip",
            "10.12.0.20",
            "--ip6",
            "fd12::20",
        ],
    );
    sleeper(&lab, "c", &["--network", "four"]);
    sleeper(&lab, "d", &["--network", "four", "--ip", "10.13.0.20"]);
    for over in ["+notcp", "+tcp"] {
        assert_eq!(dig(&lab, "a", &[over, "b"]), ["10.12.0.20"]);
        assert_eq!(dig(&lab, "a", &[over, "b", "AAAA"]), ["fd12::20"]);
        assert_eq!(dig(&lab, "a", &[over, "B.nEt", "A"]), ["10.12.0.20"]);
        assert_eq!(dig(&lab, "a", &[over, "-x", "10.12.0.20"]), ["b.net."]);
        assert_eq!(dig(&lab, "a", &[over, "-x", "fd12::20"]), ["b.net."]);
        // Known, without such an address, or without such a thing at all.
        for kind in ["AAAA", "MX", "TXT", "HTTPS"] {
            let said = dig_all(&lab, "c", &[over, "d", kind]);
            assert!(
                said.contains("status: NOERROR") && said.contains("ANSWER: 0"),
                "{said}"
            );
            assert!(said.contains(" aa ") && said.contains(" ra;"), "{said}");
        }
    }
    let said = dig_all(&lab, "a", &["+bufsize=1400", "b"]);
    assert!(said.contains("EDNS: version: 0"), "{said}");
    let said = dig_all(&lab, "a", &["+noedns", "b"]);
    assert!(!said.contains("EDNS"), "{said}");
    let said = dig_all(&lab, "a", &["+edns=7", "+noednsnegotiation", "b"]);
    assert!(said.contains("status: BADVERS"), "{said}");
}

#[test]
fn both_c_libraries_resolve() {
    let lab = Lab::new();
    network(&lab, "net", 14, &[]);
    lab.netpath(&["network", "create", "six", "--subnet", "fd15::/64"])
        .ok();
    sleeper(&lab, "a", &["--network", "net"]);
    sleeper(
        &lab,
        "b",
        &[
            "--network",
            "net",
            "--ip",
            "10.14.0.20",
            "--ip6",
            "fd14::20",
        ],
    );
    sleeper(&lab, "x", &["--network", "six"]);
    sleeper(&lab, "y", &["--network", "six", "--ip6", "fd15::20"]);
    let ahosts = lab.exec("a", &["getent", "ahosts", "b"]).ok();
    assert!(
        ahosts.contains("10.14.0.20") && ahosts.contains("fd14::20"),
        "{ahosts}"
    );
    for compiler in ["musl-gcc", "cc"] {
        let program = getaddrinfo(lab.dir(), compiler).display().to_string();
        let resolve = |from: &str, name: &str, family: &str| {
            let text = lab.exec(from, &[&program, name, family]).ok();
            text.lines().map(ToOwned::to_owned).collect::<BTreeSet<_>>()
        };
        let both = BTreeSet::from(["10.14.0.20".to_owned(), "fd14::20".to_owned()]);
        assert_eq!(resolve("a", "b", "any"), both, "{compiler}");
        assert_eq!(resolve("a", "b", "4").len(), 1, "{compiler}");
        assert_eq!(resolve("a", "B.NET", "6").len(), 1, "{compiler}");
        // A network without IPv4: the server is reached by it all the same.
        assert_eq!(
            resolve("x", "y", "any"),
            BTreeSet::from(["fd15::20".to_owned()])
        );
        let nobody = lab.exec("x", &[&program, "y", "4"]);
        assert_eq!(nobody.code, Some(1), "{compiler}: {nobody:?}");
    }
}

#[test]
fn a_shared_alias_has_all_addresses_in_turns() {
    let lab = Lab::new();
    network(&lab, "net", 16, &[]);
    sleeper(&lab, "client", &["--network", "net"]);
    for (name, ip) in [
        ("one", "10.16.0.11"),
        ("two", "10.16.0.12"),
        ("three", "10.16.0.13"),
    ] {
        sleeper(
            &lab,
            name,
            &["--network", "net", "--network-alias", "all", "--ip", ip],
        );
    }
    assert_eq!(
        dig(&lab, "client", &["all"]),
        ["10.16.0.11", "10.16.0.12", "10.16.0.13"]
    );
    let first = || {
        let text = lab.exec("client", &["dig", "+short", "all"]).ok();
        text.lines().next().map(ToOwned::to_owned)
    };
    let firsts: BTreeSet<_> = (0..3).map(|_| first()).collect();
    assert_eq!(firsts.len(), 3, "{firsts:?}");
    lab.netpath(&["rm", "-f", "two"]).ok();
    assert_eq!(dig(&lab, "client", &["all"]), ["10.16.0.11", "10.16.0.13"]);
    assert_eq!(dig(&lab, "client", &["three"]), ["10.16.0.13"]);
}

#[test]
fn answers_that_do_not_fit_are_cut_and_come_by_tcp() {
    let lab = Lab::new();
    network(&lab, "net", 17, &[]);
    sleeper(&lab, "client", &["--network", "net"]);
    let members: Vec<String> = (0..40).map(|n| format!("m{n}")).collect();
    for name in &members {
        sleeper(&lab, name, &["--network", "net", "--network-alias", "all"]);
    }
    let netns = lab.namespace_of("client");
    // 512 bytes: 12 of header, 9 of question, 16 a record.
    let (answer, from) = ask_udp(&netns, &query(1, "all", A), WAIT).unwrap();
    assert_eq!(from, SERVER.parse().unwrap());
    assert!(answer.len() <= 512 && records(&answer) == 30, "{answer:?}");
    assert_eq!(answer[2] & 2, 2, "truncated");
    assert_eq!(dig(&lab, "client", &["+noedns", "all"]).len(), 40);
    let said = dig_all(&lab, "client", &["+ignore", "+bufsize=1232", "all"]);
    assert!(
        said.contains("ANSWER: 40") && !said.contains(" tc"),
        "{said}"
    );
}

#[test]
fn datagrams_come_from_where_they_were_asked() {
    let lab = Lab::new();
    network(&lab, "net", 18, &[]);
    sleeper(&lab, "a", &["--network", "net"]);
    sleeper(&lab, "b", &["--network", "net"]);
    let netns = lab.namespace_of("a");
    let (answer, from) = ask_udp(&netns, &query(7, "b", A), WAIT).unwrap();
    assert_eq!(from, SERVER.parse().unwrap());
    assert_eq!((code(&answer), records(&answer)), (0, 1));
    // Several questions, none, somebody's answer, an update, another class.
    let mut two = query(8, "b", A);
    two[5] = 2;
    two.extend(&query(8, "b", AAAA)[12..]);
    let mut none = query(9, "b", A)[..12].to_vec();
    none[5] = 0;
    for refused in [two, none] {
        let (answer, _) = ask_udp(&netns, &refused, WAIT).unwrap();
        assert_eq!(code(&answer), 1, "{answer:?}");
    }
    let mut update = query(10, "b", A);
    update[2] = 5 << 3;
    let (answer, _) = ask_udp(&netns, &update, WAIT).unwrap();
    assert_eq!(code(&answer), 4, "{answer:?}");
    let mut chaos = query(11, "version.bind", 16);
    let last = chaos.len() - 1;
    chaos[last] = 3;
    let (answer, _) = ask_udp(&netns, &chaos, WAIT).unwrap();
    assert_eq!(code(&answer), 5, "{answer:?}");
    let mut answered = query(12, "b", A);
    answered[2] |= 0x80;
    assert!(ask_udp(&netns, &answered, Duration::from_millis(300)).is_err());
    // The server is as well as before.
    assert_eq!(dig(&lab, "a", &["b"]).len(), 1);
}

#[test]
fn names_are_known_on_shared_networks_only() {
    // Nobody is asked beyond.
    let lab = lab_with_resolv_conf("");
    for (name, number) in [("one", 61), ("two", 62), ("three", 63)] {
        network(&lab, name, number, &[]);
    }
    sleeper(&lab, "first", &["--network", "one"]);
    sleeper(
        &lab,
        "second",
        &["--network", "one", "--network", "name=two,alias=bridge2"],
    );
    sleeper(&lab, "third", &["--network", "two", "--network", "three"]);
    sleeper(&lab, "fourth", &["--network", "three"]);
    let starts = |from: &str, name: &str, with: &str| {
        let found = dig(&lab, from, &[name]);
        assert!(
            found.len() == 1 && found[0].starts_with(with),
            "{from} {name}: {found:?}"
        );
    };
    starts("first", "second", "10.61.0.");
    starts("third", "second", "10.62.0.");
    starts("third", "bridge2", "10.62.0.");
    starts("third", "fourth", "10.63.0.");
    starts("second", "third", "10.62.0.");
    for (from, name) in [
        ("first", "third"),
        ("first", "fourth"),
        ("first", "bridge2"),
        ("second", "fourth"),
        ("fourth", "second"),
        ("fourth", "second.two"),
    ] {
        assert_eq!(dig(&lab, from, &[name]), [""; 0], "{from} {name}");
    }
}

#[test]
fn connecting_and_disconnecting_is_known_at_once() {
    let lab = lab_with_resolv_conf("nameserver 192.0.2.250\n");
    network(&lab, "net", 64, &["--internal"]);
    network(&lab, "other", 65, &["--internal"]);
    sleeper(&lab, "a", &["--network", "net"]);
    sleeper(&lab, "b", &["--network", "other"]);
    let hosts = |name: &str| lab.exec(name, &["cat", "/etc/hosts"]).ok();
    lab.exec("b", &["sh", "-c", "echo '192.0.2.7\tmine' >> /etc/hosts"])
        .ok();
    let before = hosts("b");
    lab.netpath(&[
        "network",
        "connect",
        "--alias",
        "bee",
        "--ip",
        "10.64.0.9",
        "net",
        "b",
    ])
    .ok();
    assert_eq!(dig(&lab, "a", &["b"]), ["10.64.0.9"]);
    assert_eq!(dig(&lab, "a", &["bee"]), ["10.64.0.9"]);
    assert_eq!(dig(&lab, "a", &["-x", "10.64.0.9"]), ["b.net."]);
    assert_eq!(dig(&lab, "b", &["a.net"]).len(), 1);
    let with = hosts("b");
    assert!(
        with.contains("10.64.0.9\tb\n") && with.contains("192.0.2.7\tmine"),
        "{with}"
    );
    lab.netpath(&["network", "disconnect", "net", "b"]).ok();
    assert_eq!(dig(&lab, "a", &["bee"]), [""; 0]);
    assert_eq!(dig(&lab, "b", &["a.net"]), [""; 0]);
    let after = hosts("b");
    assert!(!after.contains("10.64.0.9"), "{after}");
    let sorted = |text: &str| text.lines().map(ToOwned::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(sorted(&before), sorted(&after));

    // From the default network to one with names, and back.
    sleeper(&lab, "plain", &[]);
    let resolv = || lab.exec("plain", &["cat", "/etc/resolv.conf"]).ok();
    assert!(!resolv().contains("127.0.0.11"));
    lab.netpath(&["network", "connect", "net", "plain"]).ok();
    assert!(resolv().contains("127.0.0.11"));
    assert_eq!(dig(&lab, "plain", &["a.net"]).len(), 1);
    assert_eq!(dig(&lab, "a", &["plain"]).len(), 1);
    lab.netpath(&["network", "disconnect", "net", "plain"]).ok();
    assert!(!resolv().contains("127.0.0.11"));
    let listening = lab.exec("plain", &["ss", "-Hlntu"]).ok();
    assert_eq!(listening.trim(), "");
}

#[test]
fn the_default_network_has_no_names() {
    let lab = Lab::new();
    sleeper(&lab, "a", &[]);
    sleeper(&lab, "b", &[]);
    let text = lab.exec("a", &["cat", "/etc/resolv.conf"]).ok();
    assert!(!text.contains("127.0.0.11"), "{text}");
    let said = lab.exec("a", &["dig", "+time=1", "+tries=1", "@127.0.0.11", "b"]);
    assert_ne!(said.code, Some(0), "{said:?}");
    assert!(super::servers(&lab).is_empty());
}

/// Random bytes, and queries that are cut, damaged or point at themselves: nothing that is no
/// query gets an answer, and the server goes on with the same memory.
#[test]
fn damaged_queries_do_no_harm() {
    let lab = Lab::new();
    network(&lab, "net", 19, &["--internal"]);
    sleeper(&lab, "a", &["--network", "net"]);
    sleeper(&lab, "b", &["--network", "net"]);
    let before = super::servers(&lab);
    let memory = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", before[0])).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    let start = memory();
    // xorshift: the same damage each time.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(below).unwrap()).unwrap()
    };
    netpath_tests::inside::inside(&lab.namespace_of("a"), || {
        let socket = std::net::UdpSocket::bind(("0.0.0.0", 0)).unwrap();
        socket.connect(SERVER).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut buffer = [0; 65_535];
        for round in 0..20_000 {
            let mut message = query(u16::try_from(round).unwrap(), "b.net", A);
            match round % 4 {
                0 => {
                    message = (0..random(600))
                        .map(|_| u8::try_from(random(256)).unwrap())
                        .collect()
                }
                1 => message.truncate(random(message.len())),
                2 => {
                    let at = 12 + random(7);
                    message[at] = 0xc0;
                    message[at + 1] = u8::try_from(random(message.len())).unwrap();
                }
                _ => {
                    for _ in 0..4 {
                        let at = random(message.len());
                        message[at] = u8::try_from(random(256)).unwrap();
                    }
                }
            }
            let _ = socket.send(&message);
            while let Ok(length) = socket.recv(&mut buffer) {
                assert!((12..=4096).contains(&length));
            }
        }
    });
    assert_eq!(dig(&lab, "a", &["b"]).len(), 1);
    assert_eq!(super::servers(&lab), before);
    assert!(
        memory() < start + 8192,
        "{start} KB before, {} after",
        memory()
    );
}
