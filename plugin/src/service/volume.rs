//! Volumes as the faces show them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ReplicaDiskView, rfc3339};

/// A volume as the faces show it. Made from what the node knows already: to get one never waits for a stuck volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VolumeView {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: String,
    /// When it was created.
    #[serde(with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: SystemTime,
    /// Where it is mounted on this node.
    #[schema(value_type = Option<String>)]
    pub mountpoint: Option<PathBuf>,
    /// One word: creating, ready, attached, failed, deleting, …
    pub state: String,
    /// The state in words, with what to do if something is wrong.
    pub status: String,
    /// Whether nothing is wrong with it.
    pub healthy: bool,
    /// Size in bytes.
    pub size: u64,
    /// Bytes that its replica on this node takes in its pool.
    pub allocated: Option<u64>,
    /// Bytes that its file system holds, if it is mounted here.
    pub used: Option<u64>,
    /// Its file system.
    pub fs: String,
    /// How many replicas it is meant to have.
    pub repl: u8,
    /// Medium that was asked for.
    pub io_priority: Option<String>,
    /// Its storage class.
    pub class: Option<String>,
    /// Nodes to which it is restricted.
    pub nodes: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Options for mount.
    pub mount_options: Option<String>,
    /// Options for mkfs.
    pub mkfs_options: Option<String>,
    /// Its replicas.
    pub replicas: Vec<ReplicaView>,
    /// Where it is attached, since when, and what uses it.
    pub attached: Option<AttachedView>,
    /// The node that asks for it to be released, and since when.
    pub wanted: Option<AttachedView>,
    /// Raised by every change of where it is attached and of which replicas are in sync.
    pub epoch: u32,
    /// As of when this is true, if it may be out of date.
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub as_of: Option<SystemTime>,
}

/// A replica of a volume, as the faces show it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReplicaView {
    /// Its identity.
    pub id: String,
    /// Name of its node.
    pub node: String,
    /// Its pool.
    pub pool: String,
    /// Its state in words.
    pub state: String,
    /// Whether nothing is wrong with it.
    pub healthy: bool,
    /// Since when it is so, if the record tells.
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<SystemTime>,
    /// If it is not in sync: the tick up to which it is known to hold everything.
    pub tick: Option<String>,
    /// Its directory, if it is on the node that answers.
    #[schema(value_type = Option<String>)]
    pub path: Option<PathBuf>,
    /// How far its rebuild is, if the volume is attached on the node that answers.
    pub rebuild: Option<RebuildView>,
    /// What is wrong with it, as its node or its primary says.
    pub trouble: Option<String>,
}

/// How far a rebuild is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RebuildView {
    /// Bytes that have been copied.
    pub copied: u64,
    /// Bytes to copy; zero while that is not known.
    pub total: u64,
    /// Of it, in percent.
    pub percent: f64,
    /// Bytes copied in a second, of late.
    pub speed: u64,
    /// How many seconds it will take at that speed.
    pub remaining_seconds: Option<u64>,
}

/// Where a volume is attached, or is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AttachedView {
    /// Name of the node.
    pub node: String,
    /// Since when, if it is known.
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<SystemTime>,
    /// What uses it there, if that is known.
    pub user: Option<String>,
}

/// The wish to let one replica go on alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ForceRequest {
    /// Its node, or its id.
    pub replica: String,
    /// Whether it is to be done; else only what may be lost is told.
    #[serde(default)]
    pub accept_data_loss: bool,
}

/// What letting one replica go on alone means, and whether it was done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ForceView {
    /// The volume.
    pub volume: String,
    /// Name of the replica's node.
    pub node: String,
    /// What the replica is by the record.
    pub standing: String,
    /// Since when, if the record tells.
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<SystemTime>,
    /// The replica as its files say that it is.
    pub disk: ReplicaDiskView,
    /// The record's epoch before.
    pub epoch: u32,
    /// The record's epoch now, if it was done.
    pub new_epoch: Option<u32>,
    /// What may be lost, one sentence each; empty: nothing, as far as can be known.
    pub losses: Vec<String>,
    /// What becomes of the other replicas, one sentence each.
    pub others: Vec<String>,
}

/// The wish to compare the members of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyRequest {
    /// Whether what differs is mended: by what more than half of the members hold.
    #[serde(default)]
    pub repair: bool,
    /// The replica that counts where there is no majority: its node, or its id. Only with `repair`.
    #[serde(default)]
    pub source: Option<String>,
}

/// How far a comparison of the members is, or what came of the last one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerifyView {
    /// The volume.
    pub volume: String,
    /// Whether it is under way.
    pub running: bool,
    /// When it was started.
    #[serde(with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub started_at: SystemTime,
    /// Bytes of the volume that have been compared.
    pub compared: u64,
    /// Bytes of the volume.
    pub size: u64,
    /// Pieces in which members differ.
    pub differing: u64,
    /// How many of them were mended.
    pub mended: u64,
    /// Once it has ended: complete, or why it is not.
    pub outcome: Option<VerifyEnd>,
    /// Nodes whose replicas were compared from the beginning to the end.
    pub members: Vec<String>,
    /// The first pieces that differ.
    pub differences: Vec<DifferenceView>,
}

/// How a comparison ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VerifyEnd {
    /// The whole volume was compared.
    Complete,
    /// It was stopped, the volume was released, or fewer than two members were left.
    Interrupted,
    /// The volume was not being served, or another comparison was under way.
    Refused,
}

/// A piece of a volume in which members differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DifferenceView {
    /// Its first byte.
    pub offset: u64,
    /// Its length.
    pub length: u64,
    /// Nodes that hold something else than what counts; all of them, if nothing counts.
    pub differing: Vec<String>,
    /// Nodes that could not read it.
    pub unreadable: Vec<String>,
    /// Whether all hold the same now.
    pub mended: bool,
}
