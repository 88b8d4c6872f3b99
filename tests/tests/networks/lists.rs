//! What networks are called, and how they are listed, shown and pruned.

use std::io::Write as _;
use std::process::Stdio;

use netpath_tests::lab::{Lab, finish};
use serde_json::{Value, json};

use crate::{create, inspect, names};

#[test]
fn networks_have_ids_by_which_they_are_called() {
    let mut lab = Lab::new();
    let id = create(&lab, &["net", "--subnet", "10.88.0.0/24"]);
    assert!(
        id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()),
        "{id}"
    );
    let shown = inspect(&lab, &id);
    assert_eq!(shown["Name"], "net");
    assert_eq!(shown["Id"], id.as_str());
    assert_eq!(inspect(&lab, &id[..12])["Name"], "net");
    let table = lab.netpath(&["network", "ls"]).ok();
    let mut lines = table.lines();
    let heading: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(heading, ["NETWORK", "ID", "NAME", "DRIVER", "SCOPE"]);
    let rows: Vec<Vec<&str>> = lines.map(|l| l.split_whitespace().collect()).collect();
    assert!(
        rows.contains(&vec![&id[..12], "net", "bridge", "local"]),
        "{table}"
    );
    let all = lab.netpath(&["network", "ls", "-q", "--no-trunc"]).ok();
    assert!(all.lines().any(|line| line == id), "{all}");
    // A container may be connected, and the id outlives the agent.
    lab.kill_agent();
    lab.start_agent();
    assert_eq!(inspect(&lab, "net")["Id"], id.as_str());
    lab.run("box", &["--network", &id[..12]], &["sleep", "600"]);
    let removed = lab.netpath(&["network", "rm", &id[..12]]).refused();
    assert!(removed.contains("in use by box"), "{removed}");
    lab.netpath(&["rm", "-f", "box"]).ok();
    let said = lab.netpath(&["network", "rm", &id[..12]]).ok();
    assert_eq!(said, format!("{}\n", &id[..12]));
    let sentence = lab.netpath(&["network", "inspect", &id]);
    assert!(sentence.stderr.contains("no network"), "{sentence:?}");
}

#[test]
fn bridge_host_and_none_are_always_there() {
    let mut lab = Lab::new();
    assert_eq!(names(&lab, &[]), ["bridge", "host", "none"]);
    assert_eq!(names(&lab, &["type=custom"]), [""; 0]);
    let ids = lab.netpath(&["network", "ls", "-q"]).ok();
    for (name, driver) in [("bridge", "bridge"), ("host", "host"), ("none", "null")] {
        assert_eq!(inspect(&lab, name)["Driver"], driver);
        for args in [
            &["network", "rm", name][..],
            &["network", "create", name],
            &["network", "create", "default"],
        ] {
            let sentence = lab.netpath(args).refused();
            assert!(
                sentence.contains("reserved") || sentence.contains("always there"),
                "{args:?}: {sentence}"
            );
        }
    }
    assert_eq!(
        inspect(&lab, "bridge")["IPAM"]["Config"],
        json!([{"Subnet": "172.17.0.0/16", "Gateway": "172.17.0.1"}])
    );
    // `default` is what Docker's users may call it.
    lab.run("box", &["--network", "default"], &["sleep", "600"]);
    assert_eq!(lab.address("box", false), "172.17.0.2");
    lab.netpath(&["rm", "-f", "box"]).ok();
    lab.stop_agent();
    lab.start_agent();
    assert_eq!(lab.netpath(&["network", "ls", "-q"]).ok(), ids);
}

#[test]
fn labels_filters_and_formats() {
    let lab = Lab::new();
    create(&lab, &["web1", "--label", "tier=web", "--label", "blue"]);
    create(&lab, &["web10", "--label", "tier=web", "--internal"]);
    create(&lab, &["web2", "--label", "tier=db"]);
    assert_eq!(
        names(&lab, &["type=custom"]),
        ["web1", "web2", "web10"],
        "in natural order"
    );
    assert_eq!(names(&lab, &["label=tier=web"]), ["web1", "web10"]);
    assert_eq!(names(&lab, &["label=tier=web", "label=blue"]), ["web1"]);
    assert_eq!(names(&lab, &["name=eb1"]), ["web1", "web10"]);
    assert_eq!(names(&lab, &["name=^web1$", "name=web2"]), ["web1", "web2"]);
    assert_eq!(names(&lab, &["driver=null", "scope=local"]), ["none"]);
    lab.run("box", &["--network", "web2"], &["sleep", "600"]);
    assert_eq!(names(&lab, &["dangling=true"]), ["web1", "web10"]);
    let id = inspect(&lab, "web2")["Id"].as_str().unwrap().to_owned();
    assert_eq!(names(&lab, &[&format!("id={}", &id[..9])]), ["web2"]);
    let format = "table {{.Name}}\\t{{.Internal}}\\t{{.Label \"tier\"}}";
    let table = lab
        .netpath(&["network", "ls", "-f", "label=tier", "--format", format])
        .ok();
    assert_eq!(
        table,
        "NAME      INTERNAL   tier\nweb1      false      web\nweb2      false      db\n\
         web10     true       web\n"
    );
    let rows = lab
        .netpath(&["network", "ls", "-f", "name=web1$", "--format", "json"])
        .ok();
    let row: Value = serde_json::from_str(rows.lines().next().unwrap()).unwrap();
    assert_eq!(row["Labels"], "blue=,tier=web");
    assert_eq!(row["Driver"], "bridge");
    let long = lab.netpath(&["network", "ls", "--long"]).ok();
    assert!(
        long.contains("SUBNETS") && long.contains("internal") && long.contains("172.17.0.0/16"),
        "{long}"
    );
    // A container's place in a network.
    let shown = inspect(&lab, "web2");
    let members = shown["Containers"].as_object().unwrap();
    let (id, member) = members.iter().next().unwrap();
    assert_eq!(id.len(), 64);
    assert_eq!(member["Name"], "box");
    let address = lab.address("box", false);
    let with_length = format!("{address}/16");
    assert_eq!(member["IPv4Address"], with_length.as_str());
    assert_eq!(member["EndpointID"].as_str().unwrap().len(), 64);
    let format = "{{range .Containers}}{{.Name}} {{.IPv4Address}}{{end}}";
    let text = lab
        .netpath(&["network", "inspect", "-f", format, "web2"])
        .ok();
    assert_eq!(text, format!("box {with_length}\n"));
    // Those that are there are shown, whatever else was asked for.
    let ran = lab.netpath(&[
        "network",
        "inspect",
        "-f",
        "{{.Name}}",
        "web1",
        "no",
        "host",
    ]);
    assert_eq!(ran.stdout, "web1\nhost\n");
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("no network is named no"), "{ran:?}");
    for (args, part) in [
        (&["network", "ls", "-f", "color=blue"][..], "color"),
        (&["network", "ls", "--format", "{{.Nmae}}"], "Nmae"),
        (&["network", "ls", "--format", "{{.Name"], "not closed"),
        (&["network", "inspect", "-f", "{{.Nmae}}", "web1"], "Nmae"),
    ] {
        let ran = lab.netpath(args);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stderr.contains(part), "{args:?}: {ran:?}");
        assert_eq!(ran.stdout, "");
    }
}

#[test]
fn prune_removes_what_nobody_uses() {
    let lab = Lab::new();
    create(&lab, &["used"]);
    create(&lab, &["keep", "--label", "keep"]);
    create(&lab, &["old"]);
    create(&lab, &["older"]);
    lab.run("box", &["--network", "used"], &["sleep", "600"]);
    let answer = |word: &str| {
        let mut command = lab.netpath_command(&["network", "prune", "--filter", "label!=keep"]);
        command.stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        writeln!(stdin, "{word}").unwrap();
        drop(stdin);
        finish(child).ok()
    };
    let asked = answer("n");
    assert!(asked.contains("[y/N]"), "{asked}");
    assert_eq!(names(&lab, &["type=custom"]).len(), 4);
    // Nothing is that old.
    let nothing = ["network", "prune", "-f", "--filter", "until=1h"];
    assert_eq!(lab.netpath(&nothing).ok(), "");
    let done = answer("y");
    assert!(
        done.ends_with("Deleted Networks:\nold\nolder\n\n"),
        "{done}"
    );
    assert_eq!(names(&lab, &["type=custom"]), ["keep", "used"]);
    let done = lab.netpath(&["network", "prune", "-f"]).ok();
    assert_eq!(done, "Deleted Networks:\nkeep\n\n");
    assert_eq!(names(&lab, &["type=custom"]), ["used"]);
}
