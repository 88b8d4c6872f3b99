//! TCP connections, judged by the flags that each side has sent.

use crate::flow::{Direction, FlowState};

/// FIN: the sender is done.
pub const FIN: u8 = 0x01;
/// SYN: opens a connection.
pub const SYN: u8 = 0x02;
/// RST: ends it at once.
pub const RST: u8 = 0x04;
/// ACK.
pub const ACK: u8 = 0x10;

/// In a flow's memory only: the side has sent a segment since the connection was reset. On the
/// wire the bit is another's.
pub const ALIVE: u8 = 0x80;

/// The flags that a flow remembers as they are.
pub const TRACKED: u8 = FIN | SYN | RST | ACK;

/// Whether these flags open a connection: SYN and nothing that contradicts it.
#[inline(always)]
pub const fn opens(flags: u8) -> bool {
    flags & (SYN | ACK | RST | FIN) == SYN
}

/// Whether these flags are those of an open connection.
#[inline(always)]
pub const fn continues(flags: u8) -> bool {
    flags & (SYN | ACK | RST) == ACK
}

/// What a side has sent, after one more segment; `reset` says that the connection was held for
/// reset when it came.
#[inline(always)]
pub const fn seen(before: u8, flags: u8, reset: bool) -> u8 {
    let seen = before | (flags & TRACKED);
    if flags & RST != 0 {
        seen & !ALIVE
    } else if reset && continues(flags) {
        seen | ALIVE
    } else {
        seen
    }
}

/// The state of a connection whose sides have sent these flags so far.
///
/// A function of what each side has sent, and each side's set is written by its own segments
/// only: the order in which CPUs record flags cannot lead to a wrong state.
///
/// A reset is believed until both sides have gone on since. Whoever really sent one is deaf
/// from then on and answers with another, and whoever was hit by one says nothing any more, so
/// one side alone (segments that were under way) proves nothing. Both together show that the
/// reset was somebody else's, or late.
#[inline(always)]
pub const fn state(original: u8, reply: u8) -> FlowState {
    let either = original | reply;
    let both = original & reply;
    if either & RST != 0 && both & ALIVE == 0 {
        FlowState::Reset
    } else if both & FIN != 0 {
        FlowState::Closed
    } else if either & FIN != 0 {
        FlowState::Closing
    } else if reply & SYN == 0 {
        FlowState::SynSent
    } else if original & ACK == 0 {
        FlowState::SynReceived
    } else {
        FlowState::Established
    }
}

/// What a side must have sent for the connection to be in this state, if the other side has
/// sent `other`.
#[inline(always)]
pub fn likely(state: FlowState, side: Direction, other: u8) -> u8 {
    let begun = match (state, side) {
        (FlowState::OneWay | FlowState::TwoWay | FlowState::Echo, _) => return 0,
        (FlowState::SynSent, Direction::Reply) => 0,
        (FlowState::SynSent | FlowState::SynReceived, Direction::Original) => SYN,
        _ => SYN | ACK,
    };
    let other_has = |flag: u8| other & flag != 0;
    let rest = match state {
        FlowState::Reset if !other_has(RST) => RST,
        FlowState::Reset => 0,
        // The last reset has been refuted, by both sides.
        _ if other_has(RST | ALIVE) => ALIVE,
        _ => 0,
    };
    let finished = state == FlowState::Closed || (state == FlowState::Closing && !other_has(FIN));
    begun | rest | if finished { FIN } else { 0 }
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
