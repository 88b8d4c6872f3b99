//! Calls of a Docker that is not there: the requests that it would send to its network driver.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;

use crate::lab::Lab;

/// Longer than the driver takes for anything.
const PATIENCE: Duration = Duration::from_secs(40);

/// A connection to a laboratory's driver.
#[track_caller]
pub fn connect(lab: &Lab) -> UnixStream {
    let socket = lab.dir().join("run/docker.sock");
    let stream = UnixStream::connect(&socket).expect("the driver listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    stream
}

/// The bytes of a request.
pub fn request(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    // Docker names no type of what it sends.
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\
         Accept: application/vnd.docker.plugins.v1.2+json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Status and body of the answer that comes on a connection.
#[track_caller]
pub fn answer(mut stream: UnixStream) -> (u16, Value) {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).expect("an answer in time");
    let text = String::from_utf8(text).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").expect("an answer of HTTP");
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    let body = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {text}"));
    (status.expect("a status"), body)
}

/// Sends any bytes as the body of a request; status and body of the answer.
#[track_caller]
pub fn send(lab: &Lab, path: &str, body: &[u8]) -> (u16, Value) {
    let mut stream = connect(lab);
    stream
        .write_all(&request("POST", path, body))
        .expect("a request");
    answer(stream)
}

/// Calls a method that must succeed.
#[track_caller]
pub fn call(lab: &Lab, method: &str, body: &Value) -> Value {
    let (status, answer) = send(lab, &path(method), body.to_string().as_bytes());
    assert_eq!(status, 200, "{method} {body}: {answer}");
    assert!(answer.get("Err").is_none(), "{method}: {answer}");
    answer
}

/// Calls a method that must fail; the sentence.
#[track_caller]
pub fn refused(lab: &Lab, method: &str, body: &Value) -> String {
    let (status, answer) = send(lab, &path(method), body.to_string().as_bytes());
    assert!(
        status >= 400 && status != 404,
        "{method} {body}: {status} {answer}"
    );
    assert_eq!(answer["Err"], answer["Error"]);
    let sentence = answer["Err"].as_str().expect("a sentence");
    assert!(
        !sentence.is_empty() && !sentence.contains("panicked"),
        "{answer}"
    );
    sentence.to_owned()
}

fn path(method: &str) -> String {
    match method {
        "Activate" => "/Plugin.Activate".into(),
        method => format!("/NetworkDriver.{method}"),
    }
}
