//! The ways in which the database's node is lost, and comes back.
//!
//! It owns the choice of the host where that matters. It must never touch another host than the database's.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};

use super::stage::Stage;
use crate::{swarm, wait};

/// How the node is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fall {
    /// The founding story's rules: nothing goes out.
    Cut,
    /// Nothing comes in.
    CutIncoming,
    /// Both directions.
    CutBoth,
    /// The power fails.
    PowerOff,
}

impl Fall {
    /// Lets the node fall.
    pub fn deal(self, stage: &mut Stage) -> Result<()> {
        let host = stage.lab.host(stage.home);
        match self {
            Self::Cut => host.cut(),
            Self::CutIncoming => host.cut_incoming(),
            Self::CutBoth => host.cut_both(),
            Self::PowerOff => stage.lab.power_off(stage.home),
        }
    }

    /// Lets a node come back.
    pub fn undo(self, stage: &mut Stage, index: usize) -> Result<()> {
        match self {
            Self::PowerOff => stage.lab.power_on(index),
            Self::Cut | Self::CutIncoming | Self::CutBoth => stage.lab.host(index).heal(),
        }
    }

    /// Whether what runs on the node goes on running there.
    pub fn leaves_running(self) -> bool {
        self != Self::PowerOff
    }
}

impl fmt::Display for Fall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cut => "cut off as in the story",
            Self::CutIncoming => "cut off, incoming",
            Self::CutBoth => "cut off, both ways",
            Self::PowerOff => "power off",
        })
    }
}

impl Stage {
    /// Lets the database's host lead the Swarm: others are demoted and promoted again until it does.
    pub fn lead_swarm(&self) -> Result<()> {
        wait::until(
            "the database's host leads the Swarm",
            Duration::from_secs(180),
            || {
                let manager = &self.lab.node(self.home).dockerd;
                let leader = swarm::leader(manager)?;
                if leader == self.home_name() {
                    return Ok(Some(()));
                }
                manager.run(&format!("node demote {leader}"))?;
                std::thread::sleep(Duration::from_secs(3));
                wait::retry("the manager is promoted again", Duration::from_secs(30), || {
                    manager.run(&format!("node promote {leader}"))
                })?;
                std::thread::sleep(Duration::from_secs(3));
                Ok(None)
            },
        )
    }

    /// Lets the database's host lead the store: whoever else does is restarted.
    pub fn lead_store(&mut self) -> Result<()> {
        for _ in 0..20 {
            let leader = self.lab.store_leader()?;
            if leader == self.home {
                return Ok(());
            }
            let store = self.lab.members[leader]
                .store
                .as_mut()
                .context("it has no store")?;
            store.kill()?;
            std::thread::sleep(Duration::from_secs(3));
            store.restart()?;
            store.await_ready()?;
        }
        anyhow::bail!("{} did not become the store's leader", self.home_name())
    }
}
