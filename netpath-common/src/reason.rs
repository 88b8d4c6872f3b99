//! Why a packet was dropped: one name a reason, counted in one place.

/// Reasons of drops. The discriminants are part of the pinned map `drops`: append only.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "user", derive(serde::Serialize))]
#[cfg_attr(feature = "user", serde(rename_all = "snake_case"))]
pub enum DropReason {
    /// Headers are cut short or contradict each other.
    Malformed = 1,
    /// Neither IPv4, IPv6 nor ARP.
    UnknownEtherType = 2,
    /// A container used an address that is not its own (IPv4, IPv6, MAC, ARP or ND).
    SpoofedSource = 3,
    /// The host-side device of no known endpoint.
    UnknownEndpoint = 4,
    /// The destination is in the container's own network, but nobody has the address.
    NoSuchNeighbour = 5,
    /// The destination belongs to another network of this host.
    OtherNetwork = 6,
    /// Multicast or broadcast, which has no receiver here.
    Multicast = 7,
    /// The host has no route to the destination.
    NoRoute = 8,
    /// The route leaves by a device that is no uplink of the agent.
    NotAnUplink = 9,
    /// The uplink has no address of the packet's family to masquerade with.
    NoSnatAddress = 10,
    /// No free source port towards this destination.
    SnatPortsExhausted = 11,
    /// The flow table is full.
    FlowTableFull = 12,
    /// A protocol or ICMP message that cannot be masqueraded.
    UnsupportedProtocol = 13,
    /// A TCP packet that belongs to no known connection and does not open one.
    NoFlow = 14,
    /// A fragment, which cannot be translated because it has no ports.
    Fragment = 15,
    /// From outside straight to a container's own address.
    DirectRouting = 16,
    /// The time to live ran out.
    TtlExpired = 17,
    /// Larger than the next hop's MTU.
    TooBig = 18,
    /// The kernel refused to change the packet.
    RewriteFailed = 19,
    /// The container of this flow is gone.
    StaleFlow = 20,
    /// The container has as many connections as it may have at a time.
    FlowBudget = 21,
    /// The network is internal: nothing leaves it, nothing from elsewhere comes in.
    InternalNetwork = 22,
    /// Containers of this network do not talk with each other.
    IccOff = 23,
    /// Straight to a container's port, which is not published.
    NotPublished = 24,
    /// The source address is denied on the uplinks.
    DeniedSource = 30,
    /// A program goes on in one that is not there.
    MissingStage = 40,
    /// SCTP's checksum lets no port be changed, and this one would have to be.
    PortFixed = 35,
    /// From outside, with a source address that nobody outside can have.
    MartianSource = 36,
    /// Through a tunnel, with a number (VNI) of no network.
    UnknownVni = 50,
    /// Through a tunnel, from a host that takes no part in the network.
    UnknownVtep = 51,
    /// Through a tunnel, with a source address that is not behind the host that sent it.
    SpoofedTunnel = 52,
    /// A container passed on an aggregate that came through a tunnel.
    PassedOnAggregate = 53,
}

impl DropReason {
    /// All reasons, for listings.
    pub const ALL: [Self; 32] = [
        Self::Malformed,
        Self::UnknownEtherType,
        Self::SpoofedSource,
        Self::UnknownEndpoint,
        Self::NoSuchNeighbour,
        Self::OtherNetwork,
        Self::Multicast,
        Self::NoRoute,
        Self::NotAnUplink,
        Self::NoSnatAddress,
        Self::SnatPortsExhausted,
        Self::FlowTableFull,
        Self::UnsupportedProtocol,
        Self::NoFlow,
        Self::Fragment,
        Self::DirectRouting,
        Self::TtlExpired,
        Self::TooBig,
        Self::RewriteFailed,
        Self::StaleFlow,
        Self::FlowBudget,
        Self::InternalNetwork,
        Self::IccOff,
        Self::NotPublished,
        Self::DeniedSource,
        Self::MissingStage,
        Self::PortFixed,
        Self::MartianSource,
        Self::UnknownVni,
        Self::UnknownVtep,
        Self::SpoofedTunnel,
        Self::PassedOnAggregate,
    ];

    /// What it means, for people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Malformed => "headers are cut short or contradict each other",
            Self::UnknownEtherType => "neither IPv4, IPv6 nor ARP",
            Self::SpoofedSource => "the container used an address that is not its own",
            Self::UnknownEndpoint => "the device of no known endpoint",
            Self::NoSuchNeighbour => "nobody in the network has the address",
            Self::OtherNetwork => "the destination is in another network of this host",
            Self::Multicast => "multicast or broadcast without a receiver",
            Self::NoRoute => "the host has no route to the destination",
            Self::NotAnUplink => "the route leaves by a device that is no uplink of the agent",
            Self::NoSnatAddress => "the uplink has no address of this family to masquerade with",
            Self::SnatPortsExhausted => "no free source port towards this destination",
            Self::FlowTableFull => "the flow table is full",
            Self::UnsupportedProtocol => "a protocol that cannot be masqueraded",
            Self::NoFlow => "belongs to no known connection and does not open one",
            Self::Fragment => "a fragment, which has no ports to translate",
            Self::DirectRouting => "from outside straight to a container's own address",
            Self::TtlExpired => "the time to live ran out",
            Self::TooBig => "larger than the next hop's MTU",
            Self::RewriteFailed => "the kernel refused to change the packet",
            Self::StaleFlow => "the container of this flow is gone",
            Self::FlowBudget => "the container has as many connections as it may have",
            Self::InternalNetwork => "the network is internal, nothing leaves or enters it",
            Self::IccOff => "containers of this network do not talk with each other",
            Self::NotPublished => "straight to a container's port that is not published",
            Self::DeniedSource => "the source is denied, see `netpath deny ls`",
            Self::MissingStage => "a program goes on in one that is not there",
            Self::MartianSource => "a source address that nobody outside can have",
            Self::UnknownVni => "a tunnel's number (VNI) of no network",
            Self::UnknownVtep => "through a tunnel from a host that is not in the network",
            Self::SpoofedTunnel => "a source address that is not behind the host that sent it",
            Self::PassedOnAggregate => {
                "an aggregate out of a tunnel, passed on by a container; it is sent again"
            }
            Self::PortFixed => "SCTP keeps its ports, and this one is taken or leads to another",
        }
    }
}
