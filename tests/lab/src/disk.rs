//! A disk that fails when it is told to, and that forgets what was not synced when its host loses power.
//!
//! It owns the process of `bulkhead-lab-disk` on the host, which serves one file at [`POOL`] for a pool to lie on. The process
//! dies with its host and takes all unsynced writes with it. It must never lose a write that it has confirmed a sync of.

use std::fmt;
use std::fs;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command::Cmd;
use crate::host::Host;
use crate::programs;
use crate::service::Service;
use crate::wait;

/// Where the file system with the faulty file is mounted.
pub const MOUNT: &str = "/disk";
/// The faulty file, on which a pool is to be made.
pub const POOL: &str = "/disk/pool-0.img";
/// What holds the synced writes.
pub const BACKING: &str = "/var/lib/store/disk.img";
/// Where the wanted mood is written.
pub const WANTED: &str = "/run/lab-disk.wanted";
/// Where the disk tells which mood it is in.
pub const NOW: &str = "/run/lab-disk.now";

/// How a disk behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// It does what it is asked.
    Well,
    /// Every read, write and sync fails.
    Broken,
    /// Every write and sync fails; what is there can be read.
    Worn,
    /// Every sync fails.
    NoSync,
    /// Every write fails as if there were no room.
    Full,
    /// Every request takes this long.
    Slow(Duration),
    /// No request is answered.
    Stuck,
}

impl fmt::Display for Mood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Well => f.write_str("well"),
            Self::Broken => f.write_str("broken"),
            Self::Worn => f.write_str("worn"),
            Self::NoSync => f.write_str("nosync"),
            Self::Full => f.write_str("full"),
            Self::Slow(pause) => write!(f, "slow {}", pause.as_millis()),
            Self::Stuck => f.write_str("stuck"),
        }
    }
}

impl FromStr for Mood {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text.trim() {
            "well" => Self::Well,
            "broken" => Self::Broken,
            "worn" => Self::Worn,
            "nosync" => Self::NoSync,
            "full" => Self::Full,
            "stuck" => Self::Stuck,
            other => match other.strip_prefix("slow ") {
                Some(millis) => Self::Slow(Duration::from_millis(millis.parse()?)),
                None => bail!("a disk has no mood {other:?}"),
            },
        })
    }
}

/// A faulty disk of a host.
#[derive(Debug)]
pub struct FaultyDisk {
    host: Arc<Host>,
    service: Service,
}

impl FaultyDisk {
    /// Gives a host such a disk, which is well at first.
    pub fn start(host: &Arc<Host>) -> Result<Self> {
        Ok(Self {
            service: Self::launch(host)?,
            host: Arc::clone(host),
        })
    }

    /// Starts it again after its host's power came back.
    pub fn restart(&mut self) -> Result<()> {
        self.service = Self::launch(&self.host)?;
        Ok(())
    }

    /// Sets how it behaves, and returns when it does.
    pub fn set(&self, mood: Mood) -> Result<()> {
        let (wanted, now) = (self.host.outside(WANTED), self.host.outside(NOW));
        let text = mood.to_string();
        let part = wanted.with_extension("part");
        fs::write(&part, &text)?;
        fs::rename(&part, &wanted)?;
        wait::until("the disk has changed its mood", Duration::from_secs(10), || {
            Ok((fs::read_to_string(&now).is_ok_and(|now| now == text)).then_some(()))
        })
        .with_context(|| format!("log of the disk:\n{}", self.service.log_tail(20)))
    }

    fn launch(host: &Arc<Host>) -> Result<Service> {
        let program = programs::own("bulkhead-lab-disk")?;
        host.sh(&format!("mkdir -p {MOUNT}")).run()?;
        let mut service = host.spawn("disk", Cmd::new(program))?;
        let now = host.outside(NOW);
        service.until("the disk is mounted", Duration::from_secs(10), || {
            Ok(now.exists().then_some(()))
        })?;
        Ok(service)
    }
}
