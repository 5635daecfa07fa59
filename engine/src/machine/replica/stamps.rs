//! Stamps in memory, and which of their sectors differ from the disk (D2). Never writes.

use crate::format::{MetaLayout, Stamps};
use crate::geometry::Chunk;
use crate::ids::Tick;

/// The stamps, and the sectors to be written.
#[derive(Debug)]
pub(super) struct StampTable {
    stamps: Stamps,
    /// One bit a sector: whether it is in `dirty`.
    is_dirty: Vec<u64>,
    dirty: Vec<u32>,
}

impl StampTable {
    pub(super) fn loaded(stamps: Stamps) -> Self {
        let sectors = MetaLayout::stamp_sector_of(Chunk(stamps.chunks().saturating_sub(1))) + 1;
        Self {
            stamps,
            is_dirty: vec![0; (sectors as usize).div_ceil(64)],
            dirty: Vec::new(),
        }
    }

    pub(super) fn get(&self, chunk: Chunk) -> Tick {
        self.stamps.get(chunk)
    }

    pub(super) fn chunks(&self) -> u32 {
        self.stamps.chunks()
    }

    pub(super) fn table(&self) -> &Stamps {
        &self.stamps
    }

    pub(super) fn set(&mut self, chunk: Chunk, tick: Tick) {
        if chunk.0 >= self.stamps.chunks() || self.stamps.get(chunk) == tick {
            return;
        }
        self.stamps.set(chunk, tick);
        let sector = MetaLayout::stamp_sector_of(chunk);
        let bit = 1u64 << (sector % 64);
        if let Some(word) = self.is_dirty.get_mut(sector as usize / 64)
            && *word & bit == 0
        {
            *word |= bit;
            self.dirty.push(sector);
        }
    }

    pub(super) fn raise(&mut self, chunk: Chunk, tick: Tick) {
        if self.get(chunk) < tick {
            self.set(chunk, tick);
        }
    }

    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// The sectors that differ from the disk; they are regarded as written from now on.
    pub(super) fn take_dirty(&mut self) -> Vec<u32> {
        self.is_dirty.fill(0);
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.sort_unstable();
        dirty
    }
}
