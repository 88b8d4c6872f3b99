//! Published ports: Docker's `-p` grammar, and sockets that really reserve what it names.
//!
//! * `spec`: the grammar; `allocate`: which ports its mappings get; `keep`: which they have
//! * `opened`: ports that are published at a container's own address
//! * [`ephemeral`]: the ports of those that name none
//! * `reserve`: the sockets; `owner`: who else has a port
//! * [`runs`]: many bindings in few words

mod allocate;
pub mod ephemeral;
mod keep;
mod opened;
mod owner;
mod reserve;
pub mod runs;
mod spec;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use netpath_common::tuple::Proto;
use serde::{Deserialize, Serialize};

pub use allocate::{Surroundings, reserve_all};
pub use ephemeral::EphemeralPorts;
pub use keep::{Kept, keep};
pub use opened::{Opened, Split, WaysOut, opened, split};
pub use owner::{Holder, find_holder};
pub use reserve::{Reservation, reserve_each};
pub use spec::{HostPorts, Mapping, parse};

/// A published port as it is in force: one family, one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Binding {
    /// Address of the host; the unspecified address of a family for all of it.
    pub host_ip: IpAddr,
    /// Port of the host.
    pub host_port: u16,
    /// Port of the container.
    pub container_port: u16,
    /// TCP, UDP or SCTP.
    pub proto: Proto,
}

impl Binding {
    /// Whether no second binding can exist beside this one: same protocol and port, and
    /// an address in common.
    pub fn collides(&self, other: &Self) -> bool {
        self.proto == other.proto
            && self.host_port == other.host_port
            && self.host_ip.is_ipv4() == other.host_ip.is_ipv4()
            && (self.host_ip == other.host_ip
                || self.host_ip.is_unspecified()
                || other.host_ip.is_unspecified())
    }
}

/// `tcp`, `udp`, `sctp`.
pub fn proto_name(proto: Proto) -> &'static str {
    match proto {
        Proto::Tcp => "tcp",
        Proto::Udp => "udp",
        Proto::Icmp => "icmp",
        Proto::Icmpv6 => "icmpv6",
        Proto::Sctp => "sctp",
    }
}

impl fmt::Display for Binding {
    /// As `docker ps` prints it: `0.0.0.0:8080->80/tcp`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = SocketAddr::new(self.host_ip, self.host_port);
        write!(
            f,
            "{host}->{}/{}",
            self.container_port,
            proto_name(self.proto)
        )
    }
}
