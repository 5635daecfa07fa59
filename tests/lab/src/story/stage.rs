//! The hosts, the class, the service, the filled database.
//!
//! It owns the lab of a story. It must never ask a host that is cut off where the database is.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::lab::Lab;
use crate::postgres::ACCOUNTS;
use crate::{Cmd, StoreKind, image, swarm, wait};

/// The service.
pub const SERVICE: &str = "postgres";
/// Its volume.
pub const VOLUME: &str = "pgdata";
/// The class of its volume.
pub const CLASS: &str = "replicated";

/// How long a healthy cluster may take for anything.
const CALM: Duration = Duration::from_secs(120);

/// What the story is played on.
#[derive(Debug)]
pub struct Stage {
    /// The hosts.
    pub lab: Lab,
    /// Index of the host on which the database runs.
    pub home: usize,
    /// The database's container there.
    pub container: String,
    /// Replicas of the volume.
    pub repl: u8,
    /// Whether each step is told.
    pub aloud: bool,
    begin: Instant,
}

impl Stage {
    /// Three nodes (more for more replicas), the class, the service with the filled database.
    pub fn set(store: StoreKind, repl: u8, aloud: bool) -> Result<Self> {
        let begin = Instant::now();
        let lab = Lab::new(repl.max(2) + 1)
            .label("story")
            .store(store)
            .swarm()
            .image(image::POSTGRES)
            .start()?;
        let mut stage = Self {
            lab,
            home: 0,
            container: String::new(),
            repl,
            aloud,
            begin,
        };
        stage.tell(&format!(
            "{} nodes with {store}, Docker Swarm and Bulkhead, each with a pool of 10 GB in a file behind a loop device",
            stage.lab.members.len()
        ));
        stage.show(
            0,
            &format!("bulkhead class create {CLASS} --repl {repl} --io-priority high --default"),
        )?;
        stage.show(
            0,
            &format!(
                "docker service create --detach --no-resolve-image --name {SERVICE} --network host \
                 --mount type=volume,source={VOLUME},target=/data,volume-driver=bulkhead,volume-opt=size=1G {}",
                image::POSTGRES
            ),
        )?;
        stage.find(|_| true, CALM)?;
        stage.await_answer(CALM)?;
        stage.tell(&format!("PostgreSQL runs on {}", stage.home_name()));
        stage.psql_tool("createdb demo")?;
        stage.psql_tool("pgbench -i -s 10 -q demo")?;
        stage.sql("create table journal (n bigint primary key)")?;
        stage.tell("createdb demo; pgbench -i -s 10 demo");
        let rows = stage.count()?;
        stage.tell(&format!("select count(*) from pgbench_accounts: {rows}"));
        ensure!(
            rows == ACCOUNTS,
            "pgbench_accounts has {rows} rows, not {ACCOUNTS}"
        );
        stage.await_whole(CALM)?;
        Ok(stage)
    }

    /// Says what happens, with the time since the beginning.
    pub fn tell(&self, what: &str) {
        if self.aloud {
            println!("{:7.1} s  {what}", self.begin.elapsed().as_secs_f64());
        }
    }

    /// Shows a command on a host, and runs it.
    pub fn show(&self, index: usize, line: &str) -> Result<String> {
        self.tell(&format!("{} # {line}", self.lab.host(index).hostname()));
        self.lab
            .host(index)
            .sh(line)
            .within(Duration::from_secs(120))
            .run()
    }

    /// The name of the host on which the database runs.
    pub fn home_name(&self) -> &str {
        self.lab.host(self.home).hostname()
    }

    /// Looks for the database's container on hosts that have power and that `fits`.
    pub fn find(&mut self, fits: impl Fn(usize) -> bool, deadline: Duration) -> Result<()> {
        let (home, container) = wait::until("the service's container runs", deadline, || {
            for index in
                (0..self.lab.members.len()).filter(|&index| fits(index) && self.lab.host(index).is_on())
            {
                if let Ok(Some(id)) = swarm::container(&self.lab.node(index).dockerd, SERVICE) {
                    return Ok(Some((index, id)));
                }
            }
            Ok(None)
        })
        .with_context(|| {
            let manager = (0..self.lab.members.len())
                .find(|&index| fits(index))
                .unwrap_or(0);
            let tasks = self
                .lab
                .node(manager)
                .dockerd
                .run(&format!("service ps --no-trunc {SERVICE}"));
            tasks.unwrap_or_else(|error| error.to_string())
        })?;
        (self.home, self.container) = (home, container);
        Ok(())
    }

    /// A query's answer.
    pub fn sql(&self, query: &str) -> Result<String> {
        self.query(query).within(Duration::from_secs(60)).run()
    }

    /// A query at the database's present home.
    pub fn query(&self, query: &str) -> Cmd {
        let words = [
            "exec",
            &self.container,
            "psql",
            "-d",
            "demo",
            "-v",
            "ON_ERROR_STOP=1",
            "-Atc",
            query,
        ];
        self.lab.node(self.home).dockerd.docker(words)
    }

    /// A program of PostgreSQL's in its container.
    pub fn psql_tool(&self, line: &str) -> Result<String> {
        self.lab
            .node(self.home)
            .dockerd
            .exec(&self.container, line)
            .within(Duration::from_secs(180))
            .run()
    }

    /// The rows that pgbench made.
    pub fn count(&self) -> Result<u64> {
        let text = self.sql("select count(*) from pgbench_accounts")?;
        text.parse().with_context(|| format!("the count is {text:?}"))
    }

    /// Waits until the server answers; its data may have to be recovered first.
    pub fn await_answer(&self, deadline: Duration) -> Result<()> {
        let words = ["exec", &self.container, "psql", "-Atc", "select 1"];
        let ask = self
            .lab
            .node(self.home)
            .dockerd
            .docker(words)
            .within(Duration::from_secs(5));
        wait::until("PostgreSQL answers", deadline, || {
            Ok(ask
                .output()
                .is_ok_and(|answer| answer.status.success())
                .then_some(()))
        })
    }

    /// Waits until the volume is healthy with all its replicas in sync, as every living node says.
    pub fn await_whole(&self, deadline: Duration) -> Result<()> {
        for index in (0..self.lab.members.len()).filter(|&index| self.lab.host(index).is_on()) {
            let mut last = serde_json::Value::Null;
            wait::until("the volume is whole", deadline, || {
                if let Ok(view) = self
                    .lab
                    .node(index)
                    .bulkhead
                    .json(&format!("volume inspect {VOLUME}"))
                {
                    last = view.as_array().map_or_else(|| view.clone(), |all| all[0].clone());
                }
                let replicas = last["replicas"].as_array().map_or(&[][..], Vec::as_slice);
                let good = replicas
                    .iter()
                    .filter(|replica| replica["state"] == "in sync")
                    .count();
                Ok((last["healthy"] == true && good == usize::from(self.repl)).then_some(()))
            })
            .with_context(|| format!("{} says {last:#}", self.lab.host(index).hostname()))?;
        }
        Ok(())
    }
}
