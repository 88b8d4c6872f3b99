//! Each program over crafted frames, in the kernel. Needs root.

mod container;
mod fragments;
mod fuzz;
mod gate;
mod gateway;
mod icmp;
mod link;
mod malformed;
mod maps;
mod masquerade;
mod neighbour;
mod policy;
mod published;
