//! Rounds in turn: each workload on one target after the other, then all over again, beginning with another target, so that
//! what else goes on in the machine hits all of them alike.

use std::time::Duration;

use anyhow::{Context, Result};

use super::cost::busy;
use super::target::Target;
use super::workload::{Figure, Workload};

/// One run of one workload on one target.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Its figure.
    pub figure: Figure,
    /// Processor time of the programs that serve the target.
    pub programs: Duration,
    /// Processor time of the whole machine, the workload included.
    pub machine: Duration,
}

/// All samples of one workload on one target.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The workload's name.
    pub workload: String,
    /// The target's name.
    pub target: String,
    /// The unit of the figure.
    pub unit: &'static str,
    /// One of each round.
    pub samples: Vec<Sample>,
}

/// Runs all workloads on all targets. `tell` hears each figure.
pub fn rounds(
    targets: &[Box<dyn Target>],
    workloads: &[Box<dyn Workload>],
    rounds: usize,
    tell: impl Fn(&str),
) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    for workload in workloads {
        let mut row: Vec<Cell> = targets
            .iter()
            .map(|target| Cell {
                workload: workload.name(),
                target: target.name().to_owned(),
                unit: workload.unit(),
                samples: Vec::new(),
            })
            .collect();
        for target in targets {
            let place = || format!("{} on {}", workload.name(), target.name());
            workload.prepare(target.as_ref()).with_context(place)?;
        }
        for round in 0..rounds {
            for turn in 0..targets.len() {
                let index = (round + turn) % targets.len();
                let sample = measure(targets[index].as_ref(), workload.as_ref())?;
                tell(&format!(
                    "{}, {}: {:.0} {}",
                    workload.name(),
                    targets[index].name(),
                    sample.figure.value,
                    workload.unit()
                ));
                row[index].samples.push(sample);
            }
        }
        cells.append(&mut row);
    }
    Ok(cells)
}

fn measure(target: &dyn Target, workload: &dyn Workload) -> Result<Sample> {
    let place = || format!("{} on {}", workload.name(), target.name());
    // What an earlier run left dirty is not this one's to write.
    bulkhead_lab::Cmd::new("sync")
        .within(Duration::from_secs(300))
        .run()?;
    let before = busy(target)?;
    let figure = workload.run(target).with_context(place)?;
    let after = busy(target)?;
    Ok(Sample {
        figure,
        programs: after.programs.saturating_sub(before.programs),
        machine: after.machine.saturating_sub(before.machine),
    })
}
