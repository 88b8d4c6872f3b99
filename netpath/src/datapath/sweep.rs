//! Removal of idle flows. The agent looks for candidates, the kernel decides: the program
//! `np_sweep` looks at each again and removes it only if it is idle still, so that a flow
//! which wakes up in between loses nothing.

use std::collections::HashMap;
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result};
use aya::{TestRun as _, TestRunOptions};
use netpath_common::flow::{Direction, Flow};
use netpath_common::tuple::{SWEEP_KEYS, Tuple};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::{Datapath, batch, load};

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepReport {
    /// Entries in the flow table before, two a connection.
    pub entries: usize,
    /// Connections removed.
    pub removed: usize,
}

impl Datapath {
    /// Removes the flows that have been silent for too long, or whose container is gone.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn sweep(&mut self) -> Result<SweepReport> {
        let entries = self.flow_entries()?;
        let candidates = self.candidates(&entries)?;
        let program = self.programs.classifier("np_sweep")?;
        let mut removed = 0;
        for keys in candidates.chunks(SWEEP_KEYS) {
            let bytes: Vec<u8> = keys.iter().flat_map(bytes).collect();
            let options = TestRunOptions {
                data_in: Some(&bytes),
                ..TestRunOptions::new()
            };
            let result = program
                .test_run(options)
                .context("cannot run the sweep program")?;
            removed += result.return_value as usize;
        }
        self.count_anew()?;
        Ok(SweepReport {
            entries: entries.len(),
            removed,
        })
    }

    /// Puts the accounts of all endpoints right; the programs' counts may be off by a few.
    fn count_anew(&mut self) -> Result<()> {
        // The generation is asked for once an endpoint: once a connection would be a system
        // call for each of a hundred thousand.
        let mut accounts = HashMap::new();
        for &slot in self.slots.values() {
            accounts.insert(slot, (self.tables.generation(slot)?, 0));
        }
        for (_, flow) in self.flow_entries()? {
            if flow.direction == Direction::Reply
                && let Some((generation, count)) = accounts.get_mut(&flow.slot)
                && *generation == flow.generation
            {
                *count += 1;
            }
        }
        for (slot, (_, flows)) in accounts {
            self.tables.set_flow_count(slot, flows)?;
        }
        Ok(())
    }

    /// The flow table as it is.
    pub(super) fn flow_entries(&self) -> Result<Vec<(Tuple, Flow)>> {
        // aya does not lend the descriptor of a typed map.
        let flows = load::pinned(&self.bpffs, "flows")?;
        batch::read(flows.fd().as_fd())
    }

    fn candidates(&self, entries: &[(Tuple, Flow)]) -> Result<Vec<Tuple>> {
        let timeouts = self.tables.config()?.timeouts;
        let now = seconds_since_boot()?;
        let mut generations = HashMap::new();
        let mut candidates = Vec::new();
        for (key, flow) in entries {
            let generation = match generations.get(&flow.slot) {
                Some(&generation) => generation,
                None => {
                    let generation = self.tables.generation(flow.slot)?;
                    generations.insert(flow.slot, generation);
                    generation
                }
            };
            let idle = now.saturating_sub(flow.last_seen) > timeouts.of(flow.state);
            if idle || generation != flow.generation {
                candidates.push(*key);
            }
        }
        Ok(candidates)
    }
}

/// The programs' clock (CLOCK_MONOTONIC), in whole seconds.
///
/// # Errors
/// If the kernel has no such clock.
pub(super) fn seconds_since_boot() -> Result<u32> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("cannot read the clock")?;
    Ok(u32::try_from(now.tv_sec())?)
}

/// A key as the bytes that the map has.
fn bytes(key: &Tuple) -> [u8; size_of::<Tuple>()] {
    // SAFETY: repr(C) without padding, sizes equal by the type.
    unsafe { core::mem::transmute(*key) }
}
