//! Many entries of a hash map in few calls (BPF_MAP_*_BATCH, kernel 5.6 and later): the flow
//! table has hundreds of thousands of entries, a container may publish thousands of ports, and
//! one call an entry would keep a CPU busy.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use anyhow::{Context as _, Result, bail};
use aya::Pod;

const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_MAP_DELETE_BATCH: libc::c_long = 27;

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
        // SAFETY: its pointers are to buffers for `count` keys and values of the map's own
        // sizes, and to places of 4 bytes.
        let error = unsafe { call(BPF_MAP_LOOKUP_BATCH, &mut attr) }.err();
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

/// Inserts or overwrites entries. Those before one that fails are written.
///
/// # Errors
/// The map is full, or the kernel refuses.
pub fn write<K: Pod, V: Pod>(map: BorrowedFd<'_>, entries: &[(K, V)]) -> Result<()> {
    let (keys, values): (Vec<K>, Vec<V>) = entries.iter().copied().unzip();
    if keys.is_empty() {
        return Ok(());
    }
    let mut attr = BatchAttr {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: u32::try_from(keys.len())?,
        map_fd: map.as_raw_fd() as u32,
        ..BatchAttr::default()
    };
    // SAFETY: its pointers are to `count` keys and values of the map's own sizes.
    match unsafe { call(BPF_MAP_UPDATE_BATCH, &mut attr) } {
        Err(error) if error.raw_os_error() == Some(libc::E2BIG) => bail!("the BPF map is full"),
        result => result.context("cannot write to the BPF map"),
    }
}

/// Removes entries; missing ones are fine.
///
/// # Errors
/// If the kernel refuses.
pub fn remove<K: Pod>(map: BorrowedFd<'_>, keys: &[K]) -> Result<()> {
    let mut rest = keys;
    while !rest.is_empty() {
        let mut attr = BatchAttr {
            keys: rest.as_ptr() as u64,
            count: u32::try_from(rest.len())?,
            map_fd: map.as_raw_fd() as u32,
            ..BatchAttr::default()
        };
        // SAFETY: its pointer is to `count` keys of the map's own size.
        let removed = unsafe { call(BPF_MAP_DELETE_BATCH, &mut attr) };
        match removed {
            Ok(()) => return Ok(()),
            // The kernel stops at a missing one, and tells how far it came.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                rest = rest.get(attr.count as usize + 1..).unwrap_or_default();
            }
            Err(error) => return Err(error).context("cannot remove from the BPF map"),
        }
    }
    Ok(())
}

/// One call.
///
/// # Safety
/// The pointers in `attr` are to what `command` reads and writes, as long as `count` says.
unsafe fn call(command: libc::c_long, attr: &mut BatchAttr) -> io::Result<()> {
    // SAFETY: the attribute has the kernel's layout; the rest is the caller's promise.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<BatchAttr>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
