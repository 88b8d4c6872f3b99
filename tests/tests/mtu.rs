//! How large packets may be: to neighbours, to the host, and to the outside.

use netpath_tests::lab::{Lab, OUT4, OUT6, eventually};

const SUBNETS: [&str; 4] = ["--subnet", "10.88.0.0/24", "--subnet", "fd88::/64"];

fn lab(options: &[&str]) -> Lab {
    let lab = Lab::new();
    lab.netpath(&[&["network", "create", "net"], &SUBNETS[..], options].concat())
        .ok();
    for name in ["one", "two"] {
        lab.run(name, &["--network", "net"], &["sleep", "600"]);
    }
    lab
}

/// Whether a packet with this many bytes of payload arrives without being fragmented.
fn fits(lab: &Lab, target: &str, bytes: &str) -> bool {
    let args = ["ping", "-M", "do", "-s", bytes, "-c", "1", "-W", "2"];
    lab.exec("one", &[&args[..], &[target]].concat()).code == Some(0)
}

#[test]
fn neighbours_get_large_packets_and_nobody_else_does() {
    let lab = lab(&[]);
    for v6 in [false, true] {
        let (gateway, outside) = if v6 {
            ("fd88::1", OUT6)
        } else {
            ("10.88.0.1", OUT4)
        };
        let neighbour = lab.address("two", v6);
        assert!(fits(&lab, &neighbour, "60000"), "{neighbour}");
        for target in [gateway, outside] {
            eventually(target, || fits(&lab, target, "1400"));
            assert!(!fits(&lab, target, "1500"), "{target}");
            // In parts it arrives.
            let args = ["ping", "-M", "dont", "-s", "9000", "-c", "1", "-W", "2"];
            lab.exec("one", &[&args[..], &[target]].concat()).ok();
        }
    }
    // Programs that look at the interface see what the way out can take.
    let link = lab.exec("one", &["ip", "link", "show", "eth0"]).ok();
    assert!(link.contains("mtu 1500"), "{link}");
}

#[test]
fn a_chosen_mtu_holds_for_neighbours_too() {
    let lab = lab(&["--mtu", "1400"]);
    for v6 in [false, true] {
        let neighbour = lab.address("two", v6);
        assert!(fits(&lab, &neighbour, "1300"), "{neighbour}");
        assert!(!fits(&lab, &neighbour, "1400"), "{neighbour}");
    }
    let link = lab.exec("one", &["ip", "link", "show", "eth0"]).ok();
    assert!(link.contains("mtu 1400"), "{link}");
}
