//! Each program over crafted frames, in the kernel. Needs root.

mod adopted;
mod container;
mod fragments;
mod fuzz;
mod gate;
mod gateway;
mod host_sockets;
mod icmp;
mod link;
mod lost;
mod malformed;
mod maps;
mod masquerade;
mod neighbour;
mod overlay;
mod policy;
mod published;
mod routed;
mod sctp;
mod siblings;
mod underlay;
