//! Containers that are connected to more networks, and disconnected, while they run.

mod called;
mod options;
mod refused;
mod running;
mod start;
mod way_out;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use netpath_tests::inside::inside;
use netpath_tests::lab::Lab;
use serde_json::Value;

/// Networks by name, with the number in their subnets: `10.N.0.0/24` and `fdN::/64`.
fn network(lab: &Lab, name: &str, number: u8, options: &[&str]) {
    let subnets = [format!("10.{number}.0.0/24"), format!("fd{number}::/64")];
    let mut args = vec!["network", "create", name];
    for subnet in &subnets {
        args.extend(["--subnet", subnet]);
    }
    args.extend(options);
    lab.netpath(&args).ok();
}

/// Serves an echo at a port of all addresses of a namespace, until the test ends.
fn echo(netns: &str, port: u16) {
    let listener = inside(netns, || {
        TcpListener::bind(("::", port)).expect("a listener")
    });
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut byte = [0];
                while client.read_exact(&mut byte).is_ok() && client.write_all(&byte).is_ok() {}
            });
        }
    });
}

/// A connection to an echo.
struct Session(TcpStream);

impl Session {
    fn dial(netns: &str, address: &str, port: u16) -> Self {
        let server = SocketAddr::new(address.parse().unwrap(), port);
        let patience = Duration::from_secs(5);
        let stream = inside(netns, || TcpStream::connect_timeout(&server, patience));
        let stream = stream.unwrap_or_else(|error| panic!("{server}: {error}"));
        stream.set_read_timeout(Some(patience)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    #[track_caller]
    fn lives(&mut self) {
        for byte in [7, 8] {
            self.0.write_all(&[byte]).expect("written");
            let mut answer = [0];
            self.0.read_exact(&mut answer).expect("an answer");
            assert_eq!(answer, [byte]);
        }
    }
}

/// What `inspect` says of a container in a network.
#[track_caller]
fn connection(lab: &Lab, name: &str, network: &str) -> Value {
    let container = lab.json(&["inspect", name]);
    let all = container["networks"].as_array().expect("networks");
    let found = all.iter().find(|one| one["network"] == network);
    found
        .unwrap_or_else(|| panic!("not in {network}: {container}"))
        .clone()
}

#[track_caller]
fn address(lab: &Lab, name: &str, network: &str, v6: bool) -> String {
    let connection = connection(lab, name, network);
    let text = connection["addresses"][usize::from(v6)].as_str();
    let (ip, _) = text
        .and_then(|text| text.split_once('/'))
        .expect("an address");
    ip.to_owned()
}

/// The interface of a container's default route; none without one.
fn way_out(lab: &Lab, name: &str, v6: bool) -> Option<String> {
    let family = if v6 { "-6" } else { "-4" };
    let text = lab
        .exec(name, &["ip", family, "-j", "route", "show", "default"])
        .ok();
    let routes: Vec<Value> = serde_json::from_str(&text).expect("JSON of ip");
    assert!(routes.len() <= 1, "{text}");
    let device = routes.first()?["dev"].as_str()?;
    Some(device.to_owned())
}

fn interfaces(lab: &Lab, name: &str) -> Vec<String> {
    let text = lab.exec(name, &["ip", "-j", "link"]).ok();
    let links: Vec<Value> = serde_json::from_str(&text).expect("JSON of ip");
    let name = |link: &Value| link["ifname"].as_str().map(str::to_owned);
    links.iter().filter_map(name).collect()
}

/// Host port, container port and container address of all published ports.
fn published(lab: &Lab) -> Vec<(u64, u64, String)> {
    let rows = lab.json(&["ports"]);
    let rows = rows.as_array().expect("rows").iter().map(|row| {
        let end = |side: &str| -> SocketAddr {
            let text = row[side].as_str().expect("an address with a port");
            text.parse()
                .unwrap_or_else(|error| panic!("{text}: {error}"))
        };
        let (host, container) = (end("host"), end("container"));
        (
            u64::from(host.port()),
            u64::from(container.port()),
            container.ip().to_string(),
        )
    });
    let mut rows: Vec<_> = rows.collect();
    rows.sort();
    rows
}
