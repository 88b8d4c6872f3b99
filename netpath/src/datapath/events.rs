//! What the programs tell: the ring buffer of events.

use std::os::fd::{AsRawFd, RawFd};
use std::ptr;

use anyhow::{Context as _, Result};
use aya::maps::{MapData, PerCpuArray, RingBuf};
use netpath_common::event::Event;

use super::Datapath;

/// The reading end; there is one.
pub struct Events {
    ring: RingBuf<MapData>,
    lost: PerCpuArray<MapData, u64>,
    told: u64,
}

impl Events {
    /// The next event, if there is one; else wait until the descriptor is readable.
    pub fn take(&mut self) -> Option<Event> {
        loop {
            let item = self.ring.next()?;
            if item.len() >= size_of::<Event>() {
                // SAFETY: as long as the record, and written as a whole by programs that share
                // its definition.
                return Some(unsafe { ptr::read_unaligned(item.as_ptr().cast()) });
            }
        }
    }

    /// How many events more than at the last call were lost, since they came faster than they
    /// were read.
    pub fn lost(&mut self) -> u64 {
        // A counter that cannot be read says nothing new.
        let all = self
            .lost
            .get(&0, 0)
            .map_or(self.told, |cpus| cpus.iter().sum());
        let new = all.saturating_sub(self.told);
        self.told = all;
        new
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl Datapath {
    /// The reading end of the events; it can be taken once.
    ///
    /// # Errors
    /// If it was taken already.
    pub fn events(&mut self) -> Result<Events> {
        Ok(Events {
            ring: RingBuf::try_from(self.programs.take_map("events")?)
                .context("cannot read events")?,
            lost: PerCpuArray::try_from(self.programs.take_map("lost_events")?)
                .context("cannot read events")?,
            told: 0,
        })
    }

    /// Has the programs tell of what the flags name ([`netpath_common::event::wanted`]).
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn watch(&mut self, events: u32) -> Result<()> {
        let mut config = self.tables.config()?;
        config.events = events;
        self.tables.set_config(&config)
    }
}
