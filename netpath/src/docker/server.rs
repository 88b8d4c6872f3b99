//! The socket that Docker calls.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::net::UnixListener;

use super::wire::{CreateNetwork, Endpoint};
use crate::agent::Agent;
use crate::problem::{invalid, kind_of};

/// Docker waits for ever, and whoever talks to Docker with it. Nothing here takes longer than
/// a second, unless something is wrong with the host.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest request in bytes; a container with all ports published needs some 7 MB.
const LONGEST_REQUEST: usize = 16 << 20;
/// Docker's version of the protocol.
const CONTENT_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// Serves Docker until the task is dropped.
///
/// # Errors
/// The socket failed.
pub async fn serve(listener: UnixListener, agent: Arc<Agent>) -> Result<()> {
    let router = Router::new().fallback(handle).with_state(agent);
    let service = router.into_make_service_with_connect_info::<Caller>();
    axum::serve(listener, service).await?;
    Ok(())
}

/// Who calls.
#[derive(Clone, Copy, Debug)]
struct Caller {
    /// Number of its process.
    pid: Option<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let pid = stream.io().peer_cred().ok().and_then(|cred| cred.pid());
        Self {
            pid: pid.and_then(|pid| pid.try_into().ok()),
        }
    }
}

/// An error as Docker wants it.
struct Failure(StatusCode, String);

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        // Never 404: to Docker that means that the driver has no such method.
        let status = match kind_of(&error) {
            Some(_) => StatusCode::BAD_REQUEST,
            None => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, format!("{error:#}"))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        // Network drivers say `Err`, other kinds of plugins `Error`.
        let body = json!({ "Err": self.1, "Error": self.1 });
        reply(self.0, &body)
    }
}

fn reply(status: StatusCode, body: &Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    let content_type = header::HeaderValue::from_static(CONTENT_TYPE);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}

async fn handle(
    State(agent): State<Arc<Agent>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    request: Request,
) -> Response {
    let path = request.uri().path().to_owned();
    let answer = tokio::time::timeout(PATIENCE, answer(agent, caller, &path, request)).await;
    match answer {
        Ok(Ok(body)) => {
            log::debug!("Docker: {path} is answered {body}");
            reply(StatusCode::OK, &body)
        }
        Ok(Err(failure)) => {
            log::warn!("Docker: {path}: {}", failure.1);
            failure.into_response()
        }
        Err(_) => {
            log::error!("Docker: {path} is not done after {} s", PATIENCE.as_secs());
            let sentence = format!(
                "netpath did not do this within {} s, see the log of its agent",
                PATIENCE.as_secs()
            );
            Failure(StatusCode::SERVICE_UNAVAILABLE, sentence).into_response()
        }
    }
}

async fn answer(
    agent: Arc<Agent>,
    caller: Caller,
    path: &str,
    request: Request,
) -> Result<Value, Failure> {
    if request.method() != Method::POST {
        return Err(Failure(
            StatusCode::METHOD_NOT_ALLOWED,
            "a plugin is called by POST".into(),
        ));
    }
    let body = to_bytes(request.into_body(), LONGEST_REQUEST).await;
    let body = body.map_err(|error| {
        Failure(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!(
                "the request cannot be read, or is longer than {LONGEST_REQUEST} bytes: {error}"
            ),
        )
    })?;
    log::debug!("Docker: {path} {}", String::from_utf8_lossy(&body));
    let empty = || Value::Object(Map::new());
    Ok(match path {
        "/Plugin.Activate" => {
            check_empty(&body)?;
            json!({ "Implements": ["NetworkDriver"] })
        }
        "/NetworkDriver.GetCapabilities" => {
            check_empty(&body)?;
            json!({ "Scope": "local", "ConnectivityScope": "local", "GwAllocChecker": true })
        }
        "/NetworkDriver.GwAllocCheck" => {
            let (v4, v6) = agent.docker_gateways(&read_object(&body)?)?;
            json!({ "SkipIPv4": !v4, "SkipIPv6": !v6 })
        }
        "/NetworkDriver.CreateNetwork" => {
            let new: CreateNetwork = read_object(&body)?;
            to_the_end(async move { agent.docker_create_network(&new).await }).await?;
            empty()
        }
        "/NetworkDriver.DeleteNetwork" => {
            let of: Endpoint = read_object(&body)?;
            to_the_end(async move { agent.docker_delete_network(&of).await }).await?;
            empty()
        }
        "/NetworkDriver.CreateEndpoint" => create_endpoint(agent, read_object(&body)?).await?,
        "/NetworkDriver.EndpointOperInfo" => {
            // Whatever is said here, Docker shows none of it, and an error fails `docker run`.
            let _: Endpoint = read_object(&body)?;
            json!({ "Value": {} })
        }
        "/NetworkDriver.Join" => {
            let of: Endpoint = read_object(&body)?;
            let (joins, id) = (agent.clone(), of.endpoint.clone());
            let answer =
                to_the_end(async move { joins.docker_join(&of, caller.pid).await }).await?;
            agent.docker_settle(id);
            answer
        }
        "/NetworkDriver.Leave" | "/NetworkDriver.RevokeExternalConnectivity" => {
            let of: Endpoint = read_object(&body)?;
            to_the_end(async move { agent.docker_revoke(&of).await }).await?;
            empty()
        }
        "/NetworkDriver.DeleteEndpoint" => {
            let of: Endpoint = read_object(&body)?;
            to_the_end(async move { agent.docker_delete_endpoint(&of).await }).await?;
            empty()
        }
        "/NetworkDriver.ProgramExternalConnectivity" => {
            let of: Endpoint = read_object(&body)?;
            to_the_end(async move { agent.docker_program(&of).await }).await?;
            empty()
        }
        // Swarm's, for drivers of more than one host.
        "/NetworkDriver.AllocateNetwork" => {
            let _: Value = read(&body)?;
            json!({ "Options": {} })
        }
        "/NetworkDriver.FreeNetwork"
        | "/NetworkDriver.DiscoverNew"
        | "/NetworkDriver.DiscoverDelete" => {
            let _: Value = read(&body)?;
            empty()
        }
        _ => {
            return Err(Failure(
                StatusCode::NOT_FOUND,
                "netpath's network driver has no such method".into(),
            ));
        }
    })
}

/// Docker repeats a request whose connection failed, and may have lost its body by then: an
/// empty one must not pass for one without wishes.
fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T> {
    if body.is_empty() {
        return Err(invalid("the request is empty"));
    }
    serde_json::from_slice(body)
        .map_err(|error| invalid(format!("the request cannot be read: {error}")))
}

/// As [`read`], for what has fields: a list would pass for them in the order of ours.
fn read_object<T: DeserializeOwned>(body: &Bytes) -> Result<T> {
    let fields: Map<String, Value> = read(body)?;
    serde_json::from_value(Value::Object(fields))
        .map_err(|error| invalid(format!("the request cannot be read: {error}")))
}

/// Checks the body of a request that says nothing.
fn check_empty(body: &Bytes) -> Result<()> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(());
    }
    read::<Value>(body).map(drop)
}

/// Runs a change to its end even if Docker goes away.
async fn to_the_end<T: Send + 'static>(
    change: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let done = tokio::spawn(change).await;
    done.unwrap_or_else(|_| Err(anyhow!("the agent made a mistake, see its log")))
}

/// As [`to_the_end`]; but an endpoint that nobody waits for any more goes again, because Docker
/// takes it for one that was never made.
async fn create_endpoint(agent: Arc<Agent>, new: Endpoint) -> Result<Value> {
    let (answer, answered) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let made = agent.docker_create_endpoint(&new).await;
        let device = made.as_ref().ok().map(|made| made.device.clone());
        if answer.send(made).is_err()
            && let Some(device) = device
        {
            log::warn!("endpoint {} came too late, it goes again", new.endpoint);
            if let Err(error) = agent.docker_abandon(&new, &device).await {
                log::error!("cannot remove endpoint {}: {error:#}", new.endpoint);
            }
        }
    });
    let made = answered.await;
    made.unwrap_or_else(|_| Err(anyhow!("the agent made a mistake, see its log")))
        .map(|made| match made.mac {
            // Docker refuses what it knows already.
            None => json!({ "Interface": {} }),
            Some(mac) => json!({ "Interface": { "MacAddress": mac } }),
        })
}
