//! netpath's BPF programs: the entry points, one a hook.
//!
//! What decides is in `netpath-common` and runs in the tests of the host as well; here
//! is what needs the kernel: maps, packet bytes, helpers.
//!
//! * `np_container`: tcx ingress of a container's host-side veth
//! * `np_uplink`: tcx ingress of an uplink
//! * `np_gateway`: tcx egress of a network's gateway device
//! * `np_sweep`: attached nowhere; the agent runs it to remove idle flows
#![no_std]
#![no_main]
// The attribute macro of the entry points makes undocumented wrappers of documented functions.
#![allow(missing_docs)]

mod action;
mod frame;
mod kernel;
mod maps;
mod neighbour;
mod rewrite;
mod route;
mod sweep;

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use netpath_common::counter::Hook;

use crate::kernel::Kernel;

/// Everything a container sends comes by here.
#[classifier]
pub fn np_container(ctx: TcContext) -> i32 {
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

/// Removes the flows whose keys are the packet, if they are idle. Returns how many it removed.
#[classifier]
pub fn np_sweep(ctx: TcContext) -> i32 {
    sweep::run(&Kernel::new(&ctx, Hook::Container))
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
