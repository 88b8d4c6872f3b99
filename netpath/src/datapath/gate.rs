//! The gates of the uplinks: the XDP program, how it is attached, and whom it denies.
//!
//! What it costs differs. In the driver of a network card it is the cheapest place to drop a
//! packet. The drivers of virtual devices give up offloads for it: with a native program on a
//! veth its peer cuts large segments before they are sent, virtio_net takes no aggregates from
//! the hypervisor any more. In the stack (generic XDP) it keeps the offloads and copies what lies
//! in pieces. So it is chosen by itself like this: in drivers of hardware always, elsewhere in
//! the stack, and only as long as somebody is denied.

use std::io;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};
use aya::maps::MapError;
use aya::maps::lpm_trie::Key;
use ipnet::IpNet;
use netpath_common::addr::Addr;
use netpath_common::deny::{Denied, MAX_DENIED};
use serde::{Deserialize, Serialize};

use super::attach::{self, Hook};
use super::tables::absent_is_fine;
use super::{Datapath, MAPPED_BITS, prefix};
use crate::netlink::ethtool;
use crate::problem::invalid;

/// Drivers whose native XDP costs offloads: see the module.
const COSTLY: [&str; 4] = ["veth", "virtio_net", "tun", "vif"];

/// How the gates of uplinks are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// As is best; see the module.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the stack.
    Generic,
    /// Not at all.
    Off,
}

impl FromStr for Wish {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "auto" => Self::Auto,
            "native" => Self::Native,
            "generic" => Self::Generic,
            "off" => Self::Off,
            _ => {
                return Err(invalid(format!(
                    "\"{text}\" is no mode of XDP, choose auto, native, generic or off"
                )));
            }
        })
    }
}

/// Where the gate of an uplink is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// In the driver.
    Native,
    /// In the stack.
    Generic,
    /// Nowhere.
    #[default]
    Off,
}

impl Place {
    /// As in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Off => "off",
        }
    }

    const fn hook(self) -> Option<Hook> {
        match self {
            Self::Native => Some(Hook::XdpNative),
            Self::Generic => Some(Hook::XdpGeneric),
            Self::Off => None,
        }
    }
}

/// The gate of an uplink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gate {
    /// Where it is.
    pub place: Place,
    /// What was wanted and cannot be had.
    pub problem: Option<String>,
}

impl Datapath {
    /// Puts the gate of an uplink where it is wanted. A device that cannot have it is no error:
    /// the rest of netpath does not depend on it.
    ///
    /// # Errors
    /// If the maps cannot be read or a link cannot be removed.
    pub fn set_gate(&mut self, ifindex: u32, wish: Wish) -> Result<Gate> {
        let needed = self.tables.denied.keys().next().transpose()?.is_some();
        let native = || !ethtool::driver(ifindex).is_some_and(|d| COSTLY.contains(&&*d));
        let places: &[Place] = match wish {
            Wish::Off => &[],
            Wish::Native => &[Place::Native],
            Wish::Generic => &[Place::Generic],
            Wish::Auto => match (native(), needed) {
                (true, true) => &[Place::Native, Place::Generic],
                (true, false) => &[Place::Native],
                (false, true) => &[Place::Generic],
                (false, false) => &[],
            },
        };
        let off = wish == Wish::Off && needed;
        let mut problem = off.then(|| "switched off by --xdp off".to_owned());
        for &place in places {
            match self.try_gate(ifindex, place) {
                Ok(()) => {
                    return Ok(Gate {
                        place,
                        problem: None,
                    });
                }
                Err(error) => problem = Some(format!("{error:#}")),
            }
        }
        self.shut_gate(ifindex)?;
        // Without anybody denied the gate is nice to have, where the device has it.
        if wish == Wish::Auto && !needed {
            problem = None;
        }
        Ok(Gate {
            place: Place::Off,
            problem,
        })
    }

    fn try_gate(&mut self, ifindex: u32, place: Place) -> Result<()> {
        let Some(hook) = place.hook() else {
            return Ok(());
        };
        // A device has one of them at a time.
        for other in [Hook::XdpNative, Hook::XdpGeneric] {
            if other != hook {
                attach::detach(&self.bpffs, other, ifindex)?;
            }
        }
        attach::attach(&mut self.programs, &self.bpffs, hook, ifindex)
            .map_err(|error| explain(place, error))
    }

    /// Takes the gate of an uplink away.
    ///
    /// # Errors
    /// If a link cannot be removed.
    pub fn shut_gate(&mut self, ifindex: u32) -> Result<()> {
        attach::detach(&self.bpffs, Hook::XdpNative, ifindex)?;
        attach::detach(&self.bpffs, Hook::XdpGeneric, ifindex)
    }

    /// Where the gate of an uplink is.
    pub fn gate(&self, ifindex: u32) -> Place {
        [Place::Native, Place::Generic]
            .into_iter()
            .find(|place| {
                place
                    .hook()
                    .is_some_and(|hook| attach::is_attached(&self.bpffs, hook, ifindex))
            })
            .unwrap_or_default()
    }

    /// Denies the sources of a prefix. One that is denied already keeps its counters.
    ///
    /// # Errors
    /// If there are too many.
    pub fn deny(&mut self, subnet: IpNet) -> Result<()> {
        const BPF_NOEXIST: u64 = 1;
        let entry = Denied {
            v4: u8::from(subnet.addr().is_ipv4()),
            ..Denied::default()
        };
        let inserted = self.tables.denied.insert(&key(subnet), entry, BPF_NOEXIST);
        let code = match &inserted {
            Err(MapError::SyscallError(error)) => error.io_error.raw_os_error(),
            _ => None,
        };
        match code {
            Some(libc::EEXIST) => Ok(()),
            Some(libc::ENOSPC) => bail!(
                "{MAX_DENIED} prefixes are denied already, which is all that there is room for"
            ),
            _ => inserted.with_context(|| format!("cannot deny {subnet}")),
        }
    }

    /// Lets the sources of a prefix in again; one that is not denied is fine.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn allow(&mut self, subnet: IpNet) -> Result<()> {
        absent_is_fine(self.tables.denied.remove(&key(subnet)))
    }

    /// What is denied, with the counters.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn denied(&self) -> Result<Vec<(IpNet, Denied)>> {
        let mut all = Vec::new();
        for entry in self.tables.denied.iter() {
            let (key, denied) = entry.context("cannot read what is denied")?;
            if let Some(subnet) = subnet(&key, &denied) {
                all.push((subnet, denied));
            }
        }
        all.sort_by_key(|(subnet, _)| *subnet);
        Ok(all)
    }

    /// The longest denied prefix that has a source.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn denies(&self, source: std::net::IpAddr) -> Result<Option<IpNet>> {
        let all = self.denied()?;
        let matching = all.into_iter().map(|(subnet, _)| subnet);
        Ok(matching
            .filter(|subnet| subnet.contains(&source))
            .max_by_key(IpNet::prefix_len))
    }

    /// Makes exactly these prefixes denied; those that are already keep their counters.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn retain_denied(&mut self, wanted: &[IpNet]) -> Result<()> {
        for (subnet, _) in self.denied()? {
            if !wanted.contains(&subnet) {
                self.allow(subnet)?;
            }
        }
        wanted.iter().try_for_each(|subnet| self.deny(*subnet))
    }
}

fn key(subnet: IpNet) -> Key<Addr> {
    let (addr, bits) = prefix(subnet);
    Key::new(bits.into(), addr)
}

/// The prefix of a key.
fn subnet(key: &Key<Addr>, denied: &Denied) -> Option<IpNet> {
    let bits = u8::try_from(key.prefix_len()).ok()?;
    let addr = key.data().to_ip();
    if denied.v4 != 0 {
        return IpNet::new(addr, bits.checked_sub(MAPPED_BITS)?).ok();
    }
    // A short prefix may look like a mapped address' own.
    let addr = std::net::Ipv6Addr::from_octets(key.data().octets);
    IpNet::new(addr.into(), bits).ok()
}

/// What the kernel's numbers mean for XDP.
fn explain(place: Place, error: anyhow::Error) -> anyhow::Error {
    let code = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::raw_os_error);
    let text = match code {
        Some(libc::EOPNOTSUPP) => "its driver has no native XDP",
        Some(libc::EBUSY | libc::EEXIST) => "another XDP program is attached to it",
        Some(libc::ERANGE | libc::EMSGSIZE) => "its MTU is too large for XDP",
        Some(libc::ENOSPC) => "it has fewer queues than native XDP needs",
        Some(libc::EINVAL) => "its driver refuses it (MTU too large, or offloads in the way)",
        _ => return error.context(format!("cannot attach XDP ({})", place.name())),
    };
    anyhow::anyhow!("cannot attach XDP ({}): {text}", place.name())
}
