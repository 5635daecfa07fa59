//! `make bench-control`: measures the control plane and prints the figures; with `--page` also into the documentation.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bulkhead_benches::control::report::{Size, markdown};
use bulkhead_benches::control::run::{Plan, run};
use bulkhead_benches::{ended, page};
use clap::Parser;

#[derive(Parser)]
#[command(about = "Measures the control plane: simulated nodes and volumes against a real etcd")]
struct Arguments {
    /// Nodes.
    #[arg(long, default_value_t = 200)]
    nodes: usize,
    /// Volumes that there are before the storms.
    #[arg(long, default_value_t = 10_000)]
    volumes: usize,
    /// Creates a second in a storm.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Seconds that a storm lasts.
    #[arg(long, default_value_t = 30)]
    storm: u64,
    /// Seconds that each phase at rest lasts.
    #[arg(long, default_value_t = 30)]
    rest: u64,
    /// The bulkhead program, for the time of a listing.
    #[arg(long)]
    daemon: Option<PathBuf>,
    /// Where etcd's data lies; on a disk, since etcd waits for it.
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// Write the figures into this page.
    #[arg(long)]
    page: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let measured = tokio::runtime::Runtime::new()
        .map_err(Into::into)
        .and_then(|runtime| runtime.block_on(measure(&arguments)));
    ended("bench-control", measured)
}

async fn measure(arguments: &Arguments) -> anyhow::Result<()> {
    let plan = Plan {
        nodes: arguments.nodes,
        volumes: arguments.volumes,
        rate: arguments.rate,
        storm: Duration::from_secs(arguments.storm),
        rest: Duration::from_secs(arguments.rest),
        daemon: arguments.daemon.clone(),
        dir: arguments.dir.clone(),
    };
    let outcome = tokio::select! {
        outcome = run(&plan, |doing| eprintln!("  {doing}")) => outcome?,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted; its servers are stopped and its files removed"),
    };
    let larger = Size {
        nodes: 1_000,
        volumes: 100_000,
    };
    let figures = markdown(&outcome, larger);
    println!("{figures}");
    match &arguments.page {
        Some(page) => page::write(page, "figures", &figures),
        None => Ok(()),
    }
}
