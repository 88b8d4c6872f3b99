//! Many containers at once.

use std::time::Instant;

use netpath_tests::docker::Docker;
use netpath_tests::inside;
use netpath_tests::lab::{HOST4, Lab};

use super::{network, no_endpoints};

const CONTAINERS: u16 = 50;
const PORTS: u16 = 10;

/// The first port of a container; it serves its number at all of them.
fn first(container: u16) -> u16 {
    20_000 + container * PORTS
}

#[test]
fn fifty_containers_with_ten_ports_each_start_at_once() {
    let lab = Lab::new();
    let docker = Docker::start(&lab);
    network(&docker, "net", &["--subnet", "10.77.0.0/24"]);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for nth in 0..CONTAINERS {
            let docker = &docker;
            scope.spawn(move || {
                let last = first(nth) + PORTS - 1;
                let publish = format!("{}-{last}:1000-{}", first(nth), 999 + PORTS);
                let serve = format!(
                    "for p in $(seq 1000 {}); do nc -ll -p $p -e echo {nth}:$p & done; wait",
                    999 + PORTS
                );
                docker.container(
                    &format!("c{nth}"),
                    &["--network", "net", "-p", &publish],
                    &["sh", "-c", &serve],
                );
            });
        }
    });
    println!(
        "{CONTAINERS} containers with {PORTS} ports each: {} ms",
        began.elapsed().as_millis()
    );
    for nth in 0..CONTAINERS {
        for port in 0..PORTS {
            let wanted = format!("{nth}:{}\n", 1000 + port);
            netpath_tests::lab::eventually(&wanted, || {
                let host = first(nth) + port;
                inside::ask_tcp(&lab.outside_netns(), HOST4, host).is_ok_and(|said| said == wanted)
            });
        }
    }
    let names: Vec<String> = (0..CONTAINERS).map(|nth| format!("c{nth}")).collect();
    let mut remove = vec!["rm", "-f"];
    remove.extend(names.iter().map(String::as_str));
    docker.run(&remove).ok();
    no_endpoints(&lab);
}
