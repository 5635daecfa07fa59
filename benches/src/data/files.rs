//! What small programs do: SQLite with one row in each transaction, and many small files that are made.

use std::time::Duration;

use anyhow::Result;

use super::target::{MOUNT, Target};
use super::workload::{Figure, Workload};

/// How long either may take.
const LIMIT: Duration = Duration::from_secs(300);

/// SQLite as it comes (rollback journal, every commit synced).
#[derive(Clone, Copy, Debug)]
pub struct Sqlite {
    /// Transactions of one run.
    pub transactions: u32,
}

impl Workload for Sqlite {
    fn name(&self) -> String {
        "SQLite, one row a transaction".to_owned()
    }

    fn unit(&self) -> &'static str {
        "tps"
    }

    fn prepare(&self, target: &dyn Target) -> Result<()> {
        sqlite(
            target,
            "create table if not exists t (id integer primary key, text text);\n",
        )?;
        Ok(())
    }

    fn run(&self, target: &dyn Target) -> Result<Figure> {
        let row = "insert into t (text) values (hex(randomblob(100)));\n";
        let took = sqlite(target, &row.repeat(self.transactions as usize))?;
        let operations = f64::from(self.transactions);
        Ok(Figure {
            value: operations / took.as_secs_f64(),
            operations,
            ..Figure::default()
        })
    }
}

fn sqlite(target: &dyn Target, statements: &str) -> Result<Duration> {
    let run = target
        .host()
        .cmd("sqlite3")
        .args(["-bail", &format!("{MOUNT}/sqlite.db")])
        .stdin(statements)
        .within(LIMIT);
    timed(&run)
}

/// Files of 4 KiB that are copied from memory, and a sync of the file system at the end.
#[derive(Clone, Copy, Debug)]
pub struct Copies {
    /// Files of one run.
    pub files: u32,
}

impl Workload for Copies {
    fn name(&self) -> String {
        "files of 4 KiB made".to_owned()
    }

    fn unit(&self) -> &'static str {
        "files/s"
    }

    fn prepare(&self, target: &dyn Target) -> Result<()> {
        let bytes = u64::from(self.files) * 4096;
        target
            .host()
            .sh(&format!(
                "mkdir -p /tmp/files; head -c {bytes} /dev/urandom | split -b 4096 -a 6 -d - /tmp/files/f"
            ))
            .run()
            .map(drop)
    }

    fn run(&self, target: &dyn Target) -> Result<Figure> {
        let host = target.host();
        let copy = host.sh(&format!("cp -r /tmp/files {MOUNT}/files; sync -f {MOUNT}/files"));
        let took = timed(&copy.within(LIMIT))?;
        host.sh(&format!("rm -r {MOUNT}/files; sync -f {MOUNT}"))
            .within(LIMIT)
            .run()?;
        let operations = f64::from(self.files);
        Ok(Figure {
            value: operations / took.as_secs_f64(),
            operations,
            bytes: operations * 4096.0,
            latency: None,
        })
    }
}

fn timed(cmd: &bulkhead_lab::Cmd) -> Result<Duration> {
    let output = cmd.output()?;
    anyhow::ensure!(output.status.success(), "`{}`: {}", cmd.line(), output.all());
    Ok(output.took)
}
