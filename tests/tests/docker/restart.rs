//! Docker and the agent come and go, in any order; traffic stays.

use std::thread;
use std::time::Duration;

use netpath_tests::docker::Docker;
use netpath_tests::lab::{HOST4, Lab, OUT4, eventually, finish};

use super::{answers, fetch, network, no_endpoints, no_gwbridge};

/// A download that lasts some ten seconds, and pings that last as long.
struct Traffic {
    download: std::process::Child,
    pings: std::process::Child,
}

const SIZE: u32 = 32 << 20;

impl Traffic {
    fn start(lab: &Lab, docker: &Docker) -> Self {
        let url = format!("http://{HOST4}:8080/large");
        let download = lab.start_outside(&[
            "curl",
            "-sS",
            "--limit-rate",
            "3M",
            "-m",
            "60",
            "-w",
            "%{size_download}",
            "-o",
            "/dev/null",
            &url,
        ]);
        // Not by `docker exec`, which ends with the daemon.
        let ping = ["ping", "-i", "0.2", "-c", "50", "-W", "2", OUT4];
        let ping = docker.in_network_of(&docker.pid("client"), &ping);
        let pings = netpath_tests::lab::start(ping);
        thread::sleep(Duration::from_secs(1));
        Self { download, pings }
    }

    fn check(self) {
        assert_eq!(finish(self.download).ok(), SIZE.to_string());
        let pings = finish(self.pings).ok();
        assert!(pings.contains(" 0% packet loss"), "{pings}");
    }
}

fn world(lab: &Lab) -> Docker {
    let docker = Docker::start(lab);
    network(&docker, "net", &["--subnet", "10.77.0.0/24"]);
    docker.web("web", &["--network", "net", "-p", "8080:80"]);
    let large = format!(
        "dd if=/dev/zero of=/www/large bs=1048576 count={}",
        SIZE >> 20
    );
    eventually("the server is there", || {
        docker.exec("web", &["sh", "-c", &large]).code == Some(0)
    });
    docker.container("client", &["--network", "net"], &["sleep", "600"]);
    answers(lab, HOST4, 8080, "web");
    docker
}

/// What must hold whoever came back last.
fn check_control(lab: &Lab, docker: &Docker) {
    answers(lab, HOST4, 8080, "web");
    let listed = lab.json(&["ps"]);
    assert_eq!(listed.as_array().map(Vec::len), Some(2), "{listed}");
    docker.web("new", &["--network", "net", "-p", "8081:80"]);
    answers(lab, HOST4, 8081, "new");
    docker.run(&["network", "disconnect", "net", "client"]).ok();
    docker.run(&["network", "connect", "net", "client"]).ok();
    docker
        .exec("client", &["ping", "-c", "1", "-W", "3", OUT4])
        .ok();
    no_gwbridge(docker);
    docker.run(&["rm", "-f", "web", "client", "new"]).ok();
    assert_eq!(fetch(lab, HOST4, 8080), "");
    no_endpoints(lab);
    docker.run(&["network", "rm", "net"]).ok();
    assert_eq!(
        lab.json(&["network", "ls", "--filter", "type=custom"])
            .as_array()
            .map(Vec::len),
        Some(0)
    );
}

#[test]
fn the_agent_is_killed_and_comes_back() {
    let mut lab = Lab::new();
    let docker = world(&lab);
    let traffic = Traffic::start(&lab, &docker);
    lab.kill_agent();
    thread::sleep(Duration::from_secs(1));
    answers(&lab, HOST4, 8080, "web");
    lab.start_agent();
    traffic.check();
    check_control(&lab, &docker);
}

#[test]
fn the_daemon_is_killed_and_comes_back() {
    let lab = Lab::new();
    let mut docker = world(&lab);
    let traffic = Traffic::start(&lab, &docker);
    docker.kill_daemon();
    thread::sleep(Duration::from_secs(1));
    answers(&lab, HOST4, 8080, "web");
    docker.start_daemon();
    traffic.check();
    check_control(&lab, &docker);
}

#[test]
fn both_are_killed_and_come_back() {
    for agent_first in [true, false] {
        let mut lab = Lab::new();
        let mut docker = world(&lab);
        let traffic = Traffic::start(&lab, &docker);
        docker.kill_daemon();
        lab.kill_agent();
        thread::sleep(Duration::from_secs(1));
        if agent_first {
            lab.start_agent();
            docker.start_daemon();
        } else {
            // Docker waits for its driver as it starts, and has its containers meanwhile.
            docker.spawn_daemon();
            thread::sleep(Duration::from_secs(2));
            lab.start_agent();
            docker.await_daemon();
        }
        traffic.check();
        check_control(&lab, &docker);
    }
}

#[test]
fn what_docker_has_forgotten_gives_way() {
    let lab = Lab::new();
    let mut docker = world(&lab);
    docker.container(
        "fixed",
        &["--network", "net", "--ip", "10.77.0.50", "-p", "8085:80"],
        &["sleep", "600"],
    );
    // The daemon is killed, and the containers with it; nobody tells the driver.
    let names = ["fixed", "web", "client"];
    let pids = names.map(|name| docker.pid(name));
    docker.kill_daemon();
    for pid in pids {
        netpath_tests::lab::run(docker.inside(&["kill", "-9", &pid])).ok();
    }
    docker.start_daemon();
    for name in names {
        docker.run(&["start", name]).ok();
    }
    assert_eq!(docker.address("fixed", "net"), "10.77.0.50");
    answers(&lab, HOST4, 8080, "web");
    docker
        .exec("client", &["ping", "-c", "1", "-W", "3", "10.77.0.50"])
        .ok();
    assert_eq!(lab.json(&["ps"]).as_array().map(Vec::len), Some(3));
}
