//! The workload: several threads write, zero and flush at random while checkpoints go on beneath them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bulkhead_engine::disk::{BlockFile, ReplicaFiles};
use bulkhead_engine::format::{MetaImage, Superblock};
use bulkhead_engine::geometry::{ByteRange, Geometry};
use bulkhead_engine::ids::{BootId, Epoch};
use bulkhead_engine::io::{BlockDevice, BlockOp, Data, IoError};
use bulkhead_engine::machine::FaultSet;
use bulkhead_engine::node::{Node, NodeConfig, ReplicaSettings, Volume, VolumeConfig};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::oracle::{Asked, Flush, Write, content};
use crate::support::alone::{self, Place, identity};
use crate::support::cut::{CutFile, SECTOR};
use crate::support::recording::{Event, Recorder, Which};

pub const SIZE: u64 = 64 << 20;
/// Sectors at the start of each region that are written to.
pub const USED_SECTORS: u64 = 192;
/// Blocks belong to threads in turn, so that a sector has one writer.
const BLOCK: u64 = 16;
const THREADS: u64 = 6;

/// A node after a boot, whose replica is what its place is given.
pub fn node(boot: BootId, faults: FaultSet) -> (Arc<Place>, Arc<Node>) {
    let place = Place::at("memory".as_ref());
    let replicas = ReplicaSettings {
        checkpoint_interval: Duration::from_millis(3),
        region_idle: Duration::from_millis(6),
        max_set_regions: 5,
        faults,
        ..ReplicaSettings::default()
    };
    let config = NodeConfig {
        boot: Some(boot),
        ..alone::node_config(&place, replicas)
    };
    (place, Node::start(config).unwrap())
}

pub fn config(epoch: Epoch) -> VolumeConfig {
    VolumeConfig {
        tick_interval: Duration::from_millis(2),
        ..alone::volume_config(geometry(), epoch)
    }
}

/// What to run.
#[derive(Clone, Copy)]
pub struct Workload {
    pub operations_per_thread: usize,
    pub swallow_syncs_of: Option<Which>,
    pub faults: FaultSet,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            operations_per_thread: 1000,
            swallow_syncs_of: None,
            faults: FaultSet::NONE,
        }
    }
}

impl Workload {
    pub fn short() -> Self {
        Self {
            operations_per_thread: 200,
            swallow_syncs_of: None,
            faults: FaultSet::NONE,
        }
    }
}

/// What the two files hold when a run begins.
#[derive(Clone)]
pub struct Start {
    pub data: Vec<u8>,
    pub meta: Vec<u8>,
    /// How many power cuts there were before.
    pub generation: u32,
}

impl Start {
    /// A new replica.
    pub fn fresh() -> Self {
        let superblock = Superblock::fresh(identity(), geometry(), BootId::from_u128(9));
        let meta = MetaImage::fresh(superblock).encode().unwrap();
        Self {
            data: vec![0; SIZE as usize],
            meta,
            generation: 0,
        }
    }

    /// The epoch in which the run is.
    pub fn epoch(&self) -> Epoch {
        Epoch(self.generation + 1)
    }

    /// The boot under which it is.
    pub fn boot(&self) -> BootId {
        BootId::from_u128(10 + u128::from(self.generation))
    }
}

pub fn geometry() -> Geometry {
    Geometry::for_size(SIZE).unwrap()
}

/// All sectors that may be written to.
pub fn used_sectors() -> impl Iterator<Item = u64> {
    let region = geometry().region_size() / SECTOR as u64;
    (0..u64::from(geometry().regions())).flat_map(move |index| index * region..index * region + USED_SECTORS)
}

/// A run, for replaying.
pub struct Recording {
    pub start: Start,
    pub events: Vec<Event>,
    pub asked: Asked,
    /// Place in the recording from which on the volume served, its epoch durable.
    pub serving: usize,
}

/// Runs the workload on files in memory, and records it.
pub fn record(workload: Workload, start: Start, seed: u64) -> Recording {
    let recorder = Recorder::default();
    let record = |which, bytes: &[u8]| -> Arc<dyn BlockFile> {
        let file = CutFile::from_bytes(bytes.to_vec());
        if workload.swallow_syncs_of == Some(which) {
            recorder.record_without_sync(which, file)
        } else {
            recorder.record(which, file)
        }
    };
    let data_file = record(Which::Data, &start.data);
    let meta_file = record(Which::Meta, &start.meta);
    let files = ReplicaFiles::load(data_file, meta_file, &identity(), "memory".as_ref()).unwrap();
    let (place, node) = node(start.boot(), workload.faults);
    place.give(files);
    let config = VolumeConfig {
        faults: workload.faults,
        ..config(start.epoch())
    };
    let volume = Volume::open(&node, config).unwrap();
    let serving = recorder.mark();

    // No value is used twice, also not by another run.
    let values = AtomicU64::new(u64::from(start.generation) << 32 | 1);
    let mut asked = Asked::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (volume, recorder, values) = (&volume, &recorder, &values);
                let rng = StdRng::seed_from_u64(seed.wrapping_add(thread));
                scope.spawn(move || {
                    let mut client = Client {
                        thread,
                        volume,
                        recorder,
                        values,
                        rng,
                        asked: Asked::default(),
                    };
                    for _ in 0..workload.operations_per_thread {
                        client.operation();
                    }
                    client.asked
                })
            })
            .collect();
        for thread in threads {
            let Asked { writes, flushes } = thread.join().unwrap();
            asked.writes.extend(writes);
            asked.flushes.extend(flushes);
        }
    });
    // No close: the recording ends as a machine does that loses its power.
    let events = recorder.take();
    let _ = volume.close(Instant::now() + Duration::from_secs(10));
    Recording {
        start,
        events,
        asked,
        serving,
    }
}

struct Client<'a> {
    thread: u64,
    volume: &'a Arc<Volume>,
    recorder: &'a Recorder,
    values: &'a AtomicU64,
    rng: StdRng,
    asked: Asked,
}

impl Client<'_> {
    fn operation(&mut self) {
        match self.rng.random_range(0..100) {
            0..12 => self.flush(),
            12..24 => self.write(true),
            _ => self.write(false),
        }
        if self.rng.random_bool(0.02) {
            // A pause lets regions grow idle.
            std::thread::sleep(Duration::from_millis(self.rng.random_range(1..12)));
        }
    }

    fn flush(&mut self) {
        let submitted = self.recorder.mark();
        submit(self.volume, BlockOp::Flush).unwrap();
        let acked = self.recorder.mark();
        self.asked.flushes.push(Flush { submitted, acked });
    }

    fn write(&mut self, zero: bool) {
        let range = self.range();
        let first = range.offset / SECTOR as u64;
        let value = if zero {
            0
        } else {
            self.values.fetch_add(1, Ordering::Relaxed)
        };
        let op = if zero {
            BlockOp::Zero(range)
        } else {
            let bytes: Vec<u8> = (first..first + range.len / SECTOR as u64)
                .flat_map(|sector| content(sector, value))
                .collect();
            BlockOp::Write {
                offset: range.offset,
                data: Data::copy_of(&bytes),
            }
        };
        let tick_before = self.volume.status().tick;
        let submitted = self.recorder.mark();
        submit(self.volume, op).unwrap();
        let acked = self.recorder.mark();
        let tick_after = self.volume.status().tick;
        self.asked.writes.push(Write {
            range,
            value,
            submitted,
            acked,
            tick_before,
            tick_after,
        });
    }

    /// Somewhere in one of this thread's blocks; the lower a region, the more often.
    fn range(&mut self) -> ByteRange {
        let regions = SIZE / (4 << 20);
        let region = self
            .rng
            .random_range(0..regions)
            .min(self.rng.random_range(0..regions));
        let turns = USED_SECTORS / BLOCK / THREADS;
        let block = self.rng.random_range(0..turns) * THREADS + self.thread;
        let start = self.rng.random_range(0..BLOCK);
        let len = self.rng.random_range(1..=BLOCK - start);
        let first = region * (4 << 20) / SECTOR as u64 + block * BLOCK + start;
        ByteRange::new(first * SECTOR as u64, len * SECTOR as u64)
    }
}

/// Submits an operation and waits for its outcome.
pub fn submit(volume: &Volume, op: BlockOp) -> Result<Option<Data>, IoError> {
    let (sender, done) = std::sync::mpsc::channel();
    volume.submit(op, Box::new(move |result| sender.send(result).unwrap()));
    done.recv_timeout(Duration::from_secs(60))
        .expect("every request is answered in bounded time")
}
