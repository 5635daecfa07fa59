//! Fault after fault, the workload's way from node to node, and the reckoning at the end.
//!
//! It owns the lab and the workload of one run. One seed chooses the same faults in the same order; when exactly they hit is
//! up to the machine. It must never go on after a violation: what led to it is what matters then.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::blow::Blow;
use crate::lab::Lab;
use crate::node::Node;
use crate::register::Workload;
use crate::{StoreKind, image, keep, wait};

mod reckoning;

/// The volume under test.
const VOLUME: &str = "register";
/// The container with fio on the same volume.
const FIO: &str = "fio-verify";
/// How long the workload may make no progress, with no fault in place, before it is moved.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take until a workload runs on another node.
const MOVE: Duration = Duration::from_secs(240);
/// How long it may take until all is whole after the last fault.
const WHOLE: Duration = Duration::from_secs(300);

/// What a run is to be.
#[derive(Debug, Clone, Copy)]
pub struct Campaign {
    /// For how long faults are dealt.
    pub length: Duration,
    /// The cluster's store.
    pub store: StoreKind,
    /// Replicas of the volume.
    pub repl: u8,
    /// For the choice of faults.
    pub seed: u64,
}

struct Run {
    lab: Lab,
    register: Workload,
    rng: StdRng,
    campaign: Campaign,
    begin: Instant,
    /// Where the workload runs, as an index.
    home: usize,
    dealt: BTreeMap<&'static str, u32>,
    moves: Vec<Duration>,
    zombies: Vec<Duration>,
    fio_runs: u32,
    /// The host that a fault is holding down.
    struck: Option<usize>,
    /// The hosts on which a workload was left behind that has to end by itself, and since when.
    left: Vec<(usize, Instant)>,
}

/// Plays a campaign and prints its counts; an error is a violation or a cluster that did not become whole.
pub fn run(campaign: Campaign) -> Result<()> {
    println!(
        "{} minutes of faults on {} with repl={}, seed {}",
        campaign.length.as_secs() / 60,
        campaign.store,
        campaign.repl,
        campaign.seed
    );
    let lab = Lab::new(campaign.repl.max(2) + 2)
        .label("faults")
        .store(campaign.store)
        .faulty_disks()
        .pool("2G")
        .image(image::REGISTER)
        .option("--rebuild-after", "60s")
        .start()?;
    // A volume has a replica on the node that asks for it, if it can: the last one will be lost for good.
    lab.node(lab.members.len() - 1)
        .create(VOLUME, &format!("size=256M repl={}", campaign.repl))?;
    let register = Workload::new(VOLUME, lab.switch.host(), 4096)?;
    let mut run = Run {
        register,
        rng: StdRng::seed_from_u64(campaign.seed),
        campaign,
        begin: Instant::now(),
        home: 0,
        dealt: BTreeMap::new(),
        moves: Vec::new(),
        zombies: Vec::new(),
        fio_runs: 0,
        struck: None,
        left: Vec::new(),
        lab,
    };
    let outcome = run.start(0).and_then(|()| run.play());
    run.print(&outcome);
    if outcome.is_err() {
        keep::logs(&run.lab, &format!("faults-{}", run.campaign.seed));
    }
    outcome
}

impl Run {
    fn say(&self, what: impl std::fmt::Display) {
        let at = self.begin.elapsed().as_secs();
        println!("{:3}:{:02}  {what}", at / 60, at % 60);
    }

    fn play(&mut self) -> Result<()> {
        let mut gone = false;
        while self.begin.elapsed() < self.campaign.length {
            if !gone && self.begin.elapsed() > self.campaign.length / 2 {
                gone = true;
                self.lose_a_node()?;
            }
            let holders = self.holders()?;
            let (blow, length) = Blow::choose(&mut self.rng, &self.lab, self.home, &holders, |kind| {
                self.dealt.contains_key(kind)
            });
            if blow.needs_whole() || (self.takes_all(blow) && blow.host() != Some(self.home)) {
                // What was acknowledged at the moment of the cut and is noted only after it could not be told apart if the
                // workload lived on elsewhere.
                self.await_whole()?;
            }
            let takes_all = self.takes_all(blow);
            self.say(format!(
                "{blow}, for {:.1} s; home n{}, in sync {}",
                length.as_secs_f64(),
                self.home + 1,
                self.members().join(", "),
            ));
            *self.dealt.entry(blow.kind()).or_default() += 1;
            blow.deal(&mut self.lab)?;
            if takes_all {
                self.register.note_power_cut()?;
            }
            self.struck = blow.host();
            self.endure(blow, length)?;
            self.struck = None;
            blow.undo(&mut self.lab)
                .with_context(|| format!("undoing {blow}"))?;
            self.settle()?;
            let pause = self.rng.random_range(0.5..4.0);
            thread::sleep(Duration::from_secs_f64(pause));
        }
        self.reckon()
    }

    /// Whether every member that is left loses its power: then only what was flushed has to survive.
    fn takes_all(&self, blow: Blow) -> bool {
        match blow {
            Blow::PowerAll => true,
            Blow::Power(host) => {
                let members = self.members();
                // One on a node that is gone for good may be listed yet.
                let left: Vec<_> = members
                    .iter()
                    .filter_map(|name| self.lab.index_of(name).ok())
                    .collect();
                left.iter().all(|&member| member == host)
            }
            _ => false,
        }
    }

    /// The names of the hosts whose replicas are in sync, as the workload's host says.
    fn members(&self) -> Vec<String> {
        inspect(self.lab.node(self.home)).map_or_else(|_| Vec::new(), |view| names_in_sync(&view))
    }

    /// While a fault lasts: Swarm would notice that the node is gone, and start the workload on another one.
    fn endure(&mut self, blow: Blow, length: Duration) -> Result<()> {
        let until = Instant::now() + length;
        let hits_home = blow.host() == Some(self.home);
        // As soon as Swarm's heartbeats would have been missed; a stopped daemon alone Swarm does not see.
        let noticed = Instant::now() + Duration::from_secs(15);
        let moves = hits_home
            && matches!(
                blow,
                Blow::Freeze(_) | Blow::CutOut(_) | Blow::CutIn(_) | Blow::CutBoth(_) | Blow::Power(_)
            );
        while Instant::now() < until {
            thread::sleep(Duration::from_millis(200));
            if moves && Instant::now() > noticed {
                let old = self.home;
                self.say(format!("Swarm would give up n{}", old + 1));
                let left = until.saturating_duration_since(Instant::now());
                if self.go_elsewhere(left).is_err() {
                    // The only member may be on the node that is gone: nobody else can have the volume, and it may go on there.
                    self.no_violation()?;
                    self.say(format!("nobody takes it while n{} is away", old + 1));
                    self.left.retain(|(host, _)| *host != old);
                    return Ok(());
                }
                // The fault goes on for its time, so that the old node finds itself replaced.
                thread::sleep(until.saturating_duration_since(Instant::now()));
                return Ok(());
            }
        }
        Ok(())
    }

    /// After a fault: whatever does not run is started again, the workload goes on or is moved, and no zombie is left.
    fn settle(&mut self) -> Result<()> {
        self.no_violation()?;
        self.bury()?;
        let begin = Instant::now();
        let before = self.register.history()?.tally.writes;
        loop {
            let node = self.lab.node(self.home);
            if !self.register.runs(&node.dockerd) {
                self.say(format!("the workload on n{} has ended", self.home + 1));
                return self.go_elsewhere(MOVE);
            }
            if self.register.history()?.tally.writes > before + 20 {
                return self.keep_fio();
            }
            ensure!(
                begin.elapsed() < PATIENCE + Duration::from_secs(60),
                "the workload on n{} neither writes nor ends: P5\n{}",
                self.home + 1,
                self.register.logs(&node.dockerd)?
            );
            thread::sleep(Duration::from_millis(300));
        }
    }

    /// Starts the workload on another node, or on the same if it must be, as Swarm would: again and again until it runs.
    fn go_elsewhere(&mut self, patience: Duration) -> Result<()> {
        let begin = Instant::now();
        let old = self.home;
        self.left.push((old, begin));
        let mut last = None;
        while begin.elapsed() < patience {
            self.no_violation()?;
            let next = self.rng.random_range(0..self.lab.members.len());
            if self.struck == Some(next) {
                continue;
            }
            if next == old && self.left.iter().any(|(host, _)| *host == old) && self.lab.host(old).is_on() {
                self.bury()?;
            }
            if !self.usable(next) {
                thread::sleep(Duration::from_millis(300));
                continue;
            }
            match self.start(next) {
                Ok(()) => {
                    self.moves.push(begin.elapsed());
                    self.say(format!(
                        "the workload runs on n{} after {:.1} s",
                        next + 1,
                        begin.elapsed().as_secs_f64()
                    ));
                    return Ok(());
                }
                Err(error) => {
                    let text = format!("{error:#}");
                    let line = text
                        .lines()
                        .find(|line| line.contains("rror"))
                        .unwrap_or(&text)
                        .to_owned();
                    self.say(format!(
                        "n{} does not take it: {}",
                        next + 1,
                        line.chars().take(200).collect::<String>()
                    ));
                    let _ = self.register.remove(&self.lab.node(next).dockerd);
                    last = Some(error);
                }
            }
            thread::sleep(Duration::from_secs(1));
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("no node is there"))).context("no node takes the workload")
    }

    /// Whether Swarm would use this host now.
    fn usable(&mut self, index: usize) -> bool {
        let host = self.lab.host(index);
        host.is_on()
            && !host.is_cut()
            && !self.left.iter().any(|(left, _)| *left == index)
            && self.lab.members[index]
                .node
                .dockerd
                .docker(["version"])
                .within(Duration::from_secs(3))
                .output()
                .is_ok_and(|answer| answer.status.success())
    }

    fn start(&mut self, index: usize) -> Result<()> {
        let seed: u32 = self.rng.random();
        let dockerd = &self.lab.node(index).dockerd;
        self.register
            .start(dockerd, &format!("--pause 4 --seed {seed}"))?;
        self.home = index;
        self.keep_fio()
    }

    /// Starts fio beside the register, if it does not run.
    fn keep_fio(&mut self) -> Result<()> {
        let dockerd = &self.lab.node(self.home).dockerd;
        if dockerd
            .inspect(FIO, "/State/Running")
            .is_ok_and(|running| running == true)
        {
            return Ok(());
        }
        // What it printed must not tell of wrong data; that its disk went away is what faults do.
        let said = dockerd
            .docker(["logs", FIO])
            .output()
            .map(|output| output.all())
            .unwrap_or_default();
        ensure!(
            !said.contains("verify:") && !said.contains("bad magic"),
            "fio read what it did not write: {said}"
        );
        let _ = dockerd
            .docker(["rm", "-f", FIO])
            .within(Duration::from_secs(60))
            .output();
        let volume = format!("{VOLUME}:/data");
        // Beside it files come, go and are trimmed, so that the pools have to find new room all the time.
        let line = "while :; do dd if=/dev/urandom of=/data/churn bs=1M count=16 conv=fsync; rm -f /data/churn; fstrim /data; sleep 1; done \
             >/dev/null 2>&1 & exec fio --name=v --filename=/data/fio --size=48M --rw=randrw --rwmixread=30 --bs=4k --ioengine=libaio \
             --direct=1 --iodepth=8 --rate_iops=100 --fsync=64 --verify=crc32c --verify_backlog=128 --verify_fatal=1 --time_based --runtime=86400";
        let started = dockerd
            .docker("run -d --init --cap-add=SYS_ADMIN --network=none --name".split(' '))
            .args([FIO, "-v", &volume, image::REGISTER, "sh", "-uc", line])
            .within(Duration::from_secs(110))
            .run();
        // The next fault may come at any time; the register is what has to run.
        if started.is_ok() {
            self.fio_runs += 1;
        }
        Ok(())
    }

    /// What was left behind on a node that was given up has to end by itself, once the node is healed at the latest.
    fn bury(&mut self) -> Result<()> {
        for (index, since) in std::mem::take(&mut self.left) {
            if index >= self.lab.members.len() || !self.lab.host(index).is_on() {
                continue;
            }
            let dockerd = &self.lab.node(index).dockerd;
            let register = &self.register;
            // It may have come back to where it was.
            if index == self.home && register.runs(dockerd) {
                continue;
            }
            wait::until(
                "the workload that was left behind ends",
                Duration::from_secs(90),
                || Ok((!register.runs(dockerd)).then_some(())),
            )
            .with_context(|| {
                format!(
                    "n{} still runs it: a container hangs on a volume that it has lost (P5)",
                    index + 1
                )
            })?;
            self.zombies.push(since.elapsed());
            wait::retry("its containers are removed", Duration::from_secs(90), || {
                register.remove(dockerd)?;
                dockerd.docker(["rm", "-f", FIO]).output().map(drop)
            })?;
        }
        Ok(())
    }

    /// The hosts with a replica of the volume.
    fn holders(&self) -> Result<Vec<usize>> {
        let view = inspect(self.lab.node(self.home))?;
        let nodes = view["replicas"].as_array().into_iter().flatten();
        Ok(nodes
            .filter_map(|replica| self.lab.index_of(replica["node"].as_str()?).ok())
            .collect())
    }

    fn no_violation(&self) -> Result<()> {
        let found = self.register.violations()?;
        ensure!(
            found.is_empty(),
            "{} violations: {:#?}",
            found.len(),
            &found[..found.len().min(10)]
        );
        Ok(())
    }

    /// A node that nobody will ever hear from again: the last one, which has no member of the store.
    fn lose_a_node(&mut self) -> Result<()> {
        self.await_whole()?;
        let last = self.lab.members.len() - 1;
        self.say(format!("n{} is gone for good", last + 1));
        *self.dealt.entry("node gone for good").or_default() += 1;
        self.lab.destroy(last)?;
        self.left.retain(|(index, _)| *index != last);
        if self.home == last {
            self.go_elsewhere(MOVE)?;
            self.left.retain(|(index, _)| *index != last);
        }
        Ok(())
    }

    /// Waits until as many replicas are in sync as the volume is to have.
    fn await_whole(&mut self) -> Result<()> {
        let begin = Instant::now();
        let mut last = Value::Null;
        loop {
            let node = self.lab.node(self.home);
            if let Ok(view) = inspect(node) {
                last = view;
            }
            // A node that is gone for good keeps its replica in the view until it has been missed, but it keeps no data.
            let there = names_in_sync(&last)
                .iter()
                .filter(|name| self.lab.index_of(name).is_ok())
                .count();
            if there == usize::from(self.campaign.repl) && last["healthy"] == true {
                return Ok(());
            }
            if !self.register.runs(&node.dockerd) {
                self.say("the workload has ended meanwhile");
                self.go_elsewhere(MOVE)?;
            }
            if begin.elapsed() > WHOLE {
                bail!("the volume is not whole after {WHOLE:?}: {last:#}");
            }
            thread::sleep(Duration::from_millis(500));
        }
    }
}

fn inspect(node: &Node) -> Result<Value> {
    let answer = node.bulkhead.json(&format!("volume inspect {VOLUME}"))?;
    Ok(answer
        .as_array()
        .map_or_else(|| answer.clone(), |all| all[0].clone()))
}

fn names_in_sync(view: &Value) -> Vec<String> {
    view["replicas"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|replica| replica["state"] == "in sync")
        .filter_map(|replica| Some(replica["node"].as_str()?.to_owned()))
        .collect()
}
