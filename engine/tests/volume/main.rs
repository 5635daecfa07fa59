//! The real volume on real files: what it serves, how it fails, and what a killed process leaves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod faults;
#[path = "../support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bulkhead_engine::disk::{self, Caching, ReplicaFiles};
use bulkhead_engine::geometry::{ByteRange, Geometry};
use bulkhead_engine::ids::Epoch;
use bulkhead_engine::io::{BlockDevice, BlockOp, Data, IoError};
use bulkhead_engine::machine::primary::EndReason;
use bulkhead_engine::node::{
    Node, OpenError, ReplicaSettings, ReplicaStatus, Volume, VolumeConfig, VolumeState,
};
use support::alone::{self, identity};
use support::faulty::Faults;
use tempfile::TempDir;

const SIZE: u64 = 32 << 20;
const PAGE: usize = 4096;

fn config(epoch: u32) -> VolumeConfig {
    VolumeConfig {
        io_timeout: Duration::from_secs(20),
        ..alone::volume_config(Geometry::for_size(SIZE).unwrap(), Epoch(epoch))
    }
}

fn start(place: &Arc<alone::Place>) -> Arc<Node> {
    let replicas = ReplicaSettings {
        checkpoint_interval: Duration::from_millis(50),
        region_idle: Duration::from_millis(100),
        ..ReplicaSettings::default()
    };
    Node::start(alone::node_config(place, replicas)).unwrap()
}

/// A replica in a directory that goes when this does.
struct Place {
    _pool: TempDir,
    dir: PathBuf,
    place: Arc<alone::Place>,
    node: Arc<Node>,
}

impl Place {
    fn new() -> Self {
        let pool = TempDir::new().unwrap();
        let dir = pool.path().join("v");
        disk::create(&dir, identity(), Geometry::for_size(SIZE).unwrap()).unwrap();
        let place = alone::Place::at(&dir);
        Self {
            _pool: pool,
            dir,
            node: start(&place),
            place,
        }
    }

    fn open(&self, epoch: u32) -> Result<Arc<Volume>, OpenError> {
        Volume::open(&self.node, config(epoch))
    }

    /// Opens it with a data file and a metadata file that fail on command, and a queue of how it ended.
    fn open_faulty(&self, epoch: u32) -> (Arc<Volume>, Arc<Faults>, Arc<Faults>, mpsc::Receiver<EndReason>) {
        let files = disk::open(&self.dir, &identity(), Caching::PageCache).unwrap();
        let (data, meta) = (Arc::new(Faults::default()), Arc::new(Faults::default()));
        let files = ReplicaFiles {
            data: data.wrap(files.data),
            meta: meta.wrap(files.meta),
            image: files.image,
        };
        let (sender, ended) = mpsc::channel();
        let config = VolumeConfig {
            on_ended: Some(Box::new(move |_, reason| sender.send(reason).unwrap())),
            ..config(epoch)
        };
        self.place.give(files);
        (Volume::open(&self.node, config).unwrap(), data, meta, ended)
    }
}

fn local(volume: &Volume) -> ReplicaStatus {
    volume.status().local.expect("its replica is open")
}

fn submit(volume: &Volume, op: BlockOp) -> Result<Option<Data>, IoError> {
    let (sender, done) = mpsc::channel();
    volume.submit(op, Box::new(move |result| sender.send(result).unwrap()));
    done.recv_timeout(Duration::from_secs(60))
        .expect("every request is answered in bounded time")
}

fn write(volume: &Volume, offset: u64, byte: u8, len: usize) -> Result<(), IoError> {
    submit(
        volume,
        BlockOp::Write {
            offset,
            data: Data::copy_of(&vec![byte; len]),
        },
    )
    .map(drop)
}

fn read(volume: &Volume, offset: u64, len: u64) -> Result<Vec<u8>, IoError> {
    submit(volume, BlockOp::Read(ByteRange::new(offset, len))).map(|data| data.unwrap().to_vec())
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let until = soon();
    while !condition() {
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_is_written_is_read_also_after_a_reopening() {
    let place = Place::new();
    let volume = place.open(1).unwrap();
    assert_eq!(volume.size(), SIZE);
    assert_eq!(read(&volume, 0, 4096).unwrap(), [0; PAGE]);
    write(&volume, 0, 1, PAGE).unwrap();
    write(&volume, 512, 2, 512).unwrap();
    write(&volume, (4 << 20) - 4096, 3, 2 * PAGE).unwrap();
    submit(&volume, BlockOp::Zero(ByteRange::new(4 << 20, 4096))).unwrap();
    volume.flush().unwrap();
    let check = |volume: &Volume| {
        let page = read(volume, 0, 4096).unwrap();
        assert!(page[..512].iter().chain(&page[1024..]).all(|&byte| byte == 1));
        assert!(page[512..1024].iter().all(|&byte| byte == 2));
        assert_eq!(read(volume, (4 << 20) - 4096, 4096).unwrap(), [3; PAGE]);
        assert_eq!(read(volume, 4 << 20, 4096).unwrap(), [0; PAGE]);
    };
    check(&volume);
    let status = volume.status();
    assert_eq!(status.state, VolumeState::Serving);
    assert_eq!(
        (status.served.writes, status.served.written_bytes),
        (3, 4096 + 512 + 8192)
    );
    assert_eq!(
        (status.served.zeroes, status.served.flushes, status.served.errors),
        (1, 1, 0)
    );
    assert!(local(&volume).allocated.unwrap() >= 8192);
    volume.close(soon()).unwrap();
    assert_eq!(write(&volume, 0, 9, PAGE), Err(IoError::Io), "closed is closed");

    let found = disk::inspect(&place.dir).unwrap();
    assert!(found.superblock.clean && !found.in_use);
    assert_eq!((found.regions_set, found.superblock.epoch), (0, Epoch(1)));
    // The Arc is still there, the lock is not.
    let again = place.open(2).unwrap();
    check(&again);
    again.close(soon()).unwrap();
}

#[test]
fn requests_off_bounds_are_invalid_and_harm_nothing() {
    let place = Place::new();
    let volume = place.open(1).unwrap();
    for range in [
        ByteRange::new(SIZE, 512),
        ByteRange::new(SIZE - 512, 1024),
        ByteRange::new(1, 512),
        ByteRange::new(0, 0),
        ByteRange::new(0, 100),
        ByteRange::new(u64::MAX - 511, 512),
    ] {
        assert_eq!(
            submit(&volume, BlockOp::Read(range)).unwrap_err(),
            IoError::Invalid
        );
        assert_eq!(
            submit(&volume, BlockOp::Zero(range)).unwrap_err(),
            IoError::Invalid
        );
    }
    assert_eq!(write(&volume, SIZE - 512, 1, 1024), Err(IoError::Invalid));
    write(&volume, SIZE - 512, 1, 512).unwrap();
    volume.close(soon()).unwrap();
}

#[test]
fn a_double_open_is_refused() {
    let place = Place::new();
    let volume = place.open(2).unwrap();
    for epoch in [1, 2] {
        let refused = place.open(epoch).err().unwrap();
        assert!(matches!(refused, OpenError::Open { .. }), "{refused}");
    }
    // Another process has the directory.
    let other = start(&place.place);
    let refused = Volume::open(&other, config(3)).err().unwrap();
    assert!(refused.to_string().contains("in use"), "{refused}");
    write(&volume, 0, 1, PAGE).unwrap();
    volume.close(soon()).unwrap();
}

#[test]
fn a_newer_attachment_ends_an_older_one() {
    let place = Place::new();
    let older = place.open(1).unwrap();
    write(&older, 0, 1, PAGE).unwrap();
    let newer = place.open(2).unwrap();
    assert_eq!(read(&newer, 0, 4096).unwrap(), [1; PAGE]);
    write(&newer, 0, 2, PAGE).unwrap();
    assert_eq!(write(&older, 0, 3, PAGE), Err(IoError::Io));
    assert_eq!(read(&older, 0, 4096), Err(IoError::Io));
    assert_eq!(read(&newer, 0, 4096).unwrap(), [2; PAGE]);
    assert!(matches!(older.ended(), Some(EndReason::Superseded(Epoch(2)))));
    newer.close(soon()).unwrap();
}

#[test]
fn a_closed_replica_gives_its_files_free_and_an_open_one_its_volume_up() {
    let place = Place::new();
    let volume = place.open(1).unwrap();
    write(&volume, 0, 1, PAGE).unwrap();
    place.node.close_replica(identity().replica, soon()).unwrap();
    assert!(!disk::inspect(&place.dir).unwrap().in_use);
    assert!(place.node.replicas().is_empty());
    let _ = volume.close(Instant::now() + Duration::from_secs(1));
    assert_eq!(read(&volume, 0, 4096), Err(IoError::Io));
    let again = place.open(2).unwrap();
    assert_eq!(read(&again, 0, 4096).unwrap(), [1; PAGE]);
    again.close(soon()).unwrap();
    place.node.close_replica(identity().replica, soon()).unwrap();
    assert!(disk::delete(&place.dir).unwrap());
}

#[test]
fn an_older_epoch_is_refused() {
    let place = Place::new();
    place.open(5).unwrap().close(soon()).unwrap();
    let refused = place.open(4).err().unwrap();
    assert!(matches!(refused, OpenError::Ended { .. }), "{refused}");
    // Nor the same once more: a record that gives it out twice is an older copy.
    let refused = place.open(5).err().unwrap();
    assert!(matches!(refused, OpenError::Ended { .. }), "{refused}");
    place.open(6).unwrap().close(soon()).unwrap();
}

#[test]
fn the_checkpoint_moves_the_durable_tick_and_clears_idle_regions() {
    let place = Place::new();
    let config = VolumeConfig {
        tick_interval: Duration::from_millis(20),
        ..config(1)
    };
    let volume = Volume::open(&place.node, config).unwrap();
    // The write carries this one or a later one; after it the tick may be raised to one that nothing carries.
    let written_at = volume.status().tick;
    write(&volume, 0, 1, PAGE).unwrap();
    assert_eq!(local(&volume).set_regions, 1);
    wait_until("the region is cleared", || local(&volume).set_regions == 0);
    wait_until("the write is durable", || local(&volume).durable >= written_at);
    drop(volume);
}

#[test]
fn what_is_in_flight_is_bounded() {
    let place = Place::new();
    let files = disk::open(&place.dir, &identity(), Caching::PageCache).unwrap();
    let data = Arc::new(Faults::default());
    let files = ReplicaFiles {
        data: data.wrap(files.data),
        ..files
    };
    let config = VolumeConfig {
        max_operations: 4,
        max_bytes: 3 * PAGE,
        ..config(1)
    };
    let volume = {
        place.place.give(files);
        Volume::open(&place.node, config)
    }
    .unwrap();
    data.write_delay_ms.store(5, Ordering::SeqCst);
    let most = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let (volume, most) = (&volume, &most);
            scope.spawn(move || {
                for turn in 0..10 {
                    write(volume, (thread * 10 + turn) * 4096, 7, PAGE).unwrap();
                    most.fetch_max(volume.status().in_flight, Ordering::SeqCst);
                }
            });
        }
    });
    assert!((1..=3).contains(&most.load(Ordering::SeqCst)), "{most:?}");
    volume.close(soon()).unwrap();
}

#[test]
fn concurrent_overlapping_writes_take_effect_one_after_the_other() {
    let place = Place::new();
    let volume = place.open(1).unwrap();
    std::thread::scope(|scope| {
        for byte in 1..=6u8 {
            let volume = &volume;
            scope.spawn(move || {
                for _ in 0..60 {
                    write(volume, 0, byte, 64 * PAGE).unwrap();
                    let seen = read(volume, 0, 64 * 4096).unwrap();
                    assert!(
                        seen.iter().all(|&other| other == seen[0]),
                        "a read saw half a write"
                    );
                }
            });
        }
    });
    volume.close(soon()).unwrap();
}

/// The process that is killed in the test below: writes and says what was acknowledged.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Ok(dir) = std::env::var("BULKHEAD_TEST_CHILD_DIR") else {
        return;
    };
    let epoch = std::env::var("BULKHEAD_TEST_CHILD_EPOCH")
        .unwrap()
        .parse()
        .unwrap();
    let node = start(&alone::Place::at(Path::new(&dir)));
    let volume = Volume::open(&node, config(epoch)).unwrap();
    let mut out = std::io::stdout();
    for turn in 1u64.. {
        let page = turn % 1000;
        let data = Data::copy_of(&turn.to_le_bytes().repeat(PAGE / 8));
        submit(
            &volume,
            BlockOp::Write {
                offset: page * 4096,
                data,
            },
        )
        .unwrap();
        writeln!(out, "acked {turn}").unwrap();
    }
}

#[test]
fn a_killed_process_loses_nothing_that_was_acknowledged() {
    let place = Place::new();
    for round in 1..=5u32 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_writes_until_it_is_killed", "--nocapture"])
            .env("BULKHEAD_TEST_CHILD_DIR", &place.dir)
            .env("BULKHEAD_TEST_CHILD_EPOCH", (2 * round).to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut acked = 0u64;
        let turns = 500 + 777 * u64::from(round);
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some(turn) = line.split("acked ").nth(1) {
                acked = turn.trim().parse().unwrap();
            }
            if acked >= turns {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(acked >= turns, "the child ended by itself");

        let found = disk::inspect(&place.dir).unwrap();
        assert!(
            !found.superblock.clean && !found.in_use,
            "killed, and its lock gone with it"
        );
        let volume = place.open(2 * round + 1).unwrap();
        assert!(
            local(&volume).whole,
            "a killed process loses nothing that the page cache held"
        );
        for turn in acked.saturating_sub(999).max(1)..=acked {
            let page = read(&volume, turn % 1000 * 4096, 4096).unwrap();
            let value = u64::from_le_bytes(page[..8].try_into().unwrap());
            // The one that was in flight may be there.
            assert!(
                value == turn || value == turn + 1000,
                "page {}: {value}, acked {turn}",
                turn % 1000
            );
        }
        volume.close(soon()).unwrap();
    }
}
