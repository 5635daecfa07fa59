//! Placement holds its promises on arbitrary clusters, and explains itself when it cannot.

use std::collections::{BTreeMap, BTreeSet};

use bulkhead_engine::ids::{NodeId, PoolId};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::schema::VolumeRecord;
use crate::volumes::NewVolume;

pub(super) const GIB: u64 = 1 << 30;

pub(super) fn node(id: u128, zone: &str, rack: &str) -> NodeView {
    let labels = [("zone", zone), ("rack", rack)]
        .into_iter()
        .filter(|(_, value)| !value.is_empty());
    NodeView {
        id: NodeId::from_u128(id),
        name: format!("n{id}"),
        alive: true,
        duty: NodeDuty::Full,
        labels: labels
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
    }
}

pub(super) fn pool(id: u128, node: u128, priority: IoPriority, gib: u64) -> PoolView {
    PoolView {
        id: PoolId::from_u128(id),
        node: NodeId::from_u128(node),
        priority,
        capacity: gib * GIB,
        free: gib * GIB,
        allocated: 0,
        overcommit_percent: 100,
        usable: true,
    }
}

fn three() -> View {
    View::new(
        (1..=3).map(|id| node(id, "", "")),
        (1..=3).map(|id| pool(10 + id, id, IoPriority::Medium, 10)),
    )
}

fn spec(repl: u8) -> VolumeSpec {
    VolumeSpec {
        repl,
        ..VolumeSpec::new(GIB)
    }
}

fn nodes_of(places: &[Placed]) -> Vec<NodeId> {
    places.iter().map(|place| place.node).collect()
}

fn ask(id: u128) -> NodeId {
    NodeId::from_u128(id)
}

fn volume(name: &str, spec: VolumeSpec, places: &[Placed]) -> VolumeRecord {
    NewVolume::new(name, spec, places, ask(1)).unwrap().into_record()
}

#[test]
fn the_node_that_asks_comes_first() {
    for id in 1..=3 {
        assert_eq!(place(&spec(2), ask(id), &three()).unwrap()[0].node, ask(id));
    }
}

#[test]
fn the_emptier_pool_is_taken() {
    let mut view = three();
    view.pools.get_mut(&PoolId::from_u128(12)).unwrap().allocated = 5 * GIB;
    assert_eq!(
        nodes_of(&place(&spec(2), ask(1), &view).unwrap()),
        [ask(1), ask(3)]
    );
}

#[test]
fn a_refusal_names_every_node_and_its_reason() {
    let mut view = View::new(
        (1..=9).map(|id| node(id, if id == 7 { "b" } else { "a" }, "")),
        (1..=9)
            .filter(|id| *id != 6)
            .map(|id| pool(10 + id, id, IoPriority::High, 10)),
    );
    view.nodes.get_mut(&ask(2)).unwrap().alive = false;
    view.nodes.get_mut(&ask(3)).unwrap().duty = NodeDuty::Maintenance;
    let mut pool_of = |id: u128, change: fn(&mut PoolView)| {
        change(view.pools.get_mut(&PoolId::from_u128(10 + id)).unwrap())
    };
    pool_of(4, |pool| pool.priority = IoPriority::Low);
    pool_of(5, |pool| pool.allocated = 10 * GIB - GIB / 2);
    pool_of(8, |pool| pool.free = GIB / 4);
    let asked = VolumeSpec {
        io_priority: Some(IoPriority::High),
        zones: vec!["a".to_owned()],
        nodes: (1..=8)
            .map(|id| format!("n{id}"))
            .chain(["n99".to_owned()])
            .collect(),
        ..spec(2)
    };
    let refusal = place(&asked, ask(1), &view).unwrap_err();
    let text = refusal.to_string();
    for words in [
        "no place for 2 replicas of 1 GiB: 1 of 10 nodes would take one",
        "n1 would take one replica",
        "n2 is offline",
        "n3 is in maintenance",
        "n4 has pools of I/O priority low at best, asked for: high",
        "n5 has room for 512 MiB more, asked for: 1 GiB",
        "n6 has no pool",
        "n7 is in zone b, asked for: a",
        "n8 has a pool that is nearly full (256 MiB of 10 GiB free)",
        "n9 is not among the nodes asked for",
        "n99 is not a node of this cluster",
    ] {
        assert!(text.contains(words), "`{words}` is not in: {text}");
    }
}

#[test]
fn a_group_is_kept_apart_as_far_as_asked() {
    let grouped = |fg| VolumeSpec {
        group: Some("db".to_owned()),
        fg,
        ..spec(1)
    };
    let mut view = three();
    for (name, asking) in [("a", 1), ("b", 1), ("c", 1)] {
        let places = place(&grouped(true), ask(asking), &view).unwrap();
        view.add_volume(&volume(name, grouped(true), &places));
    }
    let refusal = place(&grouped(true), ask(1), &view).unwrap_err();
    assert!(
        refusal.to_string().contains("of the same group `db`"),
        "{refusal}"
    );
    assert!(
        place(&grouped(false), ask(1), &view).is_ok(),
        "without fg a group is a wish"
    );
    let other = VolumeSpec {
        group: Some("web".to_owned()),
        ..grouped(true)
    };
    assert!(place(&other, ask(1), &view).is_ok());
}

#[test]
fn another_replica_goes_elsewhere() {
    let view = three();
    let place = place_another(&spec(2), ask(1), &[ask(1), ask(3)], &view).unwrap();
    assert_eq!(place.node, ask(2));
    let refusal = place_another(&spec(3), ask(1), &[ask(1), ask(2), ask(3)], &view).unwrap_err();
    assert!(
        refusal
            .nodes
            .iter()
            .all(|verdict| verdict.reason == Reason::HasOne)
    );
}

#[test]
fn fast_pools_are_kept_for_those_who_ask() {
    let view = View::new(
        [node(1, "", "")],
        [
            pool(11, 1, IoPriority::High, 100),
            pool(12, 1, IoPriority::Medium, 10),
            pool(13, 1, IoPriority::Low, 10),
        ],
    );
    let pool_for = |priority| {
        let asked = VolumeSpec {
            io_priority: priority,
            ..spec(1)
        };
        place(&asked, ask(1), &view).unwrap()[0].pool
    };
    assert_eq!(pool_for(Some(IoPriority::Medium)), PoolId::from_u128(12));
    assert_eq!(pool_for(Some(IoPriority::High)), PoolId::from_u128(11));
    assert_eq!(pool_for(Some(IoPriority::Low)), PoolId::from_u128(13));
}

fn any_priority() -> impl Strategy<Value = IoPriority> {
    prop_oneof![
        Just(IoPriority::Low),
        Just(IoPriority::Medium),
        Just(IoPriority::High)
    ]
}

pub(super) fn any_view() -> impl Strategy<Value = View> {
    let node = (
        0..4u8,
        0..3u8,
        proptest::bool::weighted(0.85),
        proptest::bool::weighted(0.85),
    );
    let pool = (
        0..8u128,
        any_priority(),
        1..40u64,
        0..60u64,
        0..=100u64,
        50..300u32,
        proptest::bool::weighted(0.9),
    );
    (vec(node, 0..8), vec(pool, 0..16)).prop_map(|(nodes, pools)| {
        let nodes = nodes
            .into_iter()
            .zip(1..)
            .map(|((zone, rack, alive, full), id)| NodeView {
                alive,
                duty: if full { NodeDuty::Full } else { NodeDuty::Drained },
                ..self::node(
                    id,
                    ["", "a", "b", "c"][usize::from(zone)],
                    ["", "r", "s"][usize::from(rack)],
                )
            });
        let pools = pools.into_iter().zip(100..).map(
            |((node, priority, gib, allocated, free, overcommit_percent, usable), id)| PoolView {
                allocated: allocated * GIB / 2,
                free: gib * GIB / 100 * free,
                overcommit_percent,
                usable,
                ..self::pool(id, node + 1, priority, gib)
            },
        );
        View::new(nodes, pools)
    })
}

pub(super) fn any_spec() -> impl Strategy<Value = VolumeSpec> {
    let names = vec((1..9u8).prop_map(|id| format!("n{id}")), 0..4);
    let zones = vec(prop_oneof![Just("a".to_owned()), Just("b".to_owned())], 0..2);
    (
        1..5u8,
        1..20u64,
        proptest::option::of(any_priority()),
        names,
        zones,
    )
        .prop_map(|(repl, gib, io_priority, nodes, zones)| VolumeSpec {
            repl,
            io_priority,
            nodes,
            zones,
            ..VolumeSpec::new(gib * GIB)
        })
}

/// The rule for one place, said once more and in other words.
fn allowed(spec: &VolumeSpec, view: &View, place: &Placed) -> bool {
    let (node, pool) = (&view.nodes[&place.node], &view.pools[&place.pool]);
    let promised = u128::from(pool.allocated + spec.size) * 100;
    pool.node == node.id
        && node.alive
        && node.duty == NodeDuty::Full
        && pool.usable
        && promised <= u128::from(pool.capacity) * u128::from(pool.overcommit_percent) + 99
        && u128::from(pool.free) * 20 >= u128::from(pool.capacity)
        && spec.io_priority.is_none_or(|wanted| pool.priority >= wanted)
        && (spec.nodes.is_empty() || spec.nodes.contains(&node.name))
        && (spec.zones.is_empty()
            || node
                .labels
                .get("zone")
                .is_some_and(|zone| spec.zones.contains(zone)))
}

pub(super) fn every_place(view: &View) -> impl Iterator<Item = Placed> {
    view.pools
        .values()
        .filter(|pool| view.nodes.contains_key(&pool.node))
        .map(|pool| Placed {
            node: pool.node,
            pool: pool.id,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn places_are_allowed_distinct_and_found_whenever_there_are_any(
        spec in any_spec(), view in any_view(), asking in 1..9u128,
    ) {
        let able: BTreeSet<NodeId> =
            every_place(&view).filter(|place| allowed(&spec, &view, place)).map(|place| place.node).collect();
        match place(&spec, ask(asking), &view) {
            Ok(places) => {
                prop_assert_eq!(places.len(), usize::from(spec.repl));
                prop_assert!(places.iter().all(|place| allowed(&spec, &view, place)));
                let nodes: BTreeSet<NodeId> = nodes_of(&places).into_iter().collect();
                prop_assert_eq!(nodes.len(), places.len());
                if able.contains(&ask(asking)) {
                    prop_assert_eq!(places[0].node, ask(asking));
                }
                let zones = |nodes: &BTreeSet<NodeId>| {
                    nodes.iter().map(|node| view.nodes[node].zone().to_owned()).collect::<BTreeSet<_>>().len()
                };
                prop_assert_eq!(zones(&nodes), zones(&able).min(places.len()), "as many zones as there can be");
                let again = place(&spec, ask(asking), &view);
                prop_assert_eq!(again, Ok(places));
            }
            Err(refusal) => {
                prop_assert!(able.len() < usize::from(spec.repl), "{}", refusal);
                prop_assert_eq!(refusal.possible, able.len());
                let told: BTreeMap<_, _> = refusal.nodes.iter().map(|verdict| (&verdict.node, ())).collect();
                for node in view.nodes.values() {
                    prop_assert!(told.contains_key(&node.name), "{} is not told of", node.name);
                }
                prop_assert!(!refusal.to_string().is_empty());
            }
        }
    }

    /// Volumes are placed until nothing fits: no pool is ever promised beyond its limit.
    #[test]
    fn pools_are_never_promised_beyond_their_limit(view in any_view(), specs in vec(any_spec(), 1..40)) {
        let mut view = view;
        let before = view.clone();
        for (n, spec) in specs.into_iter().enumerate() {
            if let Ok(places) = place(&spec, ask(1), &view) {
                view.add_volume(&volume(&format!("v{n}"), spec, &places));
            }
        }
        for (id, pool) in &view.pools {
            prop_assert!(pool.allocated == before.pools[id].allocated || pool.allocated <= pool.promisable());
        }
    }
}
