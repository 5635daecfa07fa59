//! A look at a replica on disk without opening it as its owner: for `replica inspect` and for support. Changes
//! nothing.

use std::path::Path;
use std::time::SystemTime;

use super::DiskError;
use super::block_file::BlockFile;
use super::os_file::{Caching, Lock};
use super::replica_dir::{DATA_FILE, META_FILE, open_file, read_image};
use crate::format::Superblock;
use crate::ids::Tick;

const LOOKS_WHILE_IN_USE: usize = 4;

/// What a replica's files say about it.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// The superblock that counts.
    pub superblock: Superblock,
    /// Whether both slots of the superblock are valid; one is damaged after a torn write, or on a bad disk.
    pub both_slots_valid: bool,
    /// Whether somebody has it open. Its files are changing then, and the figures are a moment's.
    pub in_use: bool,
    /// Regions whose intent bit is set.
    pub regions_set: u32,
    /// Regions in all.
    pub regions: u32,
    /// Chunks that were ever written.
    pub chunks_written: u32,
    /// Chunks stamped later than the durable tick: what a takeover or a catch-up would compare.
    pub chunks_unsettled: u32,
    /// Chunks that are suspect.
    pub chunks_suspect: u32,
    /// Chunks in all.
    pub chunks: u32,
    /// The newest stamp that is not "suspect".
    pub newest_stamp: Tick,
    /// Length of the data file in bytes.
    pub data_len: u64,
    /// Bytes that data and metadata take up.
    pub allocated: u64,
    /// When its metadata was last written: by the wall clock of that time, for people.
    pub modified: SystemTime,
}

/// Reads the replica in `dir`.
pub fn inspect(dir: &Path) -> Result<Inspection, DiskError> {
    let meta = open_file(dir, META_FILE, Caching::PageCache)?;
    let in_use = !meta
        .lock(Lock::Shared)
        .map_err(DiskError::io("cannot lock", dir))?;
    let data = open_file(dir, DATA_FILE, Caching::PageCache)?;
    let mut image = read_image(&meta, dir);
    // The owner may be writing just what is being read; a sector that is damaged stays so.
    for _ in 0..LOOKS_WHILE_IN_USE {
        if !in_use || image.is_ok() {
            break;
        }
        image = read_image(&meta, dir);
    }
    let image = image?;
    let lookup = || DiskError::io("cannot look at", dir);

    let durable = image.superblock.durable;
    let count =
        |wanted: &dyn Fn(Tick) -> bool| image.stamps.iter().filter(|&(_, tick)| wanted(tick)).count() as u32;
    Ok(Inspection {
        superblock: image.superblock,
        both_slots_valid: image.both_slots_valid,
        in_use,
        regions_set: image.intent.count(),
        regions: image.intent.regions(),
        chunks_written: count(&|tick| tick != Tick::ZERO),
        chunks_unsettled: count(&|tick| tick > durable),
        chunks_suspect: count(&|tick| tick == Tick::SUSPECT),
        chunks: image.stamps.chunks(),
        newest_stamp: image
            .stamps
            .iter()
            .map(|(_, tick)| tick)
            .filter(|&tick| tick != Tick::SUSPECT)
            .max()
            .unwrap_or_default(),
        data_len: data.len().map_err(lookup())?,
        allocated: data.allocated().map_err(lookup())? + meta.allocated().map_err(lookup())?,
        modified: meta
            .file()
            .metadata()
            .and_then(|found| found.modified())
            .map_err(lookup())?,
    })
}
