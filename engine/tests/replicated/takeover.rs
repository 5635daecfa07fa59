//! A volume moves to another node while the one before still runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bulkhead_engine::ids::Epoch;
use bulkhead_engine::io::IoError;
use bulkhead_engine::machine::MemberState;
use bulkhead_engine::machine::primary::EndReason;
use bulkhead_engine::node::{OpenError, Surveyed, Volume, VolumeConfig};

use crate::cluster::{Cluster, LEASE, node_id, replica_id, soon, volume_id, wait_until};
use crate::work::{Load, read, timed, write};

#[test]
fn a_node_that_was_replaced_acknowledges_nothing_any_more() {
    for (members, cut) in [
        (&[0usize, 1][..], false),
        (&[0, 1], true),
        (&[0, 1, 2], true),
        (&[1, 2], false),
        (&[1, 2], true),
    ] {
        let cluster = Cluster::new(3);
        let store = cluster.volume(1, members);
        let (old, _events, ended) = cluster.open_heard(1, 0, &store, |_| {});
        let load = Load::start(&old, 3, 1000, Duration::ZERO);
        load.wait_for(500);
        if cut {
            cluster.isolate(0);
        }
        let new = cluster.open(1, 1, &store).unwrap();
        let written = load.join();
        assert!(written.failed, "the old primary fails everything");
        // What was acknowledged before is there, and nothing that was not submitted.
        written.check(&new);
        write(&new, 1, 999_999).unwrap();
        assert_eq!(read(&old, 1), Err(IoError::Io));
        let reason = ended.recv_timeout(Duration::from_secs(30)).unwrap();
        assert!(
            matches!(
                reason,
                EndReason::Superseded(_) | EndReason::Isolated | EndReason::IoTimeout
            ),
            "{reason}"
        );
        cluster.mend_all();
        wait_until("all are members again", || {
            members
                .iter()
                .all(|&index| store.state_of(replica_id(1, index)) == MemberState::Member)
        });
        assert!(old.close(soon()).is_err());
        new.close(soon()).unwrap();
        cluster.assert_identical(1, members);
    }
}

/// An old primary that is cut off, and reads from its own replica, must not answer what is older than what the new one
/// has answered.
#[test]
fn a_node_that_is_cut_off_answers_nothing_stale() {
    for members in [&[0usize, 1][..], &[0, 1, 2]] {
        let cluster = Cluster::new(3);
        let store = cluster.volume(1, members);
        let old = cluster.open(1, 0, &store).unwrap();
        write(&old, 5, 1).unwrap();
        let (stop, newest) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let reader = {
            let (old, stop, newest) = (old.clone(), stop.clone(), newest.clone());
            std::thread::spawn(move || {
                let mut answered = 0u64;
                while !stop.load(Ordering::SeqCst) {
                    let known = newest.load(Ordering::SeqCst);
                    match read(&old, 5) {
                        Ok(found) => {
                            assert!(found >= known, "{found} was read after {known} was acknowledged")
                        }
                        Err(_) => return answered,
                    }
                    answered += 1;
                }
                answered
            })
        };
        cluster.isolate(0);
        let new = cluster.open(1, 1, &store).unwrap();
        for value in 2..500u64 {
            write(&new, 5, value).unwrap();
            newest.store(value, Ordering::SeqCst);
        }
        std::thread::sleep(Duration::from_millis(500));
        stop.store(true, Ordering::SeqCst);
        cluster.mend_all();
        assert!(reader.join().unwrap() > 0);
        new.close(soon()).unwrap();
    }
}

#[test]
fn a_crash_of_the_primary_loses_nothing_that_was_acknowledged() {
    let cluster = Cluster::new(3);
    let store = cluster.volume(1, &[0, 1]);
    let mut base = 1000;
    for primary in [0, 1, 2, 0] {
        let (volume, took) = timed(|| cluster.open(1, primary, &store).unwrap());
        assert!(took < Duration::from_secs(15), "{took:?}");
        let load = Load::start(&volume, 3, base, Duration::ZERO);
        load.wait_for(300);
        let next = (primary + 1) % 3;
        cluster.kill(primary);
        let taken = cluster.open(1, next, &store).unwrap();
        drop(volume);
        let written = load.stop();
        written.check(&taken);
        cluster.start(primary);
        wait_until("all are members again", || {
            [0, 1]
                .iter()
                .all(|&index| store.state_of(replica_id(1, index)) == MemberState::Member)
        });
        written.check(&taken);
        taken.close(soon()).unwrap();
        cluster.assert_identical(1, &[0, 1]);
        base += 1_000_000;
    }
}

/// The store knows that the old primary's node is dead: its replica is not waited for. One of which that is only said stays.
#[test]
fn the_dead_are_not_waited_for() {
    let cluster = Cluster::new(3);
    let store = cluster.volume(1, &[0, 1]);
    let patience = Duration::from_secs(8);
    let open = |dead: &[usize]| {
        let config = VolumeConfig {
            member_deadline: patience,
            open_patience: patience,
            dead: dead.iter().map(|&index| node_id(index)).collect(),
            ..cluster.config(1, 1, &store)
        };
        Volume::open(&cluster.node(1), config)
    };
    let old = cluster.open(1, 0, &store).unwrap();
    write(&old, 1, 1).unwrap();
    // It answers nobody, and refuses nobody either.
    cluster.isolate(0);
    cluster.wire(1, 0).stop();
    std::thread::sleep(LEASE);
    let (taken, took) = timed(|| open(&[0]).unwrap());
    println!(
        "{:.2} of the deadline of a member",
        took.as_secs_f64() / patience.as_secs_f64()
    );
    assert!(took < patience / 2, "{took:?}");
    assert_eq!(read(&taken, 1).unwrap(), 1);
    assert_ne!(store.state_of(replica_id(1, 0)), MemberState::Member);
    cluster.mend_all();
    let all_members = || store.record().members().count() == 2;
    wait_until("all are members again", all_members);
    drop(old);
    taken.close(soon()).unwrap();

    // It lives, whatever the store thinks.
    let again = open(&[0]).unwrap();
    write(&again, 1, 2).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(all_members(), "{:?}", store.record());
    again.close(soon()).unwrap();
}

#[test]
fn an_orderly_move_waits_for_no_lease() {
    let cluster = Cluster::new(3);
    let store = cluster.volume(1, &[0, 1]);
    for turn in 0..6usize {
        let begun = Instant::now();
        let volume = cluster.open(1, turn % 3, &store).unwrap();
        let took = begun.elapsed();
        assert!(took < LEASE, "turn {turn}: {took:?}");
        write(&volume, turn as u64, 1).unwrap();
        volume.close(soon()).unwrap();
    }
}

/// T5: a process that goes on for the one of its node that was killed waits neither for the lease that a member elsewhere has granted to
/// that one, nor for what the replica here may have granted. Another one waits for both.
#[test]
fn a_process_that_goes_on_for_the_one_before_waits_for_no_lease() {
    let cluster = Cluster::new(2);
    let store = cluster.volume(1, &[0, 1]);
    let mut volume = cluster.open(1, 0, &store).unwrap();
    for turn in 1..=4u64 {
        write(&volume, 1, turn).unwrap();
        cluster.kill(0);
        drop(volume);
        let replaced = store.record().epoch;
        let begun = Instant::now();
        cluster.start(0);
        let config = VolumeConfig {
            resumes: Some(replaced).filter(|_| turn < 4),
            ..cluster.config(1, 0, &store)
        };
        volume = Volume::open(&cluster.node(0), config).unwrap();
        let took = begun.elapsed();
        assert_eq!(took < LEASE, turn < 4, "turn {turn}: {took:?}");
        assert_eq!(read(&volume, 1).unwrap(), turn);
    }
    volume.close(soon()).unwrap();
    cluster.assert_identical(1, &[0, 1]);
}

#[test]
fn nobody_goes_on_for_a_record_that_is_not_before_the_own() {
    let cluster = Cluster::new(1);
    let store = cluster.volume(1, &[0]);
    let config = cluster.config(1, 0, &store);
    let config = VolumeConfig {
        resumes: Some(config.record.epoch),
        ..config
    };
    let refused = Volume::open(&cluster.node(0), config).err().unwrap();
    assert!(matches!(refused, OpenError::Record { .. }), "{refused}");
    cluster.open(1, 0, &store).unwrap().close(soon()).unwrap();
}

/// What asks and who opens meets a replica that is just being closed, over and over: that is no refusal.
#[test]
fn a_replica_that_is_just_being_closed_is_waited_for() {
    let cluster = Cluster::new(2);
    let store = cluster.volume(1, &[0]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for asker in [0usize, 0, 1] {
            let (cluster, store, over) = (&cluster, &store, &over);
            scope.spawn(move || {
                let node = cluster.node(asker);
                while !over.load(Ordering::SeqCst) {
                    let asked = node.survey(volume_id(1), &store.record(), Duration::from_secs(20));
                    assert!(asked[0].found.is_ok(), "{asked:?}");
                }
            });
        }
        let until = Instant::now() + Duration::from_secs(4);
        let mut turns = 0u64;
        while Instant::now() < until {
            let (volume, took) = timed(|| cluster.open(1, turns as usize % 2, &store).unwrap());
            // Not even after a pause.
            assert!(took < Duration::from_secs(10), "turn {turns}: {took:?}");
            write(&volume, 1, turns).unwrap();
            volume.close(soon()).unwrap();
            turns += 1;
        }
        over.store(true, Ordering::SeqCst);
        println!("{turns} turns");
    });
}

#[test]
fn a_store_that_was_restored_from_an_older_copy_is_found_before_anything_is_changed() {
    let cluster = Cluster::new(3);
    let store = cluster.volume(1, &[0, 1]);
    let old = store.record();
    for turn in 0..6usize {
        let volume = cluster.open(1, turn % 3, &store).unwrap();
        write(&volume, 1, turn as u64).unwrap();
        volume.close(soon()).unwrap();
    }
    let newest = store.record().epoch;
    let asked = cluster
        .node(2)
        .survey(volume_id(1), &store.record(), Duration::from_secs(10));
    assert_eq!(asked.len(), 2);
    for answer in &asked {
        assert_eq!(answer.epoch(), Some(newest), "{asked:?}");
        assert!(
            answer
                .found
                .as_ref()
                .is_ok_and(|found| found.clean && found.whole)
        );
    }
    // Asking has changed nothing.
    for index in [0, 1] {
        wait_until("it is closed again", || cluster.node(index).replicas().is_empty());
    }
    store.edit(|record| *record = old.clone());
    let asked = cluster
        .node(2)
        .survey(volume_id(1), &store.record(), Duration::from_secs(10));
    assert_eq!(
        store.record().is_behind(asked.iter().filter_map(Surveyed::epoch)),
        Some(newest)
    );
    // Who attaches without asking is refused, and the message says why.
    let refused = cluster.open(1, 2, &store).err().unwrap();
    assert!(
        matches!(
            refused,
            OpenError::Ended { reason: EndReason::StoreIsOlder { replica, record: Epoch(1) }, .. } if replica == newest
        ),
        "{refused}"
    );
    // Nobody answers: that is said too.
    cluster.kill(0);
    cluster.wire(2, 1).cut();
    let (asked, took) = timed(|| {
        cluster
            .node(2)
            .survey(volume_id(1), &store.record(), Duration::from_secs(3))
    });
    assert!(asked.iter().all(|answer| answer.found.is_err()), "{asked:?}");
    assert!(took < Duration::from_secs(6), "{took:?}");
}

#[test]
fn a_record_that_names_another_primary_is_not_opened() {
    let cluster = Cluster::new(2);
    let store = cluster.volume(1, &[0, 1]);
    let mut config = cluster.config(1, 0, &store);
    config.record.primary = Some(node_id(1));
    let refused = Volume::open(&cluster.node(0), config).err().unwrap();
    assert!(matches!(refused, OpenError::Record { .. }), "{refused}");
}
