//! "Too big" (RFC 1191, RFC 8201), said by us: a tunnel takes less than the network around it,
//! and nobody on its way could tell the container.

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::helpers::generated::{bpf_csum_diff, bpf_skb_adjust_room, bpf_skb_change_tail};
use netpath_common::addr::Addr;
use netpath_common::checksum::{fold, sum_addr};
use netpath_common::endpoint::Veth;
use netpath_common::packet::{L3, Packet};
use netpath_common::reason::DropReason;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::frame::Linear;
use crate::kernel::Kernel;
use crate::neighbour;

/// Bytes of the packet that are quoted: the IP header (with all options that IPv4 can have) and
/// what TCP needs to know whose it is. The kernel cuts no packet before its checksum.
const QUOTED: usize = 96;
/// Length of an ICMP header.
const ICMP: usize = 8;

/// Version 4, five words of header.
const IPV4_HEAD: u8 = 0x45;
const VERSION_6: u32 = 6 << 28;
/// Time to live of the answer; it has one hop to go.
const TTL: u8 = 64;
const PROTO_ICMP: u8 = 1;
const PROTO_ICMPV6: u8 = 58;
/// Destination unreachable, fragmentation needed (RFC 792, RFC 1191).
const FRAGMENTATION_NEEDED: [u8; 2] = [3, 4];
/// Packet too big (RFC 4443, 3.2).
const PACKET_TOO_BIG: [u8; 2] = [2, 0];

/// Answers a container's packet with the largest size, in bytes of an IP packet, that would have
/// done; the reason if that could not be.
#[inline(never)]
pub fn answer(kernel: &Kernel<'_>, packet: &Packet, veth: &Veth, mtu: u16) -> Option<DropReason> {
    try_answer(kernel, packet, veth, mtu).err()
}

#[inline(always)]
fn try_answer(
    kernel: &Kernel<'_>,
    packet: &Packet,
    veth: &Veth,
    mtu: u16,
) -> Result<(), DropReason> {
    let v4 = packet.tuple.dst.is_v4();
    let ip = if v4 { Ipv4Hdr::LEN } else { Ipv6Hdr::LEN };
    let skb = kernel.ctx.skb.skb;
    // SAFETY: the context is the program's own; plain arguments.
    let made = unsafe {
        bpf_skb_change_tail(skb, (L3 + QUOTED) as u32, 0) == 0
            && bpf_skb_adjust_room(skb, (ip + ICMP) as i32, BPF_ADJ_ROOM_MAC, 0) == 0
    };
    if !made {
        return Err(DropReason::TooBig);
    }
    let gateway = veth.gateway_of(&packet.tuple.dst);
    // A network without a gateway: the neighbour itself says so.
    let src = if gateway.is_unspecified() {
        &packet.tuple.dst
    } else {
        &gateway
    };
    let linear = Linear::of(kernel.ctx, (L3 + ip + ICMP + QUOTED) as u32);
    let dst = &packet.tuple.src;
    let written = if v4 {
        write_v4(&linear, src, dst, mtu)
    } else {
        write_v6(&linear, src, dst, mtu)
    };
    written.ok_or(DropReason::TooBig)?;
    neighbour::back(kernel, &veth.mac, &veth.gateway_mac)?;
    let len = kernel.ctx.len();
    kernel.count(|counters| counters.answered.add(len));
    Ok(())
}

/// Sum of the quoted bytes behind `offset`, for a checksum.
#[inline(always)]
fn sum_quoted(linear: &Linear, offset: usize) -> Option<u64> {
    let quoted = linear.at::<[u8; QUOTED]>(offset)?;
    // SAFETY: the bytes lie within the packet.
    let sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, quoted.cast(), QUOTED as u32, 0) };
    u32::try_from(sum).ok().map(u64::from)
}

#[inline(always)]
fn write_v4(linear: &Linear, src: &Addr, dst: &Addr, mtu: u16) -> Option<()> {
    const TOTAL: [u8; 2] = ((Ipv4Hdr::LEN + ICMP + QUOTED) as u16).to_be_bytes();
    let l4 = L3 + Ipv4Hdr::LEN;
    let head = u32::from_ne_bytes([IPV4_HEAD, 0, TOTAL[0], TOTAL[1]]);
    let middle = u32::from_ne_bytes([TTL, PROTO_ICMP, 0, 0]);
    let (src, dst) = (src.quads()[3], dst.quads()[3]);
    let sum = u64::from(head) + u64::from(middle) + u64::from(src) + u64::from(dst);
    let [high, low] = (!fold(sum)).to_ne_bytes();
    let middle = u32::from_ne_bytes([TTL, PROTO_ICMP, high, low]);
    linear.store(L3, [head, 0, middle, src, dst])?;
    let [high, low] = mtu.to_be_bytes();
    let next_hop = u32::from_ne_bytes([0, 0, high, low]);
    write_icmp(linear, l4, FRAGMENTATION_NEEDED, next_hop, 0)
}

#[inline(always)]
fn write_v6(linear: &Linear, src: &Addr, dst: &Addr, mtu: u16) -> Option<()> {
    const PAYLOAD: [u8; 2] = ((ICMP + QUOTED) as u16).to_be_bytes();
    let l4 = L3 + Ipv6Hdr::LEN;
    let length = u32::from_ne_bytes([PAYLOAD[0], PAYLOAD[1], PROTO_ICMPV6, TTL]);
    linear.store(L3, [VERSION_6.to_be(), length])?;
    linear.store(L3 + 8, [src.quads(), dst.quads()])?;
    let pseudo = u64::from(u16::from_ne_bytes(PAYLOAD))
        + u64::from(u16::from(PROTO_ICMPV6).to_be())
        + sum_addr(src)
        + sum_addr(dst);
    write_icmp(linear, l4, PACKET_TOO_BIG, u32::from(mtu).to_be(), pseudo)
}

/// Writes the ICMP header before the quoted bytes. `pseudo` is the sum of the pseudo header.
#[inline(always)]
fn write_icmp(linear: &Linear, l4: usize, kind: [u8; 2], rest: u32, pseudo: u64) -> Option<()> {
    let head = u32::from_ne_bytes([kind[0], kind[1], 0, 0]);
    let sum = sum_quoted(linear, l4 + ICMP)? + u64::from(head) + u64::from(rest) + pseudo;
    let [high, low] = (!fold(sum)).to_ne_bytes();
    let head = u32::from_ne_bytes([kind[0], kind[1], high, low]);
    linear.store(l4, [head, rest])
}
