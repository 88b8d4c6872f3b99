//! Drops and flows as they happen, for several who watch.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use aya::maps::{Array, Map, MapData};
use netpath_common::config::Config;
use netpath_tests::lab::{HOST4, Lab, OUT4, OUT6, eventually, finish, start};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Two networks, three containers, and a server of datagrams outside.
fn lab() -> Lab {
    let mut lab = Lab::new();
    for (name, v4, v6) in [
        ("net", "10.88.0.0/24", "fd88::/64"),
        ("red", "10.89.0.0/24", "fd89::/64"),
    ] {
        lab.netpath(&["network", "create", name, "--subnet", v4, "--subnet", v6])
            .ok();
    }
    for (name, network) in [("one", "net"), ("two", "net"), ("other", "red")] {
        lab.run(name, &["--network", network], &["sleep", "600"]);
    }
    let server = "import socket\n\
                  s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n\
                  s.bind(('::', 9000))\n\
                  while True: s.sendto(*s.recvfrom(99))";
    lab.serve_outside(&["python3", "-c", server]);
    lab
}

/// Sends datagrams from a container, without waiting for answers.
fn send(lab: &Lab, from: &str, to: &str, port: u16, count: u32) {
    let text = format!(
        "import socket\n\
         family = socket.AF_INET6 if ':' in '{to}' else socket.AF_INET\n\
         s = socket.socket(family, socket.SOCK_DGRAM)\n\
         for _ in range({count}): s.sendto(b'x', ('{to}', {port}))"
    );
    lab.exec(from, &["python3", "-c", &text]).ok();
}

/// Somebody who watches; ends with the test.
struct Watcher {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Watcher {
    /// Returns when it watches.
    fn new(lab: &Lab, name: &str, args: &[&str]) -> Self {
        let path = |end: &str| lab.dir().join(format!("{name}.{end}"));
        let (out, err) = (path("out"), path("err"));
        let mut command: Command = lab.netpath_command(&["-o", "json", "monitor"]);
        let child = command
            .args(args)
            .stdin(Stdio::null())
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&err).unwrap())
            .spawn()
            .unwrap();
        let watcher = Self { child, out, err };
        eventually("it watches", || watcher.complaints().contains("watching"));
        watcher
    }

    fn complaints(&self) -> String {
        fs::read_to_string(&self.err).unwrap()
    }

    fn events(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.out).unwrap();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let lines = whole.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Waits for an event with these fields.
    #[track_caller]
    fn sees(&self, wanted: &[(&str, &str)]) -> Value {
        let find = || {
            let all = self.events();
            all.into_iter()
                .find(|event| wanted.iter().all(|(key, text)| event[*key] == *text))
        };
        eventually(&format!("{wanted:?} among {:#?}", self.events()), || {
            find().is_some()
        });
        find().unwrap()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(pid, signal).unwrap();
    }

    /// Ctrl-C; the exit code.
    fn interrupt(mut self) -> Option<i32> {
        self.signal(Signal::SIGINT);
        eventually("it ends", || self.child.try_wait().unwrap().is_some());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the programs are asked to tell.
fn wanted(lab: &Lab) -> u32 {
    let map = MapData::from_pin(lab.bpffs().join("config")).unwrap();
    let map: Array<MapData, Config> = Map::Array(map).try_into().unwrap();
    map.get(&0, 0).unwrap().events
}

#[test]
fn drops_and_flows_are_told_as_they_happen() {
    let lab = lab();
    assert_eq!(wanted(&lab), 0);
    let watcher = Watcher::new(&lab, "all", &[]);
    for (out, v6) in [(OUT4, false), (OUT6, true)] {
        let (one, other) = (lab.address("one", v6), lab.address("other", v6));
        send(&lab, "one", &other, 5000, 1);
        let text = |addr: &str, port: u16| {
            std::net::SocketAddr::new(addr.parse().unwrap(), port).to_string()
        };
        let drop = watcher.sees(&[
            ("event", "drop"),
            ("reason", "other_network"),
            ("hook", "container"),
            ("proto", "udp"),
            ("destination", &text(&other, 5000)),
        ]);
        let source = drop["source"].as_str().unwrap();
        assert!(source.trim_start_matches('[').starts_with(&one), "{drop}");
        assert!(
            drop["device"].as_str().unwrap().starts_with("npv"),
            "{drop}"
        );
        // Ethernet, IP, UDP, and a byte.
        assert_eq!(
            drop["bytes"],
            14 + if v6 { 40 } else { 20 } + 8 + 1,
            "{drop}"
        );

        send(&lab, "one", out, 9000, 1);
        let flow = watcher.sees(&[
            ("event", "new_flow"),
            ("kind", "masquerade"),
            ("proto", "udp"),
            ("destination", &text(out, 9000)),
        ]);
        let row = lab.json(&["flows"]);
        let rows = row.as_array().unwrap();
        let same = |key| rows.iter().any(|row| row[key] == flow[key]);
        assert!(same("source") && same("translated_source"), "{flow} {row}");
    }
    // A flow ends with its container, as soon as the agent cleans up.
    let source = watcher.sees(&[("event", "new_flow")])["source"].clone();
    lab.netpath(&["stop", "-t", "0", "one"]).ok();
    let end = watcher.sees(&[("event", "flow_end"), ("source", source.as_str().unwrap())]);
    assert_eq!(end["destination"], format!("{OUT4}:9000"));
    assert_eq!(watcher.interrupt(), Some(0));
    eventually("the programs tell nothing more", || wanted(&lab) == 0);
}

#[test]
fn several_watch_each_what_it_wants() {
    let lab = lab();
    let address = lab.address("other", false);
    let watchers: Vec<Watcher> = [
        ("drops", &["--drops"][..]),
        ("flows", &["--flows"]),
        ("one", &["--container", "one"]),
        ("port", &["--port", "5001"]),
        ("addr", &["--addr", "10.89.0.0/16", "--proto", "udp"]),
        ("tcp", &["--proto", "tcp"]),
        ("reason", &["--reason", "no_route"]),
        ("outside", &["--addr", OUT4]),
    ]
    .iter()
    .map(|(name, args)| Watcher::new(&lab, name, args))
    .collect();
    assert_eq!(wanted(&lab), 3);
    send(&lab, "one", &address, 5000, 1);
    send(&lab, "two", &address, 5001, 1);
    send(&lab, "two", OUT4, 9000, 1);
    let connect = format!(
        "import socket\ntry: socket.create_connection(('{OUT4}', 9001), 2)\nexcept OSError: pass"
    );
    lab.exec("two", &["python3", "-c", &connect]).ok();
    watchers[1].sees(&[("event", "new_flow"), ("proto", "tcp")]);
    watchers[0].sees(&[("destination", &format!("{address}:5001"))]);
    let ports = |watcher: &Watcher| -> Vec<String> {
        let all = watcher.events();
        let ends = all.iter().filter_map(|event| event["destination"].as_str());
        // What has no port was not sent here: the kernel's own discovery and the like.
        let mut ports: Vec<String> = ends
            .filter_map(|end| end.parse::<std::net::SocketAddr>().ok())
            .map(|end| end.port().to_string())
            .collect();
        ports.sort();
        ports.dedup();
        ports
    };
    eventually("each sees its own, and nothing else", || {
        let all: Vec<_> = watchers.iter().map(ports).collect();
        all == [
            &["5000", "5001"][..],
            &["9000", "9001"],
            &["5000"],
            &["5001"],
            &["5000", "5001"],
            &["9001"],
            &[],
            &["9000", "9001"],
        ]
    });
    drop(watchers);
    eventually("the programs tell nothing more", || wanted(&lab) == 0);
}

#[test]
fn what_a_slow_watcher_misses_is_said() {
    const SENT: u64 = 60_000;
    let lab = lab();
    let address = lab.address("other", false);
    let slow = Watcher::new(&lab, "slow", &["--drops", "--port", "5000"]);
    slow.signal(Signal::SIGSTOP);
    send(&lab, "one", &address, 5000, SENT as u32);
    slow.signal(Signal::SIGCONT);
    let sums = || {
        let all = slow.events();
        let lost = all.iter().filter_map(|event| event["count"].as_u64());
        let seen = all.iter().filter(|event| event["event"] == "drop");
        (seen.count() as u64, lost.sum::<u64>())
    };
    // What is lost may have been for others, too, such as a packet of the kernel's own.
    eventually("everything is seen or known to be lost", || {
        let (seen, lost) = sums();
        lost > 0 && seen > 0 && seen + lost >= SENT
    });
}

#[test]
fn watching_ends_with_its_reader_and_with_the_agent() {
    let mut lab = lab();
    let address = lab.address("other", false);
    // A reader that has seen enough.
    let mut piped = lab.netpath_command(&["monitor", "--drops"]);
    piped.stdin(Stdio::null()).stderr(Stdio::null());
    let mut child = piped.stdout(Stdio::piped()).spawn().unwrap();
    eventually("it watches", || wanted(&lab) == 1);
    drop(child.stdout.take());
    eventually("it ends", || {
        send(&lab, "one", &address, 5000, 1);
        child.try_wait().unwrap().is_some()
    });
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let watcher = start(lab.netpath_command(&["monitor"]));
    eventually("it watches", || wanted(&lab) == 3);
    lab.stop_agent();
    let ended = finish(watcher);
    assert_ne!(ended.code, Some(0));
    assert!(
        ended.stderr.contains("the agent closed the connection"),
        "{ended:?}"
    );
    // Killed agents cannot tidy up; the next one begins anew.
    lab.start_agent();
    let watcher = Watcher::new(&lab, "killed", &[]);
    lab.kill_agent();
    assert_eq!(wanted(&lab), 3);
    drop(watcher);
    lab.start_agent();
    assert_eq!(wanted(&lab), 0);
}

#[test]
fn senseless_filters_are_refused() {
    let lab = lab();
    for (args, part) in [
        (&["--reason", "bad_luck"][..], "bad_luck"),
        (&["--proto", "gre"], "gre"),
        (&["--addr", "tomato"], "tomato"),
        (&["--addr", "10.0.0.0/33"], "10.0.0.0/33"),
        (&["--port", "99999"], "99999"),
        (&["--container", "nobody"], "nobody"),
        (&["--flows", "--reason", "no_route"], "reason"),
    ] {
        let mut all = vec!["monitor"];
        all.extend(args);
        let sentence = lab.netpath(&all).refused();
        assert!(sentence.contains(part), "{args:?}: {sentence}");
    }
    assert_eq!(wanted(&lab), 0);
}

#[test]
fn denied_sources_are_told() {
    let lab = lab();
    let watcher = Watcher::new(&lab, "denied", &["--reason", "denied_source"]);
    lab.netpath(&["deny", "add", "--force", OUT4]).ok();
    lab.outside(&["ping", "-c", "1", "-W", "1", HOST4]);
    let drop = watcher.sees(&[("event", "drop"), ("hook", "xdp"), ("proto", "icmp")]);
    assert_eq!(drop["device"], netpath_tests::lab::UPLINK);
}
