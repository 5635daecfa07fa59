//! fio with direct I/O on one file that has no holes.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::target::{MOUNT, Target};
use super::workload::{Effort, Figure, Latency, Workload};

/// One of fio's jobs.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// Its name in the tables.
    pub name: &'static str,
    /// fio's word for the pattern.
    pub rw: &'static str,
    /// Bytes of one request.
    pub block: u32,
    /// Requests at a time.
    pub depth: u32,
    /// An fsync after every write.
    pub fsync: bool,
    /// How long and how large.
    pub effort: Effort,
}

impl Job {
    fn file(&self) -> String {
        format!("--size={}m", self.effort.file)
    }
}

/// What all runs have in common.
fn fio(target: &dyn Target) -> bulkhead_lab::Cmd {
    let file = format!("--filename={MOUNT}/fio.dat");
    target.host().cmd("fio").args([
        "--name=job",
        &file,
        "--direct=1",
        "--ioengine=libaio",
        "--randrepeat=0",
        "--output-format=json",
    ])
}

impl Workload for Job {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn unit(&self) -> &'static str {
        if self.block >= 1 << 20 { "MiB/s" } else { "IOPS" }
    }

    fn prepare(&self, target: &dyn Target) -> Result<()> {
        let there = target
            .host()
            .cmd("test")
            .args(["-e", &format!("{MOUNT}/fio.dat")])
            .output()?;
        if there.status.success() {
            return Ok(());
        }
        fio(target)
            .args([
                "--rw=write",
                "--bs=1m",
                "--iodepth=4",
                "--end_fsync=1",
                &self.file(),
            ])
            .within(Duration::from_secs(300))
            .run()
            .map(drop)
    }

    fn run(&self, target: &dyn Target) -> Result<Figure> {
        let mut job = fio(target)
            .args(["--time_based", "--ramp_time=1", &self.file()])
            .arg(format!("--runtime={}", self.effort.seconds))
            .arg(format!("--rw={}", self.rw))
            .arg(format!("--bs={}", self.block))
            .arg(format!("--iodepth={}", self.depth))
            .within(Duration::from_secs(u64::from(self.effort.seconds) + 60));
        if self.rw == "randrw" {
            job = job.arg("--rwmixread=70");
        }
        if self.fsync {
            job = job.arg("--fsync=1");
        }
        let text = job.run()?;
        // fio may warn before it answers.
        let json = text.find('{').map_or("", |begin| &text[begin..]);
        figure(&serde_json::from_str(json)?, self.unit())
    }
}

fn figure(answer: &Value, unit: &str) -> Result<Figure> {
    let job = answer.pointer("/jobs/0").context("fio tells of no job")?;
    let number = |side: &str, path: &str| {
        job.pointer(&format!("/{side}{path}"))
            .and_then(Value::as_f64)
            .unwrap_or(0.0)
    };
    let both = |path: &str| number("read", path) + number("write", path);
    let side = if number("read", "/total_ios") > number("write", "/total_ios") {
        "read"
    } else {
        "write"
    };
    let percentile = |share: &str| {
        let path = format!("/clat_ns/percentile/{share}");
        Duration::from_nanos(number(side, &path) as u64)
    };
    Ok(Figure {
        value: match unit {
            "MiB/s" => both("/bw_bytes") / f64::from(1 << 20),
            _ => both("/iops"),
        },
        operations: both("/total_ios"),
        bytes: both("/io_bytes"),
        latency: Some(Latency {
            median: percentile("50.000000"),
            p99: percentile("99.000000"),
            p999: percentile("99.900000"),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_of_a_mix_count() -> Result<()> {
        let answer = serde_json::json!({ "jobs": [ {
            "read": { "iops": 70.0, "total_ios": 700, "io_bytes": 1000, "bw_bytes": 1048576,
                      "clat_ns": { "percentile": { "50.000000": 5000, "99.000000": 9000, "99.900000": 9500 } } },
            "write": { "iops": 30.0, "total_ios": 300, "io_bytes": 500, "bw_bytes": 1048576 },
        } ] });
        let mix = figure(&answer, "IOPS")?;
        assert_eq!((mix.value, mix.operations, mix.bytes), (100.0, 1000.0, 1500.0));
        assert_eq!(mix.latency.context("none")?.p99, Duration::from_micros(9));
        assert_eq!(figure(&answer, "MiB/s")?.value, 2.0);
        assert!(figure(&serde_json::json!({}), "IOPS").is_err());
        Ok(())
    }
}
