//! Programs that go on in others: the array `stages`.
//!
//! The kernel empties such an array when nobody in user space holds it, so it is pinned. An array
//! cannot be exchanged as a whole, so each load of the object has its own, and a program never
//! goes on in one of another version. The pin of an earlier load is removed when no device has
//! its programs any more.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use aya::Ebpf;
use aya::maps::{Map, MapData, ProgramArray};
use aya::programs::SchedClassifier;
use netpath_common::link::{BEYOND, ROUTED, UNWRAP};

use super::load::Programs;

const PREFIX: &str = "stages-";
const STAGES: [(u32, &str); 3] = [
    (BEYOND, "np_beyond"),
    (UNWRAP, "np_unwrap"),
    (ROUTED, "np_routed"),
];

/// Fills the array of a loaded object and pins it; returns the pin.
///
/// # Errors
/// If the kernel refuses.
pub fn fill(ebpf: &mut Ebpf, bpffs: &Path) -> Result<PathBuf> {
    let map = ebpf
        .take_map("stages")
        .context("the object lacks the map stages")?;
    let id = match &map {
        Map::ProgramArray(data) => data.info().context("cannot look at stages")?.id(),
        _ => bail!("the map stages is no array of programs"),
    };
    let mut array: ProgramArray<MapData> = map.try_into()?;
    for (place, name) in STAGES {
        let program: &SchedClassifier = ebpf
            .program(name)
            .with_context(|| format!("the object lacks {name}"))?
            .try_into()?;
        array
            .set(place, program.fd()?, 0)
            .with_context(|| format!("the kernel refused {name} as a stage"))?;
    }
    let pin = bpffs.join(format!("{PREFIX}{id}"));
    array
        .pin(&pin)
        .with_context(|| format!("cannot pin {}", pin.display()))?;
    Ok(pin)
}

/// Removes the pins of earlier loads.
///
/// # Errors
/// If the folder cannot be read or a pin not be removed.
pub fn retain(bpffs: &Path, programs: &Programs) -> Result<()> {
    let entries =
        fs::read_dir(bpffs).with_context(|| format!("cannot read {}", bpffs.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.starts_with(PREFIX)) && path != programs.stages {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}
