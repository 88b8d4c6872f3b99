//! Containers on the physical network: an address of the network that a card of the host is in.
//!
//! * `options`: what `network create` may ask of such a network; `parent`: the card, and its VLANs
//! * [`record`]: what the store remembers
//! * [`address`]: addresses, MAC addresses and routes in pipework's words
//! * [`docker`]: the process of a container of Docker's
//! * [`dhcp`]: addresses from a server of that network
//! * [`inside`]: what is set up in a container's namespace
//!
//! Three drivers do it: `underlay` by BPF programs on the card, `macvlan` and `ipvlan` by the
//! kernel's devices of these names.

pub mod address;
pub mod dhcp;
pub mod docker;
pub mod inside;
mod options;
mod parent;
pub mod record;

pub use options::{Wanted, take};
pub use parent::{MAX_VLAN, Named};
