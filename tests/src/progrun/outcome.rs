//! What programs are run on, and what comes of it.

use crate::packets::Sample;

/// What a program says shall happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// To the stack, or to the next program (TC_ACT_UNSPEC).
    Pass,
    /// To the stack, past further programs (TC_ACT_OK).
    Accept,
    /// To where the program said (TC_ACT_REDIRECT).
    Redirect,
    /// Nowhere (TC_ACT_SHOT).
    Drop,
}

impl Action {
    pub(super) fn of(value: u32) -> Self {
        match value.cast_signed() {
            -1 => Self::Pass,
            0 => Self::Accept,
            2 => Self::Drop,
            7 => Self::Redirect,
            other => panic!("the program returned {other}"),
        }
    }
}

/// What became of a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// What shall happen.
    pub action: Action,
    /// The reason of a drop, as it was counted.
    pub reason: Option<String>,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
}

impl Run {
    /// The packet of a redirected frame.
    pub fn sent(&self) -> Sample {
        assert_eq!(self.action, Action::Redirect, "{:?}", self.reason);
        Sample::read(&self.frame).unwrap_or_else(|| panic!("cannot read {:02x?}", self.frame))
    }

    /// Asserts that it was dropped for this reason.
    pub fn dropped(&self, reason: &str) {
        assert_eq!(
            (self.action, self.reason.as_deref()),
            (Action::Drop, Some(reason))
        );
    }
}

/// A hook, as named in the counters; its program; the device that frames come by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum At {
    /// A container's veth, by its number (A is 0, B is 1, the other network's is 2).
    Container(usize),
    /// The same without the short way.
    Beyond(usize),
    /// The uplink.
    Uplink,
    /// The first network's gateway device; whether the packet is forwarded for somebody.
    Gateway(bool),
    /// The uplink, before the stack.
    Xdp,
    /// The uplink as a wire that containers share: what comes in, and what goes out.
    Wire(bool),
    /// A veth on that wire, by its ifindex.
    Card(u32),
    /// A container's device stacked on the uplink, by its ifindex.
    Guard(u32),
}

impl At {
    pub(super) fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Container(_) => ("container", "np_container"),
            Self::Beyond(_) => ("container", "np_beyond"),
            Self::Uplink => ("uplink", "np_uplink"),
            Self::Gateway(_) => ("gateway", "np_gateway"),
            Self::Xdp => ("xdp", "np_xdp"),
            Self::Wire(true) => ("underlay", "np_wire_in"),
            Self::Wire(false) => ("underlay", "np_wire_out"),
            Self::Card(_) => ("underlay", "np_card"),
            Self::Guard(_) => ("underlay", "np_guard"),
        }
    }
}
