//! The register checker and the probe, as they run in a container: see the library's modules `register` and
//! `uninterrupted::probe`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bulkhead_lab::register::run::{self, Settings};
use bulkhead_lab::uninterrupted::probe;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
struct Cli {
    /// The file under test
    #[arg(long)]
    file: PathBuf,
    /// The log, which has to lie elsewhere
    #[arg(long)]
    log: PathBuf,
    /// Size of the file in blocks of 4 KiB
    #[arg(long, default_value_t = 2048)]
    blocks: u64,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Hold the file against the log
    Check,
    /// Write one block again and again, past every cache, and note each write that takes long
    Probe,
    /// As check, then write, read and flush
    Run {
        /// Writers
        #[arg(long, default_value_t = 4)]
        threads: u64,
        /// Pause of each writer between two operations, in milliseconds
        #[arg(long, default_value_t = 5)]
        pause: u64,
        /// How long; without it until something fails
        #[arg(long)]
        seconds: Option<u64>,
        /// For the choice of blocks
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Check => run::check(&cli.file, &cli.log, cli.blocks).map(|violations| violations == 0),
        Command::Probe => probe::run(&cli.file, &cli.log).map(|()| true),
        Command::Run {
            threads,
            pause,
            seconds,
            seed,
        } => {
            let settings = Settings {
                blocks: cli.blocks,
                threads,
                pause: Duration::from_millis(pause),
                length: seconds.map(Duration::from_secs),
                seed,
            };
            run::run(&cli.file, &cli.log, &settings).map(|_| true)
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(3),
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
