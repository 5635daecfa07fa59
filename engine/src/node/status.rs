//! What a person or a program is told of an open volume.

use serde::{Deserialize, Serialize};

use super::counters::Served;
use crate::ids::{Epoch, Incarnation, ReplicaId, Tick, VolumeId};

/// Where a volume is in its life on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "reason")]
pub enum VolumeState {
    /// Being opened.
    Opening,
    /// Serving requests.
    Serving,
    /// Over: why, in words. Every request fails.
    Ended(String),
}

/// An open replica of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// Which.
    pub replica: ReplicaId,
    /// This opening of it.
    pub incarnation: Incarnation,
    /// Why it has failed, in words, if it has; it serves nothing then.
    pub failure: Option<String>,
    /// Everything up to it is on this replica's disk.
    pub durable: Tick,
    /// The newest settled tick that it knows.
    pub settled: Tick,
    /// Whether it holds every write that it acknowledged.
    pub whole: bool,
    /// Regions that may hold writes which are not settled.
    pub set_regions: usize,
    /// Bytes that its data takes up in the pool, if that could be read.
    pub allocated: Option<u64>,
    /// The pool has refused a write for want of space, and has hardly any now.
    pub pool_full: bool,
}

/// An open volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// Which.
    pub volume: VolumeId,
    /// Where it is in its life.
    #[serde(flatten)]
    pub state: VolumeState,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its tick: what a write that came now would be stamped with.
    pub tick: Tick,
    /// Size in bytes.
    pub size: u64,
    /// Its replica on this node.
    pub local: ReplicaStatus,
    /// What it has served since it was opened.
    pub served: Served,
    /// Requests in flight now.
    pub in_flight: usize,
}
