//! The client of the API.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::types::ErrorBody;
use crate::problem::not_found;

/// How long the agent may take for an answer, unless it was asked to wait for something.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client of one agent. Calls block; each opens a connection of its own.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    patience: Duration,
}

impl Client {
    /// The agent that listens on `socket`.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            patience: PATIENCE,
        }
    }

    /// Waits `more` seconds longer for answers.
    pub fn with_more_patience(mut self, more: u32) -> Self {
        self.patience += Duration::from_secs(more.into());
        self
    }

    /// Waits so long for answers.
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The agent's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `GET`
    ///
    /// # Errors
    /// The agent's sentence, or that it is not there.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(Method::GET, path, Bytes::new())
    }

    /// `DELETE`
    ///
    /// # Errors
    /// The agent's sentence, or that it is not there.
    pub fn delete(&self, path: &str) -> Result<()> {
        self.call(Method::DELETE, path, Bytes::new())
            .map(|_: serde_json::Value| ())
    }

    /// `POST`
    ///
    /// # Errors
    /// The agent's sentence, or that it is not there.
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.call(Method::POST, path, serde_json::to_vec(body)?.into())
    }

    /// `GET` of an answer that has no end: calls `begun` when it begins, and `each` with each
    /// of its lines, until that says false. Ctrl-C ends it, too.
    ///
    /// # Errors
    /// The agent's sentence, that it is not there or went away, or `each`'s own.
    pub fn follow(
        &self,
        path: &str,
        begun: impl FnOnce(),
        mut each: impl FnMut(&str) -> Result<bool>,
    ) -> Result<()> {
        let runtime = runtime()?;
        runtime.block_on(async {
            let ended = tokio::signal::ctrl_c();
            let lines = async {
                let response = tokio::time::timeout(
                    self.patience,
                    self.request(Method::GET, path, Bytes::new()),
                )
                .await
                .unwrap_or_else(|_| Err(self.silent()))?;
                let status = response.status();
                let mut body = response.into_body();
                if !status.is_success() {
                    let body = body.collect().await.context(LOST)?.to_bytes();
                    return Err(refusal(status, &body));
                }
                begun();
                let mut rest = Vec::new();
                while let Some(frame) = body.frame().await {
                    let Ok(data) = frame.context(LOST)?.into_data() else {
                        continue;
                    };
                    rest.extend_from_slice(&data);
                    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                        let line: Vec<u8> = rest.drain(..=end).collect();
                        if !each(String::from_utf8_lossy(&line).trim_end())? {
                            return Ok(());
                        }
                    }
                }
                Err(anyhow!(LOST))
            };
            tokio::select! {
                _ = ended => Ok(()),
                result = lines => result,
            }
        })
    }

    fn silent(&self) -> anyhow::Error {
        anyhow!(
            "the agent at {} did not answer within {} s",
            self.socket.display(),
            self.patience.as_secs()
        )
    }

    fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T> {
        let runtime = runtime()?;
        let answer = async {
            tokio::time::timeout(self.patience, self.exchange(method, path, body))
                .await
                .unwrap_or_else(|_| Err(self.silent()))
        };
        let (status, body) = runtime.block_on(answer)?;
        if status.is_success() {
            let body: &[u8] = if body.is_empty() { b"null" } else { &body };
            return serde_json::from_slice(body)
                .context("the agent's answer cannot be understood, is it of another version?");
        }
        Err(refusal(status, &body))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes)> {
        let response = self.request(method, path, body).await?;
        let status = response.status();
        let body = response.into_body().collect().await.context(LOST)?;
        Ok((status, body.to_bytes()))
    }

    async fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| {
            anyhow!(
                "cannot reach the agent at {}: {}; start it with \"netpath agent\"",
                self.socket.display(),
                sentence(&error)
            )
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .context(LOST)?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "netpath")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .context("the request cannot be made")?;
        sender.send_request(request).await.context(LOST)
    }
}

const LOST: &str = "the agent closed the connection";

/// One thread: commands that go into a mount namespace must not have another.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")
}

/// The agent's sentence.
fn refusal(status: StatusCode, body: &[u8]) -> anyhow::Error {
    match serde_json::from_slice::<ErrorBody>(body) {
        // So that the caller can tell what is gone from what is wrong.
        Ok(body) if status == StatusCode::NOT_FOUND => not_found(body.error),
        Ok(body) => anyhow!(body.error),
        Err(_) => anyhow!("the agent answered with status {status}"),
    }
}

/// The kernel's words for an error, as they stand inside a sentence.
fn sentence(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such socket".into(),
        std::io::ErrorKind::ConnectionRefused => "nobody listens there".into(),
        std::io::ErrorKind::PermissionDenied => {
            "permission denied, be root or in the group netpath".into()
        }
        _ => error.to_string(),
    }
}
