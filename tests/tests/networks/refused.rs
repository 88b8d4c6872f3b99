//! What is refused, and what happens at once.

use netpath_tests::lab::{Lab, eventually, finish, start};

use crate::{create, inspect, names};

#[test]
fn what_a_swarm_would_be_needed_for_is_refused() {
    let lab = Lab::new();
    for (args, part) in [
        (&["--scope", "swarm"][..], "swarm"),
        (&["--ingress"], "swarm"),
        (&["--config-only"], "--config-only"),
        (&["--config-from", "other"], "--config-from"),
        (&["--ipam-driver", "dhcp"], "dhcp"),
        (&["--ipam-opt", "a=b"], "a=b"),
        (&["--driver", "weave"], "weave"),
        (&["--driver", ""], "driver"),
        (&["--label", "=x"], "KEY=VALUE"),
        (&["--aux-address", "printer"], "KEY=VALUE"),
        (&["--aux-address", "printer=tomato"], "tomato"),
    ] {
        let sentence = lab
            .netpath(&[&["network", "create", "no"], args].concat())
            .refused();
        assert!(sentence.contains(part), "{args:?}: {sentence}");
    }
    create(
        &lab,
        &[
            "--attachable",
            "--scope=local",
            "--ipam-driver=default",
            "net",
        ],
    );
    assert_eq!(inspect(&lab, "net")["Attachable"], true);
    assert_eq!(names(&lab, &["type=custom"]), ["net"]);
}

#[test]
fn a_network_that_is_removed_while_containers_join_is_whole_or_gone() {
    let lab = Lab::new();
    for round in 0..5 {
        let name = format!("net{round}");
        create(&lab, &[&name, "--subnet", "10.88.0.0/24"]);
        let joining: Vec<_> = (0..3)
            .map(|n| {
                let container = format!("c{round}-{n}");
                let args = ["run", "-d", "--name", &container, "--network", &name];
                start(lab.netpath_command(&[&args[..], &["--", "sleep", "600"]].concat()))
            })
            .collect();
        let removed = lab.netpath(&["network", "rm", &name]);
        let mut joined = Vec::new();
        for (n, child) in joining.into_iter().enumerate() {
            let ran = finish(child);
            if ran.code == Some(0) {
                joined.push(format!("c{round}-{n}"));
            } else {
                let sentence = ran.refused();
                assert!(sentence.contains(&name), "{sentence}");
            }
        }
        if removed.code == Some(0) {
            assert_eq!(joined, [""; 0], "nobody is in a network that is gone");
        } else {
            let sentence = removed.refused();
            assert!(sentence.contains("in use"), "{sentence}");
            for container in &joined {
                lab.exec(container, &["ping", "-c", "1", "-W", "2", "192.0.2.2"])
                    .ok();
                lab.netpath(&["rm", "-f", container]).ok();
            }
            lab.netpath(&["network", "rm", &name]).ok();
        }
        assert_eq!(names(&lab, &["type=custom"]), [""; 0]);
    }
    eventually("no interface is left", || {
        let links = lab.host(&["ip", "-o", "link"]).ok();
        !links.contains("npv")
    });
}

#[test]
fn odd_and_endless_names_are_refused() {
    let lab = Lab::new();
    let long = "x".repeat(64 << 10);
    let deep = "{{if 1}}".repeat(8 << 10);
    let label = format!("key={long}");
    for name in [
        "",
        ".",
        "..",
        "-x",
        "_x",
        "a b",
        "a/b",
        "a\nb",
        "\u{1b}[31m",
        "é",
        "网络",
        "a%2fb",
        "a?b",
        "a#b",
        "\"",
        "'",
        "$(true)",
        "x;y",
        long.as_str(),
    ] {
        for args in [
            &["network", "create", "--", name][..],
            &["network", "inspect", "--", name],
            &["network", "rm", "--", name],
            &["run", "--rm", "--network", name, "--", "true"],
        ] {
            let ran = lab.netpath(args);
            let shown = &name[..name.len().min(20)];
            assert!(
                ran.code.is_some_and(|code| code != 0),
                "{shown:?} {args:.3?}"
            );
            assert!(!ran.stderr.contains("panicked"), "{shown:?}: {ran:?}");
            for line in ran.stderr.lines() {
                assert!(line.starts_with("netpath: "), "{shown:?}: {}", ran.stderr);
            }
        }
    }
    for args in [
        &["network", "create", "net", "--label", &label][..],
        &["network", "create", "net", "-o", &label],
        &["network", "create", "net", "--driver", &long],
        &["network", "ls", "--format", &deep],
        &["network", "ls", "--filter", &long],
    ] {
        lab.netpath(args).refused();
    }
    assert_eq!(names(&lab, &[]), ["bridge", "host", "none"]);
}
