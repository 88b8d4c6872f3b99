//! The bytes of the packet at hand, read in place.

use aya_ebpf::helpers::generated::bpf_xdp_get_buff_len;
use aya_ebpf::programs::{TcContext, XdpContext};
use netpath_common::packet::{Frame, Wire};
use netpath_common::reason::DropReason;

/// Ethernet, the longest IPv4 header, ICMP, the same of the quoted packet, and the part of a
/// TCP header that has the checksum: what must lie in one piece of an ICMP error.
pub const HEADERS_QUOTED: u32 = 14 + 60 + 8 + 60 + 20;

/// The linear part of the packet's buffer.
#[derive(Clone, Copy)]
pub struct Linear {
    start: usize,
    end: usize,
    len: u32,
}

impl Linear {
    /// The buffer, made to hold `headers` bytes in one piece if the packet is that long.
    #[inline(always)]
    pub fn of(ctx: &TcContext, headers: u32) -> Self {
        let want = headers.min(ctx.len());
        let linear = Self::as_is(ctx);
        if linear.end - linear.start >= want as usize {
            return linear;
        }
        // If it fails, the loads do.
        let _ = ctx.pull_data(want);
        Self::as_is(ctx)
    }

    /// The buffer as it is: what does not lie in it cannot be read.
    #[inline(always)]
    pub fn as_is(ctx: &TcContext) -> Self {
        Self {
            start: ctx.data(),
            end: ctx.data_end(),
            len: ctx.len(),
        }
    }

    /// The first piece of a frame that is no packet of the stack's yet.
    #[inline(always)]
    pub fn of_xdp(ctx: &XdpContext) -> Self {
        Self {
            start: ctx.data(),
            end: ctx.data_end(),
            // SAFETY: the context is valid for the program's whole run.
            len: unsafe { bpf_xdp_get_buff_len(ctx.ctx) } as u32,
        }
    }

    /// A pointer to `T` at `offset`, if it lies within the buffer.
    #[inline(always)]
    pub fn at<T>(&self, offset: usize) -> Option<*mut T> {
        let start = self.start + offset;
        (start + size_of::<T>() <= self.end).then_some(start as *mut T)
    }

    /// Writes a value at an offset. `None`: it does not lie within the buffer.
    #[inline(always)]
    pub fn store<T>(&self, offset: usize, value: T) -> Option<()> {
        let at = self.at::<T>(offset)?;
        // SAFETY: the bounds are checked; alignment as in `load`.
        unsafe { *at = value };
        Some(())
    }
}

impl Frame for Linear {
    #[inline(always)]
    fn load<T: Wire>(&self, offset: usize) -> Result<T, DropReason> {
        let at = self.at::<T>(offset).ok_or(DropReason::Malformed)?;
        // SAFETY: the bounds are checked, any bytes are a valid `T`, and BPF has no alignment
        // of packet loads to respect where the kernel's architecture has none (the verifier
        // refuses the program elsewhere).
        Ok(unsafe { *at })
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        self.len
    }
}
