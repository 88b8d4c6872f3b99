//! Packets to and from other hosts, through a VXLAN device that takes the outer addresses from
//! the packet's metadata (`external`, or collect-metadata).
//!
//! The device encapsulates and takes out; what goes where is decided here, as for everything
//! else.

use core::mem::offset_of;

use aya_ebpf::bindings::{
    BPF_F_INGRESS, BPF_F_TUNINFO_IPV6, BPF_F_ZERO_CSUM_TX, TC_ACT_REDIRECT, bpf_tunnel_key,
};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_skb_get_tunnel_key, bpf_skb_set_tunnel_key};
use aya_ebpf::programs::TcContext;
use netpath_common::addr::{Addr, Mac};
use netpath_common::counter::Hook;
use netpath_common::endpoint::Veth;
use netpath_common::overlay::{self, Inward};
use netpath_common::packet::{Fragment, Frame as _, L3, Packet};
use netpath_common::reason::DropReason;
use netpath_common::tunnel::{Tunnel, Vni, Vtep, VtepCounts, VtepKey};
use network_types::eth::EthHdr;
use network_types::ip::IpProto;
use network_types::tcp::TcpHdr;
use network_types::udp::UdpHdr;

use crate::action::{self, ETH_ARP, ETH_IPV6, Outcome};
use crate::frame::Linear;
use crate::kernel::Kernel;
use crate::{aggregate, direct, maps, neighbour, rewrite, too_big};

/// Time to live of the outer packet.
const OUTER_TTL: u8 = 64;
/// "Don't fragment", in the word of an IPv4 header that has the fragment's offset.
const DONT_FRAGMENT: u16 = 0x4000u16.to_be();
const IPV4_FRAGMENT: usize = 6;
/// Upper half of the byte of a TCP header that tells its length in words of 4 bytes.
const TCP_OFFSET: usize = 12;

/// The overlay hook: what another host has sent, without the outer headers.
#[inline(always)]
pub fn run(kernel: &Kernel<'_>) -> Result<Outcome, DropReason> {
    let key = sender(kernel)?;
    let vtep = known(&key).ok_or_else(|| stranger(&key))?;
    arrived(kernel, &key, vtep)
}

/// The uplink hook, with a datagram for a port of tunnels that `np_uplink` has parsed.
#[inline(always)]
pub fn unwrap(ctx: &TcContext) -> i32 {
    let at_uplink = Kernel::new(ctx, Hook::Uplink);
    let kernel = Kernel::new(ctx, Hook::Overlay);
    let Some(outer) = maps::PACKET.get_ptr(0) else {
        return action::finish(&at_uplink, Ok(Outcome::Pass));
    };
    // SAFETY: the record is this CPU's own, and `np_uplink` filled it for this very packet.
    let outer = unsafe { &*outer };
    let device = action::overlay_device(&kernel, outer);
    match direct::unwrap(&kernel, outer, device) {
        Ok(None) => {
            aggregate::note(&kernel, outer);
            action::finish(&at_uplink, Ok(Outcome::Pass))
        }
        Ok(Some((key, vtep))) => action::finish(&kernel, arrived(&kernel, &key, vtep)),
        Err(reason) => action::finish(&kernel, Err(reason)),
    }
}

/// What another host has sent, without the outer headers.
#[inline(always)]
fn arrived(kernel: &Kernel<'_>, key: &VtepKey, vtep: &Vtep) -> Result<Outcome, DropReason> {
    let (ether_type, linear) = action::open(kernel)?;
    let outcome = if ether_type == ETH_ARP {
        action::answered(neighbour::answer_arp_of(kernel, vtep, key))?
    } else {
        let packet = kernel.packet(vtep.network)?;
        action::parse(packet, &linear, ether_type)?;
        if packet.ip_proto == IpProto::Ipv6Icmp as u8
            && ether_type == ETH_IPV6
            && let Some(kind) = neighbour::discovery(&linear, packet)?
        {
            let failure = neighbour::handle_discovery_of(kernel, vtep, key, packet, kind);
            action::answered(failure)?
        } else {
            enter(kernel, packet, vtep, &linear)?
        }
    };
    let len = kernel.ctx.len();
    count(vtep.place, |counts| counts.received.add(len));
    Ok(outcome)
}

/// What is known of a VTEP.
#[inline(always)]
pub fn known(key: &VtepKey) -> Option<&'static Vtep> {
    // SAFETY: map values stay allocated while the program runs.
    maps::VTEPS.get_ptr(key).map(|vtep| unsafe { &*vtep })
}

/// Why a packet of an unknown VTEP is dropped.
#[inline(always)]
fn stranger(key: &VtepKey) -> DropReason {
    let vni = Vni {
        vni: key.vni,
        ifindex: key.ifindex,
    };
    match maps::VNIS.get_ptr(vni) {
        Some(_) => DropReason::UnknownVtep,
        None => DropReason::UnknownVni,
    }
}

/// Who has sent the packet through the tunnel.
#[inline(always)]
fn sender(kernel: &Kernel<'_>) -> Result<VtepKey, DropReason> {
    let skb = kernel.ctx.skb.skb;
    let size = size_of::<bpf_tunnel_key>() as u32;
    // SAFETY: integers and unions of integers; all zero is valid.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    // The kernel wants to be told the family, and refuses the other.
    // SAFETY: the context is the program's own, the key as long as said.
    let addr = unsafe {
        if bpf_skb_get_tunnel_key(skb, &raw mut key, size, 0) == 0 {
            Addr::v4(key.__bindgen_anon_1.remote_ipv4.to_be_bytes())
        } else if bpf_skb_get_tunnel_key(skb, &raw mut key, size, BPF_F_TUNINFO_IPV6.into()) == 0 {
            Addr::from_words(key.__bindgen_anon_1.remote_ipv6)
        } else {
            return Err(DropReason::UnknownVtep);
        }
    };
    Ok(VtepKey {
        addr,
        vni: key.tunnel_id,
        ifindex: kernel.ifindex(),
    })
}

/// Delivers a packet from another host.
#[inline(always)]
fn enter(
    kernel: &Kernel<'_>,
    packet: &Packet,
    vtep: &Vtep,
    linear: &Linear,
) -> Result<Outcome, DropReason> {
    match overlay::enter(kernel, packet, vtep)? {
        Inward::Container(endpoint) => {
            // A neighbour's frame is the container's already, a router's was for us.
            if !endpoint.mac.is(linear.load(offset_of!(EthHdr, dst_addr))?) {
                rewrite::macs(kernel.ctx, &endpoint.mac, &endpoint.gateway_mac)?;
            }
            action::deliver(kernel, endpoint.ifindex)
        }
        Inward::Host => {
            rewrite::macs(kernel.ctx, &vtep.gateway_mac, &vtep.gateway_mac)?;
            action::redirected(
                // SAFETY: a helper with plain arguments.
                unsafe { bpf_redirect(vtep.gateway_ifindex, BPF_F_INGRESS.into()) },
                Outcome::ToGateway,
            )
        }
    }
}

/// See [`netpath_common::env::Env::send_by_tunnel`].
#[inline(never)]
pub fn send(
    kernel: &Kernel<'_>,
    packet: &Packet,
    tunnel: &Tunnel,
    sender: Option<&Veth>,
) -> Result<(), DropReason> {
    let linear = Linear::of(kernel.ctx, (packet.transport_offset() + TcpHdr::LEN) as u32);
    let too_long = wire_len(kernel, packet, &linear)? > u32::from(tunnel.mtu);
    if too_long && !(tunnel.vtep.is_v4() && may_fragment(packet, &linear)?) {
        let veth = sender.ok_or(DropReason::TooBig)?;
        return match too_big::answer(kernel, packet, veth, tunnel.mtu) {
            None => Ok(()),
            Some(reason) => Err(reason),
        };
    }
    let len = kernel.ctx.len();
    let mut src: [u16; 3] = linear.load(offset_of!(EthHdr, src_addr))?;
    if tunnel.is_routed() {
        src = tunnel.own_mac.words();
        // Our own packets have not been routed yet.
        if sender.is_some() {
            rewrite::lower_ttl(kernel.ctx, packet)?;
        }
    }
    let ([d0, d1, d2], [s0, s1, s2]) = (tunnel.mac.words(), src);
    // What is cut on its way is cut by the kernel, which knows how far it may go.
    if too_long || !direct::send(kernel, packet, tunnel, [d0, d1, d2, s0, s1, s2])? {
        rewrite::macs(kernel.ctx, &tunnel.mac, &Mac::from_words(src))?;
        put_into(kernel, tunnel.vni, &tunnel.vtep, tunnel.ifindex)?;
    }
    count(tunnel.place, |counts| counts.sent.add(len));
    kernel.count(|counters| counters.to_tunnel.add(len));
    Ok(())
}

/// Sends the frame out of a VXLAN device to another host.
#[inline(always)]
pub fn put_into(
    kernel: &Kernel<'_>,
    vni: u32,
    vtep: &Addr,
    ifindex: u32,
) -> Result<(), DropReason> {
    // SAFETY: integers and unions of integers; all zero is valid.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    key.tunnel_id = vni;
    key.tunnel_ttl = OUTER_TTL;
    // The kernel chooses the source, as for every packet of the host.
    let flags = if vtep.is_v4() {
        key.__bindgen_anon_1.remote_ipv4 = u32::from_be(vtep.quads()[3]);
        // As RFC 7348 wants it: the inner packet has a checksum of its own.
        BPF_F_ZERO_CSUM_TX
    } else {
        key.__bindgen_anon_1.remote_ipv6 = vtep.quads();
        // IPv6 has no header checksum that would tell a mangled address.
        BPF_F_TUNINFO_IPV6
    };
    let size = size_of::<bpf_tunnel_key>() as u32;
    // SAFETY: the context is the program's own, the key as long as said; plain arguments.
    let result = unsafe {
        if bpf_skb_set_tunnel_key(kernel.ctx.skb.skb, &raw mut key, size, flags.into()) != 0 {
            return Err(DropReason::RewriteFailed);
        }
        bpf_redirect(ifindex, 0)
    };
    if result == i64::from(TC_ACT_REDIRECT) {
        Ok(())
    } else {
        Err(DropReason::RewriteFailed)
    }
}

/// Length of the IP packet in bytes as it will be on the wire: of an aggregate the longest of
/// the segments that become of it.
#[inline(always)]
fn wire_len(kernel: &Kernel<'_>, packet: &Packet, linear: &Linear) -> Result<u32, DropReason> {
    let segment = kernel.gso_size();
    if segment == 0 {
        return Ok(packet.len - L3 as u32);
    }
    let l4 = packet.transport_offset();
    let header = if packet.ip_proto == IpProto::Tcp as u8 {
        // As a word: see `neighbour::discovery`.
        let [offset, ..]: [u8; 4] = linear.load(l4 + TCP_OFFSET)?;
        usize::from(offset >> 4) * 4
    } else {
        UdpHdr::LEN
    };
    Ok((l4 - L3 + header) as u32 + segment)
}

/// Whether the sender lets its packet be cut in pieces: then the outer one may be, by IPv4.
#[inline(always)]
fn may_fragment(packet: &Packet, linear: &Linear) -> Result<bool, DropReason> {
    if !packet.tuple.dst.is_v4() {
        return Ok(false);
    }
    let fragment: u16 = linear.load(L3 + IPV4_FRAGMENT)?;
    Ok(packet.fragment != Fragment::Whole || fragment & DONT_FRAGMENT == 0)
}

/// Counts for a VTEP.
#[inline(always)]
pub fn count(place: u32, f: impl FnOnce(&mut VtepCounts)) {
    if let Some(counts) = maps::VTEP_COUNTS.get_ptr_mut(place) {
        // SAFETY: the record is this CPU's own.
        f(unsafe { &mut *counts });
    }
}
