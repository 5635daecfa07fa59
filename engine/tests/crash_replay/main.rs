//! Crash replay: a random workload runs through the real volume while every write and sync of its replica's files is
//! recorded. Then the power is cut at thousands of points of the recording, with unsynced sectors dropped, reordered and torn,
//! the replica is opened again as after a reboot, and what is found is held against rules D1 to D5 and promise P1.
//!
//! And the check is checked: with the syncs of one file swallowed it has to find violations.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod check;
mod oracle;
mod workload;

#[path = "../support/mod.rs"]
mod support;

use check::{Outcome, Rule};
use support::recording::Which;
use workload::Workload;

/// A seed of its own for every run; `CRASH_SEED` repeats one.
fn seed() -> u64 {
    let seed = std::env::var("CRASH_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(rand::random);
    eprintln!("CRASH_SEED={seed}");
    seed
}

fn run(workload: Workload, cuts: usize) -> Outcome {
    let seed = seed();
    let recording = workload::record(workload, seed);
    let outcome = check::replay(&recording, cuts, seed);
    eprintln!("{outcome}");
    outcome
}

#[test]
fn no_cut_breaks_a_rule() {
    let outcome = run(Workload::default(), 3000);
    assert!(outcome.violations.is_empty(), "{outcome}");
    // A run that shows nothing shows nothing: each check must have had something to look at.
    assert!(outcome.cuts >= 3000, "{outcome}");
    assert!(outcome.must_have_survived > 10_000, "{outcome}");
    assert!(
        outcome.known_by_intent > 1000 && outcome.known_by_stamp > 1000,
        "{outcome}"
    );
    assert!(outcome.covered_by_durable > 1000, "{outcome}");
    assert!(outcome.lost_unflushed > 100, "{outcome}");
}

#[test]
fn without_the_intent_sync_it_finds_d1_broken() {
    let outcome = run(
        Workload {
            swallow_syncs_of: Some(Which::Meta),
            ..Workload::short()
        },
        300,
    );
    assert!(outcome.count(Rule::IntentBeforeWrite) > 0, "{outcome}");
    assert!(outcome.count(Rule::UnsettledIsKnown) > 0, "{outcome}");
}

#[test]
fn without_the_data_sync_it_finds_acknowledged_flushes_lost() {
    let outcome = run(
        Workload {
            swallow_syncs_of: Some(Which::Data),
            ..Workload::short()
        },
        300,
    );
    assert!(outcome.count(Rule::FlushedSurvives) > 0, "{outcome}");
    assert!(outcome.count(Rule::DurableIsOnDisk) > 0, "{outcome}");
}
