//! What is done to a directory, and the figure that comes of it.

use std::time::Duration;

use anyhow::Result;

use super::target::Target;
use super::{files, fio, postgres};

/// The figure of one run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figure {
    /// In the workload's unit; more is better.
    pub value: f64,
    /// Operations that were done.
    pub operations: f64,
    /// Bytes that were read and written.
    pub bytes: f64,
    /// How long one operation took, where the workload tells.
    pub latency: Option<Latency>,
}

/// How long operations took.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    /// Half of them were faster.
    pub median: Duration,
    /// 99 of 100.
    pub p99: Duration,
    /// 999 of 1,000.
    pub p999: Duration,
}

/// Something that is done to every target.
pub trait Workload {
    /// Its name in the tables.
    fn name(&self) -> String;

    /// The unit of its figure.
    fn unit(&self) -> &'static str;

    /// Makes ready what it needs; once for each target.
    fn prepare(&self, target: &dyn Target) -> Result<()>;

    /// Does it.
    fn run(&self, target: &dyn Target) -> Result<Figure>;
}

/// How long and how large.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Seconds of each run.
    pub seconds: u32,
    /// MiB of the file that fio works on.
    pub file: u32,
    /// Scales of pgbench.
    pub scales: &'static [u32],
    /// Transactions of SQLite, and files that are made.
    pub small: u32,
}

/// All of them, in the order of the tables.
pub fn all(effort: Effort) -> Vec<Box<dyn Workload>> {
    let mut workloads: Vec<Box<dyn Workload>> = Vec::new();
    let job = |name: &'static str, rw: &'static str, block: u32, depth: u32| fio::Job {
        name,
        rw,
        block,
        depth,
        fsync: false,
        effort,
    };
    const PAGE: u32 = 4 << 10;
    const LARGE: u32 = 1 << 20;
    let jobs = [
        job("random write, depth 1", "randwrite", PAGE, 1),
        job("random write, depth 16", "randwrite", PAGE, 16),
        job("random write, depth 32", "randwrite", PAGE, 32),
        fio::Job {
            fsync: true,
            ..job("random write + fsync each, depth 1", "randwrite", PAGE, 1)
        },
        job("random read, depth 1", "randread", PAGE, 1),
        job("random read, depth 16", "randread", PAGE, 16),
        job("random read, depth 32", "randread", PAGE, 32),
        job("random 70 % read, depth 16", "randrw", PAGE, 16),
        job("sequential write 1 MiB, depth 4", "write", LARGE, 4),
        job("sequential read 1 MiB, depth 4", "read", LARGE, 4),
    ];
    workloads.extend(jobs.into_iter().map(|job| Box::new(job) as Box<dyn Workload>));
    for &scale in effort.scales {
        for select_only in [false, true] {
            for clients in [1, 8] {
                workloads.push(Box::new(postgres::Pgbench {
                    scale,
                    clients,
                    select_only,
                    effort,
                }));
            }
        }
    }
    workloads.push(Box::new(files::Sqlite {
        transactions: effort.small,
    }));
    workloads.push(Box::new(files::Copies { files: effort.small }));
    workloads
}
