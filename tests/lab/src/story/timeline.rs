//! What took how long, from what Docker, the daemon and the database tell.
//!
//! It owns the division of the time from the loss to the first query. All hosts have one clock, that of the machine.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use super::stage::{Stage, VOLUME};

/// The parts, in the order in which they happen.
#[derive(Debug, Clone, Copy, Default)]
pub struct Division {
    /// Until Docker on the new node asked for the mount: Swarm misses heartbeats, decides, prepares the container, and
    /// waits for its restart delay (5 s) before it starts it.
    pub detection: Duration,
    /// Until the record named the new node: the dead one's lease, its replicas asked.
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
        let (asked, mounted) = mounts(stage)?
            .into_iter()
            .find(|(_, at)| *at >= created)
            .unwrap_or((started, started));
        let (asked, mounted) = (asked.clamp(created, started.max(created)), mounted.min(started));
        let since = since.clamp(asked, mounted.max(asked));
        let between = |from: SystemTime, to: SystemTime| to.duration_since(from).unwrap_or_default();
        Ok(Self {
            detection: between(begin, asked),
            takeover: between(asked, since),
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

/// When Docker asked the daemon of the database's host for a mount, and when it had it, by what the daemon tells; one in a
/// plugin tells it to dockerd.
fn mounts(stage: &Stage) -> Result<Vec<(SystemTime, SystemTime)>> {
    let log = if stage.setting.managed {
        "dockerd.log"
    } else {
        "bulkhead.log"
    };
    let log = std::fs::read(stage.lab.host(stage.home).dir().join(log))?;
    let text = String::from_utf8_lossy(&log).into_owned();
    Ok(text
        .lines()
        .filter(|line| line.contains(VOLUME))
        .filter_map(mount)
        .collect())
}

/// What a line like `TIME INFO taken over: record 0.01 s, …, in all 1.23 s volume="…"` says of a mount.
fn mount(line: &str) -> Option<(SystemTime, SystemTime)> {
    if !line.contains("taken over: ") && !line.contains("mounted: ") {
        return None;
    }
    let at = line
        .split_whitespace()
        .find_map(|word| time(word.trim_start_matches("msg=\"")).ok())?;
    let (_, all) = line.split_once(", in all ")?;
    let seconds: f64 = all.split_whitespace().next()?.parse().ok()?;
    Some((at.checked_sub(Duration::try_from_secs_f64(seconds).ok()?)?, at))
}

pub(super) fn time(text: &str) -> Result<SystemTime> {
    humantime::parse_rfc3339_weak(text).with_context(|| format!("{text:?} is no time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_daemon_tells_when_it_was_asked() {
        let line = "2026-11-23T14:10:28.500000Z  INFO taken over: record 0.01 s, in all 1.25 s volume=\"pgdata\" epoch=3";
        let at = time("2026-11-23T14:10:28.500000Z").unwrap();
        assert_eq!(mount(line), Some((at - Duration::from_millis(1250), at)));
        let quoted = format!("time=\"x\" level=error msg=\"{line}\" plugin=abc");
        assert_eq!(mount(&quoted), Some((at - Duration::from_millis(1250), at)));
        assert_eq!(mount("2026-11-23T14:10:28.5Z INFO a volume has changed"), None);
    }
}
