//! Many volumes on one node: what those cost that are mounted and at rest, and how busy ones share the machine.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bulkhead_lab::driver::Driver;
use bulkhead_lab::{Bulkhead, Host, node};
use serde_json::Value;

use super::cost;
use super::target::Target;
use crate::spread::Spread;

/// Who uses the volumes, to the driver.
const USER: &str = "bench";
/// Size of each volume.
const SIZE: &str = "64M";
/// What each busy volume's file has, in MiB.
const FILE: u32 = 16;
/// After the last mount, until the journals that mkfs and mount have written to are at rest.
const SETTLE: Duration = Duration::from_secs(15);

/// How many, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Volumes that are mounted.
    pub volumes: u32,
    /// Volumes of them that are busy at the same time.
    pub busy: u32,
    /// How long those at rest are watched.
    pub rest: Duration,
    /// How long the busy ones are busy.
    pub work: Duration,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// To make and mount one volume.
    pub mount: Spread,
    /// Anonymous memory of the programs for each volume at rest, in bytes.
    pub memory: f64,
    /// Processor time of the programs at rest, as a part of one processor: with all volumes, and before the first.
    pub at_rest: [f64; 2],
    /// Writes a second of each busy volume, the slowest first.
    pub rates: Vec<f64>,
}

struct Alone {
    host: Arc<Host>,
    driver: Driver,
    _daemon: Bulkhead,
}

impl Target for Alone {
    fn name(&self) -> &'static str {
        "Bulkhead, many volumes"
    }

    fn host(&self) -> &Arc<Host> {
        &self.host
    }

    fn programs(&self) -> &[&'static str] {
        &["bulkhead"]
    }
}

/// Measures, on a host of its own.
pub fn run(plan: &Plan, mut says: impl FnMut(&str)) -> Result<Outcome> {
    ensure!(
        plan.busy <= plan.volumes && plan.busy > 0,
        "of {} volumes {} cannot be busy",
        plan.volumes,
        plan.busy
    );
    let host = Host::start("bench-scale")?;
    let daemon = Bulkhead::start(&host)?;
    daemon.add_directory_pool(node::POOL_DIRECTORY)?;
    let node = Alone {
        driver: Driver::of(&host),
        host,
        _daemon: daemon,
    };
    let idle = watched(&node, plan.rest)?;
    let memory = cost::memory(&node)?;
    let mut mounted = Vec::new();
    let outcome = measure(&node, plan, idle, memory, &mut mounted, &mut says);
    says("unmounting");
    for number in 0..mounted.len() {
        let _ = node.driver.unmount(&name(number as u32), USER);
    }
    outcome
}

fn measure(
    node: &Alone,
    plan: &Plan,
    idle: f64,
    memory: u64,
    mounted: &mut Vec<String>,
    says: &mut impl FnMut(&str),
) -> Result<Outcome> {
    let mut times = Vec::new();
    for number in 0..plan.volumes {
        let begin = Instant::now();
        node.driver
            .create(&name(number), &[("size", SIZE), ("repl", "1")])?;
        mounted.push(node.driver.mount(&name(number), USER)?);
        times.push(begin.elapsed());
    }
    says(&format!("{} volumes are mounted", plan.volumes));
    thread::sleep(SETTLE);
    let grown = cost::memory(node)?.saturating_sub(memory);
    let at_rest = [watched(node, plan.rest)?, idle];
    says(&format!("{} of them are busy", plan.busy));
    let mut rates = busy(node, &mounted[..plan.busy as usize], plan.work)?;
    rates.sort_by(f64::total_cmp);
    Ok(Outcome {
        mount: Spread::of(times),
        memory: grown as f64 / f64::from(plan.volumes),
        at_rest,
        rates,
    })
}

fn name(number: u32) -> String {
    format!("many-{number}")
}

/// The part of one processor that the programs take while they are left alone.
fn watched(node: &Alone, time: Duration) -> Result<f64> {
    let begin = Instant::now();
    let before = cost::busy(node)?.programs;
    thread::sleep(time);
    let taken = cost::busy(node)?.programs.saturating_sub(before);
    Ok(taken.as_secs_f64() / begin.elapsed().as_secs_f64())
}

/// Lone writes of 4 KiB on all of them at the same time; the rate of each.
fn busy(node: &Alone, at: &[String], time: Duration) -> Result<Vec<f64>> {
    let common = format!(
        "--rw=randwrite --bs=4k --iodepth=1 --ioengine=libaio --direct=1 --size={FILE}m --time_based --runtime={} \
         --output-format=json",
        time.as_secs()
    );
    let mut fio = node.host.cmd("fio").words(&common);
    for (number, directory) in at.iter().enumerate() {
        fio = fio
            .arg(format!("--name=job-{number}"))
            .arg(format!("--filename={directory}/fio.dat"));
    }
    let text = fio.within(time + Duration::from_secs(120)).run()?;
    // fio may say something before its answer.
    let start = text.find('{').context("fio said nothing")?;
    let answer: Value = serde_json::from_str(&text[start..]).context("fio's answer")?;
    let jobs = answer["jobs"].as_array().context("fio ran no job")?;
    let rates: Vec<f64> = jobs
        .iter()
        .filter_map(|job| job["write"]["iops"].as_f64())
        .collect();
    ensure!(
        rates.len() == at.len(),
        "fio ran {} of {} jobs",
        rates.len(),
        at.len()
    );
    Ok(rates)
}

/// How evenly a number of rates are shared: 1 if all are the same, one part of their number if one has everything (Jain, Chiu,
/// Hawe: A Quantitative Measure of Fairness, DEC TR-301, 1984).
pub fn fairness(rates: &[f64]) -> f64 {
    let sum: f64 = rates.iter().sum();
    let squares: f64 = rates.iter().map(|rate| rate * rate).sum();
    if squares == 0.0 {
        return 1.0;
    }
    sum * sum / (rates.len() as f64 * squares)
}

/// The figures as Markdown.
pub fn markdown(plan: &Plan, outcome: &Outcome, machine: &str) -> String {
    let rate = |share: usize| {
        let last = outcome.rates.len().saturating_sub(1);
        outcome.rates.get(last * share / 100).copied().unwrap_or_default()
    };
    format!(
        "`make bench-scale`. {machine}.\n\n\
         | {} volumes of {SIZE}, mounted and at rest | |\n|---|---|\n\
         | making and mounting one: median, 99 % | {:.0} ms, {:.0} ms |\n\
         | processor time of the daemon with all of them; before the first | {:.2} %, {:.2} % of one processor |\n\
         | memory of the daemon for each | {:.0} KiB |\n\n\
         | {} of them busy with lone random writes of 4 KiB | |\n|---|---|\n\
         | all together | {:.0} IOPS |\n\
         | slowest, median, fastest | {:.0}, {:.0}, {:.0} IOPS |\n\
         | fairness (Jain's index; 1 is even) | {:.3} |\n",
        plan.volumes,
        outcome.mount.median.as_secs_f64() * 1000.0,
        outcome.mount.p99.as_secs_f64() * 1000.0,
        outcome.at_rest[0] * 100.0,
        outcome.at_rest[1] * 100.0,
        outcome.memory / 1024.0,
        plan.busy,
        outcome.rates.iter().sum::<f64>(),
        rate(0),
        rate(50),
        rate(100),
        fairness(&outcome.rates),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fairness_is_one_where_all_have_the_same() {
        assert!((fairness(&[5.0; 8]) - 1.0).abs() < 1e-9);
        assert!((fairness(&[4.0, 0.0, 0.0, 0.0]) - 0.25).abs() < 1e-9);
        assert!(fairness(&[1.0, 3.0]) < 0.9);
    }
}
