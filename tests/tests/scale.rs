//! Many at once, many beside each other, many after each other, and agents that die on the way.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use netpath::agent::lock;
use netpath::api::client::Client;
use netpath::api::types::{Attach, Connect, Container, Join};
use netpath_tests::command::finish_within;
use netpath_tests::inside::{inside, raise_file_limit};
use netpath_tests::lab::{Lab, OUT4, eventually, finish, start};
use nix::sched::{CloneFlags, unshare};

/// How long many commands at once may take on a busy machine.
const MANY: Duration = Duration::from_secs(120);

fn client(lab: &Lab) -> Client {
    Client::new(lab.dir().join("run/netpath.sock"))
}

/// A network namespace that lives as long as its file is open.
struct Namespace(File);

impl Namespace {
    fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a namespace");
            File::open("/proc/thread-self/ns/net").expect("its file")
        });
        Self(made.join().expect("a thread"))
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

fn join(network: &str) -> Join {
    Join {
        network: network.into(),
        ..Join::default()
    }
}

/// Attaches a namespace.
#[track_caller]
fn attach(client: &Client, name: &str, namespace: &Namespace, networks: Vec<Join>) -> Container {
    let request = Attach {
        connect: Connect {
            name: Some(name.into()),
            networks,
            ..Connect::default()
        },
        netns: Some(PathBuf::from(namespace.path())),
        pid: None,
    };
    let attached = client.post("/v1/attach", &request);
    attached.unwrap_or_else(|error| panic!("{name}: {error:#}"))
}

/// What a host has of an agent's: devices, pins, rows of maps, open files, memory in KiB.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Inventory {
    devices: usize,
    pins: usize,
    rows: [usize; 3],
    files: usize,
}

fn inventory(lab: &Lab) -> (Inventory, u64) {
    let rows = |verb| lab.json(&[verb]).as_array().map_or(0, Vec::len);
    let pid = lab.agent_pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the agent's status");
    let memory = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().split(' ').next())
        .and_then(|number| number.parse().ok())
        .expect("VmRSS");
    let inventory = Inventory {
        devices: lab.host(&["ip", "-o", "link"]).ok().lines().count(),
        pins: fs::read_dir(lab.bpffs().join("links"))
            .expect("pins")
            .count(),
        rows: ["endpoints", "ports", "flows"].map(rows),
        files: fs::read_dir(format!("/proc/{pid}/fd"))
            .expect("files")
            .count(),
    };
    (inventory, memory)
}

/// A number from the environment: how much of something a longer run does.
fn times(variable: &str, usual: usize) -> usize {
    let text = std::env::var(variable).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(usual)
}

#[test]
fn sixty_four_containers_with_ten_ports_each_at_once() {
    const COUNT: usize = 64;
    const PORTS: usize = 10;
    let lab = Lab::new();
    lab.netpath(&["network", "create", "net", "--subnet", "10.88.0.0/24"])
        .ok();
    // The first container has the server for names started, and the agent stays connected
    // with it.
    lab.run("first", &["--network", "net"], &["sleep", "600"]);
    lab.netpath(&["rm", "-f", "first"]).ok();
    let (before, _) = inventory(&lab);
    let begin = Instant::now();
    let commands = (0..COUNT).map(|n| {
        let first = 20_000 + n * PORTS;
        let ports = format!("{first}-{}:80-{}", first + PORTS - 1, 80 + PORTS - 1);
        let name = format!("c{n}");
        start(lab.netpath_command(&[
            "run",
            "-d",
            "--name",
            &name,
            "--network",
            "net",
            "-p",
            &ports,
            "--",
            "sleep",
            "600",
        ]))
    });
    let commands: Vec<_> = commands.collect();
    for command in commands {
        finish_within(command, MANY).ok();
    }
    println!("{COUNT} containers: {:?}", begin.elapsed());
    assert!(begin.elapsed() < MANY, "{:?}", begin.elapsed());
    let all = lab.json(&["ps"]);
    let all = all.as_array().expect("rows");
    let addresses: BTreeSet<String> = all
        .iter()
        .map(|row| row["networks"][0]["addresses"][0].to_string())
        .collect();
    assert_eq!((all.len(), addresses.len()), (COUNT, COUNT));
    assert_eq!(
        lab.json(&["ports"]).as_array().map(Vec::len),
        Some(COUNT * PORTS)
    );
    let begin = Instant::now();
    let removals = (0..COUNT).map(|n| start(lab.netpath_command(&["rm", "-f", &format!("c{n}")])));
    let removals: Vec<_> = removals.collect();
    for removal in removals {
        finish_within(removal, MANY).ok();
    }
    println!("{COUNT} removals: {:?}", begin.elapsed());
    eventually("all is as it was", || inventory(&lab).0 == before);
}

/// One server and many clients, each of which asks it and is asked by it.
#[test]
fn many_endpoints_in_a_network() {
    let count = times("NETPATH_TEST_ENDPOINTS", 1100);
    // Each namespace is an open file of this process.
    raise_file_limit();
    // As an agent does that is not in a laboratory's namespace.
    lock::raise_neighbour_limits();
    let lab = Lab::new();
    lab.netpath(&[
        "network",
        "create",
        "net",
        "--subnet",
        "10.88.0.0/20",
        "--subnet",
        "fd88::/64",
    ])
    .ok();
    let client = client(&lab);
    let server = Namespace::new();
    let hub = attach(&client, "hub", &server, vec![join("net")]);
    let hub: Vec<_> = hub.networks[0].ips().collect();
    let socket = inside(&server.path(), || {
        UdpSocket::bind(("::", 7)).expect("a socket")
    });
    thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
    let begin = Instant::now();
    let namespaces: Vec<Namespace> = (0..count).map(|_| Namespace::new()).collect();
    println!("{count} namespaces: {:?}", begin.elapsed());
    let begin = Instant::now();
    let (before, memory_before) = inventory(&lab);
    let mut addresses = BTreeSet::new();
    for (number, namespace) in namespaces.iter().enumerate() {
        let name = format!("c{number}");
        let attached = attach(&client, &name, namespace, vec![join("net")]);
        addresses.extend(attached.networks[0].ips());
    }
    println!("{count} endpoints: {:?}", begin.elapsed());
    let (after, memory) = inventory(&lab);
    println!("{before:?}, {memory_before} KiB, then {after:?}, {memory} KiB");
    assert_eq!(addresses.len(), 2 * count, "each has its own");
    let begin = Instant::now();
    for (number, namespace) in namespaces.iter().enumerate() {
        inside(&namespace.path(), || {
            for ip in &hub {
                let any = if ip.is_ipv4() { "0.0.0.0" } else { "::" };
                let socket = UdpSocket::bind((any, 0)).expect("a socket");
                let patience = Some(Duration::from_secs(1));
                socket.set_read_timeout(patience).expect("a timeout");
                let ask = || {
                    socket.send_to(b"there?", (*ip, 7))?;
                    socket.recv_from(&mut [0; 16])
                };
                // The kernel's tables of neighbours are everybody's: a full one refuses at once,
                // and what is in it can go once it is 5 s old.
                let ask = || ask().inspect_err(|_| thread::sleep(Duration::from_millis(500)));
                let answer = (0..30).map(|_| ask()).find(Result::is_ok);
                assert!(answer.is_some(), "{number} does not reach {ip}");
            }
        });
    }
    println!("all of them reached: {:?}", begin.elapsed());
    assert_eq!(lab.json(&["ps"]).as_array().map(Vec::len), Some(count + 1),);
    drop(namespaces);
    lab.json(&["status"]);
}

#[test]
fn coming_and_going_leaves_nothing() {
    let cycles = times("NETPATH_TEST_CYCLES", 100);
    let lab = Lab::new();
    for (name, subnet) in [("one", "10.88.0.0/24"), ("two", "10.89.0.0/24")] {
        lab.netpath(&["network", "create", name, "--subnet", subnet])
            .ok();
    }
    let client = client(&lab);
    let namespace = Namespace::new();
    let cycle = |count: usize| {
        for _ in 0..count {
            attach(&client, "box", &namespace, vec![join("one")]);
            let connected = client.post("/v1/containers/box/networks", &join("two"));
            let connected: Container = connected.expect("connected");
            assert_eq!(connected.networks[1].interface, "eth1");
            client
                .delete("/v1/containers/box/networks/one")
                .expect("disconnected");
            client.delete("/v1/containers/box").expect("removed");
        }
    };
    // What the agent makes once and keeps, like threads and buffers.
    cycle(30);
    let (before, memory_before) = inventory(&lab);
    let begin = Instant::now();
    cycle(cycles);
    println!("{cycles} cycles: {:?}", begin.elapsed());
    let mut after = inventory(&lab);
    eventually("all is as it was", || {
        after = inventory(&lab);
        after.0 == before
    });
    println!(
        "{:?}, memory {memory_before} KiB, then {} KiB",
        after.0, after.1
    );
    assert!(
        after.1 < memory_before + 4096,
        "{memory_before} KiB, then {} KiB",
        after.1
    );
}

/// Wherever the agent dies, the next one finds out what is to be.
#[test]
fn an_agent_that_dies_on_the_way_leaves_nothing_half_made() {
    const POINTS: u32 = 20;
    let mut lab = Lab::new();
    for (name, subnet) in [("one", "10.88.0.0/24"), ("two", "10.89.0.0/24")] {
        lab.netpath(&["network", "create", name, "--subnet", subnet])
            .ok();
    }
    lab.run(
        "box",
        &["--network", "two", "-p", "8080:80"],
        &["sleep", "600"],
    );
    let (before, _) = inventory(&lab);
    let mut acknowledged = 0;
    for point in 0..POINTS {
        let begin = Instant::now();
        // The gateway's name comes first, so that routes and ports are on the move as well.
        let commands: [&[&str]; 2] = [
            &["network", "connect", "one", "box"],
            &[
                "run",
                "-d",
                "--name",
                "new",
                "--network",
                "one",
                "-p",
                "8081:80",
                "--",
                "sleep",
                "6",
            ],
        ];
        let command = commands[usize::from(point % 2 == 1)];
        let child = start(lab.netpath_command(command));
        thread::sleep(Duration::from_millis(u64::from(point) * 4));
        lab.kill_agent();
        let ran = finish(child);
        lab.start_agent();
        let done = ran.code == Some(0);
        acknowledged += u32::from(done);
        let networks = || {
            let container = lab.json(&["inspect", "box"]);
            container["networks"].as_array().map_or(0, Vec::len)
        };
        if point % 2 == 0 {
            // What was promised is there; what was not is there as a whole, or not at all.
            let there = networks() == 2;
            assert!(there || !done, "{point}: {ran:?}");
            let links = lab.exec("box", &["ip", "-o", "link"]).ok();
            assert_eq!(links.lines().count(), if there { 3 } else { 2 }, "{links}");
            let route = lab.exec("box", &["ip", "route", "show", "default"]).ok();
            let expected = if there { "10.88.0.1" } else { "10.89.0.1" };
            assert!(route.contains(expected), "{point}: {route}");
            lab.exec("box", &["ping", "-c1", "-W3", OUT4]).ok();
            lab.netpath(&["network", "disconnect", "-f", "one", "box"])
                .ok();
        } else {
            let new = lab.json(&["ps", "-a"]);
            let mut rows = new.as_array().expect("rows").iter();
            let there = rows.any(|row| row["name"] == "new");
            assert!(there || !done, "{point}: {ran:?}");
            if there {
                lab.netpath(&["rm", "-f", "new"]).ok();
            }
        }
        eventually(&format!("nothing is left, {point}"), || {
            inventory(&lab).0.devices == before.devices
                && inventory(&lab).0.rows[..2] == before.rows[..2]
        });
        let route = lab.exec("box", &["ip", "route", "show", "default"]).ok();
        assert!(route.contains("10.89.0.1"), "{point}: {route}");
        println!("{point}: {} in {:?}", ran.code == Some(0), begin.elapsed());
    }
    println!("{acknowledged} of {POINTS} were done before the end");
    // And a new one works.
    lab.run(
        "last",
        &["--network", "one", "-p", "8081:80"],
        &["sleep", "600"],
    );
    lab.netpath(&["network", "connect", "one", "box"]).ok();
}
