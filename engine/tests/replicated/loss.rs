//! Members that go and come back while the volume is written to.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bulkhead_engine::machine::MemberState;
use bulkhead_engine::machine::primary::EndReason;
use bulkhead_engine::node::{Standing, VolumeEvent};

use crate::cluster::{Cluster, replica_id, soon, wait_until};
use crate::work::{Load, PAGE, timed, write};

fn is_member(store: &crate::store::Store, index: usize) -> bool {
    store.state_of(replica_id(1, index)) == MemberState::Member
}

/// With two members or three, the one on host 1 is lost in some way and comes back.
fn goes_and_comes_back(members: &[usize], lose: impl Fn(&Cluster), back: impl Fn(&Cluster)) {
    let cluster = Cluster::new(3);
    let store = cluster.volume(1, members);
    let (volume, events, ended) = cluster.open_heard(1, 0, &store, |_| {});
    let load = Load::start(&volume, 3, 1000, Duration::from_micros(200));
    load.wait_for(500);
    lose(&cluster);
    wait_until("it is removed", || !is_member(&store, 1));
    load.wait_for(500);
    back(&cluster);
    wait_until("it is a member again", || is_member(&store, 1));
    load.wait_for(500);
    let written = load.stop();
    assert!(!written.failed, "no operation fails");
    written.check(&volume);
    volume.close(soon()).unwrap();
    assert!(ended.try_recv().is_err());
    cluster.assert_identical(1, members);
    let replica = replica_id(1, 1);
    let seen: Vec<VolumeEvent> = events.try_iter().collect();
    for standing in [Standing::Stale, Standing::Rebuilding, Standing::Member] {
        let told = |event: &VolumeEvent| matches!(event, VolumeEvent::Standing { replica: of, standing: is, .. } if *of == replica && *is == standing);
        assert!(seen.iter().any(told), "{standing:?} is told: {seen:?}");
    }
    let lost = |event: &VolumeEvent| matches!(event, VolumeEvent::Lost { replica: of, .. } if *of == replica);
    assert!(seen.iter().any(lost), "{seen:?}");
}

#[test]
fn a_cut_wire() {
    goes_and_comes_back(&[0, 1], |cluster| cluster.wire(0, 1).cut(), Cluster::mend_all);
}

#[test]
fn a_cut_wire_of_one_in_three() {
    goes_and_comes_back(&[0, 1, 2], |cluster| cluster.wire(0, 1).cut(), Cluster::mend_all);
}

#[test]
fn a_wire_that_takes_nothing() {
    goes_and_comes_back(
        &[0, 1],
        |cluster| cluster.wire(0, 1).stop(),
        |cluster| {
            cluster.wire(0, 1).mend();
        },
    );
}

#[test]
fn a_killed_node() {
    goes_and_comes_back(&[0, 1], |cluster| cluster.kill(1), |cluster| cluster.start(1));
}

#[test]
fn a_killed_node_under_a_primary_without_a_replica() {
    goes_and_comes_back(&[1, 2], |cluster| cluster.kill(1), |cluster| cluster.start(1));
}

#[test]
fn a_node_that_restarts_at_once() {
    // Its incarnation is another one: it is removed all the same.
    goes_and_comes_back(
        &[0, 1],
        |cluster| {
            cluster.kill(1);
            cluster.start(1);
        },
        |_| {},
    );
}

#[test]
fn a_short_absence_changes_nothing() {
    let cluster = Cluster::new(2);
    let store = cluster.volume(1, &[0, 1]);
    let volume = cluster.open(1, 0, &store).unwrap();
    let load = Load::start(&volume, 3, 1000, Duration::from_micros(200));
    load.wait_for(200);
    let before = store.record();
    let connections = cluster.wire(0, 1).connections();
    for _ in 0..5 {
        cluster.wire(0, 1).cut();
        std::thread::sleep(Duration::from_millis(50));
        cluster.wire(0, 1).mend();
        load.wait_for(200);
    }
    assert!(
        cluster.wire(0, 1).connections() > connections,
        "it was connected to again"
    );
    assert_eq!(
        store.record(),
        before,
        "the same incarnation within the deadline: nothing happened"
    );
    let written = load.stop();
    assert!(!written.failed);
    written.check(&volume);
    volume.close(soon()).unwrap();
    cluster.assert_identical(1, &[0, 1]);
}

#[test]
fn who_comes_back_is_sent_what_has_changed_and_no_more() {
    let cluster = Cluster::new(2);
    let store = cluster.volume(1, &[0, 1]);
    let volume = cluster.open(1, 0, &store).unwrap();
    // All of it is written once.
    for page in 0..crate::cluster::SIZE / PAGE {
        write(&volume, page, page).unwrap();
    }
    volume.flush().unwrap();
    // Until what was written is durable on both: what comes later is what is to be sent.
    let before = volume.status().tick;
    wait_until("it is durable everywhere", || {
        write(&volume, 0, 1).unwrap();
        let durable = |index| cluster.node(index).replica(replica_id(1, index)).unwrap().durable;
        durable(0) > before && durable(1) > before
    });
    cluster.wire(0, 1).cut();
    wait_until("it is removed", || {
        write(&volume, 0, 2).unwrap();
        !is_member(&store, 1)
    });
    let chunk = bulkhead_engine::geometry::Geometry::for_size(crate::cluster::SIZE)
        .unwrap()
        .chunk_size();
    let chunks = 20;
    for at in 0..chunks {
        write(&volume, at * 3 * chunk / PAGE, 5).unwrap();
    }
    let sent = cluster.wire(0, 1).sent();
    cluster.mend_all();
    wait_until("it is a member again", || is_member(&store, 1));
    let sent = cluster.wire(0, 1).sent() - sent;
    // A page of each chunk, and what was in flight when it went.
    let most = 2 * (chunks + 8) * PAGE;
    assert!(
        sent >= chunks * PAGE && sent <= most,
        "{sent} bytes were sent for a page in {chunks} chunks"
    );
    volume.close(soon()).unwrap();
    cluster.assert_identical(1, &[0, 1]);
}

#[test]
fn without_the_store_a_lost_member_holds_writes_until_it_is_back() {
    let cluster = Cluster::new(2);
    let store = cluster.volume(1, &[0, 1]);
    let volume = cluster.open(1, 0, &store).unwrap();
    store.go_away(true);
    // P4: the healthy path does not need it.
    write(&volume, 1, 1).unwrap();
    volume.flush().unwrap();
    cluster.wire(0, 1).cut();
    let held = std::thread::scope(|scope| {
        let writer = scope.spawn(|| timed(|| write(&volume, 2, 2)));
        std::thread::sleep(Duration::from_millis(3500));
        assert!(
            !writer.is_finished(),
            "held, while the store cannot say that the member is gone"
        );
        store.go_away(false);
        writer.join().unwrap()
    });
    assert_eq!(held.0, Ok(()));
    assert!(!is_member(&store, 1), "acknowledged only then");
    write(&volume, 3, 3).unwrap();
    cluster.mend_all();
    wait_until("it is a member again", || is_member(&store, 1));
    volume.close(soon()).unwrap();
    cluster.assert_identical(1, &[0, 1]);
}

#[test]
fn without_the_store_for_too_long_everything_fails() {
    let cluster = Cluster::new(2);
    let store = cluster.volume(1, &[0, 1]);
    let (volume, _events, ended) = cluster.open_heard(1, 0, &store, |_| {});
    write(&volume, 1, 1).unwrap();
    store.go_away(true);
    cluster.wire(0, 1).cut();
    let (outcome, took) = timed(|| write(&volume, 2, 2));
    assert!(outcome.is_err());
    assert!(took < Duration::from_secs(30), "P5: {took:?}");
    assert_eq!(
        ended.recv_timeout(Duration::from_secs(20)).unwrap(),
        EndReason::Isolated
    );
    assert!(is_member(&store, 1), "nothing was decided without the store");
    assert!(volume.close(soon()).is_err());
    store.go_away(false);
    cluster.mend_all();
    // What was acknowledged is there.
    let again = cluster.open(1, 1, &store).unwrap();
    assert_eq!(crate::work::read(&again, 1).unwrap(), 1);
    again.close(soon()).unwrap();
    cluster.assert_identical(1, &[0, 1]);
}

#[test]
fn a_swap_whose_answer_is_lost_is_known_again() {
    let cluster = Cluster::new(2);
    let store = cluster.volume(1, &[0, 1]);
    let volume = cluster.open(1, 0, &store).unwrap();
    write(&volume, 1, 1).unwrap();
    store.lose_answers(true);
    cluster.wire(0, 1).cut();
    let epoch = store.record().epoch;
    write(&volume, 2, 2).unwrap();
    assert!(!is_member(&store, 1));
    assert_eq!(store.record().epoch, epoch.next().unwrap(), "removed once");
    store.lose_answers(false);
    cluster.mend_all();
    wait_until("it is a member again", || is_member(&store, 1));
    volume.close(soon()).unwrap();
    cluster.assert_identical(1, &[0, 1]);
}

/// The connection to a member breaks while it is told of the release, and comes back when that is done there: it is the same
/// opening still.
#[test]
fn a_link_that_blips_during_the_release_costs_nobody_its_place() {
    let cluster = Cluster::new(2);
    let store = cluster.volume(1, &[0, 1]);
    for round in 0..3 {
        let volume = cluster.open(1, 0, &store).unwrap();
        write(&volume, round, round).unwrap();
        let syncs = &cluster.hosts[1].disk.faults(1).sync_delay_ms;
        syncs.store(300, Ordering::SeqCst);
        std::thread::scope(|scope| {
            let closing = scope.spawn(|| volume.close(soon()));
            std::thread::sleep(Duration::from_millis(150));
            cluster.wire(0, 1).cut();
            let replica = || cluster.node(1).replica(replica_id(1, 1));
            wait_until("it is in order", || replica().is_none_or(|replica| replica.clean));
            // Time to be closed, if it is closed now.
            std::thread::sleep(Duration::from_millis(200));
            syncs.store(0, Ordering::SeqCst);
            cluster.mend_all();
            closing.join().unwrap().unwrap();
        });

        assert_eq!(
            store.record().members().count(),
            2,
            "round {round}: {:?}",
            store.record()
        );
    }
    wait_until("it is closed when nobody comes any more", || {
        cluster.node(1).replicas().is_empty()
    });
    cluster.assert_identical(1, &[0, 1]);
}
