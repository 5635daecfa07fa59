//! One loss: the watch, the first query elsewhere, the reckoning, the return.
//!
//! It owns what is noted before the loss and held against the database after it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};

use super::fall::Fall;
use super::stage::{Stage, VOLUME};
use super::timeline::{self, Division};
use crate::host::Host;
use crate::postgres::ACCOUNTS;
use crate::service::Service;
use crate::{Cmd, wait};

/// How long Swarm, the takeover and the recovery may take together before the run counts as failed.
const FIRST_QUERY: Duration = Duration::from_secs(180);
/// How long an isolated node may take to let go of everything by itself.
const ZOMBIE: Duration = Duration::from_secs(90);
/// How long the old node may take to be a whole member again.
const RETURN: Duration = Duration::from_secs(180);

/// What is to happen.
#[derive(Debug, Clone, Copy)]
pub struct Scene {
    /// How the node is lost.
    pub fall: Fall,
    /// Whether many clients write meanwhile; a slow one does in any case.
    pub load: bool,
}

/// How it went.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Where the database was.
    pub from: String,
    /// Where it is.
    pub to: String,
    /// What `select count(*)` gave.
    pub rows: u64,
    /// From the loss to the first query that was answered.
    pub total: Duration,
    /// How that divides.
    pub division: Division,
    /// Commits that clients were told of, each of which was found.
    pub commits: usize,
    /// From the loss until nothing of the volume was left on the old node, where it kept running.
    pub zombie: Option<Duration>,
    /// From the return of the node until the volume was whole; none if it was not to come back in this scene.
    pub whole: Option<Duration>,
}

/// A node that is lost, and what must be there when it has come back.
#[derive(Debug)]
pub struct Loss {
    /// How it went so far.
    pub outcome: Outcome,
    host: usize,
    fall: Fall,
    commits: BTreeSet<u64>,
}

/// Clients whose output lies outside of every host.
struct Clients {
    bench: Option<Service>,
    journal: Service,
}

impl Stage {
    /// Plays a scene from a whole volume to a whole volume.
    pub fn play(&mut self, scene: Scene) -> Result<Outcome> {
        let loss = self.lose(scene)?;
        let mut outcome = loss.outcome.clone();
        outcome.whole = Some(self.regain(&[loss])?);
        Ok(outcome)
    }

    /// Loses the database's node, and finds the database on another one.
    pub fn lose(&mut self, scene: Scene) -> Result<Loss> {
        let old = self.home;
        let from = self.home_name().to_owned();
        let container = self.container.clone();
        let mut clients = self.clients(scene.load)?;

        self.tell(&format!("{from} is lost: {}", scene.fall));
        let (begin, clock) = (SystemTime::now(), Instant::now());
        // What clients are told from now on may have been told before the loss took hold; the numbers noted before must be there.
        scene.fall.deal(self)?;
        self.lost.push(old);
        self.find(FIRST_QUERY)?;
        self.tell(&format!("Swarm has started it on {}", self.home_name()));
        self.await_answer(FIRST_QUERY.saturating_sub(clock.elapsed()))?;
        let (total, end) = (clock.elapsed(), SystemTime::now());
        let rows = self.count()?;
        let to = self.home_name().to_owned();
        self.tell(&format!(
            "PostgreSQL answers on {to} after {:.1} s: {rows} rows",
            total.as_secs_f64()
        ));
        ensure!(
            rows == ACCOUNTS,
            "pgbench_accounts has {rows} rows, not {ACCOUNTS}"
        );
        ensure!(to != from && self.container != container, "it did not move");
        let division = Division::of(self, begin, end)?;

        let zombie = if scene.fall.leaves_running() {
            let took = self.await_let_go(old, &container, begin)?;
            self.tell(&format!(
                "on {from} the old container ended {:.1} s after the loss; its mount is gone",
                took.as_secs_f64()
            ));
            Some(took)
        } else {
            None
        };
        let commits = clients.end()?;
        self.verify(&commits)?;
        if self.setting.stack {
            self.await_application(FIRST_QUERY)?;
        }
        Ok(Loss {
            outcome: Outcome {
                from,
                to,
                rows,
                total,
                division,
                commits: commits.len(),
                zombie,
                whole: None,
            },
            host: old,
            fall: scene.fall,
            commits,
        })
    }

    /// Lets lost nodes come back, and waits until the volume is whole; tells how long that took.
    pub fn regain(&mut self, losses: &[Loss]) -> Result<Duration> {
        let back = Instant::now();
        for loss in losses {
            loss.fall.undo(self, loss.host)?;
            self.lost.retain(|&host| host != loss.host);
            self.tell(&format!("{} is back", loss.outcome.from));
        }
        for loss in losses {
            self.await_returned(loss.host)?;
        }
        self.await_whole(RETURN)?;
        let whole = back.elapsed();
        self.tell(&format!(
            "the volume is whole again, with {} replicas, {:.1} s later",
            self.setting.repl,
            whole.as_secs_f64()
        ));
        // What an old node wrote after its loss would come up now, if ever.
        for loss in losses {
            self.verify(&loss.commits)?;
        }
        if self.setting.stack {
            let orders = self.verify_orders()?;
            self.tell(&format!("all {orders} orders of the application are there"));
        }
        Ok(whole)
    }

    /// Starts one client that notes each commit that it was told of, and under load eight of pgbench. Without load it writes twice
    /// a second in one session: a server that nobody asks for anything would meet no error on a node that is cut off.
    fn clients(&self, load: bool) -> Result<Clients> {
        const BUSY: &str = "n=$(psql -d demo -Atc 'select coalesce(max(n), 0) from journal'); \
             while :; do n=$((n + 1)); echo \"try $n\"; \
             psql -d demo -qc \"insert into journal values ($n)\" && echo \"commit $n\"; done";
        const CALM: &str = "n=$(psql -d demo -Atc 'select coalesce(max(n), 0) from journal'); \
             while :; do n=$((n + 1)); echo \"insert into journal values ($n) returning 'commit ' || n;\"; sleep 0.5; done \
             | psql -d demo -Atq";
        let host = self.lab.host(self.home);
        let bench = || {
            spawn(
                host,
                "bench",
                self.client("exec pgbench -n -c 8 -j 2 -T 3600 demo"),
            )
        };
        let clients = Clients {
            bench: load.then(bench).transpose()?,
            journal: spawn(host, "journal", self.client(if load { BUSY } else { CALM }))?,
        };
        let enough = if load { 100 } else { 3 };
        wait::until("the clients commit", Duration::from_secs(60), || {
            Ok((clients.commits().len() >= enough).then_some(()))
        })
        .with_context(|| clients.journal.log_tail(10))?;
        Ok(clients)
    }

    fn client(&self, line: &str) -> Cmd {
        Cmd::new("docker").args(["exec", &self.container, "sh", "-uc", line])
    }

    /// Waits until the old node has let go by itself: the server ended, its mount gone, nothing stuck in the kernel. Tells how
    /// long after the loss the server's process ended.
    fn await_let_go(&self, old: usize, container: &str, begin: SystemTime) -> Result<Duration> {
        let host = self.lab.host(old);
        let dockerd = &self.lab.node(old).dockerd;
        let look = format!("grep -c ' /[^ ]*{VOLUME}' /proc/mounts || :; ps -eo stat= | grep -c '^D' || :");
        let mut last = String::new();
        wait::until("the old node lets go of the volume", ZOMBIE, || {
            last = host.sh(&look).run()?;
            let running = dockerd.inspect(container, "/State/Running")?;
            Ok((running == false && last == "0\n0").then_some(()))
        })
        .with_context(|| format!("on {}: mounts and stuck processes {last:?}", host.hostname()))?;
        let ended = dockerd.inspect(container, "/State/FinishedAt")?;
        let ended = timeline::time(ended.as_str().unwrap_or_default())?;
        Ok(ended.duration_since(begin).unwrap_or_default())
    }

    /// Waits until the old node is a part of the Swarm again, and runs nothing of the service.
    fn await_returned(&self, old: usize) -> Result<()> {
        let name = self.lab.host(old).hostname();
        let manager = &self.lab.node(self.home).dockerd;
        wait::until(
            "the old node is ready, without a container of the service",
            RETURN,
            || {
                let list = manager
                    .run("node ls --format {{.Hostname}}/{{.Status}}")
                    .unwrap_or_default();
                let ready = list.lines().any(|line| line == format!("{name}/Ready"));
                let rest = self.runs_service(old);
                Ok((ready && matches!(rest, Ok(false))).then_some(()))
            },
        )
    }

    /// Every row, every noted commit, and the books of pgbench.
    fn verify(&self, commits: &BTreeSet<u64>) -> Result<()> {
        let rows = self.count()?;
        ensure!(
            rows == ACCOUNTS,
            "pgbench_accounts has {rows} rows, not {ACCOUNTS}"
        );
        let sums = self.sql(
            "select (select sum(abalance) from pgbench_accounts) = (select sum(bbalance) from pgbench_branches) \
             and (select sum(abalance) from pgbench_accounts) = (select coalesce(sum(delta), 0) from pgbench_history)",
        )?;
        ensure!(sums == "t", "accounts, branches and history do not agree");
        let there: BTreeSet<u64> = self
            .sql("select n from journal")?
            .lines()
            .filter_map(|line| line.parse().ok())
            .collect();
        let lost: Vec<_> = commits.difference(&there).take(10).collect();
        ensure!(
            lost.is_empty(),
            "acknowledged commits are lost: {lost:?} of {}",
            commits.len()
        );
        Ok(())
    }
}

fn spawn(host: &Host, name: &str, cmd: Cmd) -> Result<Service> {
    let log = host.dir().join(format!("{name}.log"));
    // A log tells of one scene.
    let _ = std::fs::remove_file(log);
    host.spawn(name, cmd)
}

impl Clients {
    fn commits(&self) -> BTreeSet<u64> {
        let log = self.journal.log();
        log.lines()
            .filter_map(|line| line.strip_prefix("commit ")?.parse().ok())
            .collect()
    }

    /// Ends the clients; returns what they were told.
    fn end(&mut self) -> Result<BTreeSet<u64>> {
        if let Some(mut bench) = self.bench.take() {
            bench.kill()?;
        }
        self.journal.kill()?;
        Ok(self.commits())
    }
}
