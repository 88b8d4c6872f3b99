//! Docker's own bridges, made fast without Docker's knowing: [`adopt`]. All else here is about
//! Docker's network driver `netpath`: what `docker network create -d netpath` talks to.
//!
//! Docker calls it by HTTP on a Unix socket ([`server`]), in the words of [`wire`]. What is to
//! be done the agent does (`agent/docker`): a network of Docker's is a network like others,
//! and an endpoint a container like others, except that their lives are Docker's to decide.
//!
//! Rules that Docker's side does not forgive breaking:
//!
//! * Every method is answered. A 404 fails `docker run` with Docker 20.10 to 28.0.
//! * A handler never calls Docker: Docker holds locks while it waits.
//! * Docker waits for ever: a handler has a limit of time.
//! * Nothing is ever told twice. Whoever was not there missed it, so networks, endpoints and
//!   ports outlive the agent, and what Docker forgot gives way to what it asks for anew.

pub mod adopt;
pub mod names;
pub mod ports;
pub mod server;
pub mod wire;
