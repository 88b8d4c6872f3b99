//! What `netpath explain` says, and what really becomes of such a packet.

use std::fs;

use netpath_tests::lab::{HOST4, HOST6, Lab, OUT4, OUT6, eventually};
use serde_json::Value;

/// A server of both families, TCP and UDP, that tells whom it sees: `PORT`.
const SERVER: &str = r#"
import socket, sys, threading
port = int(sys.argv[1])
def make(kind):
    s = socket.socket(socket.AF_INET6, kind)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    s.bind(("::", port))
    return s
tcp, udp = make(socket.SOCK_STREAM), make(socket.SOCK_DGRAM)
tcp.listen(16)
def seen(peer):
    return peer[0].removeprefix("::ffff:").encode()
def datagrams():
    while True:
        _, peer = udp.recvfrom(2048)
        udp.sendto(seen(peer), peer)
threading.Thread(target=datagrams, daemon=True).start()
while True:
    c, peer = tcp.accept()
    c.sendall(seen(peer))
    c.close()
"#;

/// A client: `PROTO ADDR PORT [SOURCE]`. Prints what the server says, or the error.
const CLIENT: &str = r#"
import socket, sys
proto, addr, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ":" in addr else socket.AF_INET
try:
    if proto in ("tcp", "udp"):
        s = socket.socket(family, socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM)
        s.settimeout(2)
        if len(sys.argv) > 4:
            s.bind((sys.argv[4], 0))
        s.connect((addr, port))
        if proto == "udp":
            s.send(b"x")
        print(s.recv(2048).decode())
    else:
        s = socket.socket(family, socket.SOCK_RAW, int(proto))
        s.sendto(b"x" * 16, (addr, 0))
        print("sent")
except socket.timeout:
    print("timeout")
except OSError as error:
    print(type(error).__name__)
"#;

const SUBNETS: [(&str, [&str; 2]); 2] = [
    ("net", ["10.88.0.0/24", "fd88::/64"]),
    ("red", ["10.89.0.0/24", "fd89::/64"]),
];

/// A host with two networks, three containers and a server outside.
fn lab(options: &[&str]) -> Lab {
    let mut lab = Lab::without_agent();
    lab.agent_options(options);
    lab.start_agent();
    for (name, [v4, v6]) in SUBNETS {
        lab.netpath(&["network", "create", name, "--subnet", v4, "--subnet", v6])
            .ok();
    }
    fs::write(lab.dir().join("server.py"), SERVER).unwrap();
    fs::write(lab.dir().join("client.py"), CLIENT).unwrap();
    let server = script(&lab, "server.py");
    let published = ["--network", "net", "-p", "8080:80", "-p", "8080:80/udp"];
    lab.run("web", &published, &["python3", &server, "80"]);
    lab.run("client", &["--network", "net"], &["sleep", "600"]);
    lab.run("other", &["--network", "red"], &["sleep", "600"]);
    lab.serve_outside(&["python3", &server, "9000"]);
    for subnet in ["10.88.0.0/24", "10.89.0.0/24"] {
        lab.outside(&["ip", "route", "add", subnet, "via", HOST4])
            .ok();
    }
    for subnet in ["fd88::/64", "fd89::/64"] {
        lab.outside(&["ip", "-6", "route", "add", subnet, "via", HOST6])
            .ok();
    }
    for route in ["198.51.100.0/24", "2001:db8:dead::/48"] {
        lab.host(&["ip", "route", "add", "unreachable", route]).ok();
    }
    for addr in ["127.0.0.1", "::1"] {
        eventually("the container serves", || {
            real(&lab, "web", &["tcp", addr, "80"]) == addr
        });
    }
    for (addr, own) in [(OUT4, HOST4), (OUT6, HOST6)] {
        eventually("the outside serves", || {
            real(&lab, "host", &["tcp", addr, "9000"]) == own
        });
    }
    lab
}

fn script(lab: &Lab, name: &str) -> String {
    lab.dir().join(name).display().to_string()
}

/// What the client says, run by a container, the host or the outside machine.
fn real(lab: &Lab, from: &str, args: &[&str]) -> String {
    let client = script(lab, "client.py");
    let mut all = vec!["python3", &client];
    all.extend(args);
    let ran = match from {
        "host" => lab.host(&all),
        OUT4 | OUT6 => lab.outside(&all),
        container => lab.exec(container, &all),
    };
    ran.ok().trim().to_owned()
}

fn explain(lab: &Lab, args: &[&str]) -> Value {
    let mut all = vec!["explain"];
    all.extend(args);
    lab.json(&all)
}

/// Packets dropped for a reason, at any hook.
fn drops(lab: &Lab, reason: &str) -> u64 {
    let rows = lab.json(&["drops"]);
    let rows = rows.as_array().unwrap().iter();
    rows.filter(|row| row["reason"] == reason)
        .map(|row| row["packets"].as_u64().unwrap())
        .sum()
}

/// Asserts what is said of `tcp` or another protocol, without anything being changed by it;
/// then has the real packet sent, and asserts that the same becomes of it.
fn holds(lab: &Lab, from: &str, to: &str, proto: &str, verdict: &str) -> Value {
    let before = (lab.json(&["flows"]), lab.json(&["drops"]));
    let answer = explain(lab, &[from, to, proto]);
    let case = format!("{from} -> {to} {proto}: {answer:#}");
    let after = (lab.json(&["flows"]), lab.json(&["drops"]));
    let flows = |all: &Value| all.as_array().map(Vec::len);
    assert!(
        flows(&after.0) <= flows(&before.0),
        "a flow was made: {case}"
    );
    assert!(!answer["steps"].as_array().unwrap().is_empty(), "{case}");
    let (word, port) = proto.split_once(':').unwrap_or((proto, "0"));
    let expected = verdict.split(' ').next().unwrap();
    assert_eq!(answer["verdict"], expected, "{case}");
    match verdict.split_once(' ') {
        Some(("dropped", reason)) => {
            assert_eq!(answer["reason"], reason, "{case}");
            let before = drops(lab, reason);
            let said = real(lab, from, &[word, to, port]);
            assert!(["timeout", "sent"].contains(&&*said), "{said}: {case}");
            assert!(drops(lab, reason) > before, "not dropped: {case}");
        }
        Some(("delivered", container)) => {
            assert_eq!(answer["to_container"], container, "{case}");
            assert!(
                !real(lab, from, &[word, to, port]).contains("Error"),
                "{case}"
            );
        }
        _ => {
            let said = real(lab, from, &[word, to, port]);
            let refused = said == "ConnectionRefusedError";
            // Nobody listens at the ports of the host that are asked for here.
            let host = expected == "host" && from != "host";
            assert_eq!(refused, host, "{said}: {case}");
            assert_ne!(said, "timeout", "{case}");
        }
    }
    answer
}

#[test]
fn what_is_explained_is_what_happens() {
    let lab = lab(&[]);
    for (out, host, loopback, unrouted, v6) in [
        (OUT4, HOST4, "127.0.0.1", "198.51.100.9", false),
        (OUT6, HOST6, "::1", "2001:db8:dead::9", true),
    ] {
        let [web, other] = ["web", "other"].map(|name| lab.address(name, v6));
        holds(&lab, "client", &web, "tcp:80", "delivered web");
        holds(&lab, "client", &web, "udp:80", "delivered web");
        holds(&lab, "client", &other, "tcp:80", "dropped other_network");
        let sent = holds(&lab, "client", out, "tcp:9000", "sent");
        let seen = real(&lab, "client", &["tcp", out, "9000"]);
        let source = sent["translated_source"].as_str().unwrap();
        assert!(
            source.trim_start_matches('[').starts_with(&seen),
            "{seen} {source}"
        );
        holds(&lab, "client", out, "udp:9000", "sent");
        holds(&lab, "client", out, "47", "dropped unsupported_protocol");
        holds(&lab, "client", unrouted, "tcp:80", "dropped no_route");
        holds(&lab, "client", host, "tcp:8080", "delivered web");
        holds(&lab, "web", host, "tcp:8080", "delivered web");
        holds(&lab, "other", host, "tcp:8080", "delivered web");
        holds(&lab, "client", host, "tcp:7777", "host");
        holds(&lab, out, host, "tcp:8080", "delivered web");
        holds(&lab, out, host, "udp:8080", "delivered web");
        holds(&lab, out, host, "tcp:7777", "host");
        holds(&lab, out, &web, "tcp:80", "dropped direct_routing");
        let own = holds(&lab, "host", loopback, "tcp:8080", "delivered web");
        assert!(own["translated_destination"].is_string(), "{own}");
        holds(&lab, "host", loopback, "udp:8080", "delivered web");
        holds(&lab, "host", host, "tcp:8080", "delivered web");
        let bound = ["host", loopback, "tcp:8080", "--source", loopback];
        assert_eq!(explain(&lab, &bound)["verdict"], "host");
        let said = real(&lab, "host", &["tcp", loopback, "8080", loopback]);
        assert_eq!(said, "ConnectionRefusedError");
        assert_eq!(explain(&lab, &["client", out, "icmp"])["verdict"], "sent");
        assert_eq!(
            explain(&lab, &["client", out, "sctp:9000"])["verdict"],
            "sent"
        );
        lab.exec("client", &["ping", "-c", "1", "-W", "5", out])
            .ok();
        holds(&lab, "host", &web, "tcp:80", "delivered web");
        holds(&lab, "host", out, "tcp:9000", "host");
    }
}

#[test]
fn spoofed_and_denied_sources_are_explained() {
    let lab = lab(&[]);
    for (out, host, foreign) in [(OUT4, HOST4, "10.99.9.9"), (OUT6, HOST6, "fd99::9")] {
        let answer = explain(&lab, &["client", out, "tcp:9000", "--source", foreign]);
        assert_eq!(answer["reason"], "spoofed_source", "{answer}");
        lab.exec("client", &["ip", "addr", "add", foreign, "dev", "lo"])
            .ok();
        let before = drops(&lab, "spoofed_source");
        assert_eq!(
            real(&lab, "client", &["tcp", out, "9000", foreign]),
            "timeout"
        );
        assert!(drops(&lab, "spoofed_source") > before);

        assert!(explain(&lab, &["client", out, "tcp:9000"])["warnings"] == serde_json::json!([]));
        // The outside machine is the way to all others.
        lab.netpath(&["deny", "add", "--force", out]).ok();
        holds(&lab, out, host, "tcp:8080", "dropped denied_source");
        let answer = explain(&lab, &["client", out, "tcp:9000"]);
        let warning = answer["warnings"][0].as_str().unwrap();
        assert!(warning.contains(out), "{answer}");
        assert_eq!(real(&lab, "client", &["tcp", out, "9000"]), "timeout");
        lab.netpath(&["deny", "rm", out]).ok();
        holds(&lab, out, host, "tcp:8080", "delivered web");
    }
}

#[test]
fn a_known_flow_is_explained() {
    let lab = lab(&[]);
    let answer = explain(&lab, &["client", OUT4, "udp:9000", "--source-port", "5555"]);
    let text = answer["steps"].to_string();
    assert!(text.contains("a new flow, masqueraded"), "{answer}");
    let send = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); \
                s.bind(('', 5555)); s.sendto(b'x', ('192.0.2.2', 9000)); s.recv(99)";
    lab.exec("client", &["python3", "-c", send]).ok();
    let flow = lab.json(&["flows"])[0].clone();
    let answer = explain(&lab, &["client", OUT4, "udp:9000", "--source-port", "5555"]);
    assert!(
        answer["steps"].to_string().contains("a known flow"),
        "{answer}"
    );
    assert_eq!(answer["translated_source"], flow["translated_source"]);
    assert_eq!(lab.json(&["flows"])[0]["packets"], flow["packets"]);
    // What never leaves the container.
    let own = lab.address("client", false);
    for dst in ["127.0.0.1", &own] {
        assert_eq!(
            explain(&lab, &["client", dst, "tcp:80"])["verdict"],
            "local"
        );
    }
    // For people.
    let text = lab.netpath(&["explain", "client", "other", "tcp:80"]).ok();
    assert!(text.contains("verdict: dropped (other_network)"), "{text}");
    assert!(text.contains("way out: publish"), "{text}");
}

#[test]
fn senseless_questions_are_refused() {
    let lab = lab(&[]);
    for (args, part) in [
        (&["nobody", OUT4, "tcp:80"][..], "nobody"),
        (&["client", "nowhere", "tcp:80"], "nowhere"),
        (&["client", OUT4, "tcp"], "tcp:80"),
        (&["client", OUT4, "tcp:0"], "\"0\""),
        (&["client", OUT4, "tcp:99999"], "99999"),
        (&["client", OUT4, "icmp:8"], "icmp"),
        (&["client", OUT4, "gre"], "gre"),
        (&[HOST6, OUT4, "tcp:80"], "family"),
        (&["client", OUT4, "tcp:80", "--source", OUT6], "family"),
        (&["client", OUT4], "PROTO"),
    ] {
        let mut all = vec!["explain"];
        all.extend(args);
        let sentence = lab.netpath(&all).refused();
        assert!(sentence.contains(part), "{args:?}: {sentence}");
    }
}

#[test]
fn policies_of_networks_are_explained() {
    let lab = lab(&[]);
    for (name, number, option) in [
        ("closed", 90, "--internal"),
        ("quiet", 91, "--opt=icc=false"),
        ("open", 92, "--opt=gateway_mode_ipv4=routed"),
    ] {
        let subnet = format!("10.{number}.0.0/24");
        lab.netpath(&["network", "create", name, "--subnet", &subnet, option])
            .ok();
        lab.outside(&["ip", "route", "add", &subnet, "via", HOST4])
            .ok();
    }
    let server = script(&lab, "server.py");
    for (name, network) in [
        ("shut", "closed"),
        ("q1", "quiet"),
        ("q2", "quiet"),
        ("reachable", "open"),
    ] {
        let mut options = vec!["--network", network];
        if name == "reachable" {
            options.extend(["-p", "8090:80"]);
        }
        lab.run(name, &options, &["python3", &server, "80"]);
        eventually("the container serves", || {
            real(&lab, name, &["tcp", "127.0.0.1", "80"]) == "127.0.0.1"
        });
    }
    let [q2, reachable, shut] = ["q2", "reachable", "shut"].map(|name| lab.address(name, false));
    holds(&lab, "q1", &q2, "tcp:80", "dropped icc_off");
    // It has no way out by itself.
    let way = ["ip", "route", "add", "default", "via", "10.90.0.1"];
    lab.exec("shut", &way).ok();
    holds(&lab, "shut", OUT4, "tcp:9000", "dropped internal_network");
    holds(&lab, "client", &shut, "tcp:80", "dropped internal_network");
    holds(&lab, OUT4, &reachable, "tcp:80", "delivered reachable");
    holds(&lab, OUT4, &reachable, "tcp:81", "dropped not_published");
    let sent = holds(&lab, "reachable", OUT4, "tcp:9000", "sent");
    assert!(sent["translated_source"].is_null(), "{sent}");
    assert_eq!(real(&lab, "reachable", &["tcp", OUT4, "9000"]), reachable);
    let text = sent["steps"].to_string();
    assert!(text.contains("gateway mode routed"), "{sent}");
}
