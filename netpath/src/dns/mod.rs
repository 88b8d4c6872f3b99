//! Names for containers: the server that they ask at 127.0.0.11.
//!
//! It is a process of its own (`netpath name-server`, started by the agent), so that names keep
//! resolving while the agent is restarted or gone. The agent tells it who is in which network;
//! it makes a UDP and a TCP socket in each container's namespace and answers there.
//!
//! * [`options`]: what people ask for (`--dns`, `--add-host`, `--link` and their like)
//! * [`tables`]: who asks, and what they may know
//! * [`message`]: reading queries, writing answers; [`wire`]: what is done to messages as bytes
//! * [`answer`]: what becomes of a query
//! * [`forward`]: asking other servers; [`upstream`]: which ones; [`sockets`]: sockets in
//!   namespaces of containers
//! * [`server`]: the process; [`listen`]: its sockets in one namespace; [`hand`]: giving those to
//!   its successor
//! * [`control`]: how agent and server talk; [`client`]: the agent's end of it

pub mod answer;
pub mod client;
pub mod control;
mod forward;
mod hand;
mod listen;
pub mod message;
pub mod options;
pub mod server;
mod sockets;
pub mod tables;
mod upstream;
mod wire;

use std::net::Ipv4Addr;

/// Where containers ask, as in Docker.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// The port that they dial.
pub const PORT: u16 = 53;
