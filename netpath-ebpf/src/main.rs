//! netpath's BPF programs: the entry points, one a hook.
//!
//! What decides is in `netpath-common` and runs in the tests of the host as well; here
//! is what needs the kernel: maps, packet bytes, helpers.
//!
//! * `np_container`, which goes on in `np_beyond`: tcx ingress of a container's host-side veth
//! * `np_uplink`, which goes on in `np_unwrap`: tcx ingress of an uplink
//! * `np_gateway`: tcx egress of a network's gateway device
//! * `np_overlay`: tcx ingress of a VXLAN device
//! * `np_wire_in`, `np_wire_out`, `np_card`: a card whose wire containers share, and their veths;
//!   they go on in `np_routed`
//! * `np_guard`: tcx egress of a container's own device, if it is stacked on such a card
//! * `np_connect4` and its like: cgroup hooks of the host's own sockets
//! * `np_xdp`: XDP of an uplink
//! * `np_sweep`: attached nowhere; the agent runs it to remove idle flows
#![no_std]
#![no_main]
// The attribute macro of the entry points makes undocumented wrappers of documented functions.
#![allow(missing_docs)]

mod action;
mod aggregate;
mod direct;
mod event;
mod frame;
mod host_socket;
mod kernel;
mod link;
mod maps;
mod neighbour;
mod overlay;
mod rewrite;
mod route;
mod routed;
mod socket;
mod stacked;
mod sweep;
mod too_big;
mod underlay;
mod xdp;

use aya_ebpf::macros::{cgroup_sock_addr, classifier, xdp};
use aya_ebpf::programs::{SockAddrContext, TcContext, XdpContext};
use netpath_common::counter::Hook;

use crate::kernel::Kernel;
use crate::socket::{V4, V6};

/// Everything a container sends comes by here. Packets for a container of the same network need
/// no more than this.
#[classifier]
pub fn np_container(ctx: TcContext) -> i32 {
    link::run(&Kernel::new(&ctx, Hook::Container))
}

/// Where [`np_container`] goes on with all other packets: a program of its own, because one that
/// writes to packets has the kernel make their bytes private before it begins.
#[classifier]
pub fn np_beyond(ctx: TcContext) -> i32 {
    let kernel = Kernel::new(&ctx, Hook::Container);
    action::finish(&kernel, action::container(&kernel))
}

/// Everything from outside comes by here.
#[classifier]
pub fn np_uplink(ctx: TcContext) -> i32 {
    let kernel = Kernel::new(&ctx, Hook::Uplink);
    action::finish(&kernel, action::uplink(&kernel))
}

/// Everything the host sends to a container comes by here.
#[classifier]
pub fn np_gateway(ctx: TcContext) -> i32 {
    let kernel = Kernel::new(&ctx, Hook::Gateway);
    action::finish(&kernel, action::gateway(&kernel))
}

/// Everything that other hosts send through tunnels comes by here.
#[classifier]
pub fn np_overlay(ctx: TcContext) -> i32 {
    let kernel = Kernel::new(&ctx, Hook::Overlay);
    action::finish(&kernel, overlay::run(&kernel))
}

/// Where [`np_uplink`] goes on with what other hosts send through tunnels.
#[classifier]
pub fn np_unwrap(ctx: TcContext) -> i32 {
    overlay::unwrap(&ctx)
}

/// Everything from a wire that containers share comes by here, and what they send to the host.
#[classifier]
pub fn np_wire_in(ctx: TcContext) -> i32 {
    underlay::from_wire(&Kernel::new(&ctx, Hook::Underlay))
}

/// Everything to a wire that containers share comes by here.
#[classifier]
pub fn np_wire_out(ctx: TcContext) -> i32 {
    underlay::to_wire(&Kernel::new(&ctx, Hook::Underlay))
}

/// Everything that a container sends to such a wire comes by here.
#[classifier]
pub fn np_card(ctx: TcContext) -> i32 {
    let kernel = Kernel::new(&ctx, Hook::Underlay);
    action::finish(&kernel, underlay::from_card(&kernel))
}

/// Everything that a container sends by a device that is stacked on such a card comes by here.
#[classifier]
pub fn np_guard(ctx: TcContext) -> i32 {
    stacked::guard(&Kernel::new(&ctx, Hook::Underlay))
}

/// Where [`np_card`] and [`np_wire_in`] go on with questions that are answered, and with what has
/// to get another MAC address.
#[classifier]
pub fn np_routed(ctx: TcContext) -> i32 {
    let kernel = Kernel::new(&ctx, Hook::Underlay);
    action::finish(&kernel, routed::run(&kernel))
}

/// Everything from outside comes by here first, before it is a packet of the stack's. Frames
/// may be in several pieces: large ones, and aggregates.
#[xdp(frags)]
pub fn np_xdp(ctx: XdpContext) -> u32 {
    xdp::run(&ctx)
}

/// Removes the flows whose keys are the packet, if they are idle. Returns how many it removed.
#[classifier]
pub fn np_sweep(ctx: TcContext) -> i32 {
    sweep::run(&Kernel::new(&ctx, Hook::Container))
}

/// A socket is given the address that it talks to from now on.
#[cgroup_sock_addr(connect4)]
pub fn np_connect4(ctx: SockAddrContext) -> i32 {
    socket::connect::<V4>(&ctx)
}

/// See [`np_connect4`].
#[cgroup_sock_addr(connect6)]
pub fn np_connect6(ctx: SockAddrContext) -> i32 {
    socket::connect::<V6>(&ctx)
}

/// A datagram is sent to an address of its own.
#[cgroup_sock_addr(sendmsg4)]
pub fn np_sendmsg4(ctx: SockAddrContext) -> i32 {
    socket::sendmsg::<V4>(&ctx)
}

/// See [`np_sendmsg4`].
#[cgroup_sock_addr(sendmsg6)]
pub fn np_sendmsg6(ctx: SockAddrContext) -> i32 {
    socket::sendmsg::<V6>(&ctx)
}

/// A process is told where a datagram came from.
#[cgroup_sock_addr(recvmsg4)]
pub fn np_recvmsg4(ctx: SockAddrContext) -> i32 {
    socket::show::<V4>(&ctx)
}

/// See [`np_recvmsg4`].
#[cgroup_sock_addr(recvmsg6)]
pub fn np_recvmsg6(ctx: SockAddrContext) -> i32 {
    socket::show::<V6>(&ctx)
}

/// A process asks what its socket is connected to.
#[cgroup_sock_addr(getpeername4)]
pub fn np_getpeername4(ctx: SockAddrContext) -> i32 {
    socket::show::<V4>(&ctx)
}

/// See [`np_getpeername4`].
#[cgroup_sock_addr(getpeername6)]
pub fn np_getpeername6(ctx: SockAddrContext) -> i32 {
    socket::show::<V6>(&ctx)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // Nothing here panics; the verifier would not let a program loop for ever.
    loop {}
}

/// The helpers below are for programs that declare themselves compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
