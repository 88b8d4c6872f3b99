//! TCP connections, judged by the flags that each side has sent.

use crate::flow::FlowState;

/// FIN: the sender is done.
pub const FIN: u8 = 0x01;
/// SYN: opens a connection.
pub const SYN: u8 = 0x02;
/// RST: ends it at once.
pub const RST: u8 = 0x04;
/// ACK.
pub const ACK: u8 = 0x10;

/// The flags that a flow remembers.
pub const TRACKED: u8 = FIN | SYN | RST | ACK;

/// Whether these flags open a connection: SYN and nothing that contradicts it.
#[inline(always)]
pub const fn opens(flags: u8) -> bool {
    flags & (SYN | ACK | RST | FIN) == SYN
}

/// The state of a connection whose sides have sent these flags so far.
///
/// A function of two sets that only grow: the order in which CPUs record flags
/// cannot lead to a wrong state.
#[inline(always)]
pub const fn state(original: u8, reply: u8) -> FlowState {
    if (original | reply) & RST != 0 {
        FlowState::Reset
    } else if original & reply & FIN != 0 {
        FlowState::Closed
    } else if (original | reply) & FIN != 0 {
        FlowState::Closing
    } else if reply & SYN == 0 {
        FlowState::SynSent
    } else if original & ACK == 0 {
        FlowState::SynReceived
    } else {
        FlowState::Established
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_from_birth_to_death() {
        let steps = [
            (SYN, 0, FlowState::SynSent),
            (0, SYN | ACK, FlowState::SynReceived),
            (ACK, 0, FlowState::Established),
            (FIN | ACK, 0, FlowState::Closing),
            (0, ACK, FlowState::Closing),
            (0, FIN | ACK, FlowState::Closed),
            (0, RST, FlowState::Reset),
        ];
        let (mut original, mut reply) = (0, 0);
        for (o, r, expected) in steps {
            original |= o;
            reply |= r;
            assert_eq!(
                state(original, reply),
                expected,
                "after {original:#x}/{reply:#x}"
            );
        }
    }

    #[test]
    fn only_a_bare_syn_opens() {
        assert!(opens(SYN));
        // ECN set-up (RFC 3168) sets ECE and CWR on the SYN.
        assert!(opens(SYN | 0xc0));
        for flags in [0, ACK, SYN | ACK, SYN | FIN, SYN | RST, RST, FIN | ACK] {
            assert!(!opens(flags), "{flags:#x}");
        }
    }
}
