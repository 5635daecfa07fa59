//! The command `sim`: runs seeds, replays one, looks for deliberate faults.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use bulkhead_engine::machine::Fault;
use bulkhead_sim::campaign::{explain, run, run_seeds};
use bulkhead_sim::plan::Plan;
use clap::{Parser, Subcommand};

/// Deterministic simulation of a replicated volume.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run seeds; the last line says how many, and how many violations.
    Run {
        /// How many seeds.
        #[arg(long, default_value_t = 1000)]
        seeds: u64,
        /// The first seed.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Keep only these entries of the plan (one seed), as a shrunk run names them; `none` for none.
        #[arg(long)]
        keep: Option<String>,
        /// Print everything that happens (one seed).
        #[arg(long)]
        trace: bool,
        /// Deliberate fault, by name (needs the feature `faults`).
        #[arg(long)]
        fault: Option<String>,
        /// Stop after so many violations.
        #[arg(long, default_value_t = 10)]
        stop_after: usize,
        /// Print the plan and the last lines of each failing seed, shrunk.
        #[arg(long, default_value_t = 40)]
        lines: usize,
    },
    /// Look for every deliberate fault (needs the feature `faults`).
    Faults {
        /// Most seeds for each.
        #[arg(long, default_value_t = 12_000)]
        seeds: u64,
        /// The first seed.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Only this one.
        #[arg(long)]
        only: Option<String>,
        /// Put the table into this page, in the place of the one that is there.
        #[arg(long)]
        page: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    // A panic of a machine is reported as a violation, with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    match Cli::parse().command {
        Command::Run {
            seeds,
            from,
            keep,
            trace,
            fault,
            stop_after,
            lines,
        } => {
            let fault = match fault.map(|name| by_name(&name)) {
                Some(None) => {
                    eprintln!(
                        "there is no such fault, or this program was built without the feature `faults`"
                    );
                    return ExitCode::from(2);
                }
                Some(found) => found,
                None => None,
            };
            if trace || keep.is_some() {
                return replay(from, keep.as_deref(), fault);
            }
            let started = Instant::now();
            let summary = run_seeds(from, seeds, fault, stop_after);
            for (index, (seed, violation)) in summary.violations.iter().enumerate() {
                println!("seed {seed}: {violation}");
                if index == 0 {
                    let plan = Plan {
                        fault,
                        ..Plan::of(*seed)
                    };
                    println!("{}\n", explain(&plan, lines));
                }
            }
            let [events, writes, flushes, reads] = summary.counts;
            println!(
                "{events} events, {writes} writes, {flushes} flushes and {reads} reads answered, {} operations asked for again, {} runs lost every member, {} overlooked an older store, {:.1} s",
                summary.asked_again,
                summary.dead,
                summary.overlooked,
                started.elapsed().as_secs_f64()
            );
            println!("{} seeds, {} violations", summary.seeds, summary.violations.len());
            ExitCode::from(u8::from(!summary.violations.is_empty()))
        }
        Command::Faults {
            seeds,
            from,
            only,
            page,
        } => faults(seeds, from, only.as_deref(), page.as_deref()),
    }
}

fn by_name(name: &str) -> Option<Fault> {
    let known = Fault::ALL.iter().copied().find(|fault| fault.name() == name);
    known.filter(|_| cfg!(feature = "faults"))
}

fn replay(seed: u64, keep: Option<&str>, fault: Option<Fault>) -> ExitCode {
    let mut plan = Plan {
        fault,
        ..Plan::of(seed)
    };
    if let Some(keep) = keep {
        let keep: Vec<usize> = keep.split(',').filter_map(|index| index.parse().ok()).collect();
        plan = plan.with_only(&keep);
    }
    println!("{plan}");
    let outcome = run(&plan, true);
    for line in &outcome.trace {
        println!("{line}");
    }
    let violations = u8::from(outcome.violation.is_some());
    println!("{}", outcome.violation.as_deref().unwrap_or("no violation"));
    println!("1 seeds, {violations} violations");
    ExitCode::from(violations)
}

fn faults(seeds: u64, from: u64, only: Option<&str>, page: Option<&Path>) -> ExitCode {
    if !cfg!(feature = "faults") {
        eprintln!(
            "this program was built without the feature `faults`: cargo run -p bulkhead-sim --features faults -- faults"
        );
        return ExitCode::from(2);
    }
    let mut table = String::new();
    let mut tell = |line: String| {
        println!("{line}");
        table.push_str(&line);
        table.push('\n');
    };
    tell(TABLE_HEAD.to_owned());
    tell("|---|---|---|---|---|".to_owned());
    let (mut looked_for, mut missed) = (0, 0);
    for &fault in Fault::ALL {
        if only.is_some_and(|only| only != fault.name()) {
            continue;
        }
        looked_for += 1;
        let summary = run_seeds(from, seeds, Some(fault), 1);
        let what = fault.describe().trim();
        match summary.violations.first() {
            Some((seed, violation)) => {
                let by: String = violation
                    .split(':')
                    .next()
                    .unwrap_or_default()
                    .chars()
                    .take(48)
                    .collect();
                tell(format!(
                    "| {} | {what} | yes | {} | {by} |",
                    fault.name(),
                    seed - from + 1
                ));
            }
            None => {
                missed += 1;
                tell(format!(
                    "| {} | {what} | NO | more than {seeds} | |",
                    fault.name()
                ));
            }
        }
    }
    println!("{looked_for} faults, {missed} not found");
    if let Some(page) = page
        && let Err(error) = put_table(page, &table)
    {
        eprintln!("cannot put the table into {}: {error}", page.display());
        return ExitCode::FAILURE;
    }
    ExitCode::from(u8::from(missed > 0))
}

const TABLE_HEAD: &str = "| fault | what it leaves out | found | seeds needed | by |";

/// Replaces the table of a page, which starts with [`TABLE_HEAD`] and ends with the last line that is one of a table.
fn put_table(page: &Path, table: &str) -> std::io::Result<()> {
    let text = std::fs::read_to_string(page)?;
    let mut lines = text.lines();
    let mut next = String::new();
    for line in lines.by_ref().take_while(|line| *line != TABLE_HEAD) {
        next.push_str(line);
        next.push('\n');
    }
    next.push_str(table);
    for line in lines.skip_while(|line| line.starts_with('|')) {
        next.push_str(line);
        next.push('\n');
    }
    std::fs::write(page, next)
}
