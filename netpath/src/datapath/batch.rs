//! Reading a whole hash map in few calls (BPF_MAP_LOOKUP_BATCH, kernel 5.6 and later): the
//! flow table has hundreds of thousands of entries, and one call an entry would keep a CPU busy.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use anyhow::{Context as _, Result};
use aya::Pod;

const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

/// Entries a call: a few hundred kilobytes of buffer.
const BATCH: u32 = 4096;

/// The member `batch` of `union bpf_attr` (include/uapi/linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// All entries of a hash map. Entries that come or go meanwhile may be missed or be there;
/// each of the others is seen once.
///
/// # Errors
/// If the kernel refuses.
pub fn read<K: Pod, V: Pod>(map: BorrowedFd<'_>) -> Result<Vec<(K, V)>> {
    let mut all = Vec::new();
    // The kernel keeps its place in 4 bytes: the number of the next bucket.
    let mut place = 0u32;
    let mut first = true;
    // A batch must hold the fullest bucket as a whole (ENOSPC otherwise).
    let mut batch = BATCH;
    loop {
        let mut keys: Vec<K> = Vec::with_capacity(batch as usize);
        let mut values: Vec<V> = Vec::with_capacity(batch as usize);
        let mut next = 0u32;
        let mut attr = BatchAttr {
            in_batch: if first { 0 } else { (&raw const place) as u64 },
            out_batch: (&raw mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: batch,
            map_fd: map.as_raw_fd() as u32,
            ..BatchAttr::default()
        };
        // SAFETY: the attribute has the kernel's layout; its pointers are to buffers for
        // `count` keys and values of the map's own sizes, and to places of 4 bytes.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_MAP_LOOKUP_BATCH,
                &raw mut attr,
                size_of::<BatchAttr>(),
            )
        };
        let error = (result < 0).then(io::Error::last_os_error);
        match error.as_ref().and_then(io::Error::raw_os_error) {
            Some(libc::ENOSPC) => {
                batch = batch.saturating_mul(2);
                continue;
            }
            None | Some(libc::ENOENT) => {}
            Some(_) => {
                return Err(error.unwrap_or_else(io::Error::last_os_error))
                    .context("cannot read the BPF map");
            }
        }
        let count = attr.count as usize;
        // SAFETY: the kernel has written `count` keys and values, not more than were asked for.
        unsafe {
            keys.set_len(count);
            values.set_len(count);
        }
        all.extend(keys.into_iter().zip(values));
        if error.is_some() {
            return Ok(all);
        }
        place = next;
        first = false;
    }
}
