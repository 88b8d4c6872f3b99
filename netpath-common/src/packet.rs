//! Parsing: from bytes to a tuple, without ever reading past the end.

use network_types::eth::EthHdr;
use network_types::icmp::Icmpv4Hdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};
use network_types::tcp::TcpHdr;
use network_types::udp::UdpHdr;

use crate::addr::Addr;
use crate::icmp;
use crate::reason::DropReason;
use crate::sctp;
use crate::tcp;
use crate::tuple::{Proto, Tuple};

/// Types that any bytes are a valid value of.
///
/// # Safety
/// Every bit pattern of the type's size must be valid.
pub unsafe trait Wire: Copy {}

// SAFETY: integers and arrays of them have no invalid bit patterns.
unsafe impl Wire for u8 {}
// SAFETY: as above.
unsafe impl Wire for u16 {}
// SAFETY: as above.
unsafe impl Wire for u32 {}
// SAFETY: as above.
unsafe impl<const N: usize> Wire for [u16; N] {}
// SAFETY: as above.
unsafe impl<const N: usize> Wire for [u32; N] {}
// SAFETY: as above.
unsafe impl<const N: usize> Wire for [u8; N] {}
// SAFETY: as above.
unsafe impl<const N: usize> Wire for [u64; N] {}

/// Bytes of a frame, from its Ethernet header on.
pub trait Frame {
    /// The value at `offset`.
    ///
    /// # Errors
    /// [`DropReason::Malformed`] if it does not lie within the frame.
    fn load<T: Wire>(&self, offset: usize) -> Result<T, DropReason>;

    /// Length of the whole frame in bytes, also of what `load` cannot reach.
    fn len(&self) -> u32;

    /// Whether there is nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What follows the IP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// Not looked at yet.
    Unknown,
    /// Ports (or an echo identifier) are in the tuple.
    Ports,
    /// An echo reply: like [`Self::Ports`], but it never opens a flow.
    EchoReply,
    /// A later part of a fragmented packet, whose first has not been seen.
    Fragment,
    /// An ICMP error, which quotes the packet that caused it.
    Error,
    /// Another protocol, or an ICMP message of another kind.
    Other,
}

/// Parts of a fragmented packet.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fragment {
    /// Not fragmented.
    Whole = 0,
    /// The first part, which has the transport header.
    First = 1,
    /// Any other part; its ports are known from the first ([`crate::fragment`]).
    Later = 2,
}

/// What the stages know of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// Addresses; and ports once [`Packet::parse_transport`] has said [`Transport::Ports`].
    pub tuple: Tuple,
    /// Length of the frame in bytes, with the Ethernet header.
    pub len: u32,
    /// Where the IP packet ends in it: small frames are padded.
    pub end: u32,
    /// What the parts of a fragmented packet have in common, host byte order.
    pub fragment_id: u32,
    /// Offset of the transport header.
    pub l4: u16,
    /// IP protocol number of what follows the last IP header.
    pub ip_proto: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// TCP flags, or what stands for them ([`crate::sctp`]).
    pub tcp_flags: u8,
    /// Which part of a fragmented packet it is.
    pub fragment: Fragment,
    /// What is known of the transport header.
    pub transport: Transport,
}

/// Offset of the IP header: frames carry no VLAN tag at our hooks (the kernel takes it out).
pub const L3: usize = EthHdr::LEN;

/// Flag "more fragments" in the third word of an IPv4 header.
const IPV4_MORE: u16 = 0x2000;
/// The fragment's offset, there.
const IPV4_OFFSET: u16 = 0x1fff;

/// IPv6 extension headers that are skipped (RFC 8200): hop-by-hop, routing, destination options.
const IPV6_SKIPPED: [u8; 3] = [0, 43, 60];
/// IPv6 fragment header.
const IPV6_FRAGMENT: u8 = 44;
/// More extension headers than this before the transport header is not honest traffic,
/// and the verifier wants a bound.
const IPV6_MAX_EXTENSIONS: usize = 4;

/// Largest IPv4 packet that its length field can say; bigger ones (BIG TCP) say 0.
pub const IP_MAX: u32 = 65_535;

const ICMP_ECHO_REPLY: u8 = 0;
const ICMP_ECHO_REQUEST: u8 = 8;
const ICMPV6_ECHO_REQUEST: u8 = 128;
const ICMPV6_ECHO_REPLY: u8 = 129;

impl Fragment {
    /// By the offset (in whatever unit) and the flag "more".
    #[inline(always)]
    const fn of(offset: u16, more: bool) -> Self {
        match (offset, more) {
            (0, false) => Self::Whole,
            (0, true) => Self::First,
            _ => Self::Later,
        }
    }
}

impl Packet {
    /// A packet of which nothing is known but where it came from.
    pub const fn of_network(network: u16) -> Self {
        Self {
            tuple: Tuple {
                src: Addr::UNSPECIFIED,
                dst: Addr::UNSPECIFIED,
                src_port: 0,
                dst_port: 0,
                network,
                proto: Proto::Udp,
                reserved: 0,
            },
            len: 0,
            end: 0,
            fragment_id: 0,
            l4: 0,
            ip_proto: 0,
            ttl: 0,
            tcp_flags: 0,
            fragment: Fragment::Whole,
            transport: Transport::Unknown,
        }
    }

    /// An IPv4 packet's addresses and protocol.
    ///
    /// # Errors
    /// [`DropReason::Malformed`].
    #[inline(always)]
    pub fn parse_v4<F: Frame>(&mut self, frame: &F) -> Result<(), DropReason> {
        // As words: the fields of a header of byte arrays would be loaded byte by byte.
        let [head, fragment, middle, src, dst]: [u32; Ipv4Hdr::LEN / 4] = frame.load(L3)?;
        let [version, _, total @ ..] = head.to_ne_bytes();
        let [i0, i1, f0, f1] = fragment.to_ne_bytes();
        let [ttl, proto, ..] = middle.to_ne_bytes();
        let header_len = u16::from(version & 0x0f) * 4;
        let total = u16::from_be_bytes(total);
        let room = frame.len() - L3 as u32;
        let whole = u32::from(total) <= room && total >= header_len;
        if version >> 4 != 4
            || usize::from(header_len) < Ipv4Hdr::LEN
            || !(whole || (total == 0 && room > IP_MAX))
        {
            return Err(DropReason::Malformed);
        }
        self.tuple.src = Addr::v4(src.to_ne_bytes());
        self.tuple.dst = Addr::v4(dst.to_ne_bytes());
        self.len = frame.len();
        self.end = if whole {
            L3 as u32 + u32::from(total)
        } else {
            frame.len()
        };
        self.l4 = L3 as u16 + header_len;
        self.ip_proto = proto;
        self.ttl = ttl;
        let place = u16::from_be_bytes([f0, f1]);
        self.fragment = Fragment::of(place & IPV4_OFFSET, place & IPV4_MORE != 0);
        self.fragment_id = u32::from(u16::from_be_bytes([i0, i1]));
        Ok(())
    }

    /// The fixed header of an IPv6 packet: its addresses and what follows it, which may be an
    /// extension header.
    ///
    /// # Errors
    /// [`DropReason::Malformed`].
    #[inline(always)]
    pub fn parse_v6_fixed<F: Frame>(&mut self, frame: &F) -> Result<(), DropReason> {
        let [head, s0, s1, d0, d1]: [u64; Ipv6Hdr::LEN / 8] = frame.load(L3)?;
        let [version, _, _, _, p0, p1, next, hops] = head.to_ne_bytes();
        let payload = u32::from(u16::from_be_bytes([p0, p1]));
        let room = (frame.len() - L3 as u32).saturating_sub(Ipv6Hdr::LEN as u32);
        // Aggregates of segments that do not fit into the length field have 0 there.
        let aggregate = payload == 0 && room > IP_MAX;
        if version >> 4 != 6 || payload > room {
            return Err(DropReason::Malformed);
        }
        self.tuple.src = Addr::from_halves([s0, s1]);
        self.tuple.dst = Addr::from_halves([d0, d1]);
        // Mapped addresses never travel (RFC 4291 gives them to hosts' own use); here they
        // would pass for IPv4.
        if self.tuple.src.is_v4() || self.tuple.dst.is_v4() {
            return Err(DropReason::Malformed);
        }
        self.len = frame.len();
        self.end = if aggregate {
            frame.len()
        } else {
            (L3 + Ipv6Hdr::LEN) as u32 + payload
        };
        self.l4 = (L3 + Ipv6Hdr::LEN) as u16;
        self.ip_proto = next;
        self.ttl = hops;
        self.fragment = Fragment::Whole;
        Ok(())
    }

    /// An IPv6 packet's addresses and protocol.
    ///
    /// # Errors
    /// [`DropReason::Malformed`].
    #[inline(always)]
    pub fn parse_v6<F: Frame>(&mut self, frame: &F) -> Result<(), DropReason> {
        self.parse_v6_fixed(frame)?;
        let (mut next, mut l4) = (self.ip_proto, L3 + Ipv6Hdr::LEN);
        for _ in 0..IPV6_MAX_EXTENSIONS {
            if next == IPV6_FRAGMENT {
                // Next header, reserved, offset and flags, identification (RFC 8200, 4.5).
                let [head, id]: [u32; 2] = frame.load(l4)?;
                let [following, _, p0, p1] = head.to_ne_bytes();
                let place = u16::from_be_bytes([p0, p1]);
                self.fragment = Fragment::of(place >> 3, place & 1 != 0);
                self.fragment_id = u32::from_be(id);
                next = following;
                l4 += 8;
                // What follows in a later part is no header, and in a first part whatever
                // follows but the transport header hides it.
                break;
            }
            if !IPV6_SKIPPED.contains(&next) {
                break;
            }
            let [following, length]: [u8; 2] = frame.load(l4)?;
            next = following;
            // Hop-by-hop options come first or not at all.
            if next == IPV6_SKIPPED[0] {
                return Err(DropReason::Malformed);
            }
            l4 += (usize::from(length) + 1) * 8;
        }
        // Behind more of them a container could hide neighbour discovery from us.
        let hidden = next == IPV6_FRAGMENT || IPV6_SKIPPED.contains(&next);
        if hidden && self.fragment != Fragment::Later {
            return Err(DropReason::Malformed);
        }
        if l4 as u32 > self.end {
            return Err(DropReason::Malformed);
        }
        self.l4 = l4 as u16;
        self.ip_proto = next;
        Ok(())
    }

    /// Offset of the transport header.
    ///
    /// The mask changes nothing (four extension headers of 2 KiB end before it), but tells
    /// the verifier that the offset is smaller than the largest packet.
    #[inline(always)]
    pub const fn transport_offset(&self) -> usize {
        self.l4 as usize & 0x3fff
    }

    /// Fills in the ports. Kept apart from the IP header because traffic between
    /// containers of one network needs none.
    ///
    /// # Errors
    /// [`DropReason::Malformed`].
    #[inline(always)]
    pub fn parse_transport<F: Frame>(&mut self, frame: &F) -> Result<(), DropReason> {
        self.transport = Transport::Other;
        let Some(proto) = Proto::from_number(self.ip_proto) else {
            return Ok(());
        };
        // ICMP over IPv6 and ICMPv6 over IPv4 mean nothing.
        let v4 = self.tuple.dst.is_v4();
        if (proto == Proto::Icmp && !v4) || (proto == Proto::Icmpv6 && v4) {
            return Ok(());
        }
        self.tuple.proto = proto;
        if self.fragment == Fragment::Later {
            self.transport = Transport::Fragment;
            return Ok(());
        }
        let l4 = self.transport_offset();
        // What lies in the frame after the IP packet's end is no header of it.
        let room = self.end.saturating_sub(l4 as u32);
        match proto {
            Proto::Tcp => {
                // Ports to flags; the fixed header must be there as a whole.
                let words: [u32; TcpHdr::LEN / 4] = frame.load(l4)?;
                let [offset, flags, ..] = words[3].to_ne_bytes();
                let header_len = u32::from(offset >> 4) * 4;
                if header_len < TcpHdr::LEN as u32 || header_len > room {
                    return Err(DropReason::Malformed);
                }
                self.tcp_flags = flags;
                self.set_ports(words[0]);
            }
            Proto::Udp => {
                let words: [u32; UdpHdr::LEN / 4] = frame.load(l4)?;
                let [high, low, ..] = words[1].to_ne_bytes();
                let len = u32::from(u16::from_be_bytes([high, low]));
                // The first part of a datagram tells the length of the whole.
                let lies = len > room && self.fragment == Fragment::Whole;
                if len < UdpHdr::LEN as u32 || lies {
                    return Err(DropReason::Malformed);
                }
                self.set_ports(words[0]);
            }
            Proto::Sctp => {
                // Ports, verification tag, checksum; type, flags and length of the first chunk.
                let words: [u32; sctp::HEADER_LEN / 4] = frame.load(l4)?;
                if room < sctp::HEADER_LEN as u32 {
                    return Err(DropReason::Malformed);
                }
                let [kind, _, l0, l1] = words[3].to_ne_bytes();
                // The first part of a packet need not have the whole chunk.
                let room = if self.fragment == Fragment::Whole {
                    room - 12
                } else {
                    u32::MAX
                };
                self.tcp_flags = sctp::flags(kind, words[1], u16::from_be_bytes([l0, l1]), room)
                    .ok_or(DropReason::Malformed)?;
                self.set_ports(words[0]);
            }
            Proto::Icmp | Proto::Icmpv6 => {
                let words: [u32; Icmpv4Hdr::LEN / 4] = frame.load(l4)?;
                if room < Icmpv4Hdr::LEN as u32 {
                    return Err(DropReason::Malformed);
                }
                let [kind, code, ..] = words[0].to_ne_bytes();
                let [id0, id1, ..] = words[1].to_ne_bytes();
                let id = u16::from_be_bytes([id0, id1]);
                let (request, reply) = match proto {
                    Proto::Icmp => (ICMP_ECHO_REQUEST, ICMP_ECHO_REPLY),
                    _ => (ICMPV6_ECHO_REQUEST, ICMPV6_ECHO_REPLY),
                };
                if icmp::quotes(proto, kind) {
                    self.transport = Transport::Error;
                    return Ok(());
                }
                if code != 0 || (kind != request && kind != reply) {
                    return Ok(());
                }
                if kind == request {
                    self.tuple.src_port = id;
                } else {
                    self.tuple.dst_port = id;
                    self.transport = Transport::EchoReply;
                    return Ok(());
                }
            }
        }
        self.transport = Transport::Ports;
        Ok(())
    }

    #[inline(always)]
    fn set_ports(&mut self, word: u32) {
        let [a, b, c, d] = word.to_ne_bytes();
        self.tuple.src_port = u16::from_be_bytes([a, b]);
        self.tuple.dst_port = u16::from_be_bytes([c, d]);
    }

    /// Whether the tuple is complete, so that there can be a flow.
    #[inline(always)]
    pub fn has_tuple(&self) -> bool {
        matches!(self.transport, Transport::Ports | Transport::EchoReply)
    }

    /// Whether a flow may begin with this packet. TCP begins with a SYN only (and SCTP with an INIT):
    /// a stray late segment must never make state (it would look like somebody's connection).
    ///
    /// # Errors
    /// Why not.
    #[inline(always)]
    pub fn may_open(&self) -> Result<(), DropReason> {
        match self.transport {
            Transport::Ports if self.fragment == Fragment::Later => Err(DropReason::Fragment),
            Transport::Ports if !self.tuple.proto.has_connections() || self.opens_connection() => {
                Ok(())
            }
            Transport::Ports | Transport::EchoReply => Err(DropReason::NoFlow),
            Transport::Fragment => Err(DropReason::Fragment),
            // An error about no flow of ours is about nothing that we let out.
            Transport::Error => Err(DropReason::NoFlow),
            Transport::Other | Transport::Unknown => Err(DropReason::UnsupportedProtocol),
        }
    }

    /// Whether it says that its sender has a connection, so that the flow of it may be lost.
    #[inline(always)]
    pub fn continues_connection(&self) -> bool {
        self.transport == Transport::Ports
            && self.fragment != Fragment::Later
            && self.tuple.proto.has_connections()
            && tcp::continues(self.tcp_flags)
    }

    /// Whether it opens a connection, of a protocol that has such.
    #[inline(always)]
    pub fn opens_connection(&self) -> bool {
        self.tuple.proto.has_connections() && tcp::opens(self.tcp_flags)
    }
}
