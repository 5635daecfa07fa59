//! The end of a campaign: what must be whole, the same and in place, and the counts.
//!
//! It owns the order of the last checks. It must never call a run good of which it has not compared every byte.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::super::compare;
use super::{FIO, Run, VOLUME, WHOLE, inspect, names_in_sync};
use crate::wait;

impl Run {
    /// All healed: every volume healthy, the last values in place, the replicas the same byte by byte.
    pub(super) fn reckon(&mut self) -> Result<()> {
        self.say("all is healed");
        self.lab.heal()?;
        self.bury()?;
        self.settle()?;
        let begin = Instant::now();
        self.await_whole()?;
        self.say(format!("whole after {:.1} s", begin.elapsed().as_secs_f64()));
        // Under load, as an operator would ask.
        let said = self
            .lab
            .node(self.home)
            .bulkhead
            .cli(&format!("volume verify {VOLUME}"))
            .within(WHOLE)
            .run()
            .context("the members are compared under load")?;
        self.say(said.lines().last().unwrap_or("verified"));
        let dockerd = &self.lab.node(self.home).dockerd;
        dockerd.docker(["rm", "-f", FIO]).output()?;
        self.register.remove(dockerd)?;
        let other = (self.home + 1) % self.lab.members.len();
        let checked = self.register.check(&self.lab.node(other).dockerd)?;
        self.no_violation()?;
        ensure!(checked.status == Some(0), "the last check: {checked:?}");
        let view = wait::until("the volume is detached", Duration::from_secs(60), || {
            let view = inspect(self.lab.node(other))?;
            Ok((view["attached"].is_null() && view["healthy"] == true).then_some(view))
        })?;
        // One on a node that is gone for good stays listed until somebody says that it is.
        let names = names_in_sync(&view);
        let hosts = names
            .iter()
            .map(|name| self.lab.index_of(name))
            .collect::<Result<Vec<_>>>()?;
        ensure!(
            hosts.len() == usize::from(self.campaign.repl),
            "there are replicas on {names:?}"
        );
        let bytes = compare::replicas(&self.lab, &hosts)?;
        self.say(format!(
            "the replicas on {} are the same, {bytes} bytes each",
            names.join(", ")
        ));
        Ok(())
    }

    pub(super) fn print(&self, outcome: &Result<()>) {
        let tally = self
            .register
            .history()
            .map(|history| history.tally)
            .unwrap_or_default();
        println!("\nfaults");
        for (kind, count) in &self.dealt {
            println!("  {kind:<28} {count:>6}");
        }
        let longest = |all: &[Duration]| all.iter().max().map_or(0.0, Duration::as_secs_f64);
        println!("  {:<28} {:>6}", "all", self.dealt.values().sum::<u32>());
        println!("workload");
        println!("  {:<28} {:>6}", "moved to another node", self.moves.len());
        println!("  {:<28} {:>6.1}", "longest move, s", longest(&self.moves));
        println!(
            "  {:<28} {:>6.1}",
            "longest life left behind, s",
            longest(&self.zombies)
        );
        println!("  {:<28} {:>6}", "runs of fio --verify", self.fio_runs);
        println!("seed {}", self.campaign.seed);
        println!(
            "{} faults, {} writes, {} flushes checked, {} reads, {} violations{}",
            self.dealt.values().sum::<u32>(),
            tally.writes,
            tally.flushes,
            tally.reads,
            tally.violations,
            if outcome.is_ok() { "" } else { "; FAILED" }
        );
    }
}
