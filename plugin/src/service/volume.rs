//! Volumes as the faces show them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::rfc3339;

/// A volume as the faces show it. Made from what the node knows already: to get one never waits for a stuck volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VolumeView {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: String,
    /// When it was created.
    #[serde(with = "rfc3339")]
    pub created_at: SystemTime,
    /// Where it is mounted on this node.
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
    /// Where it is attached, and since when.
    pub attached: Option<AttachedView>,
}

/// A replica of a volume, as the faces show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaView {
    /// Name of its node.
    pub node: String,
    /// Its pool.
    pub pool: String,
    /// Its state in words.
    pub state: String,
}

/// Where a volume is attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachedView {
    /// Name of the node.
    pub node: String,
    /// Since when, if it is known.
    #[serde(with = "rfc3339::option")]
    pub since: Option<SystemTime>,
}
