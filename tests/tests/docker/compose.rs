//! A file of docker-compose.

use std::fs;

use netpath_tests::docker::Docker;
use netpath_tests::lab::{HOST4, Lab, OUT4, eventually};

use super::{answers, fetch_in, no_endpoints, no_gwbridge};

const FILE: &str = r#"
version: "2.4"
services:
  front:
    image: box
    command: sh -c "mkdir /www; echo front > /www/index.html; exec httpd -f -p 80 -h /www"
    ports: ["8080:80"]
    networks: [outer, inner]
  back:
    image: box
    command: sh -c "mkdir /www; echo back > /www/index.html; exec httpd -f -p 80 -h /www"
    networks:
      inner:
        aliases: [database]
  cron:
    image: box
    command: sleep 600
    networks: [outer]
networks:
  outer:
    driver: netpath
  inner:
    driver: netpath
    internal: true
"#;

#[test]
fn three_services_find_each_other_by_name() {
    let lab = Lab::new();
    let docker = Docker::start(&lab);
    let file = lab.dir().join("docker-compose.yml");
    fs::write(&file, FILE).unwrap();
    let file = file.display().to_string();
    let compose = |args: &[&str]| {
        let mut all = vec!["-f", &file, "-p", "three"];
        all.extend(args);
        docker.other("docker-compose", &all)
    };
    compose(&["up", "-d"]).ok();
    let (front, back, cron) = ("three_front_1", "three_back_1", "three_cron_1");
    answers(&lab, HOST4, 8080, "front");
    for name in ["back", "database"] {
        eventually(name, || fetch_in(&docker, front, name, 80) == "back");
    }
    eventually("front", || fetch_in(&docker, cron, "front", 80) == "front");
    // Of another network.
    assert_eq!(fetch_in(&docker, cron, "back", 80), "");
    docker
        .exec(cron, &["ping", "-c", "1", "-W", "3", OUT4])
        .ok();
    assert_ne!(
        docker
            .exec(back, &["ping", "-c", "1", "-W", "1", OUT4])
            .code,
        Some(0)
    );
    no_gwbridge(&docker);
    compose(&["restart", "-t", "0"]).ok();
    answers(&lab, HOST4, 8080, "front");
    compose(&["down", "-t", "0"]).ok();
    no_endpoints(&lab);
    assert_eq!(
        lab.json(&["network", "ls", "--filter", "type=custom"])
            .as_array()
            .map(Vec::len),
        Some(0)
    );
}
