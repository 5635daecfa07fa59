//! Medians and ratios, and the file with all of them for programs: `target/bench/results.json`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::run::{Cell, Sample};
use super::workload::Latency;

/// One row of the file: a workload on a target.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The workload.
    pub workload: String,
    /// The target.
    pub target: String,
    /// The median of all rounds.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// The value divided by the first target's, which is the plain loop device.
    pub ratio: f64,
    /// The lowest and the highest of the rounds.
    pub range: [f64; 2],
    /// Microseconds in which half, 99 of 100 and 999 of 1,000 operations were done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<[f64; 3]>,
    /// Processor seconds of the serving programs and of the whole machine for 10,000 operations.
    pub cpu_per_10k_ops: [f64; 2],
    /// The same for a GiB; absent where the workload tells no bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_per_gib: Option<[f64; 2]>,
}

/// Other figures of a target.
#[derive(Clone, Debug, Serialize)]
pub struct Memory {
    /// The target.
    pub target: String,
    /// Anonymous memory of its programs at the end, in MiB.
    pub programs_mib: f64,
    /// What each further volume takes while it is mounted and at rest, in KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_kib: Option<f64>,
}

/// All figures of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// How it was called.
    pub command: String,
    /// On what, and when.
    pub machine: String,
    /// Rounds.
    pub rounds: usize,
    /// Whether it was a short run, whose figures are not to be published.
    pub quick: bool,
    /// The targets, in the order of the tables; the first one is what the others are compared with.
    pub targets: Vec<String>,
    /// Every workload on every target.
    pub rows: Vec<Row>,
    /// Memory.
    pub memory: Vec<Memory>,
}

impl Results {
    /// The row of a workload on a target.
    pub fn row(&self, workload: &str, target: &str) -> Option<&Row> {
        self.rows
            .iter()
            .find(|row| row.workload == workload && row.target == target)
    }

    /// The workloads, in the order in which they were run.
    pub fn workloads(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.rows.iter().map(|row| row.workload.as_str()).collect();
        names.dedup();
        names
    }

    /// Writes the file.
    pub fn save(&self, file: &Path) -> Result<()> {
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        }
        fs::write(file, serde_json::to_string_pretty(self)?)
            .with_context(|| format!("cannot write {}", file.display()))
    }
}

/// Rows out of samples; `first` is the target that the others are compared with.
pub fn rows(cells: &[Cell], first: &str) -> Vec<Row> {
    cells
        .iter()
        .map(|cell| {
            let limit = cells
                .iter()
                .find(|other| other.workload == cell.workload && other.target == first);
            let value = median(cell, |sample| sample.figure.value);
            let range = cell
                .samples
                .iter()
                .map(|sample| sample.figure.value)
                .fold([f64::INFINITY, 0.0], |[low, high], value| {
                    [low.min(value), high.max(value)]
                });
            let cost = |units: fn(&Sample) -> f64| {
                [
                    median(cell, |sample| sample.programs.as_secs_f64() / units(sample)),
                    median(cell, |sample| sample.machine.as_secs_f64() / units(sample)),
                ]
            };
            let tells = |found: fn(&Sample) -> bool| cell.samples.iter().all(found);
            Row {
                workload: cell.workload.clone(),
                target: cell.target.clone(),
                value,
                unit: cell.unit,
                ratio: limit.map_or(f64::NAN, |limit| {
                    value / median(limit, |sample| sample.figure.value)
                }),
                range,
                latency_us: tells(|sample| sample.figure.latency.is_some()).then(|| {
                    [
                        |latency: &Latency| latency.median,
                        |latency: &Latency| latency.p99,
                        |latency: &Latency| latency.p999,
                    ]
                    .map(|part| {
                        median(cell, |sample| {
                            sample
                                .figure
                                .latency
                                .map_or(f64::NAN, |latency| part(&latency).as_secs_f64() * 1e6)
                        })
                    })
                }),
                cpu_per_10k_ops: cost(|sample| sample.figure.operations / 1e4),
                cpu_per_gib: tells(|sample| sample.figure.bytes > 0.0)
                    .then(|| cost(|sample| sample.figure.bytes / f64::from(1 << 30))),
            }
        })
        .collect()
}

fn median(cell: &Cell, of: impl Fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = cell.samples.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::workload::Figure;
    use super::*;

    fn cell(target: &str, values: &[f64]) -> Cell {
        let sample = |&value: &f64| Sample {
            figure: Figure {
                value,
                operations: 10_000.0,
                ..Figure::default()
            },
            programs: Duration::from_secs(1),
            machine: Duration::from_secs(2),
        };
        Cell {
            workload: "w".to_owned(),
            target: target.to_owned(),
            unit: "IOPS",
            samples: values.iter().map(sample).collect(),
        }
    }

    #[test]
    fn medians_are_compared() {
        let cells = [cell("plain", &[10.0, 30.0, 20.0]), cell("ours", &[8.0, 1.0])];
        let rows = rows(&cells, "plain");
        assert_eq!(
            (rows[0].value, rows[0].ratio, rows[0].range),
            (20.0, 1.0, [10.0, 30.0])
        );
        assert_eq!((rows[1].value, rows[1].ratio), (4.5, 0.225));
        assert_eq!(rows[1].cpu_per_10k_ops, [1.0, 2.0]);
        assert!(rows[1].latency_us.is_none() && rows[1].cpu_per_gib.is_none());
    }
}
