//! This node and its pools as the faces show them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use bulkhead_cluster::schema::IoPriority;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{StoreView, rfc3339};

/// What a person wants as a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolRequest {
    /// A block device, or a file that is made if it does not exist.
    #[schema(value_type = String)]
    pub device: PathBuf,
    /// Size of a file that is made, in bytes.
    #[serde(default)]
    pub size: Option<u64>,
    /// How fast it is; found out if it is not given.
    #[serde(default)]
    #[schema(value_type = Option<String>, pattern = "^(high|medium|low)$")]
    pub priority: Option<IoPriority>,
}

/// How the daemon is to be started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestartRequest {
    /// Whether its keeper is replaced first, by the program that lies in its place now.
    #[serde(default)]
    pub keeper: bool,
}

/// A pool, as the faces show it. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolView {
    /// Its identity.
    pub id: String,
    /// The device or file.
    #[schema(value_type = String)]
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

/// The wish to empty a pool, and then to take it out of use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RemovalRequest {
    /// Whether it is only to be told what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// What is in a pool that is to be emptied, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RemovalView {
    /// The pool.
    pub pool: String,
    /// Whether it is being emptied: it takes no new replicas, and goes out of use as soon as it is empty.
    pub leaving: bool,
    /// What is still in it, one sentence each: where it is to go, or what keeps it there.
    pub left: Vec<String>,
    /// How many of these go by themselves; the others wait for somebody to do something.
    pub moving: usize,
}

/// This node and all that it knows, on one screen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StatusView {
    /// Version of the daemon.
    pub version: String,
    /// Its process, as itself sees it.
    pub pid: u32,
    /// Name of the node.
    pub node: String,
    /// Its identity.
    pub node_id: String,
    /// Its state, as the others see it: init, ok, offline, …
    pub state: String,
    /// Name of the cluster.
    pub cluster: String,
    /// Its identity.
    pub cluster_id: String,
    /// Number of nodes by state.
    pub nodes: BTreeMap<String, usize>,
    /// The store.
    pub store: StoreView,
    /// Since when the daemon runs.
    #[serde(with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub started_at: SystemTime,
    /// Whether a keeper starts the daemon again when it dies, and keeps what containers have open meanwhile.
    #[serde(default)]
    pub keeper: bool,
    /// How often the keeper has started the daemon again.
    #[serde(default)]
    pub restarts: u64,
    /// Volumes that containers have open and that are not served again yet since the last restart.
    #[serde(default)]
    pub resuming: Vec<String>,
    /// Whether everything is all right.
    pub healthy: bool,
    /// What is wrong and what to do, one sentence each.
    pub problems: Vec<String>,
    /// Pools of this node.
    pub pools: Vec<PoolView>,
    /// Number of volumes by state.
    pub volumes: BTreeMap<String, usize>,
}
