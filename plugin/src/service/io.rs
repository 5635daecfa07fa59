//! What the volumes that are attached on a node have served, as the faces show it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a volume has served since it was attached here. Two of these, and the time between them, give rates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct IoView {
    /// Its name.
    pub volume: String,
    /// Its identity.
    pub id: String,
    /// The node that tells.
    pub node: String,
    /// When this was so, in seconds since the daemon started.
    pub at: f64,
    /// Reads.
    pub reads: OpView,
    /// Writes.
    pub writes: OpView,
    /// Discards and write-zeroes.
    pub zeroes: OpView,
    /// Flushes.
    pub flushes: OpView,
    /// Requests that failed.
    pub errors: u64,
    /// Requests that are being served.
    pub in_flight: usize,
}

/// Requests of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OpView {
    /// How many succeeded.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many ended, also without success.
    pub timed: u64,
    /// How long those took together, in seconds.
    pub seconds: f64,
}
