//! What the faces (Docker driver, API) ask of the daemon. Owns the trait and its errors; decides nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::options::VolumeRequest;

/// Why a request about a volume was not carried out. The message is for a person: it names the volume and says what
/// to do.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ServiceError {
    /// There is no such volume. This is knowledge, not the absence of it: [`ServiceError::Unavailable`] is that.
    #[error("there is no volume {0:?}; `bulkhead volume list` shows those that exist")]
    NotFound(String),
    /// The volume exists and is not what was asked for.
    #[error("{0}")]
    Conflict(String),
    /// Something uses the volume, or another operation on it is under way.
    #[error("{0}")]
    Busy(String),
    /// What was asked for cannot be.
    #[error("{0}")]
    Invalid(String),
    /// There is no room for it.
    #[error("{0}")]
    NoSpace(String),
    /// Nothing is known at present: the store is out of reach, or the daemon is still starting.
    #[error("{0}")]
    Unavailable(String),
    /// It was tried and did not work.
    #[error("{0}")]
    Failed(String),
}

/// A volume as the faces show it. Made from what the node knows already: to get one never waits for a stuck volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VolumeView {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: String,
    /// When it was created.
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
    pub since: Option<SystemTime>,
}

/// The life of volumes on this node. Every call is idempotent and ends in bounded time; two calls about one volume
/// take turns, and one stuck volume holds up no other.
#[async_trait]
pub trait VolumeService: Send + Sync + 'static {
    /// Makes a volume. Success if it already exists as asked for, [`ServiceError::Conflict`] if it differs.
    async fn create(&self, name: &str, request: &VolumeRequest) -> Result<(), ServiceError>;

    /// Deletes a volume and gives its space back. Refused while it is attached anywhere.
    async fn remove(&self, name: &str) -> Result<(), ServiceError>;

    /// Mounts a volume on this node, if it is not, and says where.
    async fn mount(&self, name: &str) -> Result<PathBuf, ServiceError>;

    /// Nobody who asked for the mount needs it any longer. If something else still holds the file system, the volume
    /// is released as soon as that ends, without being asked again.
    async fn unmount(&self, name: &str) -> Result<(), ServiceError>;

    /// Whether a process outside of this daemon (a container) can reach the mounted file system.
    async fn in_use(&self, name: &str) -> Result<bool, ServiceError>;

    /// The volume as it is known here. Answers at once; [`ServiceError::NotFound`] only if it is known not to exist.
    async fn get(&self, name: &str) -> Result<VolumeView, ServiceError>;

    /// All volumes, by name. Answers at once.
    async fn list(&self) -> Result<Vec<VolumeView>, ServiceError>;
}
