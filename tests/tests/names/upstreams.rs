//! What is not the networks' own is asked elsewhere.

use std::fs;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use netpath_tests::dns::{A, answer, ask_udp, code, query, records, refusal, serve};
use netpath_tests::lab::{Lab, OUT4, eventually};

use super::{dig, dig_all, lab_with_resolv_conf, lab_with_upstream, network, resolv_conf, sleeper};

const WAIT: Duration = Duration::from_secs(6);

/// The last record of an answer with an IPv4 address.
fn address(answer: &[u8]) -> &[u8] {
    &answer[answer.len() - 4..]
}

/// dnsmasq on the outside machine: two names, one of which has a hundred addresses.
fn dnsmasq(lab: &mut Lab) {
    let hosts = lab.dir().join("hosts");
    let many = (1..=100).map(|n| format!("203.0.113.{n} big.example\n"));
    let text: String = many
        .chain(["203.0.113.200 www.example\n".to_owned()])
        .collect();
    fs::write(&hosts, text).unwrap();
    let hosts = format!("--addn-hosts={}", hosts.display());
    lab.serve_outside(&[
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--user=root",
        "--pid-file=",
        "--log-facility=-",
        "--bind-interfaces",
        &format!("--listen-address={OUT4}"),
        "--local=/example/",
        "--edns-packet-max=4096",
        &hosts,
    ]);
    let ask = format!("@{OUT4}");
    eventually("dnsmasq answers", || {
        lab.host(&["dig", "+short", "+time=1", &ask, "www.example"])
            .stdout
            .contains("203.0.113.200")
    });
}

#[test]
fn other_names_are_asked_of_the_hosts_servers() {
    let mut lab = lab_with_upstream();
    dnsmasq(&mut lab);
    network(&lab, "net", 21, &[]);
    lab.netpath(&["network", "create", "six", "--subnet", "fd22::/64"])
        .ok();
    sleeper(&lab, "a", &["--network", "net"]);
    sleeper(&lab, "x", &["--network", "six"]);
    for from in ["a", "x"] {
        assert_eq!(dig(&lab, from, &["www.example"]), ["203.0.113.200"]);
        assert_eq!(dig(&lab, from, &["+tcp", "www.example"]), ["203.0.113.200"]);
        let said = dig_all(&lab, from, &["nothing.example"]);
        assert!(said.contains("status: NXDOMAIN"), "{said}");
    }
    // What is cut by UDP comes by TCP.
    assert_eq!(dig(&lab, "a", &["+noedns", "big.example"]).len(), 100);
    let said = dig_all(&lab, "a", &["+ignore", "+noedns", "big.example"]);
    assert!(said.contains(" tc"), "{said}");
    let said = dig_all(&lab, "a", &["+bufsize=4000", "big.example"]);
    assert!(
        said.contains("ANSWER: 100") && !said.contains("TCP"),
        "{said}"
    );
    assert_eq!(
        lab.exec("a", &["getent", "ahostsv4", "www.example"])
            .ok()
            .lines()
            .count(),
        3
    );
    // Of a network's address that nobody has, and of one of another network.
    let said = dig_all(&lab, "a", &["-x", "10.21.0.99"]);
    assert!(
        said.contains("status: NXDOMAIN") || said.contains("status: REFUSED"),
        "{said}"
    );
}

#[test]
fn a_server_that_is_silent_or_unable_is_passed_over() {
    let mut lab = Lab::without_agent();
    for address in ["192.0.2.11", "192.0.2.12", "192.0.2.13"] {
        lab.outside(&["ip", "addr", "add", &format!("{address}/24"), "dev", "eth0"])
            .ok();
    }
    let silent = serve(&lab.outside_netns(), "192.0.2.11", |_| Vec::new());
    let unable = serve(&lab.outside_netns(), "192.0.2.12", |query| {
        vec![refusal(query, 2)]
    });
    let able = serve(&lab.outside_netns(), "192.0.2.13", |query| {
        vec![answer(query, [203, 0, 113, 5])]
    });
    let path = resolv_conf(&lab);
    fs::write(
        &path,
        "nameserver 192.0.2.11\nnameserver 192.0.2.12\nnameserver 192.0.2.13\n",
    )
    .unwrap();
    lab.agent_options(&["--resolv-conf", &path.display().to_string()]);
    lab.start_agent();
    network(&lab, "net", 23, &[]);
    sleeper(&lab, "a", &["--network", "net"]);
    let netns = lab.namespace_of("a");
    let ask = |id| {
        let begun = Instant::now();
        let (said, _) = ask_udp(&netns, &query(id, "some.example", A), WAIT).unwrap();
        assert_eq!((code(&said), address(&said)), (0, &[203, 0, 113, 5][..]));
        begun.elapsed()
    };
    // Before any client gives up (5 s).
    assert!(ask(1) < Duration::from_secs(4));
    assert!(silent.load(Ordering::Relaxed) >= 1 && unable.load(Ordering::Relaxed) >= 1);
    // The silent one comes last from now on.
    assert!(ask(2) < Duration::from_millis(900));
    assert_eq!(able.load(Ordering::Relaxed), 2);
    // Nobody is able: what they say is told.
    fs::write(&path, "nameserver 192.0.2.12\n").unwrap();
    eventually("the change is noticed", || {
        let (said, _) = ask_udp(&netns, &query(3, "some.example", A), WAIT).unwrap();
        code(&said) == 2
    });
    // Nobody is there: an answer all the same, in time.
    fs::write(&path, "nameserver 192.0.2.11\n").unwrap();
    eventually("the change is noticed", || {
        let (said, _) = ask_udp(&netns, &query(4, "some.example", A), WAIT).unwrap();
        code(&said) == 2 && silent.load(Ordering::Relaxed) > 2
    });
}

#[test]
fn only_the_answer_to_the_question_counts() {
    let lab = lab_with_upstream();
    serve(&lab.outside_netns(), OUT4, |query| {
        let right = answer(query, [203, 0, 113, 7]);
        let wrong = [6, 6, 6, 6];
        let mut number = answer(query, wrong);
        number[1] ^= 1;
        let mut name = answer(query, wrong);
        name[13] ^= 1;
        let mut kind = answer(query, wrong);
        let at = refusal(query, 0).len() - 3;
        kind[at] = 28;
        let mut question = answer(query, wrong);
        question[2] &= 0x7f;
        let short = right[..20].to_vec();
        vec![number, name, kind, question, short, Vec::new(), right]
    });
    network(&lab, "net", 24, &[]);
    sleeper(&lab, "a", &["--network", "net"]);
    let netns = lab.namespace_of("a");
    for id in 0..20 {
        let (said, _) = ask_udp(&netns, &query(id, "some.example", A), WAIT).unwrap();
        assert_eq!(said[..2], id.to_be_bytes());
        assert_eq!(address(&said), [203, 0, 113, 7]);
    }
}

#[test]
fn changes_of_the_hosts_servers_are_followed() {
    let lab = lab_with_resolv_conf("nameserver 192.0.2.77\n");
    let netns = lab.outside_netns();
    serve(&netns, OUT4, |query| vec![answer(query, [203, 0, 113, 1])]);
    network(&lab, "net", 25, &[]);
    sleeper(&lab, "a", &["--network", "net"]);
    let new = lab.dir().join("new");
    fs::write(&new, format!("nameserver {OUT4}\n")).unwrap();
    fs::rename(&new, resolv_conf(&lab)).unwrap();
    let netns = lab.namespace_of("a");
    eventually("the new server is asked", || {
        let said = ask_udp(&netns, &query(1, "some.example", A), WAIT);
        said.is_ok_and(|(said, _)| code(&said) == 0 && records(&said) == 1)
    });
}

#[test]
fn a_server_on_the_hosts_loopback_is_asked() {
    let lab = lab_with_resolv_conf("nameserver 127.0.0.53\n");
    serve(&lab.host_netns(), "127.0.0.53", |query| {
        vec![answer(query, [203, 0, 113, 53])]
    });
    network(&lab, "net", 26, &[]);
    sleeper(&lab, "a", &["--network", "net"]);
    let (said, _) = ask_udp(&lab.namespace_of("a"), &query(1, "some.example", A), WAIT).unwrap();
    assert_eq!(address(&said), [203, 0, 113, 53]);
}

#[test]
fn containers_of_internal_networks_ask_nobody_outside() {
    let lab = lab_with_upstream();
    let outside = serve(&lab.outside_netns(), OUT4, |query| {
        vec![answer(query, [203, 0, 113, 1])]
    });
    network(&lab, "inner", 27, &["--internal"]);
    sleeper(&lab, "dns", &["--network", "inner", "--ip", "10.27.0.53"]);
    sleeper(&lab, "a", &["--network", "inner"]);
    sleeper(&lab, "b", &["--network", "inner", "--dns", "10.27.0.53"]);
    sleeper(&lab, "c", &["--network", "inner", "--dns", OUT4]);
    serve(&lab.namespace_of("dns"), "10.27.0.53", |query| {
        vec![answer(query, [203, 0, 113, 27])]
    });
    for from in ["a", "b", "c"] {
        assert_eq!(dig(&lab, from, &["dns"]), ["10.27.0.53"]);
    }
    let ask = |from: &str| {
        let begun = Instant::now();
        let (said, _) =
            ask_udp(&lab.namespace_of(from), &query(1, "some.example", A), WAIT).unwrap();
        (said, begun.elapsed())
    };
    let (said, time) = ask("a");
    assert!(
        code(&said) == 2 && time < Duration::from_secs(1),
        "{said:?} {time:?}"
    );
    assert_eq!(address(&ask("b").0), [203, 0, 113, 27]);
    // A server outside does not become a way out.
    assert_eq!(code(&ask("c").0), 2);
    assert_eq!(outside.load(Ordering::Relaxed), 0);
}

#[test]
fn named_servers_are_asked_from_the_containers_own_namespace() {
    let lab = lab_with_upstream();
    network(&lab, "net", 28, &[]);
    sleeper(&lab, "a", &["--network", "net", "--dns", "127.0.0.1"]);
    sleeper(
        &lab,
        "b",
        &[
            "--network",
            "net",
            "--dns",
            "::1",
            "--dns-option",
            "ndots:1",
        ],
    );
    // A server of the container's own, at all addresses: port 53 is free for it.
    serve(&lab.namespace_of("a"), "0.0.0.0", |query| {
        vec![answer(query, [203, 0, 113, 28])]
    });
    serve(&lab.namespace_of("b"), "::", |query| {
        vec![answer(query, [203, 0, 113, 29])]
    });
    let ask = |from: &str, name: &str| {
        let netns = lab.namespace_of(from);
        ask_udp(&netns, &query(1, name, A), WAIT).unwrap().0
    };
    assert_eq!(address(&ask("a", "some.example")), [203, 0, 113, 28]);
    assert_eq!(address(&ask("b", "some.example")), [203, 0, 113, 29]);
    assert_eq!(dig(&lab, "a", &["b"]).len(), 1);
    // With ndots set a name without dots waits for its domain.
    assert_eq!(address(&ask("a", "single")), [203, 0, 113, 28]);
    let said = ask("b", "single");
    assert_eq!((code(&said), records(&said)), (0, 0));
    // And the container's own server is reached at its own address.
    let said = lab.exec("a", &["dig", "+short", "@127.0.0.1", "b"]).ok();
    assert_eq!(said.trim(), "203.0.113.28");
}

#[test]
fn one_that_asks_too_much_is_refused_and_others_are_answered() {
    let mut lab = lab_with_upstream();
    serve(&lab.outside_netns(), OUT4, |_| Vec::new());
    network(&lab, "net", 29, &[]);
    sleeper(&lab, "loud", &["--network", "net"]);
    sleeper(&lab, "a", &["--network", "net"]);
    let netns = lab.namespace_of("loud");
    // Nobody answers, so that all are under way at once.
    let codes = netpath_tests::inside::inside(&netns, || {
        let socket = std::net::UdpSocket::bind(("0.0.0.0", 0)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        for id in 0..600 {
            socket
                .send_to(&query(id, "slow.example", A), netpath_tests::dns::SERVER)
                .unwrap();
            if id % 50 == 0 {
                thread::sleep(Duration::from_millis(5));
            }
        }
        let mut codes = Vec::new();
        let mut buffer = [0; 512];
        while codes.len() < 300
            && let Ok(length) = socket.recv(&mut buffer)
        {
            codes.push(code(&buffer[..length]));
        }
        codes
    });
    assert!(
        codes.len() > 100 && codes.iter().all(|code| *code == 5),
        "{codes:?}"
    );
    assert_eq!(dig(&lab, "a", &["loud"]).len(), 1);
    // Idle connections do not take all of it, either.
    let connections: Vec<_> = netpath_tests::inside::inside(&netns, || {
        let connect = |_| std::net::TcpStream::connect(netpath_tests::dns::SERVER);
        (0..200).map(connect).collect()
    });
    assert!(connections.iter().all(Result::is_ok));
    assert_eq!(dig(&lab, "a", &["+tcp", "loud"]).len(), 1);
    drop(connections);
    lab.stop_agent();
}
