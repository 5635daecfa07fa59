//! Crash replay: a random workload runs through the real volume while every write and sync of its replica's files is
//! recorded. Then the power is cut at thousands of points of the recording, with unsynced sectors dropped, reordered and torn,
//! the replica is opened again as after a reboot, and what is found is held against rules D1 to D5 and promise P1.
//!
//! And the check is checked: with the syncs of one file swallowed it has to find violations.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod check;
mod oracle;
mod workload;

#[path = "../support/mod.rs"]
mod support;

use check::{Outcome, Rule};
use support::recording::Which;
use workload::{Start, Workload};

/// A seed of its own for every run; `CRASH_SEED` repeats one.
fn seed() -> u64 {
    let seed = std::env::var("CRASH_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(rand::random);
    eprintln!("CRASH_SEED={seed}");
    seed
}

/// Records a workload and replays it. Gives what was found, and what one of the power cuts has left.
fn run(workload: Workload, start: Start, cuts: usize, seed: u64) -> (Outcome, Start) {
    let recording = workload::record(workload, start, seed);
    let (outcome, left) = check::replay(&recording, cuts, seed);
    eprintln!("{outcome}");
    (outcome, left)
}

#[test]
fn no_cut_breaks_a_rule() {
    let seed = seed();
    let mut start = Start::fresh();
    // Each run begins with what a power cut in the one before has left, and is cut itself, also while it recovers.
    for generation in 0..3 {
        let (outcome, left) = run(Workload::default(), start, 1500, seed.wrapping_add(generation));
        assert!(outcome.violations.is_empty(), "{outcome}");
        // A run that shows nothing shows nothing: each check must have had something to look at.
        assert!(outcome.cuts >= 1500, "{outcome}");
        assert!(outcome.must_have_survived > 10_000, "{outcome}");
        assert!(
            outcome.known_by_intent > 1000 && outcome.known_by_stamp > 1000,
            "{outcome}"
        );
        assert!(outcome.covered_by_durable > 1000, "{outcome}");
        assert!(outcome.lost_unflushed > 100, "{outcome}");
        assert_eq!(outcome.unsettled_before > 0, generation > 0, "{outcome}");
        start = left;
    }
}

#[test]
fn without_the_intent_sync_it_finds_d1_broken() {
    let workload = Workload {
        swallow_syncs_of: Some(Which::Meta),
        ..Workload::short()
    };
    let (outcome, _) = run(workload, Start::fresh(), 300, seed());
    assert!(outcome.count(Rule::IntentBeforeWrite) > 0, "{outcome}");
    assert!(outcome.count(Rule::UnsettledIsKnown) > 0, "{outcome}");
}

#[test]
fn without_the_data_sync_it_finds_acknowledged_flushes_lost() {
    let workload = Workload {
        swallow_syncs_of: Some(Which::Data),
        ..Workload::short()
    };
    let (outcome, _) = run(workload, Start::fresh(), 300, seed());
    assert!(outcome.count(Rule::FlushedSurvives) > 0, "{outcome}");
    assert!(outcome.count(Rule::DurableIsOnDisk) > 0, "{outcome}");
}

/// Every fault of the machine that a single replica can show on its disk is found.
#[cfg(feature = "faults")]
#[test]
fn deliberate_faults_are_found() {
    use bulkhead_engine::machine::{Fault, FaultSet};
    let mut missed = Vec::new();
    for fault in [
        Fault::EpochNotPersisted,
        Fault::IntentNotSynced,
        Fault::IntentClearedEarly,
        Fault::IntentClearedUnderWrites,
        Fault::StampsNotWritten,
        Fault::DurableWithoutSync,
        Fault::NoSuspects,
        Fault::FlushNotSynced,
        Fault::FlushSharesOldSync,
        Fault::SettledTooNew,
    ] {
        let workload = Workload {
            faults: FaultSet::of(fault),
            ..Workload::default()
        };
        let (mut start, seed) = (Start::fresh(), seed());
        let mut found = false;
        // The first run has nothing to recover from.
        for generation in 0..4 {
            let (outcome, left) = run(workload, start, 1000, seed.wrapping_add(generation));
            found |= !outcome.violations.is_empty();
            start = left;
            if found {
                break;
            }
        }
        eprintln!("{}: {}", fault.name(), if found { "found" } else { "MISSED" });
        if !found {
            missed.push(fault.name());
        }
    }
    assert!(missed.is_empty(), "missed: {missed:?}");
}
