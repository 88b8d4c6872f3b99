//! Requests that no Docker sends.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use netpath_tests::fuzz::Random;
use netpath_tests::lab::Lab;
use netpath_tests::plugin::{answer, call, connect, request, send};
use serde_json::Value;

use super::{devices, id, new_endpoint, new_network, of, rows, with_ports};

/// Methods whose requests say something.
const METHODS: [&str; 14] = [
    "GwAllocCheck",
    "CreateNetwork",
    "DeleteNetwork",
    "CreateEndpoint",
    "EndpointOperInfo",
    "DeleteEndpoint",
    "Join",
    "Leave",
    "ProgramExternalConnectivity",
    "RevokeExternalConnectivity",
    "AllocateNetwork",
    "FreeNetwork",
    "DiscoverNew",
    "DiscoverDelete",
];
/// Those whose request may be anything that is JSON: nobody reads it.
const UNREAD: [&str; 4] = [
    "AllocateNetwork",
    "FreeNetwork",
    "DiscoverNew",
    "DiscoverDelete",
];

fn path(method: &str) -> String {
    format!("/NetworkDriver.{method}")
}

/// Sends something that must be refused, quickly.
#[track_caller]
fn refuse(lab: &Lab, path: &str, body: &[u8]) {
    let began = Instant::now();
    let (status, answer) = send(lab, path, body);
    let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
    assert!(
        (400..500).contains(&status),
        "{path} {shown}: {status} {answer}"
    );
    let sentence = answer["Err"].as_str().unwrap_or_default();
    assert!(!sentence.is_empty(), "{path} {shown}: {answer}");
    assert!(began.elapsed() < Duration::from_secs(15), "{path} {shown}");
}

#[track_caller]
fn nothing_was_made(lab: &Lab) {
    for listing in [
        &["ps"][..],
        &["ports"],
        &["endpoints"],
        &["network", "ls", "--filter", "type=custom"],
    ] {
        assert_eq!(rows(lab, listing), 0, "{listing:?}");
    }
    assert_eq!(devices(lab), [""; 0]);
    assert!(!lab.agent_log().contains("panicked"), "{}", lab.agent_log());
}

#[test]
fn what_is_no_request_is_refused_and_makes_nothing() {
    let lab = Lab::new();
    let whole = new_network(&id("ab"), "10.7.0", false).to_string();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let broken: [&[u8]; 8] = [
        b"",
        b"{",
        b"nonsense",
        b"\0\xff\xfe",
        b"{\"NetworkID\":\"ab\"",
        b"{\"NetworkID\":\"\xff\"}",
        &whole.as_bytes()[..whole.len() - 1],
        deep.as_bytes(),
    ];
    // JSON, but not what is asked for.
    let wrong = [
        "null",
        "[]",
        "7",
        "\"x\"",
        r#"{"NetworkID":7}"#,
        r#"{"NetworkID":["ab"],"EndpointID":"cd"}"#,
        r#"{"NetworkID":"ab","EndpointID":"cd","Options":7}"#,
        r#"{"NetworkID":"ab","EndpointID":"cd","Options":[]}"#,
    ];
    for method in METHODS {
        for body in broken {
            refuse(&lab, &path(method), body);
        }
        for body in wrong.iter().filter(|_| !UNREAD.contains(&method)) {
            refuse(&lab, &path(method), body.as_bytes());
        }
    }
    for void in ["/Plugin.Activate", "/NetworkDriver.GetCapabilities"] {
        refuse(&lab, void, b"{");
        assert_eq!(send(&lab, void, b"").0, 200);
    }
    // Numbers that would be paths, or none at all.
    for wrong in [
        "",
        "../../../tmp/x",
        "a/b",
        "a b",
        "\n",
        "é",
        &"a".repeat(65),
    ] {
        refuse(
            &lab,
            &path("CreateNetwork"),
            new_network(wrong, "10.7.0", false).to_string().as_bytes(),
        );
        for method in ["CreateEndpoint", "DeleteEndpoint", "Join", "Leave"] {
            let body = new_endpoint(&id("ab"), wrong, "10.7.0.2/24");
            refuse(&lab, &path(method), body.to_string().as_bytes());
        }
    }
    for unknown in [
        "/",
        "/Plugin.",
        "/Plugin.Deactivate",
        "/Plugin.Activate/",
        "/NetworkDriver.",
        "/NetworkDriver.Fly",
        "/IpamDriver.RequestPool",
        "/v1/status",
    ] {
        refuse(&lab, unknown, b"{}");
    }
    let mut stream = connect(&lab);
    stream
        .write_all(&request("GET", &path("CreateNetwork"), b"{}"))
        .unwrap();
    assert_eq!(answer(stream).0, 405);
    nothing_was_made(&lab);
}

#[test]
fn damaged_requests_do_no_harm() {
    let lab = Lab::new();
    let (network, endpoint) = (id("ab"), id("cd"));
    let whole = [
        ("CreateNetwork", new_network(&network, "10.7.0", false)),
        (
            "CreateEndpoint",
            new_endpoint(&network, &endpoint, "10.7.0.2/24"),
        ),
        ("Join", of(&network, &endpoint)),
        (
            "ProgramExternalConnectivity",
            with_ports(&network, &endpoint, &[(8080, 80)]),
        ),
        ("RevokeExternalConnectivity", of(&network, &endpoint)),
        ("Leave", of(&network, &endpoint)),
        ("DeleteEndpoint", of(&network, &endpoint)),
        ("DeleteNetwork", of(&network, &endpoint)),
    ];
    let mut random = Random::new(7);
    for _ in 0..60 {
        for (method, body) in &whole {
            let mut body = body.to_string().into_bytes();
            for _ in 0..=random.below(3) {
                let at = random.below(body.len());
                match random.below(4) {
                    0 => body[at] = random.below(256) as u8,
                    1 => drop(body.remove(at)),
                    2 => body.insert(at, b"\"{}[]:,0e-\\"[random.below(11)]),
                    _ => body.truncate(at.max(1)),
                }
            }
            let (status, answer) = send(&lab, &path(method), &body);
            let shown = String::from_utf8_lossy(&body);
            assert!(
                status == 200 || (400..500).contains(&status),
                "{method} {shown}: {status} {answer}"
            );
            assert_ne!(status, 404);
        }
    }
    // What is whole still works; Docker's cleaning up is enough to be rid of all that was made.
    let left: Vec<Value> = lab
        .json(&["network", "ls", "--filter", "type=custom"])
        .as_array()
        .cloned()
        .unwrap();
    for network in left {
        let id = network["docker"]["id"]
            .as_str()
            .expect("Docker's")
            .to_owned();
        call(&lab, "DeleteNetwork", &of(&id, ""));
    }
    for (method, body) in &whole {
        call(&lab, method, body);
    }
    nothing_was_made(&lab);
}

#[test]
fn what_is_no_http_is_refused_or_hung_up_on() {
    let lab = Lab::new();
    let paths = ["/Plugin.Activate", "/NetworkDriver.CreateNetwork"];
    let head = |path: &str, rest: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n{rest}").into_bytes()
    };
    let mut random = Random::new(8);
    let mut all: Vec<Vec<u8>> = vec![
        b"\r\n\r\n".to_vec(),
        b"GARBAGE\r\n\r\n".to_vec(),
        vec![0xff; 5000],
        vec![b'A'; 1 << 20],
        (0..4000).map(|_| random.below(256) as u8).collect(),
    ];
    for path in paths {
        all.extend([
            head(path, "Content-Length: -1\r\n\r\n{}"),
            head(path, "Content-Length: 99999999999999999999\r\n\r\n{}"),
            head(path, "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x"),
            head(path, "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n"),
            head(path, "Transfer-Encoding: chunked\r\n\r\n2\r\n{"),
            head(path, "Content-Length: 50\r\n\r\n{"),
            head(path, &format!("X: {}\r\n\r\n", "y".repeat(1 << 20))),
            head(path, &"X: y\r\n".repeat(5000)),
        ]);
    }
    for bytes in all {
        let began = Instant::now();
        let mut stream = connect(&lab);
        // It may hang up before it has read all of it.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        let said = String::from_utf8_lossy(&said);
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
        assert!(
            said.is_empty() || said.starts_with("HTTP/1.1 4"),
            "{shown}: {said}"
        );
        assert!(began.elapsed() < Duration::from_secs(15), "{shown}");
    }
    // What is too long is not read to its end.
    let mut stream = connect(&lab);
    let long = head(paths[1], "Content-Length: 1000000000\r\n\r\n");
    stream.write_all(&long).expect("a head");
    let began = Instant::now();
    while stream.write_all(&[b' '; 1 << 16]).is_ok() {
        assert!(began.elapsed() < Duration::from_secs(15));
    }
    nothing_was_made(&lab);
    assert_eq!(send(&lab, paths[0], b"").0, 200);
}

#[test]
fn whoever_says_nothing_is_told_so_and_holds_up_nobody() {
    let lab = Lab::new();
    let mut slow = connect(&lab);
    let whole = request("POST", &path("CreateNetwork"), &[b' '; 100]);
    slow.write_all(&whole[..whole.len() - 50]).unwrap();
    let began = Instant::now();
    let network = id("ab");
    call(
        &lab,
        "CreateNetwork",
        &new_network(&network, "10.7.0", false),
    );
    call(&lab, "DeleteNetwork", &of(&network, ""));
    assert!(began.elapsed() < Duration::from_secs(10));
    let (status, said) = answer(slow);
    assert_eq!(status, 503, "{said}");
    nothing_was_made(&lab);
}
