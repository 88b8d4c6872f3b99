//! Programs and devices (sockets are in `cgroup`): tcx links (kernel 6.6 and later) and XDP
//! links, pinned, so that they stay when the agent goes. A new program takes a link over by
//! `link_update`, without a moment in which the device has none.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use aya::programs::TcAttachType;
use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};

use super::load::Programs;
use super::{cgroup, link};
use crate::netlink::device_name;

/// A place where a program is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hook {
    /// tcx ingress of a host-side veth.
    Container,
    /// tcx ingress of an uplink.
    Uplink,
    /// tcx egress of a gateway device.
    Gateway,
    /// tcx ingress of a VXLAN device.
    Overlay,
    /// tcx ingress of a device whose wire containers share, before all others.
    WireIn,
    /// tcx egress of such a device.
    WireOut,
    /// tcx ingress of a host-side veth on such a wire.
    Card,
    /// tcx egress of a device in a container's namespace, stacked on such a device.
    Guard,
    /// XDP of an uplink, in its driver.
    XdpNative,
    /// XDP of an uplink, in the stack, for any driver.
    XdpGeneric,
}

impl Hook {
    const ALL: [Self; 10] = [
        Self::Container,
        Self::Uplink,
        Self::Gateway,
        Self::Overlay,
        Self::WireIn,
        Self::WireOut,
        Self::Card,
        Self::Guard,
        Self::XdpNative,
        Self::XdpGeneric,
    ];

    /// Name of its links' pins.
    const fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Uplink => "uplink",
            Self::Gateway => "gateway",
            Self::Overlay => "overlay",
            Self::WireIn => "wire_in",
            Self::WireOut => "wire_out",
            Self::Card => "card",
            Self::Guard => "guard",
            Self::XdpNative => "xdp_native",
            Self::XdpGeneric => "xdp_generic",
        }
    }

    /// Name of its program.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Container => "np_container",
            Self::Uplink => "np_uplink",
            Self::Gateway => "np_gateway",
            Self::Overlay => "np_overlay",
            Self::WireIn => "np_wire_in",
            Self::WireOut => "np_wire_out",
            Self::Card => "np_card",
            Self::Guard => "np_guard",
            Self::XdpNative | Self::XdpGeneric => "np_xdp",
        }
    }

    const fn place(self) -> Place {
        match self {
            Self::Container | Self::Uplink | Self::Overlay | Self::WireIn | Self::Card => {
                Place::Tcx(TcAttachType::Ingress)
            }
            Self::Gateway | Self::WireOut | Self::Guard => Place::Tcx(TcAttachType::Egress),
            Self::XdpNative => Place::Xdp(XDP_FLAGS_DRV_MODE),
            Self::XdpGeneric => Place::Xdp(XDP_FLAGS_SKB_MODE),
        }
    }

    /// Its place among the programs of its device. What is for a container on the wire must not
    /// be taken for the host's own.
    fn order(self) -> LinkOrder {
        match self {
            Self::WireIn => LinkOrder::first(),
            _ => LinkOrder::default(),
        }
    }
}

/// Kind of a link.
enum Place {
    Tcx(TcAttachType),
    /// With the flags of the mode.
    Xdp(u32),
}

const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// Folder of the pinned links.
pub fn folder(bpffs: &Path) -> PathBuf {
    bpffs.join("links")
}

fn pin(bpffs: &Path, hook: Hook, ifindex: u32) -> PathBuf {
    folder(bpffs).join(format!("{}-{ifindex}", hook.name()))
}

/// Attaches the hook's program to a device, or puts it in the place of an older one.
pub fn attach(programs: &mut Programs, bpffs: &Path, hook: Hook, ifindex: u32) -> Result<()> {
    let pin = pin(bpffs, hook, ifindex);
    let direction = match hook.place() {
        Place::Tcx(direction) => direction,
        Place::Xdp(flags) => return attach_xdp(programs, &pin, ifindex, flags),
    };
    let program = programs.classifier(hook.program())?;
    if let Ok(link) = PinnedLink::from_pin(&pin) {
        let link = SchedClassifierLink::try_from(FdLink::from(link))
            .with_context(|| format!("{} is no tcx link", pin.display()))?;
        if let Ok(id) = program.attach_to_link(link) {
            // The pin holds the link; our own descriptor of it is not needed.
            drop(program.take_link(id)?);
            return Ok(());
        }
        // Its device is gone, and another has got the number.
        link::remove(&pin)?;
    }
    let device =
        device_name(ifindex).with_context(|| format!("no device has the number {ifindex}"))?;
    let options = TcAttachOptions::TcxOrder(hook.order());
    let id = program
        .attach_with_options(&device, direction, options)
        .with_context(|| format!("cannot attach {} to {device}", hook.program()))?;
    let link: FdLink = program
        .take_link(id)?
        .try_into()
        .context("the kernel made no tcx link")?;
    link.pin(&pin)
        .with_context(|| format!("cannot pin {}", pin.display()))?;
    Ok(())
}

fn attach_xdp(programs: &mut Programs, pin: &Path, ifindex: u32, flags: u32) -> Result<()> {
    let program = programs.xdp()?.fd()?.as_fd();
    if let Ok(found) = link::open(pin) {
        if link::update(&found, program).is_ok() {
            return Ok(());
        }
        // As above.
        link::remove(pin)?;
    }
    let made = link::create_xdp(program, ifindex, flags)?;
    link::pin(&made, pin).with_context(|| format!("cannot pin {}", pin.display()))
}

/// Whether the hook's program is attached to a device.
pub fn is_attached(bpffs: &Path, hook: Hook, ifindex: u32) -> bool {
    pin(bpffs, hook, ifindex).exists()
}

/// Whether the device of an attached program is there; of one that no program is attached to it is
/// not known, so it is not.
pub fn has_device(bpffs: &Path, hook: Hook, ifindex: u32) -> bool {
    let device = link::open(&pin(bpffs, hook, ifindex)).and_then(|link| link::device(&link));
    device.is_ok_and(|device| device != 0)
}

/// Detaches a device's program. A device that is gone has detached it already.
pub fn detach(bpffs: &Path, hook: Hook, ifindex: u32) -> Result<()> {
    link::remove(&pin(bpffs, hook, ifindex))
}

/// Detaches the programs of all devices but those for which `keep` says so.
pub fn retain(bpffs: &Path, keep: impl Fn(Hook, u32) -> bool) -> Result<()> {
    let folder = folder(bpffs);
    for entry in
        fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().is_some_and(cgroup::owns) {
            continue;
        }
        let known = name.to_str().and_then(parse);
        if !known.is_some_and(|(hook, ifindex)| keep(hook, ifindex)) {
            link::remove(&entry.path())?;
        }
    }
    Ok(())
}

fn parse(name: &str) -> Option<(Hook, u32)> {
    let (hook, ifindex) = name.split_once('-')?;
    let hook = Hook::ALL.into_iter().find(|h| h.name() == hook)?;
    Some((hook, ifindex.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pin_names_are_read_back() {
        for hook in Hook::ALL {
            let pin = pin(Path::new("/x"), hook, 42);
            assert_eq!(
                parse(pin.file_name().unwrap().to_str().unwrap()),
                Some((hook, 42))
            );
        }
        for odd in [
            "",
            "container",
            "container-",
            "container-x",
            "bridge-1",
            "-1",
        ] {
            assert_eq!(parse(odd), None, "{odd}");
        }
    }
}
