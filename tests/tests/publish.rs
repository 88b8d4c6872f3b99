//! Published ports as users ask for them, and what they cost.

use std::fs;
use std::time::{Duration, Instant};

use netpath_tests::lab::Lab;

/// How long an action takes: the median of ten.
fn median(mut action: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..10)
        .map(|_| {
            let begin = Instant::now();
            action();
            begin.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[5]
}

#[test]
fn a_thousand_ports_cost_neither_processes_nor_time() {
    let mut lab = Lab::new();
    lab.netpath(&[
        "network",
        "create",
        "net",
        "--subnet",
        "10.88.0.0/16",
        "--subnet",
        "fd88::/64",
    ])
    .ok();
    let path = lab.add_namespace("c1");
    for ports in [None, Some("10000-10999:1-1000"), Some("10000-10009:1-10")] {
        let mut args = vec![
            "attach",
            "--name",
            "c1",
            "--netns",
            &path,
            "--network",
            "net",
        ];
        if let Some(ports) = ports {
            args.extend(["-p", ports]);
        }
        let mut remove = Vec::new();
        let mut attach = Vec::new();
        for _ in 0..10 {
            let begin = Instant::now();
            lab.netpath(&args).ok();
            attach.push(begin.elapsed());
            let begin = Instant::now();
            lab.netpath(&["rm", "c1"]).ok();
            remove.push(begin.elapsed());
        }
        attach.sort_unstable();
        remove.sort_unstable();
        println!("{ports:?}: attach {:?} remove {:?}", attach[5], remove[5]);
    }
}

#[test]
fn zz_profile() {
    let mut lab = Lab::new();
    lab.netpath(&[
        "network",
        "create",
        "net",
        "--subnet",
        "10.88.0.0/16",
        "--subnet",
        "fd88::/64",
    ])
    .ok();
    let path = lab.add_namespace("c1");
    let pid = lab.agent_pid();
    let cpu = || -> u64 {
        fs::read_dir(format!("/proc/{pid}/task"))
            .unwrap()
            .flatten()
            .filter_map(|t| fs::read_to_string(t.path().join("schedstat")).ok())
            .filter_map(|s| s.split(' ').next().and_then(|n| n.parse::<u64>().ok()))
            .sum()
    };
    for ports in [None, Some("10000-10999:1-1000"), Some("10000-10000:1-1")] {
        let mut args = vec![
            "attach",
            "--name",
            "c1",
            "--netns",
            &path,
            "--network",
            "net",
        ];
        if let Some(ports) = ports {
            args.extend(["-p", ports]);
        }
        let (mut a, mut r) = (vec![], vec![]);
        for _ in 0..10 {
            let b = cpu();
            lab.netpath(&args).ok();
            let m = cpu();
            lab.netpath(&["rm", "c1"]).ok();
            let e = cpu();
            a.push(m - b);
            r.push(e - m);
        }
        a.sort();
        r.sort();
        println!(
            "{ports:?}: agent cpu attach {} us remove {} us",
            a[5] / 1000,
            r[5] / 1000
        );
    }
    let mut strace = std::process::Command::new("strace");
    strace.args(["-f", "-c", "-p", &pid.to_string(), "-o", "/tmp/ctl-strace"]);
    let mut child = strace.spawn().unwrap();
    std::thread::sleep(Duration::from_millis(700));
    let args = vec![
        "attach",
        "--name",
        "c1",
        "--netns",
        &path,
        "--network",
        "net",
        "-p",
        "10000-10999:1-1000",
    ];
    lab.netpath(&args).ok();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.id() as i32),
        nix::sys::signal::Signal::SIGINT,
    )
    .unwrap();
    child.wait().unwrap();
    println!(
        "{}",
        fs::read_to_string("/tmp/ctl-strace")
            .unwrap()
            .lines()
            .take(14)
            .collect::<Vec<_>>()
            .join("\n")
    );
}
