//! What the faces (Docker driver, API) ask of the daemon. Owns the trait and its errors; decides nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use async_trait::async_trait;
use bulkhead_cluster::schema::IoPriority;
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
    /// There is no such thing, and it is not a volume.
    #[error("{0}")]
    NoSuch(String),
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

/// What a person wants as a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolRequest {
    /// A block device, or a file that is made if it does not exist.
    pub device: PathBuf,
    /// Size of a file that is made, in bytes.
    #[serde(default)]
    pub size: Option<u64>,
    /// How fast it is; found out if it is not given.
    #[serde(default)]
    pub priority: Option<IoPriority>,
}

/// A pool, as the faces show it. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolView {
    /// Its identity.
    pub id: String,
    /// The device or file.
    pub device: PathBuf,
    /// What it is made of: ssd, hdd, …
    pub medium: String,
    /// How fast it is.
    pub priority: String,
    /// What it can hold.
    pub capacity: u64,
    /// What its volumes may grow to; may be more than the capacity.
    pub promised: u64,
    /// What they take now.
    pub used: u64,
    /// What is free on its disk.
    pub free: u64,
    /// Number of replicas on it.
    pub replicas: usize,
    /// Whether it can be used.
    pub healthy: bool,
    /// Its state in words.
    pub status: String,
}

/// This node and all that it knows, on one screen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusView {
    /// Version of the daemon.
    pub version: String,
    /// Name of the node.
    pub node: String,
    /// Its identity.
    pub node_id: String,
    /// Name of the cluster.
    pub cluster: String,
    /// The store, without secrets.
    pub store: String,
    /// Since when the daemon runs.
    #[serde(with = "rfc3339")]
    pub started_at: SystemTime,
    /// Whether everything is all right.
    pub healthy: bool,
    /// What is wrong and what to do, one sentence each.
    pub problems: Vec<String>,
    /// Pools of this node.
    pub pools: Vec<PoolView>,
    /// Number of volumes by state.
    pub volumes: BTreeMap<String, usize>,
}

/// This node and its pools.
#[async_trait]
pub trait NodeService: Send + Sync + 'static {
    /// How things are. Answers at once.
    async fn status(&self) -> Result<StatusView, ServiceError>;

    /// The pools of this node.
    async fn pools(&self) -> Result<Vec<PoolView>, ServiceError>;

    /// Makes a pool. Refused if the device holds something or is in use.
    async fn add_pool(&self, request: &PoolRequest) -> Result<PoolView, ServiceError>;

    /// Takes a pool out of use. Refused while it holds replicas.
    async fn remove_pool(&self, id: &str) -> Result<(), ServiceError>;
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

/// Moments as people and programs both read them.
mod rfc3339 {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(moment: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_seconds(*moment))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_rfc3339(&text).map_err(D::Error::custom)
    }

    pub(super) mod option {
        use std::time::SystemTime;

        use serde::{Deserialize, Deserializer, Serializer, de::Error};

        pub(in super::super) fn serialize<S: Serializer>(
            moment: &Option<SystemTime>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            match moment {
                Some(moment) => super::serialize(moment, serializer),
                None => serializer.serialize_none(),
            }
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<SystemTime>, D::Error> {
            let text = Option::<String>::deserialize(deserializer)?;
            text.map(|text| humantime::parse_rfc3339(&text).map_err(D::Error::custom))
                .transpose()
        }
    }
}
