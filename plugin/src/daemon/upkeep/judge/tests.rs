//! Whose turn it is, what is surplus, and which volumes are left alone, on records alone.

use std::collections::BTreeSet;

use super::*;
use bulkhead_cluster::schema::{ChangeId, Primary, ReplicaState, Timestamp, VolumeSpec};
use bulkhead_cluster::volumes::{NewVolume, Placed};
use bulkhead_engine::ids::{Epoch, Incarnation, PoolId, Tick};

fn volume(nodes: &[u128], repl: u8) -> VolumeRecord {
    let place = |id: &u128| Placed {
        node: NodeId::from_u128(*id),
        pool: PoolId::from_u128(*id),
    };
    let places: Vec<Placed> = nodes.iter().map(place).collect();
    let spec = VolumeSpec {
        repl: nodes.len() as u8,
        ..VolumeSpec::new(1 << 30)
    };
    let new = NewVolume::new("v", spec, &places, NodeId::from_u128(1)).expect("a volume");
    let mut record = new.into_record();
    for replica in &mut record.replicas {
        replica.made = true;
    }
    (record.spec.repl, record.state, record.primary) = (repl, VolumeState::Ready, None);
    record
}

#[test]
fn of_several_nodes_one_comes_first_and_not_always_the_same() {
    let nodes: Vec<NodeId> = (1..=3)
        .map(|id| NodeId::from(uuid::Uuid::from_u128(id << 100)))
        .collect();
    let mut firsts = BTreeSet::new();
    for _ in 0..100 {
        let volume = VolumeId::from(uuid::Uuid::new_v4());
        let places: Vec<usize> = nodes
            .iter()
            .filter_map(|node| place_in_order(volume, &nodes, *node))
            .collect();
        assert_eq!(places.iter().collect::<BTreeSet<_>>().len(), 3, "{places:?}");
        firsts.extend(places.iter().position(|place| *place == 0));
    }
    assert_eq!(firsts.len(), 3, "the work is shared");
    let stranger = NodeId::from_u128(9);
    assert_eq!(place_in_order(VolumeId::from_u128(1), &nodes, stranger), None);
}

#[test]
fn a_surplus_replica_goes_only_while_all_is_well() {
    let stay = Away::default();
    assert_eq!(surplus(&volume(&[1, 2], 2), &stay), None);
    let mut three = volume(&[1, 2, 3], 2);
    let third = three.replicas[2].id;
    assert_eq!(surplus(&three, &stay), Some(third));
    let drained = Away::with_leaving(NodeId::from_u128(1));
    let first = three.replicas[0].id;
    assert_eq!(
        surplus(&three, &drained),
        Some(first),
        "the new one is not one too many"
    );
    assert_eq!(
        surplus(&volume(&[1, 2], 2), &drained),
        None,
        "not before there is another one"
    );
    let emptied = Away::with_leaving_pool(three.replicas[1].pool);
    assert_eq!(surplus(&three, &emptied), Some(three.replicas[1].id));
    assert_eq!(surplus(&volume(&[1, 2], 2), &emptied), None);
    three.replicas[1].trouble = Some("it has failed: EIO".to_owned());
    assert_eq!(surplus(&three, &stay), None, "a mount decides about that one");
    three.replicas[1].trouble = None;
    three.replicas[0].state = ReplicaState::Stale { tick: Tick::ZERO };
    assert_eq!(surplus(&three, &stay), None);
    assert!(!is_in_order(&three, |_| false));
    let two = volume(&[1, 2], 2);
    assert!(is_in_order(&two, |_| false));
    assert!(!is_in_order(&two, |replica| replica.node == NodeId::from_u128(2)));
}

#[test]
fn a_volume_in_use_or_asked_for_is_left_to_others() {
    let mut record = volume(&[1, 2], 2);
    assert!(is_left_alone(&record));
    record.primary = Some(Primary {
        node: NodeId::from_u128(2),
        attachment: ChangeId::random(),
        since: Timestamp::now(),
        user: String::new(),
        upkeep: false,
    });
    assert!(!is_left_alone(&record), "also if that node gives no sign of life");
    record.primary = None;
    record.state = VolumeState::Deleting;
    assert!(!is_left_alone(&record));
}

#[test]
fn members_are_left_behind_only_by_one_that_has_everything() {
    let mut record = volume(&[1, 2], 2);
    record.epoch = Epoch(7);
    let said = |clean: bool, whole: bool, epoch: u32| {
        Ok(Inspected {
            incarnation: Incarnation::from_u128(1),
            epoch: Epoch(epoch),
            durable: Tick::ZERO,
            settled: Tick::ZERO,
            whole,
            clean,
            failed: None,
            unsettled: 0,
            suspect: 0,
        })
    };
    let judged = |first: Result<Inspected, String>, second: Result<Inspected, String>| {
        let answers = record.replicas.iter().zip([first, second]);
        let surveyed: Vec<Surveyed> = answers
            .map(|(replica, found)| Surveyed {
                replica: replica.id,
                node: replica.node,
                found,
            })
            .collect();
        match judge_members(&record, &surveyed) {
            Members::AtRest => "at rest",
            Members::Sound => "sound",
            Members::Doubtful(_) => "doubtful",
        }
    };
    let away = || Err("it did not answer in time".to_owned());
    assert_eq!(judged(said(true, true, 7), said(true, true, 7)), "at rest");
    assert_eq!(judged(said(true, true, 7), away()), "sound");
    // It was in use when it was last heard of, and the other one may have been in use since.
    assert_eq!(judged(said(false, true, 7), away()), "doubtful");
    // A member was dropped since, or an attachment came to nothing: had anybody been served, it would know.
    assert_eq!(judged(said(true, true, 6), away()), "sound");
    assert_eq!(judged(said(true, true, 6), said(true, true, 6)), "at rest");
    assert_eq!(judged(said(true, true, 6), said(true, true, 7)), "sound");
    // These have to be made the same first, and that may take its time: for whoever mounts it.
    assert_eq!(judged(said(false, true, 7), said(false, false, 7)), "doubtful");
    assert_eq!(judged(said(true, true, 7), said(false, true, 7)), "doubtful");
    assert_eq!(judged(said(false, false, 7), said(false, false, 7)), "doubtful");
    assert_eq!(judged(said(true, true, 8), said(true, true, 7)), "doubtful");
    assert_eq!(judged(away(), away()), "doubtful");
}
