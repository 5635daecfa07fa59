//! Kill after kill of a daemon, chosen by one seed, while the loads go on.
//!
//! It owns the lab and the loads of one run. One seed chooses the same pauses and victims in the same order; when exactly a kill
//! hits is up to the machine. It must never kill on after something went wrong: what led to it is what matters then.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::kernel::KernelLog;
use super::loads::{DB, Loads, VOLUMES, WORK};
use super::pauses::{Kill, Whose};
use super::probe;
use super::reckoning::Reckoning;
use crate::lab::Lab;
use crate::node::Node;
use crate::{StoreKind, image, keep, wait};

/// How long it may take until a killed daemon has been started again.
const RESTART: Duration = Duration::from_secs(30);
/// How long it may take until all is whole after the last kill.
pub const WHOLE: Duration = Duration::from_secs(180);
/// Between the last kill and the end of the loads.
const CALM: Duration = Duration::from_secs(6);
/// Where the containers run.
const HOME: usize = 0;

/// What a run is to be.
#[derive(Debug, Clone)]
pub struct Campaign {
    /// For how long daemons are killed.
    pub length: Duration,
    /// 1, or how many nodes the cluster has.
    pub nodes: u8,
    /// The cluster's store; a node that is alone has its own.
    pub store: StoreKind,
    /// For the choice of victims and moments.
    pub seed: u64,
    /// Between two kills, in seconds.
    pub every: std::ops::Range<f64>,
    /// Without a keeper a kill is an outage: then this has to fail.
    pub keeper: bool,
}

impl Campaign {
    /// Kills every 5 to 15 s.
    pub fn new(length: Duration, nodes: u8, store: StoreKind, seed: u64) -> Self {
        Self {
            length,
            nodes,
            store,
            seed,
            every: 5.0..15.0,
            keeper: true,
        }
    }

    /// What it is, for people.
    pub fn title(&self) -> String {
        let nodes = match self.nodes {
            1 => "one node".to_owned(),
            nodes => format!("{nodes} nodes on {}, two replicas", self.store),
        };
        format!(
            "{nodes}, {} s of kills, seed {}{}",
            self.length.as_secs(),
            self.seed,
            if self.keeper { "" } else { ", without a keeper" }
        )
    }

    /// The lab for it.
    fn lab(&self) -> Result<Lab> {
        let mut plan = Lab::new(self.nodes)
            .label("unint")
            .image(image::REGISTER)
            .image(image::POSTGRES);
        if self.nodes > 1 {
            plan = plan.store(self.store);
        }
        if !self.keeper {
            plan = plan.flag("--no-keeper");
        }
        plan.start()
    }
}

struct Run {
    lab: Lab,
    campaign: Campaign,
    rng: StdRng,
    begin: Instant,
    kills: Vec<Kill>,
}

/// Plays a campaign and prints its table; an error is a failure that a container, a client or the kernel saw.
pub fn run(campaign: &Campaign) -> Result<Reckoning> {
    println!("Uninterrupted: {}", campaign.title());
    let lab = campaign.lab()?;
    let mut run = Run {
        lab,
        rng: StdRng::seed_from_u64(campaign.seed),
        begin: Instant::now(),
        kills: Vec::new(),
        campaign: campaign.clone(),
    };
    let outcome = run.play().and_then(|reckoning| {
        println!("\n{reckoning}");
        reckoning.judge().map(|()| reckoning)
    });
    if outcome.is_err() {
        keep::logs(&run.lab, &format!("uninterrupted-{}", campaign.seed));
    }
    outcome
}

impl Run {
    fn say(&self, what: impl std::fmt::Display) {
        let at = self.begin.elapsed().as_secs();
        println!("{:3}:{:02}  {what}", at / 60, at % 60);
    }

    fn play(&mut self) -> Result<Reckoning> {
        let repl = self.campaign.nodes.min(2);
        let length = self.campaign.length + CALM;
        self.begin = Instant::now();
        let mut kernel = KernelLog::from_now()?;
        let mut loads = Loads::start(self.lab.node(HOME), &format!("repl={repl}"), length)?;
        let devices = loads.devices(&self.lab.node(HOME).dockerd)?;
        self.say(format!(
            "fio, pgbench and probes run on {}",
            devices.join(" and ")
        ));
        self.kill_on(&loads)?;
        let reckoning = self.reckon(&mut loads, &mut kernel, &devices);
        if reckoning.is_err() {
            self.say("the reckoning was broken off");
        }
        reckoning
    }

    /// Kills until the time is over, or something goes wrong.
    fn kill_on(&mut self, loads: &Loads) -> Result<()> {
        let until = Instant::now() + self.campaign.length;
        loop {
            let pause = Duration::from_secs_f64(self.rng.random_range(self.campaign.every.clone()));
            if Instant::now() + pause > until {
                thread::sleep(until.saturating_duration_since(Instant::now()) + CALM / 2);
                return Ok(());
            }
            thread::sleep(pause);
            if loads.in_trouble() {
                self.say("something went wrong; no more kills");
                return Ok(());
            }
            let (index, whose) = self.victim()?;
            let at = probe::now();
            let killed = self.kill(index)?;
            self.kills.push(Kill { at, whose });
            self.say(format!(
                "kill -9 of the daemon on n{} (process {killed}), which {}",
                index + 1,
                match whose {
                    Whose::Primary => "serves the volumes",
                    Whose::Replica => "holds a replica",
                }
            ));
        }
    }

    /// Mostly the daemon that serves the volumes, now and then one that holds a replica.
    fn victim(&mut self) -> Result<(usize, Whose)> {
        let replica = self.rng.random_bool(0.3);
        let choice = self.rng.random::<u32>();
        if !replica || self.campaign.nodes == 1 {
            return Ok((HOME, Whose::Primary));
        }
        let mut holders = Vec::new();
        for volume in VOLUMES {
            let view = wait::retry("the volume is shown", RESTART, || {
                inspect(self.lab.node(HOME), volume)
            })?;
            holders.extend(self.holders(&view));
        }
        holders.sort_unstable();
        let chosen = holders.choose(&mut StdRng::seed_from_u64(choice.into()));
        Ok(chosen.map_or((HOME, Whose::Primary), |&index| (index, Whose::Replica)))
    }

    fn holders(&self, view: &Value) -> Vec<usize> {
        let replicas = view["replicas"].as_array().into_iter().flatten();
        replicas
            .filter_map(|replica| self.lab.index_of(replica["node"].as_str()?).ok())
            .filter(|&index| index != HOME)
            .collect()
    }

    /// Kills a daemon, and waits until another process has taken its place.
    fn kill(&mut self, index: usize) -> Result<Pid> {
        let bulkhead = &mut self.lab.members[index].node.bulkhead;
        let name = format!("n{}", index + 1);
        let kept = bulkhead.is_kept()?;
        ensure!(
            kept == self.campaign.keeper,
            "whether the daemon on {name} has a keeper: {kept}; that is not what was asked for"
        );
        let killed = bulkhead.kill_daemon()?;
        if kept {
            wait::until("the keeper has started the daemon again", RESTART, || {
                ensure!(bulkhead.is_running(), "the keeper on {name} has ended");
                Ok(bulkhead.daemon()?.filter(|&pid| pid != killed))
            })?;
        } else {
            bulkhead.kill()?;
            bulkhead.restart()?;
        }
        Ok(killed)
    }

    /// Ends the loads and looks at everything that they left.
    fn reckon(&mut self, loads: &mut Loads, kernel: &mut KernelLog, devices: &[String]) -> Result<Reckoning> {
        let left = self.campaign.length.saturating_sub(self.begin.elapsed());
        let node = self.lab.node(HOME);
        let mut reckoning = Reckoning::new(self.campaign.title(), self.kills.clone());
        reckoning.clients = loads.finish(&node.dockerd, left + Duration::from_secs(90))?;
        reckoning.probes = VOLUMES.map(|volume| loads.notes(volume)).to_vec();
        reckoning.take(loads.troubles(&node.dockerd)?, kernel.trouble(devices)?);
        self.say("the loads have ended; every byte, row and commit is looked at");
        if let Err(error) = self.look_at_all(loads, &mut reckoning) {
            reckoning.broken.push(format!("{error:#}"));
        }
        Ok(reckoning)
    }

    fn look_at_all(&self, loads: &Loads, reckoning: &mut Reckoning) -> Result<()> {
        let node = self.lab.node(HOME);
        if reckoning.hurt() {
            // What is on the volume counts; the server that lost it under its feet starts again.
            let pg = loads.postgres().container();
            let restarted = node
                .dockerd
                .docker(["restart", "-t", "0", pg])
                .within(Duration::from_secs(120));
            restarted.run().context("starting the database again")?;
            loads.postgres().await_ready(&node.dockerd)?;
        }
        let commits = &reckoning.clients.commits;
        reckoning.lost = loads.postgres().lost(&node.dockerd, commits)?;
        loads.postgres().verify(&node.dockerd, commits)?;
        loads.verify_all(&node.dockerd)?;
        if self.campaign.nodes > 1 {
            self.compare()?;
        }
        node.dockerd
            .docker(["rm", "-f", loads.postgres().container()])
            .run()?;
        for volume in VOLUMES {
            wait::retry(
                "the volume is detached and removed",
                Duration::from_secs(60),
                || node.dockerd.docker(["volume", "rm", volume]).run().map(drop),
            )?;
        }
        self.lab
            .members
            .iter()
            .try_for_each(|member| member.node.assert_idle())
    }

    /// Both members of each volume are in sync and hold the same.
    fn compare(&self) -> Result<()> {
        let node = self.lab.node(HOME);
        // The last verification has detached it; only one that is attached is compared.
        node.dockerd
            .docker("run -d --name hold --network=none -v".split(' '))
            .arg(format!("{WORK}:/data"))
            .args([image::BUSYBOX, "sleep", "3600"])
            .run()?;
        for volume in [WORK, DB] {
            await_whole(node, volume, 2)?;
            let said = node
                .bulkhead
                .cli(&format!("volume verify {volume}"))
                .within(WHOLE)
                .run()?;
            self.say(said.lines().last().unwrap_or("verified"));
        }
        node.dockerd.docker(["rm", "-f", "hold"]).run().map(drop)
    }
}

/// A volume, as the daemon of a node shows it.
pub(super) fn inspect(node: &Node, volume: &str) -> Result<Value> {
    let answer = node.bulkhead.json(&format!("volume inspect {volume}"))?;
    Ok(answer
        .as_array()
        .map_or_else(|| answer.clone(), |all| all[0].clone()))
}

/// The names of the hosts whose replicas are in sync.
pub(super) fn in_sync(view: &Value) -> Vec<&str> {
    let replicas = view["replicas"].as_array().into_iter().flatten();
    replicas
        .filter(|replica| replica["state"] == "in sync")
        .filter_map(|replica| replica["node"].as_str())
        .collect()
}

/// Waits until so many replicas of a volume are in sync, and it is healthy.
pub(super) fn await_whole(node: &Node, volume: &str, repl: usize) -> Result<()> {
    let mut last = Value::Null;
    wait::until("the volume is whole", WHOLE, || {
        last = inspect(node, volume).unwrap_or_default();
        Ok((in_sync(&last).len() == repl && last["healthy"] == true).then_some(()))
    })
    .with_context(|| format!("{volume}: {last:#}"))
}
