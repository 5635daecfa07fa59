//! What can go wrong with a pool, in sentences for people.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::host::HostError;
use crate::ids::{ClusterId, NodeId, PoolId};

/// Why a pool cannot be added, used or removed.
#[derive(Debug, Error)]
pub enum PoolError {
    /// A call to the kernel failed.
    #[error("{what}: {source}")]
    System {
        /// What was being done, to what.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Something that the host room does failed.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Nothing there, and no size to make a file of.
    #[error(
        "{0} does not exist: give a size to make it as a file, as `--size 10G`, make the directory, or check the device's name"
    )]
    Missing(PathBuf),
    /// Neither a block device nor a file nor a directory.
    #[error(
        "{0} is neither a block device nor a file nor a directory: a pool is made of a disk, a partition, a file or a directory"
    )]
    Kind(PathBuf),
    /// A size for a directory.
    #[error(
        "{0} is a directory, which has the size of its file system: leave `--size` away, or give the name of a file to be made, as `{0}/pool.img`"
    )]
    SizeOfDirectory(PathBuf),
    /// A directory whose file system does not keep what a replica needs to be kept.
    #[error(
        "{0} is not on ext4, xfs or btrfs: a pool needs a file system that is on a disk of this node. Give a directory on one, or a disk"
    )]
    Unsuitable(PathBuf),
    /// A directory with something in it.
    #[error(
        "{path} is not empty (it has `{entry}`): give an empty directory, as `mkdir {path}/pool` makes one"
    )]
    NotEmptyDirectory {
        /// The directory.
        path: PathBuf,
        /// Something that is in it.
        entry: String,
    },
    /// A size for something that has one.
    #[error("{path} exists already and has {size} bytes: leave the size away to use it as it is")]
    SizeOfExisting {
        /// The device or file.
        path: PathBuf,
        /// Its size.
        size: u64,
    },
    /// Too small.
    #[error("{path} has {} MiB: a pool is an XFS file system, which needs at least 300 MiB", size >> 20)]
    TooSmall {
        /// The device or file.
        path: PathBuf,
        /// Its size.
        size: u64,
    },
    /// It holds something.
    #[error(
        "{path} holds {what}, which making it a pool would destroy. If nothing on it is needed, erase that with \
         `wipefs --all {path}` and try again"
    )]
    Occupied {
        /// The device or file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// An existing file with something in it that no signature tells of.
    #[error(
        "{path} is a file with data in it, which making it a pool would destroy. Give the name of a file that does not \
         exist yet and its size, as `--size 10G`, or empty this one with `truncate --size 0` and `--size` again"
    )]
    NotEmptyFile {
        /// The file.
        path: PathBuf,
    },
    /// It is in use.
    #[error("{path} is in use ({by}): unmount or stop what uses it, or take another device")]
    InUse {
        /// The device or file.
        path: PathBuf,
        /// By what.
        by: String,
    },
    /// Another node's pool.
    #[error(
        "{path} is pool {pool} of node {node} in cluster {cluster}, with its replicas. Put it back there, or, if they \
         are not needed, erase it with `wipefs --all {path}`"
    )]
    Foreign {
        /// The device or file.
        path: PathBuf,
        /// Its pool id.
        pool: PoolId,
        /// Whose.
        node: NodeId,
        /// In which cluster.
        cluster: ClusterId,
    },
    /// Already in the list.
    #[error("{path} is pool {pool} of this node already")]
    AddedAlready {
        /// The device or file.
        path: PathBuf,
        /// The pool.
        pool: PoolId,
    },
    /// What is there is not the pool that the list names.
    #[error(
        "{path} does not hold pool {wanted} but {found}: is the disk in another slot, or was it replaced?"
    )]
    Mistaken {
        /// The device or file.
        path: PathBuf,
        /// What should be there.
        wanted: PoolId,
        /// What is.
        found: String,
    },
    /// Several disks say that they are this pool.
    #[error(
        "several devices hold pool {pool} ({}): one is a copy, and it cannot be told which is the newer. Detach the copy, \
         or give it another UUID with `xfs_admin -U generate DEVICE`",
        list(devices)
    )]
    Copied {
        /// The pool.
        pool: PoolId,
        /// Where it was found.
        devices: Vec<PathBuf>,
    },
    /// Written by a newer version.
    #[error(
        "{path} has format version {version}, and this version of bulkhead knows {known}: upgrade bulkhead"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
        /// The newest known.
        known: u32,
    },
    /// A file of ours is damaged.
    #[error("{path} is damaged ({message}): restore it, or move it away and add the pools anew")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How.
        message: String,
    },
    /// No such pool.
    #[error("there is no pool {0} on this node: `bulkhead pool list` shows which there are")]
    Unknown(PoolId),
    /// The pool is known but not there.
    #[error("pool {pool} ({path}) is not available: {reason}")]
    NotReady {
        /// The pool.
        pool: PoolId,
        /// What it is made of.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// It is there.
    #[error("pool {0} is available: remove it instead")]
    Available(PoolId),
    /// It still holds replicas.
    #[error("pool {pool} holds {count} replicas: delete or move their volumes first")]
    NotEmpty {
        /// The pool.
        pool: PoolId,
        /// How many.
        count: usize,
    },
    /// More than may be promised.
    #[error(transparent)]
    Overcommitted(#[from] super::overcommit::Overcommitted),
}

/// `map_err` with the sentence that says what was being done.
pub(super) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, PoolError>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, PoolError> {
        self.map_err(|source| PoolError::System {
            what: what(),
            source: source.into(),
        })
    }
}

fn list(devices: &[PathBuf]) -> String {
    let names: Vec<String> = devices
        .iter()
        .map(|device| device.display().to_string())
        .collect();
    names.join(", ")
}
