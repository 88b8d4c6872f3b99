//! Checks of frames by etherparse alone.

use etherparse::{Icmpv6Type, IpNumber, NetHeaders, PacketHeaders, PayloadSlice, TransportHeader};

/// Whether two checksums are the same number in one's complement, where 0 has two forms.
fn same(a: u16, b: u16) -> bool {
    a % 0xffff == b % 0xffff
}

/// Whether etherparse, taking every length at its word, finds all headers whole.
pub fn is_well_formed(frame: &[u8]) -> bool {
    PacketHeaders::from_ethernet_slice(frame).is_ok()
}

/// Checks every checksum of a frame: IPv4 header, TCP, UDP, ICMP, ICMPv6, SCTP.
///
/// # Errors
/// What is wrong.
pub fn checksums(frame: &[u8]) -> Result<(), String> {
    let headers = PacketHeaders::from_ethernet_slice(frame).map_err(|e| format!("{e}"))?;
    let compare = |what: &str, there: u16, right: u16| {
        if same(there, right) {
            Ok(())
        } else {
            Err(format!(
                "{what} checksum is {there:#06x}, not {right:#06x}: {frame:02x?}"
            ))
        }
    };
    let payload = headers.payload.slice();
    let Some(net) = &headers.net else {
        return Ok(());
    };
    if let NetHeaders::Ipv4(ip, _) = net {
        compare("IPv4", ip.header_checksum, ip.calc_header_checksum())?;
    }
    let Some(mut transport) = headers.transport else {
        return match headers.payload {
            PayloadSlice::Ip(ip)
                if ip.ip_number == IpNumber::SCTP && !ip.fragmented && ip.payload.len() >= 12 =>
            {
                let packet = ip.payload;
                let there = [packet[8], packet[9], packet[10], packet[11]];
                let mut blank = packet.to_vec();
                blank[8..12].fill(0);
                let right = crc32c(&blank).to_le_bytes();
                if there == right {
                    Ok(())
                } else {
                    Err(format!("SCTP checksum is {there:02x?}, not {right:02x?}"))
                }
            }
            _ => Ok(()),
        };
    };
    let (name, there) = match &transport {
        TransportHeader::Udp(udp) if udp.checksum == 0 => {
            // Allowed for IPv4 only (RFC 8200, 8.1).
            return match net {
                NetHeaders::Ipv4(..) => Ok(()),
                _ => Err("UDP over IPv6 without a checksum".to_owned()),
            };
        }
        TransportHeader::Udp(udp) => ("UDP", udp.checksum),
        TransportHeader::Tcp(tcp) => ("TCP", tcp.checksum),
        TransportHeader::Icmpv4(icmp) => ("ICMP", icmp.checksum),
        TransportHeader::Icmpv6(icmp) => ("ICMPv6", icmp.checksum),
        TransportHeader::Igmp(igmp) => ("IGMP", igmp.checksum),
    };
    match net {
        NetHeaders::Ipv4(ip, _) => {
            transport
                .update_checksum_ipv4(ip, payload)
                .map_err(|e| format!("{e}"))?;
        }
        NetHeaders::Ipv6(ip, _) => {
            transport
                .update_checksum_ipv6(ip, payload)
                .map_err(|e| format!("{e}"))?;
        }
        NetHeaders::Arp(_) => return Ok(()),
    }
    let right = match &transport {
        TransportHeader::Udp(udp) => udp.checksum,
        TransportHeader::Tcp(tcp) => tcp.checksum,
        TransportHeader::Icmpv4(icmp) => icmp.checksum,
        TransportHeader::Icmpv6(icmp) => icmp.checksum,
        TransportHeader::Igmp(igmp) => igmp.checksum,
    };
    compare(name, there, right)
}

/// CRC32c by the book, bit by bit (RFC 9260, appendix A).
pub fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc))
    })
}

/// A neighbour advertisement, read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Advertisement {
    /// Flags: router, solicited, override.
    pub flags: [bool; 3],
    /// Target address and options.
    pub body: Vec<u8>,
}

/// The neighbour advertisement in a frame, if it is one.
pub fn advertisement(frame: &[u8]) -> Option<Advertisement> {
    let headers = PacketHeaders::from_ethernet_slice(frame).ok()?;
    let Some(TransportHeader::Icmpv6(icmp)) = headers.transport else {
        return None;
    };
    let Icmpv6Type::NeighborAdvertisement(na) = icmp.icmp_type else {
        return None;
    };
    Some(Advertisement {
        flags: [na.router, na.solicited, na.r#override],
        body: headers.payload.slice().to_vec(),
    })
}

/// Sets the UDP checksum of a frame to what etherparse computes. False if that is not UDP.
pub fn fix_udp(frame: &mut [u8]) -> bool {
    let Ok(headers) = PacketHeaders::from_ethernet_slice(frame) else {
        return false;
    };
    let Some(TransportHeader::Udp(udp)) = headers.transport else {
        return false;
    };
    let payload = headers.payload.slice();
    let (sum, at) = match &headers.net {
        Some(NetHeaders::Ipv4(ip, _)) => {
            (udp.calc_checksum_ipv4(ip, payload), 14 + ip.header_len())
        }
        Some(NetHeaders::Ipv6(ip, _)) => (udp.calc_checksum_ipv6(ip, payload), 14 + 40),
        _ => return false,
    };
    let Ok(sum) = sum else { return false };
    frame[at + 6..at + 8].copy_from_slice(&sum.to_be_bytes());
    true
}
