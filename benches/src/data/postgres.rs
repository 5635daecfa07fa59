//! pgbench against PostgreSQL with its data in the directory. The server runs only while it is measured: an idle one writes
//! too, and would disturb the others.

use std::time::Duration;

use anyhow::{Context, Result};
use bulkhead_lab::{Cmd, Service};

use super::target::{MOUNT, Target};
use super::workload::{Effort, Figure, Workload};

/// Where Debian keeps PostgreSQL's programs.
const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
/// How long the server may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(120);

/// One of pgbench's runs.
#[derive(Clone, Copy, Debug)]
pub struct Pgbench {
    /// Its scale: 100,000 accounts each.
    pub scale: u32,
    /// Clients at a time.
    pub clients: u32,
    /// Only reads.
    pub select_only: bool,
    /// How long.
    pub effort: Effort,
}

/// A program of PostgreSQL, as its user.
fn program(target: &dyn Target, name: &str) -> Cmd {
    as_postgres(target.host().cmd("setpriv"), name)
}

fn as_postgres(cmd: Cmd, name: &str) -> Cmd {
    cmd.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"])
        .arg(format!("{PROGRAMS}/{name}"))
        .env("PGHOST", "/tmp")
        .env("PGUSER", "postgres")
        .env("PGDATABASE", "postgres")
}

impl Pgbench {
    fn data(&self) -> String {
        format!("{MOUNT}/postgres-{}", self.scale)
    }

    fn start(&self, target: &dyn Target) -> Result<Service> {
        let server = as_postgres(Cmd::new("setpriv"), "postgres")
            .args(["-D", &self.data(), "-k", "/tmp", "-c", "listen_addresses="])
            .args(["-c", "max_wal_size=2GB", "-c", "autovacuum=off"]);
        let mut server = target.host().spawn("postgres", server)?;
        let ask = program(target, "psql").args(["-Atc", "select 1"]);
        server.until("PostgreSQL answers", PATIENCE, || {
            Ok(ask
                .output()
                .is_ok_and(|answer| answer.status.success())
                .then_some(()))
        })?;
        Ok(server)
    }

    fn stop(mut server: Service) -> Result<()> {
        server.terminate(PATIENCE).map(drop)
    }
}

impl Workload for Pgbench {
    fn name(&self) -> String {
        format!(
            "pgbench {}, scale {}, {} client{}",
            if self.select_only { "select-only" } else { "TPC-B" },
            self.scale,
            self.clients,
            if self.clients == 1 { "" } else { "s" }
        )
    }

    fn unit(&self) -> &'static str {
        "tps"
    }

    fn prepare(&self, target: &dyn Target) -> Result<()> {
        let data = self.data();
        let there = target.host().cmd("test").args(["-e", &data]).output()?;
        if there.status.success() {
            return Ok(());
        }
        target
            .host()
            .sh(&format!("mkdir {data}; chown postgres: {data}; chmod 700 {data}"))
            .run()?;
        program(target, "initdb")
            .args(["-D", &data, "--auth=trust", "--locale=C.UTF-8"])
            .within(PATIENCE)
            .run()?;
        let server = self.start(target)?;
        program(target, "pgbench")
            .args(["--initialize", "--quiet", "--scale", &self.scale.to_string()])
            .within(Duration::from_secs(300))
            .run()?;
        Self::stop(server)
    }

    fn run(&self, target: &dyn Target) -> Result<Figure> {
        let server = self.start(target)?;
        program(target, "psql")
            .args(["-Atc", "checkpoint"])
            .within(PATIENCE)
            .run()?;
        let mut bench = program(target, "pgbench")
            .args(["--no-vacuum", "--jobs", &self.clients.min(2).to_string()])
            .args(["--client", &self.clients.to_string()])
            .args(["--time", &self.effort.seconds.to_string()])
            .within(Duration::from_secs(u64::from(self.effort.seconds) + 60));
        if self.select_only {
            bench = bench.arg("--select-only");
        }
        let said = bench.run()?;
        Self::stop(server)?;
        let value = tps(&said).with_context(|| format!("pgbench said {said}"))?;
        Ok(Figure {
            value,
            operations: value * f64::from(self.effort.seconds),
            ..Figure::default()
        })
    }
}

fn tps(said: &str) -> Option<f64> {
    let line = said.lines().find_map(|line| line.strip_prefix("tps = "))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn its_figure_is_found() {
        let said = "latency average = 1.2 ms\ntps = 812.510933 (without initial connection time)\n";
        assert_eq!(super::tps(said), Some(812.510_933));
        assert_eq!(super::tps("no figure"), None);
    }
}
