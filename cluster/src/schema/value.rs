//! Small values that records share: file system, priority, medium, moments, and the id of a change.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

/// A word that is none of those that are known.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("`{given}` is no {what}: {known}")]
pub struct ParseValueError {
    given: String,
    what: &'static str,
    known: &'static str,
}

/// The file system of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fs {
    /// ext4, the default.
    #[default]
    Ext4,
    /// XFS.
    Xfs,
    /// btrfs.
    Btrfs,
}

impl Fs {
    /// Its name, as mkfs and mount know it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }
}

impl fmt::Display for Fs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Fs {
    type Err = ParseValueError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        match given.trim().to_ascii_lowercase().as_str() {
            "ext4" => Ok(Self::Ext4),
            "xfs" => Ok(Self::Xfs),
            "btrfs" => Ok(Self::Btrfs),
            _ => Err(ParseValueError {
                given: given.to_owned(),
                what: "file system",
                known: "ext4, xfs and btrfs there are",
            }),
        }
    }
}

/// How fast a pool is, and how fast a volume's pools must be at least. In order: low, medium, high.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IoPriority {
    /// Rotating disks.
    Low,
    /// Something between.
    Medium,
    /// Solid state.
    High,
}

impl fmt::Display for IoPriority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        })
    }
}

impl FromStr for IoPriority {
    type Err = ParseValueError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        match given.trim().to_ascii_lowercase().as_str() {
            "high" | "3" => Ok(Self::High),
            "medium" | "2" => Ok(Self::Medium),
            "low" | "1" => Ok(Self::Low),
            _ => Err(ParseValueError {
                given: given.to_owned(),
                what: "I/O priority",
                known: "high (3), medium (2) and low (1) there are",
            }),
        }
    }
}

/// What a pool is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Medium {
    /// Solid state.
    Solid,
    /// Rotating disks.
    Rotational,
    /// Not told by the kernel, as for a file behind a loop device.
    #[default]
    Unknown,
}

impl fmt::Display for Medium {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Solid => "solid",
            Self::Rotational => "rotational",
            Self::Unknown => "unknown",
        })
    }
}

/// A moment by some node's wall clock, in milliseconds since 1970: for people; nothing is decided by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This moment.
    pub fn now() -> Self {
        Self::from(SystemTime::now())
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(timestamp: Timestamp) -> Self {
        UNIX_EPOCH
            .checked_add(Duration::from_millis(timestamp.0))
            .unwrap_or(UNIX_EPOCH)
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339, as Docker shows `CreatedAt`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Later than the year 9999 there is no such text; a damaged record must not bring us down.
        let shown = self.0.min(253_402_300_799_000);
        humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(shown)).fmt(f)
    }
}

/// By this the author of a change knows it again when the answer was lost (failure case 35).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChangeId(Uuid);

impl ChangeId {
    /// A new one, that nobody else has.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl fmt::Display for ChangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
