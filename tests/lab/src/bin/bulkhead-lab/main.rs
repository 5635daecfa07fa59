//! What the Makefile's targets about several hosts run: a lab to play with, the founding story, random faults.
//!
//! It owns the command line. What it does lies in the library, which tests use too.

mod demo;
mod play;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use bulkhead_lab::faults::{self, Campaign};
use bulkhead_lab::supervise::supervised;
use bulkhead_lab::{StoreKind, story, uninterrupted};
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
    /// Tell the founding story: PostgreSQL survives the loss of its node
    Demo {
        /// etcd or consul
        #[arg(long, default_value = "etcd")]
        store: StoreKind,
    },
    /// Play the story again and again, and its harder sisters
    Ha {
        /// etcd or consul
        #[arg(long, default_value = "etcd")]
        store: StoreKind,
        /// How often the story itself is played
        #[arg(long, default_value_t = 3)]
        runs: u32,
    },
    /// Deal random faults under a workload that knows what every block may hold
    Faults {
        /// For so many minutes
        #[arg(long, default_value_t = 20)]
        minutes: u64,
        /// etcd or consul
        #[arg(long, default_value = "etcd")]
        store: StoreKind,
        /// Replicas of the volume
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=3))]
        repl: u8,
        /// The seed of an earlier run, to deal the same faults
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Kill the daemon again and again under fio and pgbench, and tell the pauses; an error is a failure
    Uninterrupted {
        /// For so many minutes
        #[arg(long, default_value_t = 10)]
        minutes: u64,
        /// One host, or a cluster of three
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
        nodes: u8,
        /// The cluster's store: etcd or consul
        #[arg(long, default_value = "etcd")]
        store: StoreKind,
        /// The seed of an earlier run, to choose the same victims and moments
        #[arg(long)]
        seed: Option<u64>,
        /// Without a keeper, which has to fail: shows that what is looked for would be seen
        #[arg(long)]
        no_keeper: bool,
        /// Play the cases instead: the keeper killed, a replica, a cut, upgrades; or those with this in their name
        #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "", conflicts_with_all = ["no_keeper", "seed"])]
        cases: Option<String>,
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
        Command::Demo { store } => supervised(move || demo::tell(store)),
        Command::Ha { store, runs } => supervised(move || story::sisters::all(store, runs)),
        Command::Faults {
            minutes,
            store,
            repl,
            seed,
        } => supervised(move || {
            faults::run(Campaign {
                length: Duration::from_secs(minutes * 60),
                store,
                repl,
                seed: seed.unwrap_or_else(|| rand::random::<u32>().into()),
            })
        }),
        Command::Uninterrupted {
            minutes,
            nodes,
            store,
            seed,
            no_keeper,
            cases,
        } => supervised(move || {
            if let Some(only) = cases {
                return uninterrupted::cases::all(store, &only);
            }
            let seed = seed.unwrap_or_else(|| rand::random::<u32>().into());
            let mut campaign =
                uninterrupted::Campaign::new(Duration::from_secs(minutes * 60), nodes, store, seed);
            campaign.keeper = !no_keeper;
            uninterrupted::run(&campaign).map(drop)
        }),
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
