//! A simulated disk: two files behind a page cache that a power cut takes away.
//!
//! Content is kept by sectors of 512 bytes, which a disk writes whole or not at all. What was written and not synced
//! reaches the disk in any order, in part, or not; of a failed sync, some of it never does, though the cache shows it.

use std::collections::BTreeMap;
use std::rc::Rc;

use bulkhead_engine::format::{
    MetaLayout, SECTOR_LEN, STAMPS_PER_SECTOR, SUPERBLOCKS_LEN, Slots, Superblock,
};
use bulkhead_engine::geometry::{ByteRange, Chunk, Geometry, SECTOR};
use bulkhead_engine::ids::Tick;
use bulkhead_engine::machine::Payload;
use bulkhead_engine::machine::replica::{DiskDone, DiskError, DiskId, DiskOp, MetaWrite};

use crate::rng::Rng;

/// Where the stamps begin in their sector; a checksum ends it.
const PAYLOAD_AT: usize = SECTOR_LEN - 4 - 8 * STAMPS_PER_SECTOR;

/// What a write carries: for each sector a number, zero where nothing is said.
#[derive(Clone, Debug, PartialEq)]
pub struct Sectors {
    /// Number of sectors.
    pub count: u32,
    /// Sectors that are not zero, by place from the start, in order.
    pub values: Rc<Vec<(u32, u64)>>,
}

impl Payload for Sectors {
    fn size(&self) -> u64 {
        u64::from(self.count) * SECTOR
    }

    fn digest(&self) -> u128 {
        let words = self
            .values
            .iter()
            .map(|&(at, value)| u128::from(at) << 64 | u128::from(value));
        let mixed = |sum: u128, word: u128| {
            (sum ^ word)
                .wrapping_mul(0x0100_0000_0000_0000_0000_013b)
                .rotate_left(37)
        };
        words.fold(0, mixed)
    }

    fn digests(&self, block: u32) -> Vec<u128> {
        let sectors = block / SECTOR as u32;
        let blocks = (0..self.count.div_ceil(sectors.max(1))).map(|at| at * sectors);
        let digest = |first: u32| {
            let inside = |&&(place, _): &&(u32, u64)| (first..first + sectors).contains(&place);
            let values = self.values.iter().filter(inside);
            let values = values.map(|&(place, value)| (place - first, value)).collect();
            Self {
                count: sectors.min(self.count - first),
                values: Rc::new(values),
            }
            .digest()
        };
        blocks.map(digest).collect()
    }
}

impl Sectors {
    /// The same number in every sector.
    pub fn filled(count: u32, value: u64) -> Self {
        Self {
            count,
            values: Rc::new((0..count).map(|at| (at, value)).collect()),
        }
    }

    /// The number in one sector.
    pub fn get(&self, at: u32) -> u64 {
        match self.values.binary_search_by_key(&at, |&(place, _)| place) {
            Ok(found) => self.values[found].1,
            Err(_) => 0,
        }
    }
}

/// One file, by sectors.
#[derive(Clone, Debug)]
pub struct File<V> {
    cache: BTreeMap<u32, V>,
    disk: BTreeMap<u32, V>,
    /// What a sync has yet to bring to the disk, by sector, in order of writing.
    unsynced: BTreeMap<u32, Vec<(u64, V)>>,
    writes: u64,
}

impl<V: Clone + PartialEq + Default> File<V> {
    fn new() -> Self {
        Self {
            cache: BTreeMap::new(),
            disk: BTreeMap::new(),
            unsynced: BTreeMap::new(),
            writes: 0,
        }
    }

    /// What a read of a sector gives.
    pub fn get(&self, sector: u32) -> V {
        self.cache.get(&sector).cloned().unwrap_or_default()
    }

    fn put(map: &mut BTreeMap<u32, V>, sector: u32, value: V) {
        if value == V::default() {
            map.remove(&sector);
        } else {
            map.insert(sector, value);
        }
    }

    fn write(&mut self, sector: u32, value: V) {
        self.writes += 1;
        Self::put(&mut self.cache, sector, value.clone());
        self.unsynced
            .entry(sector)
            .or_default()
            .push((self.writes, value));
    }

    /// Everything written up to then is on disk.
    fn sync(&mut self, up_to: u64) {
        let disk = &mut self.disk;
        self.unsynced.retain(|&sector, versions| {
            let done = versions.iter().take_while(|(write, _)| *write <= up_to).count();
            if let Some((_, value)) = versions[..done].last() {
                Self::put(disk, sector, value.clone());
            }
            versions.drain(..done);
            !versions.is_empty()
        });
    }

    /// The sync has failed: some of what it was to bring to the disk will never get there, but the cache shows it.
    fn sync_failed(&mut self, rng: &mut Rng) {
        self.unsynced.retain(|_, _| rng.chance(40));
    }

    fn power_cut(&mut self, rng: &mut Rng) {
        let all_or_nothing = rng.chance(25);
        let none = rng.chance(50);
        for (sector, versions) in std::mem::take(&mut self.unsynced) {
            let reached = if all_or_nothing {
                if none { 0 } else { versions.len() }
            } else {
                rng.below(versions.len() as u64 + 1) as usize
            };
            if let Some((_, value)) = versions[..reached].last() {
                Self::put(&mut self.disk, sector, value.clone());
            }
        }
        self.cache = self.disk.clone();
    }
}

/// A sector of the metadata file.
pub type MetaSector = Option<Rc<[u8; 512]>>;

/// How the next operation of a kind goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// The next sync of the data file fails.
    Sync,
    /// The next commit of the metadata file fails.
    Commit,
    /// The next write to the data file fails.
    Write,
    /// The next read fails.
    Read,
}

/// An operation under way.
#[derive(Clone, Debug)]
struct UnderWay {
    op: DiskOp<Sectors>,
    /// Writes to the data file before it began.
    data_writes: u64,
}

/// The disk of one replica.
#[derive(Debug)]
pub struct Disk {
    /// The data file.
    pub data: File<u64>,
    meta: File<MetaSector>,
    under_way: BTreeMap<DiskId, UnderWay>,
    /// What goes wrong next.
    pub mishap: Option<Mishap>,
    /// Whether writes run out of space.
    pub full: bool,
}

impl Disk {
    /// A disk with a metadata file of this content.
    pub fn new(meta: &[u8]) -> Self {
        let mut disk = Self {
            data: File::new(),
            meta: File::new(),
            under_way: BTreeMap::new(),
            mishap: None,
            full: false,
        };
        disk.write_meta(0, meta);
        disk.meta.sync(u64::MAX);
        disk
    }

    fn write_meta(&mut self, offset: u64, bytes: &[u8]) {
        for (at, sector) in bytes.as_chunks::<512>().0.iter().enumerate() {
            let value = (*sector != [0; 512]).then(|| Rc::new(*sector));
            let place = (offset / SECTOR) as u32 + at as u32;
            if value.is_some() || self.meta.cache.contains_key(&place) {
                self.meta.write(place, value);
            }
        }
    }

    /// The metadata file as a process reads it.
    pub fn read_meta(&self, geometry: &Geometry) -> Vec<u8> {
        let length = MetaLayout::new(geometry).map_or(0, |layout| layout.file_len());
        let mut file = vec![0; length as usize];
        for (&sector, value) in &self.meta.cache {
            let at = sector as usize * 512;
            if let (Some(value), Some(place)) = (value, file.get_mut(at..at + 512)) {
                place.copy_from_slice(&value[..]);
            }
        }
        file
    }

    /// The superblock as a power cut would leave it.
    pub fn durable_superblock(&self) -> Option<Superblock> {
        let mut bytes = vec![0; SUPERBLOCKS_LEN];
        for (&sector, value) in self.meta.disk.range(..(SUPERBLOCKS_LEN / 512) as u32) {
            let at = sector as usize * 512;
            if let (Some(value), Some(place)) = (value, bytes.get_mut(at..at + 512)) {
                place.copy_from_slice(&value[..]);
            }
        }
        Slots::decode(&bytes).ok().map(|slots| slots.newest)
    }

    /// The stamp of a chunk as a power cut would leave it.
    pub fn durable_stamp(&self, chunk: Chunk) -> Tick {
        let place = (MetaLayout::stamps_offset(MetaLayout::stamp_sector_of(chunk)) / SECTOR) as u32;
        match self.meta.disk.get(&place) {
            Some(Some(sector)) => {
                let at = PAYLOAD_AT + chunk.0 as usize % STAMPS_PER_SECTOR * 8;
                let bits = sector[at..at + 8].iter().rev();
                Tick::from_bits(bits.fold(0, |sum, &byte| sum << 8 | u64::from(byte)))
            }
            _ => Tick::ZERO,
        }
    }

    /// Sectors of the data file that no sync has brought to the disk yet.
    pub fn unsynced(&self) -> impl Iterator<Item = u32> + '_ {
        self.data.unsynced.keys().copied()
    }

    /// A sector of the data file changes by itself. Gives what it was.
    pub fn rot(&mut self, sector: u32, value: u64) -> u64 {
        let was = self.data.get(sector);
        File::put(&mut self.data.cache, sector, value);
        File::put(&mut self.data.disk, sector, value);
        self.data.unsynced.remove(&sector);
        was
    }

    /// Takes an operation.
    pub fn begin(&mut self, id: DiskId, op: DiskOp<Sectors>) {
        let data_writes = self.data.writes;
        self.under_way.insert(id, UnderWay { op, data_writes });
    }

    /// Does an operation that was begun.
    pub fn finish(&mut self, id: DiskId, rng: &mut Rng) -> Option<Result<DiskDone<Sectors>, DiskError>> {
        let UnderWay { op, data_writes } = self.under_way.remove(&id)?;
        Some(match op {
            DiskOp::Read(_) | DiskOp::ReadOrHole(_) if self.has_mishap(Mishap::Read) => Err(DiskError::Io),
            DiskOp::Read(range) => Ok(DiskDone::Data(self.read(range))),
            DiskOp::ReadOrHole(range) => {
                let data = self.read(range);
                Ok(if data.values.is_empty() {
                    DiskDone::Hole
                } else {
                    DiskDone::Data(data)
                })
            }
            DiskOp::Write { .. } | DiskOp::Zero(_) if self.has_mishap(Mishap::Write) => {
                self.apply_in_part(&op, rng);
                Err(DiskError::Io)
            }
            DiskOp::Write { .. } if self.full && rng.chance(60) => {
                self.apply_in_part(&op, rng);
                Err(DiskError::NoSpace)
            }
            DiskOp::Write { .. } | DiskOp::Zero(_) => {
                self.apply(&op, |_| true);
                Ok(DiskDone::Done)
            }
            DiskOp::SyncData if self.has_mishap(Mishap::Sync) => {
                self.data.sync_failed(rng);
                Err(DiskError::Io)
            }
            DiskOp::SyncData => {
                self.data.sync(data_writes);
                Ok(DiskDone::Done)
            }
            DiskOp::CommitMeta(writes) => {
                for MetaWrite { offset, bytes } in &writes {
                    self.write_meta(*offset, bytes);
                }
                if self.has_mishap(Mishap::Commit) {
                    self.meta.sync_failed(rng);
                    Err(DiskError::Io)
                } else {
                    self.meta.sync(u64::MAX);
                    Ok(DiskDone::Done)
                }
            }
        })
    }

    fn has_mishap(&mut self, mishap: Mishap) -> bool {
        if self.mishap == Some(mishap) {
            self.mishap = None;
            return true;
        }
        false
    }

    fn read(&self, range: ByteRange) -> Sectors {
        let (first, count) = ((range.offset / SECTOR) as u32, (range.len / SECTOR) as u32);
        let values = self
            .data
            .cache
            .range(first..first + count)
            .map(|(&at, &value)| (at - first, value));
        Sectors {
            count,
            values: Rc::new(values.collect()),
        }
    }

    fn apply(&mut self, op: &DiskOp<Sectors>, mut reaches: impl FnMut(u32) -> bool) {
        match op {
            DiskOp::Write { offset, data } => {
                let first = (offset / SECTOR) as u32;
                let mut values = data.values.iter().copied().peekable();
                for at in 0..data.count {
                    let value = values
                        .next_if(|&(place, _)| place == at)
                        .map_or(0, |(_, value)| value);
                    let place = first + at;
                    // Zeroes over zeroes change nothing that a power cut could show.
                    if (value != 0 || self.holds(place)) && reaches(at) {
                        self.data.write(place, value);
                    }
                }
            }
            DiskOp::Zero(range) => {
                let (first, end) = ((range.offset / SECTOR) as u32, (range.end() / SECTOR) as u32);
                let held = self.data.cache.range(first..end).map(|(&at, _)| at);
                let waiting = self.data.unsynced.range(first..end).map(|(&at, _)| at);
                let mut places: Vec<u32> = held.chain(waiting).collect();
                places.sort_unstable();
                places.dedup();
                for place in places {
                    if reaches(place - first) {
                        self.data.write(place, 0);
                    }
                }
            }
            _ => {}
        }
    }

    fn holds(&self, place: u32) -> bool {
        self.data.cache.contains_key(&place)
            || self.data.disk.contains_key(&place)
            || self.data.unsynced.contains_key(&place)
    }

    fn apply_in_part(&mut self, op: &DiskOp<Sectors>, rng: &mut Rng) {
        let share = rng.pick(&[0, 50, 100]);
        let mut draw = rng.clone();
        rng.draw();
        self.apply(op, |_| draw.chance(share));
    }

    /// The process is gone: what it had under way happens, or not, or in part.
    pub fn abandon(&mut self, rng: &mut Rng) {
        for (_, UnderWay { op, .. }) in std::mem::take(&mut self.under_way) {
            match &op {
                DiskOp::Write { .. } | DiskOp::Zero(_) => self.apply_in_part(&op, rng),
                DiskOp::CommitMeta(writes) => {
                    for MetaWrite { offset, bytes } in writes {
                        let share = rng.pick(&[0, 50, 100]);
                        for (at, sector) in bytes.chunks(512).enumerate() {
                            if rng.chance(share) {
                                self.write_meta(offset + at as u64 * SECTOR, sector);
                            }
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// The power is gone.
    pub fn power_cut(&mut self, rng: &mut Rng) {
        self.abandon(rng);
        self.data.power_cut(rng);
        self.meta.power_cut(rng);
    }

    /// What the data file holds beside zeroes.
    pub fn content(&self) -> &BTreeMap<u32, u64> {
        &self.data.cache
    }
}
