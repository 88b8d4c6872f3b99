//! Changing a packet: addresses, ports, time to live, MAC addresses, and the checksums.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::generated::bpf_l4_csum_replace;
use aya_ebpf::programs::TcContext;
use netpath_common::addr::{Addr, Mac};
use netpath_common::checksum::{TTL_DIFF, addr_diff, apply, fold};
use netpath_common::flow::Flow;
use netpath_common::icmp::Quoted;
use netpath_common::packet::{Fragment, L3, Packet};
use netpath_common::reason::DropReason;
use netpath_common::tuple::Proto;

use crate::frame::{HEADERS_QUOTED, Linear};
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
    // A later part of a datagram has no transport header; the first part's checksum is that
    // of the whole.
    let header = packet.fragment != Fragment::Later;
    // The helper may move the packet's bytes, so it comes before the pointers.
    if header {
        transport_checksum(ctx, packet, flow)?;
    }
    let linear = Linear::of(ctx, 0);
    set_addresses(
        &linear,
        packet,
        &flow.new_src,
        &flow.new_dst,
        flow.addr_diff,
    )
    .and_then(|()| {
        if header {
            ports(&linear, packet, flow)
        } else {
            Some(())
        }
    })
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
        // SCTP's checksum covers neither addresses nor anything else that changes.
        Proto::Sctp => return Ok(()),
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

/// Rewrites an ICMP error, outside and inside, for the flow of the packet that it quotes.
///
/// Only direct writes: each checksum makes up for what changes under it, so that a sum of the
/// whole packet (CHECKSUM_COMPLETE) stays what it was, and nobody leaves the checksum of an
/// ICMP message to a card.
#[inline(always)]
pub fn translate_error(
    ctx: &TcContext,
    packet: &Packet,
    quoted: &Quoted,
    flow: &Flow,
) -> Result<(), DropReason> {
    let linear = Linear::of(ctx, HEADERS_QUOTED);
    error_inside(&linear, packet, quoted, flow)
        .and_then(|diff| error_outside(&linear, packet, quoted, flow, diff))
        .ok_or(DropReason::RewriteFailed)
}

/// Changes a checksum by `diff` and adds what that changes to `message`, the difference of
/// the checksum around it.
#[inline(always)]
fn update(linear: &Linear, offset: usize, diff: u16, message: &mut u64) -> Option<()> {
    let field = linear.at::<u16>(offset)?;
    // SAFETY: the bounds are checked.
    let old = unsafe { *field };
    let new = apply(old, diff);
    // SAFETY: as above.
    unsafe { *field = new };
    *message += u64::from(!old) + u64::from(new);
    Some(())
}

/// The quoted packet becomes what its sender wrote: the flow's rewrite the other way round.
/// Returns the difference of the ICMP checksum.
#[inline(always)]
fn error_inside(linear: &Linear, packet: &Packet, quoted: &Quoted, flow: &Flow) -> Option<u64> {
    // The masks are for the verifier, see `Packet::transport_offset`.
    let (l3, l4) = (
        usize::from(quoted.l3) & 0x3fff,
        usize::from(quoted.l4) & 0x3fff,
    );
    let (src, dst) = (flow.new_dst.quads(), flow.new_src.quads());
    let mut message = u64::from(flow.addr_diff) + u64::from(flow.port_diff);
    if packet.tuple.dst.is_v4() {
        linear.store(l3 + field::IPV4_ADDRS, [src[3], dst[3]])?;
        update(
            linear,
            l3 + field::IPV4_CHECKSUM,
            flow.addr_diff,
            &mut message,
        )?;
    } else {
        linear.store(l3 + field::IPV6_ADDRS, [src, dst])?;
    }
    let (src_port, dst_port) = (flow.new_dst_port, flow.new_src_port);
    let both = fold(u64::from(flow.addr_diff) + u64::from(flow.port_diff));
    match quoted.key.proto {
        Proto::Tcp => {
            linear.store(l4, [src_port.to_be(), dst_port.to_be()])?;
            // Often only the first 8 bytes are quoted, without the checksum.
            if quoted.room >= field::TCP_CHECKSUM as u16 + 2 {
                update(
                    linear,
                    l4 + field::TCP_CHECKSUM as usize,
                    both,
                    &mut message,
                )?;
            }
        }
        Proto::Udp => {
            linear.store(l4, [src_port.to_be(), dst_port.to_be()])?;
            let checksum = l4 + field::UDP_CHECKSUM as usize;
            // SAFETY: the bounds are checked.
            if unsafe { *linear.at::<u16>(checksum)? } != 0 {
                update(linear, checksum, both, &mut message)?;
            }
        }
        // Its ports stay, and its checksum knows no addresses.
        Proto::Sctp => {}
        Proto::Icmp | Proto::Icmpv6 => {
            linear.store(l4 + field::ICMP_ID, (src_port | dst_port).to_be())?;
            // ICMP for IPv4 has no pseudo header.
            let v4 = quoted.key.proto == Proto::Icmp;
            let diff = if v4 { flow.port_diff } else { both };
            update(
                linear,
                l4 + field::ICMP_CHECKSUM as usize,
                diff,
                &mut message,
            )?;
        }
    }
    Some(message)
}

/// The message goes to the flow's destination; it seems to come from whoever sent it, or, if
/// that is the flow's own end, from the address by which the receiver knows it.
#[inline(always)]
fn error_outside(
    linear: &Linear,
    packet: &Packet,
    quoted: &Quoted,
    flow: &Flow,
    message: u64,
) -> Option<()> {
    let own = packet.tuple.src == quoted.key.src;
    let src = if own {
        &flow.new_src
    } else {
        &packet.tuple.src
    };
    let diff = addr_diff([&packet.tuple.src, &packet.tuple.dst], [src, &flow.new_dst]);
    let v4 = packet.tuple.dst.is_v4();
    // ICMPv6 has a pseudo header with the outer addresses.
    let message = message + if v4 { 0 } else { u64::from(diff) };
    let checksum = packet.transport_offset() + field::ICMP_CHECKSUM as usize;
    update(linear, checksum, fold(message), &mut 0)?;
    set_addresses(linear, packet, src, &flow.new_dst, diff)
}

/// Sets the addresses of the IP header, whose difference is `diff`, and lowers the time to live.
#[inline(always)]
fn set_addresses(
    linear: &Linear,
    packet: &Packet,
    src: &Addr,
    dst: &Addr,
    diff: u16,
) -> Option<()> {
    let (src, dst) = (src.quads(), dst.quads());
    let ttl = packet.ttl.wrapping_sub(1);
    if packet.tuple.dst.is_v4() {
        let diff = fold(u64::from(diff) + u64::from(TTL_DIFF));
        update(linear, L3 + field::IPV4_CHECKSUM, diff, &mut 0)?;
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
        Proto::Sctp => Some(()),
    }
}

/// Lowers the time to live, which must not be 0.
#[inline(always)]
pub fn lower_ttl(ctx: &TcContext, packet: &Packet) -> Result<(), DropReason> {
    let linear = Linear::of(ctx, 0);
    let ttl = packet.ttl.wrapping_sub(1);
    let lowered = if packet.tuple.dst.is_v4() {
        update(&linear, L3 + field::IPV4_CHECKSUM, TTL_DIFF, &mut 0)
            .and_then(|()| linear.store(L3 + field::IPV4_TTL, ttl))
    } else {
        linear.store(L3 + field::IPV6_HOP_LIMIT, ttl)
    };
    lowered.ok_or(DropReason::RewriteFailed)
}

/// Sets both MAC addresses.
#[inline(always)]
pub fn macs(ctx: &TcContext, dst: &Mac, src: &Mac) -> Result<(), DropReason> {
    let ([a, b, c], [d, e, f]) = (dst.words(), src.words());
    Linear::of(ctx, 0)
        .store(0, [a, b, c, d, e, f])
        .ok_or(DropReason::RewriteFailed)
}
