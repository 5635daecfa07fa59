//! `make bench`: the same workloads on a plain loop device, on Bulkhead and on GlusterFS, side by side. Prints the tables,
//! writes all figures into a file, and with `--page` into the documentation.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use bulkhead_benches::data::bulkhead::{self, Replicated};
use bulkhead_benches::data::gluster::Gluster;
use bulkhead_benches::data::plain::Plain;
use bulkhead_benches::data::results::{Memory, Results, rows};
use bulkhead_benches::data::run::rounds;
use bulkhead_benches::data::target::{Sizes, Target};
use bulkhead_benches::data::workload::{Effort, all};
use bulkhead_benches::data::{cost, plot, report};
use bulkhead_benches::{ended, machine, page};
use clap::Parser;

#[derive(Parser)]
#[command(about = "Measures the data path beside a plain loop device and GlusterFS")]
struct Arguments {
    /// A short run that takes less than ten minutes.
    #[arg(long)]
    quick: bool,
    /// Rounds; 1 in a short run, else 5.
    #[arg(long)]
    rounds: Option<usize>,
    /// Only workloads whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Only targets whose name contains one of these; the plain loop device is always there.
    #[arg(long)]
    target: Vec<String>,
    /// Where all figures go.
    #[arg(long, default_value = "target/bench/results.json")]
    results: PathBuf,
    /// Write tables into this page, and the pictures beside it.
    #[arg(long)]
    page: Option<PathBuf>,
}

fn main() -> ExitCode {
    ended("bench", measure(&Arguments::parse()))
}

fn measure(arguments: &Arguments) -> Result<()> {
    let (effort, sizes) = if arguments.quick {
        let effort = Effort {
            seconds: 3,
            file: 256,
            scales: &[10],
            small: 1_000,
        };
        (effort, Sizes { volume: 3 })
    } else {
        let effort = Effort {
            seconds: 20,
            file: 1024,
            scales: &[10, 50],
            small: 4_000,
        };
        (effort, Sizes { volume: 8 })
    };
    let count = arguments.rounds.unwrap_or(if arguments.quick { 1 } else { 5 });
    ensure!(count > 0, "at least one round is needed");

    let targets = targets(&arguments.target, sizes)?;
    let mut workloads = all(effort);
    if let Some(only) = &arguments.only {
        workloads.retain(|workload| workload.name().contains(only.as_str()));
        ensure!(!workloads.is_empty(), "no workload's name contains {only:?}");
    }
    let cells = rounds(&targets, &workloads, count, |said| eprintln!("  {said}"))?;
    let mut memory = Vec::new();
    for target in &targets {
        memory.push(Memory {
            target: target.name().to_owned(),
            programs_mib: cost::memory(target.as_ref())? as f64 / f64::from(1 << 20),
            volume_kib: target.memory_per_volume()?.map(|bytes| bytes / 1024.0),
        });
    }
    let names: Vec<String> = targets.iter().map(|target| target.name().to_owned()).collect();
    let first = names.first().context("there is no target")?.clone();
    let results = Results {
        command: command(arguments),
        machine: machine::describe(),
        rounds: count,
        quick: arguments.quick,
        rows: rows(&cells, &first),
        targets: names,
        memory,
    };
    results.save(&arguments.results)?;
    let tables = report::markdown(&results);
    println!("{tables}");
    if let Some(file) = &arguments.page {
        let picture = file.with_extension("svg");
        std::fs::write(&picture, plot::ratios(&results))
            .with_context(|| format!("cannot write {}", picture.display()))?;
        page::write(file, "figures", &tables)?;
    }
    Ok(())
}

fn command(arguments: &Arguments) -> String {
    format!("make bench{}", if arguments.quick { " QUICK=1" } else { "" })
}

fn targets(wanted: &[String], sizes: Sizes) -> Result<Vec<Box<dyn Target>>> {
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    let mut targets: Vec<Box<dyn Target>> = vec![Box::new(Plain::start(sizes)?)];
    for replicas in 1..=3 {
        if is_wanted(&bulkhead::name(replicas)) {
            targets.push(Box::new(Replicated::start(replicas, sizes)?));
        }
    }
    for replicas in [2, 3] {
        if is_wanted(&format!("GlusterFS, replica {replicas}")) {
            targets.push(Box::new(Gluster::start(replicas, sizes)?));
        }
    }
    Ok(targets)
}
