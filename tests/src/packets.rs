//! Frames made by etherparse, which shares nothing with the code under test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    IcmpEchoHeader, Icmpv4Type, Icmpv6Type, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header,
    Ipv4Options, Ipv6Extensions, Ipv6FlowLabel, Ipv6Header, NetHeaders, PacketBuilder,
    PacketHeaders, PayloadSlice, TcpHeader, TransportHeader,
};

use crate::verify;

/// TCP flags as on the wire.
pub const FIN: u8 = 0x01;
/// SYN.
pub const SYN: u8 = 0x02;
/// RST.
pub const RST: u8 = 0x04;
/// ACK.
pub const ACK: u8 = 0x10;

/// Length of an Ethernet header.
pub const ETH: usize = 14;

/// What follows the IP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum L4 {
    /// TCP with these ports and flags.
    Tcp(u16, u16, u8),
    /// UDP with these ports.
    Udp(u16, u16),
    /// An echo request of this identifier, of the family of the addresses.
    Request(u16),
    /// An echo reply of this identifier.
    Reply(u16),
    /// SCTP with these ports and a first chunk of this type.
    Sctp(u16, u16, u8),
}

/// SCTP chunks (RFC 9260).
pub const INIT: u8 = 1;
/// See [`INIT`].
pub const INIT_ACK: u8 = 2;
/// See [`INIT`].
pub const ABORT: u8 = 6;
/// See [`INIT`].
pub const SHUTDOWN: u8 = 7;
/// See [`INIT`].
pub const SHUTDOWN_ACK: u8 = 8;
/// See [`INIT`].
pub const COOKIE_ECHO: u8 = 10;
/// See [`INIT`].
pub const DATA: u8 = 0;

/// Bytes of an SCTP packet before the payload: the common header, the chunk's header, and as
/// much of the chunk as each INIT has.
const SCTP_HEAD: usize = 12 + 4 + 16;

/// A packet as its sender means it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sample {
    /// Source MAC address.
    pub mac_src: [u8; 6],
    /// Destination MAC address.
    pub mac_dst: [u8; 6],
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same family.
    pub dst: IpAddr,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Transport header.
    pub l4: L4,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Sample {
    /// A packet with usual values for all that is not said.
    pub fn new(src: &str, dst: &str, l4: L4) -> Self {
        Self::between(ip(src), ip(dst), l4)
    }

    /// As [`Self::new`].
    pub fn between(src: IpAddr, dst: IpAddr, l4: L4) -> Self {
        let (mac_src, mac_dst) = ([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]);
        Self {
            mac_src,
            mac_dst,
            src,
            dst,
            ttl: 64,
            l4,
            payload: b"some payload!".to_vec(),
        }
    }

    /// The same with these MAC addresses.
    pub fn macs(mut self, src: [u8; 6], dst: [u8; 6]) -> Self {
        (self.mac_src, self.mac_dst) = (src, dst);
        self
    }

    /// The same with this time to live.
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// The same with this payload.
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// The answer to it: addresses, ports and MAC addresses swapped. The flags are a chunk's
    /// type in SCTP.
    pub fn answer(&self, flags: u8) -> Self {
        let l4 = match self.l4 {
            L4::Tcp(src, dst, _) => L4::Tcp(dst, src, flags),
            L4::Udp(src, dst) => L4::Udp(dst, src),
            L4::Request(id) => L4::Reply(id),
            L4::Reply(id) => L4::Request(id),
            L4::Sctp(src, dst, _) => L4::Sctp(dst, src, flags),
        };
        Self::between(self.dst, self.src, l4).macs(self.mac_dst, self.mac_src)
    }

    /// Source and destination port, or the echo identifier in both places.
    pub fn ports(&self) -> (u16, u16) {
        match self.l4 {
            L4::Tcp(src, dst, _) | L4::Udp(src, dst) | L4::Sctp(src, dst, _) => (src, dst),
            L4::Request(id) | L4::Reply(id) => (id, id),
        }
    }

    /// The frame.
    pub fn bytes(&self) -> Vec<u8> {
        self.with_options(0)
    }

    /// The frame with that many words of IPv4 options (0 to 10).
    pub fn with_options(&self, words: usize) -> Vec<u8> {
        let step = PacketBuilder::ethernet2(self.mac_src, self.mac_dst).ip(self.headers(words));
        let mut bytes = Vec::new();
        let v4 = self.src.is_ipv4();
        let echo = |id| IcmpEchoHeader { id, seq: 7 };
        let written = match self.l4 {
            L4::Tcp(src, dst, flags) => {
                let mut header = TcpHeader::new(src, dst, 1_000, 4_096);
                (header.fin, header.syn) = (flags & FIN != 0, flags & SYN != 0);
                (header.rst, header.ack) = (flags & RST != 0, flags & ACK != 0);
                step.tcp_header(header).write(&mut bytes, &self.payload)
            }
            L4::Udp(src, dst) => step.udp(src, dst).write(&mut bytes, &self.payload),
            L4::Sctp(src, dst, chunk) => {
                let sctp = sctp(src, dst, chunk, &self.payload);
                step.write(&mut bytes, IpNumber::SCTP, &sctp)
            }
            L4::Request(id) if v4 => {
                let kind = Icmpv4Type::EchoRequest(echo(id));
                step.icmpv4(kind).write(&mut bytes, &self.payload)
            }
            L4::Reply(id) if v4 => {
                let kind = Icmpv4Type::EchoReply(echo(id));
                step.icmpv4(kind).write(&mut bytes, &self.payload)
            }
            L4::Request(id) => {
                let kind = Icmpv6Type::EchoRequest(echo(id));
                step.icmpv6(kind).write(&mut bytes, &self.payload)
            }
            L4::Reply(id) => {
                let kind = Icmpv6Type::EchoReply(echo(id));
                step.icmpv6(kind).write(&mut bytes, &self.payload)
            }
        };
        written.expect("a frame that fits");
        bytes
    }

    fn headers(&self, option_words: usize) -> IpHeaders {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                // "No operation" and then "end of options".
                let mut options = vec![1u8; option_words * 4];
                if let Some(last) = options.last_mut() {
                    *last = 0;
                }
                let header = Ipv4Header {
                    source: src.octets(),
                    destination: dst.octets(),
                    time_to_live: self.ttl,
                    options: Ipv4Options::try_from(&options[..]).expect("at most ten words"),
                    ..Ipv4Header::default()
                };
                IpHeaders::Ipv4(header, Ipv4Extensions::default())
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let header = Ipv6Header {
                    traffic_class: 0,
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: 0,
                    next_header: IpNumber::UDP,
                    hop_limit: self.ttl,
                    source: src.octets(),
                    destination: dst.octets(),
                };
                IpHeaders::Ipv6(header, Ipv6Extensions::default())
            }
            _ => panic!("{} and {} are of different families", self.src, self.dst),
        }
    }

    /// What a frame says, read by etherparse. `None` if it is no such packet.
    pub fn read(frame: &[u8]) -> Option<Self> {
        let headers = PacketHeaders::from_ethernet_slice(frame).ok()?;
        let (src, dst, ttl) = match headers.net? {
            NetHeaders::Ipv4(ip, _) => (
                IpAddr::from(Ipv4Addr::from(ip.source)),
                IpAddr::from(Ipv4Addr::from(ip.destination)),
                ip.time_to_live,
            ),
            NetHeaders::Ipv6(ip, _) => (
                IpAddr::from(Ipv6Addr::from(ip.source)),
                IpAddr::from(Ipv6Addr::from(ip.destination)),
                ip.hop_limit,
            ),
            NetHeaders::Arp(_) => return None,
        };
        let mut payload = headers.payload.slice();
        let l4 = match headers.transport {
            None => {
                let PayloadSlice::Ip(inside) = &headers.payload else {
                    return None;
                };
                if inside.ip_number != IpNumber::SCTP || payload.len() < SCTP_HEAD {
                    return None;
                }
                let port = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
                let l4 = L4::Sctp(port(0), port(2), payload[12]);
                payload = &payload[SCTP_HEAD..];
                l4
            }
            Some(transport) => read_transport(&transport)?,
        };
        let mac = |at: usize| frame[at..at + 6].try_into().expect("six bytes");
        Some(Self {
            mac_src: mac(6),
            mac_dst: mac(0),
            src,
            dst,
            ttl,
            l4,
            payload: payload.to_vec(),
        })
    }
}

/// An SCTP packet of one chunk, without what surrounds it.
fn sctp(src: u16, dst: u16, chunk: u8, payload: &[u8]) -> Vec<u8> {
    let tag = if chunk == INIT { 0 } else { 0x0102_0304u32 };
    let len = (SCTP_HEAD - 12 + payload.len()) as u16;
    let mut bytes = Vec::new();
    bytes.extend(src.to_be_bytes());
    bytes.extend(dst.to_be_bytes());
    bytes.extend(tag.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend([chunk, 0]);
    bytes.extend(len.to_be_bytes());
    bytes.resize(SCTP_HEAD, 7);
    bytes.extend(payload);
    let sum = verify::crc32c(&bytes);
    bytes[8..12].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// Ports and kind, if it is one of those that we make.
fn read_transport(transport: &TransportHeader) -> Option<L4> {
    Some(match transport {
        TransportHeader::Tcp(tcp) => {
            let flags = [
                (tcp.fin, FIN),
                (tcp.syn, SYN),
                (tcp.rst, RST),
                (tcp.ack, ACK),
            ];
            let flags = flags
                .iter()
                .filter(|(set, _)| *set)
                .map(|(_, bit)| bit)
                .sum();
            L4::Tcp(tcp.source_port, tcp.destination_port, flags)
        }
        TransportHeader::Udp(udp) => L4::Udp(udp.source_port, udp.destination_port),
        TransportHeader::Icmpv4(icmp) => match &icmp.icmp_type {
            Icmpv4Type::EchoRequest(echo) => L4::Request(echo.id),
            Icmpv4Type::EchoReply(echo) => L4::Reply(echo.id),
            _ => return None,
        },
        TransportHeader::Icmpv6(icmp) => match &icmp.icmp_type {
            Icmpv6Type::EchoRequest(echo) => L4::Request(echo.id),
            Icmpv6Type::EchoReply(echo) => L4::Reply(echo.id),
            _ => return None,
        },
        TransportHeader::Igmp(_) => return None,
    })
}

/// An address.
pub fn ip(text: &str) -> IpAddr {
    text.parse()
        .unwrap_or_else(|_| panic!("{text} is no address"))
}

/// Puts IPv6 extension headers of these kinds, 8 bytes each, between the IPv6 header and
/// what follows it.
pub fn insert_extensions(frame: &mut Vec<u8>, kinds: &[u8]) {
    let (next_header, payload_len, end) = (ETH + 6, ETH + 4, ETH + 40);
    for &kind in kinds.iter().rev() {
        let next = frame[next_header];
        // Padding options (PadN of 4 bytes); the fragment header reads it as an offset of
        // 0x0104 and so on, the routing header as one without segments left.
        let body = if kind == 43 {
            [0; 6]
        } else {
            [1, 4, 0, 0, 0, 0]
        };
        frame.splice(end..end, [[next, 0].as_slice(), &body].concat());
        frame[next_header] = kind;
        let length = u16::from_be_bytes([frame[payload_len], frame[payload_len + 1]]) + 8;
        frame[payload_len..payload_len + 2].copy_from_slice(&length.to_be_bytes());
    }
}

/// Makes an IPv4 frame a fragment by flag and offset (in units of 8 bytes), with a valid
/// header checksum.
pub fn make_fragment(frame: &mut [u8], more: bool, offset: u16) {
    let word = offset | if more { 0x2000 } else { 0 };
    frame[ETH + 6..ETH + 8].copy_from_slice(&word.to_be_bytes());
    fix_ipv4_checksum(frame);
}

/// Recomputes the IPv4 header checksum, if the header can be read.
pub fn fix_ipv4_checksum(frame: &mut [u8]) {
    if let Ok((header, _)) = Ipv4Header::from_slice(&frame[ETH..]) {
        let sum = header.calc_header_checksum();
        frame[ETH + 10..ETH + 12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// An ARP packet for IPv4 over Ethernet.
pub fn arp(op: u16, mac: [u8; 6], sender: &str, asked_mac: [u8; 6], target: &str) -> Vec<u8> {
    let v4 = |text: &str| text.parse::<Ipv4Addr>().expect("an IPv4 address").octets();
    let packet = etherparse::ArpPacket::new(
        etherparse::ArpHardwareId::ETHERNET,
        etherparse::EtherType::IPV4,
        etherparse::ArpOperation(op),
        &mac,
        &v4(sender),
        &asked_mac,
        &v4(target),
    )
    .expect("lengths that agree");
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(mac, [0xff; 6])
        .arp(packet)
        .write(&mut bytes)
        .expect("a frame");
    bytes
}

/// Any ICMPv6 message with hop limit 255, as neighbour discovery has it.
pub fn icmpv6(macs: [[u8; 6]; 2], src: &str, dst: &str, kind: u8, body: &[u8]) -> Vec<u8> {
    let v6 = |text: &str| text.parse::<Ipv6Addr>().expect("an IPv6 address").octets();
    let first = body[..4].try_into().expect("four bytes");
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(macs[0], macs[1])
        .ipv6(v6(src), v6(dst), 255)
        .icmpv6_raw(kind, 0, first)
        .write(&mut bytes, &body[4..])
        .expect("a frame");
    bytes
}

/// The body of a neighbour solicitation for `target`, with these options.
pub fn solicitation(target: &str, options: &[u8]) -> Vec<u8> {
    let target = target
        .parse::<Ipv6Addr>()
        .expect("an IPv6 address")
        .octets();
    [[0; 4].as_slice(), &target, options].concat()
}

/// "Too big" in IPv4's and IPv6's way, quoting that many bytes of an IP packet.
pub fn too_big(
    macs: [[u8; 6]; 2],
    src: &str,
    dst: &str,
    ip_packet: &[u8],
    quoted: usize,
) -> Vec<u8> {
    let step = PacketBuilder::ethernet2(macs[0], macs[1]);
    let quoted = &ip_packet[..quoted.min(ip_packet.len())];
    let mut frame = Vec::new();
    let written = match (ip(src), ip(dst)) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => step
            .ipv4(src.octets(), dst.octets(), 64)
            .icmpv4_raw(3, 4, [0, 0, 5, 20])
            .write(&mut frame, quoted),
        (IpAddr::V6(src), IpAddr::V6(dst)) => step
            .ipv6(src.octets(), dst.octets(), 64)
            .icmpv6_raw(2, 0, [0, 0, 5, 20])
            .write(&mut frame, quoted),
        _ => panic!("two families"),
    };
    written.expect("a frame");
    frame
}
