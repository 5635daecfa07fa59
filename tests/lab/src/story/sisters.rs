//! The whole set, and its table.
//!
//! It owns which stories are told in which order. It must never leave a run that failed out of the table.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Result, bail};

use super::{Fall, Outcome, Scene, Setting, Stage};
use crate::{StoreKind, keep};

/// The rows of the table.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<(String, Result<Outcome, String>)>,
}

impl Table {
    /// Sets a stage and plays on it; that it could not be set is noted too.
    fn on(&mut self, setting: Setting, play: impl FnOnce(&mut Self, &mut Stage)) {
        match Stage::set(setting) {
            Ok(mut stage) => play(self, &mut stage),
            Err(error) => self.note("setting the stage", Err(format!("{error:#}"))),
        }
    }

    /// Loses two nodes of three replicas, one after the other, before either comes back.
    fn one_after_the_other(&mut self, stage: &mut Stage) {
        let falls = [
            ("three replicas, the first node lost", Fall::Cut),
            ("three replicas, the second one too", Fall::PowerOff),
        ];
        let mut losses = Vec::new();
        for (name, fall) in falls {
            let good = self.try_to(name, stage, |stage| {
                let loss = stage.lose(Scene { fall, load: true })?;
                let mut outcome = loss.outcome.clone();
                losses.push(loss);
                if losses.len() == falls.len() {
                    outcome.whole = Some(stage.regain(&losses)?);
                }
                Ok(outcome)
            });
            if !good {
                return;
            }
        }
    }

    /// Plays a scene on a stage, and notes how it went.
    pub fn play(&mut self, name: &str, stage: &mut Stage, scene: Scene) -> bool {
        self.try_to(name, stage, |stage| stage.play(scene))
    }

    fn try_to(
        &mut self,
        name: &str,
        stage: &mut Stage,
        act: impl FnOnce(&mut Stage) -> Result<Outcome>,
    ) -> bool {
        println!("--- {name}");
        let outcome = act(stage).map_err(|error| format!("{error:#}"));
        let good = outcome.is_ok();
        if !good {
            keep::logs(&stage.lab, "story");
        }
        self.note(name, outcome);
        good
    }

    fn note(&mut self, name: &str, outcome: Result<Outcome, String>) {
        match &outcome {
            Err(error) => println!("FAILED: {error}"),
            // Whoever ends a long run early has what there is.
            Ok(outcome) => println!(
                "{} rows on {} after {:.1} s, of which ours {:.1} s; {} commits",
                outcome.rows,
                outcome.to,
                outcome.total.as_secs_f64(),
                outcome.division.ours().as_secs_f64(),
                outcome.commits
            ),
        }
        self.rows.push((name.to_owned(), outcome));
    }

    /// Prints it; fails if a run did.
    pub fn finish(self) -> Result<()> {
        let mut text = format!(
            "\n{:<44} {:>9} {:>8} {:>7} {:>9} {:>8} {:>6} {:>7} {:>9} {:>7} {:>8} {:>7}\n",
            "run",
            "from, to",
            "rows",
            "total",
            "detection",
            "takeover",
            "mount",
            "docker",
            "recovery",
            "commits",
            "zombie",
            "whole"
        );
        let seconds = |took: Duration| format!("{:.1}", took.as_secs_f64());
        for (name, outcome) in &self.rows {
            let _ = match outcome {
                Err(_) => writeln!(text, "{name:<44} FAILED"),
                Ok(o) => writeln!(
                    text,
                    "{name:<44} {:>9} {:>8} {:>7} {:>9} {:>8} {:>6} {:>7} {:>9} {:>7} {:>8} {:>7}",
                    format!("{}, {}", o.from, o.to),
                    o.rows,
                    seconds(o.total),
                    seconds(o.division.detection),
                    seconds(o.division.takeover),
                    seconds(o.division.file_system),
                    seconds(o.division.docker),
                    seconds(o.division.recovery),
                    o.commits,
                    o.zombie.map_or("-".to_owned(), seconds),
                    o.whole.map_or("-".to_owned(), seconds),
                ),
            };
        }
        println!("{text}");
        let good: Vec<&Outcome> = self
            .rows
            .iter()
            .filter_map(|(_, outcome)| outcome.as_ref().ok())
            .collect();
        let median = |of: fn(&Outcome) -> Duration| {
            let mut all: Vec<_> = good.iter().map(|outcome| of(outcome)).collect();
            all.sort_unstable();
            all.get(all.len() / 2).copied().map_or("-".to_owned(), seconds)
        };
        println!(
            "{} of {} runs with every row and every commit; median {} s from the loss to the first query, of which ours {} s",
            good.len(),
            self.rows.len(),
            median(|outcome| outcome.total),
            median(|outcome| outcome.division.ours()),
        );
        let failed: Vec<String> = self
            .rows
            .iter()
            .filter_map(|(name, outcome)| Some(format!("{name}: {}", outcome.as_ref().err()?)))
            .collect();
        if failed.is_empty() {
            return Ok(());
        }
        bail!("{} runs failed:\n{}", failed.len(), failed.join("\n"))
    }
}

/// How often the story is played without a pause on the same hosts, at the least.
const BACK_AND_FORTH: u32 = 10;

/// The story `runs` times, back and forth, and then its sisters.
pub fn all(store: StoreKind, runs: u32) -> Result<()> {
    let mut table = Table::default();
    let other = match store {
        StoreKind::Etcd => StoreKind::Consul,
        StoreKind::Consul => StoreKind::Etcd,
    };
    let calm = |fall| Scene { fall, load: false };
    let busy = |fall| Scene { fall, load: true };
    let plain = Setting::new(store);

    // What fails on a stage leaves it in a state that the next scene is not to begin with.
    table.on(plain, |table, stage| {
        for run in 1..=runs.max(BACK_AND_FORTH) {
            // Every other run under load, for which the commits are counted.
            let scene = if run % 2 == 0 {
                busy(Fall::Cut)
            } else {
                calm(Fall::Cut)
            };
            let name = if run <= runs {
                format!("the story on {store}, run {run}")
            } else {
                format!("back and forth, time {run}")
            };
            if !table.play(&name, stage, scene) {
                return;
            }
        }
    });
    table.on(plain, |table, stage| {
        let _ = [
            ("power off under load", Fall::PowerOff),
            ("cut in both directions, under load", Fall::CutBoth),
            ("cut of what comes in, under load", Fall::CutIncoming),
        ]
        .into_iter()
        .all(|(name, fall)| table.play(name, stage, busy(fall)));
    });
    table.on(plain, |table, stage| {
        let _ = table.try_to("the Swarm leader's node", stage, |stage| {
            stage.lead_swarm()?;
            stage.play(busy(Fall::Cut))
        }) && table.try_to("the node of the store's leader", stage, |stage| {
            stage.lead_store()?;
            stage.play(busy(Fall::Cut))
        });
    });
    table.on(Setting::new(other), |table, stage| {
        table.play(&format!("{other} instead of {store}"), stage, busy(Fall::Cut));
    });
    let managed = Setting {
        managed: true,
        ..plain
    };
    table.on(managed, |table, stage| {
        table.play("the managed plugin", stage, busy(Fall::Cut));
    });
    let stack = Setting { stack: true, ..plain };
    table.on(stack, |table, stage| {
        table.play("a stack with an application", stage, busy(Fall::Cut));
    });
    // Swarm and the store outlive two of five.
    let three = Setting {
        repl: 3,
        hosts: 5,
        ..plain
    };
    table.on(three, |table, stage| table.one_after_the_other(stage));
    table.finish()
}
