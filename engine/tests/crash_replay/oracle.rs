//! What was asked of the volume and when it was acknowledged, and with it which content each sector may have.

use std::collections::BTreeMap;

use bulkhead_engine::geometry::ByteRange;
use bulkhead_engine::ids::Tick;

use crate::support::cut::SECTOR;

/// A write, or a zero (value 0). Times are places in the recording.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    pub range: ByteRange,
    pub value: u64,
    pub submitted: usize,
    pub acked: usize,
    /// The volume's tick before it was submitted and after it was acknowledged: its own lies between.
    pub tick_before: Tick,
    pub tick_after: Tick,
}

/// A flush that was acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Flush {
    pub submitted: usize,
    pub acked: usize,
}

/// One sector's writes in the order in which they took effect: nobody writes to a sector twice at the same time.
#[derive(Clone, Debug)]
pub struct History {
    pub sector: u64,
    /// What it held before the first of them.
    pub before: u64,
    pub writes: Vec<Write>,
}

impl History {
    /// The value after so many writes.
    pub fn value_after(&self, writes: usize) -> u64 {
        writes
            .checked_sub(1)
            .map_or(self.before, |last| self.writes[last].value)
    }
}

/// All that was asked.
#[derive(Default)]
pub struct Asked {
    pub writes: Vec<Write>,
    pub flushes: Vec<Flush>,
}

impl Asked {
    /// The history of each of these sectors; `before` tells what one held at the start.
    pub fn histories(&self, sectors: impl Iterator<Item = u64>, before: impl Fn(u64) -> u64) -> Vec<History> {
        let history = |sector| {
            (
                sector,
                History {
                    sector,
                    before: before(sector),
                    writes: Vec::new(),
                },
            )
        };
        let mut by_sector: BTreeMap<u64, History> = sectors.map(history).collect();
        let mut writes = self.writes.clone();
        writes.sort_unstable_by_key(|write| write.submitted);
        for write in writes {
            for sector in write.range.offset / SECTOR as u64..write.range.end() / SECTOR as u64 {
                by_sector
                    .get_mut(&sector)
                    .expect("only these are written to")
                    .writes
                    .push(write);
            }
        }
        by_sector.into_values().collect()
    }

    /// Writes acknowledged before this place are covered by a flush that was acknowledged before `cut`.
    pub fn flushed_up_to(&self, cut: usize) -> usize {
        let acked = self.flushes.iter().filter(|flush| flush.acked < cut);
        acked.map(|flush| flush.submitted).max().unwrap_or(0)
    }
}

/// The content of a sector that a write with this value leaves: value and place, over and over.
pub fn content(sector: u64, value: u64) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    if value != 0 {
        for pair in bytes.chunks_exact_mut(16) {
            pair[..8].copy_from_slice(&value.to_le_bytes());
            pair[8..].copy_from_slice(&sector.to_le_bytes());
        }
    }
    bytes
}

/// The value that a sector holds; `None` if nobody wrote that.
pub fn value_in(sector: u64, bytes: &[u8]) -> Option<u64> {
    let value = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    (bytes == content(sector, value)).then_some(value)
}
