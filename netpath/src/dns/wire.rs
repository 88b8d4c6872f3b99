//! Messages as bytes (RFC 1035, section 4): what is passed on is passed on as it is.

/// Bytes of a header.
pub const HEADER: usize = 12;

/// Response codes (RFC 1035).
pub mod code {
    /// The query cannot be read.
    pub const FORMAT: u8 = 1;
    /// The server could not find out.
    pub const SERVER: u8 = 2;
    /// The server does not do such things.
    pub const NOT_IMPLEMENTED: u8 = 4;
    /// The server does not want to.
    pub const REFUSED: u8 = 5;
}

const QR: u8 = 0x80;
const OPCODE: u8 = 0x78;
const TC: u8 = 0x02;
const RD: u8 = 0x01;
const RA: u8 = 0x80;
const RCODE: u8 = 0x0f;

/// The message's number.
pub fn id(message: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes([*message.first()?, *message.get(1)?]))
}

/// Gives a message another number.
pub fn set_id(message: &mut [u8], id: u16) {
    if let Some(place) = message.first_chunk_mut::<2>() {
        *place = id.to_be_bytes();
    }
}

/// Whether it is an answer.
pub fn is_response(message: &[u8]) -> bool {
    message.get(2).is_some_and(|byte| byte & QR != 0)
}

/// The response code, without EDNS's part of it.
pub fn response_code(message: &[u8]) -> u8 {
    message.get(3).map_or(0, |byte| byte & RCODE)
}

/// Number of questions.
fn questions(message: &[u8]) -> u16 {
    match message {
        [_, _, _, _, high, low, ..] => u16::from_be_bytes([*high, *low]),
        _ => 0,
    }
}

/// Where the only question ends; `None` if there is not exactly one, or it is cut.
pub fn question_end(message: &[u8]) -> Option<usize> {
    if questions(message) != 1 {
        return None;
    }
    let mut at = HEADER;
    // A name has at most 255 bytes; the first one of a message has nothing to point back to.
    while at <= HEADER + 255 {
        match *message.get(at)? {
            0 => {
                let end = at + 1 + 4;
                return (end <= message.len()).then_some(end);
            }
            length @ 1..=63 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
    None
}

/// Whether `response` answers `query`: the number is the same, and so is the question, in
/// whatever case its letters are.
pub fn is_answer(query: &[u8], response: &[u8]) -> bool {
    let Some(end) = question_end(query) else {
        return false;
    };
    is_response(response)
        && id(query) == id(response)
        && opcode(query) == opcode(response)
        && question_end(response) == Some(end)
        && query[HEADER..end].eq_ignore_ascii_case(&response[HEADER..end])
}

fn opcode(message: &[u8]) -> Option<u8> {
    message.get(2).map(|byte| byte & OPCODE)
}

/// An answer without any records: the query's header and, if it can be made out, question.
/// `None` if there is no header to answer.
pub fn refuse(query: &[u8], code: u8) -> Option<Vec<u8>> {
    bare(query, code, 0)
}

/// An answer that does not fit: whoever asked should ask by TCP.
pub fn truncated(response: &[u8]) -> Option<Vec<u8>> {
    bare(response, response_code(response), TC)
}

fn bare(message: &[u8], code: u8, flags: u8) -> Option<Vec<u8>> {
    let header: &[u8; HEADER] = message.first_chunk()?;
    let end = question_end(message);
    let mut answer = message[..end.unwrap_or(HEADER)].to_vec();
    answer[2] = header[2] & (OPCODE | RD) | QR | flags;
    answer[3] = RA | code & RCODE;
    answer[4..HEADER].fill(0);
    answer[5] = u8::from(end.is_some());
    Some(answer)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A query for `a.bc`, type A.
    const QUERY: &[u8] =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x02bc\x00\x00\x01\x00\x01";

    fn response() -> Vec<u8> {
        let mut response = QUERY.to_vec();
        response[2] |= QR;
        response
    }

    #[test]
    fn only_the_answer_to_the_question_is_one() {
        assert!(is_answer(QUERY, &response()));
        assert!(!is_answer(QUERY, QUERY));
        let mut other_case = response();
        other_case[13] = b'A';
        assert!(is_answer(QUERY, &other_case));
        for (at, value) in [(0, 0), (1, 0), (2, QR | 8), (5, 2), (13, b'b'), (20, 28)] {
            let mut wrong = response();
            wrong[at] = value;
            assert!(!is_answer(QUERY, &wrong), "{at}");
        }
        for length in 0..QUERY.len() {
            assert!(!is_answer(QUERY, &response()[..length]));
        }
    }

    #[test]
    fn refusals_have_the_question_and_nothing_else() {
        let mut query = QUERY.to_vec();
        query[11] = 1;
        query.extend([0; 11]);
        let refused = refuse(&query, code::REFUSED).unwrap();
        assert_eq!(refused.len(), QUERY.len());
        assert_eq!(refused[..6], [0x12, 0x34, QR | RD, RA | 5, 0, 1]);
        assert!(is_answer(QUERY, &refused));
        // Two questions, or one that leads nowhere.
        query[5] = 2;
        assert_eq!(refuse(&query, code::FORMAT).unwrap().len(), HEADER);
        let loops = b"\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01";
        assert_eq!(refuse(loops, code::FORMAT).unwrap().len(), HEADER);
        assert_eq!(refuse(&QUERY[..11], code::FORMAT), None);
        let cut = truncated(&response()).unwrap();
        assert_eq!(cut[2] & TC, TC);
    }

    proptest! {
        #[test]
        fn nothing_panics(message in prop::collection::vec(any::<u8>(), 0..600)) {
            let end = question_end(&message);
            prop_assert!(end.is_none_or(|end| end <= message.len() && end <= HEADER + 255 + 5));
            let refused = refuse(&message, code::SERVER);
            prop_assert_eq!(refused.is_some(), message.len() >= HEADER);
            prop_assert!(refused.is_none_or(|refused| refused.len() <= message.len()));
        }
    }
}
