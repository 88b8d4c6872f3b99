//! The host's routes, asked by bpf_fib_lookup().

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
    BPF_FIB_LOOKUP_SKIP_NEIGH, bpf_fib_lookup,
};
use netpath_common::addr::{Addr, Mac};
use netpath_common::env::Route;
use netpath_common::reason::DropReason;

use crate::kernel::{Kernel, raw};

/// Address families as the kernel numbers them.
pub const AF_INET: u8 = 2;
/// See [`AF_INET`].
pub const AF_INET6: u8 = 10;

/// The host's route as seen from a network's gateway device.
///
/// The neighbour is not looked up: `bpf_redirect_neigh` does that when it sends, and
/// keeps the neighbour's entry fresh.
#[inline(never)]
pub fn lookup(
    kernel: &Kernel<'_>,
    gateway_ifindex: u32,
    src: &Addr,
    dst: &Addr,
    route: &mut Route,
) -> Result<(), DropReason> {
    // SAFETY: integers and unions of integers; all zero is valid.
    let mut params: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    fill(&mut params, gateway_ifindex, src, dst);
    let result = ask(kernel, &mut params, BPF_FIB_LOOKUP_SKIP_NEIGH);
    match result {
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH => {
            route.ifindex = params.ifindex;
            route.next_hop = next_hop(&params);
            Ok(())
        }
        BPF_FIB_LKUP_RET_FRAG_NEEDED => Err(DropReason::TooBig),
        _ => Err(DropReason::NoRoute),
    }
}

/// The MAC addresses of a frame by the host's route, destination first. They stay as they are if
/// the neighbour's is not known.
#[inline(never)]
pub fn macs(
    kernel: &Kernel<'_>,
    gateway_ifindex: u32,
    src: &Addr,
    dst: &Addr,
    macs: &mut [u16; 6],
) -> bool {
    // SAFETY: integers and unions of integers; all zero is valid.
    let mut params: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    fill(&mut params, gateway_ifindex, src, dst);
    if ask(kernel, &mut params, 0) != BPF_FIB_LKUP_RET_SUCCESS {
        return false;
    }
    let ([d0, d1, d2], [s0, s1, s2]) =
        (Mac::new(params.dmac).words(), Mac::new(params.smac).words());
    *macs = [d0, d1, d2, s0, s1, s2];
    true
}

/// Puts a question together.
#[inline(always)]
fn fill(params: &mut bpf_fib_lookup, gateway_ifindex: u32, src: &Addr, dst: &Addr) {
    params.ifindex = gateway_ifindex;
    if dst.is_v4() {
        params.family = AF_INET;
        params.__bindgen_anon_3.ipv4_src = src.quads()[3];
        params.__bindgen_anon_4.ipv4_dst = dst.quads()[3];
    } else {
        params.family = AF_INET6;
        params.__bindgen_anon_3.ipv6_src = src.quads();
        params.__bindgen_anon_4.ipv6_dst = dst.quads();
    }
}

/// Asks the kernel; what it says is one of `BPF_FIB_LKUP_RET_...`.
#[inline(always)]
fn ask(kernel: &Kernel<'_>, params: &mut bpf_fib_lookup, flags: u32) -> u32 {
    let size = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: the parameters are initialised and as long as said.
    let result = unsafe {
        aya_ebpf::helpers::generated::bpf_fib_lookup(raw(kernel), &raw mut *params, size, flags)
    };
    result as u32
}

/// On success the kernel has put the next hop, of its own family, in the destination's place.
#[inline(always)]
fn next_hop(params: &bpf_fib_lookup) -> Addr {
    // SAFETY: `family` says which member is valid.
    unsafe {
        if params.family == AF_INET {
            Addr::v4(params.__bindgen_anon_4.ipv4_dst.to_ne_bytes())
        } else {
            Addr::from_words(params.__bindgen_anon_4.ipv6_dst)
        }
    }
}
