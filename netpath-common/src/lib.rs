//! Records, flow and NAT logic of netpath.
//!
//! The very same code runs in the kernel, on BPF maps, and on the host, on a
//! `HashMap`: everything that decides is generic over [`env::Env`], which gives
//! tables, a clock, randomness and routes.
//!
//! * records (what is in the maps): [`addr`], [`tuple`], [`flow`], [`endpoint`],
//!   [`network`], [`port`], [`counter`], [`config`], [`reason`]; those of sockets are in [`socket`],
//!   those of tunnels to other hosts in [`tunnel`]
//! * logic: [`tcp`], [`sctp`], [`checksum`], [`snat`] and [`search`], [`publish`], [`track`],
//!   [`restore`], [`icmp`], [`fragment`], and one module a hook:
//!   [`container`], [`uplink`], [`gateway`], [`overlay`], [`socket`], [`deny`] (XDP), and [`idle`] for the
//!   removal of flows that fell silent
//! * what is told to those who watch: [`event`]
//!
//! Every record is plain data with named fields, no implicit padding (BPF hash
//! keys are compared as bytes) and ports in host byte order, so that `bpftool map
//! dump` is readable.
#![cfg_attr(not(test), no_std)]

pub mod addr;
pub mod checksum;
pub mod config;
pub mod container;
pub mod counter;
pub mod deny;
pub mod direct;
pub mod endpoint;
pub mod env;
pub mod event;
pub mod flow;
pub mod fragment;
pub mod gateway;
pub mod icmp;
pub mod idle;
pub mod link;
pub mod network;
pub mod overlay;
pub mod packet;
pub mod policy;
pub mod port;
pub mod publish;
pub mod reason;
pub mod restore;
pub mod sctp;
pub mod search;
pub mod snat;
pub mod socket;
pub mod tcp;
pub mod track;
pub mod tunnel;
pub mod tuple;
pub mod underlay;
pub mod uplink;

#[cfg(feature = "user")]
mod user;
