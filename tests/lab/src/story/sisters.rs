//! The whole set, and its table.
//!
//! It owns which stories are told in which order. It must never leave a run that failed out of the table.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Result, bail};

use super::{Fall, Outcome, Scene, Stage};
use crate::{StoreKind, keep};

/// The rows of the table.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<(String, Result<Outcome, String>)>,
}

impl Table {
    /// Plays a scene on a stage, and notes how it went.
    pub fn play(&mut self, name: &str, stage: &mut Stage, scene: Scene) -> bool {
        println!("--- {name}");
        let outcome = stage.play(scene).map_err(|error| format!("{error:#}"));
        let good = outcome.is_ok();
        if !good {
            keep::logs(&stage.lab, "story");
        }
        self.note(name, outcome);
        good
    }

    fn note(&mut self, name: &str, outcome: Result<Outcome, String>) {
        if let Err(error) = &outcome {
            println!("FAILED: {error}");
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
                    seconds(o.whole),
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

/// The story `runs` times, back and forth, and then its sisters.
pub fn all(store: StoreKind, runs: u32) -> Result<()> {
    let mut table = Table::default();
    let other = match store {
        StoreKind::Etcd => StoreKind::Consul,
        StoreKind::Consul => StoreKind::Etcd,
    };
    let calm = |fall| Scene { fall, load: false };
    let busy = |fall| Scene { fall, load: true };
    let mut stage = Stage::set(store, 2, false)?;
    let mut good = true;
    for run in 1..=runs {
        // Every other run under load, for which the commits are counted.
        let scene = if run % 2 == 0 {
            busy(Fall::Cut)
        } else {
            calm(Fall::Cut)
        };
        good = table.play(&format!("the story on {store}, run {run}"), &mut stage, scene);
        if !good {
            break;
        }
    }
    if good {
        for (name, fall) in [
            ("power off under load", Fall::PowerOff),
            ("cut in both directions, under load", Fall::CutBoth),
            ("cut of what comes in, under load", Fall::CutIncoming),
        ] {
            good &= table.play(name, &mut stage, busy(fall));
            if !good {
                break;
            }
        }
    }
    if good {
        stage.lead_swarm()?;
        good = table.play("the Swarm leader's node", &mut stage, busy(Fall::Cut));
    }
    if good {
        stage.lead_store()?;
        table.play("the node of the store's leader", &mut stage, busy(Fall::Cut));
    }
    drop(stage);

    let mut stage = Stage::set(other, 2, false)?;
    table.play(
        &format!("{other} instead of {store}"),
        &mut stage,
        busy(Fall::Cut),
    );
    drop(stage);

    let mut stage = Stage::set(store, 3, false)?;
    if table.play("three replicas, the first node lost", &mut stage, busy(Fall::Cut)) {
        table.play(
            "three replicas, the second node lost",
            &mut stage,
            busy(Fall::PowerOff),
        );
    }
    drop(stage);
    table.finish()
}
