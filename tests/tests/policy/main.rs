//! What networks let in and out: gateway modes, internal networks, networks whose containers do
//! not talk, source addresses; with real clients.

use std::fs;

use netpath_tests::lab::{HOST4, HOST6, Lab, eventually};

mod closed;
mod modes;
mod options;
mod source;

/// A network with a web server: port 80 is published as `host_port`, port 81 is not.
struct Server<'a> {
    name: &'a str,
    number: u8,
    host_port: u16,
}

impl Server<'_> {
    fn address(&self, v6: bool) -> String {
        if v6 {
            format!("fd{}::2", self.number)
        } else {
            format!("10.{}.0.2", self.number)
        }
    }
}

fn create(lab: &Lab, name: &str, number: u8, options: &[&str]) {
    let subnets = [format!("10.{number}.0.0/24"), format!("fd{number}::/64")];
    let mut args = vec!["network", "create", name];
    args.extend(["--subnet", &subnets[0], "--subnet", &subnets[1]]);
    args.extend(options);
    lab.netpath(&args).ok();
}

fn serve(lab: &Lab, server: &Server<'_>, publish: bool) {
    let www = lab.dir().join("www");
    if !www.exists() {
        fs::create_dir(&www).unwrap();
        fs::write(www.join("hello"), "hello\n").unwrap();
    }
    let www = www.display().to_string();
    let command = format!(
        "busybox httpd -p '[::]:80' -h {www}; busybox httpd -p '[::]:81' -h {www}; \
         exec sleep 600"
    );
    let port = format!("{}:80", server.host_port);
    let mut options = vec!["--network", server.name];
    if publish {
        options.extend(["-p", &port]);
    }
    lab.run(server.name, &options, &["sh", "-c", &command]);
    eventually("the web server answers", || {
        let ran = lab.exec(server.name, &["curl", "-sm2", "http://127.0.0.1:81/hello"]);
        ran.stdout == "hello\n"
    });
}

fn url(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("http://[{host}]:{port}/hello")
    } else {
        format!("http://{host}:{port}/hello")
    }
}

/// Who tries to reach something.
#[derive(Clone, Copy, Debug)]
enum Client<'a> {
    Host,
    Outside,
    Far,
    Container(&'a str),
}

fn ran(lab: &Lab, client: Client<'_>, args: &[&str]) -> netpath_tests::lab::Ran {
    match client {
        Client::Host => lab.host(args),
        Client::Outside => lab.outside(args),
        Client::Far => lab.far(args),
        Client::Container(name) => lab.exec(name, args),
    }
}

/// Asserts that the client gets, or does not get, the page.
fn web(lab: &Lab, client: Client<'_>, host: &str, port: u16, expected: bool) {
    let url = url(host, port);
    let get = |time| {
        let args = ["curl", "-gs", "-m", time, &url];
        ran(lab, client, &args).stdout == "hello\n"
    };
    if expected {
        eventually(&format!("{client:?} gets {url}"), || get("3"));
    } else {
        assert!(!get("1"), "{client:?} gets {url}");
    }
}

/// Asserts that the client's ping is, or is not, answered.
fn ping(lab: &Lab, client: Client<'_>, host: &str, expected: bool) {
    let ping = |time| {
        let args = ["ping", "-c", "1", "-W", time, host];
        ran(lab, client, &args).code == Some(0)
    };
    if expected {
        eventually(&format!("{client:?} pings {host}"), || ping("3"));
    } else {
        assert!(!ping("1"), "{client:?} pings {host}");
    }
}

fn drops(lab: &Lab, reason: &str) -> u64 {
    let rows = lab.json(&["drops"]);
    let rows = rows.as_array().unwrap().iter();
    rows.filter(|row| row["reason"] == reason)
        .filter_map(|row| row["packets"].as_u64())
        .sum()
}

/// Networks in the three modes that have an outside, each with a server, and a client in a
/// network of its own; the outside machine has routes to all.
fn modes() -> (Lab, [Server<'static>; 3]) {
    let lab = Lab::new();
    let servers =
        [("nat", 81), ("routed", 82), ("nat-unprotected", 83)].map(|(name, number)| Server {
            name,
            number,
            host_port: 8000 + u16::from(number),
        });
    for server in &servers {
        let options = [4, 6].map(|family| format!("gateway_mode_ipv{family}={}", server.name));
        create(
            &lab,
            server.name,
            server.number,
            &["-o", &options[0], "-o", &options[1]],
        );
        serve(&lab, server, true);
        let number = server.number;
        let v4 = format!("10.{number}.0.0/24");
        let v6 = format!("fd{number}::/64");
        lab.outside(&["ip", "route", "add", &v4, "via", HOST4]).ok();
        lab.outside(&["ip", "route", "add", &v6, "via", HOST6]).ok();
    }
    create(&lab, "other", 89, &[]);
    lab.run("stranger", &["--network", "other"], &["sleep", "600"]);
    (lab, servers)
}

fn assert_matrix(lab: &Lab, servers: &[Server<'_>], client: Client<'_>) {
    for server in servers {
        let [reached, published, unpublished] = match server.name {
            "nat" => [false; 3],
            "routed" => [true, true, false],
            _ => [true; 3],
        };
        for v6 in [false, true] {
            let address = server.address(v6);
            ping(lab, client, &address, reached);
            web(lab, client, &address, 80, published);
            web(lab, client, &address, 81, unpublished);
        }
    }
}
