//! A pool without room, on real file systems: writes get "no space", what is there stays sound, and space that a
//! discard gives back can be used again. Needs root for the mounts; without, it says so and checks nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod support;

use std::sync::mpsc;
use std::time::{Duration, Instant};

use bulkhead_engine::disk;
use bulkhead_engine::geometry::{ByteRange, Geometry};
use bulkhead_engine::ids::Epoch;
use bulkhead_engine::io::{BlockDevice, BlockOp, Data, IoError};
use bulkhead_engine::node::{Node, ReplicaSettings, Volume, VolumeState};
use support::alone;
use support::pool::Pool;

const STEP: u64 = 1 << 20;

fn submit(volume: &Volume, op: BlockOp) -> Result<Option<Data>, IoError> {
    let (sender, done) = mpsc::channel();
    volume.submit(op, Box::new(move |result| sender.send(result).unwrap()));
    done.recv_timeout(Duration::from_secs(60))
        .expect("every request is answered in bounded time")
}

fn write(volume: &Volume, step: u64) -> Result<(), IoError> {
    let bytes = (step + 1).to_le_bytes().repeat(STEP as usize / 8);
    submit(
        volume,
        BlockOp::Write {
            offset: step * STEP,
            data: Data::copy_of(&bytes),
        },
    )
    .map(drop)
}

fn holds(volume: &Volume, step: u64) -> bool {
    let data = submit(volume, BlockOp::Read(ByteRange::new(step * STEP, STEP)))
        .unwrap()
        .unwrap();
    data.chunks_exact(8).all(|word| word == (step + 1).to_le_bytes())
}

fn fill_and_recover(kind: &str, mib: u64) {
    let Some(pool) = Pool::make(kind, mib) else {
        return;
    };
    let dir = pool.dir().join("v");
    let geometry = Geometry::for_size((2 * mib) << 20).unwrap();
    disk::create(&dir, alone::identity(), geometry).unwrap();
    let replicas = ReplicaSettings {
        checkpoint_interval: Duration::from_millis(20),
        ..ReplicaSettings::default()
    };
    let node = Node::start(alone::node_config(&alone::Place::at(&dir), replicas)).unwrap();
    let open = |epoch| Volume::open(&node, alone::volume_config(geometry, Epoch(epoch))).unwrap();
    let local = |volume: &Volume| volume.status().local.unwrap();
    let deadline = || Instant::now() + Duration::from_secs(30);

    let volume = open(1);
    let mut full_at = None;
    for step in 0..2 * mib {
        match write(&volume, step) {
            Ok(()) => assert_eq!(full_at, None, "{kind}: a larger write fitted after a refused one"),
            Err(IoError::NoSpace) => {
                full_at.get_or_insert(step);
                if step > full_at.unwrap() + 3 {
                    break;
                }
            }
            Err(other) => panic!("{kind}: {other}"),
        }
    }
    let full_at = full_at.expect("the pool is smaller than the volume");
    assert!(full_at > mib / 4, "{kind}: full at {full_at} of {mib} MiB");
    let status = volume.status();
    assert!(
        local(&volume).pool_full && status.state == VolumeState::Serving,
        "{kind}: {status:?}"
    );
    assert_eq!(local(&volume).failure, None);
    volume
        .flush()
        .unwrap_or_else(|error| panic!("{kind}: flush of a full pool: {error}"));
    // Over and over within what is allocated: checkpoints go on beneath, and need no space.
    for step in (0..full_at).cycle().take(200) {
        write(&volume, step).unwrap_or_else(|error| panic!("{kind}: overwriting {step}: {error}"));
    }
    assert!((0..full_at).all(|step| holds(&volume, step)), "{kind}");
    volume.close(deadline()).unwrap();

    let volume = open(2);
    assert!(
        (0..full_at).all(|step| holds(&volume, step)),
        "{kind}: after a reopening"
    );
    submit(&volume, BlockOp::Zero(ByteRange::new(0, full_at / 2 * STEP))).unwrap();
    volume.flush().unwrap();
    write(&volume, full_at).unwrap_or_else(|error| panic!("{kind}: after a discard: {error}"));
    volume.flush().unwrap();
    assert!(!local(&volume).pool_full, "{kind}");
    assert!((full_at / 2..=full_at).all(|step| holds(&volume, step)), "{kind}");
    volume.close(deadline()).unwrap();
}

#[test]
fn on_tmpfs() {
    fill_and_recover("tmpfs", 48);
}

#[test]
fn on_ext4() {
    fill_and_recover("ext4", 64);
}

#[test]
fn on_xfs() {
    fill_and_recover("xfs", 320);
}
