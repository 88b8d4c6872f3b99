//! Containers are called by name, by id and by the beginning of an id.

use netpath_tests::lab::{Lab, OUT4};

use crate::{connection, interfaces, network};

fn id_of(lab: &Lab, name: &str) -> String {
    let container = lab.json(&["inspect", name]);
    container["id"].as_str().expect("an id").to_owned()
}

#[test]
fn containers_are_called_by_id_and_its_beginning() {
    let mut lab = Lab::new();
    network(&lab, "one", 81, &[]);
    network(&lab, "two", 82, &[]);
    lab.run(
        "box",
        &["--network", "one", "-p", "8080:80"],
        &["sleep", "600"],
    );
    let guest = lab.add_namespace("guest");
    lab.netpath(&[
        "attach",
        "--name",
        "guest",
        "--netns",
        &guest,
        "--network",
        "one",
    ])
    .ok();
    let (id, guests) = (id_of(&lab, "box"), id_of(&lab, "guest"));
    assert!(id.len() == 64 && id != guests, "{id} {guests}");
    let short = &id[..12];
    for word in [&id, short] {
        assert_eq!(lab.json(&["inspect", word])["name"], "box");
        lab.exec(word, &["ping", "-c1", "-W3", OUT4]).ok();
        assert!(lab.netpath(&["port", word]).ok().contains("8080"));
        lab.netpath(&["logs", word]).ok();
        lab.netpath(&["network", "connect", "two", word]).ok();
        assert_eq!(connection(&lab, "box", "two")["interface"], "eth1");
        lab.netpath(&["network", "disconnect", "two", word]).ok();
        assert_eq!(interfaces(&lab, word), ["lo", "eth0"]);
        let shown = lab.json(&["explain", word, &guests[..12], "icmp"]);
        assert_eq!(shown["verdict"], "delivered", "{shown}");
        let shared = format!("container:{word}");
        lab.netpath(&["run", "--rm", "--network", &shared, "--", "true"])
            .ok();
    }
    let shown = lab
        .netpath(&["inspect", "-f", "{{.Id}} {{.Name}}", short, "guest"])
        .ok();
    assert_eq!(shown, format!("{id} /box\n{guests} /guest\n"));
    assert_eq!(
        lab.netpath(&["ps", "-q"]).ok(),
        format!("{short}\n{}\n", &guests[..12])
    );
    // One that was given no name has the beginning of its id.
    let own = lab
        .netpath(&["run", "-d", "--network", "one", "--", "sleep", "600"])
        .ok();
    assert!(id_of(&lab, own.trim()).starts_with(own.trim()), "{own}");
    // A name goes before the beginning of an id.
    lab.run(&short[..3], &["--network", "one"], &["sleep", "600"]);
    assert_eq!(lab.json(&["inspect", &short[..3]])["name"], short[..3]);
    lab.netpath(&["rm", "-f", &short[..3]]).ok();
    lab.netpath(&["stop", "-t", "1", short]).ok();
    assert_eq!(
        lab.netpath(&["rm", short, &guests]).ok(),
        format!("{short}\n{guests}\n")
    );
    for word in [short, &id] {
        let refused = lab.netpath(&["inspect", word]).refused();
        assert!(refused.contains("no container is named"), "{refused}");
    }
}

#[test]
fn a_beginning_that_several_have_is_refused() {
    let lab = Lab::new();
    // Two of seventeen have the same first digit.
    let mut ids: Vec<String> = Vec::new();
    let first = loop {
        let name = format!("c{}", ids.len());
        lab.netpath(&["run", "--name", &name, "--network", "none", "--", "true"])
            .ok();
        let id = id_of(&lab, &name);
        if let Some(same) = ids.iter().find(|other| other[..1] == id[..1]) {
            break same[..1].to_owned();
        }
        ids.push(id);
    };
    let before = lab.json(&["ps", "-a"]);
    for args in [
        &["inspect", &first][..],
        &["rm", "-f", &first],
        &["stop", &first],
        &["logs", &first],
        &["network", "connect", "bridge", &first],
        &["network", "disconnect", "-f", "bridge", &first],
        &[
            "run",
            "--network",
            &format!("container:{first}"),
            "--",
            "true",
        ],
        &["run", "--link", &first, "--", "true"],
        &["explain", &first, OUT4, "icmp"],
    ] {
        let refused = lab.netpath(args).refused();
        assert!(
            refused.contains("is ambiguous: 2 ids begin so"),
            "{args:?}: {refused}"
        );
        assert_eq!(lab.json(&["ps", "-a"]), before, "{args:?}");
    }
}
