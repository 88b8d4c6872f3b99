//! The gate of an uplink.

use aya_ebpf::bindings::{xdp_action::XDP_DROP, xdp_action::XDP_PASS};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::programs::XdpContext;
use netpath_common::addr::Addr;
use netpath_common::counter::Hook;
use netpath_common::deny::{self, Denied, Gate};
use netpath_common::event::wanted;
use netpath_common::packet::Frame as _;
use netpath_common::reason::DropReason;

use crate::frame::Linear;
use crate::{action, event, maps};

struct Denials;

impl Gate for Denials {
    #[inline(always)]
    fn denied<R>(&self, src: &Addr, f: impl FnOnce(&mut Denied) -> R) -> Option<R> {
        maps::DENIED
            .get(&Key::new(128, *src))
            // SAFETY: map values stay allocated while the program runs. Other CPUs may write
            // the same words, says `Denied::packets`.
            .map(|entry| f(unsafe { &mut *entry.get() }))
    }
}

/// Judges a frame, counts it and tells the kernel.
#[inline(always)]
pub fn run(ctx: &XdpContext) -> u32 {
    let frame = Linear::of_xdp(ctx);
    let result = deny::admit(&Denials, &frame);
    let len = frame.len();
    if let Some(counters) = maps::COUNTERS.get_ptr_mut(Hook::Xdp as u32) {
        // SAFETY: the record is this CPU's own.
        let counters = unsafe { &mut *counters };
        counters.seen.add(len);
        match result {
            Ok(()) => counters.to_host.add(len),
            Err(_) => counters.dropped.add(len),
        }
    }
    match result {
        Ok(()) => XDP_PASS,
        Err(reason) => {
            drop(ctx, reason, len);
            XDP_DROP
        }
    }
}

#[inline(never)]
fn drop(ctx: &XdpContext, reason: DropReason, len: u32) {
    action::add_drop(reason, Hook::Xdp, len);
    if event::wanted(wanted::DROPS) {
        let frame = Linear::of_xdp(ctx);
        event::drop(Hook::Xdp, reason, ctx.ingress_ifindex() as u32, &frame);
    }
}
