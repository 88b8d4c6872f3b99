//! Removal of idle flows, run by the agent (BPF_PROG_TEST_RUN).

use netpath_common::addr::Addr;
use netpath_common::idle;
use netpath_common::packet::Frame as _;
use netpath_common::tuple::{Proto, SWEEP_KEYS, Tuple};

use crate::frame::Linear;
use crate::kernel::Kernel;

/// The packet is an array of flow keys. Returns how many connections were removed.
#[inline(always)]
pub fn run(kernel: &Kernel<'_>) -> i32 {
    let mut removed = 0;
    for i in 0..SWEEP_KEYS {
        // The maps may not be touched with pointers into the packet at hand: look anew.
        let linear = Linear::of(kernel.ctx, 0);
        let Some(key) = key(&linear, i * size_of::<Tuple>()) else {
            break;
        };
        if idle::remove_if_idle(kernel, &key) {
            removed += 1;
        }
    }
    removed
}

/// The key at an offset; `None` at the packet's end or if it is none.
#[inline(always)]
fn key(linear: &Linear, offset: usize) -> Option<Tuple> {
    let src: [u32; 4] = linear.load(offset).ok()?;
    let dst: [u32; 4] = linear.load(offset + 16).ok()?;
    let ports: u32 = linear.load(offset + 32).ok()?;
    let rest: u32 = linear.load(offset + 36).ok()?;
    let [a, b, c, d] = ports.to_ne_bytes();
    let [e, f, proto, _] = rest.to_ne_bytes();
    Some(Tuple {
        src: Addr::from_words(src),
        dst: Addr::from_words(dst),
        src_port: u16::from_ne_bytes([a, b]),
        dst_port: u16::from_ne_bytes([c, d]),
        network: u16::from_ne_bytes([e, f]),
        proto: Proto::from_number(proto)?,
        reserved: 0,
    })
}
