//! The benchmark of the control plane in small, for what must hold on any machine however slow: the store's load does
//! not depend on who reads, a create costs what it costs whatever the size of the cluster, and every node sees it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;
use std::time::Duration;

use bulkhead_benches::control::report::{Size, markdown};
use bulkhead_benches::control::run::{Plan, run};

#[tokio::test(flavor = "multi_thread")]
async fn the_stores_load_follows_the_changes_and_not_the_readers() {
    let memory = PathBuf::from("/dev/shm");
    let plan = Plan {
        nodes: 12,
        volumes: 200,
        rate: 20,
        storm: Duration::from_secs(3),
        rest: Duration::from_secs(4),
        daemon: None,
        dir: if memory.is_dir() {
            memory
        } else {
            std::env::temp_dir()
        },
    };
    let outcome = run(&plan, |doing| println!("{doing}")).await.unwrap();
    let figures = markdown(
        &outcome,
        Size {
            nodes: 1_000,
            volumes: 100_000,
        },
    );
    println!("{figures}");
    let nodes = plan.nodes as f64;

    // At rest a node keeps its lease, and that is all.
    let [idle, one, ten] = outcome.readings.as_slice() else {
        panic!("{} phases at rest", outcome.readings.len());
    };
    assert!(idle.load.requests() < nodes, "{:?}", idle.load);
    // Ten times the readers: more look-ups, and not one question more.
    assert!(ten.lookups > 3.0 * one.lookups, "{} {}", ten.lookups, one.lookups);
    for reading in [one, ten] {
        assert!(
            reading.load.requests() < idle.load.requests() + nodes / 2.0,
            "{:?}",
            reading.load
        );
    }
    // A create costs the store the same, however many nodes there are, and is seen by all of them.
    let [few, .., all] = outcome.storms.as_slice() else {
        panic!("{} storms", outcome.storms.len());
    };
    assert!(few.nodes * 2 < all.nodes);
    for storm in &outcome.storms {
        assert_eq!(storm.failed, (0, None));
        assert_eq!(storm.made, (storm.rate * 3) as usize);
        assert_eq!(storm.unseen, 0, "some node missed a volume");
        let requests = outcome.requests_per_create(storm);
        assert!(
            (2.0..24.0).contains(&requests),
            "{requests} requests for a create"
        );
    }
    assert!(outcome.requests_per_create(all) < 2.0 * outcome.requests_per_create(few));
    // No node is told more often of a volume than its record changes.
    let told = all.load.told * all.load.time.as_secs_f64() / (all.made * all.nodes) as f64;
    assert!(told < 8.0, "each node was told {told} times of each volume");
}
