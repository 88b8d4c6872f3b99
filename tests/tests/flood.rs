//! A container that floods the host with connections harms itself only.

use netpath_tests::lab::{Lab, OUT4, eventually};

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
