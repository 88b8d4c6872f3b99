//! What the tests of netpath share.

pub mod capture;
pub mod command;
pub mod dns;
pub mod docker;
pub mod etcd;
pub mod fuzz;
pub mod inside;
pub mod lab;
pub mod packets;
pub mod plugin;
pub mod progrun;
pub mod verify;
pub mod wire;
