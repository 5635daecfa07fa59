//! The life of nodes and volumes, as the faces ask for it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::NodeView;

/// What an operator wants of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Duty {
    /// It takes part in everything.
    Full,
    /// It gets no new replicas, and those that it has are moved to other nodes.
    Drained,
    /// It serves nothing while someone works on it; its replicas are not made anew elsewhere.
    Maintenance,
    /// It is gone for good.
    Decommissioned,
}

/// The wish to change what a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DutyRequest {
    /// What it is to do.
    pub duty: Duty,
    /// Whether it is only to be told what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a node does, and what is left to be done until that is so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DutyView {
    /// What it is to do.
    pub duty: Duty,
    /// The node.
    pub node: NodeView,
    /// What is still on it and has to go, one sentence each.
    pub left: Vec<String>,
    /// How many of these go by themselves; the others wait for somebody to do something.
    pub moving: usize,
}

/// What is to be different with a volume. What is left out stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeUpdate {
    /// Number of replicas.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 7)]
    pub repl: Option<u8>,
    /// Names or ids of the nodes that may hold replicas; an empty list: all.
    #[serde(default)]
    pub nodes: Option<Vec<String>>,
}
