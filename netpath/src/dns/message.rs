//! Reading queries and writing answers.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::tables::{Families, Found};
use super::wire::{self, code};

/// How long answers may be kept, in seconds. Asking again costs some microseconds, and an
/// address may belong to nobody a moment later; resolvers inside containers that keep answers
/// (a JVM, nscd) should not be wrong for long.
const TTL: u32 = 5;
/// What every client takes by UDP (RFC 1035).
const SMALL: usize = 512;
/// No answer by UDP is larger, whatever the client says it takes.
const LARGE: usize = 4096;
/// What we say that we take.
const PAYLOAD: u16 = 1232;
/// Largest message by TCP.
const TCP: usize = 65_535;
/// The version of EDNS that there is.
const EDNS_VERSION: u8 = 0;

/// A query that can be answered or passed on.
#[derive(Debug)]
pub struct Request {
    message: Message,
    query: Query,
    /// What is asked for: lower case, without the last dot. `None` if its labels have dots or
    /// odd bytes inside, which no name of ours has.
    pub name: Option<String>,
    /// Largest answer in bytes.
    pub limit: usize,
}

/// What a message is.
#[derive(Debug)]
pub enum Read {
    /// A query.
    Request(Box<Request>),
    /// Something to be refused, with the answer.
    Refused(Vec<u8>),
    /// Nothing to answer: no message at all, or somebody's answer.
    Nothing,
}

/// What is asked about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Addresses.
    Addresses(Families),
    /// Whose address it is.
    Pointer,
    /// Something that containers do not have.
    Other,
}

/// Reads a message that came by UDP or TCP.
pub fn read(bytes: &[u8], tcp: bool) -> Read {
    if wire::is_response(bytes) {
        return Read::Nothing;
    }
    let refused = |code| wire::refuse(bytes, code).map_or(Read::Nothing, Read::Refused);
    let Ok(message) = Message::from_vec(bytes) else {
        return refused(code::FORMAT);
    };
    if message.metadata.op_code != OpCode::Query {
        return refused(code::NOT_IMPLEMENTED);
    }
    // RFC 9619: a query has exactly one question.
    let (Some(_), [query]) = (wire::question_end(bytes), &*message.queries) else {
        return refused(code::FORMAT);
    };
    let zone = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
    if query.query_class() != DNSClass::IN || zone {
        return refused(code::REFUSED);
    }
    let query = query.clone();
    let limit = match &message.edns {
        _ if tcp => TCP,
        None => SMALL,
        Some(edns) => usize::from(edns.max_payload()).clamp(SMALL, LARGE),
    };
    let request = Request {
        name: plain(query.name()),
        query,
        limit,
        message,
    };
    match &request.message.edns {
        Some(edns) if edns.version() != EDNS_VERSION => {
            request.bad_version().map_or(Read::Nothing, Read::Refused)
        }
        _ => Read::Request(Box::new(request)),
    }
}

/// A name in lower case without the last dot.
fn plain(name: &Name) -> Option<String> {
    let mut text = String::new();
    for label in name.iter() {
        let label = std::str::from_utf8(label).ok()?;
        let odd = |c: char| c == '.' || !c.is_ascii_graphic();
        if label.contains(odd) {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(&label.to_ascii_lowercase());
    }
    Some(text)
}

impl Request {
    /// What is asked about the name.
    pub fn wanted(&self) -> Wanted {
        let (v4, v6) = match self.query.query_type() {
            RecordType::A => (true, false),
            RecordType::AAAA => (false, true),
            RecordType::ANY => (true, true),
            RecordType::PTR => return Wanted::Pointer,
            _ => return Wanted::Other,
        };
        Wanted::Addresses(Families { v4, v6 })
    }

    /// The answer with addresses; as many as fit, and if that are not all, a hint to ask by TCP.
    /// None says that the name is known and has no such address.
    pub fn addresses(&self, found: &Found) -> Option<Vec<u8>> {
        let v4 = found.v4.iter().map(|ip| RData::A(A(*ip)));
        let v6 = found.v6.iter().map(|ip| RData::AAAA(AAAA(*ip)));
        self.answer(v4.chain(v6).collect())
    }

    /// The answer with the name that an address has.
    pub fn pointer(&self, name: &str) -> Option<Vec<u8>> {
        let name = Name::from_ascii(format!("{name}.")).ok()?;
        self.answer(vec![RData::PTR(PTR(name))])
    }

    fn answer(&self, data: Vec<RData>) -> Option<Vec<u8>> {
        let whole = self.with_records(&data, data.len())?;
        if whole.len() <= self.limit {
            return Some(whole);
        }
        // All records of a family are of the same length; halving finds what fits of both.
        let (mut fits, mut fails) = (0, data.len());
        while fails - fits > 1 {
            let half = usize::midpoint(fits, fails);
            if self.with_records(&data, half)?.len() <= self.limit {
                fits = half;
            } else {
                fails = half;
            }
        }
        self.with_records(&data, fits)
    }

    /// The answer with the first `count` records.
    fn with_records(&self, data: &[RData], count: usize) -> Option<Vec<u8>> {
        let mut answer = self.blank();
        answer.metadata.authoritative = true;
        answer.metadata.truncation = count < data.len();
        for data in &data[..count] {
            answer.add_answer(Record::from_rdata(
                self.query.name().clone(),
                TTL,
                data.clone(),
            ));
        }
        answer.to_vec().ok()
    }

    fn blank(&self) -> Message {
        let asked = &self.message.metadata;
        let mut answer = Message::new(asked.id, MessageType::Response, asked.op_code);
        answer.metadata.recursion_desired = asked.recursion_desired;
        answer.metadata.checking_disabled = asked.checking_disabled;
        answer.metadata.recursion_available = true;
        answer.add_query(self.query.clone());
        if self.message.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(PAYLOAD);
            answer.set_edns(edns);
        }
        answer
    }

    fn bad_version(&self) -> Option<Vec<u8>> {
        let mut answer = self.blank();
        answer.metadata.response_code = ResponseCode::BADVERS;
        answer.to_vec().ok()
    }
}

/// An address that [`Request::name`] stands for, if it is that of a pointer.
pub fn pointed_at(request: &Request) -> Option<IpAddr> {
    super::tables::address_of_pointer(request.name.as_deref()?)
}
