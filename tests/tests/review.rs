//! What a review of the agent found, each held by a test.

use std::fs;
use std::io::Read as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use netpath_tests::lab::{Lab, OUT4, eventually, finish, netpath_binary, run, start};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn network(lab: &Lab) {
    lab.netpath(&["network", "create", "net", "--subnet", "10.88.0.0/24"])
        .ok();
}

/// The supervisor of a running container.
fn supervisor(lab: &Lab, name: &str) -> Pid {
    let pid = lab.json(&["inspect", name])["pid"].as_u64().unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    Pid::from_raw(parent.unwrap().trim().parse().unwrap())
}

#[test]
fn a_late_supervisor_does_not_end_another_container_of_the_name() {
    let lab = Lab::new();
    network(&lab);
    lab.run("box", &["--network", "net"], &["sleep", "600"]);
    let late = supervisor(&lab, "box");
    kill(late, Signal::SIGSTOP).unwrap();
    let removed = lab.netpath(&["rm", "-f", "box"]);
    lab.run(
        "box",
        &["--network", "net"],
        &["sh", "-c", "sleep 1; exit 3"],
    );
    kill(late, Signal::SIGCONT).unwrap();
    removed.ok();
    eventually("the late supervisor is gone", || {
        fs::read_to_string(format!("/proc/{late}/stat")).map_or(true, |stat| stat.contains(") Z "))
    });
    assert_eq!(lab.json(&["inspect", "box"])["state"], "running");
    // Nor does what it wrote down count.
    eventually("it ends", || {
        lab.json(&["inspect", "box"])["state"] == "exited"
    });
    assert_eq!(lab.json(&["inspect", "box"])["exit_code"], 3);
}

#[test]
fn a_detached_container_holds_nothing_of_its_caller_open() {
    let lab = Lab::new();
    network(&lab);
    // The shell's descriptor 9 is a pipe that `cat` reads to its end.
    let command = lab.netpath_command(&[
        "run",
        "-d",
        "--name",
        "box",
        "--network",
        "net",
        "--",
        "sleep",
        "600",
    ]);
    let mut shell = lab.host_command(&["sh", "-c", "\"$@\" 9>&1 >/dev/null | cat", "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    let started = Instant::now();
    finish(start(shell)).ok();
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_full_disk_is_survived() {
    let lab = Lab::without_agent();
    let state = lab.dir().join("state");
    fs::create_dir(&state).unwrap();
    let state = state.display().to_string();
    // A mount namespace of its own, which ends with the agent.
    let script = format!("mount -t tmpfs -o size=1m none {state} && exec \"$@\"");
    let agent = lab.agent_command();
    let mut command = lab.host_command(&["unshare", "-m", "sh", "-c", &script, "sh"]);
    command.arg(agent.get_program()).args(agent.get_args());
    let mut agent = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut ready = [0; 5];
    agent
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut ready)
        .unwrap();
    let test = || {
        network(&lab);
        lab.run("box", &["--network", "net"], &["sleep", "600"]);
        let inside = format!("/proc/{}/root{state}", agent.id());
        let fill = Path::new(&inside).join("fill");
        let full = fs::write(&fill, vec![0; 2 << 20]);
        assert!(full.is_err());
        // Records this long need room.
        let long = "x".repeat(100_000);
        let refused = (0..20).find_map(|_| {
            let ran = lab.netpath(&["run", "-d", "--network", "net", "--", "sleep", "600", &long]);
            (ran.code != Some(0)).then_some(ran)
        });
        let sentence = refused.expect("the disk gets full").refused();
        assert!(sentence.contains("No space left"), "{sentence}");
        // What runs is still shown.
        assert_eq!(lab.json(&["inspect", "box"])["state"], "running");
        fs::remove_file(&fill).unwrap();
        lab.netpath(&["rm", "-f", "box"]).ok();
        lab.netpath(&["network", "create", "more", "--subnet", "10.89.0.0/24"])
            .ok();
    };
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
    let names: Vec<String> = lab
        .json(&["ps", "-a"])
        .as_array()
        .map(|all| {
            let names = all.iter().filter_map(|c| c["name"].as_str());
            names.map(str::to_owned).collect()
        })
        .unwrap_or_default();
    for name in names {
        lab.netpath(&["rm", "-f", &name]);
    }
    let _ = agent.kill();
    let _ = agent.wait();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn folders_of_somebody_else_are_left_alone() {
    let lab = Lab::without_agent();
    let other = lab.dir().join("other");
    let theirs = other.join("containers/theirs");
    fs::create_dir_all(&theirs).unwrap();
    let [_, _, _, state, _, bpffs] = lab.folders();
    let other = other.display().to_string();
    let folders = [
        "--run-dir",
        &other,
        "--state-dir",
        &state,
        "--bpffs",
        &bpffs,
    ];
    for verb in ["agent", "purge"] {
        let binary = netpath_binary();
        let sentence = lab
            .host(&[&["env", "RUST_LOG=error", &binary, verb][..], &folders].concat())
            .refused();
        assert!(sentence.contains(&other), "{sentence}");
        assert!(theirs.exists());
    }
    // Nor is all of a bpffs the agent's, or any folder that is not on one.
    let run_dir = lab.dir().join("run").display().to_string();
    let whole = lab.dir().join("bpf");
    fs::create_dir(&whole).unwrap();
    let whole = whole.display().to_string();
    let script = format!("mount -t bpf none {whole} && exec \"$@\"");
    for pins in [&whole, &other] {
        for verb in ["agent", "purge"] {
            let binary = netpath_binary();
            let sentence = lab
                .host(&[
                    "unshare",
                    "-m",
                    "sh",
                    "-c",
                    &script,
                    "sh",
                    &binary,
                    verb,
                    "--run-dir",
                    &run_dir,
                    "--state-dir",
                    &state,
                    "--bpffs",
                    pins,
                ])
                .refused();
            assert!(
                sentence.contains(pins) && sentence.contains("--bpffs"),
                "{sentence}"
            );
        }
    }
    assert!(theirs.exists());
    assert!(
        !Path::new(&run_dir).exists(),
        "a refused agent made its folder"
    );
}

#[test]
fn the_pins_of_an_agent_in_another_namespace_are_left_alone() {
    let one = Lab::new();
    network(&one);
    one.run("box", &["--network", "net"], &["sleep", "600"]);
    let mut two = Lab::without_agent();
    let own = two.bpffs().to_owned();
    two.pin_under(one.bpffs().to_owned());
    let sentence = run(two.agent_command()).refused();
    assert!(sentence.contains("--bpffs"), "{sentence}");
    let purge = [
        &[netpath_binary(), "purge".to_owned()][..],
        &two.folders()[..],
    ]
    .concat();
    let purge: Vec<&str> = purge.iter().map(String::as_str).collect();
    two.host(&purge).refused();
    two.pin_under(own);
    one.exec("box", &["ping", "-c", "1", "-W", "2", OUT4]).ok();
}

#[test]
fn the_socket_of_somebody_else_is_left_alone() {
    let lab = Lab::without_agent();
    let file = lab.dir().join("file");
    fs::write(&file, "precious").unwrap();
    let socket = lab.dir().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let binary = netpath_binary();
    let folders = lab.folders();
    for path in [&file, &socket] {
        let path = path.display().to_string();
        let mut agent = lab.agent_command();
        agent.args(["--socket", &path]);
        let sentence = run(agent).refused();
        assert!(sentence.contains(&path), "{sentence}");
        let mut purge = vec![binary.as_str(), "--socket", &path, "purge"];
        purge.extend(folders.iter().map(String::as_str));
        lab.host(&purge).ok();
        assert!(Path::new(&path).exists(), "{path}");
    }
}

#[test]
fn purge_leaves_devices_of_the_same_name_alone() {
    let (one, mut two) = (Lab::new(), Lab::new());
    for lab in [&one, &two] {
        network(lab);
    }
    let mut one = one;
    one.stop_agent();
    // An agent's folders, but the namespace of another that does not run just now.
    two.stop_agent();
    two.host(&[
        "ip", "link", "add", "npv77", "group", "28272", "type", "veth", "peer", "np-x",
    ])
    .ok();
    let folders = one.folders();
    let binary = netpath_binary();
    let mut purge = vec![binary.as_str(), "purge"];
    purge.extend(folders.iter().map(String::as_str));
    two.host(&purge).ok();
    let links = two.host(&["ip", "-o", "link"]).ok();
    assert!(links.contains("npv77"), "{links}");
    two.host(&["ip", "link", "del", "npv77"]).ok();
}

#[test]
fn subnets_keep_clear_of_addresses_and_not_of_default_routes() {
    let lab = Lab::new();
    lab.host(&["ip", "addr", "add", "10.5.5.5/32", "dev", "lo"])
        .ok();
    let sentence = lab
        .netpath(&["network", "create", "n", "--subnet", "10.5.5.0/24"])
        .refused();
    assert!(sentence.contains("10.5.5.5"), "{sentence}");
    // As VPNs do.
    for half in ["0.0.0.0/1", "128.0.0.0/1"] {
        lab.host(&["ip", "route", "add", half, "via", OUT4]).ok();
    }
    lab.netpath(&["network", "create", "chosen"]).ok();
    lab.netpath(&["network", "create", "named", "--subnet", "10.6.0.0/24"])
        .ok();
}

#[test]
fn an_attached_process_that_is_gone_is_not_mistaken_for_another() {
    let mut lab = Lab::new();
    network(&lab);
    let guest = lab.dir().join("guest");
    fs::write(&guest, "").unwrap();
    let path = guest.display().to_string();
    let mut holder = std::process::Command::new("unshare");
    holder.args(["--net", "sleep", "600"]);
    let index = lab.spawn(holder);
    let pid = lab.helper_pid(index);
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    eventually("it is in a namespace of its own", || {
        fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|found| found != own)
    });
    lab.host(&["mount", "--bind", &format!("/proc/{pid}/ns/net"), &path])
        .ok();
    let attached = lab.netpath(&[
        "attach",
        "--name",
        "guest",
        "--netns",
        &path,
        "--network",
        "net",
    ]);
    let before = lab.exec("guest", &["true"]);
    lab.host(&["umount", &path]).ok();
    lab.host(&["mount", "--bind", "/proc/self/ns/net", &path])
        .ok();
    let after = lab.exec("guest", &["true"]);
    lab.host(&["umount", &path]).ok();
    attached.ok();
    before.ok();
    let sentence = after.refused();
    assert!(sentence.contains(&path), "{sentence}");
}

#[test]
fn long_commands_are_run_and_too_long_ones_refused() {
    let lab = Lab::new();
    network(&lab);
    let long = "x".repeat(120_000);
    let mut args = vec!["run", "--rm", "--network", "net", "--", "true"];
    args.extend([long.as_str(); 10]);
    lab.netpath(&args).ok();
    // More than the kernel takes, as somebody else than our client may ask for.
    let body = lab.dir().join("body");
    fs::write(&body, vec![b' '; 5 << 20]).unwrap();
    let socket = lab.dir().join("run/netpath.sock").display().to_string();
    let body = format!("@{}", body.display());
    let said = lab.host(&[
        "curl",
        "-sSm",
        "10",
        "--unix-socket",
        &socket,
        "-H",
        "content-type: application/json",
        "-H",
        "expect:",
        "--data-binary",
        &body,
        "http://netpath/v1/containers",
    ]);
    assert!(said.stdout.contains("longer than 4 MiB"), "{said:?}");
}

#[test]
fn without_the_right_to_find_processes_the_agent_refuses() {
    let lab = Lab::without_agent();
    let agent = lab.agent_command();
    let mut command = lab.host_command(&[
        "setpriv",
        "--inh-caps=-all",
        "--bounding-set=-all,+bpf,+net_admin,+sys_admin",
    ]);
    command.arg(agent.get_program()).args(agent.get_args());
    let sentence = run(command).refused();
    assert!(sentence.contains("CAP_SYS_PTRACE"), "{sentence}");
}

#[test]
fn quoted_words_do_not_break_a_sentence() {
    let lab = Lab::new();
    for args in [
        &["network", "create", "n", "--subnet", "a\nb"][..],
        &["run", "-d", "-p", "80\nb", "--", "true"],
        &["run", "--", "no\nsuch"],
        &["attach", "--name", "n", "--netns", "/proc/self/ns/mnt"],
        &["rm", "a\nb", "c\nd"],
        &["a\nb"],
    ] {
        let ran = lab.netpath(args);
        assert!(ran.code.is_some_and(|code| code != 0), "{ran:?}");
        assert!(ran.stderr.ends_with('\n'), "{ran:?}");
        for line in ran.stderr.lines() {
            assert!(line.starts_with("netpath: "), "{args:?}: {ran:?}");
        }
    }
}
