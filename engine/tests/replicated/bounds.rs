//! Every wait ends, and nothing that is stuck holds up what is not.

use std::time::{Duration, Instant};

use bulkhead_engine::machine::MemberState;
use bulkhead_engine::machine::primary::EndReason;
use bulkhead_engine::node::OpenError;

use crate::cluster::{Cluster, SIZE, replica_id, soon, wait_until};
use crate::work::{Load, PAGE, read, timed, write};

#[test]
fn nobody_in_reach_is_refused_in_bounded_time_and_in_words() {
    let cluster = Cluster::new(3);
    let store = cluster.volume(1, &[1, 2]);
    cluster.kill(1);
    cluster.isolate(0);
    let open = || {
        let mut config = cluster.config(1, 0, &store);
        config.open_timeout = Duration::from_secs(3);
        bulkhead_engine::node::Volume::open(&cluster.node(0), config)
            .err()
            .unwrap()
    };
    let (refused, took) = timed(open);
    assert!(
        matches!(
            refused,
            OpenError::Ended {
                reason: EndReason::NoMember,
                ..
            }
        ),
        "{refused}"
    );
    assert!(took < Duration::from_secs(15), "{took:?}");
    for index in [1, 2] {
        let named = refused
            .to_string()
            .contains(&crate::cluster::node_id(index).to_string());
        assert!(named, "it says which node: {refused}");
    }
}

/// After a crash of all, much is to be made identical: that may take longer than the opening may stand still, but one
/// that stands still ends.
#[test]
fn an_opening_may_take_long_but_not_stand_still() {
    let stall = Duration::from_secs(1);
    let cluster = Cluster::new(2);
    let store = cluster.volume(1, &[0, 1]);
    let crash = |base: u64| {
        let volume = cluster.open(1, 0, &store).unwrap();
        // Some in each region, so that all of them are in doubt.
        for at in 0..64 {
            write(&volume, at * (SIZE / PAGE / 64), base + at).unwrap();
        }
        for index in [0, 1] {
            cluster.kill(index);
            cluster.start(index);
        }
    };
    // What is in doubt is the same on both, and so it is compared only.
    let reads = |millis| {
        for index in [0, 1] {
            let delay = &cluster.hosts[index].disk.faults(1).read_delay_ms;
            delay.store(millis, std::sync::atomic::Ordering::SeqCst);
        }
    };
    let open = || {
        let mut config = cluster.config(1, 1, &store);
        config.open_stall = stall;
        config.open_patience = Duration::from_secs(30);
        bulkhead_engine::node::Volume::open(&cluster.node(1), config)
    };
    crash(1000);
    reads(40);
    let (volume, took) = timed(|| open().unwrap());
    assert!(took > stall * 2, "it was to take long, not {took:?}");
    reads(0);
    for at in 0..64 {
        assert_eq!(read(&volume, at * (SIZE / PAGE / 64)).unwrap(), 1000 + at);
    }
    volume.close(soon()).unwrap();
    cluster.assert_identical(1, &[0, 1]);

    crash(2000);
    reads(9000);
    let (refused, took) = timed(|| open().err().unwrap());
    assert!(matches!(refused, OpenError::Timeout { .. }), "{refused}");
    assert!(took < Duration::from_secs(8), "{took:?}");
}

#[test]
fn a_replica_that_is_not_there_is_declined_in_words() {
    let cluster = Cluster::new(2);
    let store = cluster.volume(1, &[0, 1]);
    cluster.hosts[1].disk.declined.lock().push(replica_id(1, 1));
    let volume = cluster.open(1, 0, &store).unwrap();
    assert_ne!(store.state_of(replica_id(1, 1)), MemberState::Member);
    wait_until("the reason is known here", || {
        let status = volume.status();
        let trouble = status.replicas[1].trouble.clone().unwrap_or_default();
        trouble.contains("to be removed")
    });
    cluster.hosts[1].disk.declined.lock().clear();
    wait_until("it is a member again", || {
        store.state_of(replica_id(1, 1)) == MemberState::Member
    });
    volume.close(soon()).unwrap();
    cluster.assert_identical(1, &[0, 1]);
}

#[test]
fn a_volume_that_is_stuck_holds_up_no_other() {
    let cluster = Cluster::new(2);
    let (stuck, well) = (cluster.volume(1, &[0, 1]), cluster.volume(2, &[0, 1]));
    let hanging = cluster.open(1, 0, &stuck).unwrap();
    let other = cluster.open(2, 0, &well).unwrap();
    write(&hanging, 1, 1).unwrap();
    // Both disks of the one volume hang, and its store is away.
    for index in [0, 1] {
        let faults = cluster.hosts[index].disk.faults(1);
        faults
            .write_delay_ms
            .store(8000, std::sync::atomic::Ordering::SeqCst);
        faults
            .sync_delay_ms
            .store(8000, std::sync::atomic::Ordering::SeqCst);
    }
    stuck.go_away(true);
    std::thread::scope(|scope| {
        for page in 0..8 {
            let hanging = &hanging;
            scope.spawn(move || write(hanging, page, 2));
        }
        scope.spawn(|| hanging.flush());
        std::thread::sleep(Duration::from_millis(300));
        let begun = Instant::now();
        let load = Load::start(&other, 3, 1000, Duration::ZERO);
        load.wait_for(300);
        let written = load.stop();
        assert!(!written.failed);
        other.flush().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
        // Another one can be opened, and closed.
        let third = cluster.volume(3, &[1, 0]);
        let volume = cluster.open(3, 1, &third).unwrap();
        write(&volume, 1, 1).unwrap();
        volume.close(soon()).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(7), "{:?}", begun.elapsed());
        let (_, took) = timed(|| hanging.close(Instant::now() + Duration::from_secs(1)));
        assert!(took < Duration::from_secs(4), "a closing ends: {took:?}");
    });
    assert!(write(&hanging, 1, 1).is_err());
    other.close(soon()).unwrap();
}

/// A node stops while the disk of one volume hangs: the other replicas are closed in order all the same.
#[test]
fn a_disk_that_hangs_does_not_keep_a_node_from_stopping() {
    let cluster = Cluster::new(2);
    let volumes: Vec<_> = (1..=4)
        .map(|number| {
            let store = cluster.volume(number, &[0, 1]);
            let volume = cluster.open(number, 0, &store).unwrap();
            write(&volume, 1, 1).unwrap();
            volume
        })
        .collect();
    for number in 1..=4 {
        let syncs = &cluster.hosts[1].disk.faults(number).sync_delay_ms;
        // That of the first one hangs, the others are at work for a while.
        let millis = if number == 1 { 10_000 } else { 300 };
        syncs.store(millis, std::sync::atomic::Ordering::SeqCst);
    }
    std::thread::scope(|scope| {
        for volume in &volumes {
            scope.spawn(|| volume.flush());
        }
        std::thread::sleep(Duration::from_millis(100));
        let node = cluster.node(1);
        let (all, took) = timed(|| node.stop(Instant::now() + Duration::from_secs(2)));
        assert!(!all && took < Duration::from_secs(5), "{took:?}");
        let left: Vec<_> = node.replicas().into_iter().map(|open| open.volume).collect();
        assert_eq!(left, [crate::cluster::volume_id(1)], "the others are closed");
        for volume in &volumes {
            let _ = volume.close(Instant::now() + Duration::from_secs(1));
        }
    });
}

#[test]
fn a_closing_ends_also_with_a_member_that_does_not_answer() {
    let cluster = Cluster::new(2);
    let store = cluster.volume(1, &[0, 1]);
    let volume = cluster.open(1, 0, &store).unwrap();
    write(&volume, 1, 1).unwrap();
    cluster.wire(0, 1).stop();
    // What the wire is just carrying still arrives.
    std::thread::sleep(Duration::from_millis(100));
    store.go_away(true);
    let (closed, took) = timed(|| volume.close(Instant::now() + Duration::from_secs(2)));
    assert!(closed.is_err());
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(write(&volume, 1, 1).is_err());
    store.go_away(false);
    cluster.mend_all();
    let again = cluster.open(1, 1, &store).unwrap();
    assert_eq!(crate::work::read(&again, 1).unwrap(), 1);
    again.close(soon()).unwrap();
}

#[test]
fn a_keeper_that_forgets_is_asked_again() {
    let cluster = Cluster::new(2);
    let store = cluster.volume(1, &[0, 1]);
    let volume = cluster.open(1, 0, &store).unwrap();
    store.lose_answers(true);
    cluster.kill(1);
    write(&volume, 1, 1).unwrap();
    assert_ne!(store.state_of(replica_id(1, 1)), MemberState::Member);
    volume.close(soon()).unwrap();
}
