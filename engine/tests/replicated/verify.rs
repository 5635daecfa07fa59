//! Members are compared while the volume is used, and mended; and the last resort, when no member is left.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use bulkhead_engine::disk::DATA_FILE;
use bulkhead_engine::machine::MemberState;
use bulkhead_engine::machine::primary::{Repair, VerifyOutcome};
use bulkhead_engine::node::Surveyed;

use crate::cluster::{Cluster, SIZE, node_id, replica_id, soon, volume_id, wait_until};
use crate::work::{Load, PAGE, read, write};

/// Changes a byte behind the replica's back, as a disk that lies does.
fn rot(cluster: &Cluster, index: usize, page: u64) {
    let path = cluster.hosts[index].disk.dir_of(volume_id(1)).join(DATA_FILE);
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, page * PAGE + 17).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], page * PAGE + 17).unwrap();
}

#[test]
fn members_that_are_the_same_are_found_to_be_under_load() {
    let cluster = Cluster::new(3);
    let store = cluster.volume(1, &[0, 1, 2]);
    let volume = cluster.open(1, 0, &store).unwrap();
    let load = Load::start(&volume, 3, 1000, Duration::from_micros(100));
    load.wait_for(300);
    let report = volume.verify(Repair::No).wait();
    let written = load.stop();
    assert!(!written.failed);
    assert_eq!(
        (report.outcome, report.differing),
        (VerifyOutcome::Complete, 0),
        "{report:?}"
    );
    assert_eq!((report.compared, report.members.len()), (SIZE, 3));
    assert_eq!(volume.status().verify, None);
    volume.close(soon()).unwrap();
    cluster.assert_identical(1, &[0, 1, 2]);
}

#[test]
fn rot_is_found_and_mended_from_the_majority_or_from_whom_a_person_names() {
    for members in [&[0usize, 1][..], &[0, 1, 2]] {
        let cluster = Cluster::new(3);
        let store = cluster.volume(1, members);
        let volume = cluster.open(1, 0, &store).unwrap();
        for page in 0..64 {
            write(&volume, page * 64, page + 1).unwrap();
        }
        volume.flush().unwrap();
        rot(&cluster, 1, 64);
        rot(&cluster, 1, 640);
        let report = volume.verify(Repair::No).wait();
        assert_eq!((report.differing, report.mended), (2, 0), "{report:?}");
        let places: Vec<u64> = report
            .differences
            .iter()
            .map(|found| found.range.offset)
            .collect();
        for (place, page) in places.iter().zip([64, 640]) {
            assert!(
                (*place..*place + (1 << 20)).contains(&(page * PAGE)),
                "{report:?}"
            );
        }
        let decided = members.len() == 3;
        let report = volume.verify(Repair::Majority).wait();
        assert_eq!(report.mended, if decided { 2 } else { 0 }, "{report:?}");
        if decided {
            assert_eq!(report.differences[0].differing, [replica_id(1, 1)]);
        } else {
            let report = volume.verify(Repair::From(replica_id(1, 0))).wait();
            assert_eq!(report.mended, 2, "{report:?}");
        }
        let report = volume.verify(Repair::No).wait();
        assert_eq!(report.differing, 0, "{report:?}");
        assert_eq!(read(&volume, 64).unwrap(), 2);
        volume.close(soon()).unwrap();
        cluster.assert_identical(1, members);
    }
}

#[test]
fn a_comparison_ends_with_its_volume_or_when_it_is_asked_to() {
    let cluster = Cluster::new(2);
    let store = cluster.volume(1, &[0, 1]);
    let volume = cluster.open(1, 0, &store).unwrap();
    let first = volume.verify(Repair::No);
    let second = volume.verify(Repair::No).wait();
    assert_eq!(second.outcome, VerifyOutcome::Refused);
    volume.stop_verify();
    let outcome = first.wait().outcome;
    assert!(matches!(
        outcome,
        VerifyOutcome::Interrupted | VerifyOutcome::Complete
    ));
    let third = volume.verify(Repair::No);
    volume.close(soon()).unwrap();
    let outcome = third.wait().outcome;
    assert!(matches!(
        outcome,
        VerifyOutcome::Interrupted | VerifyOutcome::Complete
    ));
    assert_eq!(
        volume.verify(Repair::No).wait().outcome,
        VerifyOutcome::Interrupted
    );
}

#[test]
fn the_last_resort_makes_a_stale_replica_the_volume() {
    let cluster = Cluster::new(3);
    let store = cluster.volume(1, &[0, 1]);
    let volume = cluster.open(1, 0, &store).unwrap();
    write(&volume, 1, 1).unwrap();
    volume.flush().unwrap();
    // The one on host 1 misses what comes now; then host 0 is gone for good.
    cluster.wire(0, 1).cut();
    write(&volume, 2, 2).unwrap();
    assert_ne!(store.state_of(replica_id(1, 1)), MemberState::Member);
    cluster.kill(0);
    let _ = volume.close(std::time::Instant::now() + Duration::from_secs(1));
    drop(volume);
    cluster.mend_all();

    let node = cluster.node(2);
    let asked = node.survey(volume_id(1), &store.record(), Duration::from_secs(5));
    let left = asked
        .iter()
        .find(|answer| answer.replica == replica_id(1, 1))
        .unwrap();
    let found = left.found.clone().unwrap();
    assert!(
        found.epoch < store.record().epoch && found.failed.is_none(),
        "{found:?}"
    );
    assert!(asked.iter().any(|answer| answer.found.is_err()), "{asked:?}");
    let epochs: Vec<_> = asked.iter().filter_map(Surveyed::epoch).collect();
    store.edit(|record| *record = record.forced(replica_id(1, 1), epochs).unwrap());

    let forced = cluster.open(1, 2, &store).unwrap();
    assert_eq!(read(&forced, 1).unwrap(), 1);
    assert_eq!(
        read(&forced, 2).unwrap(),
        0,
        "what it lacks is lost, as was accepted"
    );
    write(&forced, 3, 3).unwrap();
    // A new replica takes the place of the lost one.
    cluster.make_replica_as(1, 0, 7);
    cluster.start(0);
    let (record, revision) = store.edit(|record| {
        record.replicas.push(bulkhead_engine::machine::RecordReplica {
            id: replica_id(1, 7),
            node: node_id(0),
            state: MemberState::Stale(bulkhead_engine::ids::Tick::ZERO),
        });
    });
    forced.record_seen(record, revision);
    wait_until("the new one is a member", || {
        store.state_of(replica_id(1, 7)) == MemberState::Member
    });
    forced.close(soon()).unwrap();
    cluster.assert_identical(1, &[0, 1]);
}
