//! netpath as the network driver of a real Docker daemon.

mod cards;
mod lifecycle;
mod options;
mod ports;
mod restart;

use netpath_tests::docker::Docker;
use netpath_tests::lab::{Lab, eventually};

/// Makes a network of the driver.
#[track_caller]
fn network(docker: &Docker, name: &str, options: &[&str]) {
    let mut args = vec!["network", "create", "-d", "netpath"];
    args.extend(options);
    args.push(name);
    docker.run(&args).ok();
}

/// What a web server answers to a machine outside.
fn fetch(lab: &Lab, address: &str, port: u16) -> String {
    let url = url(address, port);
    lab.outside(&["curl", "-sgm3", &url])
        .stdout
        .trim()
        .to_owned()
}

/// What a web server answers to the host itself.
fn fetch_here(lab: &Lab, address: &str, port: u16) -> String {
    let url = url(address, port);
    lab.host(&["curl", "-sgm3", &url]).stdout.trim().to_owned()
}

/// What a web server answers to a container.
fn fetch_in(docker: &Docker, client: &str, address: &str, port: u16) -> String {
    let url = url(address, port);
    let ran = docker.exec(client, &["timeout", "3", "wget", "-q", "-O", "-", &url]);
    ran.stdout.trim().to_owned()
}

fn url(address: &str, port: u16) -> String {
    match address.contains(':') {
        true => format!("http://[{address}]:{port}/"),
        false => format!("http://{address}:{port}/"),
    }
}

/// Waits until a port answers the outside with a name.
#[track_caller]
fn answers(lab: &Lab, address: &str, port: u16, name: &str) {
    eventually(&format!("{name} answers at {address}:{port}"), || {
        fetch(lab, address, port) == name
    });
}

/// Checks that Docker's network of its own for containers without a way out was never made.
#[track_caller]
fn no_gwbridge(docker: &Docker) {
    let names = docker.run(&["network", "ls", "--format", "{{.Name}}"]).ok();
    assert!(!names.contains("docker_gwbridge"), "{names}");
}

/// Checks that nothing is left of containers and their ports.
#[track_caller]
fn no_endpoints(lab: &Lab) {
    for listing in ["ps", "ports", "endpoints"] {
        let rows = lab.json(&[listing]);
        assert_eq!(rows.as_array().map(Vec::len), Some(0), "{listing}: {rows}");
    }
    let links = lab.host(&["ip", "-br", "link"]).ok();
    let left = |line: &&str| line.starts_with("npv") || line.starts_with("npc");
    assert_eq!(links.lines().find(left), None, "{links}");
}
