//! A database in a container, its load, and what proves that it is undamaged.
//!
//! It owns the container and the load that it started. It must never call a database sound that it did not read in full.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::command::Cmd;
use crate::dockerd::{self, Dockerd};
use crate::host::Host;
use crate::image;
use crate::service::Service;
use crate::wait;

/// The rows of `pgbench_accounts` at the scale that the lab uses.
pub const ACCOUNTS: u64 = 1_000_000;

/// How long the server may take to answer, recovery from a crash included.
const READY: Duration = Duration::from_secs(90);

/// How long a container that should always run may stay ended although nothing failed to start it.
const LEFT_ALONE: Duration = Duration::from_secs(30);

/// PostgreSQL in a container, with its data on a volume.
#[derive(Debug, Clone)]
pub struct Postgres {
    container: String,
    volume: String,
    restart: &'static str,
}

/// What is said of a pgbench that did not print its sum.
const SILENT: &str = "pgbench did not tell what it did";

/// Clients that write while something is being broken.
#[derive(Debug)]
pub struct Load {
    bench: Service,
    journal: Service,
}

/// What a load came to that was let run to its end.
#[derive(Debug, Default, Clone)]
pub struct Done {
    /// The commits that the journal was told of.
    pub commits: BTreeSet<u64>,
    /// pgbench's transactions that were carried out.
    pub transactions: u64,
    /// What failed: transactions, clients that gave up, inserts into the journal; as they told it.
    pub failures: Vec<String>,
}

impl Postgres {
    /// A server that is not started yet; `volume` exists, or dockerd makes it with the default driver.
    pub fn new(container: &str, volume: &str) -> Self {
        Self {
            container: container.to_owned(),
            volume: volume.to_owned(),
            restart: "no",
        }
    }

    /// Lets dockerd start the server again whenever it ends.
    #[must_use]
    pub fn restart_always(mut self) -> Self {
        self.restart = "always";
        self
    }

    /// The container's name.
    pub fn container(&self) -> &str {
        &self.container
    }

    /// Makes the container and waits until the server answers.
    pub fn run(&self, dockerd: &Dockerd) -> Result<()> {
        let volume = format!("{}:/data", self.volume);
        dockerd
            .docker([
                "run",
                "-d",
                "--name",
                &self.container,
                "--restart",
                self.restart,
                "--shm-size=256m",
                "-v",
                &volume,
            ])
            .arg(image::POSTGRES)
            .args(["-c", "max_wal_size=256MB", "-c", "checkpoint_timeout=30s"])
            .within(Duration::from_secs(120))
            .run()?;
        self.await_ready(dockerd)
    }

    /// Waits until the server answers a query.
    ///
    /// A dockerd that was killed now and then forgets a container that should always run, if that one ended while dockerd was reading
    /// what there is (20.10, 1 in 21 runs of the story under load). It has no error to tell then, and the container is
    /// started by hand, as a user would. A container that could not be started, as for want of its volume, has an error and is not helped.
    pub fn await_ready(&self, dockerd: &Dockerd) -> Result<()> {
        let mut ended: Option<Instant> = None;
        let ask = dockerd
            .exec(&self.container, "psql -Atc 'select 1'")
            .within(Duration::from_secs(10));
        wait::until("PostgreSQL answers", READY, || {
            // Not asked before: dockerd's log would say little else.
            let running = dockerd.inspect(&self.container, "/State/Running")? == true;
            if running && ask.output().is_ok_and(|answer| answer.status.success()) {
                return Ok(Some(()));
            }
            ensure!(
                running || self.restart == "always",
                "the server ended instead of answering"
            );
            if dockerd.inspect(&self.container, "/State/Status")? != "exited" {
                ended = None;
            } else if ended.get_or_insert_with(Instant::now).elapsed() > LEFT_ALONE
                && dockerd.inspect(&self.container, "/State/Error")? == ""
            {
                println!("dockerd has forgotten {}; it is started by hand", self.container);
                dockerd.run(&format!("start {}", self.container))?;
                ended = None;
            }
            Ok(None)
        })
        .with_context(|| {
            let logs = dockerd.docker(["logs", "--tail", "30", &self.container]).output();
            let state = dockerd.inspect(&self.container, "/State");
            format!(
                "state of {}: {}\nits log:\n{}",
                self.container,
                state.map_or_else(|error| error.to_string(), |state| state.to_string()),
                logs.map(|o| o.all()).unwrap_or_default()
            )
        })
    }

    /// One query's answer, without headers.
    pub fn sql(&self, dockerd: &Dockerd, query: &str) -> Result<String> {
        let args = [
            "exec",
            &self.container,
            "psql",
            "-v",
            "ON_ERROR_STOP=1",
            "-Atc",
            query,
        ];
        dockerd.docker(args).within(Duration::from_secs(120)).run()
    }

    /// Fills the database as `pgbench -i -s 10` does, and adds the table of [`Load`]'s journal.
    pub fn fill(&self, dockerd: &Dockerd) -> Result<()> {
        dockerd
            .exec(&self.container, "pgbench -i -s 10 -q")
            .within(Duration::from_secs(180))
            .run()?;
        self.sql(dockerd, "create table journal (n bigint primary key)")
            .map(drop)
    }

    /// Starts eight pgbench clients, and one that notes each commit that it was told of; they end with the connection.
    pub fn load(&self, host: &Host, name: &str) -> Result<Load> {
        self.load_for(host, name, Duration::from_secs(600))
    }

    /// [`Postgres::load`] for a time, after which [`Load::finish`] tells what came of it.
    pub fn load_for(&self, host: &Host, name: &str, length: Duration) -> Result<Load> {
        let bench = format!("exec pgbench -n -c 8 -j 2 -P 5 -T {}", length.as_secs().max(1));
        let bench = host.spawn(&format!("{name}-bench"), self.client(&bench))?;
        // The number goes on from what is there; the line is printed when, and only when, psql was told of the commit.
        let journal = "n=$(psql -Atc 'select coalesce(max(n), 0) from journal'); \
            while :; do n=$((n + 1)); psql -qc \"insert into journal values ($n)\" && echo \"commit $n\"; done";
        let journal = host.spawn(&format!("{name}-journal"), self.client(journal))?;
        let mut load = Load { bench, journal };
        load.await_commits(20)?;
        Ok(load)
    }

    /// Reads everything: the rows are all there, the books balance, no page or index is damaged, each noted commit is present.
    pub fn verify(&self, dockerd: &Dockerd, commits: &BTreeSet<u64>) -> Result<()> {
        let count = self.sql(dockerd, "select count(*) from pgbench_accounts")?;
        ensure!(
            count == ACCOUNTS.to_string(),
            "pgbench_accounts has {count} rows, not {ACCOUNTS}"
        );
        let balances = self.sql(
            dockerd,
            "select (select sum(abalance) from pgbench_accounts), (select sum(bbalance) from pgbench_branches), \
             (select sum(tbalance) from pgbench_tellers), (select coalesce(sum(delta), 0) from pgbench_history)",
        )?;
        let sums: BTreeSet<&str> = balances.split('|').collect();
        ensure!(
            sums.len() == 1,
            "accounts, branches, tellers and history do not agree: {balances}"
        );
        let check = "pg_amcheck --all --install-missing --heapallindexed --rootdescend --parent-check";
        dockerd
            .exec(&self.container, check)
            .within(Duration::from_secs(180))
            .run()?;
        dockerd
            .exec(&self.container, "pg_dumpall >/dev/null")
            .within(Duration::from_secs(180))
            .run()?;
        let lost = self.lost(dockerd, commits)?;
        ensure!(
            lost.is_empty(),
            "{} of {} acknowledged commits are lost: {lost:?}",
            lost.len(),
            commits.len()
        );
        Ok(())
    }

    /// Which of the noted commits are not in the journal's table.
    pub fn lost(&self, dockerd: &Dockerd, commits: &BTreeSet<u64>) -> Result<Vec<u64>> {
        let rows = self.sql(dockerd, "select n from journal")?;
        let there = rows
            .lines()
            .map(str::parse)
            .collect::<Result<BTreeSet<u64>, _>>()?;
        Ok(commits.difference(&there).copied().collect())
    }

    fn client(&self, line: &str) -> Cmd {
        Cmd::new("docker").args([
            dockerd::SOCKET[0],
            dockerd::SOCKET[1],
            "exec",
            &self.container,
            "sh",
            "-uc",
            line,
        ])
    }
}

impl Load {
    /// The commits that were acknowledged so far.
    pub fn commits(&self) -> BTreeSet<u64> {
        let log = self.journal.log();
        log.lines()
            .filter_map(|line| line.strip_prefix("commit ")?.parse().ok())
            .collect()
    }

    /// Waits for `more` further commits; fails when the load has ended.
    pub fn await_commits(&mut self, more: usize) -> Result<()> {
        let goal = self.commits().len() + more;
        wait::until("the load commits", Duration::from_secs(60), || {
            if !self.bench.is_running() || !self.journal.is_running() {
                anyhow::bail!(
                    "the load ended:\n{}\n{}",
                    self.bench.log_tail(10),
                    self.journal.log_tail(10)
                );
            }
            Ok((self.commits().len() >= goal).then_some(()))
        })
    }

    /// Waits until pgbench has ended by itself, ends the journal, and tells what came of both.
    pub fn finish(mut self, patience: Duration) -> Result<Done> {
        let status = self.bench.wait(patience);
        self.bench.kill()?;
        self.journal.kill()?;
        let mut done = Done::parse(&self.bench.log());
        let journal = self.journal.log();
        let refused = journal.lines().filter(|line| !line.starts_with("commit "));
        done.failures
            .extend(refused.map(|line| format!("journal: {line}")));
        match status {
            Ok(status) if status.success() => {}
            Ok(status) => done.failures.push(format!("pgbench ended with {status}")),
            Err(error) => done.failures.push(format!("pgbench: {error:#}")),
        }
        done.commits = self.commits();
        Ok(done)
    }

    /// Ends the clients while they are at work, and tells what failed until then; that one has ended before is a failure.
    pub fn interrupt(mut self) -> Result<Done> {
        let ran = self.bench.is_running() && self.journal.is_running();
        self.bench.kill()?;
        self.journal.kill()?;
        let mut done = Done::parse(&self.bench.log());
        // Nobody has asked it for its sum.
        done.failures.retain(|failure| failure != SILENT);
        if !ran {
            done.failures.push("the clients have ended before".to_owned());
        }
        done.failures.extend(self.refused());
        done.commits = self.commits();
        Ok(done)
    }

    /// What the journal's client was told instead of a commit.
    fn refused(&self) -> Vec<String> {
        let said = self.journal.log();
        let other = said.lines().filter(|line| !line.starts_with("commit "));
        other.map(|line| format!("journal: {line}")).collect()
    }

    /// Ends the clients and returns the commits that were acknowledged.
    pub fn end(mut self) -> Result<BTreeSet<u64>> {
        self.bench.kill()?;
        self.journal.kill()?;
        Ok(self.commits())
    }
}

impl Done {
    /// What pgbench prints.
    fn parse(text: &str) -> Self {
        let number = |what: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(what))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let mut done = Self {
            transactions: number("number of transactions actually processed: ").unwrap_or(0),
            ..Self::default()
        };
        match number("number of failed transactions: ") {
            Some(0) => {}
            Some(failed) => done.failures.push(format!("{failed} transactions failed")),
            None => done.failures.push(SILENT.to_owned()),
        }
        let troubles = text.lines().filter(|line| {
            let unwell = line.starts_with("progress: ") && !line.contains(", 0 failed");
            unwell || line.contains("aborted") || line.contains("ERROR:") || line.contains("FATAL:")
        });
        done.failures.extend(troubles.map(str::to_owned));
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pgbench_prints_tells_its_failures() {
        let well =
            "number of transactions actually processed: 4711\nnumber of failed transactions: 0 (0.000%)\n";
        let done = Done::parse(well);
        assert_eq!((done.transactions, done.failures.len()), (4711, 0));
        let ill = "pgbench: error: client 3 aborted in command 4 (SQL) of script 0; perhaps the backend died while processing\n\
            number of transactions actually processed: 12\nnumber of failed transactions: 2 (0.1%)\n";
        assert_eq!(Done::parse(ill).failures.len(), 2);
        assert_eq!(Done::parse("").failures.len(), 1, "silence is no success");
    }
}
