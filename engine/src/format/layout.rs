//! Where the parts of a metadata file lie. Pure arithmetic; the numbers are the on-disk format and never change
//! within a format version.

use super::FormatError;
use super::sector::{REGIONS_PER_SECTOR, SECTOR_LEN, STAMPS_PER_SECTOR};
use crate::geometry::{Chunk, Geometry, Region};

/// Length of a superblock slot in bytes.
pub const SLOT_LEN: usize = 4096;
/// Length of both slots, which start the file.
pub const SUPERBLOCKS_LEN: usize = 2 * SLOT_LEN;
/// Where the intent bitmap starts, in bytes.
pub const INTENT_OFFSET: u64 = SUPERBLOCKS_LEN as u64;
/// Where the stamps start, in bytes. What lies between is room for intent, the same for every size of volume, so
/// that growing a volume only makes the file longer.
pub const STAMPS_OFFSET: u64 = 1 << 20;

const MAX_INTENT_SECTORS: u64 = (STAMPS_OFFSET - INTENT_OFFSET) / SECTOR_LEN as u64;

/// The layout of the metadata file of a volume with one geometry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaLayout {
    intent_sectors: u32,
    stamp_sectors: u32,
}

impl MetaLayout {
    /// The layout for a geometry, or why there is none.
    pub fn new(geometry: &Geometry) -> Result<Self, FormatError> {
        let intent_sectors = geometry.regions().div_ceil(REGIONS_PER_SECTOR as u32);
        if u64::from(intent_sectors) > MAX_INTENT_SECTORS {
            return Err(FormatError::TooManyRegions {
                size: geometry.size(),
                region_size: geometry.region_size(),
                max_regions: MAX_INTENT_SECTORS as u32 * REGIONS_PER_SECTOR as u32,
            });
        }
        Ok(Self {
            intent_sectors,
            stamp_sectors: geometry.chunks().div_ceil(STAMPS_PER_SECTOR as u32),
        })
    }

    /// Offset of the superblock slot that takes this sequence number: they alternate.
    pub const fn slot_offset(sequence: u64) -> u64 {
        (sequence % 2) * SLOT_LEN as u64
    }

    /// Offset of a sector of intent.
    pub const fn intent_offset(sector: u32) -> u64 {
        INTENT_OFFSET + sector as u64 * SECTOR_LEN as u64
    }

    /// Offset of a sector of stamps.
    pub const fn stamps_offset(sector: u32) -> u64 {
        STAMPS_OFFSET + sector as u64 * SECTOR_LEN as u64
    }

    /// The sector of intent in which a region's bit lies.
    pub const fn intent_sector_of(region: Region) -> u32 {
        region.0 / REGIONS_PER_SECTOR as u32
    }

    /// The sector of stamps in which a chunk's stamp lies.
    pub const fn stamp_sector_of(chunk: Chunk) -> u32 {
        chunk.0 / STAMPS_PER_SECTOR as u32
    }

    /// Number of sectors of intent in use.
    pub const fn intent_sectors(&self) -> u32 {
        self.intent_sectors
    }

    /// Number of sectors of stamps.
    pub const fn stamp_sectors(&self) -> u32 {
        self.stamp_sectors
    }

    /// Length of the file in bytes: whole pages.
    pub const fn file_len(&self) -> u64 {
        Self::stamps_offset(self.stamp_sectors).next_multiple_of(SLOT_LEN as u64)
    }
}
