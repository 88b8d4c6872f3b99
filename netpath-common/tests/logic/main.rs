//! The logic of the packets' way, on hash maps instead of BPF maps.
//!
//! Frames are made and read by etherparse, go through the real parsers and stages, and are
//! rewritten by the checksum differences that flows hold.

#[allow(
    dead_code,
    reason = "shared with the tests of the programs, which use all of it"
)]
#[path = "../../../tests/src/packets.rs"]
mod packets;
#[allow(dead_code, reason = "as above")]
#[path = "../../../tests/src/verify.rs"]
mod verify;

mod adopted;
mod connection;
mod container;
mod deny;
mod lost;
mod masquerade;
mod model;
mod overlay;
mod parsing;
mod policy;
mod properties;
mod published;
mod socket;
mod underlay;
