//! Containers on the physical network: networks of the drivers `macvlan`, `ipvlan` and `underlay`,
//! and cards that are added to containers one by one.
//!
//! * `share`: the card of the host: which it is, who else uses it, what it has to let in
//! * `plug`: an interface of a container on it
//! * `network`: networks on it
//! * `taken`: addresses on a wire that are somebody's
//! * `keep`: what stays and what goes
//! * `card`: cards that are added to running containers; `target`: whose they are; `lease`: DHCP

mod card;
mod keep;
mod lease;
mod network;
mod plug;
mod share;
mod taken;
mod target;

pub(super) use keep::KnownCards;
pub(super) use taken::{Taken, check_free};
