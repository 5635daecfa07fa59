//! How replicas are spread over the pools of the cluster, as the faces ask for it. Sizes are in bytes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The wish to have replicas moved from fuller to emptier pools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RebalanceRequest {
    /// Whether it is only to be told what would be moved.
    #[serde(default)]
    pub dry_run: bool,
    /// At most so many replicas.
    #[serde(default)]
    pub limit: Option<usize>,
}

/// A replica that is to be elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MoveView {
    /// Its volume.
    pub volume: String,
    /// What is copied at most.
    pub size: u64,
    /// The node where it is.
    pub from: String,
    /// The pool there.
    pub from_pool: String,
    /// The node where another one takes its place.
    pub to: String,
    /// The pool there.
    pub to_pool: String,
    /// Whether that one is being made.
    pub begun: bool,
    /// What keeps it from going on now.
    pub trouble: Option<String>,
}

/// How full the pools are, in percent of what may be promised of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SpreadView {
    /// The emptiest.
    pub emptiest: f64,
    /// The fullest.
    pub fullest: f64,
}

/// What is moved, or would be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RebalanceView {
    /// The moves.
    pub moves: Vec<MoveView>,
    /// As it is now.
    pub before: SpreadView,
    /// As it will be; nothing where no plan was asked for.
    pub after: Option<SpreadView>,
}
