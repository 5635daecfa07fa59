//! Intent and stamps in memory, and their sectors as bytes. Owns no rule about when a bit or a stamp changes.

use super::FormatError;
use super::layout::MetaLayout;
use super::sector::{
    self, Area, PAYLOAD_LEN, REGIONS_PER_SECTOR, SECTOR_LEN, STAMPS_PER_SECTOR, seal, unseal,
};
use crate::geometry::{Chunk, Geometry, Region};
use crate::ids::{ReplicaId, Tick};

/// One bit a region: "may hold writes that are not settled".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    regions: u32,
    /// Whole sectors' payloads, one after the other.
    bits: Vec<u8>,
}

impl Intent {
    /// No bit set.
    pub fn none(geometry: &Geometry) -> Self {
        let regions = geometry.regions();
        let sectors = (regions as usize).div_ceil(REGIONS_PER_SECTOR);
        Self {
            regions,
            bits: vec![0; sectors * PAYLOAD_LEN],
        }
    }

    /// Number of regions.
    pub fn regions(&self) -> u32 {
        self.regions
    }

    /// Whether a region's bit is set. A region beyond the volume has none.
    pub fn is_set(&self, region: Region) -> bool {
        self.bits
            .get(region.0 as usize / 8)
            .is_some_and(|byte| byte & (1 << (region.0 % 8)) != 0)
    }

    /// Sets or clears a region's bit. Does nothing beyond the volume.
    pub fn set(&mut self, region: Region, to: bool) {
        if region.0 >= self.regions {
            return;
        }
        if let Some(byte) = self.bits.get_mut(region.0 as usize / 8) {
            let bit = 1 << (region.0 % 8);
            *byte = if to { *byte | bit } else { *byte & !bit };
        }
    }

    /// The regions whose bit is set, in order.
    pub fn iter_set(&self) -> impl Iterator<Item = Region> + '_ {
        self.bits.iter().enumerate().flat_map(|(at, &byte)| {
            (0..8u32)
                .filter(move |bit| byte & (1 << bit) != 0)
                .map(move |bit| Region(at as u32 * 8 + bit))
        })
    }

    /// How many bits are set.
    pub fn count(&self) -> u32 {
        self.bits.iter().map(|byte| byte.count_ones()).sum()
    }

    /// The bytes of one sector, to be written at [`MetaLayout::intent_offset`].
    pub fn encode_sector(&self, replica: ReplicaId, index: u32) -> [u8; SECTOR_LEN] {
        let mut payload = [0; PAYLOAD_LEN];
        if let Some(bits) = self.bits.chunks_exact(PAYLOAD_LEN).nth(index as usize) {
            payload.copy_from_slice(bits);
        }
        seal(replica, Area::Intent, index, &payload)
    }

    /// Reads the whole table from a metadata file's bytes.
    pub(super) fn decode(file: &[u8], geometry: &Geometry, replica: ReplicaId) -> Result<Self, FormatError> {
        let mut intent = Self::none(geometry);
        for (index, bits) in intent.bits.chunks_exact_mut(PAYLOAD_LEN).enumerate() {
            let index = index as u32;
            if let Some(payload) = read_sector(file, replica, Area::Intent, index)? {
                bits.copy_from_slice(&payload);
            }
        }
        if intent.iter_set().any(|region| region.0 >= intent.regions) {
            return Err(FormatError::DamagedSector {
                area: Area::Intent,
                sector: MetaLayout::intent_sector_of(Region(intent.regions)),
            });
        }
        Ok(intent)
    }
}

/// One tick a chunk: that of its last write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamps {
    ticks: Vec<Tick>,
}

impl Stamps {
    /// No chunk was ever written.
    pub fn none(geometry: &Geometry) -> Self {
        Self {
            ticks: vec![Tick::ZERO; geometry.chunks() as usize],
        }
    }

    /// Number of chunks.
    pub fn chunks(&self) -> u32 {
        self.ticks.len() as u32
    }

    /// A chunk's stamp; that of a chunk beyond the volume is zero.
    pub fn get(&self, chunk: Chunk) -> Tick {
        self.ticks.get(chunk.0 as usize).copied().unwrap_or_default()
    }

    /// Sets a chunk's stamp. Does nothing beyond the volume.
    pub fn set(&mut self, chunk: Chunk, tick: Tick) {
        if let Some(stamp) = self.ticks.get_mut(chunk.0 as usize) {
            *stamp = tick;
        }
    }

    /// All chunks with their stamps, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Chunk, Tick)> + '_ {
        self.ticks
            .iter()
            .enumerate()
            .map(|(chunk, &tick)| (Chunk(chunk as u32), tick))
    }

    /// The bytes of one sector, to be written at [`MetaLayout::stamps_offset`].
    pub fn encode_sector(&self, replica: ReplicaId, index: u32) -> [u8; SECTOR_LEN] {
        let mut payload = [0; PAYLOAD_LEN];
        if let Some(ticks) = self.ticks.chunks(STAMPS_PER_SECTOR).nth(index as usize) {
            for (field, tick) in payload.chunks_exact_mut(8).zip(ticks) {
                field.copy_from_slice(&tick.to_bits().to_le_bytes());
            }
        }
        seal(replica, Area::Stamps, index, &payload)
    }

    /// Reads the whole table from a metadata file's bytes.
    pub(super) fn decode(file: &[u8], geometry: &Geometry, replica: ReplicaId) -> Result<Self, FormatError> {
        let mut stamps = Self::none(geometry);
        for (index, ticks) in stamps.ticks.chunks_mut(STAMPS_PER_SECTOR).enumerate() {
            if let Some(payload) = read_sector(file, replica, Area::Stamps, index as u32)? {
                for (tick, field) in ticks.iter_mut().zip(payload.as_chunks::<8>().0) {
                    *tick = Tick::from_bits(u64::from_le_bytes(*field));
                }
            }
        }
        Ok(stamps)
    }
}

fn read_sector(
    file: &[u8],
    replica: ReplicaId,
    area: Area,
    index: u32,
) -> Result<Option<[u8; PAYLOAD_LEN]>, FormatError> {
    let offset = match area {
        Area::Intent => MetaLayout::intent_offset(index),
        Area::Stamps => MetaLayout::stamps_offset(index),
    };
    let sector = usize::try_from(offset)
        .ok()
        .and_then(|offset| file.get(offset..)?.first_chunk::<SECTOR_LEN>())
        .ok_or(FormatError::Short {
            found: file.len() as u64,
            needed: offset + SECTOR_LEN as u64,
        })?;
    unseal(replica, area, index, sector)
        .map_err(|sector::Damaged| FormatError::DamagedSector { area, sector: index })
}
