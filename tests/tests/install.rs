//! What is put in place, and taken away again.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use netpath_tests::lab::{Lab, Ran, netpath_binary, run};

fn netpath(verb: &str, root: &Path, rest: &[&str]) -> Ran {
    let mut command = Command::new(netpath_binary());
    command.args([verb, "--root"]).arg(root).args(rest);
    run(command)
}

/// All files below a folder, by their paths in it.
fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => found.push(Path::new("/").join(entry.path().strip_prefix(root).unwrap())),
            }
        }
    }
    found.sort();
    found
}

#[test]
fn what_is_installed_is_complete_and_taken_away() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let said = netpath("install", root, &[]).ok();
    let there = files(root);
    for path in [
        "/usr/local/bin/netpath",
        "/etc/systemd/system/netpath.service",
        "/etc/docker/plugins/netpath.spec",
        "/usr/local/share/man/man1/netpath.1",
        "/usr/local/share/man/man1/netpath-agent.1",
        "/usr/local/share/man/man1/netpath-network-create.1",
    ] {
        assert!(
            there.iter().any(|file| file == Path::new(path)),
            "{path}: {there:?}"
        );
        assert!(said.contains(path), "{said}");
    }
    let inside = |path: &str| root.join(path);
    let mode = |path: &str| fs::metadata(inside(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("usr/local/bin/netpath"), 0o755);
    assert_eq!(mode("etc/docker/plugins/netpath.spec"), 0o644);
    let read = |path: &str| fs::read_to_string(inside(path)).unwrap();
    assert_eq!(
        read("etc/docker/plugins/netpath.spec"),
        "unix:///run/netpath/docker.sock\n"
    );
    let unit = read("etc/systemd/system/netpath.service");
    for line in [
        "Type=notify",
        "Before=docker.service",
        "ExecStart=/usr/local/bin/netpath agent $NETPATH_OPTIONS",
    ] {
        assert!(unit.lines().any(|other| other == line), "{line}: {unit}");
    }
    let page = read("usr/local/share/man/man1/netpath-agent.1");
    assert!(page.contains("docker\\-plugin"), "{page}");
    // Verbs that are nobody's have no page.
    assert!(
        !there
            .iter()
            .any(|file| file.to_string_lossy().contains("shim")),
        "{there:?}"
    );
    let mut command = Command::new(inside("usr/local/bin/netpath"));
    command.arg("--version");
    assert!(run(command).ok().starts_with("netpath "));

    // Once more, over an earlier version with a file that there is no more.
    let list = inside("usr/local/share/netpath/installed");
    let old = inside("usr/local/share/man/man1/netpath-old.1");
    fs::write(&old, "").unwrap();
    let listed = fs::read_to_string(&list).unwrap() + "/usr/local/share/man/man1/netpath-old.1\n";
    fs::write(&list, listed).unwrap();
    netpath("install", root, &[]).ok();
    assert_eq!(files(root), there);

    // What is not netpath's stays.
    fs::write(inside("etc/docker/plugins/other.spec"), "").unwrap();
    netpath("uninstall", root, &[]).ok();
    assert_eq!(files(root), [Path::new("/etc/docker/plugins/other.spec")]);
    let refused = netpath("uninstall", root, &[]).refused();
    assert!(refused.contains("not installed"), "{refused}");
}

#[test]
fn a_package_has_its_files_where_packages_have_them() {
    let root = tempfile::tempdir().unwrap();
    netpath("install", root.path(), &["--prefix", "/usr"]).ok();
    let there = files(root.path());
    for path in [
        "/usr/bin/netpath",
        "/usr/lib/systemd/system/netpath.service",
        "/usr/lib/docker/plugins/netpath.spec",
        "/usr/share/man/man1/netpath.1",
    ] {
        assert!(
            there.iter().any(|file| file == Path::new(path)),
            "{path}: {there:?}"
        );
    }
    for prefix in ["relative", "/usr/../../etc"] {
        let refused = netpath("install", root.path(), &["--prefix", prefix]).refused();
        assert!(refused.contains(prefix), "{refused}");
    }
    let list = root.path().join("usr/share/netpath/installed");
    fs::write(&list, "/../../etc/passwd\n").unwrap();
    let refused = netpath("uninstall", root.path(), &["--prefix", "/usr"]).refused();
    assert!(refused.contains("damaged"), "{refused}");
}

#[test]
fn the_service_manager_is_told_when_docker_can_call() {
    let lab = Lab::without_agent();
    let path = lab.dir().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut command = lab.agent_command();
    let mut agent = command.env("NOTIFY_SOCKET", &path).spawn().unwrap();
    let mut buffer = [0; 64];
    let told = socket.recv(&mut buffer);
    let listens = netpath_tests::plugin::send(&lab, "/Plugin.Activate", b"").0;
    let _ = agent.kill();
    let _ = agent.wait();
    assert_eq!(&buffer[..told.expect("a message")], b"READY=1");
    assert_eq!(listens, 200);
}
