//! The process of a container of Docker's, asked of its daemon.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::container::process;
use crate::problem::{conflict, invalid, not_found};

/// Where the daemon listens unless DOCKER_HOST says otherwise.
const SOCKET: &str = "/var/run/docker.sock";
const PATIENCE: Duration = Duration::from_secs(10);

/// The daemon's socket. Daemons on other machines have no containers here.
///
/// # Errors
/// `DOCKER_HOST` names no socket of this machine.
pub fn socket(docker_host: Option<&str>) -> Result<PathBuf> {
    match docker_host.filter(|host| !host.is_empty()) {
        None => Ok(SOCKET.into()),
        Some(host) => match host.strip_prefix("unix://") {
            Some(path) => Ok(path.into()),
            None => Err(invalid(format!(
                "DOCKER_HOST is {}, but only containers of this machine can be attached; name a \
                 socket with unix://",
                host.escape_debug()
            ))),
        },
    }
}

/// The first process of a container that runs, by its number here. `None`: no daemon is there.
///
/// # Errors
/// A sentence: there is no such container, it does not run, or the daemon does not say.
pub async fn find(socket: &Path, name: &str) -> Result<Option<u32>> {
    let Ok(stream) = UnixStream::connect(socket).await else {
        return Ok(None);
    };
    // Under socket activation that is the service manager, which counts processes as we do.
    let daemon = stream.peer_cred().ok().and_then(|peer| peer.pid());
    let daemon = daemon.and_then(|pid| u32::try_from(pid).ok());
    let asked = tokio::time::timeout(PATIENCE, ask(stream, name));
    let (status, body) = asked
        .await
        .unwrap_or_else(|_| Err(anyhow!("it does not answer")))
        .with_context(|| format!("cannot ask the Docker daemon at {}", socket.display()))?;
    match status {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => {
            return Err(not_found(format!(
                "neither netpath nor Docker has a container {name}"
            )));
        }
        other => {
            return Err(anyhow!(
                "the Docker daemon at {} answered with status {other}",
                socket.display()
            ));
        }
    }
    let container: serde_json::Value =
        serde_json::from_slice(&body).context("the Docker daemon's answer is no JSON")?;
    let pid = container["State"]["Pid"].as_u64().unwrap_or(0);
    let pid = u32::try_from(pid).ok().filter(|pid| *pid != 0);
    let pid = pid.ok_or_else(|| {
        conflict(format!(
            "container {name} of Docker's does not run, start it first"
        ))
    })?;
    // A daemon in a container counts its own processes: its number may be anybody's here.
    let here = daemon.and_then(|daemon| process::seen_from(daemon, pid));
    here.map(Some).ok_or_else(|| {
        conflict(format!(
            "the Docker daemon at {} says that container {name} is process {pid}, which it is not \
             here; name it by its number here with --pid, or its namespace with --netns",
            socket.display()
        ))
    })
}

async fn ask(stream: UnixStream, name: &str) -> Result<(StatusCode, Bytes)> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .uri(format!("/containers/{name}/json"))
        .header("host", "docker")
        .body(Full::new(Bytes::new()))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_is_on_this_machine() {
        assert_eq!(socket(None).unwrap(), Path::new(SOCKET));
        assert_eq!(socket(Some("")).unwrap(), Path::new(SOCKET));
        assert_eq!(
            socket(Some("unix:///x/y.sock")).unwrap(),
            Path::new("/x/y.sock")
        );
        assert!(socket(Some("tcp://10.0.0.1:2375")).is_err());
    }
}
