//! Containers and the outside: the scenarios of group B.

use std::io::ErrorKind;

use netpath_tests::inside;
use netpath_tests::lab::{HOST4, Lab, OUT4, eventually, finish, start};

use super::{Mode, Site};

/// One more address of the host, for a network whose packets are to carry it.
const SECOND: &str = "192.0.2.9";
const FAR: &str = "198.51.100.2";

#[test]
fn the_outside_through_the_driver() {
    the_outside(Mode::Plugin);
}

#[test]
fn the_outside_from_adopted_networks() {
    the_outside(Mode::Adopted);
}

fn the_outside(mode: Mode) {
    let mut lab = Lab::new();
    let address = format!("{SECOND}/24");
    lab.host(&["ip", "addr", "add", &address, "dev", "uplink0"])
        .ok();
    lab.outside(&["ip", "route", "add", "10.78.0.0/24", "via", HOST4])
        .ok();
    lab.add_far_machine("198.51.100", "2001:db8:2:", 1300);
    let listen = "UDP4-RECVFROM:7002,fork";
    lab.serve_outside(&["socat", "-b", "16384", listen, "EXEC:cat"]);
    lab.serve_far(&[
        "socat",
        "-u",
        "TCP4-LISTEN:7000,fork,reuseaddr",
        "OPEN:/dev/null",
    ]);
    inside::serve(&lab.outside_netns(), "outside", [7000]);
    let site = Site::on(mode, lab);
    let masquerade = "com.docker.network.bridge.enable_ip_masquerade=false";
    let source = format!("com.docker.network.host_ipv4={SECOND}");
    site.network("nat", &["--subnet", "10.77.0.0/24"]);
    site.network("own", &["-o", masquerade, "--subnet", "10.78.0.0/24"]);
    site.network("chosen", &["-o", &source, "--subnet", "10.79.0.0/24"]);
    site.network("closed", &["--internal", "--subnet", "10.80.0.0/24"]);
    for name in ["nat", "own", "chosen", "closed"] {
        site.container(name, name, &[]);
    }
    let netns = |name: &str| site.docker.netns_of(name);
    let seen_as = |name: &str| {
        let tcp = inside::ask_tcp(&netns(name), OUT4, 7000).expect("an answer");
        let udp = inside::ask_udp(&netns(name), OUT4, 7000).expect("an answer");
        assert_eq!(tcp, udp);
        tcp.rsplit(' ').next().unwrap_or_default().to_owned()
    };

    // The host's address, errors included; the container's own; the one that was chosen.
    let flows = site.new_flows();
    assert_eq!(seen_as("nat"), HOST4);
    assert_eq!(site.new_flows(), flows + 2, "somebody else did it");
    site.inside("nat", &["ping", "-c1", "-W2", OUT4]).ok();
    for ask in [inside::ask_tcp, inside::ask_udp] {
        let refused = ask(&netns("nat"), OUT4, 9).expect_err("nobody listens");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }
    assert_eq!(seen_as("own"), site.docker.address("own", "own"));
    assert_eq!(seen_as("chosen"), SECOND);

    // From an internal network nowhere but to its gateway.
    let refused = inside::ask_tcp(&netns("closed"), OUT4, 7000).expect_err("no way out");
    if mode == Mode::Plugin {
        assert_eq!(refused.kind(), ErrorKind::NetworkUnreachable);
        let routes = site.inside("closed", &["ip", "route"]).ok();
        assert!(!routes.contains("default"), "{routes}");
    }
    site.inside("closed", &["ping", "-c1", "-W2", "10.80.0.1"])
        .ok();

    // Large datagrams, and ways that are narrower than they seem.
    let ask = format!("head -c 8000 /dev/zero | socat -b 16384 -t 1 - UDP4:{OUT4}:7002 | wc -c");
    eventually("a datagram of many parts comes back", || {
        site.inside("nat", &["sh", "-c", &ask]).stdout.trim() == "8000"
    });
    let ping = [
        "ping", "-M", "do", "-s", "1400", "-c", "2", "-W", "1", "-i", "0.3", FAR,
    ];
    let ran = site.inside("nat", &ping);
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(said.contains("mtu") && said.contains("1300"), "{said}");
    let send = format!("head -c 300000 /dev/zero | timeout 3 socat -u - TCP4:{FAR}:7000");
    eventually("a stream finds its way", || {
        site.inside("nat", &["sh", "-c", &send]).code == Some(0)
    });
    no_container_source_leaves(&site);
}

/// However connections end, nothing leaves with a container's address.
fn no_container_source_leaves(site: &Site) {
    let file = site.lab.dir().join("capture.pcap").display().to_string();
    let capture = start(site.lab.host_command(&[
        "timeout", "5", "tcpdump", "-U", "-Z", "root", "-i", "uplink0", "-Q", "out", "-w", &file,
    ]));
    std::thread::sleep(std::time::Duration::from_millis(500));
    // Unread data when the client goes: a reset. Nobody there: refused. All else: in order.
    let reset = format!("exec 3<>/dev/tcp/{OUT4}/7000; sleep 0.05");
    let refused = format!("exec 3<>/dev/tcp/{OUT4}/9");
    for _ in 0..5 {
        for script in [&reset, &refused] {
            site.inside("nat", &["timeout", "2", "bash", "-c", script]);
        }
        assert_eq!(site.ask("nat", OUT4, 7000), "outside 7000");
    }
    site.inside("nat", &["ping", "-c", "2", "-i", "0.2", "-t", "1", OUT4]);
    let captured = finish(capture);
    assert!(captured.stderr.contains("listening on"), "{captured:?}");
    let read = |filter: &str| site.lab.host(&["tcpdump", "-nnr", &file, filter]).ok();
    let opened = read("src host 192.0.2.1 and tcp[tcpflags] & tcp-syn != 0");
    assert!(opened.lines().count() >= 15, "{opened}");
    assert_eq!(read("src net 10.77.0.0/24"), "");
}
