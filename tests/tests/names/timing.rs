//! How long answers and connections take, beside Docker's own. Not a test of anything: figures are
//! printed, and mean something on a quiet machine with a binary that was optimised.
//! `cargo build --release && cargo test --release -p netpath-tests --test names timing -- --ignored
//! --nocapture`

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use netpath::api::client::Client;
use netpath::api::types::{Container, Join};
use netpath_tests::dns::{A, AAAA, SERVER, code, query, records};
use netpath_tests::docker::{Docker, IMAGE};
use netpath_tests::inside::inside;
use netpath_tests::lab::Lab;

use super::{network, sleeper};

const QUERIES: u16 = 10_000;
const CONNECTIONS: usize = 50;

/// Median and 99th percentile.
fn show(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!(
        "{what}: p50 {:?}, p99 {:?} of {}",
        at(50),
        at(99),
        times.len()
    );
}

/// Asks one after the other from a namespace.
fn ask(netns: &str, what: &str, name: &str, kind: u16) {
    let times = inside(netns, || {
        let socket = UdpSocket::bind(("0.0.0.0", 0)).expect("a socket");
        socket.connect(SERVER).expect("a server");
        let wait = Some(Duration::from_secs(2));
        socket.set_read_timeout(wait).expect("a timeout");
        let mut buffer = [0; 512];
        let mut one = |id| {
            let query = query(id, name, kind);
            let begin = Instant::now();
            socket.send(&query).expect("sent");
            let length = socket.recv(&mut buffer).expect("an answer");
            let time = begin.elapsed();
            assert_eq!(
                (code(&buffer), records(&buffer) > 0),
                (0, kind == A),
                "{length}"
            );
            time
        };
        // The first ones are not what is meant.
        (0..QUERIES / 10).for_each(|id| {
            one(id);
        });
        (0..QUERIES).map(one).collect()
    });
    show(what, times);
}

fn timed(times: usize, mut action: impl FnMut(), mut undo: impl FnMut()) -> Vec<Duration> {
    let one = |_| {
        let begin = Instant::now();
        action();
        let time = begin.elapsed();
        undo();
        time
    };
    (0..times).map(one).collect()
}

#[test]
#[ignore = "figures, and no test"]
fn answers_and_connections_are_timed() {
    let lab = Lab::new();
    network(&lab, "one", 11, &[]);
    network(&lab, "two", 12, &[]);
    for name in ["web", "client"] {
        sleeper(&lab, name, &["--network", "one"]);
    }
    let netns = lab.namespace_of("client");
    ask(&netns, "netpath, A of a container", "web", A);
    ask(&netns, "netpath, a family that it has not", "web.one", 15);
    let client = Client::new(lab.dir().join("run/netpath.sock"));
    let join = Join {
        network: "two".into(),
        ..Join::default()
    };
    let connect = || {
        let path = "/v1/containers/client/networks";
        let _: Container = client.post(path, &join).expect("connected");
    };
    let leave = || {
        let path = "/v1/containers/client/networks/two";
        client.delete(path).expect("disconnected");
    };
    show(
        "netpath, connect by the API",
        timed(CONNECTIONS, connect, leave),
    );
    let by_command = |verb: &str| {
        lab.netpath(&["network", verb, "two", "client"]).ok();
    };
    let times = timed(
        CONNECTIONS,
        || by_command("connect"),
        || by_command("disconnect"),
    );
    show("netpath network connect", times);

    let docker_lab = Lab::without_agent();
    let docker = Docker::start(&docker_lab);
    for (name, subnet) in [("one", "10.111.0.0/24"), ("two", "10.112.0.0/24")] {
        docker
            .run(&["network", "create", "--subnet", subnet, name])
            .ok();
    }
    for name in ["web", "client"] {
        let args = [
            "run",
            "-d",
            "--name",
            name,
            "--network",
            "one",
            IMAGE,
            "sleep",
            "600",
        ];
        docker.run(&args).ok();
    }
    let netns = docker.netns_of("client");
    ask(&netns, "docker, A of a container", "web", A);
    ask(&netns, "docker, a family that it has not", "web", AAAA);
    let by_command = |verb: &str| {
        docker.run(&["network", verb, "two", "client"]).ok();
    };
    let times = timed(
        CONNECTIONS,
        || by_command("connect"),
        || by_command("disconnect"),
    );
    show("docker network connect", times);
}
