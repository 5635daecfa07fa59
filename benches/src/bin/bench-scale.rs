//! `make bench-scale`: many volumes on one node, at rest and busy; with `--page` the figures go into the documentation.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bulkhead_benches::data::scale::{Plan, markdown, run};
use bulkhead_benches::{ended, machine, page};
use clap::Parser;

#[derive(Parser)]
#[command(about = "Measures many volumes on one node: what those at rest cost, and how busy ones share")]
struct Arguments {
    /// A short run, with fewer volumes.
    #[arg(long)]
    quick: bool,
    /// Write the figures into this page.
    #[arg(long)]
    page: Option<PathBuf>,
}

fn main() -> ExitCode {
    ended("bench-scale", measure(&Arguments::parse()))
}

fn measure(arguments: &Arguments) -> anyhow::Result<()> {
    let (volumes, busy, seconds) = if arguments.quick {
        (20, 5, 5)
    } else {
        (200, 50, 20)
    };
    let plan = Plan {
        volumes,
        busy,
        rest: Duration::from_secs(seconds),
        work: Duration::from_secs(seconds),
    };
    let outcome = run(&plan, |doing| eprintln!("  {doing}"))?;
    let figures = markdown(&plan, &outcome, &machine::describe());
    println!("{figures}");
    match &arguments.page {
        Some(file) => page::write(file, "scale", &figures),
        None => Ok(()),
    }
}
