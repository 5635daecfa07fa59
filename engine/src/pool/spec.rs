//! What is asked for in a pool, and what is told about one.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::PoolId;

/// A pool to be added.
#[derive(Clone, Debug)]
pub struct PoolSpec {
    /// A block device, a file that is or will be one's content, or a directory.
    pub path: PathBuf,
    /// Size in bytes of a file that is to be made. It takes space only as it is used.
    pub size: Option<u64>,
    /// `None` takes it from the medium.
    pub priority: Option<Priority>,
}

/// How good a pool's disk is; volumes ask for it with `io_priority`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Priority {
    Low,
    Medium,
    High,
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        })
    }
}

/// Not the name of a priority.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no priority: high, medium and low are")]
pub struct UnknownPriority(String);

impl FromStr for Priority {
    type Err = UnknownPriority;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "low" => Ok(Self::Low),
            "medium" => Ok(Self::Medium),
            "high" => Ok(Self::High),
            other => Err(UnknownPriority(other.into())),
        }
    }
}

/// What lies below a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Medium {
    /// Solid state, or something that seeks as if it were.
    Ssd,
    /// Turning disks.
    Rotational,
    /// The kernel does not say.
    Unknown,
}

impl Medium {
    /// The priority of a pool on this medium, unless it is given.
    pub const fn priority(self) -> Priority {
        match self {
            Self::Ssd => Priority::High,
            Self::Rotational => Priority::Low,
            Self::Unknown => Priority::Medium,
        }
    }
}

impl fmt::Display for Medium {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ssd => "ssd",
            Self::Rotational => "rotational",
            Self::Unknown => "unknown",
        })
    }
}

/// What a pool is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PoolKind {
    /// A disk or partition.
    Device,
    /// A file, by way of a loop device.
    File,
    /// A directory of a file system that others use as well.
    Directory,
}

/// Whether a pool can be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum PoolState {
    /// Mounted.
    Ready,
    /// Known, but not there.
    Failed {
        /// Why, for people.
        reason: String,
    },
}

/// How full a pool is, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolUsage {
    /// What its file system holds at most, without the reserve.
    pub capacity: u64,
    /// What is taken.
    pub used: u64,
    /// What is left, without the reserve.
    pub free: u64,
    /// The sizes of all volumes that have a replica here, together: what is promised.
    pub allocated: u64,
    /// How many replicas there are.
    pub replicas: u64,
}

/// One pool, as a listing shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolInfo {
    /// Its identity.
    pub id: PoolId,
    /// The device, file or directory.
    pub path: PathBuf,
    /// Which of them.
    pub kind: PoolKind,
    /// What lies below.
    pub medium: Medium,
    /// How good it is.
    pub priority: Priority,
    /// Whether it can be used.
    #[serde(flatten)]
    pub state: PoolState,
    /// `None` unless it is ready.
    pub usage: Option<PoolUsage>,
}

/// What becomes of a file or directory when its pool is removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Removal {
    /// It stays, and can be added again.
    #[default]
    Keep,
    /// A file is deleted, and a directory is empty again. A device is never erased.
    DeleteFile,
}
