//! Disks that fail, hang or are full, without another member.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bulkhead_engine::disk::{self, Caching, ReplicaFiles};
use bulkhead_engine::format::FailCause;
use bulkhead_engine::geometry::ByteRange;
use bulkhead_engine::io::{BlockOp, IoError};
use bulkhead_engine::machine::primary::EndReason;
use bulkhead_engine::node::{CloseError, OpenError, Volume, VolumeConfig, VolumeState};

use crate::support::alone::identity;
use crate::support::faulty::Faults;
use crate::{PAGE, Place, config, local, read, soon, submit, write};

#[test]
fn a_failed_sync_is_final() {
    let place = Place::new();
    let (volume, data, _, ended) = place.open_faulty(1);
    write(&volume, 0, 1, PAGE).unwrap();
    volume.flush().unwrap();
    *data.sync.lock() = Some(libc::EIO);
    let syncs = data.syncs.load(Ordering::SeqCst);
    write(&volume, 0, 2, PAGE).unwrap();
    assert_eq!(volume.flush(), Err(IoError::Io));
    // The disk is well again; that must not matter.
    *data.sync.lock() = None;
    assert_eq!(write(&volume, 0, 3, PAGE), Err(IoError::Io));
    assert_eq!(volume.flush(), Err(IoError::Io));
    assert_eq!(read(&volume, 0, 4096), Err(IoError::Io));
    assert_eq!(
        data.syncs.load(Ordering::SeqCst),
        syncs + 1,
        "a failed sync is never tried again"
    );
    let reason = ended.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(reason, EndReason::LastMemberFailed(Some(FailCause::Sync)));
    let status = volume.status();
    assert!(matches!(status.state, VolumeState::Ended(_)));
    assert!(
        status
            .local
            .as_ref()
            .unwrap()
            .failure
            .as_ref()
            .unwrap()
            .contains("sync of the data failed"),
        "says what was seen"
    );
    assert!(matches!(volume.close(soon()), Err(CloseError::Ended { .. })));
    assert_eq!(
        disk::inspect(&place.dir).unwrap().superblock.failed,
        Some(FailCause::Sync)
    );

    let refused = place.open(2).err().unwrap();
    assert!(matches!(refused, OpenError::ReplicaFailed { .. }), "{refused}");
    let message = refused.to_string();
    for part in [&identity().replica.to_string(), "sync", "rebuild", "backup"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn failing_reads_writes_and_metadata_are_final() {
    for broken in ["write", "zero", "meta write", "meta sync"] {
        let place = Place::new();
        let (volume, data, meta, ended) = place.open_faulty(1);
        match broken {
            "write" | "zero" => *data.write.lock() = Some(libc::EIO),
            "meta write" => *meta.write.lock() = Some(libc::EIO),
            _ => *meta.sync.lock() = Some(libc::EIO),
        }
        let outcome = match broken {
            "zero" => submit(&volume, BlockOp::Zero(ByteRange::new(0, 4096))).map(drop),
            _ => write(&volume, 0, 1, PAGE),
        };
        assert_eq!(outcome, Err(IoError::Io), "{broken}");
        assert!(ended.recv_timeout(Duration::from_secs(20)).is_ok(), "{broken}");
        assert_eq!(volume.flush(), Err(IoError::Io), "{broken}");
        let _ = volume.close(soon());
        if !broken.starts_with("meta") {
            let refused = place.open(2).err().unwrap();
            assert!(
                matches!(refused, OpenError::ReplicaFailed { .. }),
                "{broken}: {refused}"
            );
        }
    }
}

#[test]
fn a_full_pool_refuses_writes_and_nothing_else() {
    let place = Place::new();
    let (volume, data, ..) = place.open_faulty(1);
    write(&volume, 0, 1, PAGE).unwrap();
    *data.write.lock() = Some(libc::ENOSPC);
    assert_eq!(write(&volume, 8 << 20, 2, PAGE), Err(IoError::NoSpace));
    assert_eq!(volume.status().served.out_of_space, 1);
    volume.flush().unwrap();
    assert_eq!(read(&volume, 0, 4096).unwrap(), [1; PAGE]);
    *data.write.lock() = None;
    write(&volume, 8 << 20, 2, PAGE).unwrap();
    volume.close(soon()).unwrap();
    let volume = place.open(2).unwrap();
    assert_eq!(read(&volume, 8 << 20, 4096).unwrap(), [2; PAGE]);
    volume.close(soon()).unwrap();
}

#[test]
fn a_disk_that_hangs_holds_up_no_other_volume_and_no_caller_for_ever() {
    let (stuck, well) = (Place::new(), Place::new());
    let files = disk::open(&stuck.dir, &identity(), Caching::PageCache).unwrap();
    let data = Arc::new(Faults::default());
    let files = ReplicaFiles {
        data: data.wrap(files.data),
        ..files
    };
    let config = VolumeConfig {
        io_timeout: Duration::from_secs(1),
        ..config(1)
    };
    let hanging = {
        stuck.place.give(files);
        Volume::open(&stuck.node, config)
    }
    .unwrap();
    write(&hanging, 0, 1, PAGE).unwrap();
    data.sync_delay_ms.store(6000, Ordering::SeqCst);
    let begun = Instant::now();
    let other = well.open(1).unwrap();
    std::thread::scope(|scope| {
        let flush = scope.spawn(|| hanging.flush());
        for _ in 0..50 {
            write(&other, 0, 1, PAGE).unwrap();
            other.flush().unwrap();
        }
        assert_eq!(flush.join().unwrap(), Err(IoError::Io));
    });
    let took = begun.elapsed();
    assert!(
        took < Duration::from_secs(5),
        "failed by its deadline, not by the disk's: {took:?}"
    );
    assert!(matches!(
        hanging.close(Instant::now()),
        Err(CloseError::Stuck { .. } | CloseError::Ended { .. })
    ));
    other.close(soon()).unwrap();
}

#[test]
fn a_failure_that_the_disk_did_not_take_note_of_is_remembered() {
    let place = Place::new();
    let (volume, data, meta, ended) = place.open_faulty(1);
    write(&volume, 0, 1, PAGE).unwrap();
    *meta.write.lock() = Some(libc::EIO);
    *data.sync.lock() = Some(libc::EIO);
    assert_eq!(volume.flush(), Err(IoError::Io));
    assert!(ended.recv_timeout(Duration::from_secs(20)).is_ok());
    let _ = volume.close(soon());
    assert!(local(&volume).failure.is_some(), "it stays open and says so");
    let refused = place.open(2).err().unwrap();
    assert!(matches!(refused, OpenError::ReplicaFailed { .. }), "{refused}");
    place.node.close_replica(identity().replica, soon()).unwrap();
    assert_eq!(
        disk::inspect(&place.dir).unwrap().superblock.failed,
        None,
        "the disk does not know"
    );
    let refused = place.open(3).err().unwrap();
    assert!(matches!(refused, OpenError::ReplicaFailed { .. }), "{refused}");

    // What a person accepts is served again, and the disk knows that too.
    place.node.pardon_replica(identity().replica, soon()).unwrap();
    let config = config(4);
    let said = place
        .node
        .survey(config.volume, &config.record, Duration::from_secs(10));
    let said = said[0].found.as_ref().unwrap();
    assert!(
        !said.whole && !said.clean,
        "what it acknowledged may be lost: {said:?}"
    );
    let again = place.open(4).unwrap();
    assert_eq!(read(&again, 0, 4096).unwrap(), [1; PAGE]);
    again.close(soon()).unwrap();
    assert_eq!(disk::inspect(&place.dir).unwrap().superblock.failed, None);
}
