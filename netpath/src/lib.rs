//! netpath: container networking on Linux by eBPF.
//!
//! The library behind the `netpath` binary. A packet's way is in [`datapath`] and in the
//! programs that it loads; everything else here is the control plane: an [`agent`] that owns
//! networks and containers, and the [`cli`] that talks to it.

pub mod agent;
pub mod api;
pub mod bench;
pub mod cli;
pub mod cluster;
pub mod container;
pub mod datapath;
pub mod dns;
pub mod docker;
pub mod doctor;
pub mod ipam;
pub mod netlink;
pub mod output;
pub mod overlay;
pub mod physical;
pub mod policy;
pub mod problem;
pub mod publish;
pub mod service;
pub mod store;
