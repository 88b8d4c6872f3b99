//! Docker's own bridges, made fast: what Docker decided is read and put into the maps, so that
//! new connections are forwarded and translated by the programs, while Docker goes on believing
//! that it does the work. `agent/adopt` is the part that acts.
//!
//! * [`client`]: what Docker's API tells, and its events
//! * [`sandbox`]: what is really in a container's namespace; netlink is the truth for veths
//! * [`firewall`]: rules that must not be bypassed
//! * [`kernel`]: connections that began before, which stay with the kernel
//! * [`plan`]: from all of these, what is adopted and what is refused, and why
//!
//! Rules:
//!
//! * A connection is translated by one of the two from its beginning to its end.
//! * Whatever the programs do not handle, or would drop, goes up to the stack as it came.
//! * Nothing of Docker's is changed but one thing, which is given back: entries of the bridges'
//!   forwarding databases stay, for bridges learn from frames and see fewer of them.

pub mod client;
pub mod firewall;
pub mod kernel;
pub mod plan;
mod records;
pub mod sandbox;

pub use records::{AdoptedEndpoint, AdoptedNetwork, Adoption, Refusals};

/// Where Docker listens unless told otherwise.
pub const SOCKET: &str = "/var/run/docker.sock";
