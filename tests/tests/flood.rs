//! A container that floods the host with connections harms itself only.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netpath_tests::lab::{Lab, OUT4, OUT6, eventually};
use netpath_tests::packets::{L4, SYN, Sample, ip};
use netpath_tests::wire::Wire;
use nix::sched::{CloneFlags, setns};

/// Sends one datagram to each of many ports.
const FLOOD: &str = "
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for i in range(40000):
    try:
        s.sendto(b'x', ('192.0.2.2', 10000 + i))
    except OSError:
        time.sleep(0.001)
";

#[test]
fn a_flood_of_one_container_leaves_the_others_alone() {
    let mut lab = Lab::new();
    lab.netpath(&["network", "create", "net", "--subnet", "10.88.0.0/24"])
        .ok();
    lab.run("good", &["--network", "net"], &["sleep", "600"]);
    lab.run("bad", &["--network", "net"], &["python3", "-c", FLOOD]);
    lab.serve_outside(&["socat", "TCP-LISTEN:7000,fork,reuseaddr", "EXEC:cat"]);
    let refused = |lab: &Lab| {
        let drops = lab.json(&["drops"]);
        let rows = drops.as_array().cloned().unwrap_or_default();
        rows.iter().any(|row| row["reason"] == "flow_budget")
    };
    eventually("the flood is held back", || refused(&lab));
    let ask = format!("for i in $(seq 100); do echo $i | socat -t 2 - TCP4:{OUT4}:7000; done");
    let answers = lab.exec("good", &["sh", "-c", &ask]).stdout;
    assert_eq!(answers.lines().count(), 100);
    // A quarter of the table (16,384 connections here) is all it may have.
    let flows = lab.json(&["flows"]);
    let flooded = flows
        .as_array()
        .unwrap()
        .iter()
        .filter(|f| f["proto"] == "udp");
    assert!(flooded.count() <= 4096 + 2);
}

/// The calling thread's sockets are in this namespace from now on.
fn enter(network: &File) {
    setns(network, CloneFlags::CLONE_NEWNET).expect("the namespace, which needs root");
}

fn outside(v6: bool, port: u16) -> SocketAddr {
    SocketAddr::new(ip(if v6 { OUT6 } else { OUT4 }), port)
}

/// A dropped reason's packets so far.
fn dropped(lab: &Lab, reason: &str) -> u64 {
    let rows = lab.json(&["drops"]);
    let rows = rows.as_array().expect("rows");
    let of_reason = rows.iter().filter(|row| row["reason"] == reason);
    of_reason.filter_map(|row| row["packets"].as_u64()).sum()
}

const DOWNLOAD: u16 = 7001;
const ECHO: u16 = 7000;

/// Packets of the flood.
const FLOOD_PACKETS: usize = 1_000_000;

/// The word of a download at a place.
fn word(place: u64) -> [u8; 8] {
    place.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()
}

/// Serves downloads without end.
fn serve_download(listener: &TcpListener) {
    let Ok((mut client, _)) = listener.accept() else {
        return;
    };
    let mut place = 0;
    loop {
        let block: Vec<u8> = (place..place + 4096).flat_map(word).collect();
        place += 4096;
        if client.write_all(&block).is_err() {
            return;
        }
    }
}

/// Downloads until the flood is over; returns how many bytes came, all of them right.
fn download(from: SocketAddr, over: &AtomicBool) -> u64 {
    let mut stream = TcpStream::connect(from).expect("the download begins");
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("a timeout");
    let mut block = [0; 8 * 4096];
    let mut place = 0;
    while !over.load(Ordering::Relaxed) {
        stream.read_exact(&mut block).expect("the download goes on");
        for bytes in block.chunks_exact(8) {
            assert_eq!(bytes, word(place), "at word {place}");
            place += 1;
        }
    }
    8 * place
}

/// About 100 new connections a second until the flood is over; returns how many, all of which
/// got their answer.
fn connect_again_and_again(over: &AtomicBool) -> u32 {
    let mut made = 0;
    while !over.load(Ordering::Relaxed) {
        let began = Instant::now();
        let to = outside(made % 2 == 1, ECHO);
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(20))
            .unwrap_or_else(|error| panic!("connection {made}: {error}"));
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a timeout");
        let mut answer = [0; 4];
        stream.write_all(&u32::to_le_bytes(made)).expect("sent");
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(u32::from_le_bytes(answer), made);
        made += 1;
        thread::sleep(Duration::from_millis(10).saturating_sub(began.elapsed()));
    }
    made
}

/// A million SYNs of both families, each of another port to another port.
fn flood_with_syns(addresses: &[String; 2], mac: [u8; 6], gateway: [u8; 6]) -> usize {
    const BATCH: usize = 500;
    let wire = Wire::open("eth0");
    let mut sent = 0;
    let mut number = 0u32;
    while sent < FLOOD_PACKETS {
        let v6 = (sent / BATCH) % 2 == 1;
        let to = outside(v6, 1).ip().to_string();
        let own = &addresses[usize::from(v6)];
        let mut frames = Vec::new();
        for _ in 0..BATCH {
            let (src, dst) = (1 + (number % 65_000) as u16, 1 + (number / 65_000) as u16);
            number += 1;
            let l4 = L4::Tcp(src, dst, SYN);
            let sample = Sample::new(own, &to, l4).payload(&[]).macs(mac, gateway);
            frames.extend(sample.bytes());
        }
        let each = frames.len() / BATCH;
        sent += wire.send_many(&mut frames, each);
    }
    sent
}

/// The MAC address of a container's interface, and that of its gateway.
fn macs(lab: &Lab, name: &str) -> [[u8; 6]; 2] {
    let parse = |text: &str| -> [u8; 6] {
        let octets = text
            .split(':')
            .map(|o| u8::from_str_radix(o, 16).expect("hex"));
        octets.collect::<Vec<_>>().try_into().expect("six octets")
    };
    let link = lab.exec(name, &["ip", "-o", "link", "show", "eth0"]).ok();
    let (_, rest) = link.split_once("link/ether ").expect("an Ethernet device");
    // Whom the container asks first tells it its gateway's address.
    let script = format!("ping -c1 -W5 {OUT4} >/dev/null; ip neigh show dev eth0");
    let text = lab.exec(name, &["sh", "-c", &script]).ok();
    let (_, gateway) = text.split_once("lladdr ").expect("the gateway's address");
    [parse(&rest[..17]), parse(&gateway[..17])]
}

#[test]
fn a_million_syns_of_one_container_cost_another_nothing() {
    let mut lab = Lab::without_agent();
    lab.start_agent();
    let subnets = ["--subnet", "10.88.0.0/24", "--subnet", "fd88::/64"];
    lab.netpath(&[["network", "create", "net"].as_slice(), &subnets].concat())
        .ok();
    for name in ["good", "bad"] {
        lab.run(name, &["--network", "net"], &["sleep", "600"]);
    }
    let addresses = [false, true].map(|v6| lab.address("bad", v6));
    let [mac, gateway] = macs(&lab, "bad");
    let names = ["good", "bad"].map(str::to_owned);
    let networks = lab.networks_of(&names);
    let far = lab.outside_network();
    let over = AtomicBool::new(false);
    // Servers end after their clients: a listener that is closed resets whoever waits in its queue.
    let served = AtomicBool::new(false);
    let (ready, open) = std::sync::mpsc::channel();
    let (bytes, made) = thread::scope(|scope| {
        scope.spawn(|| {
            enter(&far);
            let download = TcpListener::bind(outside(false, DOWNLOAD)).expect("a listener");
            let echoes =
                [false, true].map(|v6| TcpListener::bind(outside(v6, ECHO)).expect("a listener"));
            for echo in &echoes {
                echo.set_nonblocking(true)
                    .expect("a listener that can be left");
            }
            let ready = ready;
            ready.send(()).expect("somebody waits");
            thread::scope(|servers| {
                servers.spawn(|| serve_download(&download));
                while !served.load(Ordering::Relaxed) {
                    for echo in &echoes {
                        let Ok((mut client, _)) = echo.accept() else {
                            continue;
                        };
                        let mut question = [0; 4];
                        let _ = client.set_nonblocking(false);
                        if client.read_exact(&mut question).is_ok() {
                            let _ = client.write_all(&question);
                        }
                    }
                    thread::sleep(Duration::from_micros(500));
                }
            });
        });
        open.recv().expect("the servers are there");
        let load = scope.spawn(|| {
            enter(&networks[0]);
            download(outside(false, DOWNLOAD), &over)
        });
        let news = scope.spawn(|| {
            enter(&networks[0]);
            connect_again_and_again(&over)
        });
        let flood = scope.spawn(|| {
            enter(&networks[1]);
            flood_with_syns(&addresses, mac, gateway)
        });
        let sent = flood.join();
        // A while longer, whatever became of the flood.
        thread::sleep(Duration::from_millis(500));
        over.store(true, Ordering::Relaxed);
        let results = (load.join(), news.join());
        served.store(true, Ordering::Relaxed);
        assert!(sent.expect("the flood goes out") >= FLOOD_PACKETS);
        (
            results.0.expect("the download is whole"),
            results.1.expect("each connection is answered"),
        )
    });
    println!("{bytes} bytes downloaded, {made} connections made");
    assert!(
        bytes > 1_000_000 && made > 50,
        "{bytes} bytes, {made} connections"
    );
    // Nothing was lost on the way of the flood: what was not let through was refused by name.
    let refused = dropped(&lab, "flow_budget");
    assert!(refused > 900_000, "only {refused} were refused");
}

const PLACES: usize = 50;
const SOCKETS: usize = 1_200;
/// All containers have the same source ports, so that all but one must get others.
const FIRST_PORT: u16 = 10_000;
/// Ports that the host keeps for itself in this scenario; all others are for masquerading.
const EPHEMERAL: &str = "64600 65535";
const SNAT_PORTS: &str = "1024-64599";

/// Who asks: container, socket, round.
fn identity(container: usize, socket: usize, round: usize) -> [u8; 12] {
    let mut bytes = [0; 12];
    for (part, number) in bytes.chunks_exact_mut(4).zip([container, socket, round]) {
        part.copy_from_slice(&(number as u32).to_le_bytes());
    }
    bytes
}

/// Echoes datagrams until it is told to end.
fn echo_datagrams(socket: &UdpSocket, over: &AtomicBool, seen: &mut HashSet<SocketAddr>) {
    let wait = Duration::from_millis(100);
    socket.set_read_timeout(Some(wait)).expect("a timeout");
    let mut buffer = [0; 64];
    while !over.load(Ordering::Relaxed) {
        if let Ok((len, from)) = socket.recv_from(&mut buffer) {
            seen.insert(from);
            let _ = socket.send_to(&buffer[..len], from);
        }
    }
}

/// Each of a container's sockets asks until it gets an answer, which must be its own. Returns
/// how many got none.
fn ask(container: usize, sockets: &[UdpSocket], round: usize, patience: u32) -> usize {
    let mut waiting: Vec<usize> = (0..sockets.len()).collect();
    let mut buffer = [0; 64];
    for _ in 0..patience {
        for some in waiting.chunks(64) {
            for &i in some {
                // The host refuses nothing silently: a drop is a datagram that gets no answer.
                let _ = sockets[i].send(&identity(container, i, round));
            }
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(5));
        waiting.retain(|&i| {
            while let Ok(len) = sockets[i].recv(&mut buffer) {
                let got = &buffer[..len];
                // A late answer of an earlier round is one's own, too.
                let mut rounds = (0..=round).map(|round| identity(container, i, round));
                assert!(rounds.any(|own| got == own), "{container}/{i} got {got:?}");
                if got == identity(container, i, round) {
                    return false;
                }
            }
            true
        });
        if waiting.is_empty() {
            break;
        }
    }
    waiting.len()
}

/// The sockets of a container, each time of the same ports: there are more of them than one
/// process may have open, and a flow stays when its socket goes.
fn open_sockets(network: &File, to: SocketAddr) -> Vec<UdpSocket> {
    enter(network);
    let any = if to.is_ipv4() { "0.0.0.0" } else { "::" };
    let open = |i| {
        let own = SocketAddr::new(ip(any), FIRST_PORT + i as u16);
        let socket = UdpSocket::bind(own).expect("a socket");
        socket.connect(to).expect("a destination");
        socket
            .set_nonblocking(true)
            .expect("a socket that does not wait");
        socket
    };
    (0..SOCKETS).map(open).collect()
}

/// Runs `f` for each container, by a few threads.
fn by_threads<R: Send>(count: usize, f: impl Fn(usize) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let mut results: Vec<(usize, R)> = thread::scope(|scope| {
        let worker = || {
            let mut own = Vec::new();
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= count {
                    return own;
                }
                own.push((i, f(i)));
            }
        };
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
        let all = workers
            .into_iter()
            .map(|w| w.join().expect("no cross-talk"));
        all.flatten().collect()
    });
    results.sort_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, result)| result).collect()
}

fn sixty_thousand(v6: bool) {
    let mut lab = Lab::without_agent();
    let range = format!("net.ipv4.ip_local_port_range={EPHEMERAL}");
    lab.host(&["sysctl", "-qw", &range]).ok();
    lab.agent_options(&["--snat-ports", SNAT_PORTS, "--max-flows", "131072"]);
    lab.start_agent();
    let subnets = ["--subnet", "10.88.0.0/24", "--subnet", "fd88::/64"];
    lab.netpath(&[["network", "create", "net"].as_slice(), &subnets].concat())
        .ok();
    // The last of them are more than there are ports for.
    let names: Vec<String> = (0..PLACES + 4).map(|i| format!("c{i}")).collect();
    for name in &names {
        lab.run(name, &["--network", "net"], &["sleep", "600"]);
    }
    let networks = lab.networks_of(&names);
    let far = lab.outside_network();
    let to = outside(v6, 5353);
    let over = AtomicBool::new(false);
    let mut seen = HashSet::new();
    let (ready, open) = std::sync::mpsc::channel();
    let (lost, late, again) = thread::scope(|scope| {
        let (over, seen) = (&over, &mut seen);
        scope.spawn(move || {
            enter(&far);
            let socket = UdpSocket::bind(to).expect("a socket");
            ready.send(()).expect("somebody waits");
            echo_datagrams(&socket, over, seen);
        });
        open.recv().expect("the server is there");
        let results = std::panic::catch_unwind(|| {
            let round = |number, places: std::ops::Range<usize>, patience| -> usize {
                let count = places.len();
                let unanswered = by_threads(count, |i| {
                    let place = places.start + i;
                    let sockets = open_sockets(&networks[place], to);
                    ask(place, &sockets, number, patience)
                });
                unanswered.iter().sum()
            };
            let lost = round(0, 0..PLACES, 60);
            // Again, by the flows that there are.
            let again = round(1, 0..PLACES, 60);
            // More than there are ports.
            let late = round(0, PLACES..PLACES + 4, 3);
            let again = again + round(2, 0..PLACES, 60);
            (lost, late, again)
        });
        over.store(true, Ordering::Relaxed);
        results.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    assert_eq!((lost, again), (0, 0), "datagrams that got no answer");
    assert!(
        seen.len() >= PLACES * SOCKETS,
        "{} outside tuples",
        seen.len()
    );
    let exhausted = dropped(&lab, "snat_ports_exhausted");
    println!(
        "{} tuples, {late} sockets without a port, {exhausted} drops",
        seen.len()
    );
    assert!(late > 0 && exhausted >= late as u64, "{late} {exhausted}");
    let counters = lab.json(&["counters"]);
    let rows = counters.as_array().expect("rows");
    let told = rows.iter().find(|row| row["counter"] == "exhausted");
    assert_eq!(
        told.and_then(|row| row["packets"].as_u64()),
        Some(exhausted)
    );
}

#[test]
fn sixty_thousand_ipv4_flows_to_one_destination_do_not_mix() {
    sixty_thousand(false);
}

#[test]
fn sixty_thousand_ipv6_flows_to_one_destination_do_not_mix() {
    sixty_thousand(true);
}
