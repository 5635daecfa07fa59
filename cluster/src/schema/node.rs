//! Records of the cluster, its nodes, their pools, and storage classes.

use std::collections::{BTreeMap, BTreeSet};

use bulkhead_engine::ids::{ClusterId, Incarnation, NodeId, PoolId};
use serde::{Deserialize, Serialize};

use super::{Extra, Fs, IoPriority, Medium, Record, Timestamp};

/// The cluster: made by the first node, never changed but by an operator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// Its identity; every node and every replica carries it.
    pub id: ClusterId,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// What newer versions keep here.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Record for ClusterRecord {
    const KIND: &'static str = "cluster record";
}

/// Which node has a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeNameRecord {
    /// The node.
    pub node: NodeId,
}

impl Record for NodeNameRecord {
    const KIND: &'static str = "node name";
}

/// What an operator wants of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeDuty {
    /// Takes part in everything.
    #[default]
    Full,
    /// Keeps what it has, gets nothing new.
    Drained,
    /// Serves nothing while someone works on it.
    Maintenance,
    /// Gone for good.
    Decommissioned,
}

impl NodeDuty {
    /// Whether what the node has is to be moved away.
    pub const fn is_leaving(self) -> bool {
        matches!(self, Self::Drained | Self::Decommissioned)
    }
}

/// A node: made once, changed when its addresses, labels, version or duty change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its identity, kept on its disk.
    pub id: NodeId,
    /// Its name, of which there is one in the cluster.
    pub name: String,
    /// Where other nodes reach its replicas (`HOST:PORT`); empty on a single node.
    #[serde(default)]
    pub data_address: String,
    /// Where its API is reached (`HOST:PORT`); empty on a single node.
    #[serde(default)]
    pub management_address: String,
    /// Labels of the operator; `zone` and `rack` steer placement.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Bulkhead's version on it.
    pub version: String,
    /// What the operator wants of it.
    #[serde(default)]
    pub duty: NodeDuty,
    /// Those of its pools that are to be emptied and taken out of use.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub leaving_pools: BTreeSet<PoolId>,
    /// When it joined.
    pub joined_at: Timestamp,
    /// What newer versions keep here.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Record for NodeRecord {
    const KIND: &'static str = "node record";
}

/// How a living node finds itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeCondition {
    /// Starting.
    #[default]
    Init,
    /// All is well.
    Ok,
    /// Some pool is away.
    StorageDegraded,
    /// No pool is there, though there were some.
    StorageDown,
}

/// Lies in the store while a node lives: it goes with the node's lease.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LiveRecord {
    /// The node.
    pub node: NodeId,
    /// This run of its daemon.
    pub incarnation: Incarnation,
    /// Its wall clock when it wrote this.
    pub clock: Timestamp,
    /// How it finds itself.
    pub condition: NodeCondition,
    /// Since when, by its wall clock; zero from versions that did not tell.
    #[serde(default)]
    pub since: Timestamp,
    /// What Swarm calls it, if its dockerd is in one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub swarm_node: String,
    /// What newer versions keep here.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Record for LiveRecord {
    const KIND: &'static str = "sign of life";
}

/// Whether a pool can be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolState {
    /// It can.
    #[default]
    Ok,
    /// Its device is away or failed.
    Down,
    /// Keeps what it has, gets nothing new.
    Draining,
}

/// A pool, as its node last saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolRecord {
    /// Its identity.
    pub id: PoolId,
    /// The node that it is on.
    pub node: NodeId,
    /// What it is made of.
    #[serde(default)]
    pub medium: Medium,
    /// How fast it is.
    pub priority: IoPriority,
    /// Bytes that it can hold.
    pub capacity: u64,
    /// Bytes that are free on its disk.
    pub free: u64,
    /// How much may be promised, in percent of the capacity: above 100, volumes are thin beyond the disk.
    pub overcommit_percent: u32,
    /// Whether it can be used.
    #[serde(default)]
    pub state: PoolState,
    /// What newer versions keep here.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Record for PoolRecord {
    const KIND: &'static str = "pool record";
}

/// A storage class: what a volume takes where its own options say nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassRecord {
    /// Its name.
    pub name: String,
    /// Replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repl: Option<u8>,
    /// Size in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// File system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fs: Option<Fs>,
    /// How fast its pools must be at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_priority: Option<IoPriority>,
    /// Mount options.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_options: Option<String>,
    /// Options of mkfs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mkfs_options: Option<String>,
    /// Labels that its volumes get.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// What newer versions keep here.
    #[serde(flatten)]
    pub extra: Extra,
}

impl ClassRecord {
    /// A class that says nothing yet.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            repl: None,
            size: None,
            fs: None,
            io_priority: None,
            mount_options: None,
            mkfs_options: None,
            labels: BTreeMap::new(),
            created_at: Timestamp::now(),
            extra: Extra::new(),
        }
    }
}

impl Record for ClassRecord {
    const KIND: &'static str = "storage class";
}

/// The class that a volume without one takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DefaultClassRecord {
    /// Its name.
    pub class: String,
}

impl Record for DefaultClassRecord {
    const KIND: &'static str = "default class";
}
