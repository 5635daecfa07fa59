//! What a disk may hold after the power went at some point of a recording.
//!
//! A write that a completed sync covers is there. Of any other, each sector of 512 bytes is there or not, on its
//! own: that is dropping, tearing and reordering in one, since of several unsynced versions of a sector any may
//! have reached the disk.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bulkhead_engine::disk::BlockFile;
use bulkhead_engine::geometry::ByteRange;
use parking_lot::{Mutex, RwLock};
use rand::Rng;

use super::recording::{Event, Which};

pub const SECTOR: usize = 512;

/// An unsynced write.
struct Pending {
    id: u64,
    done: bool,
    offset: u64,
    bytes: Vec<u8>,
}

/// One file while the recording is played: what is certainly on disk, and what may be.
struct Played {
    synced: Arc<RwLock<Vec<u8>>>,
    pending: Vec<Pending>,
    /// Writes that each running sync covers.
    syncs: HashMap<u64, Vec<u64>>,
}

impl Played {
    fn begin_write(&mut self, id: u64, offset: u64, bytes: &[u8]) {
        self.pending.push(Pending {
            id,
            done: false,
            offset,
            bytes: bytes.to_vec(),
        });
    }

    fn end_write(&mut self, id: u64) {
        if let Some(write) = self.pending.iter_mut().find(|write| write.id == id) {
            write.done = true;
        }
    }

    fn begin_sync(&mut self, id: u64) {
        let covered = self
            .pending
            .iter()
            .filter(|write| write.done)
            .map(|write| write.id)
            .collect();
        self.syncs.insert(id, covered);
    }

    /// What the sync covers is on disk. A covered write under a later, unsynced one stays beneath it.
    fn end_sync(&mut self, id: u64) {
        let covered = self.syncs.remove(&id).unwrap_or_default();
        let mut synced = self.synced.write();
        self.pending.retain(|write| {
            let on_disk = covered.contains(&write.id);
            if on_disk {
                let start = write.offset as usize;
                synced[start..start + write.bytes.len()].copy_from_slice(&write.bytes);
            }
            !on_disk
        });
    }

    /// A random outcome for what is not synced.
    fn cut(&self, rng: &mut impl Rng) -> Arc<CutFile> {
        let mut overlay = HashMap::new();
        // None, all, or any of them: the pure outcomes are the likeliest to hide in a random mix.
        let share = match rng.random_range(0..4) {
            0 => 0.0,
            1 => 1.0,
            _ => rng.random_range(0.1..0.9),
        };
        for write in &self.pending {
            for (at, sector) in write.bytes.chunks(SECTOR).enumerate() {
                if rng.random_bool(share) {
                    overlay.insert(
                        write.offset / SECTOR as u64 + at as u64,
                        sector.try_into().unwrap(),
                    );
                }
            }
        }
        Arc::new(CutFile {
            synced: self.synced.clone(),
            overlay: Mutex::new(overlay),
        })
    }
}

/// Plays a recording forward, event by event, and gives the state after a power cut at any point of it.
pub struct Replay {
    data: Played,
    meta: Played,
    /// Which file an unfinished write belongs to.
    owners: HashMap<u64, Which>,
}

impl Replay {
    /// From what both files held before the recording began.
    pub fn new(data: Vec<u8>, meta: Vec<u8>) -> Self {
        let played = |bytes| Played {
            synced: Arc::new(RwLock::new(bytes)),
            pending: Vec::new(),
            syncs: HashMap::new(),
        };
        Self {
            data: played(data),
            meta: played(meta),
            owners: HashMap::new(),
        }
    }

    fn file(&mut self, which: Which) -> &mut Played {
        match which {
            Which::Data => &mut self.data,
            Which::Meta => &mut self.meta,
        }
    }

    /// Plays one event.
    pub fn step(&mut self, event: &Event) {
        match event {
            Event::WriteBegun {
                id,
                file,
                offset,
                bytes,
            } => {
                self.owners.insert(*id, *file);
                self.file(*file).begin_write(*id, *offset, bytes);
            }
            Event::WriteDone { id } => {
                if let Some(file) = self.owners.remove(id) {
                    self.file(file).end_write(*id);
                }
            }
            Event::SyncBegun { id, file } => self.file(*file).begin_sync(*id),
            Event::SyncDone { id, file } => self.file(*file).end_sync(*id),
            Event::Mark => {}
        }
    }

    /// Both files as a power cut now may leave them. They share the synced part: play on only when they are gone.
    pub fn cut(&self, rng: &mut impl Rng) -> (Arc<CutFile>, Arc<CutFile>) {
        (self.data.cut(rng), self.meta.cut(rng))
    }

    /// A byte of the metadata file that is certainly on disk.
    pub fn synced_meta(&self, at: usize) -> u8 {
        self.meta.synced.read()[at]
    }

    /// How many writes are not synced now: data and metadata.
    pub fn unsynced(&self) -> (usize, usize) {
        (self.data.pending.len(), self.meta.pending.len())
    }
}

/// A file in memory: the synced bytes, shared, and sectors of its own above them.
pub struct CutFile {
    synced: Arc<RwLock<Vec<u8>>>,
    overlay: Mutex<HashMap<u64, [u8; SECTOR]>>,
}

impl CutFile {
    /// A file that holds these bytes.
    pub fn from_bytes(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self {
            synced: Arc::new(RwLock::new(bytes)),
            overlay: Mutex::default(),
        })
    }

    /// All of it.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.synced.read().len()];
        self.read_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// The bytes of a sector.
    pub fn sector(&self, sector: u64) -> [u8; SECTOR] {
        if let Some(bytes) = self.overlay.lock().get(&sector) {
            return *bytes;
        }
        let start = sector as usize * SECTOR;
        self.synced.read()[start..start + SECTOR].try_into().unwrap()
    }

    /// The sectors that differ from what was synced.
    pub fn changed(&self) -> Vec<u64> {
        self.overlay.lock().keys().copied().collect()
    }

    fn checked(&self, offset: u64, len: usize) -> io::Result<std::ops::Range<u64>> {
        let sector = SECTOR as u64;
        let inside = offset + len as u64 <= self.synced.read().len() as u64;
        if !inside || !offset.is_multiple_of(sector) || !len.is_multiple_of(SECTOR) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(offset / sector..(offset + len as u64) / sector)
    }
}

impl BlockFile for CutFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.synced.read().len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let sectors = self.checked(offset, buf.len())?;
        let start = offset as usize;
        let synced = self.synced.read();
        buf.copy_from_slice(&synced[start..start + buf.len()]);
        let overlay = self.overlay.lock();
        for (sector, bytes) in overlay.iter().filter(|(sector, _)| sectors.contains(sector)) {
            let at = (*sector as usize * SECTOR) - start;
            buf[at..at + SECTOR].copy_from_slice(bytes);
        }
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let sectors = self.checked(offset, bytes.len())?;
        let mut overlay = self.overlay.lock();
        for (sector, bytes) in sectors.zip(bytes.chunks(SECTOR)) {
            overlay.insert(sector, bytes.try_into().unwrap());
        }
        Ok(())
    }

    fn zero(&self, range: ByteRange) -> io::Result<()> {
        self.write_at(&vec![0; range.len as usize], range.offset)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn next_data(&self, from: u64) -> io::Result<Option<ByteRange>> {
        let len = self.len()?;
        Ok((from < len).then(|| ByteRange::new(from, len - from)))
    }

    fn allocated(&self) -> io::Result<u64> {
        self.len()
    }
}
