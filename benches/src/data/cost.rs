//! What a target costs besides time: processor time, of its programs and of the whole machine, and memory.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::target::Target;

/// Processor time at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Busy {
    /// Of the programs that serve the target.
    pub programs: Duration,
    /// Of the whole machine, the workload included. Says something only on a machine with nothing else to do.
    pub machine: Duration,
}

/// Processor time so far.
pub fn busy(target: &dyn Target) -> Result<Busy> {
    let mut nanos = 0;
    for process in processes(target)? {
        for thread in fs::read_dir(process.join("task")).into_iter().flatten().flatten() {
            // One that ends at this moment counts no more.
            let stat = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            nanos += stat
                .split_whitespace()
                .next()
                .and_then(|time| time.parse::<u64>().ok())
                .unwrap_or(0);
        }
    }
    Ok(Busy {
        programs: Duration::from_nanos(nanos),
        machine: machine()?,
    })
}

/// Anonymous memory of the target's programs, in bytes.
pub fn memory(target: &dyn Target) -> Result<u64> {
    let mut total = 0;
    for process in processes(target)? {
        let status = fs::read_to_string(process.join("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        total += kib.unwrap_or(0) * 1024;
    }
    Ok(total)
}

fn machine() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("the kernel tells no time")?;
    // user nice system idle iowait irq softirq steal, in hundredths of a second
    let times: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|time| time.parse().ok())
        .collect();
    let working = times.iter().take(3).sum::<u64>() + times.iter().skip(5).take(2).sum::<u64>();
    Ok(Duration::from_millis(working * 10))
}

/// The target's programs: those of their names in the process trees of its hosts.
fn processes(target: &dyn Target) -> Result<Vec<PathBuf>> {
    let tree = |process: &PathBuf| fs::read_link(process.join("ns/pid")).ok();
    let hosts = target.hosts();
    let trees: Vec<_> = hosts
        .iter()
        .filter_map(|host| tree(&PathBuf::from(format!("/proc/{}", host.pid()))))
        .collect();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        if target.programs().contains(&name.trim()) && tree(&path).is_some_and(|tree| trees.contains(&tree)) {
            found.push(path);
        }
    }
    Ok(found)
}
