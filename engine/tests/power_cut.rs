//! Power cuts on real file systems: the pool's file system is shut down in the middle of a workload without its log being
//! flushed, as if the machine had stopped, mounted again, and the replica opened as after a reboot. What the crash
//! replay shows of our own writes and syncs, this shows of the kernel's: that its sync keeps what we rely on.
//!
//! Needs root for the mounts; without, it says so and checks nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod support;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bulkhead_engine::disk;
use bulkhead_engine::format::FailCause;
use bulkhead_engine::geometry::{ByteRange, Geometry};
use bulkhead_engine::ids::{BootId, Epoch};
use bulkhead_engine::io::{BlockDevice, BlockOp, Data, IoError};
use bulkhead_engine::machine::primary::EndReason;
use bulkhead_engine::node::{Node, NodeConfig, ReplicaSettings, Volume, VolumeConfig, VolumeState};
use rand::Rng;
use support::alone::{self, identity};
use support::pool::Pool;

const SIZE: u64 = 64 << 20;
const PAGE: u64 = 4096;
const THREADS: usize = 4;
const PAGES_PER_THREAD: u64 = 512;
const ROUNDS: u32 = 6;

fn open(dir: &Path, epoch: u32) -> std::sync::Arc<Volume> {
    let replicas = ReplicaSettings {
        checkpoint_interval: Duration::from_millis(10),
        region_idle: Duration::from_millis(20),
        max_set_regions: 6,
        ..ReplicaSettings::default()
    };
    let node = NodeConfig {
        // Every opening is after another boot.
        boot: Some(BootId::from_u128(epoch.into())),
        ..alone::node_config(&alone::Place::at(dir), replicas)
    };
    let config = VolumeConfig {
        tick_interval: Duration::from_millis(5),
        ..alone::volume_config(Geometry::for_size(SIZE).unwrap(), Epoch(epoch))
    };
    Volume::open(&Node::start(node).unwrap(), config).unwrap()
}

fn submit(volume: &Volume, op: BlockOp) -> Result<Option<Data>, IoError> {
    let (sender, done) = mpsc::channel();
    volume.submit(op, Box::new(move |result| sender.send(result).unwrap()));
    done.recv_timeout(Duration::from_secs(60))
        .expect("every request is answered in bounded time")
}

/// Stops the file system now; nothing of its log that is not on disk gets there.
fn cut_the_power(pool: &Pool) {
    // _IOR('X', 125, u32), XFS_IOC_GOINGDOWN and EXT4_IOC_SHUTDOWN alike; 2 is "do not flush the log".
    const SHUTDOWN: libc::Ioctl = 0x8004_587d;
    let without_log: u32 = 2;
    let root = File::open(pool.dir()).unwrap();
    // SAFETY: the descriptor is open, and the argument points to the u32 that this request reads.
    let done = unsafe { libc::ioctl(root.as_raw_fd(), SHUTDOWN, &raw const without_log) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// What one page may hold: the value that was flushed last, up to the newest one submitted. Values only grow.
#[derive(Clone, Copy, Default)]
struct Window {
    flushed: u64,
    acked: u64,
    submitted: u64,
}

/// One round, as all its threads see it.
#[derive(Default)]
struct Run {
    /// The power is about to be cut.
    cut: AtomicBool,
    /// Flushes that were acknowledged before.
    flushes: AtomicUsize,
}

/// Writes to its own pages and flushes, until the disk is gone.
fn write_until_it_fails(volume: &Volume, run: &Run, thread: usize, value: &mut u64, pages: &mut [Window]) {
    let mut rng = rand::rng();
    loop {
        if rng.random_bool(0.1) {
            let before: Vec<u64> = pages.iter().map(|page| page.acked).collect();
            let outcome = submit(volume, BlockOp::Flush);
            // A machine without power acknowledges nothing. (ext4 may end a sync that was under way without an error when
            // it is shut down, though the extents that the sync wrote are not converted then.)
            if outcome.is_err() || run.cut.load(Ordering::SeqCst) {
                return;
            }
            for (page, acked) in pages.iter_mut().zip(before) {
                page.flushed = acked;
            }
            run.flushes.fetch_add(1, Ordering::SeqCst);
            continue;
        }
        *value += 1;
        let page = rng.random_range(0..pages.len());
        pages[page].submitted = *value;
        let data = Data::copy_of(&value.to_le_bytes().repeat(PAGE as usize / 8));
        let offset = place(thread, page);
        if submit(volume, BlockOp::Write { offset, data }).is_err() {
            return;
        }
        pages[page].acked = *value;
    }
}

/// Spread over the regions, so that bits come and go.
fn place(thread: usize, page: usize) -> u64 {
    let index = page as u64 * THREADS as u64 + thread as u64;
    let regions = SIZE / (4 << 20);
    index % regions * (4 << 20) + index / regions * PAGE
}

fn check(volume: &Volume, thread: usize, pages: &mut [Window]) {
    for (index, page) in pages.iter_mut().enumerate() {
        let range = ByteRange::new(place(thread, index), PAGE);
        let data = submit(volume, BlockOp::Read(range)).unwrap().unwrap();
        let mut newest = 0;
        for sector in data.chunks(512) {
            let value = u64::from_le_bytes(sector[..8].try_into().unwrap());
            assert!(
                sector.chunks(8).all(|word| word == value.to_le_bytes()),
                "a torn sector"
            );
            let Window {
                flushed, submitted, ..
            } = *page;
            let allowed = flushed..=submitted;
            assert!(
                allowed.contains(&value),
                "thread {thread}, page {index}: {value} not in {allowed:?}"
            );
            newest = newest.max(value);
        }
        // From here on it is stable.
        *page = Window {
            flushed: newest,
            acked: newest,
            submitted: newest,
        };
    }
}

fn survives_power_cuts(kind: &str, mib: u64) {
    let Some(pool) = Pool::make(kind, mib) else {
        return;
    };
    let dir = pool.dir().join("v");
    disk::create(&dir, identity(), Geometry::for_size(SIZE).unwrap()).unwrap();
    let mut pages = vec![vec![Window::default(); PAGES_PER_THREAD as usize]; THREADS];
    let mut values = vec![0; THREADS];
    for round in 1..=ROUNDS {
        let volume = open(&dir, round);
        for (thread, pages) in pages.iter_mut().enumerate() {
            check(&volume, thread, pages);
        }
        let run = Run::default();
        std::thread::scope(|scope| {
            for (thread, (pages, value)) in pages.iter_mut().zip(&mut values).enumerate() {
                let (volume, run) = (&volume, &run);
                scope.spawn(move || {
                    write_until_it_fails(volume, run, thread, value, pages);
                    assert!(
                        run.cut.load(Ordering::SeqCst),
                        "it failed before the power was cut"
                    );
                });
            }
            let enough = rand::rng().random_range(20..120);
            let patience = Instant::now() + Duration::from_secs(30);
            while run.flushes.load(Ordering::SeqCst) < enough && Instant::now() < patience {
                std::thread::sleep(Duration::from_millis(1));
            }
            run.cut.store(true, Ordering::SeqCst);
            cut_the_power(&pool);
        });
        let _ = volume.close(Instant::now() + Duration::from_secs(20));
        drop(volume);
        pool.unmount();
        pool.mount();
        let found = disk::inspect(&dir).unwrap();
        assert!(
            !found.superblock.clean && found.superblock.epoch == Epoch(round),
            "{kind}: {found:?}"
        );
    }
    let volume = open(&dir, ROUNDS + 1);
    for (thread, pages) in pages.iter_mut().enumerate() {
        check(&volume, thread, pages);
    }
    assert!(
        pages.iter().flatten().filter(|page| page.flushed > 0).count() > 100,
        "{kind}: hardly anything flushed"
    );
    volume.close(Instant::now() + Duration::from_secs(20)).unwrap();
}

#[test]
fn xfs_keeps_what_was_flushed() {
    survives_power_cuts("xfs", 320);
}

#[test]
fn ext4_keeps_what_was_flushed() {
    survives_power_cuts("ext4", 256);
}

/// The pool's own device runs out of space beneath its file system: writes are taken by the page cache, and the sync
/// fails. A real failed fdatasync, and final.
#[test]
fn a_device_that_fails_under_its_file_system_is_final() {
    let Some(outer) = Pool::make("tmpfs", 40) else {
        return;
    };
    let pool = Pool::make_on(&outer, "ext4", 200).unwrap();
    let dir = pool.dir().join("v");
    disk::create(&dir, identity(), Geometry::for_size(SIZE).unwrap()).unwrap();
    let volume = open(&dir, 1);
    let mut refused = None;
    for step in 0..SIZE >> 20 {
        let data = Data::copy_of(&vec![step as u8 + 1; 1 << 20]);
        let written = submit(
            &volume,
            BlockOp::Write {
                offset: step << 20,
                data,
            },
        );
        let outcome = written.and_then(|_| submit(&volume, BlockOp::Flush));
        if let Err(error) = outcome {
            refused = Some((step, error));
            break;
        }
    }
    let (step, error) = refused.expect("the device has less space than the volume");
    assert_eq!(error, IoError::Io, "step {step}");
    for op in [BlockOp::Flush, BlockOp::Read(ByteRange::new(0, 4096))] {
        assert_eq!(submit(&volume, op).unwrap_err(), IoError::Io);
    }
    // The requests are answered before it is told why.
    let until = Instant::now() + Duration::from_secs(20);
    let ended = loop {
        match volume.ended() {
            Some(reason) => break reason,
            None => assert!(Instant::now() < until, "it never says that it has ended"),
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    assert!(
        matches!(ended, EndReason::LastMemberFailed(Some(FailCause::Sync))),
        "{ended:?}"
    );
    let status = volume.status();
    assert!(
        matches!(status.state, VolumeState::Ended(_)) && status.local.as_ref().unwrap().failure.is_some(),
        "{status:?}"
    );
    let _ = volume.close(Instant::now() + Duration::from_secs(20));
}
