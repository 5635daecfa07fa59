//! The files of a replica: how they are made, opened, locked and removed, and the few calls that are made on them.
//!
//! It moves bytes and reports errors exactly as the kernel gave them; it retries nothing, least of all a sync, and
//! decides nothing about epochs, ticks or intent. The bytes' meaning is `format`'s.

mod accept;
mod block_file;
mod inspect;
mod os_file;
mod replica_dir;

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::format::{FormatError, ReplicaIdentity};

pub use accept::accept_failed;
pub use block_file::{BlockFile, is_out_of_space};
pub use inspect::{Inspection, inspect};
pub use os_file::{Caching, OsFile};
pub use replica_dir::{DATA_FILE, META_FILE, ReplicaFiles, boot_id, create, delete, open, sweep};

/// Why the files of a replica cannot be made, opened or removed.
#[derive(Debug, Error)]
pub enum DiskError {
    /// A system call failed.
    #[error("{what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Creating where something is.
    #[error("{0} exists already; a replica is only created where there is nothing")]
    Exists(PathBuf),
    /// Nothing there.
    #[error("there is no replica in {0}; is the pool attached?")]
    Missing(PathBuf),
    /// Another process, or this one, has it open (failure 29).
    #[error("the replica in {0} is in use by another open of it on this host; close that one first")]
    InUse(PathBuf),
    /// The metadata cannot be understood.
    #[error("replica in {path}: {source}")]
    Format {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        source: FormatError,
    },
    /// The directory holds another replica than the record says (rule D7).
    #[error(
        "{path} holds replica {found_replica} of volume {found_volume} (cluster {found_cluster}), but {expected_replica} of \
         {expected_volume} (cluster {expected_cluster}) is expected there: a swapped disk or a copied directory? \
         It is left untouched",
        found_replica = found.replica, found_volume = found.volume, found_cluster = found.cluster,
        expected_replica = expected.replica, expected_volume = expected.volume, expected_cluster = expected.cluster
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Whom its superblock names.
        found: Box<ReplicaIdentity>,
        /// Whom the caller expects.
        expected: Box<ReplicaIdentity>,
    },
    /// The data file has another length than the superblock says.
    #[error(
        "{path}: the data file has {found} bytes, its superblock says {expected}; it was truncated or replaced, \
         and the replica has to be rebuilt from another one"
    )]
    DataLength {
        /// The directory.
        path: PathBuf,
        /// Bytes that the data file has.
        found: u64,
        /// Bytes that it should have.
        expected: u64,
    },
}

impl DiskError {
    fn io<'a>(what: &'static str, path: &'a std::path::Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io {
            what,
            path: path.to_owned(),
            source,
        }
    }
}
