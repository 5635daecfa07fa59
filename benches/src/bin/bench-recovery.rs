//! `make bench-recovery`: what it costs when a replica is lost and comes back. Prints the table, and with `--page` writes it
//! into the documentation.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use bulkhead_benches::data::recovery;
use bulkhead_benches::{ended, machine, page};
use clap::Parser;

#[derive(Parser)]
#[command(about = "Measures rebuilds and catching up, under load")]
struct Arguments {
    /// A short run.
    #[arg(long)]
    quick: bool,
    /// GiB that the volume holds which is rebuilt; 5, or 1 in a short run. 0: no rebuild.
    #[arg(long)]
    gib: Option<u32>,
    /// GiB over which writes are spread while a node is away; 1 and 4, or 1 in a short run.
    #[arg(long)]
    spread: Vec<u32>,
    /// No catching up.
    #[arg(long)]
    no_catch_up: bool,
    /// Seconds for which a node is away; 60, or 20 in a short run.
    #[arg(long)]
    absence: Option<u32>,
    /// Write the table into this page.
    #[arg(long)]
    page: Option<PathBuf>,
}

fn main() -> ExitCode {
    ended("bench-recovery", measure(&Arguments::parse()))
}

fn measure(arguments: &Arguments) -> Result<()> {
    let quick = arguments.quick;
    let gib = arguments.gib.unwrap_or(if quick { 1 } else { 5 });
    let absence = arguments.absence.unwrap_or(if quick { 20 } else { 60 });
    let spreads = match arguments.spread.as_slice() {
        _ if arguments.no_catch_up => Vec::new(),
        [] if quick => vec![1],
        [] => vec![1, 4],
        given => given.to_vec(),
    };
    let tell = |said: &str| eprintln!("  {said}");
    let mut rebuilds = Vec::new();
    if gib > 0 {
        eprintln!("Rebuilding {gib} GiB, with nothing in the foreground");
        rebuilds.push(recovery::rebuild(gib, None, tell)?);
        eprintln!("Rebuilding {gib} GiB under pgbench");
        rebuilds.push(recovery::rebuild(gib, Some(if quick { 8 } else { 20 }), tell)?);
    }
    let mut catch_ups = Vec::new();
    for spread in spreads {
        eprintln!("Away for {absence} s, writes over {spread} GiB");
        catch_ups.push(recovery::catch_up(spread, absence, tell)?);
    }
    let command = format!("make bench-recovery{}", if quick { " QUICK=1" } else { "" });
    let tables = recovery::markdown(&command, &machine::describe(), &rebuilds, &catch_ups);
    println!("{tables}");
    if let Some(file) = &arguments.page {
        page::write(file, "recovery", &tables)?;
    }
    Ok(())
}
