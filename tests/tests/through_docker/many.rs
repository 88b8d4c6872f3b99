//! Many ports, many connections, and connections that are silent for long.

use std::collections::HashSet;
use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use netpath_tests::command::eventually_within;
use netpath_tests::inside::{ask_tcp, inside, raise_file_limit};
use netpath_tests::lab::{HOST4, Lab, OUT4, eventually};

use super::{Mode, Site};

const CONTAINERS: u16 = 4;
/// Connections of each container.
const SOCKETS: u16 = 750;

#[test]
fn many_ports_and_connections_through_the_driver() {
    many(Mode::Plugin, 1000);
}

/// Docker starts two processes and a dozen programs for each port: a thousand take it minutes.
#[test]
fn many_ports_and_connections_of_adopted_networks() {
    many(Mode::Adopted, 40);
}

/// How many processes of a name the host has.
fn processes(site: &Site, name: &str) -> usize {
    let pids = ["ip", "netns", "pids", site.lab.host_namespace()];
    let pids = site.lab.host(&pids).ok();
    let named = |pid: &&str| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
    };
    pids.lines().filter(named).count()
}

fn many(mode: Mode, ports: u16) {
    let site = Site::new(mode);
    site.network("net", &["--subnet", "10.77.0.0/24"]);
    let names: Vec<String> = (0..CONTAINERS).map(|nth| format!("c{nth}")).collect();
    let first = |nth: usize| 10_000 + ports * u16::try_from(nth).expect("a number");
    let mut times = Vec::new();
    for (nth, name) in names.iter().enumerate() {
        let publish = format!("{}-{}:1-{ports}", first(nth), first(nth) + ports - 1);
        let began = Instant::now();
        site.container(name, "net", &["-p", &publish]);
        times.push(began.elapsed());
    }
    println!("{mode:?}: {ports} ports each, one after the other: {times:?}");
    // Those that are there already cost nothing; a busy machine may.
    assert!(
        times[3] < times[0] * 4 + Duration::from_secs(5),
        "{times:?}"
    );
    let shown = site.lab.json(&["ports"]).as_array().map(Vec::len);
    assert_eq!(shown, Some(usize::from(CONTAINERS * ports)));
    // (What the agent starts to read rules has its name for a moment.)
    eventually("there is the agent alone", || {
        processes(&site, "netpath") == 1
    });
    if mode == Mode::Plugin {
        assert_eq!(processes(&site, "docker-proxy"), 0);
    }
    let outside = site.lab.outside_netns();
    for (nth, name) in names.iter().enumerate() {
        site.serve(name, [1, ports]);
        for (port, to) in [(first(nth), 1), (first(nth) + ports - 1, ports)] {
            let wanted = format!("{name} {to} {OUT4}");
            assert_eq!(ask_tcp(&outside, HOST4, port).expect("an answer"), wanted);
        }
    }
    connections_do_not_mix(&site, &names);
    for name in &names {
        site.remove(name);
    }
    let shown = site.lab.json(&["ports"]);
    assert_eq!(shown.as_array().map(Vec::len), Some(0), "{shown}");
}

/// Many connections to one port of one server, from the same ports of all containers.
fn connections_do_not_mix(site: &Site, names: &[String]) {
    raise_file_limit();
    let server = (OUT4, 7);
    let echo = inside(&site.lab.outside_netns(), || UdpSocket::bind(server)).expect("a socket");
    let echoing = thread::spawn(move || {
        let mut clients = HashSet::new();
        let mut buffer = [0; 64];
        while let Ok((length, client)) = echo.recv_from(&mut buffer) {
            if &buffer[..length] == b"end" {
                break;
            }
            clients.insert(client);
            let _ = echo.send_to(&buffer[..length], client);
        }
        clients
    });
    let open = |port| {
        let socket = UdpSocket::bind(("0.0.0.0", port))?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        Ok::<_, std::io::Error>(socket)
    };
    let mut sockets = Vec::new();
    for name in names {
        // Who waits for a neighbour may lose datagrams.
        site.inside(name, &["ping", "-c1", "-W2", OUT4]).ok();
        let ports = 20_000..20_000 + SOCKETS;
        let opened = inside(&site.docker.netns_of(name), || {
            ports.map(open).collect::<Result<Vec<_>, _>>()
        });
        let of = opened.expect("sockets").into_iter().enumerate();
        sockets.extend(of.map(|(nth, socket)| (format!("{name} {nth}"), socket)));
    }
    let flows = site.new_flows();
    // In the second round all of them are open at once.
    for _ in 0..2 {
        for (text, socket) in &sockets {
            let mut buffer = [0; 64];
            let answer = (0..5).find_map(|_| {
                socket.send(text.as_bytes()).ok()?;
                socket.recv(&mut buffer).ok()
            });
            let length = answer.unwrap_or_else(|| panic!("{text} is not answered"));
            assert_eq!(&buffer[..length], text.as_bytes(), "somebody else's answer");
        }
    }
    let all = sockets.len();
    assert!(
        site.new_flows() >= flows + all as u64,
        "somebody else did it"
    );
    inside(&site.lab.outside_netns(), || {
        let socket = UdpSocket::bind(("0.0.0.0", 0)).expect("a socket");
        socket.send_to(b"end", server).expect("a datagram");
    });
    let clients = echoing.join().expect("a server");
    let ports: HashSet<u16> = clients.iter().map(SocketAddr::port).collect();
    assert_eq!((clients.len(), ports.len()), (all, all), "one port each");
}

/// How long a connection may be silent, in seconds.
const IDLE: u64 = 5;
const PORT: u16 = 7100;

#[test]
fn silent_connections_through_the_driver() {
    silent(Mode::Plugin);
}

#[test]
fn silent_connections_of_adopted_networks() {
    silent(Mode::Adopted);
}

fn silent(mode: Mode) {
    let mut lab = Lab::without_agent();
    lab.agent_options(&["--timeout", &format!("tcp-established={IDLE}")]);
    lab.start_agent();
    let site = Site::on(mode, lab);
    site.network("net", &["--subnet", "10.77.0.0/24"]);
    site.container("box", "net", &[]);
    let listener = inside(&site.lab.outside_netns(), || {
        TcpListener::bind((OUT4, PORT))
    });
    let listener = listener.expect("a listener");
    // Not with a machine that was itself silent for longer than that.
    let (mut client, mut server) = loop {
        let client = inside(&site.docker.netns_of("box"), || {
            TcpStream::connect((OUT4, PORT))
        });
        let mut client = client.expect("a connection");
        let (mut server, _) = listener.accept().expect("a client");
        for stream in [&client, &server] {
            let limit = Some(Duration::from_secs(3));
            stream.set_read_timeout(limit).expect("a limit");
        }
        pass(&mut client, &mut server).expect("it works");
        let began = Instant::now();
        thread::sleep(Duration::from_secs(2));
        let both = pass(&mut client, &mut server).and_then(|()| pass(&mut server, &mut client));
        match both {
            Ok(()) => break (client, server),
            Err(error) => assert!(began.elapsed().as_secs() >= IDLE, "{error}"),
        }
    };
    let known = || {
        let flows = site.lab.json(&["flows"]).to_string();
        flows.contains(&PORT.to_string())
    };
    assert!(known());
    eventually_within(Duration::from_secs(30), "it is forgotten", || !known());
    let dropped = drops(&site, "no_flow");
    // What comes now belongs to nothing.
    client.write_all(b"late").expect("it is sent");
    match mode {
        Mode::Plugin => eventually("it is dropped", || drops(&site, "no_flow") > dropped),
        // The kernel gives it another port, and the server refuses that.
        Mode::Adopted => assert!(is_reset(&mut client)),
    }
    server.write_all(b"late").expect("it is sent");
    assert!(is_reset(&mut server));
}

/// Sends some bytes from one end to the other.
fn pass(from: &mut TcpStream, to: &mut TcpStream) -> std::io::Result<()> {
    let mut buffer = [0; 4];
    from.write_all(b"data")?;
    to.read_exact(&mut buffer)
}

fn is_reset(stream: &mut TcpStream) -> bool {
    let read = stream.read(&mut [0; 4]);
    read.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

fn drops(site: &Site, reason: &str) -> u64 {
    let rows = site.lab.json(&["drops"]);
    let rows = rows.as_array().expect("rows").iter();
    rows.filter(|row| row["reason"] == reason)
        .filter_map(|row| row["packets"].as_u64())
        .sum()
}
