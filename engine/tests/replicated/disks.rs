//! Disks that fail, hang or are full, with another member left.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bulkhead_engine::io::{BlockDevice, BlockOp, Data, IoError};
use bulkhead_engine::machine::MemberState;

use crate::cluster::{Cluster, identity, replica_id, soon, volume_id, wait_until};
use crate::work::{Load, PAGE, read, timed, write};

fn is_member(store: &crate::store::Store, index: usize) -> bool {
    store.state_of(replica_id(1, index)) == MemberState::Member
}

#[test]
fn a_disk_that_hangs_leaves_wherever_it_is() {
    for index in [0, 1] {
        let cluster = Cluster::new(2);
        let store = cluster.volume(1, &[0, 1]);
        let volume = cluster.open(1, 0, &store).unwrap();
        write(&volume, 1, 1).unwrap();
        let faults = cluster.hosts[index].disk.faults(1);
        faults.write_delay_ms.store(9000, Ordering::SeqCst);
        faults.sync_delay_ms.store(9000, Ordering::SeqCst);
        let ((), took) = timed(|| {
            std::thread::scope(|scope| {
                for page in 0..4 {
                    let volume = &volume;
                    scope.spawn(move || write(volume, page, 2).unwrap());
                }
            });
        });
        assert!(!is_member(&store, index), "host {index}");
        assert!(took >= Duration::from_secs(1), "it was waited for: {took:?}");
        // Only those whose own thread hangs in the disk wait for it longer than the member is waited for.
        for page in 0..4 {
            assert_eq!(read(&volume, page).unwrap(), 2);
            write(&volume, 10 + page, 3).unwrap();
        }
        volume.flush().unwrap();
        faults.write_delay_ms.store(0, Ordering::SeqCst);
        faults.sync_delay_ms.store(0, Ordering::SeqCst);
        wait_until("it is a member again", || is_member(&store, index));
        volume.close(soon()).unwrap();
        cluster.assert_identical(1, &[0, 1]);
    }
}

/// A front end has two threads; those that a disk holds on to must not be both.
#[test]
fn a_disk_that_hangs_does_not_take_the_front_end_with_it() {
    let cluster = Cluster::new(2);
    let store = cluster.volume(1, &[0, 1]);
    let volume = cluster.open(1, 0, &store).unwrap();
    write(&volume, 1, 1).unwrap();
    let (stop, done) = (AtomicBool::new(false), Arc::new(AtomicU64::new(0)));
    std::thread::scope(|scope| {
        for thread in 0..2u64 {
            let (volume, stop, done) = (&volume, &stop, done.clone());
            scope.spawn(move || {
                for turn in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let data = Data::copy_of(&[7; PAGE as usize]);
                    let offset = (thread * 1000 + turn % 1000) * PAGE;
                    let done = done.clone();
                    let count = move |result: Result<Option<Data>, IoError>| {
                        result.unwrap();
                        done.fetch_add(1, Ordering::SeqCst);
                    };
                    volume.submit(BlockOp::Write { offset, data }, Box::new(count));
                }
            });
        }
        wait_until("writes are done", || done.load(Ordering::SeqCst) > 100);
        let faults = cluster.hosts[0].disk.faults(1);
        faults.write_delay_ms.store(15_000, Ordering::SeqCst);
        let begun = Instant::now();
        wait_until("it is removed", || !is_member(&store, 0));
        let before = done.load(Ordering::SeqCst);
        wait_until("writes go on", || done.load(Ordering::SeqCst) > before + 300);
        faults.write_delay_ms.store(0, Ordering::SeqCst);
        stop.store(true, Ordering::SeqCst);
        let took = begun.elapsed();
        assert!(
            took < Duration::from_secs(18),
            "while the disk still hangs: {took:?}"
        );
    });
    volume.close(soon()).unwrap();
}

#[test]
fn a_disk_that_fails_costs_its_replica_and_no_operation() {
    for (index, sync) in [(0, false), (1, false), (0, true), (1, true)] {
        let cluster = Cluster::new(2);
        let store = cluster.volume(1, &[0, 1]);
        let volume = cluster.open(1, 0, &store).unwrap();
        let load = Load::start(&volume, 3, 1000, Duration::from_micros(100));
        load.wait_for(200);
        let faults = cluster.hosts[index].disk.faults(1);
        let broken = if sync { &faults.sync } else { &faults.write };
        *broken.lock() = Some(libc::EIO);
        wait_until("it is removed", || !is_member(&store, index));
        *broken.lock() = None;
        load.wait_for(300);
        let written = load.stop();
        assert!(!written.failed);
        written.check(&volume);
        // D6: it is not taken back, though the disk is well again.
        std::thread::sleep(Duration::from_secs(1));
        assert!(!is_member(&store, index));
        let failed = cluster.node(index).replica(replica_id(1, index));
        if let Some(failed) = failed {
            assert!(failed.failure.is_some(), "{failed:?}");
        }
        volume.close(soon()).unwrap();
    }
}

#[test]
fn a_read_that_fails_is_done_by_another_member() {
    let cluster = Cluster::new(2);
    let store = cluster.volume(1, &[0, 1]);
    let volume = cluster.open(1, 0, &store).unwrap();
    write(&volume, 1, 7).unwrap();
    *cluster.hosts[0].disk.faults(1).read.lock() = Some(libc::EIO);
    // The page cache does not ask the disk.
    let found = read(&volume, 1);
    assert_eq!(found, Ok(7));
    volume.close(soon()).unwrap();
}

#[test]
fn a_full_pool_costs_its_replica_while_another_has_room() {
    let cluster = Cluster::new(2);
    let store = cluster.volume(1, &[0, 1]);
    let volume = cluster.open(1, 0, &store).unwrap();
    write(&volume, 1, 1).unwrap();
    *cluster.hosts[1].disk.faults(1).write.lock() = Some(libc::ENOSPC);
    write(&volume, 2, 2).unwrap();
    assert!(!is_member(&store, 1));
    *cluster.hosts[1].disk.faults(1).write.lock() = None;
    wait_until("it is a member again", || is_member(&store, 1));
    // Nobody has room: that is said, and nothing else happens.
    for host in &cluster.hosts {
        *host.disk.faults(1).write.lock() = Some(libc::ENOSPC);
    }
    assert_eq!(write(&volume, 3, 3), Err(IoError::NoSpace));
    assert_eq!(read(&volume, 2), Ok(2));
    for host in &cluster.hosts {
        *host.disk.faults(1).write.lock() = None;
    }
    write(&volume, 3, 4).unwrap();
    wait_until("both are members", || {
        is_member(&store, 0) && is_member(&store, 1)
    });
    volume.close(soon()).unwrap();
    cluster.assert_identical(1, &[0, 1]);
}

#[test]
fn a_new_replica_is_filled_while_the_volume_is_written_to() {
    let cluster = Cluster::new(3);
    let store = cluster.volume(1, &[0]);
    let volume = cluster.open(1, 2, &store).unwrap();
    let load = Load::start(&volume, 3, 1000, Duration::from_micros(100));
    load.wait_for(1000);
    cluster.make_replica(1, 1);
    let (record, revision) = store.edit(|record| {
        record.replicas.push(bulkhead_engine::machine::RecordReplica {
            id: replica_id(1, 1),
            node: crate::cluster::node_id(1),
            state: MemberState::Stale(bulkhead_engine::ids::Tick::ZERO),
        });
    });
    volume.record_seen(record, revision);
    wait_until("it is a member", || is_member(&store, 1));
    load.wait_for(200);
    let written = load.stop();
    assert!(!written.failed);
    written.check(&volume);
    volume.close(soon()).unwrap();
    cluster.assert_identical(1, &[0, 1]);
}

#[test]
fn a_copied_directory_is_refused() {
    let cluster = Cluster::new(2);
    let store = cluster.volume(1, &[0, 1]);
    // Somebody has put the replica of another node in the place of this one's.
    let (from, to) = (
        cluster.hosts[0].disk.dir_of(volume_id(1)),
        cluster.hosts[1].disk.dir_of(volume_id(1)),
    );
    for name in ["data", "meta"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
    assert_ne!(identity(1, 0), identity(1, 1));
    let volume = cluster.open(1, 0, &store).unwrap();
    assert!(!is_member(&store, 1), "D7");
    write(&volume, 1, 1).unwrap();
    volume.close(soon()).unwrap();
    assert_eq!(
        bulkhead_engine::disk::inspect(&to).unwrap().superblock.identity,
        identity(1, 0)
    );
}
