//! What the agent tells the programs: one record in map `config`.

use crate::flow::FlowState;

/// Value 0 of map `config`. The agent may change it while traffic runs.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// First port that masqueraded flows may use, host byte order.
    pub snat_port_min: u16,
    /// Last port that masqueraded flows may use, host byte order.
    pub snat_port_max: u16,
    /// Connections that one endpoint may have at a time: a container that floods the host with
    /// flows must not take the table from the others.
    pub max_flows_per_endpoint: u32,
    /// Idle times.
    pub timeouts: Timeouts,
    /// What somebody watches, flags of [`crate::event::wanted`].
    pub events: u32,
    /// UDP ports at which packets of tunnels come in, the usual ones.
    pub tunnels: [TunnelPort; 2],
    /// What makes the choice of source ports unforeseeable; the agent draws it once.
    pub port_secret: [u64; 2],
}

const _: () = assert!(size_of::<Config>() == 72);

/// A UDP port of tunnels.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TunnelPort {
    /// The VXLAN device; 0 if there is none.
    pub ifindex: u32,
    /// The port, host byte order.
    pub port: u16,
    /// Always 0.
    pub reserved: u16,
}

impl TunnelPort {
    /// No port.
    pub const NONE: Self = Self {
        ifindex: 0,
        port: 0,
        reserved: 0,
    };
}

/// What holds until the agent has written something else.
pub static FALLBACK: Config = Config {
    snat_port_min: DEFAULT_SNAT_PORTS.0,
    snat_port_max: DEFAULT_SNAT_PORTS.1,
    max_flows_per_endpoint: u32::MAX,
    timeouts: Timeouts::DEFAULT,
    events: 0,
    tunnels: [TunnelPort::NONE; 2],
    port_secret: [0; 2],
};

impl Default for Config {
    fn default() -> Self {
        FALLBACK
    }
}

/// Ports for masquerading unless told otherwise: below the kernel's default ephemeral
/// range (32768–60999), so that no socket of the host is ever given one of them, and
/// above the ports that services usually listen on.
pub const DEFAULT_SNAT_PORTS: (u16, u16) = (16_384, 32_767);

/// How long a flow may be silent in both directions, in seconds, by state.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// TCP, connection not yet established. 60 s outlives the first five SYN
    /// retransmissions (1+2+4+8+16 s), and a SYN flood's entries do not last.
    pub tcp_opening: u32,
    /// TCP established. RFC 5382 asks for 7440 s at least; 8000 s also outlives
    /// Linux keepalive (7200 s + 9 probes of 75 s).
    pub tcp_established: u32,
    /// TCP, one side has sent FIN: the other may still send for long, but not be idle for long.
    pub tcp_closing: u32,
    /// TCP, both FIN or a RST seen: late segments only.
    pub tcp_closed: u32,
    /// UDP without an answer yet; RFC 4787 asks for 120 s at least.
    pub udp_one_way: u32,
    /// UDP with traffic both ways; RFC 4787 recommends 300 s.
    pub udp_two_way: u32,
    /// ICMP echo; RFC 5508 asks for 60 s at least.
    pub icmp: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Timeouts {
    /// The values of the fields' documentation.
    pub const DEFAULT: Self = Self {
        tcp_opening: 60,
        tcp_established: 8000,
        tcp_closing: 120,
        tcp_closed: 10,
        udp_one_way: 120,
        udp_two_way: 300,
        icmp: 60,
    };

    /// Idle time in seconds of a flow in this state.
    #[inline(always)]
    pub const fn of(&self, state: FlowState) -> u32 {
        match state {
            FlowState::SynSent | FlowState::SynReceived => self.tcp_opening,
            FlowState::Established => self.tcp_established,
            FlowState::Closing => self.tcp_closing,
            FlowState::Closed | FlowState::Reset => self.tcp_closed,
            FlowState::OneWay => self.udp_one_way,
            FlowState::TwoWay => self.udp_two_way,
            FlowState::Echo => self.icmp,
        }
    }
}
