//! What the Makefile's targets about several hosts run: a lab to play with.
//!
//! It owns the command line. What it does lies in the library, which tests use too.

mod play;

use std::process::ExitCode;

use anyhow::Result;
use bulkhead_lab::StoreKind;
use bulkhead_lab::supervise::supervised;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "bulkhead-lab", about = "Several hosts on one machine; needs root")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a cluster and leave it running until ctrl-C
    Up {
        /// etcd or consul
        #[arg(long, default_value = "etcd")]
        store: StoreKind,
        /// How many hosts
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
        hosts: u8,
    },
    /// End the cluster that runs
    Down,
    /// Enter a host of the cluster that runs
    Enter {
        /// Its name, such as n1
        host: String,
        /// A command instead of a shell
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Up { store, hosts } => supervised(move || play::up(store, hosts)),
        Command::Down => told(play::down()),
        Command::Enter { host, command } => told(play::enter(&host, &command)),
    }
}

fn told(outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
