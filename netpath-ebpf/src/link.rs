//! The short way between two containers of one network. It reads the packet and changes nothing,
//! so the kernel need not make its bytes private first; what it does not deliver goes on in
//! `np_beyond`.

use core::mem::offset_of;

use aya_ebpf::bindings::TC_ACT_REDIRECT;
use aya_ebpf::helpers::generated::bpf_redirect_peer;
use netpath_common::link::{self, BEYOND, NOBODY, Sender, sender_place};
use netpath_common::packet::{Frame as _, Packet};
use netpath_common::reason::DropReason;
use network_types::eth::EthHdr;
use network_types::ip::IpProto;

use crate::action::{self, ETH_IPV4, ETH_IPV6};
use crate::frame::Linear;
use crate::kernel::Kernel;
use crate::maps;

const TCP: u8 = IpProto::Tcp as u8;
const UDP: u8 = IpProto::Udp as u8;

/// Delivers the packet, or lets `np_beyond` decide.
#[inline(always)]
pub fn run(kernel: &Kernel<'_>) -> i32 {
    let ifindex = find(kernel);
    if ifindex == NOBODY {
        // SAFETY: nothing here needs to be dropped. It comes back only if it fails, which the
        // agent's order of loading rules out.
        unsafe { maps::STAGES.tail_call(kernel.ctx, BEYOND) };
        return action::finish(kernel, Err(DropReason::MissingStage));
    }
    action::claim(kernel);
    // SAFETY: a helper with plain arguments.
    let result = unsafe { bpf_redirect_peer(ifindex, 0) };
    if result != i64::from(TC_ACT_REDIRECT) {
        return action::finish(kernel, Err(DropReason::RewriteFailed));
    }
    let len = kernel.ctx.len();
    kernel.count(|counters| {
        counters.seen.add(len);
        counters.to_container.add(len);
    });
    TC_ACT_REDIRECT
}

/// The receiver's veth, or [`NOBODY`].
#[inline(always)]
fn find(kernel: &Kernel<'_>) -> u32 {
    let ifindex = kernel.ifindex();
    let Some(sender) = maps::SENDERS.get(sender_place(ifindex)) else {
        return NOBODY;
    };
    let linear = Linear::as_is(kernel.ctx);
    let mut packet = Packet::of_network(sender.network);
    if sender.ifindex != ifindex || read(kernel, sender, &linear, &mut packet).is_err() {
        return NOBODY;
    }
    link::receiver(kernel, sender, &packet.tuple.src, &packet.tuple.dst)
}

/// Reads the addresses of a usual packet of the sender. The error means that it is none.
#[inline(always)]
fn read(
    kernel: &Kernel<'_>,
    sender: &Sender,
    linear: &Linear,
    packet: &mut Packet,
) -> Result<(), DropReason> {
    if kernel.vlan_tagged() || !sender.mac.is(linear.load(offset_of!(EthHdr, src_addr))?) {
        return Err(DropReason::SpoofedSource);
    }
    match linear.load::<u16>(offset_of!(EthHdr, ether_type))? {
        ETH_IPV4 => packet.parse_v4(linear),
        ETH_IPV6 => {
            packet.parse_v6_fixed(linear)?;
            // Neighbour discovery, and extension headers that may hide it, are judged there.
            match packet.ip_proto {
                TCP | UDP => Ok(()),
                _ => Err(DropReason::UnsupportedProtocol),
            }
        }
        _ => Err(DropReason::UnknownEtherType),
    }
}
