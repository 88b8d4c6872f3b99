//! The address by which containers leave.

use netpath_tests::lab::{HOST4, HOST6, Lab, OUT4, OUT6, UPLINK, eventually};

use crate::{Client, create, ping, url};

/// Starts servers outside that say whom they see, TCP and UDP, at ports 7000 to 7003.
fn mirrors(lab: &mut Lab) {
    let say = "SYSTEM:echo $SOCAT_PEERADDR";
    for (kind, port) in [("TCP4-LISTEN", 7000), ("TCP6-LISTEN", 7001)] {
        lab.serve_outside(&["socat", &format!("{kind}:{port},fork,reuseaddr"), say]);
    }
    for (kind, port) in [("UDP4-RECVFROM", 7002), ("UDP6-RECVFROM", 7003)] {
        lab.serve_outside(&["socat", &format!("{kind}:{port},fork"), say]);
    }
}

/// Asserts which source addresses the outside machine sees of a container.
fn assert_seen(lab: &Lab, container: &str, v4: &str, v6: &str) {
    let v6: std::net::Ipv6Addr = v6.parse().unwrap();
    let full: Vec<String> = v6.segments().iter().map(|s| format!("{s:04x}")).collect();
    let full = format!("[{}]", full.join(":"));
    for (target, expected) in [
        (format!("TCP4:{OUT4}:7000"), v4),
        (format!("TCP6:[{OUT6}]:7001"), &full),
        (format!("UDP4:{OUT4}:7002"), v4),
        (format!("UDP6:[{OUT6}]:7003"), &full),
    ] {
        // A forking UDP server of socat loses a question now and then: short waits, many tries.
        let ask = format!("echo who | socat -t 1 - {target}");
        let mut answer = String::new();
        eventually(&format!("{container} hears from {target}"), || {
            answer = lab.exec(container, &["sh", "-c", &ask]).stdout;
            !answer.is_empty()
        });
        assert_eq!(answer.trim(), expected, "{container} at {target}");
    }
}

#[test]
fn without_masquerade_the_outside_sees_the_container() {
    let mut lab = Lab::new();
    mirrors(&mut lab);
    create(&lab, "plain", 94, &["-o", "masquerade=false"]);
    let routed = ["gateway_mode_ipv4=routed", "gateway_mode_ipv6=routed"];
    create(&lab, "routed", 95, &["-o", routed[0], "-o", routed[1]]);
    for (name, number) in [("plain", 94), ("routed", 95)] {
        lab.run(name, &["--network", name], &["sleep", "600"]);
        let (v4, v6) = (format!("10.{number}.0.0/24"), format!("fd{number}::/64"));
        lab.outside(&["ip", "route", "add", &v4, "via", HOST4]).ok();
        lab.outside(&["ip", "route", "add", &v6, "via", HOST6]).ok();
        let (v4, v6) = (format!("10.{number}.0.2"), format!("fd{number}::2"));
        assert_seen(&lab, name, &v4, &v6);
        for out in [OUT4, OUT6] {
            ping(&lab, Client::Container(name), out, true);
            // A closed port outside refuses it: errors come back, too.
            let url = url(out, 9);
            let refused = lab.exec(name, &["curl", "-gsm5", &url]);
            assert_eq!(refused.code, Some(7), "{refused:?}");
        }
    }
    // Nobody gets in that was not asked, in mode nat.
    ping(&lab, Client::Outside, "10.94.0.2", false);
    ping(&lab, Client::Outside, "fd94::2", false);
}

#[test]
fn the_outside_sees_the_chosen_source_address() {
    let mut lab = Lab::new();
    mirrors(&mut lab);
    // Deprecated, so that it is not what others leave by.
    for address in ["192.0.2.77/24", "2001:db8:1::77/64"] {
        let add = ["ip", "addr", "add", address, "dev", UPLINK, "nodad"];
        lab.host(&[&add[..], &["preferred_lft", "0"]].concat()).ok();
    }
    let options = [
        "host_ipv4=192.0.2.77",
        "com.docker.network.host_ipv6=2001:db8:1::77",
    ];
    create(&lab, "chosen", 96, &["-o", options[0], "-o", options[1]]);
    create(&lab, "usual", 97, &[]);
    lab.run("chosen", &["--network", "chosen"], &["sleep", "600"]);
    lab.run("usual", &["--network", "usual"], &["sleep", "600"]);
    assert_seen(&lab, "chosen", "192.0.2.77", "2001:db8:1::77");
    assert_seen(&lab, "usual", HOST4, HOST6);
    ping(&lab, Client::Container("chosen"), OUT4, true);
    ping(&lab, Client::Container("chosen"), OUT6, true);
}
