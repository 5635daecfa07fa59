//! With nothing going wrong: every member holds the same, wherever the primary is.

use std::time::Duration;

use bulkhead_engine::disk;
use bulkhead_engine::geometry::ByteRange;
use bulkhead_engine::io::BlockOp;
use bulkhead_engine::machine::MemberState;
use bulkhead_engine::node::{Reach, Standing, VolumeState};

use crate::cluster::{Cluster, replica_id, soon, volume_id, wait_until};
use crate::work::{Load, PAGE, read, submit, write};

fn writes_everywhere(members: &[usize], primary: usize) {
    let cluster = Cluster::new(3);
    let store = cluster.volume(1, members);
    let volume = cluster.open(1, primary, &store).unwrap();
    assert_eq!(read(&volume, 7).unwrap(), 0);
    let load = Load::start(&volume, 4, 1000, Duration::ZERO);
    load.wait_for(3000);
    let written = load.stop();
    assert!(!written.failed);
    submit(&volume, BlockOp::Zero(ByteRange::new(8 << 20, 4 << 20))).unwrap();
    for page in 0..8 {
        write(&volume, 2048 + page * 100, 77 + page).unwrap();
    }
    volume.flush().unwrap();
    let status = volume.status();
    assert_eq!(status.state, VolumeState::Serving);
    assert_eq!(status.replicas.len(), members.len());
    for replica in &status.replicas {
        assert_eq!(
            (replica.reach, replica.standing),
            (Reach::Up, Standing::Member),
            "{status:?}"
        );
        assert_eq!(replica.trouble, None);
    }
    assert_eq!(status.local.is_some(), members.contains(&primary));
    volume.close(soon()).unwrap();
    assert!(
        members
            .iter()
            .all(|&index| store.state_of(replica_id(1, index)) == MemberState::Member)
    );

    // Every replica is closed by itself, in order.
    for &index in members {
        wait_until("the replica is closed", || {
            cluster.node(index).replicas().is_empty()
        });
        let inspect = || disk::inspect(&cluster.hosts[index].disk.dir_of(volume_id(1))).unwrap();
        // A process that is just being started beside this test may still share the lock for a moment.
        wait_until("nobody has its files open", || !inspect().in_use);
        let found = inspect();
        assert!(found.superblock.clean && found.superblock.whole, "{found:?}");
        assert_eq!(found.chunks_unsettled, 0);
    }
    cluster.assert_identical(1, members);

    // The same content from another node, where nothing has to be made identical first.
    let elsewhere = (primary + 1) % 3;
    let again = cluster.open(1, elsewhere, &store).unwrap();
    for page in 0..8 {
        assert_eq!(read(&again, 2048 + page * 100).unwrap(), 77 + page);
    }
    assert_eq!(read(&again, (8 << 20) / PAGE + 1).unwrap(), 0);
    again.close(soon()).unwrap();
}

#[test]
fn one_member_here() {
    writes_everywhere(&[0], 0);
}

#[test]
fn one_member_elsewhere() {
    writes_everywhere(&[1], 0);
}

#[test]
fn two_members() {
    writes_everywhere(&[0, 1], 0);
}

#[test]
fn three_members() {
    writes_everywhere(&[0, 1, 2], 1);
}

#[test]
fn a_primary_without_a_replica() {
    writes_everywhere(&[1, 2], 0);
}

#[test]
fn what_a_load_has_written_is_read_from_every_node() {
    let cluster = Cluster::new(3);
    let store = cluster.volume(1, &[0, 1]);
    let mut base = 1000;
    for primary in [0, 2, 1, 0] {
        let volume = cluster.open(1, primary, &store).unwrap();
        let load = Load::start(&volume, 3, base, Duration::ZERO);
        load.wait_for(500);
        let written = load.stop();
        written.check(&volume);
        volume.close(soon()).unwrap();
        let other = cluster.open(1, (primary + 1) % 3, &store).unwrap();
        written.check(&other);
        other.close(soon()).unwrap();
        base += 1_000_000;
    }
}

#[test]
fn a_member_that_is_not_wanted_leaves_while_the_volume_is_used() {
    for (members, primary, leaving) in [(vec![0, 1, 2], 0, 2), (vec![0, 1], 0, 0), (vec![0, 1], 2, 1)] {
        let cluster = Cluster::new(3);
        let store = cluster.volume(1, &members);
        let volume = cluster.open(1, primary, &store).unwrap();
        let load = Load::start(&volume, 3, 1000, Duration::ZERO);
        load.wait_for(500);
        volume.dismiss(replica_id(1, leaving));
        wait_until("it has left", || {
            store.state_of(replica_id(1, leaving)) != MemberState::Member
        });
        load.wait_for(500);
        // It is brought up to date again, as long as the record has it: nobody has said that it is to be discarded.
        let written = load.stop();
        assert!(!written.failed, "nobody has noticed");
        written.check(&volume);
        // The last one that is sound stays.
        wait_until("it is a member again", || {
            store.state_of(replica_id(1, leaving)) == MemberState::Member
        });
        volume.close(soon()).unwrap();
        cluster.assert_identical(1, &members);
    }
}

#[test]
fn the_last_sound_member_stays_whoever_dismisses_it() {
    let cluster = Cluster::new(2);
    let store = cluster.volume(1, &[0]);
    let volume = cluster.open(1, 0, &store).unwrap();
    for _ in 0..3 {
        volume.dismiss(replica_id(1, 0));
        volume.dismiss(replica_id(1, 1));
        write(&volume, 3, 9).unwrap();
    }
    volume.flush().unwrap();
    assert_eq!(store.state_of(replica_id(1, 0)), MemberState::Member);
    assert_eq!(read(&volume, 3).unwrap(), 9);
    volume.close(soon()).unwrap();
}

#[test]
fn many_volumes_share_the_nodes() {
    const VOLUMES: u128 = 12;
    let cluster = Cluster::new(3);
    let stores: Vec<_> = (0..VOLUMES)
        .map(|number| cluster.volume(number, &[number as usize % 3, (number as usize + 1) % 3]))
        .collect();
    std::thread::scope(|scope| {
        for (number, store) in stores.iter().enumerate() {
            let cluster = &cluster;
            scope.spawn(move || {
                let volume = cluster.open(number as u128, number % 3, store).unwrap();
                let load = Load::start(&volume, 1, 1000, Duration::ZERO);
                load.wait_for(100);
                load.stop().check(&volume);
                volume.close(soon()).unwrap();
            });
        }
    });
    for number in 0..VOLUMES {
        let on = [number as usize % 3, (number as usize + 1) % 3];
        cluster.assert_identical(number, &on);
    }
}
