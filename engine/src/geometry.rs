//! Byte ranges, chunks and regions of a volume, and how they map onto each other. Pure arithmetic.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The unit in which a volume's blocks are addressed, in bytes: every request is aligned to it.
pub const SECTOR: u64 = 512;
/// A volume's size is a multiple of this many bytes.
pub const SIZE_STEP: u64 = 1 << 20;
/// The smallest chunk, in bytes.
pub const MIN_CHUNK: u64 = 64 << 10;
/// The smallest region, in bytes.
pub const MIN_REGION: u64 = 4 << 20;
/// A new volume has at most this many chunks: its stamps fit into 8 MiB of memory.
pub const MAX_CHUNKS_AT_CREATE: u64 = 1 << 20;
/// The largest volume, in bytes (1 PiB).
pub const MAX_SIZE: u64 = 1 << 50;

/// Bytes of a volume: where they start and how many they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ByteRange {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

impl ByteRange {
    /// The range of `len` bytes from `offset` on.
    pub const fn new(offset: u64, len: u64) -> Self {
        Self { offset, len }
    }

    /// One past the last byte. Saturates, so that a range from outside cannot wrap around.
    pub const fn end(self) -> u64 {
        self.offset.saturating_add(self.len)
    }

    /// Whether both share a byte.
    pub const fn overlaps(self, other: Self) -> bool {
        self.offset < other.end() && other.offset < self.end()
    }

    /// Whether this range holds no byte.
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }
}

/// Index of a chunk, the unit of resync.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Chunk(pub u32);

/// Index of a region, the unit of write intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Region(pub u32);

/// Why a geometry cannot be.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum GeometryError {
    /// Size out of bounds or off step.
    #[error("a volume of {0} bytes cannot be: the size is a multiple of 1 MiB, from 1 MiB to 1 PiB")]
    Size(u64),
    /// Chunk or region size not usable.
    #[error(
        "chunks of {chunk} and regions of {region} bytes cannot be: both are powers of two, a chunk has at least 64 KiB, a region at least 4 MiB and at least one chunk"
    )]
    Units {
        /// Chunk size asked for, in bytes.
        chunk: u64,
        /// Region size asked for, in bytes.
        region: u64,
    },
}

/// A volume's size and how it is divided. Chunk and region size are fixed at create; the size may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Geometry {
    size: u64,
    chunk_size: u64,
    region_size: u64,
}

impl Geometry {
    /// The division of a new volume of `size` bytes: the smallest chunks, and with them regions, that keep the
    /// number of chunks within [`MAX_CHUNKS_AT_CREATE`].
    pub fn for_size(size: u64) -> Result<Self, GeometryError> {
        let chunk_size = size
            .div_ceil(MAX_CHUNKS_AT_CREATE)
            .max(MIN_CHUNK)
            .next_power_of_two();
        Self::new(size, chunk_size, MIN_REGION.max(chunk_size))
    }

    /// A division as a superblock or a record gives it; checked, because it comes from outside.
    pub fn new(size: u64, chunk_size: u64, region_size: u64) -> Result<Self, GeometryError> {
        if size == 0 || size > MAX_SIZE || !size.is_multiple_of(SIZE_STEP) {
            return Err(GeometryError::Size(size));
        }
        let units_fit = chunk_size.is_power_of_two()
            && region_size.is_power_of_two()
            && chunk_size >= MIN_CHUNK
            && region_size >= MIN_REGION.max(chunk_size)
            && size.div_ceil(chunk_size) <= u64::from(u32::MAX);
        if !units_fit {
            return Err(GeometryError::Units {
                chunk: chunk_size,
                region: region_size,
            });
        }
        Ok(Self {
            size,
            chunk_size,
            region_size,
        })
    }

    /// Size of the volume in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Size of a chunk in bytes.
    pub const fn chunk_size(&self) -> u64 {
        self.chunk_size
    }

    /// Size of a region in bytes.
    pub const fn region_size(&self) -> u64 {
        self.region_size
    }

    /// Number of chunks; the last may be partial.
    pub const fn chunks(&self) -> u32 {
        self.size.div_ceil(self.chunk_size) as u32
    }

    /// Number of regions; the last may be partial.
    pub const fn regions(&self) -> u32 {
        self.size.div_ceil(self.region_size) as u32
    }

    /// Whether the range lies within the volume, on sector bounds, and holds at least one byte.
    pub const fn admits(&self, range: ByteRange) -> bool {
        range.len > 0
            && range.offset.is_multiple_of(SECTOR)
            && range.len.is_multiple_of(SECTOR)
            && range.end() <= self.size
    }

    /// The chunks that a range touches. The range must be admitted.
    pub fn chunks_of(&self, range: ByteRange) -> Range<u32> {
        (range.offset / self.chunk_size) as u32..range.end().div_ceil(self.chunk_size) as u32
    }

    /// The regions that a range touches. The range must be admitted.
    pub fn regions_of(&self, range: ByteRange) -> Range<u32> {
        (range.offset / self.region_size) as u32..range.end().div_ceil(self.region_size) as u32
    }

    /// The bytes of a chunk.
    pub fn chunk_range(&self, chunk: Chunk) -> ByteRange {
        let offset = u64::from(chunk.0) * self.chunk_size;
        ByteRange::new(offset, self.chunk_size.min(self.size.saturating_sub(offset)))
    }

    /// The chunks of a region.
    pub fn chunks_of_region(&self, region: Region) -> Range<u32> {
        let per_region = (self.region_size / self.chunk_size) as u32;
        let first = region.0.saturating_mul(per_region);
        first..first.saturating_add(per_region).min(self.chunks())
    }

    /// The region that a chunk lies in.
    pub const fn region_of_chunk(&self, chunk: Chunk) -> Region {
        Region((chunk.0 as u64 * self.chunk_size / self.region_size) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_stay_bounded() -> Result<(), GeometryError> {
        for shift in 0..=30 {
            let geometry = Geometry::for_size(SIZE_STEP << shift)?;
            assert!(u64::from(geometry.chunks()) <= MAX_CHUNKS_AT_CREATE);
            assert_eq!(geometry.region_size() % geometry.chunk_size(), 0);
        }
        Ok(())
    }

    #[test]
    fn a_range_maps_to_all_it_touches() -> Result<(), GeometryError> {
        let geometry = Geometry::new(9 << 20, 64 << 10, 4 << 20)?;
        let across = ByteRange::new((4 << 20) - 512, 1024);
        assert_eq!(geometry.chunks_of(across), 63..65);
        assert_eq!(geometry.regions_of(across), 0..2);
        assert_eq!((geometry.chunks(), geometry.regions()), (144, 3));
        assert_eq!(geometry.chunks_of_region(Region(2)), 128..144);
        assert!(!geometry.admits(ByteRange::new(u64::MAX - 511, 512)));
        Ok(())
    }
}
