//! The agent's side of the records: aya reads and writes them as bytes.

use crate::addr::Addr;
use crate::config::Config;
use crate::counter::{Count, DropKey, HookCounters};
use crate::deny::Denied;
use crate::endpoint::{Endpoint, EndpointKey, Slot, Veth};
use crate::event::Event;
use crate::flow::Flow;
use crate::fragment::{FragmentKey, FragmentPorts};
use crate::link::{Receiver, Sender};
use crate::network::{HostAddr, Network, Uplink};
use crate::policy::{OpenPort, Policy, Trusted};
use crate::port::{PortKey, PortTarget};
use crate::search::Searches;
use crate::socket::{Dialled, Resolver, SocketPeer};
use crate::tunnel::{Prefix, Tunnel, Vni, Vtep, VtepCounts, VtepKey};
use crate::tuple::Tuple;
use crate::underlay::{Card, CardAddr, CardMac, SegmentPlace};

macro_rules! pod {
    ($($record:ty),+ $(,)?) => {
        $(
            // SAFETY: repr(C) without padding (the sizes are asserted beside the types), made
            // of integers, byte arrays and fieldless enums. The enums are written by programs
            // and agents that share this definition only: a changed layout gets a new map name.
            unsafe impl aya::Pod for $record {}
        )+
    };
}

pod!(
    Addr,
    Card,
    CardAddr,
    CardMac,
    Config,
    Count,
    Denied,
    Dialled,
    DropKey,
    Endpoint,
    EndpointKey,
    Event,
    Flow,
    FragmentKey,
    FragmentPorts,
    HookCounters,
    HostAddr,
    Network,
    OpenPort,
    Policy,
    Prefix,
    PortKey,
    PortTarget,
    Receiver,
    Resolver,
    Sender,
    Searches,
    SegmentPlace,
    Slot,
    SocketPeer,
    Trusted,
    Tunnel,
    Tuple,
    Uplink,
    Veth,
    Vni,
    Vtep,
    VtepCounts,
    VtepKey,
);
