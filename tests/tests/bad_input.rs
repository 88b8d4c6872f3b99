//! Bad input gets one clear sentence that names the thing, and leaves nothing half made.

use std::fs;

use netpath_tests::lab::{Lab, UPLINK, netpath_binary, run};

/// The state that a refused command must not have touched.
fn state(lab: &Lab) -> Vec<serde_json::Value> {
    [
        &["ps", "-a"][..],
        &["network", "ls"],
        &["endpoints"],
        &["ports"],
    ]
    .iter()
    .map(|verb| lab.json(verb))
    .collect()
}

#[test]
fn refusals_name_the_thing_and_leave_nothing() {
    let lab = Lab::new();
    lab.netpath(&["network", "create", "net", "--subnet", "10.88.0.0/24"])
        .ok();
    lab.run("box", &["--network", "net"], &["sleep", "600"]);
    let before = state(&lab);
    let links = lab.host(&["ip", "-o", "link"]).ok();
    let long = "x".repeat(5000);
    let cases: &[(&[&str], &str)] = &[
        (
            &["network", "create", "net", "--subnet", "10.99.0.0/24"],
            "net",
        ),
        (
            &["network", "create", "bad/name", "--subnet", "10.99.0.0/24"],
            "bad/name",
        ),
        (
            &["network", "create", "", "--subnet", "10.99.0.0/24"],
            "name",
        ),
        (
            &["network", "create", &long, "--subnet", "10.99.0.0/24"],
            "name",
        ),
        (
            &["network", "create", "n", "--subnet", "10.99.0.0/33"],
            "10.99.0.0/33",
        ),
        (&["network", "create", "n", "--subnet", "tomato"], "tomato"),
        (
            &["network", "create", "n", "--subnet", "10.99.0.1/24"],
            "10.99.0.0/24",
        ),
        (
            &["network", "create", "n", "--subnet", "10.88.0.0/16"],
            "10.88.0.0/16",
        ),
        (
            &["network", "create", "n", "--subnet", "192.0.2.0/25"],
            "192.0.2.0/2",
        ),
        (
            &[
                "network",
                "create",
                "n",
                "--subnet",
                "10.99.0.0/24",
                "--gateway",
                "10.98.0.1",
            ],
            "10.98.0.1",
        ),
        (
            &[
                "network",
                "create",
                "n",
                "--subnet",
                "10.99.0.0/24",
                "--subnet",
                "10.98.0.0/24",
            ],
            "subnet",
        ),
        (
            &["network", "create", "n", "--subnet", "10.99.0.0/32"],
            "10.99.0.0/32",
        ),
        (&["network", "rm", "nothing"], "nothing"),
        (&["network", "rm", "net"], "box"),
        (&["network", "inspect", "nothing"], "nothing"),
        (
            &[
                "run",
                "-d",
                "--name",
                "box",
                "--network",
                "net",
                "--",
                "sleep",
                "1",
            ],
            "box",
        ),
        (
            &[
                "run",
                "-d",
                "--name",
                "x",
                "--network",
                "nowhere",
                "--",
                "sleep",
                "1",
            ],
            "nowhere",
        ),
        (
            &[
                "run",
                "-d",
                "--name",
                "../x",
                "--network",
                "net",
                "--",
                "sleep",
                "1",
            ],
            "../x",
        ),
        (
            &[
                "run",
                "-d",
                "--name",
                "x",
                "--network",
                "net",
                "--ip",
                "10.77.0.1",
                "--",
                "sleep",
                "1",
            ],
            "10.77.0.1",
        ),
        (
            &[
                "run",
                "-d",
                "--name",
                "x",
                "--network",
                "net",
                "--ip",
                "10.88.0.1",
                "--",
                "sleep",
                "1",
            ],
            "10.88.0.1",
        ),
        (
            &[
                "run",
                "-d",
                "--name",
                "x",
                "--network",
                "net",
                "-p",
                "99999:80",
                "--",
                "sleep",
                "1",
            ],
            "99999",
        ),
        (
            &[
                "run",
                "-d",
                "--name",
                "x",
                "--network",
                "net",
                "-p",
                "80:80/quic",
                "--",
                "sleep",
                "1",
            ],
            "quic",
        ),
        (
            &[
                "run",
                "-d",
                "--name",
                "x",
                "--network",
                "net",
                "-p",
                "80-82:80-90",
                "--",
                "sleep",
                "1",
            ],
            "80-82",
        ),
        (
            &[
                "run",
                "-d",
                "--name",
                "x",
                "--network",
                "net",
                "-p",
                "203.0.113.9:80:80",
                "--",
                "sleep",
                "1",
            ],
            "203.0.113.9",
        ),
        (
            &[
                "run",
                "-d",
                "--name",
                "x",
                "--network",
                "net",
                "-p",
                "300.1.1.1:80:80",
                "--",
                "sleep",
                "1",
            ],
            "300.1.1.1",
        ),
        (
            &[
                "attach",
                "--name",
                "x",
                "--network",
                "net",
                "--pid",
                "4194000",
            ],
            "4194000",
        ),
        (
            &[
                "attach",
                "--name",
                "x",
                "--network",
                "net",
                "--netns",
                "/nonexistent",
            ],
            "/nonexistent",
        ),
        (
            &[
                "attach",
                "--name",
                "x",
                "--network",
                "net",
                "--netns",
                "/etc/hosts",
            ],
            "/etc/hosts",
        ),
        (&["exec", "ghost", "--", "true"], "ghost"),
        (&["inspect", "ghost"], "ghost"),
        (&["port", "ghost"], "ghost"),
        (&["stop", "ghost"], "ghost"),
        (&["rm", "ghost"], "ghost"),
        (&["rm", "box"], "box"),
    ];
    for (args, named) in cases {
        let sentence = lab.netpath(args).refused();
        assert!(sentence.starts_with("netpath: "), "{args:?}: {sentence}");
        assert!(sentence.contains(named), "{args:?}: {sentence}");
    }
    // The agent's own namespace is not to be turned inside out.
    let pid = lab.agent_pid().to_string();
    lab.netpath(&["attach", "--name", "x", "--network", "net", "--pid", &pid])
        .refused();
    assert_eq!(state(&lab), before);
    assert_eq!(lab.host(&["ip", "-o", "link"]).ok(), links);
}

#[test]
fn an_exhausted_subnet_says_so() {
    let lab = Lab::new();
    lab.netpath(&["network", "create", "tiny", "--subnet", "10.88.0.0/30"])
        .ok();
    lab.run("only", &["--network", "tiny"], &["sleep", "600"]);
    let sentence = lab
        .netpath(&[
            "run",
            "-d",
            "--name",
            "more",
            "--network",
            "tiny",
            "--",
            "sleep",
            "1",
        ])
        .refused();
    assert!(
        sentence.contains("tiny") || sentence.contains("10.88.0.0/30"),
        "{sentence}"
    );
    lab.netpath(&["rm", "-f", "only"]).ok();
    lab.run("more", &["--network", "tiny"], &["sleep", "600"]);
}

#[test]
fn without_an_agent_the_client_says_how_to_start_one() {
    let lab = Lab::without_agent();
    let sentence = lab.netpath(&["ps"]).refused();
    assert!(
        sentence.contains("netpath.sock") && sentence.contains("netpath agent"),
        "{sentence}"
    );
}

#[test]
fn a_second_agent_on_the_same_folders_is_refused() {
    let lab = Lab::new();
    let sentence = run(lab.agent_command()).refused();
    assert!(sentence.contains("agent"), "{sentence}");
    lab.netpath(&["status"]).ok();
}

#[test]
fn an_agent_without_its_uplink_is_refused() {
    let lab = Lab::without_agent();
    lab.host(&["ip", "link", "del", UPLINK]).ok();
    let sentence = run(lab.agent_command()).refused();
    assert!(sentence.contains(UPLINK), "{sentence}");
    assert!(!lab.bpffs().exists());
}

#[test]
fn an_agent_without_privileges_is_refused() {
    let lab = Lab::without_agent();
    let binary = netpath_binary();
    let folders = lab.folders();
    let mut args = vec![
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        &binary,
        "agent",
    ];
    args.extend(folders.iter().map(String::as_str));
    let sentence = lab.host(&args).refused();
    assert!(
        sentence.contains("root") || sentence.contains("CAP_"),
        "{sentence}"
    );
}

#[test]
fn a_bpffs_folder_elsewhere_is_refused() {
    let mut lab = Lab::without_agent();
    lab.pin_under(lab.dir().join("not-a-bpffs"));
    let command = lab.agent_command();
    let sentence = run(command).refused();
    assert!(sentence.contains("bpffs"), "{sentence}");
}

#[test]
fn a_bpffs_folder_with_a_dot_is_refused() {
    let mut lab = Lab::without_agent();
    let folder = format!("{}.v1", lab.bpffs().display());
    let without = folder.replace('.', "-");
    for more in ["", "/below"] {
        lab.pin_under(format!("{folder}{more}").into());
        let sentence = run(lab.agent_command()).refused();
        assert!(sentence.contains("a dot in its name"), "{sentence}");
        assert!(sentence.contains(&without), "{sentence}");
    }
    assert!(!lab.dir().join("run/netpath.sock").exists());
    // What is no folder cannot be purged, and it says so or has nothing to do.
    lab.purge();
}

#[test]
fn a_broken_store_is_refused() {
    let lab = Lab::without_agent();
    let state = lab.dir().join("state");
    fs::create_dir_all(&state).unwrap();
    fs::write(state.join("state.redb"), vec![0x5a; 4096]).unwrap();
    let sentence = run(lab.agent_command()).refused();
    assert!(sentence.contains("state.redb"), "{sentence}");
}

#[test]
fn nonsense_on_the_socket_does_not_harm_the_agent() {
    let lab = Lab::new();
    let socket = lab.dir().join("run/netpath.sock").display().to_string();
    let post = |path: &str, body: &str| {
        let url = format!("http://localhost{path}");
        let args = [
            "curl",
            "-sSm5",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--unix-socket",
            &socket,
            "-H",
            "content-type: application/json",
            "-d",
            body,
            &url,
        ];
        lab.host(&args).stdout
    };
    for (path, body) in [
        ("/v1/networks", "{"),
        ("/v1/networks", "[]"),
        ("/v1/networks", "{\"name\": 7}"),
        ("/v1/containers", "\u{1}"),
        ("/v1/nothing", "{}"),
        ("/", ""),
    ] {
        let code = post(path, body);
        assert!(code.starts_with('4'), "{path} {body:?}: {code}");
    }
    let large = lab.dir().join("large.json");
    fs::write(&large, vec![b' '; 8 << 20]).unwrap();
    let code = post("/v1/networks", &format!("@{}", large.display()));
    assert!(code.starts_with('4'), "{code}");
    lab.netpath(&["status"]).ok();
}

#[test]
fn the_socket_is_closed_to_other_users() {
    let lab = Lab::new();
    let binary = netpath_binary();
    let socket = lab.dir().join("run/netpath.sock").display().to_string();
    let sentence = lab
        .host(&[
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            &binary,
            "--socket",
            &socket,
            "ps",
        ])
        .refused();
    assert!(sentence.contains("netpath.sock"), "{sentence}");
}

#[test]
fn doctor_says_what_is_there() {
    let lab = Lab::without_agent();
    let ran = lab.host(&[&netpath_binary(), "doctor"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for word in ["kernel", "BTF", "bpffs", "tcx"] {
        assert!(ran.stdout.contains(word), "{word}: {}", ran.stdout);
    }
}
