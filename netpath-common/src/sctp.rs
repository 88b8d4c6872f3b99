//! SCTP associations (RFC 9260), told in the words of TCP.
//!
//! SCTP's checksum covers its ports, and is not one that could be changed by a difference: only
//! addresses are translated. It has no pseudo header, so that leaves the checksum right.
//!
//! An association begins and ends as a TCP connection does, chunk by chunk instead of flag by
//! flag. Only the first chunk of a packet is looked at; the chunks that begin an association
//! and end it are the first ones, or are followed by one that is.

use crate::tcp::{ACK, FIN, RST, SYN};

/// Length of the common header and of a chunk's header: what there must be.
pub const HEADER_LEN: usize = 12 + 4;

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const SHUTDOWN_COMPLETE: u8 = 14;

/// The least length of an INIT chunk (RFC 9260, 3.3.2).
const INIT_LEN: u16 = 20;

/// The TCP flags that say what a packet's first chunk says. `None`: there is no such packet.
///
/// `tag` is the verification tag, 0 for INIT and nobody else (RFC 9260, 8.5); `len` the chunk's
/// length and `room` what follows the common header.
#[inline(always)]
pub fn flags(kind: u8, tag: u32, len: u16, room: u32) -> Option<u8> {
    let first = kind == INIT;
    let least = if first { INIT_LEN } else { 4 };
    if first != (tag == 0) || len < least || u32::from(len) > room {
        return None;
    }
    Some(match kind {
        INIT => SYN,
        INIT_ACK => SYN | ACK,
        ABORT => RST,
        SHUTDOWN | SHUTDOWN_ACK | SHUTDOWN_COMPLETE => FIN | ACK,
        _ => ACK,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::FlowState;
    use crate::tcp;

    #[test]
    fn an_association_from_birth_to_death() {
        const COOKIE_ECHO: u8 = 10;
        const COOKIE_ACK: u8 = 11;
        let steps = [
            (INIT, 0, FlowState::SynSent),
            (0, INIT_ACK, FlowState::SynReceived),
            (COOKIE_ECHO, 0, FlowState::Established),
            (0, COOKIE_ACK, FlowState::Established),
            (SHUTDOWN, 0, FlowState::Closing),
            (0, SHUTDOWN_ACK, FlowState::Closed),
            (SHUTDOWN_COMPLETE, 0, FlowState::Closed),
            (0, ABORT, FlowState::Reset),
        ];
        let (mut original, mut reply) = (0, 0);
        for (o, r, expected) in steps {
            for (kind, side) in [(o, &mut original), (r, &mut reply)] {
                if kind != 0 {
                    *side |= flags(kind, u32::from(kind != INIT), 20, 20).expect("a packet");
                }
            }
            assert_eq!(tcp::state(original, reply), expected);
        }
    }

    #[test]
    fn what_contradicts_itself_is_no_packet() {
        for (kind, tag, len, room) in [
            (INIT, 1, 20, 20),
            (INIT, 0, 19, 20),
            (INIT, 0, 21, 20),
            (INIT_ACK, 0, 20, 20),
            (0, 0, 20, 20),
            (0, 1, 3, 20),
        ] {
            assert_eq!(flags(kind, tag, len, room), None);
        }
    }
}
