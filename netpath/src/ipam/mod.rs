//! Addresses: which subnets a network gets, and which addresses its containers get.
//!
//! Pure logic without I/O: callers bring the routes of the host, the subnets of other
//! networks and the leases; the answers are stored by them.

mod lease;
mod pools;
mod subnet;

pub use lease::{allocate, check_wanted};
pub use pools::{choose_pool, random_ula};
pub use subnet::{Subnet, overlaps, parse_cidr, plan};
