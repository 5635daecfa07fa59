//! What a person or a program is told of an open volume and of a node's replicas.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::counters::Served;
use crate::ids::{Epoch, Incarnation, NodeId, ReplicaId, Tick, VolumeId};
use crate::machine::protocol::Inspected;

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
    /// Of which volume.
    pub volume: VolumeId,
    /// Which.
    pub replica: ReplicaId,
    /// This opening of it.
    pub incarnation: Incarnation,
    /// Why it has failed, in words, if it has; it serves nothing then.
    pub failure: Option<String>,
    /// The newest epoch that it has accepted.
    pub epoch: Epoch,
    /// Everything up to it is on this replica's disk.
    pub durable: Tick,
    /// The newest settled tick that it knows.
    pub settled: Tick,
    /// Whether it holds every write that it acknowledged.
    pub whole: bool,
    /// Whether it was closed in order and not used since.
    pub clean: bool,
    /// Regions that may hold writes which are not settled.
    pub set_regions: usize,
    /// Sessions that it has, of this node's primary or another's.
    pub sessions: usize,
    /// Bytes that its data takes up in the pool, if that could be read.
    pub allocated: Option<u64>,
    /// The pool has refused a write for want of space, and has hardly any now.
    pub pool_full: bool,
}

/// What a replica is to its volume, as the record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// In sync.
    Member,
    /// Out of sync.
    Stale,
    /// Being brought up to date.
    Rebuilding,
}

/// How a replica can be reached from its primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// It answers.
    Up,
    /// It does not.
    Down,
}

/// How far a rebuild is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RebuildStatus {
    /// Bytes that have been copied.
    pub copied: u64,
    /// Bytes to copy; zero while that is not known.
    pub total: u64,
    /// Of it, in percent.
    pub percent: f64,
    /// Bytes copied in a second, of late.
    pub speed: u64,
    /// How long it will take at that speed, if there is any.
    pub remaining: Option<Duration>,
}

/// A replica of an open volume, as its primary sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerView {
    /// Which.
    pub replica: ReplicaId,
    /// On which node.
    pub node: NodeId,
    /// Whether that is this one.
    pub local: bool,
    /// What it is to the volume.
    pub standing: Standing,
    /// The settled tick when it left, if it is out of sync: what it lacks at most is what came later.
    pub left_at: Option<Tick>,
    /// Whether it can be reached.
    pub reach: Reach,
    /// Why it cannot, in words, as far as that is known.
    pub trouble: Option<String>,
    /// Requests that it has not answered.
    pub unanswered: usize,
    /// Bytes that its connection has not taken yet.
    pub queued_bytes: usize,
    /// How long the last ping took.
    pub round_trip: Option<Duration>,
    /// How far its rebuild is, if there is one.
    pub rebuild: Option<RebuildStatus>,
}

/// How far a comparison of the members is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyStatus {
    /// Bytes of the volume that have been compared.
    pub compared: u64,
    /// Bytes of the volume.
    pub size: u64,
    /// Pieces in which members differ.
    pub differing: u64,
    /// How long it has been under way.
    pub took: Duration,
}

/// An open volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// The newest tick all of whose writes every member has answered.
    pub settled: Tick,
    /// Size in bytes.
    pub size: u64,
    /// Its replica on this node, if it has one that is open.
    pub local: Option<ReplicaStatus>,
    /// Its replicas, members or not.
    pub replicas: Vec<PeerView>,
    /// How far the comparison of its members is, if one is under way.
    pub verify: Option<VerifyStatus>,
    /// What it has served since it was opened.
    pub served: Served,
    /// Requests in flight now.
    pub in_flight: usize,
}

/// Something that happened to an open volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum VolumeEvent {
    /// It is served from now on.
    Serving {
        /// In this epoch.
        epoch: Epoch,
    },
    /// A replica can be reached again, or for the first time.
    Reached {
        /// Which.
        replica: ReplicaId,
    },
    /// A replica cannot be reached.
    Lost {
        /// Which.
        replica: ReplicaId,
        /// Why, in words.
        reason: String,
    },
    /// A replica is something else to the volume now.
    Standing {
        /// Which.
        replica: ReplicaId,
        /// What it is.
        standing: Standing,
        /// Since this epoch.
        epoch: Epoch,
    },
}

/// A replica that was asked what it says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surveyed {
    /// Which.
    pub replica: ReplicaId,
    /// On which node.
    pub node: NodeId,
    /// What it says; or why it does not, in words.
    pub found: Result<Inspected, String>,
}

impl Surveyed {
    /// The newest epoch that it has accepted, if it has answered.
    pub fn epoch(&self) -> Option<Epoch> {
        self.found.as_ref().ok().map(|found| found.epoch)
    }
}
