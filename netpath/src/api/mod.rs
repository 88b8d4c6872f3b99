//! The agent's API: HTTP and JSON on a Unix socket.
//!
//! Whoever may open the socket may do everything that the agent can; it belongs to root
//! and, if there is one, to the group `netpath`.
//!
//! Paths begin with the version of the API, `/v1`. Requests and answers are the types of
//! [`types`]; an error is `{"error": "sentence"}` with a status that says whose it is.

pub mod client;
pub mod server;
pub mod types;
