//! Every deliberate fault is found by the seed that docs/simulation.md names for it: without this, "no violation" could
//! mean that nothing is looked at.
//!
//! Needs the feature `faults`, and with it machines that no product may contain: built apart from everything else, by
//! `cargo test --release -p bulkhead-sim --features faults --target-dir target/faults`.
#![cfg(feature = "faults")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bulkhead_engine::machine::Fault;
use bulkhead_sim::campaign::run;
use bulkhead_sim::plan::Plan;

/// The table: for each fault the seeds needed; nothing for one that the table admits is not found.
fn stated() -> BTreeMap<String, Option<u64>> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/simulation.md");
    let text = fs::read_to_string(page).unwrap();
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        match cells[..] {
            ["", name, _, "yes", seeds, _, ""] => Some((name.to_owned(), Some(seeds.parse().ok()?))),
            ["", name, _, "NO", _, _, ""] => Some((name.to_owned(), None)),
            _ => None,
        }
    };
    text.lines().filter_map(row).collect()
}

#[test]
fn every_fault_is_found_by_the_seed_that_is_stated() {
    // Panics of the machines are violations, and many.
    std::panic::set_hook(Box::new(|_| {}));
    let stated = stated();
    let mut missed = Vec::new();
    for &fault in Fault::ALL {
        let Some(&seeds) = stated.get(fault.name()) else {
            missed.push(format!("{}: not in docs/simulation.md", fault.name()));
            continue;
        };
        let Some(seeds) = seeds else {
            continue;
        };
        let plan = Plan {
            fault: Some(fault),
            ..Plan::of(seeds - 1)
        };
        if run(&plan, false).violation.is_none() {
            missed.push(format!("{}: not found by seed {}", fault.name(), seeds - 1));
        }
    }
    drop(std::panic::take_hook());
    assert!(
        missed.is_empty(),
        "run `make sim-faults`, and see why:\n{}",
        missed.join("\n")
    );
}
