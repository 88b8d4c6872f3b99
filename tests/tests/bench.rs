//! `netpath bench`: it measures, and nothing is left of it, however it ends.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use netpath_tests::command::{eventually, finish_within, start};
use netpath_tests::lab::{Ran, netpath_binary, run};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// A run of a few measurements, on a busy machine and without optimisations.
const PATIENCE: Duration = Duration::from_secs(120);
/// One workload, and as little of it as makes sense.
const TINY: [&str; 7] = [
    "bench",
    "--quick",
    "--only",
    "one-core/tcp-rr/container-container",
    "--rounds=2",
    "--window",
    "60",
];

fn bench(args: &[&str]) -> Command {
    let mut command = Command::new(netpath_binary());
    command.args(args);
    command
}

/// What a run with this process id would leave: its folder, its pins, its processes.
fn left_by(pid: u32) -> Vec<String> {
    let mut left = Vec::new();
    let folder = format!("/run/netpath-bench/{pid}");
    if Path::new(&folder).exists() {
        left.push(folder.clone());
    }
    let names = |path: &str| -> Vec<String> {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    };
    let pins = format!("netpath-bench-{pid}-");
    left.extend(
        names("/sys/fs/bpf")
            .into_iter()
            .filter(|name| name.starts_with(&pins)),
    );
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    left.extend(
        mounts
            .lines()
            .filter(|line| line.contains(&folder))
            .map(str::to_owned),
    );
    let mark = format!("NETPATH_BENCH={folder}");
    for process in names("/proc") {
        let environment = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
        if environment
            .split(|byte| *byte == 0)
            .any(|entry| entry == mark.as_bytes())
        {
            left.push(format!("process {process}"));
        }
    }
    left
}

#[track_caller]
fn assert_nothing_is_left_by(pid: u32) {
    let left = left_by(pid);
    assert!(left.is_empty(), "{left:#?}");
}

/// Every number in a value, with its path.
fn numbers(value: &Value, path: &str, found: &mut Vec<(String, f64)>) {
    match value {
        Value::Number(number) => found.push((path.to_owned(), number.as_f64().unwrap())),
        Value::Array(values) => {
            for value in values {
                numbers(value, path, found);
            }
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                numbers(value, &format!("{path}/{name}"), found);
            }
        }
        _ => {}
    }
}

#[test]
fn a_short_run_gives_figures_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut args = TINY.to_vec();
    args.extend(["--out", out.to_str().unwrap()]);
    let child = start(bench(&args));
    let pid = child.id();
    let ran = finish_within(child, PATIENCE);
    assert_nothing_is_left_by(pid);

    let text =
        fs::read_to_string(out.join("report.json")).unwrap_or_else(|e| panic!("{e} {ran:#?}"));
    let report: Value = serde_json::from_str(&text).unwrap();
    // On a machine that runs other tests the control may well say so.
    let void = report["control"]["void"].as_bool().unwrap();
    assert_eq!(ran.code, Some(i32::from(void)), "{ran:#?}");
    assert_eq!(
        ran.stdout.contains("THIS RUN IS VOID"),
        void,
        "{}",
        ran.stdout
    );

    assert_eq!(report["schema"], 1);
    assert_eq!(report["rounds"], 2);
    let series = report["series"].as_array().unwrap();
    for variant in ["netpath", "veth"] {
        let found = series.iter().find(|s| s["variant"] == variant).unwrap();
        assert_eq!(found["samples"].as_array().unwrap().len(), 2);
    }
    let mut all = Vec::new();
    for key in ["series", "comparisons", "control", "programs"] {
        let part = report[key].clone();
        assert!(!part.as_array().is_some_and(Vec::is_empty), "no {key}");
        numbers(&part, key, &mut all);
    }
    // Ticks are too coarse for CPU times of so short a window.
    let may_be_zero = ["cpu_busy", "cpu_process", "cpu_softirq", "failures"];
    for (path, number) in all {
        let name = path.rsplit('/').next().unwrap_or_default();
        assert!(
            number > 0.0 || may_be_zero.contains(&name),
            "{path} is {number}"
        );
    }
    assert!(!report["environment"]["kernel"].as_str().unwrap().is_empty());

    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("A/A control") && page.contains("netpath"));
    let picture = fs::read_to_string(out.join("one-core-tcp-rr.svg")).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("veth"));

    let report = out.join("report.json");
    let report = report.to_str().unwrap();
    let compared = run(bench(&["bench", "compare", report, report])).ok();
    assert!(
        compared.contains("netpath vs veth") && compared.contains("+0.0 %"),
        "{compared}"
    );
}

#[test]
fn a_ratio_that_fell_is_named_and_fails() {
    let dir = tempfile::tempdir().unwrap();
    let file =
        |name: &str, ratios: [f64; 2]| {
            let comparisons = ["veth", "docker0+iptables"].iter().zip(ratios).map(
                |(reference, median)| {
                    json!({
                        "cores": "one-core", "workload": "tcp-rr", "path": "container-container",
                        "subject": "netpath", "reference": reference, "rounds": 10,
                        "ratio": {"median": median, "low": median - 0.01, "high": median + 0.01},
                    })
                },
            );
            let report = json!({
                "schema": 1, "command": "", "started": 0, "seconds": 1.0, "rounds": 10,
                "window_ms": 1, "warmup_ms": 1, "variants": [], "left_out": [], "series": [],
                "control": {"void": false, "tolerance": 0.03, "ratios": []},
                "comparisons": comparisons.collect::<Vec<_>>(), "targets": [], "latencies": null,
                "programs": [], "generator": [],
                "environment": {
                    "kernel": "", "cpu": "", "cores": 2, "used_cores": [1, 0], "memory_mib": 1,
                    "virtualized": false, "load": 0.0, "steal": 0.0, "congestion": "cubic",
                    "settings": [], "versions": [], "offloads": [],
                },
            });
            let path = dir.path().join(name).to_str().unwrap().to_owned();
            fs::write(&path, report.to_string()).unwrap();
            path
        };
    let old = file("old.json", [0.98, 1.30]);
    let new = file("new.json", [0.97, 1.20]);
    let ran = run(bench(&["bench", "compare", &old, &new]));
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    let worse: Vec<&str> = ran.stdout.lines().filter(|l| l.contains("WORSE")).collect();
    assert_eq!(worse.len(), 1, "{ran:#?}");
    assert!(
        worse[0].contains("docker0+iptables") && worse[0].contains("-7.7 %"),
        "{worse:?}"
    );
    // It is within another threshold, and the other way round nothing fell.
    run(bench(&[
        "bench",
        "compare",
        &old,
        &new,
        "--threshold",
        "10",
    ]))
    .ok();
    run(bench(&["bench", "compare", &new, &old])).ok();
}

/// Starts a run and waits until it measures.
fn measuring() -> std::process::Child {
    let mut args = TINY.to_vec();
    args[4] = "--rounds=1000";
    let mut child = bench(&args)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = lines.find(|line| line.as_ref().is_ok_and(|line| line.starts_with("round 2")));
    assert!(line.is_some(), "it does not measure");
    // It goes on writing there.
    std::thread::spawn(move || lines.for_each(drop));
    child
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
}

#[test]
fn an_interrupted_run_leaves_nothing() {
    let mut child = measuring();
    let pid = child.id();
    assert!(!left_by(pid).is_empty());
    signal(pid, Signal::SIGINT);
    let end = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < end, "it goes on");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(1));
    assert_nothing_is_left_by(pid);
}

#[test]
fn what_a_killed_run_left_is_taken_away_by_the_next() {
    let mut child = measuring();
    let pid = child.id();
    signal(pid, Signal::SIGKILL);
    child.wait().unwrap();
    // Its processes end with it.
    eventually("its processes are gone", || {
        !left_by(pid).iter().any(|left| left.starts_with("process"))
    });
    assert!(!left_by(pid).is_empty());
    let child = start(bench(&TINY));
    let next = child.id();
    finish_within(child, PATIENCE);
    assert_nothing_is_left_by(pid);
    assert_nothing_is_left_by(next);
}

#[test]
fn wrong_usage_is_refused_in_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("text.json"), "no JSON").unwrap();
    fs::write(path("empty.json"), "{}").unwrap();
    let cases: &[(&[&str], &str)] = &[
        (&["bench", "--only", "tcp-xx"], "\"tcp-xx\" names nothing"),
        (
            &["bench", "--only", "tcp-rr/nowhere"],
            "tcp-rr/container-container",
        ),
        (&["bench", "--rounds", "0"], "0"),
        (
            &["bench", "--json", "/nonexistent/x.json"],
            "/nonexistent/x.json",
        ),
        (&["bench", "--out", "/proc/x"], "/proc/x"),
        (&["bench", "compare"], "OLD.json"),
        (
            &["bench", "compare", "/nonexistent/a", "/nonexistent/b"],
            "/nonexistent/a",
        ),
        (
            &["bench", "compare", &path("text.json"), "b"],
            "text.json is no result",
        ),
        (
            &["bench", "compare", &path("empty.json"), "b"],
            "empty.json is no result",
        ),
        (&["bench", "compare", "a", "b", "--threshold", "500"], "500"),
        (&["bench-worker", "nonsense"], "netpath bench"),
    ];
    for (args, part) in cases {
        let said = run(bench(args)).refused();
        assert!(said.contains(part), "{args:?}: {said}");
    }
}

#[test]
fn who_is_not_root_is_told_so() {
    // Where a plain user can run it: the work tree may be somebody's own.
    let dir = tempfile::tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(dir.path(), open).unwrap();
    let binary = dir.path().join("netpath");
    fs::copy(netpath_binary(), &binary).unwrap();
    let mut command = Command::new(binary);
    command
        .args(["bench", "--quick"])
        .current_dir("/")
        .uid(65_534)
        .gid(65_534);
    let said: Ran = run(command);
    assert!(said.refused().contains("as root"));
}
