//! A plan keeps every rule of placement at every step, makes things better, and comes to an end.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::tests::{GIB, any_spec, any_view, every_place, node, pool};
use super::*;
use crate::placement::place as place_new;
use crate::schema::{IoPriority, VolumeSpec};
use crate::volumes::NewVolume;

fn volume(name: &str, spec: VolumeSpec, places: &[Placed]) -> VolumeRecord {
    let new = NewVolume::new(name, spec, places, NodeId::from_u128(1)).expect("sound");
    let mut record = new.into_record();
    record.state = VolumeState::Ready;
    record.primary = None;
    for replica in &mut record.replicas {
        replica.made = true;
    }
    record
}

fn on(nodes: &[u128]) -> Vec<Placed> {
    nodes
        .iter()
        .map(|id| Placed {
            node: NodeId::from_u128(*id),
            pool: PoolId::from_u128(10 + id),
        })
        .collect()
}

/// Nodes 1 to `nodes` with a pool each of 100 GiB, and volumes of 10 GiB on the first ones.
fn cluster(nodes: u128, homes: &[&[u128]]) -> (View, Vec<VolumeRecord>) {
    let mut view = View::new(
        (1..=nodes).map(|id| node(id, "", "")),
        (1..=nodes).map(|id| pool(10 + id, id, IoPriority::Medium, 100)),
    );
    let volumes: Vec<VolumeRecord> = homes
        .iter()
        .enumerate()
        .map(|(number, homes)| {
            let spec = VolumeSpec {
                repl: u8::try_from(homes.len()).unwrap_or(1),
                ..VolumeSpec::new(10 * GIB)
            };
            volume(&format!("v{number}"), spec, &on(homes))
        })
        .collect();
    volumes.iter().for_each(|volume| view.add_volume(volume));
    (view, volumes)
}

/// The cluster once a plan has been carried out.
fn carried_out(view: &View, volumes: &[VolumeRecord], plan: &Plan) -> (View, Vec<VolumeRecord>) {
    let (mut view, mut volumes) = (view.clone(), volumes.to_vec());
    for one in &plan.moves {
        for record in volumes.iter_mut().filter(|record| record.id == one.volume) {
            for replica in record
                .replicas
                .iter_mut()
                .filter(|replica| replica.id == one.replica)
            {
                assert_eq!(replica.placed(), one.from);
                (replica.node, replica.pool) = (one.to.node, one.to.pool);
            }
        }
        let source = view.pools.get_mut(&one.from.pool).expect("known");
        source.allocated -= one.size;
        source.free = (source.free + one.size).min(source.capacity);
        let target = view.pools.get_mut(&one.to.pool).expect("known");
        target.allocated += one.size;
        target.free = target.free.saturating_sub(one.size);
    }
    (view, volumes)
}

#[test]
fn a_node_that_joins_takes_its_share() {
    let homes: Vec<&[u128]> = vec![&[1, 2], &[2, 3], &[1, 3], &[1, 2], &[2, 3], &[1, 3]];
    let (view, volumes) = cluster(4, &homes);
    let plan = balance(&volumes, &view, None);
    assert_eq!((plan.before.lowest, plan.before.highest), (0, 400));
    assert_eq!(plan.moves.len(), 3, "{plan:#?}");
    assert!(
        plan.moves
            .iter()
            .all(|one| one.to == on(&[4])[0] && one.size == 10 * GIB)
    );
    assert_eq!((plan.after.lowest, plan.after.highest), (300, 300));
    let (view, volumes) = carried_out(&view, &volumes, &plan);
    assert!(balance(&volumes, &view, None).moves.is_empty());
}

#[test]
fn a_limit_takes_those_that_bring_most() {
    let (view, volumes) = cluster(2, &[&[1], &[1], &[1], &[1]]);
    assert_eq!(balance(&volumes, &view, Some(0)).moves.len(), 0);
    let plan = balance(&volumes, &view, Some(1));
    assert_eq!((plan.moves.len(), plan.after.highest), (1, 300));
    assert_eq!(
        balance(&volumes, &view, None).after,
        Spread {
            lowest: 200,
            highest: 200
        }
    );
}

#[test]
fn what_is_used_on_its_node_or_not_in_order_stays() {
    use crate::schema::{ChangeId, Primary, Timestamp};
    let (view, mut volumes) = cluster(2, &[&[1], &[1], &[1]]);
    let primary = Primary {
        node: NodeId::from_u128(1),
        attachment: ChangeId::random(),
        since: Timestamp::now(),
        user: String::new(),
        upkeep: false,
    };
    volumes[0].primary = Some(primary);
    volumes[1].replicas[0].trouble = Some("it has failed".to_owned());
    let plan = balance(&volumes, &view, None);
    assert_eq!(plan.moves.len(), 1);
    assert_eq!(plan.moves[0].volume, volumes[2].id);
    // One that is on the move already is not moved once more.
    volumes[2].replicas[0].moves_to = Some(plan.moves[0].to);
    assert!(balance(&volumes, &view, None).moves.is_empty());
}

#[test]
fn zones_labels_names_and_groups_hold() {
    let (mut view, mut volumes) = cluster(3, &[&[1, 2], &[1, 2]]);
    for (id, zone) in [(1, "a"), (2, "b"), (3, "b")] {
        let node = view.nodes.get_mut(&NodeId::from_u128(id)).expect("known");
        node.labels.insert("zone".to_owned(), zone.to_owned());
    }
    let plan = balance(&volumes, &view, None);
    assert!(
        !plan.moves.is_empty() && plan.moves.iter().all(|one| one.from.node == NodeId::from_u128(2)),
        "both in one zone would be worse: {plan:#?}"
    );
    for record in &mut volumes {
        record.spec.nodes = vec!["n1".to_owned(), "n2".to_owned()];
    }
    assert!(balance(&volumes, &view, None).moves.is_empty());
    for record in &mut volumes {
        record.spec.nodes.clear();
        (record.spec.group, record.spec.fg) = (Some("g".to_owned()), true);
    }
    let plan = balance(&volumes, &view, None);
    assert!(plan.moves.len() <= 1, "two of the group on one node: {plan:#?}");
    view.nodes.get_mut(&NodeId::from_u128(3)).expect("known").alive = false;
    assert!(balance(&volumes, &view, None).moves.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_plan_keeps_the_rules_and_a_second_one_is_empty(
        view in any_view(), specs in vec(any_spec(), 0..24), limit in proptest::option::of(0..6_usize),
    ) {
        let (mut view, mut volumes) = (view, Vec::new());
        for (number, spec) in specs.into_iter().enumerate() {
            if let Ok(places) = place_new(&spec, NodeId::from_u128(1), &view) {
                let record = volume(&format!("v{number}"), spec, &places);
                view.add_volume(&record);
                volumes.push(record);
            }
        }
        let fullest = |view: &View| view.pools.values().map(|pool| fill(pool, pool.allocated)).max();
        for (limit, last) in [(limit, false), (None, true)] {
            let plan = balance(&volumes, &view, limit);
            prop_assert!(limit.is_none_or(|limit| plan.moves.len() <= limit));
            prop_assert!(plan.after.highest <= plan.before.highest);
            let (after, moved) = carried_out(&view, &volumes, &plan);
            prop_assert!(fullest(&after) <= fullest(&view));
            let known: BTreeSet<Placed> = every_place(&after).collect();
            for record in &moved {
                let nodes: BTreeSet<NodeId> = record.replicas.iter().map(|replica| replica.node).collect();
                prop_assert_eq!(nodes.len(), record.replicas.len(), "two on one node");
                prop_assert!(record.replicas.iter().all(|replica| known.contains(&replica.placed())));
            }
            for one in &plan.moves {
                let pool = &after.pools[&one.to.pool];
                prop_assert!(pool.allocated <= pool.promisable() && pool.usable, "more than there is: {one:?}");
                let record = moved.iter().find(|record| record.id == one.volume).expect("known");
                prop_assert!(may_hold(&record.spec, &after.nodes[&one.to.node]).is_ok());
                prop_assert!(record.spec.io_priority.is_none_or(|wanted| pool.priority >= wanted));
            }
            if last {
                let again = balance(&moved, &after, None);
                let only_back = again.moves.iter().all(|one| {
                    let before = volumes.iter().find(|record| record.id == one.volume);
                    before.is_some_and(|record| record.replicas.iter().any(|old| old.node == one.to.node))
                });
                prop_assert!(only_back, "{:#?}", again);
            }
            (view, volumes) = (after, moved);
        }
    }
}
