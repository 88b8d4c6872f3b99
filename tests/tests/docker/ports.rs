//! Published ports.

use std::fs;

use netpath_tests::docker::Docker;
use netpath_tests::lab::{HOST4, Lab, OUT4, eventually};

use super::{answers, fetch, fetch_here, network, no_endpoints};

#[test]
fn all_forms_of_publishing_work() {
    let lab = Lab::new();
    let docker = Docker::start(&lab);
    network(&docker, "net", &["--subnet", "10.77.0.0/24"]);
    let range = ["-p", "9000-9002:80", "--network", "net"];
    docker.web("first", &range);
    docker.web("second", &range);
    docker.web("here", &["-p", "127.0.0.1:8081:80", "--network", "net"]);
    docker.web(
        "there",
        &["-p", &format!("{HOST4}:8082:80"), "--network", "net"],
    );
    docker.web("any", &["-p", "80", "--network", "net"]);
    docker.web("exposed", &["-P", "--expose", "80", "--network", "net"]);
    answers(&lab, HOST4, 9000, "first");
    answers(&lab, HOST4, 9001, "second");
    eventually("127.0.0.1", || {
        fetch_here(&lab, "127.0.0.1", 8081) == "here"
    });
    assert_eq!(fetch(&lab, HOST4, 8081), "");
    answers(&lab, HOST4, 8082, "there");
    assert_eq!(fetch_here(&lab, "127.0.0.1", 8082), "");
    for name in ["any", "exposed"] {
        let endpoint = docker.inspect("{{.NetworkSettings.Networks.net.EndpointID}}", name);
        let ports = lab.json(&["port", &endpoint[..12]]);
        let port = ports[0]["host_port"].as_u64().expect("a port") as u16;
        answers(&lab, HOST4, port, name);
    }
    // The client is who it is.
    docker.container(
        "echo",
        &["-p", "7000:7000", "--network", "net"],
        &["nc", "-ll", "-p", "7000", "-e", "echo", "hi"],
    );
    let flows = || {
        lab.outside(&["sh", "-c", &format!("nc -w 2 {HOST4} 7000 < /dev/null")]);
        lab.netpath(&["flows"]).ok()
    };
    eventually("a flow of the client", || flows().contains(OUT4));
    docker
        .run(&[
            "rm", "-f", "first", "second", "here", "there", "any", "exposed", "echo",
        ])
        .ok();
    no_endpoints(&lab);
}

#[test]
fn udp_ports_and_ranges_work() {
    let mut lab = Lab::new();
    let docker = Docker::start(&lab);
    network(&docker, "net", &["--subnet", "10.77.0.0/24"]);
    docker.container(
        "udp",
        &["-p", "6000-6001:5000-5001/udp", "--network", "net"],
        &["sleep", "600"],
    );
    for port in [5000, 5001] {
        let listen = format!("UDP4-RECVFROM:{port},fork");
        let socat = docker.in_network_of(&docker.pid("udp"), &["socat", &listen, "EXEC:cat"]);
        lab.spawn(socat);
    }
    for port in [6000, 6001] {
        let ask = format!("echo x | socat -t 1 - UDP4:{HOST4}:{port}");
        eventually("an answer", || {
            lab.outside(&["sh", "-c", &ask]).stdout == "x\n"
        });
    }
}

#[test]
fn a_udp_client_that_streams_reaches_the_next_container() {
    let mut lab = Lab::new();
    let docker = Docker::start(&lab);
    network(&docker, "net", &["--subnet", "10.77.0.0/24"]);
    let ask = format!("echo x | socat -t 1 - UDP4:{HOST4}:6000,sourceport=4444");
    for name in ["first", "second", "third"] {
        let publish = ["-p", "6000:5000/udp", "--network", "net"];
        docker.container(name, &publish, &["sleep", "600"]);
        let answer = format!("SYSTEM:echo {name}");
        let serve = ["socat", "UDP4-RECVFROM:5000,fork", &answer];
        let socat = docker.in_network_of(&docker.pid(name), &serve);
        lab.spawn(socat);
        eventually(name, || {
            lab.outside(&["sh", "-c", &ask]).stdout.trim() == name
        });
        docker.run(&["rm", "-f", name]).ok();
        assert_eq!(lab.outside(&["sh", "-c", &ask]).stdout, "");
    }
}

#[test]
fn a_port_that_is_taken_is_refused_by_name() {
    let mut lab = Lab::new();
    let docker = Docker::start(&lab);
    network(&docker, "net", &["--subnet", "10.77.0.0/24"]);
    let listen = ["socat", "TCP4-LISTEN:8080,fork", "EXEC:cat"];
    let listener = lab.host_command(&listen);
    let listener = lab.spawn(listener);
    let listens = || {
        fs::read_to_string(format!("/proc/{}/net/tcp", lab.helper_pid(listener)))
            .unwrap_or_default()
            .contains(":1F90 ")
    };
    eventually("it listens", listens);
    let start = [
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "net",
        "-p",
        "8080:80",
        netpath_tests::docker::IMAGE,
        "httpd",
        "-f",
        "-p",
        "80",
    ];
    let refused = docker.run(&start);
    assert_ne!(refused.code, Some(0));
    assert!(refused.stderr.contains("8080/tcp"), "{refused:?}");
    assert!(refused.stderr.contains("socat"), "{refused:?}");
    no_endpoints(&lab);
    // The same container starts when the port is free.
    let pid = nix::unistd::Pid::from_raw(lab.helper_pid(listener) as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    eventually("it starts", || {
        docker.run(&["start", "web"]).code == Some(0)
    });
    // Nobody else gets it then, neither from Docker nor from netpath.
    let other = docker.run(&[
        "run",
        "-d",
        "--network",
        "net",
        "-p",
        "8080:80",
        netpath_tests::docker::IMAGE,
        "sleep",
        "1",
    ]);
    assert!(other.stderr.contains("8080/tcp"), "{other:?}");
    let docker0 = docker.run(&[
        "run",
        "-d",
        "-p",
        "8080:80",
        netpath_tests::docker::IMAGE,
        "sleep",
        "1",
    ]);
    assert!(docker0.stderr.contains("8080"), "{docker0:?}");
    lab.netpath(&["network", "create", "own", "--subnet", "10.99.0.0/24"])
        .ok();
    let own = lab
        .netpath(&["run", "--network", "own", "-p", "8080:80", "--", "true"])
        .refused();
    assert!(own.contains("8080/tcp"), "{own}");
}

#[test]
fn a_port_is_published_again_and_again() {
    let lab = Lab::new();
    let docker = Docker::start(&lab);
    network(&docker, "net", &["--subnet", "10.77.0.0/24"]);
    docker.web("web", &["--network", "net", "-p", "8080:80"]);
    answers(&lab, HOST4, 8080, "web");
    for _ in 0..5 {
        docker.run(&["restart", "-t", "0", "web"]).ok();
        answers(&lab, HOST4, 8080, "web");
    }
    assert_eq!(lab.json(&["ps"]).as_array().map(Vec::len), Some(1));
}

#[test]
fn ports_move_with_the_way_out() {
    let lab = Lab::new();
    let docker = Docker::start(&lab);
    network(&docker, "a", &["--subnet", "10.77.0.0/24"]);
    network(&docker, "b", &["--subnet", "10.78.0.0/24"]);
    docker.web("web", &["--network", "b", "-p", "8080:80"]);
    answers(&lab, HOST4, 8080, "web");
    // Of two networks the one whose name comes first leads out.
    docker.run(&["network", "connect", "a", "web"]).ok();
    answers(&lab, HOST4, 8080, "web");
    let ports = lab.json(&["ports"]);
    assert_eq!(ports.as_array().map(Vec::len), Some(1), "{ports}");
    docker.run(&["network", "disconnect", "a", "web"]).ok();
    answers(&lab, HOST4, 8080, "web");
    docker.run(&["network", "disconnect", "b", "web"]).ok();
    assert_eq!(fetch(&lab, HOST4, 8080), "");
    no_endpoints(&lab);
}
