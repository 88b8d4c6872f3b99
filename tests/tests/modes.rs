//! Where a container has its network from: its own, the host's, none, or another container's.

use std::net::TcpListener;

use netpath_tests::inside::{ask_tcp, inside, serve};
use netpath_tests::lab::{HOST4, Lab, OUT4, OUT6, eventually};

fn namespace(lab: &Lab, name: &str) -> String {
    lab.exec(name, &["readlink", "/proc/self/ns/net"]).ok()
}

#[test]
fn host_shares_the_hosts_network() {
    let lab = Lab::new();
    let ran = lab.netpath(&[
        "run",
        "-d",
        "--name",
        "box",
        "--network",
        "host",
        "-p",
        "8080:80",
        "--",
        "sleep",
        "4721",
    ]);
    assert!(ran.stderr.contains("discarded"), "{ran:?}");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    ran.ok();
    let hosts = lab.host(&["readlink", "/proc/self/ns/net"]).ok();
    assert_eq!(namespace(&lab, "box"), hosts);
    assert_eq!(lab.json(&["ports"]).as_array().map(Vec::len), Some(0));
    let container = lab.json(&["inspect", "box"]);
    assert_eq!(container["mode"], "host", "{container}");
    assert_eq!(container["networks"].as_array().map(Vec::len), Some(0));
    let ps = lab.netpath(&["ps"]).ok();
    assert!(ps.contains(" host "), "{ps}");
    let own = ["hostname", "hosts", "resolv.conf"].map(|name| format!("/etc/{name}"));
    for file in &own[1..] {
        let (inside, outside) = (lab.exec("box", &["cat", file]), lab.host(&["cat", file]));
        assert_eq!(inside.stdout, outside.stdout, "{file}");
    }
    let hostname = lab.exec("box", &["hostname"]).ok();
    assert_eq!(hostname, lab.host(&["hostname"]).ok());
    // What it serves is served by the host; it ends with all that it began, and nothing else
    // of the host does.
    let helper = lab.host_command(&["sleep", "4722"]).spawn();
    let mut helper = helper.expect("a process of the host");
    lab.run(
        "server",
        &["--network", "host", "--hostname", "odd"],
        &[
            "sh",
            "-c",
            "setsid sleep 4721 & exec busybox httpd -f -p 8000 -h /tmp",
        ],
    );
    assert_eq!(lab.exec("server", &["hostname"]).ok(), "odd\n");
    eventually("it serves", || {
        lab.outside(&["curl", "-sm2", &format!("http://{HOST4}:8000/")])
            .code
            == Some(0)
    });
    lab.netpath(&["stop", "-t", "1", "server"]).ok();
    lab.netpath(&["rm", "-f", "box"]).ok();
    assert_eq!(lab.host(&["pgrep", "-f", "^sleep 4721$"]).code, Some(1));
    assert!(helper.try_wait().unwrap().is_none(), "somebody else's");
    let _ = helper.kill();
    let _ = helper.wait();
    lab.exec("server", &["true"]).refused();
}

#[test]
fn none_has_loopback_only() {
    let lab = Lab::new();
    let ran = lab.netpath(&[
        "run",
        "-d",
        "--name",
        "box",
        "--network",
        "none",
        "-p",
        "80",
        "--",
        "sleep",
        "600",
    ]);
    assert!(ran.stderr.contains("discarded"), "{ran:?}");
    ran.ok();
    let links = lab.exec("box", &["ip", "-o", "link"]).ok();
    assert_eq!(links.lines().count(), 1, "{links}");
    lab.exec("box", &["ping", "-c1", "-W1", "127.0.0.1"]).ok();
    lab.exec("box", &["ping", "-c1", "-W1", "::1"]).ok();
    let hosts = lab.exec("box", &["cat", "/etc/hosts"]).ok();
    assert!(
        hosts.contains("localhost") && !hosts.contains("box"),
        "{hosts}"
    );
    for out in [OUT4, OUT6] {
        assert_ne!(lab.exec("box", &["ping", "-c1", "-W1", out]).code, Some(0));
    }
    assert_eq!(lab.json(&["endpoints"]).as_array().map(Vec::len), Some(0));
    lab.netpath(&["stop", "-t", "1", "box"]).ok();
    assert_eq!(lab.json(&["inspect", "box"])["mode"], "none");
}

#[test]
fn a_container_shares_the_network_of_another() {
    let mut lab = Lab::new();
    lab.netpath(&["network", "create", "net", "--subnet", "10.88.0.0/24"])
        .ok();
    lab.run(
        "web",
        &["--network", "net", "-p", "8080:80"],
        &["sleep", "4731"],
    );
    lab.run(
        "side",
        &["--network", "container:web"],
        &["sh", "-c", "setsid sleep 4732 & exec sleep 4732"],
    );
    assert_eq!(namespace(&lab, "web"), namespace(&lab, "side"));
    for file in ["hosts", "resolv.conf", "hostname"] {
        let file = format!("/etc/{file}");
        let of = |name| lab.exec(name, &["cat", &file]).ok();
        assert_eq!(of("web"), of("side"));
    }
    assert_eq!(lab.exec("side", &["hostname"]).ok(), "web\n");
    let mounts = |name| lab.exec(name, &["readlink", "/proc/self/ns/mnt"]).ok();
    assert_ne!(mounts("web"), mounts("side"));
    // What one serves the other reaches at 127.0.0.1, and everybody by web's address and port.
    serve(&lab.namespace_of("web"), "one of them", [80]);
    let heard = lab.exec(
        "side",
        &["curl", "-sm2", "--http0.9", "http://127.0.0.1:80/"],
    );
    assert!(heard.stdout.starts_with("one of them"), "{heard:?}");
    ask_tcp(&lab.outside_netns(), HOST4, 8080).unwrap();
    // A network that one is connected to is there for both.
    lab.netpath(&["network", "create", "more", "--subnet", "10.89.0.0/24"])
        .ok();
    lab.netpath(&["network", "connect", "more", "web"]).ok();
    assert!(lab.exec("side", &["ip", "addr"]).ok().contains("10.89.0.2"));
    assert!(
        lab.exec("side", &["cat", "/etc/hosts"])
            .ok()
            .contains("10.89.0.2")
    );
    // One of those who share ends: the others do not notice.
    lab.run("brief", &["--network", "container:web"], &["sleep", "4733"]);
    lab.netpath(&["rm", "-f", "brief"]).ok();
    ask_tcp(&lab.outside_netns(), HOST4, 8080).unwrap();
    // With its owner the network ends. Who shared it goes on without, agent or no agent.
    lab.kill_agent();
    lab.start_agent();
    lab.netpath(&["stop", "-t", "1", "web"]).ok();
    assert_eq!(lab.host(&["pgrep", "-f", "^sleep 4731$"]).code, Some(1));
    assert_eq!(lab.host(&["pgrep", "-fc", "^sleep 4732$"]).ok(), "2\n");
    let links = lab.exec("side", &["ip", "-o", "link"]).ok();
    assert_eq!(links.lines().count(), 1, "{links}");
    // A new container of the name has a network of its own.
    lab.netpath(&["rm", "web"]).ok();
    lab.run("web", &["--network", "net"], &["sleep", "4731"]);
    assert_ne!(namespace(&lab, "web"), namespace(&lab, "side"));
    lab.run(
        "second",
        &["--network", "container:web"],
        &["sleep", "4732"],
    );
    lab.netpath(&["stop", "-t", "1", "side"]).ok();
    assert_eq!(lab.host(&["pgrep", "-fc", "^sleep 4732$"]).ok(), "1\n");
    lab.netpath(&["rm", "-f", "web"]).ok();
    lab.exec("second", &["true"]).ok();
    lab.purge().ok();
    assert_eq!(lab.host(&["pgrep", "-f", "^sleep 473[123]$"]).code, Some(1));
}

/// As with Docker: whose network it is by name, it shares that of the command that runs.
#[test]
fn whose_network_is_shared_may_itself_share_one() {
    let lab = Lab::new();
    lab.netpath(&["network", "create", "net", "--subnet", "10.88.0.0/24"])
        .ok();
    lab.run("web", &["--network", "net"], &["sleep", "600"]);
    lab.run("side", &["--network", "container:web"], &["sleep", "600"]);
    let id = lab.json(&["inspect", "side"])["id"].clone();
    let by_id = format!("container:{}", &id.as_str().expect("an id")[..12]);
    lab.run("third", &["--network", &by_id], &["sleep", "600"]);
    assert_eq!(lab.json(&["inspect", "third"])["mode"], "container:side");
    assert_eq!(namespace(&lab, "web"), namespace(&lab, "third"));
    for file in ["hosts", "resolv.conf", "hostname"] {
        let file = format!("/etc/{file}");
        let of = |name| lab.exec(name, &["cat", &file]).ok();
        assert_eq!(of("web"), of("third"));
    }
    lab.exec("third", &["ping", "-c1", "-W3", OUT4]).ok();
    // With the owner the network goes; those who share it go on, and are shared.
    let before = namespace(&lab, "side");
    lab.netpath(&["rm", "-f", "web"]).ok();
    lab.run("web", &["--network", "net"], &["sleep", "600"]);
    assert_eq!(namespace(&lab, "third"), before);
    lab.run(
        "fourth",
        &["--network", "container:third"],
        &["sleep", "600"],
    );
    assert_eq!(namespace(&lab, "fourth"), before);
    lab.exec("fourth", &["cat", "/etc/hosts"]).ok();
    // One in the middle ends alone.
    lab.netpath(&["rm", "-f", "side"]).ok();
    for name in ["third", "fourth"] {
        assert_eq!(namespace(&lab, name), before);
    }
    lab.run("hosts", &["--network", "host"], &["sleep", "600"]);
    lab.run(
        "guest",
        &["--network", "container:hosts"],
        &["sleep", "600"],
    );
    let hosts = lab.host(&["readlink", "/proc/self/ns/net"]).ok();
    assert_eq!(namespace(&lab, "guest"), hosts);
}

#[test]
fn an_attached_namespace_is_shared_as_well() {
    let mut lab = Lab::new();
    lab.netpath(&["network", "create", "net", "--subnet", "10.88.0.0/24"])
        .ok();
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
    let process = lab.host_command(&["nsenter", &format!("--net={guest}"), "sleep", "4741"]);
    let index = lab.spawn(process);
    lab.run(
        "side",
        &["--network", "container:guest"],
        &["sleep", "4742"],
    );
    lab.exec("side", &["ping", "-c1", "-W3", OUT4]).ok();
    lab.netpath(&["stop", "-t", "1", "side"]).ok();
    assert_eq!(lab.host(&["pgrep", "-f", "^sleep 4742$"]).code, Some(1));
    let pid = lab.helper_pid(index).to_string();
    assert_eq!(
        lab.host(&["kill", "-0", &pid]).code,
        Some(0),
        "it is not ours to end"
    );
    lab.netpath(&["rm", "guest"]).ok();
    assert_eq!(lab.host(&["kill", "-0", &pid]).code, Some(0));
}

#[test]
fn modes_that_contradict_are_refused() {
    let mut lab = Lab::new();
    lab.netpath(&["network", "create", "net", "--subnet", "10.88.0.0/24"])
        .ok();
    lab.run("web", &["--network", "net"], &["sleep", "600"]);
    lab.run("over", &["--network", "net"], &["true"]);
    eventually("it has ended", || {
        lab.json(&["inspect", "over"])["state"] == "exited"
    });
    let before = lab.json(&["ps", "-a"]);
    for (options, parts) in [
        (
            &["--network", "host", "--network", "net"][..],
            &["host", "alone"][..],
        ),
        (
            &["--network", "net", "--network", "none"],
            &["none", "alone"],
        ),
        (&["--network", "net", "--network", "net"], &["net", "twice"]),
        (&["--network", "host", "--ip", "10.88.0.9"], &["host"]),
        (&["--network", "none", "--network-alias", "x"], &["none"]),
        (
            &[
                "--network",
                "container:web",
                "--mac-address",
                "02:00:00:00:00:01",
            ],
            &["container:web"],
        ),
        (&["--network", "container:web", "-p", "80"], &["web", "-p"]),
        (
            &["--network", "container:web", "--hostname", "x"],
            &["web", "--hostname"],
        ),
        (&["--network", "container:nobody"], &["nobody"]),
        (&["--network", "container:"], &["container"]),
        (&["--network", "container:over"], &["over", "exited"]),
        (
            &["--network", "bridge", "--network-alias", "x"],
            &["bridge", "alias"],
        ),
        (
            &["--network", "name=net,ip=10.88.0.9", "--ip", "10.88.0.8"],
            &["--ip", "twice"],
        ),
        (&["--network", "ip=10.88.0.9"], &["name"]),
        (&["--network", "nowhere"], &["nowhere"]),
        (&["--network", "net", "--network", "nowhere"], &["nowhere"]),
    ] {
        let mut args = vec!["run", "-d", "--name", "new"];
        args.extend(options);
        args.extend(["--", "sleep", "600"]);
        let refused = lab.netpath(&args).refused();
        for part in parts {
            assert!(refused.contains(part), "{options:?}: {refused}");
        }
        assert_eq!(lab.json(&["ps", "-a"]), before, "{options:?}");
    }
    let guest = lab.add_namespace("guest");
    for mode in ["host", "none", "container:web"] {
        let refused = lab
            .netpath(&[
                "attach",
                "--name",
                "new",
                "--netns",
                &guest,
                "--network",
                mode,
            ])
            .refused();
        assert!(refused.contains(mode), "{refused}");
    }
    // The default network has a second name, as in Docker.
    lab.run("plain", &["--network", "default"], &["sleep", "600"]);
    let network = lab.json(&["inspect", "plain"])["networks"][0]["network"].clone();
    assert_eq!(network, "bridge");
    let listener = inside(&lab.host_netns(), || TcpListener::bind("0.0.0.0:8123"));
    assert!(listener.is_ok());
}
