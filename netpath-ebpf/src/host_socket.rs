//! Sockets of the host itself, found as the kernel would find them for a packet.

use core::ffi::c_void;

use aya_ebpf::bindings::{BPF_F_CURRENT_NETNS, bpf_sock_tuple};
use aya_ebpf::helpers::generated::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp};
use netpath_common::tuple::{Proto, Tuple};

use crate::kernel::{Kernel, raw};
use crate::maps;

/// Bytes of the kernel's tuple: two addresses and two ports.
const SIZE_V4: u32 = 12;
const SIZE_V6: u32 = 36;

/// The kernel's `struct bpf_sock_tuple` as words in memory order: both addresses, of one or of
/// four words each, then both ports; the source first. Lives off the stack.
#[repr(C)]
pub struct SockKey {
    words: [u32; 9],
}

/// Whether some socket of the host (or a connection in TIME_WAIT) takes packets of a tuple: a
/// connected one, or one that takes them from everybody. TCP sockets that are bound but do not
/// listen cannot be found; they take no packets either.
#[inline(always)]
pub fn is_there(kernel: &Kernel<'_>, tuple: &Tuple) -> bool {
    let (src, dst) = (tuple.src.quads(), tuple.dst.quads());
    // Both in network byte order.
    let ports = u32::from(tuple.src_port.to_be()) | u32::from(tuple.dst_port.to_be()) << 16;
    let Some(key) = maps::SOCK_KEY.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: the record is this CPU's own, as all memory of a packet at hand.
    let words = unsafe { &mut (*key).words };
    let size = if tuple.dst.is_v4() {
        words[0] = src[3];
        words[1] = dst[3];
        words[2] = ports;
        SIZE_V4
    } else {
        [words[0], words[1], words[2], words[3]] = src;
        [words[4], words[5], words[6], words[7]] = dst;
        words[8] = ports;
        SIZE_V6
    };
    let key = key.cast::<bpf_sock_tuple>();
    // The namespace is that of the device at which the packet is, that is, the host's.
    let netns = i64::from(BPF_F_CURRENT_NETNS) as u64;
    // SAFETY: the context is valid for the program's whole run, and `key` has `size` bytes; a
    // socket that was found is given back at once.
    unsafe {
        let socket: *mut c_void = match tuple.proto {
            Proto::Tcp => bpf_skc_lookup_tcp(raw(kernel), key, size, netns, 0).cast(),
            Proto::Udp => bpf_sk_lookup_udp(raw(kernel), key, size, netns, 0).cast(),
            _ => return false,
        };
        if socket.is_null() {
            return false;
        }
        bpf_sk_release(socket);
    }
    true
}
