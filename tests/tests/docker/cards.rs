//! Containers of Docker's get interfaces on the physical network, by their names.

use netpath_tests::docker::Docker;
use netpath_tests::lab::{Lab, OUT4, Ran, UPLINK, eventually, run};

use super::network;

/// Adds an interface to a container of Docker's; the daemon is asked.
fn attach(lab: &Lab, docker: &Docker, words: &[&str]) -> Ran {
    let attach = ["attach", "--parent", UPLINK, "--ip"];
    let mut command = lab.netpath_command(&[&attach[..], words].concat());
    command.env("DOCKER_HOST", docker.socket());
    run(command)
}

fn cards(lab: &Lab) -> usize {
    lab.json(&["cards"]).as_array().expect("rows").len()
}

/// Whether the machine outside reaches an address.
fn is_reached(lab: &Lab, address: &str) -> bool {
    lab.outside(&["ping", "-c", "1", "-W", "1", address]).code == Some(0)
}

#[test]
fn a_container_of_dockers_gets_and_loses_an_interface() {
    let lab = Lab::new();
    let docker = Docker::start(&lab);
    // One without a network, one of Docker's own network, one of the driver's.
    network(&docker, "net", &["--subnet", "10.77.0.0/24"]);
    docker.container("alone", &["--network", "none"], &["sleep", "600"]);
    docker.container("bridged", &[], &["sleep", "600"]);
    docker.container("driven", &["--network", "net"], &["sleep", "600"]);
    let interface = "eth1";
    for name in ["alone", "bridged", "driven"] {
        for driver in ["underlay", "macvlan"] {
            let address = "192.0.2.10/24,2001:db8:1::10/64";
            let said = attach(&lab, &docker, &[address, "-d", driver, name]).ok();
            assert_eq!(said, format!("{name} {interface}\n"));
            for address in ["192.0.2.10", "2001:db8:1::10"] {
                eventually("it is reached", || is_reached(&lab, address));
            }
            // It is the container's, and not of whoever has its number here.
            docker
                .exec(name, &["ping", "-c", "1", "-W", "2", OUT4])
                .ok();
            let inside = docker.exec(name, &["ip", "addr", "show", interface]).ok();
            assert!(inside.contains("192.0.2.10/24"), "{inside}");
            let listed = lab.json(&["cards"]);
            assert_eq!(listed[0]["owner"], name);
            lab.netpath(&["detach", name]).ok();
            assert_eq!(cards(&lab), 0);
            let inside = docker.exec(name, &["ip", "addr"]).ok();
            assert!(!inside.contains(interface), "{inside}");
        }
    }
    // A card goes with the container that has it, however that ends, and does not come back.
    for driver in ["underlay", "macvlan"] {
        for (name, end) in [
            ("alone", &["stop", "-t", "0"][..]),
            ("bridged", &["kill"]),
            ("driven", &["restart", "-t", "0"]),
        ] {
            let words = ["192.0.2.10/24", "-d", driver, name];
            attach(&lab, &docker, &words).ok();
            eventually("it is reached", || is_reached(&lab, "192.0.2.10"));
            docker.run(&[end, &[name]].concat()).ok();
            eventually("the card is gone", || cards(&lab) == 0);
            // The kernel takes its time to take a namespace down.
            eventually("it is not reached", || !is_reached(&lab, "192.0.2.10"));
            if end[0] != "restart" {
                let refused = attach(&lab, &docker, &words).refused();
                assert!(refused.contains("does not run"), "{refused}");
            }
            docker.run(&["start", name]).ok();
            assert_eq!(cards(&lab), 0);
        }
    }
    docker.container("host", &["--network", "host"], &["sleep", "600"]);
    for (name, part) in [
        ("host", "of the host"),
        (
            "nobody",
            "neither netpath nor Docker has a container nobody",
        ),
    ] {
        let refused = attach(&lab, &docker, &["192.0.2.10/24", name]).refused();
        assert!(refused.contains(part), "{refused}");
    }
    let links = lab.host(&["ip", "-o", "link"]).ok();
    docker
        .run(&["rm", "-f", "driven", "alone", "bridged", "host"])
        .ok();
    assert!(!links.contains("eth1"), "{links}");
}
