//! How an agent gets into a cluster, and how it does not.

use netpath_tests::command::{finish_within, start};
use netpath_tests::etcd::Etcd;
use netpath_tests::lab::eventually;
use netpath_tests::lab::hosts::{Hosts, SWITCH4};
use std::fs;
use std::process::Command;
use std::time::Duration;

use super::world::World;

/// What the agent of a node says as it refuses to start.
#[track_caller]
fn refused(world: &mut World, node: &str, options: &[&str]) -> String {
    let url = world.etcd.url();
    let mut all = vec!["--cluster", &url];
    all.extend(options);
    let host = world.node(node);
    host.agent_options(&all);
    let child = start(host.agent_command());
    let ran = finish_within(child, Duration::from_secs(60));
    assert!(ran.code.is_some_and(|code| code != 0), "{ran:#?}");
    let last = ran.stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("netpath: "), "{ran:#?}");
    last.to_owned()
}

#[test]
fn two_hosts_cannot_have_one_name() {
    let mut world = World::without_agents(2, &[]);
    world.node("a").start_agent();
    eventually("it is a node", || {
        !world.etcd.get("/netpath/v1/nodes/a").is_empty()
    });
    let said = refused(&mut world, "b", &["--node", "a"]);
    assert!(
        said.contains("node name a is in use by the host 192.0.2.1"),
        "{said}"
    );
    assert!(said.contains("--node"), "{said}");
}

#[test]
fn status_tells_of_the_cluster() {
    let mut world = World::new(1, &["--cluster-lease", "7"]);
    let host = world.node("a");
    let status = host.json(&["status"])["cluster"].clone();
    assert_eq!(status["node"], "a", "{status}");
    assert_eq!(status["store"], "etcd://192.0.2.254:2379", "{status}");
    assert!(status["problem"].is_null(), "{status}");
    let said = host.netpath(&["status"]).ok();
    let lines = [
        "cluster     node a (192.0.2.1), dead after 7 s of silence",
        "store       etcd://192.0.2.254:2379, at revision ",
    ];
    for line in lines {
        assert!(said.contains(line), "{line} in {said}");
    }
    world.etcd.kill();
    let away = "store       etcd://192.0.2.254:2379, away: ";
    eventually("the store is away", || {
        let said = world.node("a").netpath(&["status"]).ok();
        said.contains(away)
    });
}

#[test]
fn settings_that_make_no_sense_are_refused_in_a_sentence() {
    let mut world = World::without_agents(1, &[]);
    let missing = "/nonexistent/ca.pem";
    for (options, part) in [
        (&["--cluster-ca", missing][..], "cannot read cluster-ca"),
        (&["--cluster-user", "u"], "belong together"),
        (&["--cluster-lease", "1"], "choose 3 to 86400"),
        (&["--node", "a b"], "cannot name a node"),
        (&["--node-address", "127.0.0.1"], "cannot be reached"),
        (&["--cluster-ca", "/etc/hostname"], "no certificate in PEM"),
    ] {
        let said = refused(&mut world, "a", options);
        assert!(said.contains(part), "{options:?}: {said}");
    }
    // Without a store there are no networks of several hosts.
    world.node("a").agent_options(&[]);
    world.node("a").start_agent();
    let said = world.node("a").netpath(&["nodes"]).refused();
    assert!(said.contains("--cluster"), "{said}");
    let flannel = ["network", "create", "-d", "flannel", "f"];
    let said = world.node("a").netpath(&flannel).refused();
    assert!(said.contains("--cluster"), "{said}");
}

#[test]
fn a_store_with_users_wants_the_password() {
    let mut world = World::without_agents(1, &[]);
    for args in [
        &["user", "add", "root:secret"][..],
        &["user", "add", "np:pass word"],
        &["role", "add", "np"],
        &[
            "role",
            "grant-permission",
            "--prefix=true",
            "np",
            "readwrite",
            "/netpath/",
        ],
        &["user", "grant-role", "np", "np"],
        &["user", "grant-role", "root", "root"],
        &["auth", "enable"],
    ] {
        world.etcd.ctl(args).ok();
    }
    let file = world.etcd.folder().join("password");
    fs::write(&file, "pass word\n").expect("a file");
    let (url, file) = (world.etcd.url(), file.display().to_string());
    let options = [
        "--cluster",
        &url,
        "--node",
        "a",
        "--cluster-user",
        "np",
        "--cluster-password-file",
        &file,
    ];
    world.node("a").agent_options(&options);
    world.node("a").start_agent();
    eventually("it is a node", || {
        let args = [
            "--user",
            "root:secret",
            "get",
            "--print-value-only",
            "/netpath/v1/nodes/a",
        ];
        world.etcd.ctl(&args).stdout.contains("192.0.2.1")
    });
    world
        .node("a")
        .netpath(&["network", "create", "-d", "overlay", "blue"])
        .ok();
    world.run("a", "on-a", "blue");
}

/// Makes an authority, and a certificate of its for an address, by openssl.
#[track_caller]
fn make_certificates(folder: &std::path::Path, address: &str) {
    let openssl = |args: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(args).current_dir(folder);
        netpath_tests::command::run(command).ok();
    };
    openssl(&[
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
        "-days",
        "2",
        "-subj",
        "/CN=ca",
        "-addext",
        "basicConstraints=critical,CA:TRUE",
    ]);
    for (name, extension) in [
        ("server", format!("subjectAltName=IP:{address}")),
        ("node", "extendedKeyUsage=clientAuth".to_owned()),
    ] {
        fs::write(folder.join("extensions"), extension).expect("a file");
        let (key, csr, pem) = (
            format!("{name}.key"),
            format!("{name}.csr"),
            format!("{name}.pem"),
        );
        openssl(&[
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            &key,
            "-out",
            &csr,
            "-subj",
            &format!("/CN={name}"),
        ]);
        openssl(&[
            "x509",
            "-req",
            "-in",
            &csr,
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-out",
            &pem,
            "-days",
            "2",
            "-extfile",
            "extensions",
        ]);
    }
}

#[test]
fn a_store_with_certificates_is_reached_by_tls() {
    let hosts = Hosts::new(1);
    let folder = tempfile::tempdir().expect("a folder");
    make_certificates(folder.path(), SWITCH4);
    let file = |name: &str| folder.path().join(name).display().to_string();
    let etcd = Etcd::start_with(
        &hosts.switch_netns(),
        SWITCH4,
        &[
            &format!("--cert-file={}", file("server.pem")),
            &format!("--key-file={}", file("server.key")),
            &format!("--trusted-ca-file={}", file("ca.pem")),
            "--client-cert-auth",
        ],
    );
    let mut world = World { etcd, hosts };
    let url = world.etcd.url();
    let options = [
        "--cluster",
        &url,
        "--node",
        "a",
        "--cluster-ca",
        &file("ca.pem"),
        "--cluster-cert",
        &file("node.pem"),
        "--cluster-key",
        &file("node.key"),
    ];
    world.node("a").agent_options(&options);
    world.node("a").start_agent();
    eventually("it is a node", || {
        world.node("a").json(&["nodes"])["cluster"]["problem"].is_null()
    });
    world
        .node("a")
        .netpath(&["network", "create", "-d", "overlay", "blue"])
        .ok();
    // Without its certificate a node is not let in.
    world.node("a").stop_agent();
    world.node("a").agent_options(&options[..6]);
    world.node("a").start_agent();
    let said = world
        .node("a")
        .netpath(&["network", "create", "-d", "overlay", "red"]);
    assert!(said.refused().contains("needs the cluster's store"));
}
