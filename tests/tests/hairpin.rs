//! Published ports as containers reach them: their own, a neighbour's, another network's.

use std::fs;

use netpath_tests::lab::{HOST4, HOST6, Lab, eventually};

/// A web server and an echo server published on 8080 and 5353, a neighbour, and a stranger
/// in another network.
fn lab() -> Lab {
    let lab = Lab::new();
    for (name, v4, v6) in [
        ("net", "10.88.0.0/24", "fd88::/64"),
        ("other", "10.89.0.0/24", "fd89::/64"),
    ] {
        lab.netpath(&["network", "create", name, "--subnet", v4, "--subnet", v6])
            .ok();
    }
    let www = lab.dir().join("www");
    fs::create_dir(&www).unwrap();
    fs::write(www.join("hello"), "hello\n").unwrap();
    let www = www.display().to_string();
    let servers = format!(
        "busybox httpd -p '[::]:80' -h {www}; exec socat UDP6-RECVFROM:53,fork EXEC:cat"
    );
    lab.run(
        "web",
        &["--network", "net", "-p", "8080:80", "-p", "5353:53/udp"],
        &["sh", "-c", &servers],
    );
    lab.run("neighbour", &["--network", "net"], &["sleep", "600"]);
    lab.run("stranger", &["--network", "other"], &["sleep", "600"]);
    eventually("the web server answers", || {
        lab.exec("web", &["curl", "-sm1", "http://127.0.0.1/hello"]).code == Some(0)
    });
    lab
}

#[test]
fn every_container_reaches_a_published_port_at_every_address_of_the_host() {
    let lab = lab();
    let hosts = [HOST4, HOST6, "10.88.0.1", "fd88::1", "10.89.0.1", "fd89::1"];
    for client in ["web", "neighbour", "stranger"] {
        for host in hosts {
            let host = if host.contains(':') {
                format!("[{host}]")
            } else {
                host.to_owned()
            };
            let url = format!("http://{host}:8080/hello");
            let ran = lab.exec(client, &["curl", "-gsSm3", &url]);
            assert_eq!(ran.stdout, "hello\n", "{client} at {url}: {ran:?}");
            let family = if host.starts_with('[') { "UDP6" } else { "UDP4" };
            let ask = format!("echo ping | socat -t 1 - {family}:{host}:5353");
            // socat takes an answer only from the address that it asked.
            eventually(&format!("{client} at {ask}"), || {
                lab.exec(client, &["sh", "-c", &ask]).stdout == "ping\n"
            });
        }
    }
}

#[test]
fn a_port_of_one_address_is_at_no_other() {
    let lab = lab();
    lab.run(
        "narrow",
        &["--network", "net", "-p", &format!("{HOST4}:8090:80")],
        &["busybox", "httpd", "-f", "-p", "80", "-h", "/etc"],
    );
    let get = |client: &str, host: &str| {
        let url = format!("http://{host}:8090/hostname");
        lab.exec(client, &["curl", "-sm1", &url]).code
    };
    eventually("the server answers", || get("stranger", HOST4) == Some(0));
    assert_ne!(get("stranger", "10.89.0.1"), Some(0));
    assert_ne!(get("neighbour", "10.88.0.1"), Some(0));
}

#[test]
fn flows_between_containers_end_with_either() {
    let lab = lab();
    let url = format!("http://{HOST4}:8080/hello");
    lab.exec("stranger", &["curl", "-sSm3", &url]).ok();
    assert_eq!(lab.json(&["flows"]).as_array().map(Vec::len), Some(1));
    lab.netpath(&["rm", "-f", "stranger"]).ok();
    eventually("the flow is gone", || {
        lab.json(&["flows"]).as_array().map(Vec::len) == Some(0)
    });
    lab.exec("neighbour", &["curl", "-sSm3", &url]).ok();
    lab.netpath(&["rm", "-f", "web"]).ok();
    assert_ne!(
        lab.exec("neighbour", &["curl", "-sm1", &url]).code,
        Some(0)
    );
}
