//! Pinned links of any kind: what aya lacks for them.

use std::ffi::CString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use log::debug;
use nix::libc;

const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;

/// Detaches a link and removes its pin. Removing the pin alone would detach as well, but in
/// the kernel's own time: the program would go on for a while, and attaching it again at once
/// would fail (EEXIST). A missing pin is fine.
pub fn remove(pin: &Path) -> Result<()> {
    if let Err(error) = open(pin).and_then(|link| detach(&link))
        && error.kind() != ErrorKind::NotFound
    {
        debug!("{} goes without being detached: {error}", pin.display());
    }
    match fs::remove_file(pin) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", pin.display()))
        }
        _ => Ok(()),
    }
}

/// Opens a pinned link.
pub fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    // Members `pathname`; `bpf_fd` and `file_flags`, both 0.
    let mut get = [path.as_ptr() as u64, 0];
    let fd = bpf(BPF_OBJ_GET, &mut get)?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts a program in the place of the link's own, without a moment in which there is none.
pub fn update(link: &OwnedFd, program: BorrowedFd<'_>) -> io::Result<()> {
    // Members `link_fd`, `new_prog_fd`; `flags` and `old_prog_fd`, both 0.
    let mut update = [link.as_raw_fd(), program.as_raw_fd(), 0, 0];
    bpf(BPF_LINK_UPDATE, &mut update).map(drop)
}

/// Pins a link.
pub fn pin(link: &OwnedFd, pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    // Members `pathname`; `bpf_fd` in the first half, `file_flags` (0) in the second.
    let mut attr = [
        path.as_ptr() as u64,
        u64::from_ne_bytes(halves(link.as_raw_fd())),
    ];
    bpf(BPF_OBJ_PIN, &mut attr).map(drop)
}

fn halves(first: i32) -> [u8; 8] {
    let [a, b, c, d] = first.to_ne_bytes();
    [a, b, c, d, 0, 0, 0, 0]
}

/// Attaches an XDP program to a device in the mode that the flags name, and in no other: aya
/// would fall back to an attachment that ends with the process.
pub fn create_xdp(program: BorrowedFd<'_>, ifindex: u32, flags: u32) -> io::Result<OwnedFd> {
    const BPF_XDP: u32 = 37;
    // Members `prog_fd`, `target_ifindex`, `attach_type`, `flags`.
    let mut attr = [program.as_raw_fd().cast_unsigned(), ifindex, BPF_XDP, flags];
    let fd = bpf(BPF_LINK_CREATE, &mut attr)?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The device of a tcx link, in whatever namespace it is; 0 if it is gone.
pub fn device(link: &OwnedFd) -> io::Result<u32> {
    // `struct bpf_link_info`: type, id, program, nothing, and of a tcx link the device.
    const DEVICE: usize = 4;
    let mut info = [0u32; 16];
    let [fd, len] = [link.as_raw_fd().cast_unsigned(), size_of_val(&info) as u32];
    // Members `bpf_fd`, `info_len`; `info`.
    let [a, b, c, d] = fd.to_ne_bytes();
    let [e, f, g, h] = len.to_ne_bytes();
    let mut attr = [
        u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        info.as_mut_ptr() as u64,
    ];
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info[DEVICE])
}

fn detach(link: &OwnedFd) -> io::Result<()> {
    // Member `link_fd`.
    bpf(BPF_LINK_DETACH, &mut link.as_raw_fd()).map(drop)
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the attribute is the start of `union bpf_attr` for the command, as long as said.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    libc::c_int::try_from(result)
        .ok()
        .filter(|fd| *fd >= 0)
        .ok_or_else(io::Error::last_os_error)
}
