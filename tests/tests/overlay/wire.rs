//! What is on the wire, judged by tshark.

use std::thread;
use std::time::Duration;

use netpath_tests::command::{run, start};
use netpath_tests::lab::UPLINK;
use netpath_tests::lab::hosts::{Hosts, port};

use crate::{Place, run_server, set_up};

/// The fields that tshark tells of each frame: statuses of all checksums (1 is good, 2 is not
/// checked, 0 is bad), and what it has to complain about.
const FIELDS: [&str; 6] = [
    "ip.checksum.status",
    "udp.checksum.status",
    "tcp.checksum.status",
    "icmp.checksum.status",
    "icmpv6.checksum.status",
    "_ws.expert.message",
];

/// Exchanges traffic between two hosts over a wire whose cards compute nothing, and has every
/// frame read.
fn judged(underlay_v6: bool) {
    let mut hosts = Hosts::new(2);
    for nth in [0, 1] {
        // What the card would do is done before the wire, so that it can be seen there.
        let off = ["tx", "off", "tso", "off", "gso", "off"];
        let command = ["ethtool", "-K", UPLINK];
        hosts[nth].host(&[&command[..], &off].concat()).ok();
    }
    set_up::route(&mut hosts, 53, underlay_v6, &["--mtu", "1430"]);
    let folder = hosts[0].dir().to_path_buf();
    let small = folder.join("big");
    std::fs::write(&small, vec![7; 300_000]).unwrap();
    run_server(&hosts[1], "server", "wide", &folder, &[]);
    hosts[0].run("client", &["--network", "wide"], &["sleep", "600"]);
    let place = Place::Container(&hosts[0], "client");
    let addresses = [false, true].map(|v6| hosts[1].address("server", v6));
    for address in &addresses {
        place.pings(address);
    }
    let file = folder.join("capture.pcap");
    let (file_name, device) = (file.display().to_string(), port(0));
    let capture = [
        "tcpdump",
        "-U",
        "-i",
        &device,
        "-w",
        &file_name,
        "udp port 4789",
    ];
    let mut capture = start(hosts.switch_command(&capture));
    thread::sleep(Duration::from_secs(1));
    for address in &addresses {
        place.fetches(address);
        place
            .run(&["ping", "-c", "2", "-i", "0.2", "-s", "500", address])
            .ok();
        let datagrams = [
            "iperf3", "-u", "-b", "1M", "-l", "1000", "-t", "1", "-c", address,
        ];
        place.run(&datagrams).ok();
    }
    thread::sleep(Duration::from_secs(1));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(capture.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    capture.wait().unwrap();
    let mut tshark = std::process::Command::new("tshark");
    tshark.args([
        "-r",
        &file_name,
        "-T",
        "fields",
        "-E",
        "separator=|",
        "-E",
        "occurrence=a",
    ]);
    for check in [
        "ip.check_checksum",
        "udp.check_checksum",
        "tcp.check_checksum",
    ] {
        tshark.args(["-o", &format!("{check}:TRUE")]);
    }
    for field in FIELDS.iter().chain(&["frame.protocols", "frame.len"]) {
        tshark.args(["-e", field]);
    }
    let said = run(tshark).ok();
    let rows: Vec<Vec<&str>> = said.lines().map(|line| line.split('|').collect()).collect();
    assert!(rows.len() > 400, "{} frames", rows.len());
    for row in &rows {
        let [ip, udp, tcp, icmp, icmpv6, complaint, protocols, len] = row[..] else {
            panic!("not all fields: {row:?}");
        };
        assert!(protocols.contains("vxlan:eth"), "{row:?}");
        assert!(len.parse::<u32>().unwrap() <= 1514, "{row:?}");
        for status in [ip, udp, tcp, icmp, icmpv6] {
            // Over IPv4 the outer UDP header has no checksum, which is status 3.
            let good = |s: &str| s.is_empty() || s == "1" || (s == "3" && !underlay_v6);
            assert!(status.split(',').all(good), "{row:?}");
        }
        assert!(!complaint.to_lowercase().contains("checksum"), "{row:?}");
        assert!(!complaint.contains("Malformed"), "{row:?}");
    }
    for inner in ["vxlan:eth:ethertype:ip:tcp", "vxlan:eth:ethertype:ipv6:tcp"] {
        let of_kind = rows.iter().filter(|row| row[6].contains(inner));
        assert!(of_kind.count() > 100, "{inner}");
    }
}

#[test]
fn frames_on_the_wire_are_valid() {
    judged(false);
}

#[test]
fn frames_over_ipv6_are_valid() {
    judged(true);
}
