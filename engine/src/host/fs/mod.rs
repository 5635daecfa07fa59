//! File systems on a volume: which there are, and what may be asked of each.
//!
//! Never formats what holds something, and never mounts what was not looked at first.

mod check;
mod grow;
mod mkfs;
mod options;
mod probe;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub(crate) use check::check_before_mount;
pub(crate) use grow::grow;
pub use mkfs::MkfsSpec;
pub(crate) use mkfs::mkfs;
pub use options::MountOptions;
pub use probe::Contents;
pub(crate) use probe::probe;

/// A file system that a volume can have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FsKind {
    /// The default: small volumes, quick to make, grows while mounted.
    #[default]
    Ext4,
    /// For large files and many writers; at least 300 MiB.
    Xfs,
    /// Checksums and snapshots of its own.
    Btrfs,
}

impl FsKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    /// Its name, as mount(8) and blkid(8) have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }
}

impl fmt::Display for FsKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Not the name of a file system that a volume can have.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no file system for volumes: ext4, xfs and btrfs are")]
pub struct UnknownFs(String);

impl FromStr for FsKind {
    type Err = UnknownFs;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == s);
        found.ok_or_else(|| UnknownFs(s.into()))
    }
}
