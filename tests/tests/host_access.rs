//! Processes of the host itself and published ports: every way in, and nobody else's sockets.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use netpath_tests::lab::{HOST4, HOST6, Lab, Ran, eventually, run};

const GATEWAY4: &str = "10.88.0.1";
const GATEWAY6: &str = "fd88::1";

/// A server of both families and protocols that tells its name and whom it sees.
const SERVER: &str = r#"
import socket, sys, threading
name, addr, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
def make(kind):
    s = socket.socket(socket.AF_INET6, kind)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    s.bind((addr, port))
    return s
def text(peer):
    return f"{name} sees {peer[0].removeprefix('::ffff:')}".encode()
tcp, udp = make(socket.SOCK_STREAM), make(socket.SOCK_DGRAM)
tcp.listen(16)
def datagrams():
    while True:
        _, peer = udp.recvfrom(2048)
        udp.sendto(text(peer), peer)
threading.Thread(target=datagrams, daemon=True).start()
while True:
    c, peer = tcp.accept()
    c.sendall(text(peer))
    c.close()
"#;

/// A client: `HOW ADDR PORT [SOURCE]`. Prints the answer, and the addresses it is shown.
const CLIENT: &str = r#"
import socket, sys
how, addr, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ":" in addr else socket.AF_INET
kind = socket.SOCK_STREAM if how == "tcp" else socket.SOCK_DGRAM
s = socket.socket(family, kind)
s.settimeout(2)
if len(sys.argv) > 4:
    s.bind((sys.argv[4], 0))
def show(peer):
    return f"{peer[0]} {peer[1]}"
try:
    if how == "tcp":
        s.connect((addr, port))
        print(s.recv(2048).decode(), show(s.getpeername()), sep="|")
    elif how == "connected":
        s.connect((addr, port))
        s.send(b"x")
        answer, source = s.recvfrom(2048)
        print(answer.decode(), show(source), show(s.getpeername()), sep="|")
    else:
        # Twice, for what the second time finds of the first.
        for _ in range(2):
            s.sendto(b"x", (addr, port))
            answer, source = s.recvfrom(2048)
        print(answer.decode(), show(source), sep="|")
except OSError as error:
    print(type(error).__name__)
"#;

/// A host with a network and the two programs.
fn lab() -> Lab {
    let lab = Lab::new();
    prepare(&lab);
    lab
}

fn prepare(lab: &Lab) {
    let subnets = ["--subnet", "10.88.0.0/24", "--subnet", "fd88::/64"];
    let mut create = vec!["network", "create", "net"];
    create.extend(subnets);
    lab.netpath(&create).ok();
    fs::write(lab.dir().join("server.py"), SERVER).unwrap();
    fs::write(lab.dir().join("client.py"), CLIENT).unwrap();
}

fn script(lab: &Lab, name: &str) -> String {
    lab.dir().join(name).display().to_string()
}

/// Starts the server in a container, at port 80 of all addresses.
fn serve(lab: &Lab, name: &str, options: &[&str]) {
    let mut all = vec!["--network", "net"];
    all.extend(options);
    let server = script(lab, "server.py");
    lab.run(name, &all, &["python3", &server, name, "::", "80"]);
    eventually("the server answers", || {
        let client = script(lab, "client.py");
        let ran = lab.exec(name, &["python3", &client, "tcp", "::1", "80"]);
        ran.stdout.contains("sees")
    });
}

/// Starts the server on the host.
fn serve_on_host(lab: &mut Lab, name: &str, addr: &str, port: u16) {
    let server = script(lab, "server.py");
    let command = lab.host_command(&["python3", &server, name, addr, &port.to_string()]);
    lab.spawn(command);
    eventually("the host's server answers", || {
        dial(lab, &["tcp", addr, &port.to_string()]).contains("sees")
    });
}

fn outcome(ran: Ran) -> String {
    ran.ok().trim().to_owned()
}

/// What the client on the host says.
fn dial(lab: &Lab, args: &[&str]) -> String {
    let client = script(lab, "client.py");
    let mut all = vec!["python3", &client];
    all.extend(args);
    outcome(lab.host(&all))
}

const REFUSED: &str = "ConnectionRefusedError";

/// What the host's processes may dial, and whom the container should see then.
const WAYS: [(&str, &str); 8] = [
    ("127.0.0.1", GATEWAY4),
    ("::1", GATEWAY6),
    (HOST4, GATEWAY4),
    (HOST6, GATEWAY6),
    (GATEWAY4, GATEWAY4),
    (GATEWAY6, GATEWAY6),
    ("::ffff:127.0.0.1", GATEWAY4),
    ("::ffff:192.0.2.1", GATEWAY4),
];

#[test]
fn host_reaches_published_tcp_ports_by_every_address() {
    let lab = lab();
    serve(&lab, "web", &["-p", "8080:80"]);
    for (addr, seen) in WAYS {
        assert_eq!(
            dial(&lab, &["tcp", addr, "8080"]),
            format!("web sees {seen}|{addr} 8080"),
        );
    }
    // "Any" means oneself, and so says the kernel.
    assert_eq!(
        dial(&lab, &["tcp", "0.0.0.0", "8080"]),
        format!("web sees {GATEWAY4}|127.0.0.1 8080"),
    );
    // Nothing is translated on the way.
    assert_eq!(lab.json(&["flows"]).as_array().map(Vec::len), Some(0));
}

#[test]
fn host_reaches_published_udp_ports_and_sees_what_it_dialled() {
    let lab = lab();
    serve(&lab, "echo", &["-p", "5353:80/udp"]);
    for (addr, seen) in WAYS {
        assert_eq!(
            dial(&lab, &["unconnected", addr, "5353"]),
            format!("echo sees {seen}|{addr} 5353"),
        );
        assert_eq!(
            dial(&lab, &["connected", addr, "5353"]),
            format!("echo sees {seen}|{addr} 5353|{addr} 5353"),
        );
    }
    assert_eq!(lab.json(&["flows"]).as_array().map(Vec::len), Some(0));
}

#[test]
fn one_udp_socket_of_the_host_talks_to_several_containers() {
    let lab = lab();
    serve(&lab, "one", &["-p", "5001:80/udp"]);
    serve(&lab, "two", &["-p", "5002:80/udp"]);
    let text = r#"
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(2)
for port in [5001, 5002, 5001]:
    s.sendto(b"x", ("127.0.0.1", port))
for _ in range(3):
    answer, source = s.recvfrom(2048)
    print(answer.decode().split()[0], source[0], source[1])
"#;
    let said = lab.host(&["python3", "-c", text]).ok();
    let mut lines: Vec<&str> = said.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "one 127.0.0.1 5001",
            "one 127.0.0.1 5001",
            "two 127.0.0.1 5002"
        ]
    );
}

#[test]
fn sockets_with_a_source_of_their_own() {
    let lab = lab();
    serve(&lab, "web", &["-p", "8080:80", "-p", "8080:80/udp"]);
    // An address of the host is a source that a container can answer.
    assert_eq!(
        dial(&lab, &["tcp", HOST4, "8080", HOST4]),
        format!("web sees {HOST4}|{HOST4} 8080"),
    );
    assert_eq!(
        dial(&lab, &["unconnected", HOST6, "8080", HOST6]),
        format!("web sees {HOST6}|{HOST6} 8080"),
    );
    // A loopback address is none.
    for (addr, source) in [
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        (HOST4, "127.0.0.1"),
    ] {
        assert_eq!(
            dial(&lab, &["tcp", addr, "8080", source]),
            REFUSED,
            "{addr}"
        );
        let said = dial(&lab, &["unconnected", addr, "8080", source]);
        assert_eq!(said, "TimeoutError", "{addr}");
    }
}

#[test]
fn a_port_of_loopback_is_for_the_host_alone() {
    let lab = lab();
    serve(
        &lab,
        "web",
        &["-p", "127.0.0.1:9090:80", "-p", "[::1]:9091:80"],
    );
    assert_eq!(
        dial(&lab, &["tcp", "127.0.0.1", "9090"]),
        format!("web sees {GATEWAY4}|127.0.0.1 9090"),
    );
    assert_eq!(
        dial(&lab, &["tcp", "::1", "9091"]),
        format!("web sees {GATEWAY6}|::1 9091"),
    );
    for (addr, port) in [
        (HOST4, "9090"),
        (GATEWAY4, "9090"),
        ("127.0.0.2", "9090"),
        ("::1", "9090"),
        (HOST6, "9091"),
        ("127.0.0.1", "9091"),
    ] {
        assert_eq!(dial(&lab, &["tcp", addr, port]), REFUSED, "{addr} {port}");
    }
    let client = script(&lab, "client.py");
    for (addr, port) in [(HOST4, "9090"), (HOST6, "9091")] {
        let said = outcome(lab.outside(&["python3", &client, "tcp", addr, port]));
        assert_eq!(said, REFUSED, "{addr}");
    }
}

#[test]
fn a_port_of_one_address_is_not_on_loopback() {
    let lab = lab();
    serve(&lab, "web", &["-p", &format!("{HOST4}:9090:80")]);
    assert_eq!(
        dial(&lab, &["tcp", HOST4, "9090"]),
        format!("web sees {GATEWAY4}|{HOST4} 9090"),
    );
    assert_eq!(dial(&lab, &["tcp", "127.0.0.1", "9090"]), REFUSED);
    assert_eq!(dial(&lab, &["tcp", GATEWAY4, "9090"]), REFUSED);
}

#[test]
fn what_the_host_serves_itself_is_left_alone() {
    let mut lab = lab();
    serve(&lab, "web", &["-p", "8080:80"]);
    serve_on_host(&mut lab, "host", "::", 7777);
    for addr in ["127.0.0.1", "::1", HOST4, HOST6, GATEWAY4] {
        assert_eq!(
            dial(&lab, &["tcp", addr, "7777"]),
            format!("host sees {addr}|{addr} 7777"),
        );
        assert_eq!(
            dial(&lab, &["unconnected", addr, "7777"]),
            format!("host sees {addr}|{addr} 7777"),
        );
    }
    // TCP is published, UDP is not.
    assert_eq!(dial(&lab, &["connected", "127.0.0.1", "8080"]), REFUSED);
    // A container's own address shows as itself.
    let container = lab.address("web", false);
    assert_eq!(
        dial(&lab, &["tcp", &container, "80"]),
        format!("web sees {GATEWAY4}|{container} 80"),
    );
    // And the port cannot be had by anybody else.
    let bind = "import socket; socket.socket().bind(('127.0.0.1', 8080))";
    let refused = lab.host(&["python3", "-c", bind]);
    assert!(
        refused.stderr.contains("Address already in use"),
        "{refused:?}"
    );
}

#[test]
fn sockets_of_other_namespaces_are_left_alone() {
    let mut lab = lab();
    serve(&lab, "web", &["-p", "8080:80", "-p", "8080:80/udp"]);
    lab.run("other", &["--network", "net"], &["sleep", "600"]);
    let (server, client) = (script(&lab, "server.py"), script(&lab, "client.py"));
    // Nobody serves the port on the loopback of another container, or outside.
    for addr in ["127.0.0.1", "::1"] {
        let args = ["python3", &client, "tcp", addr, "8080"];
        assert_eq!(outcome(lab.exec("other", &args)), REFUSED);
        assert_eq!(outcome(lab.exec("web", &args)), REFUSED);
        assert_eq!(outcome(lab.outside(&args)), REFUSED);
    }
    // And if somebody does, it is he who answers.
    lab.serve_outside(&["python3", &server, "outside", "::", "8080"]);
    let mut inside = lab.netpath_command(&["exec", "other", "--"]);
    inside.args(["python3", &server, "other", "::", "8080"]);
    lab.spawn(inside);
    for how in ["tcp", "unconnected"] {
        for addr in ["127.0.0.1", "::1"] {
            let args = ["python3", &client, how, addr, "8080"];
            eventually("the servers answer", || {
                outcome(lab.exec("other", &args)).contains("other sees")
                    && outcome(lab.outside(&args)).contains("outside sees")
            });
            let expected = format!("sees {addr}|{addr} 8080");
            assert_eq!(
                outcome(lab.exec("other", &args)),
                format!("other {expected}")
            );
            assert_eq!(outcome(lab.outside(&args)), format!("outside {expected}"));
        }
    }
}

#[test]
fn two_agents_of_one_machine_do_not_meet() {
    let (mut one, two) = (lab(), lab());
    serve(&one, "first", &["-p", "8080:80", "-p", "8080:80/udp"]);
    serve(&two, "second", &["-p", "8080:80", "-p", "8080:80/udp"]);
    for how in ["tcp", "unconnected"] {
        let said = dial(&one, &[how, "127.0.0.1", "8080"]);
        assert!(said.starts_with("first sees"), "{said}");
        let said = dial(&two, &[how, "127.0.0.1", "8080"]);
        assert!(said.starts_with("second sees"), "{said}");
    }
    one.purge().ok();
    assert_eq!(dial(&one, &["tcp", "127.0.0.1", "8080"]), REFUSED);
    let said = dial(&two, &["tcp", "127.0.0.1", "8080"]);
    assert!(said.starts_with("second sees"), "{said}");
}

/// Where the machine has its control groups.
fn cgroup_root() -> PathBuf {
    netpath::datapath::cgroup::find().expect("a cgroup2 filesystem")
}

fn bpftool(args: &[&str]) -> serde_json::Value {
    let mut command = Command::new("bpftool");
    command.arg("-j").args(args);
    let text = run(command).ok();
    if text.trim().is_empty() {
        // How it says that nothing is attached.
        return serde_json::json!([]);
    }
    serde_json::from_str(&text).expect("JSON of bpftool")
}

/// The link that is pinned under a name: its number and its program's.
fn link(lab: &Lab, name: &str) -> (u64, u64) {
    let pin = lab.bpffs().join("links").join(name);
    let found = bpftool(&["link", "show", "pinned", &pin.display().to_string()]);
    let number = |field: &str| found[field].as_u64().expect("a number");
    (number("id"), number("prog_id"))
}

/// The programs that are attached to a control group.
fn attached(cgroup: &Path) -> Vec<u64> {
    let found = bpftool(&["cgroup", "show", &cgroup.display().to_string()]);
    let all = found.as_array().expect("a list");
    all.iter().filter_map(|p| p["id"].as_u64()).collect()
}

const HOOKS: [&str; 8] = [
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
];

#[test]
fn host_access_outlives_the_agent_and_is_updated_in_place() {
    let mut lab = lab();
    serve(&lab, "web", &["-p", "8080:80", "-p", "8080:80/udp"]);
    let before: Vec<_> = HOOKS.iter().map(|hook| link(&lab, hook)).collect();
    lab.kill_agent();
    for how in ["tcp", "unconnected"] {
        assert_eq!(
            dial(&lab, &[how, "127.0.0.1", "8080"]),
            format!("web sees {GATEWAY4}|127.0.0.1 8080"),
        );
    }
    // A process that dials without a pause notices nothing of the restart.
    let text = r#"
import socket, time
end = time.time() + 3
while time.time() < end:
    with socket.create_connection(("127.0.0.1", 8080), 2) as s:
        assert s.recv(99), "no answer"
        assert s.getpeername() == ("127.0.0.1", 8080), s.getpeername()
"#;
    let dialling = netpath_tests::lab::start(lab.host_command(&["python3", "-c", text]));
    lab.start_agent();
    netpath_tests::lab::finish(dialling).ok();
    let programs = attached(&cgroup_root());
    for (hook, (id, program)) in HOOKS.iter().zip(before) {
        let (new_id, new_program) = link(&lab, hook);
        assert_eq!(new_id, id, "{hook} has another link");
        assert_ne!(new_program, program, "{hook} has the old program");
        assert!(programs.contains(&new_program) && !programs.contains(&program));
    }
}

#[test]
fn host_access_ends_with_the_container_and_with_the_agents_purge() {
    let mut lab = lab();
    serve(&lab, "web", &["-p", "8080:80"]);
    let programs: Vec<u64> = HOOKS.iter().map(|hook| link(&lab, hook).1).collect();
    let there = attached(&cgroup_root());
    assert!(programs.iter().all(|program| there.contains(program)));
    assert!(dial(&lab, &["tcp", "127.0.0.1", "8080"]).contains("sees"));
    lab.netpath(&["rm", "-f", "web"]).ok();
    assert_eq!(dial(&lab, &["tcp", "127.0.0.1", "8080"]), REFUSED);
    lab.purge().ok();
    assert!(!lab.bpffs().exists());
    eventually("nothing stays attached", || {
        let there = attached(&cgroup_root());
        programs.iter().all(|program| !there.contains(program))
    });
}

/// A control group of the test's own.
struct Group(PathBuf);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn host_access_can_be_limited_to_a_control_group() {
    let group = Group(cgroup_root().join(format!("np-test-{}", std::process::id())));
    fs::create_dir(&group.0).unwrap();
    let mut lab = lab();
    serve(&lab, "web", &["-p", "8080:80"]);
    assert!(dial(&lab, &["tcp", "127.0.0.1", "8080"]).contains("sees"));
    lab.stop_agent();
    lab.agent_options(&["--cgroup", &group.0.display().to_string()]);
    lab.start_agent();
    assert_eq!(dial(&lab, &["tcp", "127.0.0.1", "8080"]), REFUSED);
    let enter = format!(
        "echo $$ > {}/cgroup.procs && exec python3 {} tcp 127.0.0.1 8080",
        group.0.display(),
        script(&lab, "client.py"),
    );
    let said = outcome(lab.host(&["sh", "-c", &enter]));
    assert!(said.contains("sees"), "{said}");
    assert_eq!(attached(&group.0).len(), HOOKS.len());
}

#[test]
fn a_cgroup_that_is_none_is_refused() {
    let lab = Lab::without_agent();
    for folder in ["/proc", "/no/such/folder"] {
        let mut command = lab.agent_command();
        command.args(["--cgroup", folder]);
        let text = run(command).refused();
        assert!(text.contains(folder), "{text}");
    }
}
