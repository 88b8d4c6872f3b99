//! New connections are the programs', old ones stay with the kernel.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};

use netpath_tests::inside::inside;
use netpath_tests::lab::{HOST4, OUT4, eventually, run, start};

use super::{Site, at_last};

#[test]
fn new_connections_go_around_the_kernel() {
    let mut site = Site::with_web();
    site.serve_outside();
    site.adopt(&[]);
    assert_eq!(site.names(), ["client", "web"]);
    let web = site.docker.address("web", "bridge");
    let client = site.docker.address("client", "bridge");

    let before = (site.new_flows(), site.delivered());
    // Within the network.
    assert_eq!(site.fetch("client", &web), "web");
    assert!(site.delivered() > before.1, "the bridge did it");
    // To the outside, which sees the host's address.
    assert_eq!(site.fetch("client", OUT4), "outside");
    assert_eq!(site.new_flows(), before.0 + 1);
    let seen = site.docker.exec("client", &["ping", "-c1", "-W2", OUT4]);
    assert_eq!(seen.code, Some(0), "{seen:?}");
    // From the outside to a published port.
    assert_eq!(site.fetch_from_outside(HOST4), "web");
    assert_eq!(site.new_flows(), before.0 + 3);
    // From a neighbour, and from the container itself, to the published port.
    assert_eq!(site.fetch("client", &format!("{HOST4}:8080")), "web");
    assert_eq!(site.fetch("web", &format!("{HOST4}:8080")), "web");
    assert_eq!(site.new_flows(), before.0 + 5);
    assert_eq!(site.tracked(OUT4), Vec::<String>::new());

    // From the host itself, around docker-proxy.
    for address in ["127.0.0.1", HOST4] {
        assert_eq!(site.fetch_from_host(address), "web");
    }
    // Docker knows of nothing.
    let ports = site.docker.run(&["port", "web"]).ok();
    assert!(ports.contains("80/tcp -> 0.0.0.0:8080"), "{ports}");
    let status = site.lab.netpath(&["status"]).ok();
    assert!(
        status.contains("adopted     1 networks, 2 containers and"),
        "{status}"
    );
    // What is not needed any more is said.
    let doctor = site.lab.netpath(&["doctor"]).stdout;
    assert!(doctor.contains("\"userland-proxy\": false"), "{doctor}");
    // The bridge knows the containers although it sees less of them.
    assert_eq!(site.pinned_macs(), 2);

    site.lab.netpath(&["adopt", "--release"]).ok();
    assert_eq!(site.pinned_macs(), 0);
    assert_eq!(
        site.lab.netpath(&["adopt", "ls"]).ok(),
        "nothing is adopted\n"
    );
    let after = site.new_flows();
    for _ in 0..3 {
        assert_eq!(site.fetch("client", &web), "web");
        assert_eq!(site.fetch("client", OUT4), "outside");
        assert_eq!(site.fetch_from_outside(HOST4), "web");
        assert_eq!(site.fetch_from_host("127.0.0.1"), "web");
    }
    assert_eq!(site.new_flows(), after);
    assert!(
        !site.tracked(&client).is_empty(),
        "Docker's rules serve again"
    );
}

/// A download that takes its time, from outside by the published port; it says how much it has.
struct Download {
    child: Child,
}

impl Download {
    /// Starts it, and waits until bytes come.
    fn start(site: &Site) -> Self {
        let url = format!("http://{HOST4}:8080/large");
        let mut child = site
            .lab
            .start_outside(&["curl", "-sN", "--limit-rate", "400k", &url]);
        let mut first = [0; 1000];
        let out = child.stdout.as_mut().expect("a pipe");
        out.read_exact(&mut first).expect("bytes");
        Self { child }
    }

    /// Reads some more.
    fn goes_on(&mut self) {
        let mut more = vec![0; 300_000];
        let out = self.child.stdout.as_mut().expect("a pipe");
        out.read_exact(&mut more).expect("the download goes on");
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Questions and answers by UDP on one socket, for ever: each answer is a line.
fn talk(site: &Site) -> Child {
    let script = format!(
        "i=0; while sleep 0.2; do i=$((i+1)); echo $i; done | socat -u - UDP4:{OUT4}:7000,sourceport=27015"
    );
    let pid = site.docker.pid("client");
    let mut command = site.docker.in_network_of(&pid, &["sh", "-c", &script]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.spawn().expect("socat starts")
}

#[test]
fn connections_that_began_before_stay_with_the_kernel() {
    let site = Site::with_web();
    let make = "dd if=/dev/zero of=/www/large bs=1M count=64";
    site.docker.exec("web", &["sh", "-c", make]).ok();
    // Tells the source of each datagram.
    let listen = [
        "socat",
        "-u",
        "UDP4-RECVFROM:7000,fork",
        "SYSTEM:echo $SOCAT_PEERPORT",
    ];
    let mut listener = site.lab.start_outside(&listen);
    let mut ports = BufReader::new(listener.stdout.take().expect("a pipe")).lines();
    let mut talker = talk(&site);
    let port = ports.next().expect("a datagram").expect("a line");
    let mut download = Download::start(&site);

    site.adopt(&[]);
    assert!(site.adopted()["kernel_flows"].as_u64() > Some(0));
    download.goes_on();
    let new_flows = site.new_flows();
    for _ in 0..10 {
        assert_eq!(ports.next().expect("a datagram").expect("a line"), port);
    }
    assert_eq!(site.new_flows(), new_flows);
    // New ones are ours at the same time.
    assert_eq!(site.fetch_from_outside(HOST4), "web");
    assert_eq!(site.new_flows(), new_flows + 1);

    site.lab.netpath(&["adopt", "--release"]).ok();
    download.goes_on();
    for _ in 0..5 {
        assert_eq!(ports.next().expect("a datagram").expect("a line"), port);
    }
    let _ = talker.kill();
    let _ = talker.wait();
    let _ = listener.kill();
    let _ = listener.wait();
}

#[test]
fn what_the_kernel_has_is_forgotten_when_it_ends() {
    let site = Site::with_web();
    let question = format!("echo x | socat -u - UDP4:{OUT4}:7000");
    let pid = site.docker.pid("client");
    let ask = start(site.docker.in_network_of(&pid, &["sh", "-c", &question]));
    netpath_tests::lab::finish(ask);
    site.adopt(&[]);
    assert!(site.adopted()["kernel_flows"].as_u64() > Some(0));
    site.lab.host(&["conntrack", "-F"]);
    at_last("the kernel's connections are forgotten", || {
        site.adopted()["kernel_flows"] == 0
    });
}

#[test]
fn user_defined_networks_are_adopted_and_stay_apart() {
    let mut site = Site::new();
    site.serve_outside();
    for (name, options) in [
        ("one", &[][..]),
        ("closed", &["--internal"]),
        (
            "silent",
            &["-o", "com.docker.network.bridge.enable_icc=false"],
        ),
    ] {
        let mut args = vec!["network", "create"];
        args.extend(options);
        args.push(name);
        site.docker.run(&args).ok();
        let web = format!("web-{name}");
        site.docker.web(&web, &["--network", name]);
        let client = format!("client-{name}");
        site.docker
            .container(&client, &["--network", name], &["sleep", "600"]);
    }
    site.adopt(&[]);
    assert_eq!(site.names().len(), 6);
    let address = |name: &str| site.docker.address(&format!("web-{name}"), name);
    let delivered = site.delivered();
    assert_eq!(site.fetch("client-one", &address("one")), "web-one");
    assert_eq!(
        site.fetch("client-closed", &address("closed")),
        "web-closed"
    );
    assert!(site.delivered() > delivered);
    assert_eq!(site.fetch("client-silent", &address("silent")), "");
    assert_eq!(site.fetch("client-one", &address("closed")), "");
    assert_eq!(site.fetch("client-closed", &address("one")), "");
    // Docker's resolver goes on as before.
    let found = site
        .docker
        .exec("client-one", &["nslookup", "web-one", "127.0.0.11"]);
    assert!(found.stdout.contains(&address("one")), "{found:?}");
    assert_eq!(site.fetch("client-one", OUT4), "outside");
    assert_eq!(site.fetch("client-closed", OUT4), "");
    // Whatever was refused here, Docker's rules did it.
    // (The kernel's own multicast is dropped at the gateways of the agent's networks.)
    let drops = site.lab.json(&["drops"]);
    let rows = drops.as_array().expect("rows");
    assert!(rows.iter().all(|row| row["hook"] == "gateway"), "{drops}");
    let ls = site.adopted();
    let rows = ls["networks"].as_array().expect("rows");
    let row = |name: &str| rows.iter().find(|row| row["name"] == name).expect("a row");
    assert!(row("one")["outward"].is_null() && row("one")["within"].is_null());
    assert!(
        row("closed")["outward"]
            .as_str()
            .is_some_and(|why| why.contains("internal"))
    );
    assert!(
        row("silent")["within"]
            .as_str()
            .is_some_and(|why| why.contains("talk"))
    );
    eventually("hosts see their containers", || {
        let ping = ["ping", "-c1", "-W1", &address("one")];
        site.lab.host(&ping).code == Some(0)
    });
}

/// The kernel gives an interface its link-local address up to a second after the others.
#[test]
fn a_link_local_address_that_comes_late_breaks_nothing() {
    let site = Site::new();
    let families = [
        "--ipv6",
        "--subnet",
        "10.77.0.0/24",
        "--subnet",
        "fd77::/64",
    ];
    let network = [&["network", "create"], &families[..], &["both"]].concat();
    site.docker.run(&network).ok();
    site.docker
        .container("box", &["--network", "both"], &["sleep", "600"]);
    let pid = site.docker.pid("box");
    let ip = |args: &[&str]| run(site.docker.in_network_of(&pid, &[&["ip"], args].concat())).ok();
    let mut local = String::new();
    eventually("it has one", || {
        let shown = ip(&["-6", "-br", "addr", "show", "dev", "eth0", "scope", "link"]);
        let words = shown.split_whitespace();
        local = words.filter(|word| word.starts_with("fe80")).collect();
        !local.is_empty()
    });
    ip(&["addr", "del", &local, "dev", "eth0"]);
    site.adopt(&[]);
    assert_eq!(site.names(), ["box"]);
    let listener = inside(&site.lab.outside_netns(), || {
        TcpListener::bind((OUT4, 7000))
    });
    let listener = listener.expect("a listener");
    let netns = site.docker.netns_of("box");
    let client = inside(&netns, || TcpStream::connect((OUT4, 7000)));
    let mut client = client.expect("a connection");
    let (mut server, _) = listener.accept().expect("a client");
    let limit = Some(std::time::Duration::from_secs(5));
    server.set_read_timeout(limit).expect("a limit");
    assert_eq!(site.new_flows(), 1, "the kernel did it");

    ip(&["addr", "add", &local, "dev", "eth0"]);
    site.docker.container("next", &[], &["sleep", "600"]);
    eventually("Docker was asked again", || site.names() == ["box", "next"]);
    client.write_all(b"data").expect("it is sent");
    let mut data = [0; 4];
    server
        .read_exact(&mut data)
        .expect("the connection goes on");
    assert_eq!(&data, b"data");
}
