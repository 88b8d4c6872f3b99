//! Datagrams larger than the path's MTU: their parts are translated alike.

use netpath_tests::lab::{HOST4, HOST6, Lab, OUT4, OUT6, eventually};

/// A container with an echo server published at 5353, and one outside at 7000.
fn lab() -> Lab {
    let mut lab = Lab::new();
    let subnets = ["--subnet", "10.88.0.0/24", "--subnet", "fd88::/64"];
    lab.netpath(&[&["network", "create", "net"][..], &subnets].concat())
        .ok();
    lab.run(
        "box",
        &["--network", "net", "-p", "5353:53/udp"],
        &["socat", "-b", "16384", "UDP6-RECVFROM:53,fork", "EXEC:cat"],
    );
    for family in ["UDP4-RECVFROM:7000", "UDP6-RECVFROM:7001"] {
        let listen = format!("{family},fork");
        lab.serve_outside(&["socat", "-b", "16384", &listen, "EXEC:cat"]);
    }
    lab
}

/// Sends one datagram of 8,000 bytes and counts the bytes of the answer.
fn ask(target: &str) -> String {
    format!("head -c 8000 /dev/zero | socat -b 16384 -t 1 - {target} | wc -c")
}

#[test]
fn large_datagrams_go_out_and_come_back() {
    let lab = lab();
    for target in [format!("UDP4:{OUT4}:7000"), format!("UDP6:[{OUT6}]:7001")] {
        eventually(&target, || {
            lab.exec("box", &["sh", "-c", &ask(&target)]).stdout.trim() == "8000"
        });
    }
    for target in [OUT4, OUT6] {
        let ping = [
            "ping", "-s", "8000", "-c", "2", "-i", "0.2", "-W", "2", target,
        ];
        lab.exec("box", &ping).ok();
    }
}

#[test]
fn large_datagrams_come_in_and_are_answered() {
    let lab = lab();
    for target in [format!("UDP4:{HOST4}:5353"), format!("UDP6:[{HOST6}]:5353")] {
        eventually(&target, || {
            lab.outside(&["sh", "-c", &ask(&target)]).stdout.trim() == "8000"
        });
    }
}

#[test]
fn large_datagrams_stay_within_a_network_and_reach_the_host() {
    let lab = lab();
    lab.run("other", &["--network", "net"], &["sleep", "600"]);
    for v6 in [false, true] {
        let target = lab.address("box", v6);
        let ping = ["ping", "-s", "8000", "-c", "1", "-W", "2", &target];
        lab.exec("other", &ping).ok();
        lab.host(&ping).ok();
    }
    for target in ["10.88.0.1", "fd88::1"] {
        let ping = ["ping", "-s", "8000", "-c", "1", "-W", "2", target];
        lab.exec("box", &ping).ok();
    }
}
