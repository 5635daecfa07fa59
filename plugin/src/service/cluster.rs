//! The cluster as the faces show it: its nodes, storage classes and store. Sizes are in bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::rfc3339;

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: String,
    /// Whether it is the one that answers.
    pub this: bool,
    /// One word or two: init, ok, offline, drained, maintenance, storage down, storage degraded, decommissioned.
    pub state: String,
    /// The state in words, with what to do if something is wrong.
    pub status: String,
    /// Whether nothing is wrong with it.
    pub healthy: bool,
    /// Since when it is as it is, if that is known here.
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<SystemTime>,
    /// Version of its daemon.
    pub version: String,
    /// Where other nodes reach its replicas; `None` in a cluster of one.
    pub data_address: Option<String>,
    /// Where its API is reached; `None` in a cluster of one.
    pub management_address: Option<String>,
    /// Labels; `zone` and `rack` steer placement.
    pub labels: BTreeMap<String, String>,
    /// When it joined.
    #[serde(with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub joined_at: SystemTime,
    /// Its pools.
    pub pools: Vec<NodePoolView>,
    /// Number of replicas on it.
    pub replicas: usize,
    /// Number of volumes that are attached on it.
    pub attached: usize,
    /// The volumes that it has to do with; only where one node is shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<NodeVolumeView>,
    /// As of when this is true, if it may be out of date.
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub as_of: Option<SystemTime>,
}

/// A pool of a node, as that node last told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodePoolView {
    /// Its identity.
    pub id: String,
    /// What it is made of.
    pub medium: String,
    /// How fast it is.
    pub priority: String,
    /// What it can hold.
    pub capacity: u64,
    /// What is free on its disk.
    pub free: u64,
    /// What its volumes may grow to.
    pub promised: u64,
    /// What may be promised in all.
    pub promisable: u64,
    /// Number of replicas on it.
    pub replicas: usize,
    /// ok, down or draining.
    pub state: String,
}

/// What a node has to do with a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeVolumeView {
    /// Its name.
    pub name: String,
    /// The state of its replica on the node, if there is one.
    pub replica: Option<String>,
    /// Whether it is attached on the node.
    pub attached: bool,
}

/// Labels that are to be set and removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelChange {
    /// To be set.
    #[serde(default)]
    pub set: BTreeMap<String, String>,
    /// To be removed; no fault if one is not there.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub remove: BTreeSet<String>,
}

/// A storage class. What is `None` the volume's own options or the defaults decide.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClassView {
    /// Its name.
    pub name: String,
    /// Whether volumes without a class take it.
    pub default: bool,
    /// Replicas.
    pub repl: Option<u8>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// File system.
    pub fs: Option<String>,
    /// Medium.
    pub io_priority: Option<String>,
    /// Options for mount.
    pub mount_options: Option<String>,
    /// Options for mkfs.
    pub mkfs_options: Option<String>,
    /// Labels that its volumes get.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    #[serde(with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: SystemTime,
    /// Number of volumes that were made with it.
    pub volumes: usize,
}

/// What a storage class is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassRequest {
    /// Its name.
    pub name: String,
    /// Options, as those of a volume.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Whether volumes without a class take it from now on.
    #[serde(default)]
    pub default: bool,
}

/// The class that volumes without one take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DefaultClass {
    /// Its name, or none.
    pub class: Option<String>,
}

/// The cluster at a glance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClusterView {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: String,
    /// When it was made, if this node has ever heard.
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub created_at: Option<SystemTime>,
    /// Whether everything is all right.
    pub healthy: bool,
    /// What is wrong and what to do, one sentence each.
    pub problems: Vec<String>,
    /// Number of nodes by state.
    pub nodes: BTreeMap<String, usize>,
    /// Its store.
    pub store: StoreView,
    /// Number of volumes by state.
    pub volumes: BTreeMap<String, usize>,
    /// All pools together.
    pub capacity: CapacityView,
    /// As of when this is true, if it may be out of date.
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub as_of: Option<SystemTime>,
}

/// Pools together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CapacityView {
    /// How many.
    pub pools: usize,
    /// What they can hold.
    pub capacity: u64,
    /// What is free on their disks.
    pub free: u64,
    /// What volumes may grow to.
    pub promised: u64,
    /// What may be promised in all.
    pub promisable: u64,
}

/// The metadata store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StoreView {
    /// What it is and where, without secrets.
    pub name: String,
    /// Whether several nodes can share it.
    pub shared: bool,
    /// Whether it answers.
    pub reachable: bool,
    /// Since when it does, or does not.
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<SystemTime>,
    /// Why it does not.
    pub reason: Option<String>,
    /// How long it took to answer, in milliseconds, if it was asked just now.
    pub latency_ms: Option<f64>,
    /// As of when this node's own copy of the records is true; now, unless the store is away.
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub copy_as_of: Option<SystemTime>,
    /// Its servers, where it was asked for them and told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<StoreMemberView>,
    /// Why it did not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members_unknown: Option<String>,
}

/// A server of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StoreMemberView {
    /// Its name.
    pub name: String,
    /// Where it is reached.
    pub address: String,
    /// Its version.
    pub version: Option<String>,
    /// Whether it leads.
    pub leader: bool,
    /// Bytes of its database.
    pub size: Option<u64>,
    /// What is wrong with it, as seen from here.
    pub trouble: Option<String>,
}
