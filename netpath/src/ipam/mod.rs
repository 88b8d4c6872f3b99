//! Addresses: which subnets a network gets, and which addresses its containers get.
//!
//! Pure logic without I/O: callers bring the routes of the host, the subnets of other
//! networks and the leases; the answers are stored by them. An address is leased by the
//! transaction that stores its container, and free again by the one that stores it without.

mod lease;
mod pools;
mod subnet;

pub use lease::{allocate, check_wanted};
pub use pools::{Pool, choose_subnet, default_pools, random_ula};
pub use subnet::{Subnet, check_aside, overlaps, parse_cidr, parse_range, plan};
