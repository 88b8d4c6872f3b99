//! `netpath network`, with Docker's words.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::Stdio;

use netpath_tests::lab::{Lab, eventually, finish, start};
use serde_json::{Value, json};

/// What `network inspect` shows of one network.
fn inspect(lab: &Lab, name: &str) -> Value {
    lab.json(&["network", "inspect", name])[0].clone()
}

fn names(lab: &Lab, filters: &[&str]) -> Vec<String> {
    let mut args = vec!["network", "ls", "--format", "{{.Name}}"];
    args.extend(filters.iter().flat_map(|filter| ["--filter", filter]));
    let text = lab.netpath(&args).ok();
    text.lines().map(str::to_owned).collect()
}

fn create(lab: &Lab, args: &[&str]) -> String {
    let id = lab.netpath(&[&["network", "create"], args].concat()).ok();
    id.trim().to_owned()
}

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
fn default_subnets_skip_what_the_host_has() {
    let mut lab = Lab::without_agent();
    for route in ["172.17.0.0/24", "172.18.128.0/17"] {
        lab.host(&["ip", "route", "add", route, "via", "192.0.2.2"])
            .ok();
    }
    lab.host(&["ip", "addr", "add", "172.19.7.7/32", "dev", "lo"])
        .ok();
    lab.start_agent();
    let subnet = |lab: &Lab, name| inspect(lab, name)["IPAM"]["Config"][0]["Subnet"].clone();
    assert_eq!(subnet(&lab, "bridge"), "172.20.0.0/16");
    create(&lab, &["next"]);
    assert_eq!(subnet(&lab, "next"), "172.21.0.0/16");
    // Pools of the settings; what is there stays as it is.
    lab.stop_agent();
    lab.agent_options(&[
        "--default-address-pool",
        "base=10.77.0.0/22,size=24",
        "--default-address-pool",
        "base=fd77::/16,size=64",
    ]);
    lab.start_agent();
    assert_eq!(subnet(&lab, "bridge"), "172.20.0.0/16");
    lab.host(&["ip", "route", "add", "10.77.1.0/24", "via", "192.0.2.2"])
        .ok();
    for (name, expected) in [("p0", "10.77.0.0/24"), ("p1", "10.77.2.0/24")] {
        create(&lab, &[name]);
        assert_eq!(subnet(&lab, name), expected);
    }
    create(&lab, &["p2", "--ipv6"]);
    let config = inspect(&lab, "p2")["IPAM"]["Config"].clone();
    assert_eq!(config[1]["Subnet"], "fd77::/64");
    let sentence = lab.netpath(&["network", "create", "p3"]).refused();
    assert!(
        sentence.contains("10.77.0.0/22 cut into /24") && sentence.contains("--subnet"),
        "{sentence}"
    );
    let mut command = lab.agent_command();
    command.args(["--default-address-pool", "base=10.0.0.0/8"]);
    let sentence = netpath_tests::lab::run(command).refused();
    assert!(sentence.contains("base=10.10.0.0/16,size=24"), "{sentence}");
}

#[test]
fn containers_get_addresses_of_the_range_and_none_that_is_set_aside() {
    let mut lab = Lab::new();
    create(
        &lab,
        &[
            "--subnet",
            "10.88.0.0/24",
            "--ip-range",
            "10.88.0.64/29",
            "--gateway",
            "10.88.0.1",
            "--aux-address",
            "printer=10.88.0.66",
            "--aux-address",
            "router=10.88.0.9",
            "net",
        ],
    );
    assert_eq!(
        inspect(&lab, "net")["IPAM"]["Config"][0],
        json!({
            "Subnet": "10.88.0.0/24",
            "IPRange": "10.88.0.64/29",
            "Gateway": "10.88.0.1",
            "AuxiliaryAddresses": {"printer": "10.88.0.66", "router": "10.88.0.9"},
        })
    );
    let mut given = BTreeSet::new();
    for n in 0..7 {
        let name = format!("c{n}");
        lab.run(&name, &["--network", "net"], &["sleep", "600"]);
        given.insert(lab.address(&name, false));
    }
    let expected = [64, 65, 67, 68, 69, 70, 71].map(|n| format!("10.88.0.{n}"));
    assert_eq!(given, BTreeSet::from(expected));
    let run = |ip: Option<&str>| {
        let mut args = vec!["run", "-d", "--name", "more", "--network", "net"];
        args.extend(ip.iter().flat_map(|ip| ["--ip", ip]));
        args.extend(["--", "sleep", "600"]);
        lab.netpath(&args)
    };
    for (ip, part) in [
        (None, "range 10.88.0.64/29 of subnet 10.88.0.0/24"),
        (Some("10.88.0.66"), "in use"),
        (Some("10.88.0.9"), "in use"),
        (Some("10.88.0.65"), "in use"),
        (Some("10.88.0.1"), "gateway"),
        (Some("10.88.0.255"), "broadcast"),
        (Some("10.89.0.7"), "outside"),
    ] {
        let sentence = run(ip).refused();
        assert!(sentence.contains(part), "{ip:?}: {sentence}");
    }
    // Outside the range, but inside the subnet.
    run(Some("10.88.0.200")).ok();
    // What was refused has taken no address; one that is free again is given again.
    lab.netpath(&["rm", "-f", "more", "c3"]).ok();
    lab.kill_agent();
    lab.start_agent();
    lab.run("again", &["--network", "net"], &["sleep", "600"]);
    assert_eq!(lab.address("again", false), "10.88.0.68");
    lab.run(
        "other",
        &["--network", "net", "--ip", "10.88.0.200"],
        &["sleep", "600"],
    );
}

#[test]
fn networks_have_the_families_that_they_are_told() {
    let lab = Lab::new();
    create(&lab, &["both", "--ipv6"]);
    let config = inspect(&lab, "both")["IPAM"]["Config"].clone();
    let ula = config[1]["Subnet"].as_str().unwrap();
    assert!(ula.starts_with("fd") && ula.ends_with("::/64"), "{ula}");
    create(&lab, &["second", "--ipv6"]);
    assert_ne!(inspect(&lab, "second")["IPAM"]["Config"][1]["Subnet"], ula);
    create(&lab, &["six", "--ipv4=false", "--ipv6"]);
    let shown = inspect(&lab, "six");
    assert_eq!(shown["EnableIPv4"], false);
    assert_eq!(shown["EnableIPv6"], true);
    lab.run("box", &["--network", "six"], &["sleep", "600"]);
    lab.exec(
        "box",
        &["ping", "-6", "-c", "1", "-W", "2", "2001:db8:1::2"],
    )
    .ok();
    let addresses = lab
        .exec("box", &["ip", "-4", "-o", "addr", "show", "eth0"])
        .ok();
    assert_eq!(addresses, "");
    create(
        &lab,
        &["option", "-o", "com.docker.network.enable_ipv6=true"],
    );
    assert_eq!(inspect(&lab, "option")["EnableIPv6"], true);
    for (args, part) in [
        (&["--ipv4=false"][..], "--ipv6"),
        (&["--ipv4=false", "--subnet", "10.9.0.0/24"], "IPv4"),
        (&["--ipv4=maybe"], "maybe"),
    ] {
        let sentence = lab
            .netpath(&[&["network", "create", "no"], args].concat())
            .refused();
        assert!(sentence.contains(part), "{args:?}: {sentence}");
    }
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

#[test]
fn devices_have_the_names_that_were_asked_for() {
    let mut lab = Lab::new();
    let option = "com.docker.network.bridge.name=lan0";
    create(&lab, &["net", "-o", option, "--subnet", "10.88.0.0/24"]);
    lab.host(&["ip", "addr", "show", "dev", "lan0", "to", "10.88.0.1"])
        .ok();
    assert_eq!(
        inspect(&lab, "net")["Options"]["com.docker.network.bridge.name"],
        "lan0"
    );
    lab.run("box", &["--network", "net"], &["sleep", "600"]);
    lab.exec("box", &["ping", "-c", "1", "-W", "2", "192.0.2.2"])
        .ok();
    for (option, part) in [
        ("name=lan0", "exists already"),
        ("name=uplink0", "exists already"),
        ("name=np-br9", "netpath's own choice"),
        ("name=a/b", "not the name of an interface"),
    ] {
        let sentence = lab
            .netpath(&["network", "create", "more", "-o", option])
            .refused();
        assert!(sentence.contains(part), "{option}: {sentence}");
    }
    lab.kill_agent();
    lab.start_agent();
    lab.exec("box", &["ping", "-c", "1", "-W", "2", "192.0.2.2"])
        .ok();
    lab.netpath(&["rm", "-f", "box"]).ok();
    lab.netpath(&["network", "rm", "net"]).ok();
    let links = lab.host(&["ip", "-o", "link"]).ok();
    assert!(!links.contains("lan0"), "{links}");
    create(&lab, &["net", "-o", option]);
    lab.purge().ok();
    let links = lab.host(&["ip", "-o", "link"]).ok();
    assert!(!links.contains("lan0"), "{links}");
}

#[test]
fn interfaces_begin_with_what_the_network_says() {
    let lab = Lab::new();
    let option = "com.docker.network.container_iface_prefix=lan";
    create(&lab, &["net", "-o", option, "--subnet", "10.88.0.0/24"]);
    create(&lab, &["other", "--subnet", "10.89.0.0/24"]);
    let args = ["--network", "net", "--ip", "10.88.0.9", "-p", "8080:80"];
    lab.run("box", &args, &["sleep", "600"]);
    lab.netpath(&["network", "connect", "other", "box"]).ok();
    for (device, prefix) in [("lan0", "10.88.0.9/24"), ("eth0", "10.89.0.2/24")] {
        let shown = lab.exec("box", &["ip", "-o", "addr", "show", device]).ok();
        assert!(shown.contains(prefix), "{shown}");
    }
    lab.exec("box", &["ping", "-c", "1", "-W", "2", "192.0.2.2"])
        .ok();
    let field = |template: &str| {
        let shown = lab.netpath(&["inspect", "--format", template, "box"]).ok();
        shown.trim().to_owned()
    };
    for (template, value) in [
        ("{{.NetworkSettings.Networks.net.IPAddress}}", "10.88.0.9"),
        ("{{.NetworkSettings.Networks.other.IPPrefixLen}}", "24"),
        ("{{.State.Running}} {{.Name}}", "true /box"),
        (
            "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}",
            "8080",
        ),
        (
            "{{range $name, $net := .NetworkSettings.Networks}}{{$name}} {{end}}",
            "net other",
        ),
    ] {
        assert_eq!(field(template), value, "{template}");
    }
    lab.netpath(&["inspect", "--format", "{{.Name", "box"])
        .refused();
}

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

/// Whatever is wrong with a subnet, it is refused and nothing is made.
#[test]
fn senseless_subnets_are_refused_and_nothing_is_made() {
    let lab = Lab::new();
    create(&lab, &["other", "--subnet", "10.88.0.0/24"]);
    let state = |lab: &Lab| {
        let links = lab.host(&["ip", "-o", "-4", "addr"]).ok();
        (names(lab, &[]), links)
    };
    let before = state(&lab);
    let v4 = ["--subnet", "10.99.0.0/24"];
    let more = |args: &[&'static str]| [&v4[..], args].concat();
    for (args, part) in [
        // Host bits.
        (vec!["--subnet", "10.99.0.1/24"], "10.99.0.0/24"),
        (vec!["--subnet", "fd00:9::1/64"], "fd00:9::/64"),
        // Overlaps, from inside and from outside; the same twice; two of a family.
        (
            vec!["--subnet", "10.88.0.128/25"],
            "10.88.0.0/24 of network other",
        ),
        (
            vec!["--subnet", "10.88.0.0/16"],
            "10.88.0.0/24 of network other",
        ),
        (vec!["--subnet", "172.17.3.0/24"], "network bridge"),
        (vec!["--subnet", "192.0.2.0/25"], "uplink0"),
        (vec!["--subnet", "2001:db8:1::/80"], "uplink0"),
        (more(&v4), "one family"),
        (more(&["--subnet", "10.98.0.0/24"]), "one family"),
        // Too small, too large, what nobody can have.
        (vec!["--subnet", "10.99.0.0/32"], "too small"),
        (vec!["--subnet", "10.99.0.0/31"], "too small"),
        (vec!["--subnet", "fd00:9::/128"], "too small"),
        (vec!["--subnet", "0.0.0.0/0"], "too large"),
        (vec!["--subnet", "127.9.0.0/16"], "loopback"),
        (vec!["--subnet", "169.254.9.0/24"], "link-local"),
        (vec!["--subnet", "224.9.0.0/16"], "multicast"),
        (vec!["--subnet", "fe80::/64"], "link-local"),
        // Gateways.
        (more(&["--gateway", "10.98.0.1"]), "10.98.0.1 is outside"),
        (more(&["--gateway", "10.99.0.0"]), "network or broadcast"),
        (more(&["--gateway", "10.99.0.255"]), "network or broadcast"),
        (more(&["--gateway", "fd00::1"]), "no subnet of its family"),
        (
            more(&["--gateway", "10.99.0.1", "--gateway", "10.99.0.2"]),
            "second of its family",
        ),
        (more(&["--gateway", "here"]), "here"),
        // Ranges and addresses that are set aside.
        (more(&["--ip-range", "10.98.0.0/25"]), "outside the subnet"),
        (more(&["--ip-range", "10.99.0.0/16"]), "outside the subnet"),
        (more(&["--ip-range", "10.99.0.1/25"]), "10.99.0.0/25"),
        (
            more(&["--ip-range", "fd00::/64"]),
            "no subnet of its family",
        ),
        (more(&["--ip-range", "somewhere"]), "somewhere"),
        (
            more(&["--aux-address", "a=10.98.0.9"]),
            "outside the subnet",
        ),
        (more(&["--aux-address", "a=10.99.0.1"]), "the gateway's"),
        (more(&["--aux-address", "a=fd00::9"]), "there is none"),
        (
            more(&[
                "--aux-address",
                "a=10.99.0.8",
                "--aux-address",
                "a=10.99.0.9",
            ]),
            "given twice",
        ),
        // No subnets at all.
        (vec!["--subnet", ""], "prefix length"),
        (vec!["--subnet", "10.99.0.0"], "10.99.0.0/24"),
        (vec!["--subnet", "tomato/24"], "tomato"),
        (vec!["--subnet", "10.99.0.0/33"], "10.99.0.0/33"),
        (vec!["--subnet", "10.99.0.0/-1"], "10.99.0.0/-1"),
    ] {
        let sentence = lab
            .netpath(&[&["network", "create", "no"][..], &args].concat())
            .refused();
        assert!(sentence.contains(part), "{args:?}: {sentence}");
    }
    assert_eq!(state(&lab), before);
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
