//! Changing a packet: addresses, ports, time to live, MAC addresses, and the checksums.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::generated::bpf_l4_csum_replace;
use aya_ebpf::programs::TcContext;
use netpath_common::addr::Mac;
use netpath_common::checksum::{TTL_DIFF, apply, fold};
use netpath_common::flow::Flow;
use netpath_common::packet::{L3, Packet};
use netpath_common::reason::DropReason;
use netpath_common::tuple::Proto;

use crate::frame::Linear;
use crate::maps::CSUM_IPV6_FLAG;

/// `BPF_F_IPV6` of bpf_l4_csum_replace(): without it the kernel would spoil the sum of a
/// whole packet (CHECKSUM_COMPLETE) that a card computed, for IPv6 has no header checksum
/// that makes up for changed addresses. Kernel 6.16 and later; aya's bindings lack it.
const BPF_F_IPV6: u64 = 1 << 7;

/// Offsets of the fields we change, from the start of their header.
mod field {
    pub const IPV4_TTL: usize = 8;
    pub const IPV4_CHECKSUM: usize = 10;
    pub const IPV4_ADDRS: usize = 12;
    pub const IPV6_HOP_LIMIT: usize = 7;
    pub const IPV6_ADDRS: usize = 8;
    pub const TCP_CHECKSUM: u32 = 16;
    pub const UDP_CHECKSUM: u32 = 6;
    pub const ICMP_CHECKSUM: u32 = 2;
    pub const ICMP_ID: usize = 4;
}

/// Rewrites addresses and ports as the flow says, and lowers the time to live.
#[inline(always)]
pub fn translate(ctx: &TcContext, packet: &Packet, flow: &Flow) -> Result<(), DropReason> {
    // The helper may move the packet's bytes, so it comes before the pointers.
    transport_checksum(ctx, packet, flow)?;
    let linear = Linear::of(ctx, 0);
    addresses(&linear, packet, flow)
        .and_then(|()| ports(&linear, packet, flow))
        .ok_or(DropReason::RewriteFailed)
}

/// Fixes the transport checksum by the differences that the flow knows.
///
/// Two calls: where the checksum is left to the card (CHECKSUM_PARTIAL) the field holds
/// the sum of the pseudo header only, and must follow the addresses but not the ports.
#[inline(always)]
fn transport_checksum(ctx: &TcContext, packet: &Packet, flow: &Flow) -> Result<(), DropReason> {
    // A UDP checksum of 0 means "none" and stays; one that becomes 0 is sent as 0xffff.
    let (offset, kind) = match packet.tuple.proto {
        Proto::Tcp => (field::TCP_CHECKSUM, 0),
        Proto::Udp => (field::UDP_CHECKSUM, u64::from(BPF_F_MARK_MANGLED_0)),
        Proto::Icmp | Proto::Icmpv6 => (field::ICMP_CHECKSUM, 0),
    };
    let offset = u32::from(packet.l4) + offset;
    let replace = |diff: u16, flags: u64| {
        // SAFETY: the context is the program's own.
        match unsafe { bpf_l4_csum_replace(ctx.as_ptr().cast(), offset, 0, diff.into(), flags) } {
            0 => Ok(()),
            _ => Err(DropReason::RewriteFailed),
        }
    };
    // ICMP for IPv4 has no pseudo header.
    if packet.tuple.proto != Proto::Icmp {
        let v6 = !packet.tuple.dst.is_v4() && CSUM_IPV6_FLAG.load() != 0;
        let family = if v6 { BPF_F_IPV6 } else { 0 };
        replace(flow.addr_diff, kind | u64::from(BPF_F_PSEUDO_HDR) | family)?;
    }
    if flow.port_diff != 0 {
        replace(flow.port_diff, kind)?;
    }
    Ok(())
}

#[inline(always)]
fn addresses(linear: &Linear, packet: &Packet, flow: &Flow) -> Option<()> {
    let (src, dst) = (flow.new_src.quads(), flow.new_dst.quads());
    let ttl = packet.ttl.wrapping_sub(1);
    if packet.tuple.dst.is_v4() {
        let checksum = linear.at::<u16>(L3 + field::IPV4_CHECKSUM)?;
        let diff = fold(u64::from(flow.addr_diff) + u64::from(TTL_DIFF));
        // SAFETY: the bounds are checked.
        unsafe { *checksum = apply(*checksum, diff) };
        linear.store(L3 + field::IPV4_TTL, ttl)?;
        linear.store(L3 + field::IPV4_ADDRS, [src[3], dst[3]])
    } else {
        linear.store(L3 + field::IPV6_HOP_LIMIT, ttl)?;
        linear.store(L3 + field::IPV6_ADDRS, [src, dst])
    }
}

#[inline(always)]
fn ports(linear: &Linear, packet: &Packet, flow: &Flow) -> Option<()> {
    let l4 = packet.transport_offset();
    let (src, dst) = (flow.new_src_port, flow.new_dst_port);
    match packet.tuple.proto {
        Proto::Tcp | Proto::Udp => {
            let [a, b] = src.to_be_bytes();
            let [c, d] = dst.to_be_bytes();
            linear.store(l4, u32::from_ne_bytes([a, b, c, d]))
        }
        // One of the two is 0: the identifier stands in the source's place of a request
        // and in the destination's of a reply.
        Proto::Icmp | Proto::Icmpv6 => linear.store(l4 + field::ICMP_ID, (src | dst).to_be()),
    }
}

/// Sets both MAC addresses.
#[inline(always)]
pub fn macs(ctx: &TcContext, dst: &Mac, src: &Mac) -> Result<(), DropReason> {
    let ([a, b, c], [d, e, f]) = (dst.words(), src.words());
    Linear::of(ctx, 0)
        .store(0, [a, b, c, d, e, f])
        .ok_or(DropReason::RewriteFailed)
}
