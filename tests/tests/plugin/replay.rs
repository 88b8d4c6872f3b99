//! What different Dockers ask in which order, played to the driver.

use std::fs;
use std::path::Path;

use netpath_tests::inside;
use netpath_tests::lab::{HOST4, Lab, eventually};
use netpath_tests::plugin::send;
use serde_json::Value;

use super::{devices, id, rows};

/// A transcript on its way. `>` is a request, `<` what the answer must have in it (`*`: any
/// text); `connect` takes the interface that the last answer to Join named into a namespace with
/// a server, and `disconnect` puts it back, as Docker does; `gone` is a namespace that ends.
struct Player {
    lab: Lab,
    name: String,
    answer: Value,
    /// The interface's name on the host.
    interface: String,
    /// Name of the container's namespace.
    sandbox: String,
    sandboxes: u32,
}

impl Player {
    fn play(mut self, text: &str) {
        let text = text
            .replace("$NET", &id("ab"))
            .replace("$EP2", &id("ef"))
            .replace("$EP", &id("cd"));
        for (nth, line) in (1..).zip(text.lines()) {
            let at = format!("{}, line {nth}: {line}", self.name);
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                [] => {}
                ["#", ..] => {}
                [">", path, ..] => self.ask(path, &line[2 + path.len()..], &at),
                ["<", ..] => {
                    let expected: Value = serde_json::from_str(&line[2..]).expect(&at);
                    assert!(
                        is_in(&expected, &self.answer, true),
                        "{at}: {}",
                        self.answer
                    );
                }
                ["connect", address, gateway] => self.connect(address, gateway),
                ["disconnect"] => {
                    let host = self.lab.host_namespace().to_owned();
                    self.ip(&["link", "set", "eth0", "down"]);
                    self.ip(&[
                        "link",
                        "set",
                        "eth0",
                        "netns",
                        &host,
                        "name",
                        &self.interface,
                    ]);
                }
                ["gone"] => self.ip(&["link", "del", "eth0"]),
                ["restart"] => {
                    self.lab.kill_agent();
                    self.lab.start_agent();
                }
                ["reached", port] => {
                    let port = port.parse().expect("a port");
                    eventually(&at, || self.says(port).starts_with("web 80"));
                }
                ["closed", port] => {
                    assert_eq!(self.says(port.parse().expect("a port")), "", "{at}");
                }
                _ => panic!("{at} means nothing"),
            }
        }
        for listing in [
            &["ps"][..],
            &["ports"],
            &["endpoints"],
            &["network", "ls", "--filter", "type=custom"],
        ] {
            assert_eq!(
                rows(&self.lab, listing),
                0,
                "{} leaves {listing:?}",
                self.name
            );
        }
        assert_eq!(devices(&self.lab), [""; 0]);
    }

    fn ask(&mut self, path: &str, body: &str, at: &str) {
        let (status, answer) = send(&self.lab, path, body.trim().as_bytes());
        assert_eq!(status, 200, "{at}: {answer}");
        if let Some(name) = answer["InterfaceName"]["SrcName"].as_str() {
            self.interface = name.to_owned();
        }
        self.answer = answer;
    }

    fn connect(&mut self, address: &str, gateway: &str) {
        self.sandboxes += 1;
        let netns = self.lab.add_namespace(&format!("box{}", self.sandboxes));
        self.sandbox = netns.rsplit('/').next().expect("a name").to_owned();
        let take = [
            "ip",
            "link",
            "set",
            &self.interface,
            "netns",
            &self.sandbox,
            "name",
            "eth0",
        ];
        self.lab.host(&take).ok();
        self.ip(&["addr", "add", address, "dev", "eth0"]);
        self.ip(&["link", "set", "eth0", "up"]);
        self.ip(&["route", "add", "default", "via", gateway]);
        inside::serve(&netns, "web", [80]);
    }

    fn ip(&self, args: &[&str]) {
        let mut all = vec!["ip", "-n", &self.sandbox];
        all.extend(args);
        self.lab.host(&all).ok();
    }

    /// What somebody outside is told at a port of the host.
    fn says(&self, port: u16) -> String {
        inside::ask_tcp(&self.lab.outside_netns(), HOST4, port).unwrap_or_default()
    }
}

/// Whether an answer has what is expected, and, below the top, nothing else.
fn is_in(expected: &Value, answer: &Value, top: bool) -> bool {
    match (expected, answer) {
        (Value::Object(expected), Value::Object(answer)) => {
            (top || expected.len() == answer.len())
                && expected
                    .iter()
                    .all(|(key, value)| answer.get(key).is_some_and(|a| is_in(value, a, false)))
        }
        (Value::String(any), Value::String(text)) if any == "*" => !text.is_empty(),
        _ => expected == answer,
    }
}

#[test]
fn every_version_of_docker_gets_what_it_wants() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/docker");
    let mut played = 0;
    for version in ["20.10", "26", "28", "29"] {
        let text = fs::read_to_string(folder.join(format!("{version}.txt"))).expect("a transcript");
        let player = Player {
            lab: Lab::new(),
            name: format!("Docker {version}"),
            answer: Value::Null,
            interface: String::new(),
            sandbox: String::new(),
            sandboxes: 0,
        };
        player.play(&text);
        played += 1;
    }
    assert_eq!(played, 4);
}
