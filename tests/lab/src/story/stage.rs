//! The hosts, the class, the service, the filled database.
//!
//! It owns the lab of a story. It must never ask a host that is cut off where the database is.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::application;
use crate::lab::Lab;
use crate::postgres::ACCOUNTS;
use crate::{Cmd, StoreKind, image, keep, swarm, wait};

/// The service, and in a stack the part of its name after the stack's.
pub(super) const SERVICE: &str = "postgres";
/// The stack, where there is one.
pub(super) const STACK: &str = "shop";
/// Its volume.
pub const VOLUME: &str = "pgdata";
/// The class of its volume.
pub const CLASS: &str = "replicated";

/// How long a healthy cluster may take for anything.
const CALM: Duration = Duration::from_secs(120);

/// What a stage is to be.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The cluster's store.
    pub store: StoreKind,
    /// Hosts, each with a manager of the Swarm.
    pub hosts: u8,
    /// Replicas of the volume.
    pub repl: u8,
    /// Whether dockerd runs the daemons, as managed plugins.
    pub managed: bool,
    /// Whether the database is a part of a stack with an application.
    pub stack: bool,
    /// Whether each step is told.
    pub aloud: bool,
}

impl Setting {
    /// The founding story's: three hosts, two replicas, the daemon as a service.
    pub fn new(store: StoreKind) -> Self {
        Self {
            store,
            hosts: 3,
            repl: 2,
            managed: false,
            stack: false,
            aloud: false,
        }
    }
}

/// What the story is played on.
#[derive(Debug)]
pub struct Stage {
    /// The hosts.
    pub lab: Lab,
    /// Index of the host on which the database runs.
    pub home: usize,
    /// The database's container there.
    pub container: String,
    /// The hosts that were lost and are not back.
    pub lost: Vec<usize>,
    /// What it was to be.
    pub setting: Setting,
    begin: Instant,
}

impl Stage {
    /// The nodes, the class, the service with the filled database.
    pub fn set(setting: Setting) -> Result<Self> {
        let begin = Instant::now();
        let mut plan = Lab::new(setting.hosts)
            .label("story")
            .store(setting.store)
            .servers(setting.hosts)
            .swarm()
            .image(image::POSTGRES);
        if setting.managed {
            plan = plan.managed();
        }
        let mut stage = Self {
            lab: plan.start()?,
            home: 0,
            container: String::new(),
            lost: Vec::new(),
            setting,
            begin,
        };
        let outcome = stage.furnish();
        if outcome.is_err() {
            keep::logs(&stage.lab, "story");
        }
        outcome.map(|()| stage)
    }

    fn furnish(&mut self) -> Result<()> {
        let stage = self;
        stage.tell(&format!(
            "{} nodes with {}, Docker Swarm and Bulkhead, each with a pool of 10 GB in a file behind a loop device",
            stage.lab.members.len(),
            stage.setting.store,
        ));
        stage.show(
            0,
            &format!(
                "bulkhead class create {CLASS} --repl {} --io-priority high --default",
                stage.setting.repl
            ),
        )?;
        if stage.setting.stack {
            let file = stage.lab.host(0).dir().join("stack.yml");
            fs::write(&file, application::stack())?;
            let file = file.display();
            stage.show(
                0,
                &format!("docker stack deploy --resolve-image=never -c {file} {STACK}"),
            )?;
        } else {
            stage.show(
                0,
                &format!(
                    "docker service create --detach --no-resolve-image --name {SERVICE} --network host \
                     --mount type=volume,source={VOLUME},target=/data,volume-driver=bulkhead,volume-opt=size=1G {}",
                    image::POSTGRES
                ),
            )?;
        }
        stage.find(CALM)?;
        stage.await_answer(CALM)?;
        stage.tell(&format!("PostgreSQL runs on {}", stage.home_name()));
        stage.psql_tool("createdb demo")?;
        stage.psql_tool("pgbench -i -s 10 -q demo")?;
        stage.sql("create table journal (n bigint primary key); create table orders (n text)")?;
        stage.tell("createdb demo; pgbench -i -s 10 demo");
        let rows = stage.count()?;
        stage.tell(&format!("select count(*) from pgbench_accounts: {rows}"));
        ensure!(
            rows == ACCOUNTS,
            "pgbench_accounts has {rows} rows, not {ACCOUNTS}"
        );
        if stage.setting.stack {
            stage.await_application(CALM)?;
        }
        stage.await_whole(CALM)
    }

    /// The service's name.
    pub fn service(&self) -> String {
        if self.setting.stack {
            format!("{STACK}_{SERVICE}")
        } else {
            SERVICE.to_owned()
        }
    }

    /// Whether a host has power and is not lost.
    pub fn is_there(&self, index: usize) -> bool {
        self.lab.host(index).is_on() && !self.lost.contains(&index)
    }

    /// Says what happens, with the time since the beginning.
    pub fn tell(&self, what: &str) {
        if self.setting.aloud {
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

    /// Looks for the database's container on the hosts that are there.
    pub fn find(&mut self, deadline: Duration) -> Result<()> {
        let service = self.service();
        let (home, container) = wait::until("the service's container runs", deadline, || {
            for index in (0..self.lab.members.len()).filter(|&index| self.is_there(index)) {
                if let Ok(Some(id)) = swarm::container(&self.lab.node(index).dockerd, &service) {
                    return Ok(Some((index, id)));
                }
            }
            Ok(None)
        })
        .with_context(|| {
            let manager = (0..self.lab.members.len())
                .find(|&index| self.is_there(index))
                .unwrap_or(0);
            let tasks = self
                .lab
                .node(manager)
                .dockerd
                .run(&format!("service ps --no-trunc {service}"));
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
        for index in (0..self.lab.members.len()).filter(|&index| self.is_there(index)) {
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
                Ok((last["healthy"] == true && good == usize::from(self.setting.repl)).then_some(()))
            })
            .with_context(|| format!("{} says {last:#}", self.lab.host(index).hostname()))?;
        }
        Ok(())
    }
}
