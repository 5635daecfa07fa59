//! The shell around the machines: turns their actions into calls on disks, and what these answer into events.
//!
//! It decides nothing about replication: every rule is a machine's. What it owns is how things run: which thread does
//! what, how much may be in flight, and that one volume holds up no other.
//!
//! **One block write.** A front end's thread calls [`Volume::submit`](crate::io::BlockDevice::submit): it takes a
//! permit, steps the primary under its lock, hands what that sends to the local replica's machine, unlocks, and does
//! the write that comes out, on the same thread, up to the front end's completion. What waits for the disk (syncs,
//! metadata commits, reads of what the page cache does not hold) runs on the [`Node`]'s threads, and goes on from there in the same way. One timer thread wakes
//! machines that asked for it; it never touches a disk.
//!
//! A step runs under a machine's lock; its actions are executed after unlocking, except those whose order counts: what is
//! sent to the local replica reaches it in the order of sending, and timers are set in the order of asking.

mod clock;
mod config;
mod counters;
mod drive;
mod executor;
mod local;
mod permits;
mod status;
mod timer;
mod volume;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use thiserror::Error;

use crate::disk::{self, DiskError};
use crate::ids::{BootId, ReplicaId, VolumeId};
use crate::machine::primary::EndReason;

pub use config::{OnEnded, VolumeConfig};
pub use counters::Served;
pub use status::{ReplicaStatus, VolumeState, VolumeStatus};
pub use volume::Volume;

use executor::Executor;
use timer::Timers;

/// Why a volume cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Its files cannot be opened.
    #[error("volume {volume}: {source}")]
    Disk {
        /// The volume.
        volume: VolumeId,
        /// What is wrong.
        source: DiskError,
    },
    /// Its replica has failed at an earlier time (rule D6).
    #[error(
        "volume {volume}: replica {replica} in {dir} is marked as failed ({reason}) and is not served, because what it \
         holds cannot be trusted. Look for disk errors below its pool (dmesg), then rebuild it from another replica; if there \
         is none, delete the volume and restore it from a backup"
    )]
    ReplicaFailed {
        /// The volume.
        volume: VolumeId,
        /// The replica.
        replica: ReplicaId,
        /// Its directory.
        dir: PathBuf,
        /// How it failed.
        reason: String,
    },
    /// This process has a replica of this identity open, in another directory: one of the two is a copy.
    #[error(
        "volume {volume}: replica {replica} is open already; the directory {dir} is a copy of it. Remove the copy"
    )]
    Duplicate {
        /// The volume.
        volume: VolumeId,
        /// The replica.
        replica: ReplicaId,
        /// The directory that was to be opened.
        dir: PathBuf,
    },
    /// It was opened, but ended before it could serve.
    #[error("volume {volume} cannot be served: {reason}")]
    Ended {
        /// The volume.
        volume: VolumeId,
        /// Why it ended.
        reason: EndReason,
    },
    /// It did not come to serve in time.
    #[error("volume {volume} did not become ready in time; its disk does not answer")]
    Timeout {
        /// The volume.
        volume: VolumeId,
    },
}

/// Why a volume was not closed in order. It is gone all the same; the next open finds an unclean stop.
#[derive(Debug, Error)]
pub enum CloseError {
    /// It had ended before.
    #[error("volume {volume} had ended before it was closed: {reason}")]
    Ended {
        /// The volume.
        volume: VolumeId,
        /// Why it ended.
        reason: EndReason,
    },
    /// The final checkpoint was not done in time.
    #[error(
        "volume {volume}: the last checkpoint was not done in time; what was not flushed is on its way to the disk still"
    )]
    Timeout {
        /// The volume.
        volume: VolumeId,
    },
    /// An operation hangs in the kernel.
    #[error(
        "volume {volume}: an operation on its disk does not return; its replica stays locked until it does, or until \
         this process ends"
    )]
    Stuck {
        /// The volume.
        volume: VolumeId,
    },
}

/// What all volumes of a process share: threads for slow work, timers, and the boot of the kernel.
pub struct Node {
    boot: BootId,
    executor: Executor,
    timers: Timers,
    open: Mutex<BTreeSet<ReplicaId>>,
}

impl Node {
    /// Starts the timer thread, and reads the kernel's boot id.
    pub fn start() -> Result<Arc<Self>, DiskError> {
        Self::start_under(disk::boot_id()?)
    }

    /// As [`start`](Self::start), under another boot id: what a replica finds after the machine was restarted.
    pub fn start_under(boot: BootId) -> Result<Arc<Self>, DiskError> {
        let timers = Timers::start().map_err(|source| DiskError::Io {
            what: "cannot start the thread for",
            path: PathBuf::from("timers"),
            source,
        })?;
        Ok(Arc::new(Self {
            boot,
            executor: Executor::default(),
            timers,
            open: Mutex::default(),
        }))
    }

    fn claim(self: &Arc<Self>, replica: ReplicaId) -> Option<Claim> {
        self.open.lock().insert(replica).then(|| Claim {
            node: self.clone(),
            replica,
        })
    }
}

/// A replica is open in this process for as long as this lives.
struct Claim {
    node: Arc<Node>,
    replica: ReplicaId,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.node.open.lock().remove(&self.replica);
    }
}
