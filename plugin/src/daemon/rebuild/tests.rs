//! Which replica is added, goes, and makes room, decided on records alone.

use super::*;
use bulkhead_cluster::schema::VolumeSpec;
use bulkhead_cluster::volumes::{NewVolume, Placed};
use bulkhead_engine::ids::Tick;

fn volume() -> VolumeRecord {
    let place = |id| Placed {
        node: NodeId::from_u128(id),
        pool: PoolId::from_u128(id),
    };
    let spec = VolumeSpec {
        repl: 2,
        ..VolumeSpec::new(1 << 30)
    };
    let new = NewVolume::new("v", spec, &[place(1), place(2)], NodeId::from_u128(1));
    let mut record = new.expect("a volume").into_record();
    for replica in &mut record.replicas {
        replica.made = true;
    }
    record
}

#[test]
fn a_replica_that_has_failed_makes_room_only_where_no_other_node_can_take_a_new_one() {
    let mut record = volume();
    let failed = record.replicas[1].id;
    let (mut away, after) = (Away::default(), Duration::from_secs(600));
    away.known.extend((1..=3).map(NodeId::from_u128));
    let lost = |replica: &Replica| away.is_lost(replica, after);
    record.replicas[1].trouble = Some("it has failed: EIO".to_owned());
    assert!(
        making_room(&record, |_| true).is_none() && !is_short(&record, lost),
        "its primary has not left it behind yet"
    );
    let tick = Tick::ZERO;
    record.replicas[1].state = ReplicaState::Stale { tick };
    assert!(is_short(&record, lost) && discards(&record, lost, |_| false).is_empty());
    assert!(
        making_room(&record, |_| false).is_none(),
        "a node may be back in a minute"
    );
    let Some(ReplicaChange::Discard { replica }) = making_room(&record, |_| true) else {
        panic!("it is of no use to the others");
    };
    assert_eq!(replica, failed);
    // With a third node it stays until the new one is in sync.
    let (id, pool) = (ReplicaId::from_u128(9), PoolId::from_u128(3));
    let third = Replica::new(id, NodeId::from_u128(3), pool, ReplicaState::Stale { tick });
    record.replicas.push(third);
    assert!(!is_short(&record, lost) && discards(&record, lost, |_| false).is_empty());
    (record.replicas[2].state, record.replicas[2].made) = (ReplicaState::Member, true);
    assert!(
        matches!(discards(&record, lost, |_| false)[..], [ReplicaChange::Discard { replica }] if replica == failed)
    );
    // One that only lacks something is waited for.
    record.replicas.pop();
    record.replicas[1].trouble = None;
    assert!(making_room(&record, |_| true).is_none() && !is_short(&record, lost));
}

#[test]
fn a_lost_replica_is_replaced_and_then_discarded() {
    let mut record = volume();
    let second = |replica: &Replica| replica.node == NodeId::from_u128(2);
    let stays = |_: &Replica| false;
    assert!(!is_short(&record, |_| false) && is_short(&record, second));
    let tick = Tick::ZERO;
    if let Some(lost) = record.replicas.get_mut(1) {
        lost.state = ReplicaState::Stale { tick };
    }
    assert!(
        discards(&record, second, stays).is_empty(),
        "not before another one is in sync"
    );
    let (id, node) = (ReplicaId::from_u128(9), NodeId::from_u128(3));
    let mut third = Replica::new(id, node, PoolId::from_u128(3), ReplicaState::Stale { tick });
    record.replicas.push(third.clone());
    assert!(!is_short(&record, second), "one is enough");
    assert!(discards(&record, second, stays).is_empty());
    record.replicas.pop();
    (third.state, third.made) = (ReplicaState::Member, true);
    record.replicas.push(third);
    let [ReplicaChange::Discard { replica }] = discards(&record, second, stays)[..] else {
        panic!("the lost one goes");
    };
    assert_eq!(
        record.replica(replica).map(|replica| replica.node),
        Some(NodeId::from_u128(2))
    );
}

#[test]
fn what_is_on_a_drained_node_leaves_once_another_one_is_in_sync() {
    let mut record = volume();
    let here = NodeId::from_u128(1);
    let drained = |replica: &Replica| replica.node == NodeId::from_u128(2);
    let reached = |_: &Replica| true;
    assert!(is_short(&record, drained), "another one is made");
    assert_eq!(
        surplus(&record, Some(here), reached, drained),
        None,
        "it is needed"
    );
    let mut third = Replica::new(
        ReplicaId::from_u128(9),
        NodeId::from_u128(3),
        PoolId::from_u128(3),
        ReplicaState::Stale { tick: Tick::ZERO },
    );
    record.replicas.push(third.clone());
    assert!(
        discards(&record, |_| false, drained).is_empty(),
        "the new one is not the one too many"
    );
    assert_eq!(surplus(&record, Some(here), reached, drained), None);
    record.replicas.pop();
    (third.state, third.made) = (ReplicaState::Member, true);
    record.replicas.push(third);
    let goes = surplus(&record, Some(here), reached, drained);
    assert_eq!(goes, Some(record.replicas[1].id));
    let third_away = |replica: &Replica| replica.node != NodeId::from_u128(3);
    assert_eq!(
        surplus(&record, Some(here), third_away, drained),
        None,
        "not while the new one is away"
    );
    record.replicas[1].state = ReplicaState::Rebuilding { tick: Tick::ZERO };
    assert_eq!(discards(&record, |_| false, drained).len(), 1);
}

#[test]
fn one_too_many_leaves_and_not_the_one_here() {
    let mut record = volume();
    record.spec.repl = 1;
    let (here, reached) = (NodeId::from_u128(1), |_: &Replica| true);
    let stays = |_: &Replica| false;
    assert_eq!(
        surplus(&record, Some(here), reached, stays),
        Some(record.replicas[1].id)
    );
    let there = NodeId::from_u128(2);
    assert_eq!(
        surplus(&record, Some(there), reached, stays),
        Some(record.replicas[0].id)
    );
    record.spec.repl = 2;
    assert_eq!(surplus(&record, Some(here), reached, stays), None);
}

#[test]
fn one_that_has_failed_is_not_what_the_others_may_leave_for() {
    let mut record = volume();
    let third = Replica::new(
        ReplicaId::from_u128(9),
        NodeId::from_u128(3),
        PoolId::from_u128(3),
        ReplicaState::Member,
    );
    record.replicas.push(Replica { made: true, ..third });
    let (here, reached, stays) = (NodeId::from_u128(1), |_: &Replica| true, |_: &Replica| false);
    assert_eq!(
        surplus(&record, Some(here), reached, stays),
        Some(record.replicas[2].id)
    );
    // Its primary has not left it behind yet: with the newest gone too, one copy would be left.
    record.replicas[1].trouble = Some("it has failed: EIO".to_owned());
    assert_eq!(
        surplus(&record, Some(here), reached, stays),
        Some(record.replicas[1].id),
        "the one that has failed is the one too many"
    );
    let drained = |replica: &Replica| replica.node == NodeId::from_u128(3);
    assert_eq!(surplus(&record, Some(here), reached, drained), None);
    // Nor is one discarded that is only behind.
    record.replicas[2].state = ReplicaState::Stale { tick: Tick::ZERO };
    assert!(discards(&record, |_| false, stays).is_empty());
}
