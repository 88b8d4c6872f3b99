//! Many containers, compose files, and the ends of daemons.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use netpath_tests::docker::Docker;
use netpath_tests::inside;
use netpath_tests::lab::{HOST4, Lab, OUT4, eventually, finish, start};

use super::{Mode, Site, at_last};

const FILE: &str = r#"
version: "2.4"
services:
  front:
    image: box
    command: sleep 600
    ports: ["8080:80"]
    networks: [outer, inner]
  back:
    image: box
    command: sleep 600
    networks:
      inner:
        aliases: [database]
  cron:
    image: box
    command: sleep 600
    networks: [outer]
networks:
  outer:
    driver: DRIVER
  inner:
    driver: DRIVER
    internal: true
"#;

#[test]
fn three_services_of_a_compose_file_on_the_driver() {
    three_services(Mode::Plugin);
}

#[test]
fn three_services_of_a_compose_file_in_adopted_networks() {
    three_services(Mode::Adopted);
}

fn three_services(mode: Mode) {
    let site = Site::new(mode);
    let file = site.lab.dir().join("docker-compose.yml");
    let driver = match mode {
        Mode::Plugin => "netpath",
        Mode::Adopted => "bridge",
    };
    fs::write(&file, FILE.replace("DRIVER", driver)).expect("a file");
    let file = file.display().to_string();
    let compose = |args: &[&str]| {
        let mut all = vec!["-f", &file, "-p", "three"];
        all.extend(args);
        site.docker.other("docker-compose", &all)
    };
    compose(&["up", "-d"]).ok();
    site.has_interfaces(4);
    let (front, back, cron) = ("three_front_1", "three_back_1", "three_cron_1");
    for name in [front, back] {
        site.serve(name, [80]);
    }
    let outside = site.lab.outside_netns();
    let reached = || Site::ask_from(&outside, HOST4, 8080);
    // UDP is not published.
    assert!(reached().contains("tcp: three_front_1 80"), "{}", reached());
    let found = |client: &str, name: &str| {
        let ran = site.docker.exec(client, &["nslookup", name, "127.0.0.11"]);
        let last = ran
            .stdout
            .lines()
            .rev()
            .find_map(|line| line.split_once("Address: "));
        last.map(|(_, address)| address.trim().to_owned())
            .filter(|address| !address.contains("127.0.0.11"))
    };
    for name in ["back", "database"] {
        let address = found(front, name).expect("an address");
        assert_eq!(site.ask(front, &address, 80), "three_back_1 80");
    }
    let address = found(cron, "front").expect("an address");
    assert_eq!(site.ask(cron, &address, 80), "three_front_1 80");
    assert_eq!(found(cron, "back"), None, "of another network");
    site.inside(cron, &["ping", "-c1", "-W3", OUT4]).ok();
    assert_ne!(
        site.inside(back, &["ping", "-c1", "-W1", OUT4]).code,
        Some(0)
    );
    let networks = site
        .docker
        .run(&["network", "ls", "--format", "{{.Name}}"])
        .ok();
    assert!(!networks.contains("docker_gwbridge"), "{networks}");
    compose(&["restart", "-t", "0"]).ok();
    site.has_interfaces(0);
    site.serve(front, [80]);
    at_last("it is reached again", || {
        reached().contains("three_front_1 80")
    });
    compose(&["down", "-t", "0"]).ok();
    site.has_interfaces(-4);
    for listing in ["ports", "endpoints"] {
        let rows = site.lab.json(&[listing]);
        assert_eq!(rows.as_array().map(Vec::len), Some(0), "{rows}");
    }
}

/// Connections that last: a download by a published port from outside, and pings to there.
struct Traffic {
    download: std::process::Child,
    pings: std::process::Child,
}

const SIZE: u32 = 45 << 20;

impl Traffic {
    fn start(site: &Site) -> Self {
        let url = format!("http://{HOST4}:8080/large");
        let download = site.lab.start_outside(&[
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
        let ping = ["ping", "-i", "0.2", "-c", "75", "-W", "2", OUT4];
        let client = site.docker.pid("client");
        let pings = start(site.docker.in_network_of(&client, &ping));
        thread::sleep(Duration::from_millis(500));
        Self { download, pings }
    }

    #[track_caller]
    fn check(self) {
        assert_eq!(finish(self.download).ok(), SIZE.to_string());
        let pings = finish(self.pings).ok();
        assert!(pings.contains(" 0% packet loss"), "{pings}");
    }
}

/// (The same for the driver: `docker` restart.)
#[test]
fn adopted_traffic_goes_on_whoever_is_killed() {
    let mut site = Site::new(Mode::Adopted);
    site.docker.web("web", &["-p", "8080:80"]);
    site.docker.container("client", &[], &["sleep", "600"]);
    site.has_interfaces(2);
    let large = format!(
        "dd if=/dev/zero of=/www/large bs=1048576 count={}",
        SIZE >> 20
    );
    site.docker.exec("web", &["sh", "-c", &large]).ok();
    let traffic = Traffic::start(&site);
    let served = |site: &Site| {
        let url = format!("http://{HOST4}:8080/");
        let flows = site.new_flows();
        let page = site.lab.outside(&["curl", "-sm5", &url]).stdout;
        page.trim() == "web" && site.new_flows() == flows + 1
    };
    // The agent.
    site.lab.kill_agent();
    site.lab.start_agent();
    at_last("new connections are served", || served(&site));
    // Docker.
    site.docker.kill_daemon();
    assert!(served(&site));
    site.docker.start_daemon();
    at_last("new connections are served", || served(&site));
    // Both, and Docker is back first.
    site.docker.kill_daemon();
    site.lab.kill_agent();
    site.docker.start_daemon();
    site.lab.start_agent();
    at_last("new connections are served", || served(&site));
    traffic.check();
    site.has_interfaces(0);
    site.docker.container("new", &[], &["sleep", "600"]);
    site.has_interfaces(1);
    site.remove("new");
}

const CONTAINERS: u16 = 50;
const PORTS: u16 = 10;

/// The first port of a container; it serves its number at all of them.
fn first(container: u16) -> u16 {
    20_000 + container * PORTS
}

/// Starts all containers at once; how long that took.
fn start_all(docker: &Docker, network: &str) -> Duration {
    let began = Instant::now();
    thread::scope(|scope| {
        for nth in 0..CONTAINERS {
            scope.spawn(move || {
                let last = first(nth) + PORTS - 1;
                let publish = format!("{}-{last}:1000-{}", first(nth), 999 + PORTS);
                let options = ["--network", network, "-p", &publish];
                docker.container(&format!("c{nth}"), &options, &["sleep", "600"]);
            });
        }
    });
    began.elapsed()
}

fn remove_all(docker: &Docker) {
    let names: Vec<String> = (0..CONTAINERS).map(|nth| format!("c{nth}")).collect();
    let mut remove = vec!["rm", "-f"];
    remove.extend(names.iter().map(String::as_str));
    docker.run(&remove).ok();
}

/// Asks every port of every container, from outside.
fn ask_all(site: &Site) {
    let outside = site.lab.outside_netns();
    for nth in 0..CONTAINERS {
        let name = format!("c{nth}");
        site.serve(&name, 1000..1000 + PORTS);
        for port in 0..PORTS {
            let wanted = format!("{name} {} {OUT4}", 1000 + port);
            eventually(&wanted, || {
                inside::ask_tcp(&outside, HOST4, first(nth) + port).is_ok_and(|said| said == wanted)
            });
        }
    }
}

#[test]
fn fifty_containers_with_ten_ports_each_start_at_once() {
    for mode in [Mode::Plugin, Mode::Adopted] {
        let site = Site::new(mode);
        site.network("net", &["--subnet", "10.77.0.0/24"]);
        let took = start_all(&site.docker, "net");
        let began = Instant::now();
        site.has_interfaces(isize::try_from(CONTAINERS).expect("a number"));
        println!(
            "{CONTAINERS} containers with {PORTS} ports each, {mode:?}: {} ms, and {} ms until \
             netpath has the last",
            took.as_millis(),
            began.elapsed().as_millis()
        );
        let flows = site.new_flows();
        ask_all(&site);
        assert!(site.new_flows() >= flows + u64::from(CONTAINERS * PORTS));
        remove_all(&site.docker);
        site.has_interfaces(-isize::try_from(CONTAINERS).expect("a number"));
        for listing in ["ports", "endpoints"] {
            let rows = site.lab.json(&[listing]);
            assert_eq!(rows.as_array().map(Vec::len), Some(0), "{rows}");
        }
    }
}

/// What Docker alone takes for it, to be read beside the others.
#[test]
#[ignore = "half a minute that checks nothing"]
fn fifty_containers_of_docker_alone_for_comparison() {
    let lab = Lab::new();
    let docker = Docker::start(&lab);
    docker
        .run(&["network", "create", "--subnet", "10.77.0.0/24", "net"])
        .ok();
    let took = start_all(&docker, "net");
    println!(
        "{CONTAINERS} containers with {PORTS} ports each, Docker alone: {} ms",
        took.as_millis()
    );
}
