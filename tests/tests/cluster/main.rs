//! Networks of several hosts, agreed on in a real etcd.

mod claims;
mod containers;
mod flannel;
mod networks;
mod outages;
mod settings;
mod world;
