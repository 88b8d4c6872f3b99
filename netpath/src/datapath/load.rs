//! The object: loading, pinning, taking over.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Map, MapData, MapInfo};
use aya::programs::{CgroupSockAddr, Program, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};
use log::{debug, warn};
use netpath_common::config::Config;
use netpath_common::counter::Hook;
use nix::sys::statfs::{FsType, statfs};

use super::spec::DatapathOptions;
use super::tables::Tables;
use super::{attach, cgroup, link, stages};
use crate::container::names;

/// The programs, as compiled by the build script.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("NETPATH_EBPF_OBJECT"));

/// Maps that outlive the agent. A record whose layout changes gets a new name here.
const PINNED: [&str; 32] = [
    "flows",
    "endpoints",
    "veths",
    "senders",
    "receivers",
    "slots",
    "ports",
    "networks",
    "subnets",
    "uplinks",
    "host_addrs",
    "config",
    "counters",
    "drops",
    "snat_retries",
    "sock_nat",
    "resolvers",
    "policies",
    "open_ports",
    "trusted",
    "kernel_flows",
    "denied",
    "remotes",
    "tunnels",
    "vteps",
    "vnis",
    "vtep_counts",
    "cards",
    "card_macs",
    "card_addrs",
    "segments",
    "stacked",
];

const BPF_FS_MAGIC: FsType = FsType(0xcafe_4a11);

/// A connection has an entry for each direction.
const ENTRIES_PER_FLOW: u32 = 2;

/// One endpoint may have this part of the flow table: three that flood leave a quarter to
/// the others.
const FLOOD_SHARE: u32 = 4;

/// First kernel whose `bpf_l4_csum_replace` knows `BPF_F_IPV6`.
const CSUM_IPV6_KERNEL: (u32, u32) = (6, 16);

/// First kernel that makes a frame the receiver's own (`skb_scrub_packet`) when it is redirected
/// to a peer.
const REDIRECT_CLAIMS_KERNEL: (u32, u32) = (6, 15);

/// The loaded programs.
pub struct Programs {
    ebpf: Ebpf,
    logs: bool,
    /// Pin of the array of programs that others go on in.
    pub(super) stages: PathBuf,
}

impl Programs {
    /// A program by its name in the object.
    ///
    /// # Errors
    /// If the object has no such program.
    pub fn classifier(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        let program = self
            .ebpf
            .program_mut(name)
            .with_context(|| format!("the object lacks {name}"))?;
        Ok(program.try_into()?)
    }

    /// A program for sockets by its name in the object. These are loaded when they are needed:
    /// not every kernel has them.
    ///
    /// # Errors
    /// If the object has no such program.
    pub(super) fn sock_addr(&mut self, name: &str) -> Result<&mut CgroupSockAddr> {
        let program = self
            .ebpf
            .program_mut(name)
            .with_context(|| format!("the object lacks {name}"))?;
        Ok(program.try_into()?)
    }

    /// The XDP program, loaded when it is first needed.
    ///
    /// # Errors
    /// If the object lacks it or the kernel refuses it.
    pub fn xdp(&mut self) -> Result<&mut Xdp> {
        let program = self
            .ebpf
            .program_mut("np_xdp")
            .context("the object lacks np_xdp")?;
        let program: &mut Xdp = program.try_into()?;
        if program.fd().is_err() {
            program
                .load()
                .context("the kernel refused the program np_xdp")?;
        }
        Ok(program)
    }

    /// A map that is not pinned; each can be taken once.
    pub(super) fn take_map(&mut self, name: &str) -> Result<Map> {
        self.ebpf
            .take_map(name)
            .with_context(|| format!("the object lacks the map {name}"))
    }

    pub(super) fn log(&mut self) -> Result<Option<aya_log::EbpfLogger<&'static dyn log::Log>>> {
        if !self.logs {
            return Ok(None);
        }
        aya_log::EbpfLogger::init(&mut self.ebpf)
            .map(Some)
            .context("cannot read the programs' log")
    }
}

/// Loads the object with its maps pinned under, or taken from, `options.bpffs`.
pub fn open(options: &DatapathOptions) -> Result<(Programs, Tables)> {
    let fresh = prepare_folder(&options.bpffs)?;
    let opened = load(options).and_then(|mut programs| {
        let tables = Tables::take(&mut programs.ebpf)?;
        Ok((programs, tables))
    });
    match opened {
        Ok((programs, mut tables)) => {
            let (snat_port_min, snat_port_max) = options.snat_ports;
            // The next agent needs the same secret to find the ports of lost flows.
            let mut port_secret = tables.config()?.port_secret;
            if port_secret == [0; 2] {
                port_secret = [names::random()?, names::random()?].map(u64::from_ne_bytes);
            }
            tables.set_config(&Config {
                snat_port_min,
                snat_port_max,
                max_flows_per_endpoint: match options.max_flows_per_endpoint {
                    Some(max) => max,
                    None => (flow_capacity(&options.bpffs)? / FLOOD_SHARE).max(1),
                },
                timeouts: options.timeouts,
                port_secret,
                ..Config::default()
            })?;
            Ok((programs, tables))
        }
        Err(error) => {
            if fresh {
                purge(&options.bpffs)?;
            }
            Err(error)
        }
    }
}

fn load(options: &DatapathOptions) -> Result<Programs> {
    let entries = options
        .max_flows
        .checked_mul(ENTRIES_PER_FLOW)
        .context("--max-flows is too large")?;
    let level = options.log.map_or(0, |level| level as u8);
    let kernel = kernel_version()?;
    let csum_ipv6 = u8::from(kernel >= CSUM_IPV6_KERNEL);
    let redirect_claims = u8::from(kernel >= REDIRECT_CLAIMS_KERNEL);
    let host_netns = cgroup::netns_cookie()?;
    let mut loader = EbpfLoader::new();
    loader
        .override_global(aya_log::LEVEL, &level, true)
        .override_global("CSUM_IPV6_FLAG", &csum_ipv6, true)
        .override_global("REDIRECT_CLAIMS", &redirect_claims, true)
        .override_global("HOST_NETNS", &host_netns, true)
        .map_max_entries("flows", entries);
    for name in PINNED {
        loader.map_pin_path(name, options.bpffs.join(name));
    }
    check_pinned(&options.bpffs, entries)?;
    let mut ebpf = loader.load(OBJECT).map_err(explain)?;
    for (name, program) in ebpf.programs_mut() {
        if let Program::SchedClassifier(program) = program {
            program
                .load()
                .with_context(|| format!("the kernel refused the program {name}"))?;
        }
    }
    let stages = stages::fill(&mut ebpf, &options.bpffs)?;
    debug!("programs loaded, maps under {}", options.bpffs.display());
    Ok(Programs {
        ebpf,
        logs: options.log.is_some(),
        stages,
    })
}

/// What most often is behind a failure to make the maps, in one sentence.
fn explain(error: aya::EbpfError) -> anyhow::Error {
    let text = format!("{:#}", anyhow::Error::new(error));
    let denied = text.contains("Operation not permitted") || text.contains("Permission denied");
    let hint = if denied {
        " (it needs root, or CAP_BPF and CAP_NET_ADMIN)"
    } else {
        ""
    };
    anyhow::anyhow!("cannot load the BPF programs{hint}: {text}")
}

/// Pinned maps are used as they are, so they must be what the programs expect.
fn check_pinned(bpffs: &Path, flow_entries: u32) -> Result<()> {
    for name in PINNED {
        let path = bpffs.join(name);
        if !path.exists() {
            continue;
        }
        let info = MapInfo::from_pin(&path)
            .with_context(|| format!("cannot read the pinned map {}", path.display()))?;
        if let Some((key, value)) = Tables::layout(name) {
            let complete = name != "counters" || info.max_entries() >= Hook::ALL.len() as u32;
            ensure!(
                (info.key_size(), info.value_size()) == (key, value) && complete,
                "the pinned map {} was made by another version of netpath; stop the containers \
                 and run `netpath purge --bpffs {}`",
                path.display(),
                bpffs.display()
            );
        }
        if name == "flows" && info.max_entries() != flow_entries {
            warn!(
                "the flow table keeps its size of {} connections until `netpath purge`",
                info.max_entries() / ENTRIES_PER_FLOW
            );
        }
    }
    Ok(())
}

/// Connections that the flow table can hold: a pinned one keeps its size.
pub(super) fn flow_capacity(bpffs: &Path) -> Result<u32> {
    let flows = bpffs.join("flows");
    let info = MapInfo::from_pin(&flows)
        .with_context(|| format!("cannot read the pinned map {}", flows.display()))?;
    Ok(info.max_entries() / ENTRIES_PER_FLOW)
}

/// Makes the folder of the pins; true if it was not there.
fn prepare_folder(bpffs: &Path) -> Result<bool> {
    let parent = bpffs
        .ancestors()
        .find(|p| p.exists())
        .unwrap_or(Path::new("/"));
    let kind = statfs(parent).with_context(|| format!("cannot look at {}", parent.display()))?;
    if kind.filesystem_type() != BPF_FS_MAGIC {
        bail!(
            "{} is not on a bpffs; mount one with `mount -t bpf bpf /sys/fs/bpf` or choose \
             another folder with --bpffs",
            bpffs.display()
        );
    }
    let fresh = !bpffs.exists();
    let links = attach::folder(bpffs);
    fs::create_dir_all(&links).with_context(|| format!("cannot make {}", links.display()))?;
    Ok(fresh)
}

/// Removes every pin under the folder, and the folder. A missing folder is fine.
///
/// # Errors
/// If something cannot be removed.
pub fn purge(bpffs: &Path) -> Result<()> {
    let links = attach::folder(bpffs);
    for folder in [links.as_path(), bpffs] {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error).context(format!("cannot read {}", folder.display())),
        };
        for entry in entries {
            let path = entry?.path();
            if folder == links {
                link::remove(&path)?;
                continue;
            }
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        fs::remove_dir(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

/// Major and minor version of the running kernel.
fn kernel_version() -> Result<(u32, u32)> {
    let release = nix::sys::utsname::uname().context("cannot ask for the kernel's version")?;
    let release = release.release().to_string_lossy().into_owned();
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => bail!("cannot make sense of the kernel's version {release:?}"),
    }
}

/// One pinned map.
pub(super) fn pinned(bpffs: &Path, name: &str) -> Result<MapData> {
    let path = bpffs.join(name);
    MapData::from_pin(&path).with_context(|| format!("no map is pinned at {}", path.display()))
}
