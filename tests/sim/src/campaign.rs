//! Many seeds: running them, shrinking one that fails, and looking for deliberate faults.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use bulkhead_engine::machine::Fault;

use crate::plan::{Plan, SEC};
use crate::world::{Outcome, World};

/// Runs a plan. A panic in a machine is a violation too.
pub fn run(plan: &Plan, tracing: bool) -> Outcome {
    let plan = plan.clone();
    let at = std::panic::catch_unwind(move || World::new(plan, tracing).run());
    at.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        Outcome {
            violation: Some(format!("panic: {text}")),
            ..Outcome::default()
        }
    })
}

/// What many seeds came to.
#[derive(Debug, Default)]
pub struct Summary {
    /// Seeds that were run.
    pub seeds: u64,
    /// The seeds that failed, with what was wrong.
    pub violations: Vec<(u64, String)>,
    /// Events, acknowledged writes, acknowledged flushes, answered reads.
    pub counts: [u64; 4],
    /// Operations that the next process was asked for again.
    pub asked_again: u64,
    /// Runs in which the last member was lost for good.
    pub dead: u64,
    /// Runs in which nobody could tell that the store was an older copy.
    pub overlooked: u64,
}

/// Runs seeds `from` to `from + count`, on all cores; stops early after `stop_after` violations.
pub fn run_seeds(from: u64, count: u64, fault: Option<Fault>, stop_after: usize) -> Summary {
    let next = AtomicU64::new(from);
    let enough = AtomicBool::new(false);
    let summary = Mutex::new(Summary::default());
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + count || enough.load(Ordering::Relaxed) {
                        return;
                    }
                    let plan = Plan {
                        fault,
                        ..Plan::of(seed)
                    };
                    let outcome = run(&plan, false);
                    let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
                    summary.seeds += 1;
                    let (writes, flushes, reads) = outcome.counts;
                    for (sum, more) in summary
                        .counts
                        .iter_mut()
                        .zip([outcome.events, writes, flushes, reads])
                    {
                        *sum += more;
                    }
                    summary.asked_again += outcome.asked_again;
                    summary.dead += u64::from(outcome.dead);
                    summary.overlooked += u64::from(outcome.overlooked);
                    if let Some(violation) = outcome.violation {
                        summary.violations.push((seed, violation));
                        if summary.violations.len() >= stop_after {
                            enough.store(true, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let mut summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.violations.sort();
    summary
}

/// Leaves out what a failing plan does not need to fail. Gives the entries that are left, by index.
pub fn shrink(plan: &Plan) -> Vec<usize> {
    let fails = |keep: &[usize]| run(&plan.with_only(keep), false).violation.is_some();
    let mut keep: Vec<usize> = (0..plan.entries.len()).collect();
    let mut part = keep.len().div_ceil(2);
    while part > 0 {
        let mut at = 0;
        while at < keep.len() {
            let mut fewer = keep.clone();
            fewer.drain(at..(at + part).min(keep.len()));
            if fails(&fewer) {
                keep = fewer;
            } else {
                at += part;
            }
        }
        part = if part == 1 { 0 } else { part.div_ceil(2) };
    }
    keep
}

/// Tells a failing seed: the shrunk plan, and the end of the trace.
pub fn explain(plan: &Plan, lines: usize) -> String {
    let keep = shrink(plan);
    let shrunk = plan.with_only(&keep);
    let outcome = run(&shrunk, true);
    let skip = outcome.trace.len().saturating_sub(lines);
    let keep: Vec<String> = keep.iter().map(usize::to_string).collect();
    let keep = if keep.is_empty() {
        "none".to_owned()
    } else {
        keep.join(",")
    };
    format!(
        "seed {}, shrunk to entries {keep}: {}\nwith {shrunk}{}\nreplay: sim run --from {} --seeds 1 --keep {keep} --trace\nat {:.3} s: {}",
        plan.seed,
        outcome.violation.as_deref().unwrap_or("no violation when shrunk"),
        outcome.trace[skip..].join("\n"),
        plan.seed,
        outcome.at as f64 / SEC as f64,
        outcome.violation.as_deref().unwrap_or("-"),
    )
}
