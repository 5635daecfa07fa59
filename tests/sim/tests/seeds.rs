//! The simulation as part of every test run: many seeds without a violation, and the same run from the same seed.

use bulkhead_sim::campaign::{explain, run, run_seeds};
use bulkhead_sim::plan::Plan;

#[test]
fn thousands_of_seeds_keep_every_promise() {
    let summary = run_seeds(0, 2500, None, 1);
    if let Some((seed, violation)) = summary.violations.first() {
        panic!("seed {seed}: {violation}\n{}", explain(&Plan::of(*seed), 40));
    }
    assert_eq!(summary.seeds, 2500);
    let [_, writes, flushes, reads] = summary.counts;
    assert!(
        writes > 100_000 && flushes > 20_000 && reads > 50_000,
        "the runs do too little: {:?}",
        summary.counts
    );
    assert!(
        summary.dead < 100,
        "too many runs lose every member: {}",
        summary.dead
    );
}

#[test]
fn a_seed_is_one_run() {
    for seed in [7, 1034, 2488] {
        let (first, second) = (run(&Plan::of(seed), true), run(&Plan::of(seed), true));
        assert!(!first.trace.is_empty());
        assert_eq!(
            first.trace, second.trace,
            "seed {seed} does not run the same way twice"
        );
    }
}
