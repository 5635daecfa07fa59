//! What took how long, from what Docker, the daemon and the database tell.
//!
//! It owns the division of the time from the loss to the first query. All hosts have one clock, that of the machine.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use super::stage::{Stage, VOLUME};

/// The parts, in the order in which they happen.
#[derive(Debug, Clone, Copy, Default)]
pub struct Division {
    /// Until Docker on the new node asked for the volume: Swarm misses heartbeats, decides, waits for its restart delay.
    pub detection: Duration,
    /// Until the record named the new node: the dead one's lease.
    pub takeover: Duration,
    /// Until the file system was mounted: replicas opened and made the same, the file system's journal.
    pub file_system: Duration,
    /// Until the container's process ran.
    pub docker: Duration,
    /// Until the first query was answered: PostgreSQL's recovery.
    pub recovery: Duration,
}

impl Division {
    /// Divides the time between `begin` and `end`, for the container that runs now.
    pub fn of(stage: &Stage, begin: SystemTime, end: SystemTime) -> Result<Self> {
        let node = stage.lab.node(stage.home);
        let told = |pointer: &str| -> Result<SystemTime> {
            let value = node.dockerd.inspect(&stage.container, pointer)?;
            time(value.as_str().unwrap_or_default())
        };
        let (created, started) = (told("/Created")?, told("/State/StartedAt")?);
        let view = node.bulkhead.json(&format!("volume inspect {VOLUME}"))?;
        let view = view.as_array().map_or_else(|| view.clone(), |all| all[0].clone());
        let since = time(view["attached"]["since"].as_str().unwrap_or_default())?;
        // Docker may mount it once more for a moment before; the first of the mounts after it was asked is what it waited for.
        let mounted = mounted(stage)?
            .into_iter()
            .find(|at| *at >= created)
            .unwrap_or(started)
            .min(started);
        let since = since.clamp(created, mounted.max(created));
        let between = |from: SystemTime, to: SystemTime| to.duration_since(from).unwrap_or_default();
        Ok(Self {
            detection: between(begin, created),
            takeover: between(created, since),
            file_system: between(since, mounted),
            docker: between(mounted, started),
            recovery: between(started, end),
        })
    }

    /// What is neither Swarm's detection nor PostgreSQL's start.
    pub fn ours(&self) -> Duration {
        self.takeover + self.file_system
    }
}

/// When the daemon of the database's host says that it mounted the volume; one in a plugin says it to dockerd.
fn mounted(stage: &Stage) -> Result<Vec<SystemTime>> {
    let log = if stage.setting.managed {
        "dockerd.log"
    } else {
        "bulkhead.log"
    };
    let log = std::fs::read(stage.lab.host(stage.home).dir().join(log))?;
    let text = String::from_utf8_lossy(&log).into_owned();
    Ok(text
        .lines()
        .filter(|line| line.contains(" mounted ") && line.contains(VOLUME))
        .filter_map(|line| {
            line.split_whitespace()
                .find_map(|word| time(word.trim_start_matches("msg=\"")).ok())
        })
        .collect())
}

pub(super) fn time(text: &str) -> Result<SystemTime> {
    humantime::parse_rfc3339_weak(text).with_context(|| format!("{text:?} is no time"))
}
