//! Why a volume or a replica could not be opened or closed. In words for people.

use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

use crate::disk::DiskError;
use crate::ids::{Epoch, NodeId, ReplicaId, VolumeId};
use crate::machine::primary::EndReason;

/// Why a node does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The kernel's boot id cannot be read.
    #[error("{0}")]
    Disk(#[from] DiskError),
    /// No thread for the timers.
    #[error("the thread for timers cannot be started: {0}")]
    Thread(std::io::Error),
    /// The settings of the link cannot be.
    #[error("{0}")]
    Link(#[from] crate::link::LinkConfigError),
}

/// Why a volume cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The record names another primary, or no replica.
    #[error("volume {volume}: its record (epoch {epoch}) {what}; it is not opened")]
    Record {
        /// The volume.
        volume: VolumeId,
        /// The record's epoch.
        epoch: Epoch,
        /// What is wrong with it.
        what: String,
    },
    /// Its only replica is on this node, and is not served.
    #[error("volume {volume}: replica {replica} on this node is not served: {why}")]
    NotServed {
        /// The volume.
        volume: VolumeId,
        /// The replica.
        replica: ReplicaId,
        /// Why.
        why: String,
    },
    /// Its only replica is on this node, and its files cannot be opened.
    #[error("volume {volume}: {source}")]
    Disk {
        /// The volume.
        volume: VolumeId,
        /// What is wrong.
        source: Arc<DiskError>,
    },
    /// Its only replica has failed at an earlier time (rule D6).
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
    /// It is attached in this process, in an epoch that is not older.
    #[error("volume {volume} is open on this node already, in epoch {epoch}")]
    Open {
        /// The volume.
        volume: VolumeId,
        /// The epoch in which it is open.
        epoch: Epoch,
    },
    /// It was opened, but ended before it could serve.
    #[error("volume {volume} cannot be served: {reason}{}", hint(.seen))]
    Ended {
        /// The volume.
        volume: VolumeId,
        /// Why it ended.
        reason: EndReason,
        /// What was seen of its replicas, in words.
        seen: Vec<String>,
    },
    /// It did not come to serve in time.
    #[error("volume {volume} did not become ready in time{}", hint(.seen))]
    Timeout {
        /// The volume.
        volume: VolumeId,
        /// What was seen of its replicas, in words.
        seen: Vec<String>,
    },
}

fn hint(seen: &[String]) -> String {
    if seen.is_empty() {
        String::new()
    } else {
        format!(" ({})", seen.join("; "))
    }
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
        "volume {volume}: the last checkpoint was not done in time; what was not flushed is on its way to the disks still"
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

/// Why a replica of this node is not there for whoever wants a session with it.
#[derive(Clone, Debug, Error)]
pub enum ReplicaError {
    /// It is not served here.
    #[error("node {node} does not serve replica {replica}: {why}")]
    NotServed {
        /// This node.
        node: NodeId,
        /// The replica.
        replica: ReplicaId,
        /// Why.
        why: String,
    },
    /// Another replica has this number.
    #[error("node {node} has replica {replica}, but of volume {found}, not of {expected}")]
    OtherVolume {
        /// This node.
        node: NodeId,
        /// The replica.
        replica: ReplicaId,
        /// Whose it is.
        found: VolumeId,
        /// Whose it was taken for.
        expected: VolumeId,
    },
    /// Its files cannot be opened.
    #[error("node {node}: {source}")]
    Disk {
        /// This node.
        node: NodeId,
        /// What is wrong.
        source: Arc<DiskError>,
    },
    /// It is being closed.
    #[error("node {node} is closing replica {replica}, which is to be removed or moved")]
    Closing {
        /// This node.
        node: NodeId,
        /// The replica.
        replica: ReplicaId,
    },
    /// Its disk does not answer.
    #[error("replica {replica} on node {node} was not opened in time; its disk does not answer")]
    Slow {
        /// This node.
        node: NodeId,
        /// The replica.
        replica: ReplicaId,
    },
}

/// Why a replica could not be closed.
#[derive(Debug, Error)]
pub enum CloseReplicaError {
    /// An operation hangs in the kernel.
    #[error(
        "replica {replica}: an operation on its disk does not return; it stays open until it does, or until this process ends"
    )]
    Stuck {
        /// The replica.
        replica: ReplicaId,
    },
}
