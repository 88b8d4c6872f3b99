//! Published ports as users ask for them, and what they cost.

use std::collections::HashSet;
use std::io::{ErrorKind, Read as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use netpath_tests::inside::{ask_tcp, ask_udp, inside, serve};
use netpath_tests::lab::{HOST4, HOST6, Lab, OUT4, OUT6, UPLINK, eventually};
use serde_json::Value;

/// Second addresses of the host's uplink.
const SECOND4: &str = "192.0.2.11";
const SECOND6: &str = "2001:db8:1::11";

/// An address of the host, its second one, and the client's.
type Family = (&'static str, &'static str, &'static str);

/// A laboratory whose host has two addresses of each family.
fn lab() -> Lab {
    let mut lab = Lab::without_agent();
    for address in [format!("{SECOND4}/24"), format!("{SECOND6}/64")] {
        let nodad = if address.contains(':') {
            "nodad"
        } else {
            "noprefixroute"
        };
        lab.host(&["ip", "addr", "add", &address, "dev", UPLINK, nodad])
            .ok();
    }
    lab.start_agent();
    lab
}

fn network(lab: &Lab, name: &str, subnets: &[&str]) {
    let mut args = vec!["network", "create", name];
    for subnet in subnets {
        args.extend(["--subnet", subnet]);
    }
    lab.netpath(&args).ok();
}

/// Starts a container that serves some ports.
fn server(
    lab: &Lab,
    name: &str,
    network: &str,
    publish: &[&str],
    ports: impl IntoIterator<Item = u16>,
) {
    let mut options = vec!["--network", network];
    for ports in publish {
        options.extend(["-p", ports]);
    }
    lab.run(name, &options, &["sleep", "600"]);
    serve(&lab.namespace_of(name), name, ports);
}

/// The published ports of a container.
fn ports(lab: &Lab, name: &str) -> Vec<Value> {
    lab.json(&["port", name])
        .as_array()
        .cloned()
        .unwrap_or_default()
}

fn host_ports(lab: &Lab, name: &str, container_port: u64) -> Vec<u64> {
    ports(lab, name)
        .iter()
        .filter(|port| port["container_port"] == container_port)
        .filter_map(|port| port["host_port"].as_u64())
        .collect()
}

#[test]
fn every_form_of_publishing_reaches_exactly_its_port() {
    let lab = lab();
    let outside = lab.outside_netns();
    let networks: [(&str, &[&str], &[Family]); 3] = [
        ("v4", &["10.81.0.0/24"], &[(HOST4, SECOND4, OUT4)]),
        ("v6", &["fd82::/64"], &[(HOST6, SECOND6, OUT6)]),
        (
            "dual",
            &["10.83.0.0/24", "fd83::/64"],
            &[(HOST4, SECOND4, OUT4), (HOST6, SECOND6, OUT6)],
        ),
    ];
    for (nth, (name, subnets, families)) in (0..).zip(networks) {
        network(&lab, name, subnets);
        let base: u16 = 8000 + 1000 * nth;
        let mut publish = vec![
            format!("{base}-{}:80-89", base + 9),
            format!("{}:80", base + 20),
        ];
        for (address, ..) in families {
            let address = match address.contains(':') {
                true => format!("[{address}]"),
                false => (*address).to_owned(),
            };
            publish.push(format!("{address}:{}:81", base + 30));
        }
        let udp: Vec<String> = publish.iter().map(|text| format!("{text}/udp")).collect();
        let all: Vec<&str> = publish.iter().chain(&udp).map(String::as_str).collect();
        server(&lab, name, name, &all, 80..90);
        for (address, second, client) in families {
            for ask in [ask_tcp, ask_udp] {
                for nth in 0..10 {
                    let answer = ask(&outside, address, base + nth).unwrap();
                    assert_eq!(answer, format!("{name} {} {client}", 80 + nth));
                }
                // All addresses, and each from the one that was asked.
                for address in [address, second] {
                    let answer = ask(&outside, address, base + 20).unwrap();
                    assert_eq!(answer, format!("{name} 80 {client}"), "{address}");
                }
                let answer = ask(&outside, address, base + 30).unwrap();
                assert_eq!(answer, format!("{name} 81 {client}"));
                for (address, port) in [(second, base + 30), (address, base + 10)] {
                    let refused = ask(&outside, address, port).unwrap_err();
                    assert_eq!(
                        refused.kind(),
                        ErrorKind::ConnectionRefused,
                        "{address} {port}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_family_that_the_container_lacks_is_refused_at_once() {
    let lab = lab();
    network(&lab, "v4", &["10.81.0.0/24"]);
    server(&lab, "web", "v4", &["8080:80"], [80]);
    ask_tcp(&lab.outside_netns(), HOST4, 8080).unwrap();
    let refused = ask_tcp(&lab.outside_netns(), HOST6, 8080).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    // Nor is anything reserved there: another program may have it.
    inside(&lab.host_netns(), || {
        assert!(TcpListener::bind(("::1", 8080)).is_ok());
        assert!(TcpListener::bind(("127.0.0.1", 8080)).is_err());
    });
    let text = lab.netpath(&[
        "run",
        "-d",
        "--network",
        "v4",
        "-p",
        "[::1]:81:81",
        "--",
        "true",
    ]);
    assert!(text.refused().contains("no IPv6 address"));
}

#[test]
fn a_protocol_that_the_kernel_lacks_is_refused() {
    let lab = Lab::new();
    network(&lab, "net", &["10.81.0.0/24"]);
    // SAFETY: a call with plain arguments.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP) };
    if socket >= 0 {
        // SAFETY: the descriptor is new and nobody else's.
        drop(unsafe { OwnedFd::from_raw_fd(socket) });
        return;
    }
    let publish = [
        "run",
        "-d",
        "--network",
        "net",
        "-p",
        "80:80/sctp",
        "--",
        "true",
    ];
    let sentence = lab.netpath(&publish).refused();
    assert!(
        sentence.contains("cannot reserve port 80/sctp on 0.0.0.0: this kernel has no SCTP"),
        "{sentence}"
    );
    assert_eq!(lab.json(&["ps", "-a"]).as_array().map(Vec::len), Some(0));
}

#[test]
fn ephemeral_ports_are_the_kernels_and_unique() {
    let lab = lab();
    let range = "net.ipv4.ip_local_port_range=40000 40099";
    let reserved = "net.ipv4.ip_local_reserved_ports=40020-40039";
    lab.host(&["sysctl", "-qw", range, reserved]).ok();
    network(&lab, "net", &["10.81.0.0/24", "fd81::/64"]);
    let mut seen = HashSet::new();
    for nth in 0..25 {
        let name = format!("c{nth}");
        let publish = ["--network", "net", "-p", "80", "-p", "127.0.0.1::81"];
        lab.run(&name, &publish, &["sleep", "600"]);
        let both = host_ports(&lab, &name, 80);
        assert_eq!(both.len(), 2);
        assert_eq!(both[0], both[1], "one number for both families");
        let local = host_ports(&lab, &name, 81);
        assert_eq!(local.len(), 1);
        for port in [both[0], local[0]] {
            assert!((40_000..40_100).contains(&port), "{port}");
            assert!(!(40_020..40_040).contains(&port), "{port}");
            assert!(seen.insert(port), "{port} was given out twice");
        }
    }
    // Addresses of one port of a container get one number.
    let publish = [
        "-p",
        "127.0.0.1::80",
        "-p",
        "127.0.0.2::80",
        "-p",
        "[::1]::80",
    ];
    lab.run(
        "several",
        &[&["--network", "net"], &publish[..]].concat(),
        &["sleep", "600"],
    );
    let several: HashSet<u64> = host_ports(&lab, "several", 80).into_iter().collect();
    assert_eq!(several.len(), 1, "{several:?}");
}

#[test]
fn a_range_is_used_up_one_by_one() {
    let lab = lab();
    network(&lab, "net", &["10.81.0.0/24"]);
    let options = ["--network", "net", "-p", "8000-8010:80"];
    for nth in 0..11 {
        let name = format!("c{nth}");
        lab.run(&name, &options, &["sleep", "600"]);
        assert_eq!(host_ports(&lab, &name, 80), [8000 + nth]);
    }
    let twelfth = [
        &["run", "-d", "--name", "c11"],
        &options[..],
        &["--", "true"],
    ]
    .concat();
    let sentence = lab.netpath(&twelfth).refused();
    assert!(
        sentence
            .contains("all ports 8000-8010/tcp on 0.0.0.0 are in use, the last by container c10"),
        "{sentence}"
    );
    assert_eq!(lab.json(&["ps", "-a"]).as_array().map(Vec::len), Some(11));
    // A gap is filled.
    lab.netpath(&["rm", "-f", "c4"]).ok();
    lab.netpath(&twelfth).ok();
    let mismatch = [
        "run",
        "-d",
        "--network",
        "new",
        "-p",
        "8000-8002:80-90",
        "--",
        "true",
    ];
    let sentence = lab.netpath(&mismatch).refused();
    assert!(
        sentence.contains("3 host ports cannot be paired with 11"),
        "{sentence}"
    );
}

#[test]
fn all_addresses_conflict_with_each_of_them_and_two_do_not() {
    let lab = lab();
    network(&lab, "net", &["10.81.0.0/24", "fd81::/64"]);
    let publish = |name: &str, port: &str| {
        lab.netpath(&[
            "run",
            "-d",
            "--name",
            name,
            "--network",
            "net",
            "-p",
            port,
            "--",
            "sleep",
            "600",
        ])
    };
    publish("all", "0.0.0.0:8080:80").ok();
    for taken in [
        format!("{HOST4}:8080:80"),
        "127.0.0.1:8080:80".to_owned(),
        "8080:80".to_owned(),
    ] {
        let sentence = publish("other", &taken).refused();
        assert!(
            sentence.contains("is already in use by container all"),
            "{sentence}"
        );
    }
    // The other family, the other protocol and another port are free.
    publish("six", "[::]:8080:80").ok();
    publish("udp", "0.0.0.0:8080:80/udp").ok();
    publish("one", "127.0.0.1:8081:80").ok();
    publish("two", "127.0.0.2:8081:80").ok();
    for wildcard in ["8081:80", "0.0.0.0:8081:80"] {
        let sentence = publish("other", wildcard).refused();
        assert!(
            sentence.contains("is already in use by container"),
            "{sentence}"
        );
    }
    serve(&lab.namespace_of("one"), "one", [80]);
    serve(&lab.namespace_of("two"), "two", [80]);
    for (address, name) in [("127.0.0.1", "one"), ("127.0.0.2", "two")] {
        let answer = ask_tcp(&lab.host_netns(), address, 8081).unwrap();
        assert!(answer.starts_with(name), "{answer}");
    }
    // Any and specific ones in one container.
    let publish = ["-p", "127.0.0.1::80", "-p", "81", "-p", "82"];
    lab.run(
        "mixed",
        &[&["--network", "net"], &publish[..]].concat(),
        &["sleep", "600"],
    );
    let numbers: HashSet<u64> = [80, 81, 82]
        .map(|port| host_ports(&lab, "mixed", port)[0])
        .into();
    assert_eq!(numbers.len(), 3);
}

#[test]
fn a_udp_client_that_streams_reaches_the_new_container() {
    let lab = lab();
    network(&lab, "net", &["10.81.0.0/24", "fd81::/64"]);
    for address in [HOST4, HOST6] {
        let family = if address.contains(':') {
            "::"
        } else {
            "0.0.0.0"
        };
        let client = inside(&lab.outside_netns(), || {
            let socket = UdpSocket::bind((family, 0)).unwrap();
            socket.connect((address, 5353)).unwrap();
            socket
        });
        client
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        // One socket all the time: the flow is always the same.
        let stream_until = |wanted: &str| {
            let begin = Instant::now();
            let mut buffer = [0; 64];
            loop {
                let _ = client.send(b"who?");
                if let Ok(length) = client.recv(&mut buffer)
                    && buffer[..length].starts_with(wanted.as_bytes())
                {
                    return begin.elapsed();
                }
                assert!(
                    begin.elapsed() < Duration::from_secs(20),
                    "{wanted} is not reached"
                );
            }
        };
        for name in ["old", "new", "newer"] {
            server(&lab, name, "net", &["5353:53/udp"], [53]);
            println!("{address}: {name} answers after {:?}", stream_until(name));
            lab.netpath(&["rm", "-f", name]).ok();
            let _ = client.send(b"nobody?");
        }
    }
}

#[test]
fn a_port_is_published_again_and_again() {
    let mut lab = lab();
    network(&lab, "net", &["10.81.0.0/24", "fd81::/64"]);
    // A server that the host had there before, and a connection of it in TIME_WAIT.
    inside(&lab.host_netns(), || {
        let server = TcpListener::bind(("0.0.0.0", 8080)).unwrap();
        let mut client = TcpStream::connect(("127.0.0.1", 8080)).unwrap();
        drop(server.accept().unwrap());
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    });
    let path = lab.add_namespace("c");
    lab.host(&[
        "nsenter",
        &format!("--net={path}"),
        "ip",
        "link",
        "set",
        "lo",
        "up",
    ])
    .ok();
    serve(&path, "web", [80]);
    let attach = [
        "attach",
        "--name",
        "web",
        "--netns",
        &path,
        "--network",
        "net",
        "-p",
        "8080:80",
    ];
    for round in 0..100 {
        lab.netpath(&attach).ok();
        let address = if round % 2 == 0 { HOST4 } else { HOST6 };
        // Its connection stays in TIME_WAIT at one end or the other.
        let answer = ask_tcp(&lab.outside_netns(), address, 8080).unwrap();
        assert!(answer.starts_with("web 80"), "{answer}");
        lab.netpath(&["rm", "web"]).ok();
    }
    // A listener is in the way as ever.
    inside(&lab.host_netns(), || {
        let listener = TcpListener::bind(("127.0.0.1", 8080)).unwrap();
        let sentence = lab.netpath(&attach).refused();
        assert!(
            sentence.contains("port 8080/tcp on 0.0.0.0 is already in use by"),
            "{sentence}"
        );
        drop(listener);
    });
    lab.netpath(&attach).ok();
}

#[test]
fn strict_reverse_path_filtering_does_not_harm_published_ports() {
    let lab = lab();
    let strict = [
        "net.ipv4.conf.all.rp_filter=1",
        "net.ipv4.conf.default.rp_filter=1",
    ];
    lab.host(&[&["sysctl", "-qw"], &strict[..]].concat()).ok();
    for (name, v4, v6, port) in [
        ("one", "10.81.0.0/24", "fd81::/64", "8081:80"),
        ("two", "10.82.0.0/24", "fd82::/64", "8082:80"),
    ] {
        network(&lab, name, &[v4, v6]);
        let udp = format!("{port}/udp");
        server(&lab, name, name, &[port, &udp], [80]);
    }
    let clients = [
        lab.outside_netns(),
        lab.namespace_of("one"),
        lab.namespace_of("two"),
        lab.host_netns(),
    ];
    for netns in &clients {
        for address in [HOST4, HOST6, SECOND4, SECOND6] {
            for (name, port) in [("one", 8081), ("two", 8082)] {
                for ask in [ask_tcp, ask_udp] {
                    let answer = ask(netns, address, port);
                    let answer = answer.unwrap_or_else(|e| panic!("{netns} {address} {name}: {e}"));
                    assert!(answer.starts_with(name), "{answer}");
                }
            }
        }
    }
}

/// How long something takes.
fn timed(action: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    action();
    begin.elapsed()
}

#[test]
fn a_thousand_ports_cost_no_process() {
    let mut lab = lab();
    network(&lab, "net", &["10.81.0.0/16", "fd81::/64"]);
    let paths: Vec<String> = (0..10)
        .map(|nth| lab.add_namespace(&format!("c{nth}")))
        .collect();
    let first = lab.add_namespace("first");
    let attach = |name: &str, path: &str, ports: Option<&str>| {
        let mut args = vec![
            "attach",
            "--name",
            name,
            "--netns",
            path,
            "--network",
            "net",
        ];
        args.extend(ports.into_iter().flat_map(|ports| ["-p", ports]));
        timed(|| {
            lab.netpath(&args).ok();
        })
    };
    let remove = |name: &str| {
        timed(|| {
            lab.netpath(&["rm", name]).ok();
        })
    };
    let processes = || {
        lab.host(&["ip", "netns", "pids", lab.host_namespace()])
            .ok()
            .lines()
            .count()
    };
    let open_files = || {
        std::fs::read_dir(format!("/proc/{}/fd", lab.agent_pid()))
            .unwrap()
            .count()
    };
    let median = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    // The first container brings the server for names.
    attach("first", &first, None);
    let (processes_before, files_before) = (processes(), open_files());
    for ports in [None, Some("10000-10999:1-1000")] {
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        for _ in 0..10 {
            added.push(attach("c", &paths[0], ports));
            removed.push(remove("c"));
        }
        let (added, removed) = (median(added), median(removed));
        println!("{ports:?}: attached in {added:?}, removed in {removed:?} (medians of 10)");
    }
    // Ten of them, both families.
    let mut times = Vec::new();
    for (nth, path) in paths.iter().enumerate() {
        let base = 10_000 + 1000 * nth;
        let ports = format!("{base}-{}:1-1000", base + 999);
        times.push(attach(&format!("c{nth}"), path, Some(&ports)));
    }
    println!("one after the other: {times:?}");
    assert_eq!(lab.json(&["ports"]).as_array().map(Vec::len), Some(20_000));
    assert_eq!(processes(), processes_before);
    assert!(
        open_files() <= files_before + 10_000 + 64,
        "one file a port, not two"
    );
    let shown = lab.netpath(&["ps"]).ok();
    assert!(
        shown.contains("0.0.0.0:19000-19999->1-1000/tcp, [::]:19000-19999->1-1000/tcp"),
        "{shown}"
    );
    serve(&paths[7], "seven", [500]);
    let answer = ask_tcp(&lab.outside_netns(), HOST4, 17_499).unwrap();
    assert!(answer.starts_with("seven 500"), "{answer}");
    let times: Vec<Duration> = (0..10).map(|nth| remove(&format!("c{nth}"))).collect();
    println!("removed one after the other: {times:?}");
    assert_eq!(lab.json(&["ports"]).as_array().map(Vec::len), Some(0));
    eventually("all files are closed", || open_files() <= files_before + 8);
    assert!(times.iter().all(|time| *time < Duration::from_secs(10)));
}

#[test]
fn more_ports_than_open_files_are_refused() {
    let lab = lab();
    network(&lab, "net", &["10.81.0.0/24"]);
    lab.run(
        "few",
        &["--network", "net", "-p", "8000-8099:1-100"],
        &["sleep", "600"],
    );
    let pid = lab.agent_pid().to_string();
    lab.host(&["prlimit", "--pid", &pid, "--nofile=1000:1000"])
        .ok();
    let many = [
        "run",
        "-d",
        "--name",
        "many",
        "--network",
        "net",
        "-p",
        "10000-10999:1-1000",
        "--",
        "true",
    ];
    let sentence = lab.netpath(&many).refused();
    assert!(
        sentence.contains("needs as many open files, and of the 488 that the agent may have")
            && sentence.contains("LimitNOFILE"),
        "{sentence}"
    );
    // The agent goes on.
    lab.run(
        "more",
        &["--network", "net", "-p", "8100-8199:1-100"],
        &["sleep", "600"],
    );
    assert_eq!(lab.json(&["ps", "-a"]).as_array().map(Vec::len), Some(2));
}
