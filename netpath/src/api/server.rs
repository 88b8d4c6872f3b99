//! The server of the API.

use std::future::Future;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use axum::body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;

use super::types::{
    AddTunnel, Adopt, Attach, AttachCard, CreateContainer, CreateNetwork, Deny, ErrorBody, Exited,
    Explain, Join, Started, Stop, Watch,
};
use crate::agent::Agent;
use crate::problem::{Kind, invalid, kind_of};

/// Longest request in MiB. Only the arguments of a command and the list of published ports
/// can be long; the kernel starts nothing with more than 2 MiB of arguments, unless somebody
/// raised the limit of the stack.
const LONGEST_REQUEST: usize = 4;

type Answer = Result<Response, Failure>;
type Shared = State<Arc<Agent>>;

/// Serves the API until the task is dropped.
///
/// # Errors
/// The socket failed.
pub async fn serve(listener: UnixListener, agent: Arc<Agent>) -> Result<()> {
    axum::serve(listener, router(agent)).await?;
    Ok(())
}

/// All paths of the API.
pub fn router(agent: Arc<Agent>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/networks", get(networks).post(create_network))
        .route("/v1/networks/{name}", get(network).delete(remove_network))
        .route("/v1/containers", get(containers).post(create_container))
        .route(
            "/v1/containers/{name}",
            get(container).delete(remove_container),
        )
        .route("/v1/containers/{name}/started", post(started))
        .route("/v1/containers/{name}/exited", post(exited))
        .route("/v1/containers/{name}/stop", post(stop))
        .route("/v1/containers/{name}/networks", post(connect))
        .route(
            "/v1/containers/{name}/networks/{network}",
            delete(disconnect),
        )
        .route("/v1/attach", post(attach))
        .route(
            "/v1/cards",
            get(cards).post(attach_card).delete(detach_card),
        )
        .route("/v1/endpoints", get(endpoints))
        .route("/v1/ports", get(ports))
        .route("/v1/flows", get(flows))
        .route("/v1/drops", get(drops))
        .route("/v1/denied", get(denied).post(deny).delete(allow))
        .route(
            "/v1/tunnels",
            get(tunnels).post(add_tunnel).delete(remove_tunnel),
        )
        .route("/v1/vteps", get(vteps))
        .route("/v1/nodes", get(nodes))
        .route("/v1/adopt", get(adopted).post(adopt).delete(release))
        .route("/v1/counters", get(counters))
        .route("/v1/events", get(events))
        .route("/v1/explain", post(explain))
        .fallback(|| async {
            Failure(
                StatusCode::NOT_FOUND,
                "the API has no such path, is the agent older?".into(),
            )
        })
        .method_not_allowed_fallback(|| async {
            Failure(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path has no such method".into(),
            )
        })
        .layer(DefaultBodyLimit::max(LONGEST_REQUEST << 20))
        .with_state(agent)
}

/// An error as an answer.
struct Failure(StatusCode, String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(ErrorBody { error: self.1 })).into_response()
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let status = match kind_of(&error) {
            Some(Kind::Invalid) => StatusCode::BAD_REQUEST,
            Some(Kind::NotFound) => StatusCode::NOT_FOUND,
            Some(Kind::Conflict) => StatusCode::CONFLICT,
            None => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, format!("{error:#}"))
    }
}

/// A JSON body whose refusal is an [`ErrorBody`] like all errors.
struct Body<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => Err(Failure(
                rejection.status(),
                format!(
                    "the request is longer than {LONGEST_REQUEST} MiB, put what is long (the \
                     arguments of a command?) into a file"
                ),
            )),
            Err(rejection) => Err(Failure(rejection.status(), rejection.body_text())),
        }
    }
}

/// A part of the address whose refusal is an [`ErrorBody`], too.
struct Checked<E>(E);

impl<E, S> FromRequestParts<S> for Checked<E>
where
    E: FromRequestParts<S>,
    E::Rejection: Into<Failure>,
    S: Send + Sync,
{
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match E::from_request_parts(parts, state).await {
            Ok(inner) => Ok(Self(inner)),
            Err(rejection) => Err(rejection.into()),
        }
    }
}

impl From<PathRejection> for Failure {
    fn from(rejection: PathRejection) -> Self {
        Self(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for Failure {
    fn from(rejection: QueryRejection) -> Self {
        Self(rejection.status(), rejection.body_text())
    }
}

fn answer(value: Result<impl Serialize>) -> Answer {
    Ok(Json(value?).into_response())
}

/// Runs a change to its end even if the client goes away: a handler that is dropped
/// half-way would leave half of a container.
async fn to_the_end<T>(change: impl Future<Output = Result<T>> + Send + 'static) -> Answer
where
    T: Serialize + Send + 'static,
{
    answer(match tokio::spawn(change).await {
        Ok(result) => result,
        Err(_) => Err(anyhow!("the agent made a mistake, see its log")),
    })
}

async fn status(State(agent): Shared) -> Answer {
    answer(agent.status())
}

async fn networks(State(agent): Shared) -> Answer {
    answer(agent.list_networks())
}

async fn network(State(agent): Shared, Checked(Path(name)): Checked<Path<String>>) -> Answer {
    answer(agent.show_network(&name))
}

async fn create_network(State(agent): Shared, Body(new): Body<CreateNetwork>) -> Answer {
    to_the_end(async move { agent.create_network(new).await }).await
}

async fn remove_network(
    State(agent): Shared,
    Checked(Path(name)): Checked<Path<String>>,
) -> Answer {
    to_the_end(async move { agent.remove_network(&name).await }).await
}

#[derive(Deserialize)]
struct ListQuery {
    #[serde(default)]
    all: bool,
}

async fn containers(
    State(agent): Shared,
    Checked(Query(query)): Checked<Query<ListQuery>>,
) -> Answer {
    answer(agent.list_containers(query.all))
}

async fn container(State(agent): Shared, Checked(Path(name)): Checked<Path<String>>) -> Answer {
    answer(agent.show_container(&name))
}

async fn create_container(State(agent): Shared, Body(new): Body<CreateContainer>) -> Answer {
    to_the_end(async move { agent.create_container(new).await }).await
}

async fn started(
    State(agent): Shared,
    Checked(Path(name)): Checked<Path<String>>,
    Body(body): Body<Started>,
) -> Answer {
    to_the_end(async move { agent.started(&name, body.pid).await }).await
}

async fn exited(
    State(agent): Shared,
    Checked(Path(name)): Checked<Path<String>>,
    Body(body): Body<Exited>,
) -> Answer {
    to_the_end(async move { agent.exited(&name, body.pid, body.code).await }).await
}

async fn stop(
    State(agent): Shared,
    Checked(Path(name)): Checked<Path<String>>,
    Body(body): Body<Stop>,
) -> Answer {
    to_the_end(async move { agent.stop(&name, body.timeout).await }).await
}

#[derive(Deserialize)]
struct RemoveQuery {
    #[serde(default)]
    force: bool,
}

async fn remove_container(
    State(agent): Shared,
    Checked(Path(name)): Checked<Path<String>>,
    Checked(Query(query)): Checked<Query<RemoveQuery>>,
) -> Answer {
    to_the_end(async move { agent.remove_container(&name, query.force).await }).await
}

async fn connect(
    State(agent): Shared,
    Checked(Path(name)): Checked<Path<String>>,
    Body(join): Body<Join>,
) -> Answer {
    to_the_end(async move { agent.connect(&name, join).await }).await
}

async fn disconnect(
    State(agent): Shared,
    Checked(Path((name, network))): Checked<Path<(String, String)>>,
    Checked(Query(query)): Checked<Query<RemoveQuery>>,
) -> Answer {
    to_the_end(async move { agent.disconnect(&name, &network, query.force).await }).await
}

async fn attach(State(agent): Shared, Body(new): Body<Attach>) -> Answer {
    to_the_end(async move { agent.attach(new).await }).await
}

async fn cards(State(agent): Shared) -> Answer {
    answer(agent.list_cards())
}

async fn attach_card(State(agent): Shared, Body(new): Body<AttachCard>) -> Answer {
    to_the_end(async move { agent.attach_card(new).await }).await
}

#[derive(Deserialize)]
struct CardQuery {
    owner: String,
    interface: Option<String>,
}

async fn detach_card(
    State(agent): Shared,
    Checked(Query(query)): Checked<Query<CardQuery>>,
) -> Answer {
    to_the_end(async move {
        agent
            .detach_card(&query.owner, query.interface.as_deref())
            .await
    })
    .await
}

async fn endpoints(State(agent): Shared) -> Answer {
    answer(agent.with_datapath(|datapath| datapath.endpoints()))
}

async fn ports(State(agent): Shared) -> Answer {
    answer(agent.with_datapath(|datapath| datapath.ports()))
}

async fn flows(State(agent): Shared) -> Answer {
    answer(agent.with_datapath(|datapath| datapath.flows()))
}

async fn drops(State(agent): Shared, Checked(Query(query)): Checked<Query<ListQuery>>) -> Answer {
    answer(agent.with_datapath(|datapath| datapath.drops(query.all)))
}

async fn denied(State(agent): Shared) -> Answer {
    answer(agent.list_denied())
}

async fn deny(State(agent): Shared, Body(new): Body<Deny>) -> Answer {
    to_the_end(async move { agent.deny(new).await }).await
}

#[derive(Deserialize)]
struct PrefixQuery {
    prefix: String,
}

async fn allow(State(agent): Shared, Checked(Query(query)): Checked<Query<PrefixQuery>>) -> Answer {
    to_the_end(async move { agent.allow(&query.prefix).await }).await
}

async fn tunnels(State(agent): Shared) -> Answer {
    answer(agent.list_tunnels())
}

async fn vteps(State(agent): Shared) -> Answer {
    answer(agent.list_vteps())
}

async fn add_tunnel(State(agent): Shared, Body(new): Body<AddTunnel>) -> Answer {
    to_the_end(async move { agent.add_tunnel(new).await }).await
}

#[derive(Deserialize)]
struct TunnelQuery {
    network: String,
    destination: String,
}

async fn remove_tunnel(
    State(agent): Shared,
    Checked(Query(query)): Checked<Query<TunnelQuery>>,
) -> Answer {
    let TunnelQuery {
        network,
        destination,
    } = query;
    to_the_end(async move { agent.remove_tunnel(&network, &destination).await }).await
}

async fn explain(State(agent): Shared, Body(question): Body<Explain>) -> Answer {
    answer(agent.explain(question).await)
}

#[derive(Deserialize)]
struct EventsQuery {
    #[serde(default)]
    drops: bool,
    #[serde(default)]
    flows: bool,
    proto: Option<String>,
    addr: Option<String>,
    port: Option<String>,
    container: Option<String>,
    reason: Option<String>,
}

async fn events(
    State(agent): Shared,
    Checked(Query(query)): Checked<Query<EventsQuery>>,
) -> Answer {
    let list = |text: &Option<String>| -> Vec<String> {
        let parts = text.iter().flat_map(|text| text.split(','));
        parts.map(str::to_owned).collect()
    };
    let port = |text: &String| {
        text.parse()
            .map_err(|_| invalid(format!("\"{text}\" is no port")))
    };
    let watch = Watch {
        drops: query.drops,
        flows: query.flows,
        proto: list(&query.proto),
        addr: list(&query.addr),
        port: list(&query.port).iter().map(port).collect::<Result<_>>()?,
        container: query.container,
        reason: list(&query.reason),
    };
    let events = agent.monitor(&watch)?;
    let lines = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((lines, body::Body::from_stream(events)).into_response())
}

async fn nodes(State(agent): Shared) -> Answer {
    answer(agent.nodes())
}

async fn adopted(State(agent): Shared) -> Answer {
    answer(agent.adopted())
}

async fn adopt(State(agent): Shared, Body(new): Body<Adopt>) -> Answer {
    to_the_end(async move { agent.adopt(new).await }).await
}

async fn release(State(agent): Shared) -> Answer {
    to_the_end(async move { agent.release().await }).await
}

async fn counters(State(agent): Shared) -> Answer {
    answer(agent.with_datapath(|datapath| datapath.counters()))
}
