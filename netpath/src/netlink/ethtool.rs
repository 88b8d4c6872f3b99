//! What only the older interface to drivers tells (ethtool(8)).

use std::os::fd::AsRawFd as _;

use super::device_name;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 3;

/// `struct ethtool_drvinfo` (include/uapi/linux/ethtool.h) up to what we read.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

/// `struct ifreq` with the pointer that this request takes.
#[repr(C)]
struct Request {
    name: [u8; libc::IF_NAMESIZE],
    data: *mut DriverInfo,
    rest: [u8; 16],
}

/// Name of the driver of a device in the caller's network namespace; `None` if it does not tell.
pub fn driver(ifindex: u32) -> Option<String> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .ok()?;
    let mut info = DriverInfo {
        command: ETHTOOL_GDRVINFO,
        driver: [0; 32],
        rest: [0; 160],
    };
    let mut request = Request {
        name: [0; libc::IF_NAMESIZE],
        data: &raw mut info,
        rest: [0; 16],
    };
    // Shorter than the field: the kernel's names end with a zero.
    let name = device_name(ifindex)?;
    request
        .name
        .get_mut(..name.len())?
        .copy_from_slice(name.as_bytes());
    // SAFETY: request and record have the kernel's layout and live through the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    if result != 0 {
        return None;
    }
    let name = info.driver.split(|&byte| byte == 0).next()?;
    String::from_utf8(name.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_none_has_no_driver() {
        assert_eq!(driver(u32::MAX), None);
        assert_eq!(size_of::<DriverInfo>(), 196, "as long as the kernel's");
    }
}
